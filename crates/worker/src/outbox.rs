//! Deltas that nobody has acknowledged.
//!
//! A delta that was sent never changes, since its receiver may have counted it. One that was not
//! sent yet takes in the windows that follow, as far as its span allows: so pressure and long
//! silence make deltas longer, and lose nothing.

use std::collections::VecDeque;
use std::time::Duration;

use hyperscale_model::{AttemptId, DeltaSeq, Time};
use hyperscale_stats::{Delta, Figures, SparseHistogram, WindowFigures};

/// Figures larger than this, in buckets, travel as several deltas, each far below a frame.
const BUCKETS_MAX: usize = 60_000;
/// Most deltas that go out at once: the rest follows their acknowledgement.
const BURST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Entry>,
    last: DeltaSeq,
}

#[derive(Debug)]
struct Entry {
    delta: Delta,
    /// How many windows it may span before it is sent.
    span_max: u32,
    is_sealed: bool,
    sent_at: Option<Time>,
}

impl Outbox {
    /// Adds a window. It joins the newest delta if that was not sent and has room.
    pub(crate) fn push(
        &mut self,
        attempt: AttemptId,
        window: u64,
        figures: WindowFigures,
        span_max: u32,
    ) {
        if let Some(newest) = self.waiting.back_mut()
            && newest.has_room(window, span_max)
        {
            newest.delta.span = span_to(newest.delta.window, window);
            newest.delta.figures.join(figures, false);
            newest.span_max = span_max;
            newest.is_sealed = newest.delta.span >= span_max;
            return;
        }
        self.seal();
        for figures in split(figures) {
            self.last = self.last.next();
            let delta = Delta { attempt, seq: self.last, window, span: 1, figures };
            self.waiting.push_back(Entry {
                delta,
                span_max,
                is_sealed: span_max <= 1,
                sent_at: None,
            });
        }
    }

    /// Nothing more joins the newest delta.
    pub(crate) fn seal(&mut self) {
        if let Some(newest) = self.waiting.back_mut() {
            newest.is_sealed = true;
        }
    }

    /// The deltas to send now, oldest first.
    pub(crate) fn due(&mut self, now: Time, resend: Duration) -> Vec<Delta> {
        self.waiting
            .iter_mut()
            .take(BURST)
            .filter(|entry| entry.is_sealed)
            .filter(|entry| entry.sent_at.is_none_or(|sent| now >= sent + resend))
            .map(|entry| {
                entry.sent_at = Some(now);
                entry.delta.clone()
            })
            .collect()
    }

    pub(crate) fn next_resend(&self, resend: Duration) -> Option<Time> {
        self.waiting
            .iter()
            .take(BURST)
            .filter(|entry| entry.is_sealed)
            .map(|entry| entry.sent_at.map_or(Time::ZERO, |sent| sent + resend))
            .min()
    }

    pub(crate) fn resend_all(&mut self) {
        self.waiting.iter_mut().for_each(|entry| entry.sent_at = None);
    }

    /// Drops what is counted for good.
    pub(crate) fn acknowledge(&mut self, through: DeltaSeq) {
        while self.waiting.front().is_some_and(|entry| entry.delta.seq <= through) {
            self.waiting.pop_front();
        }
    }

    pub(crate) const fn last(&self) -> DeltaSeq {
        self.last
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Requests in what was not acknowledged.
    pub(crate) fn requests(&self) -> u64 {
        self.waiting.iter().map(|entry| entry.delta.figures.figures.requests()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.waiting.iter().map(|entry| buckets(&entry.delta.figures.figures) * 8 + 256).sum()
    }
}

impl Entry {
    fn has_room(&self, window: u64, span_max: u32) -> bool {
        let is_open = !self.is_sealed || (self.sent_at.is_none() && span_max > self.span_max);
        is_open && self.sent_at.is_none() && span_to(self.delta.window, window) <= span_max
    }
}

fn span_to(first: u64, last: u64) -> u32 {
    u32::try_from(last.saturating_sub(first)).unwrap_or(u32::MAX).saturating_add(1)
}

fn buckets(figures: &Figures<SparseHistogram>) -> usize {
    let of_steps = figures.steps.iter().map(|(_, step)| {
        let of = |histogram: &SparseHistogram| histogram.buckets().len();
        let (a, b) = (of(&step.latency) + of(&step.service_time), of(&step.first_byte));
        a + b + of(&step.connect) + of(&step.tls) + 16
    });
    let of_metrics = figures.metrics.iter().map(|(_, metric)| metric.values.buckets().len() + 8);
    of_steps.sum::<usize>()
        + of_metrics.sum::<usize>()
        + figures.lag.buckets().len()
        + figures.checks.len()
}

/// Divides figures that are too large for one frame; what is not of a step stays in the first.
fn split(mut figures: WindowFigures) -> Vec<WindowFigures> {
    if buckets(&figures.figures) <= BUCKETS_MAX || figures.figures.steps.len() < 2 {
        return vec![figures];
    }
    let half = figures.figures.steps.len() / 2;
    let rest = WindowFigures {
        figures: Figures { steps: figures.figures.steps.split_off(half), ..Figures::default() },
        ..WindowFigures::default()
    };
    let mut all = split(figures);
    all.extend(split(rest));
    all
}
