//! The way of one attempt's deltas from its worker to the gate.
//!
//! Only the contiguous prefix goes up, so that a closing entry can say exactly what counts. Only
//! what the gate has counted for good is acknowledged down, so that a lost leader loses nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{DeltaSeq, Time};
use hyperscale_stats::Delta;

/// Most deltas that are held above a missing one; the worker sends the rest again.
const ABOVE_MAX: usize = 256;
/// Most deltas that go up at once without an answer.
const BURST: usize = 64;

#[derive(Debug)]
pub(crate) struct Relay {
    /// Whether it is known where this attempt's deltas start for this leader.
    pub(crate) is_based: bool,
    /// The last delta of the contiguous prefix that was received.
    pub(crate) through: DeltaSeq,
    /// The job's time up to which that prefix reaches.
    pub(crate) until: Duration,
    /// Iterations in that prefix.
    pub(crate) iterations: u64,
    /// The last delta that the gate has counted for good.
    pub(crate) acknowledged: DeltaSeq,
    above: BTreeMap<DeltaSeq, Delta>,
    /// Received and not yet acknowledged, with the time of their sending.
    waiting: BTreeMap<DeltaSeq, (Delta, Option<Time>)>,
}

impl Relay {
    /// For an attempt that was opened under this leader, whose deltas start at 1.
    pub(crate) fn fresh() -> Self {
        Self { is_based: true, ..Self::inherited() }
    }

    /// For an attempt of an earlier leader: the gate knows what was counted.
    pub(crate) const fn inherited() -> Self {
        Self {
            is_based: false,
            through: DeltaSeq::NONE,
            until: Duration::ZERO,
            iterations: 0,
            acknowledged: DeltaSeq::NONE,
            above: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Takes a delta of the worker.
    pub(crate) fn on_delta(&mut self, delta: Delta, window: Duration) {
        if delta.seq > self.through && (self.above.len() < ABOVE_MAX) {
            self.above.insert(delta.seq, delta);
            self.extend(window);
        }
    }

    fn extend(&mut self, window: Duration) {
        if !self.is_based {
            return;
        }
        while let Some(delta) = self.above.remove(&self.through.next()) {
            self.through = delta.seq;
            let end = delta.window.saturating_add(u64::from(delta.span));
            let end = window.saturating_mul(u32::try_from(end).unwrap_or(u32::MAX));
            self.until = self.until.max(end);
            self.iterations += delta.figures.figures.iterations;
            self.waiting.insert(delta.seq, (delta, None));
        }
    }

    /// Takes the gate's word on what it has counted for good.
    pub(crate) fn on_ack(
        &mut self,
        through: DeltaSeq,
        iterations: u64,
        until: Duration,
        window: Duration,
    ) {
        if !self.is_based || through > self.through {
            // The gate knows more than this leader, which took over or restarted.
            self.is_based = true;
            (self.through, self.iterations, self.until) = (through, iterations, until);
            self.above = self.above.split_off(&through.next());
            self.extend(window);
        }
        self.acknowledged = self.acknowledged.max(through);
        self.waiting = self.waiting.split_off(&self.acknowledged.next());
    }

    /// The deltas to send to the gate now, oldest first.
    pub(crate) fn due(&mut self, now: Time, resend: Duration) -> Vec<Delta> {
        self.waiting
            .values_mut()
            .take(BURST)
            .filter(|(_, sent)| sent.is_none_or(|sent| now >= sent + resend))
            .map(|(delta, sent)| {
                *sent = Some(now);
                delta.clone()
            })
            .collect()
    }

    pub(crate) fn next_resend(&self, resend: Duration) -> Option<Time> {
        let waiting = self.waiting.values().take(BURST);
        waiting.map(|(_, sent)| sent.map_or(Time::ZERO, |sent| sent + resend)).min()
    }

    /// Another gate, or a new link: what was sent may not have arrived.
    pub(crate) fn resend_all(&mut self) {
        self.waiting.values_mut().for_each(|(_, sent)| *sent = None);
    }
}
