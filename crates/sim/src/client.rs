//! The client: it submits, watches and cancels, and tries again whatever was lost on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_gate::{Reply, Request, RequestError, RequestErrorKind, RequestId};
use hyperscale_model::{JobId, SplitMix, Time};
use hyperscale_plan::Secrets;

use crate::scenario::Test;

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Submit,
    Watch,
    /// The stop of the workflow at this place of the list, or of the job.
    Cancel(usize),
    /// The next change of the job's steering.
    Steer,
    Results,
}

/// A job as the client knows it.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) test: Test,
    pub(crate) job: Option<JobId>,
    pub(crate) refused: Option<RequestError>,
    pub(crate) is_over: bool,
    pub(crate) has_results: bool,
    last_event: u64,
    /// Stops that are not acknowledged yet.
    cancels: Vec<usize>,
    /// How many changes of its steering are acknowledged.
    steered: usize,
    waiting: Vec<(Purpose, RequestId, Time)>,
    next_try: Time,
    /// The gate that it asks, until that fails it.
    gate: usize,
}

impl Wish {
    /// Whether the client has nothing left to do for it.
    pub(crate) const fn is_done(&self) -> bool {
        self.refused.is_some() || (self.is_over && self.has_results)
    }
}

/// Something that the client learned and the world should check.
#[derive(Debug)]
pub(crate) enum Learned {
    Accepted(JobId),
    Cancelled { job: JobId, workflow: Option<String> },
    Steered { job: JobId, pause: Option<bool>, scaled: usize },
    Final(JobId),
    Nothing,
}

/// A request for one of the gates, by its place.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) gate: usize,
    pub(crate) id: RequestId,
    pub(crate) request: Request,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) wishes: Vec<Wish>,
    random: SplitMix,
    last_request: u64,
    /// By request the wish that it is for, and the gate that was asked.
    sent: BTreeMap<RequestId, (usize, usize)>,
    gates: usize,
}

impl Client {
    pub(crate) fn new(tests: Vec<Test>, gates: usize, random: SplitMix) -> Self {
        let wish = |test: Test| {
            let cancels = test.cancel.as_ref().map_or(0, |cancel| cancel.workflows.len().max(1));
            Wish {
                next_try: test.submit_at,
                test,
                job: None,
                refused: None,
                is_over: false,
                has_results: false,
                last_event: 0,
                cancels: (0..cancels).collect(),
                steered: 0,
                waiting: Vec::new(),
                gate: 0,
            }
        };
        let wishes = tests.into_iter().map(wish).collect();
        Self { wishes, random, last_request: 0, sent: BTreeMap::new(), gates }
    }

    fn any_gate(&mut self) -> usize {
        usize::try_from(self.random.below(self.gates as u64)).unwrap_or(0)
    }

    /// Requests that are due, each for a gate, and requests that the client gives up.
    pub(crate) fn tick(&mut self, now: Time) -> (Vec<Asked>, Vec<(usize, RequestId)>) {
        let mut requests = Vec::new();
        let mut abandoned = Vec::new();
        for index in 0..self.wishes.len() {
            let (other, another) = (self.any_gate(), self.any_gate());
            let Some(wish) = self.wishes.get_mut(index) else { continue };
            let (late, waiting) =
                wish.waiting.drain(..).partition(|(.., sent)| now >= *sent + PATIENCE);
            wish.waiting = waiting;
            let late: Vec<(Purpose, RequestId, Time)> = late;
            if !late.is_empty() {
                wish.gate = other;
            }
            let gates = &self.sent;
            let given_up = late.iter().filter_map(|(_, id, _)| Some((gates.get(id)?.1, *id)));
            abandoned.extend(given_up);
            self.sent.retain(|id, _| !late.iter().any(|(_, known, _)| known == id));
            for (purpose, request) in wish.due(now) {
                // Impatient people press the button twice.
                let times =
                    if purpose == Purpose::Submit && self.random.chance(0.1) { 2 } else { 1 };
                for time in 0..times {
                    self.last_request += 1;
                    let id = RequestId(self.last_request);
                    // The second time perhaps at another gate.
                    let is_usual = time == 0 && purpose != Purpose::Steer;
                    let gate = if is_usual { wish.gate } else { another };
                    wish.waiting.push((purpose, id, now));
                    self.sent.insert(id, (index, gate));
                    requests.push(Asked { gate, id, request: request.clone() });
                }
            }
        }
        (requests, abandoned)
    }

    /// Takes an answer.
    pub(crate) fn on_reply(&mut self, now: Time, id: RequestId, reply: &Reply) -> Learned {
        let Some((index, _)) = self.sent.remove(&id) else { return Learned::Nothing };
        let other = self.any_gate();
        let pause = Duration::from_millis(200 + self.random.below(800));
        let Some(wish) = self.wishes.get_mut(index) else { return Learned::Nothing };
        let Some(place) = wish.waiting.iter().position(|(_, known, _)| *known == id) else {
            return Learned::Nothing;
        };
        let (purpose, ..) = wish.waiting.remove(place);
        wish.next_try = now + pause;
        if let Reply::Error(_) = reply {
            wish.gate = other;
        }
        match (purpose, reply) {
            (Purpose::Submit, Reply::Accepted { job }) => {
                wish.job = Some(*job);
                Learned::Accepted(*job)
            }
            (Purpose::Submit, Reply::Error(error)) => {
                let is_passing = matches!(
                    error.kind,
                    RequestErrorKind::NotReady | RequestErrorKind::NoDatacenter
                );
                if !is_passing {
                    wish.refused = Some(error.clone());
                }
                Learned::Nothing
            }
            (Purpose::Cancel(which), Reply::Job(view)) => {
                wish.cancels.retain(|known| *known != which);
                let cancel = wish.test.cancel.as_ref();
                let workflow = cancel.and_then(|cancel| cancel.workflows.get(which).cloned());
                Learned::Cancelled { job: view.job, workflow }
            }
            (Purpose::Steer, Reply::Job(view)) => {
                let steer = wish.test.steers.get(wish.steered);
                wish.steered += 1;
                steer.map_or(Learned::Nothing, |steer| Learned::Steered {
                    job: view.job,
                    pause: steer.pause,
                    scaled: steer.scale.len(),
                })
            }
            (Purpose::Steer, Reply::Error(error)) if error.kind != RequestErrorKind::NotReady => {
                wish.steered = wish.test.steers.len(); // It stops, or is over.
                Learned::Nothing
            }
            (Purpose::Watch, Reply::News { events, is_over, .. }) => {
                if let Some(last) = events.last() {
                    wish.last_event = last.id;
                }
                let is_news = *is_over && !wish.is_over;
                wish.is_over |= is_over;
                match wish.job.filter(|_| is_news) {
                    Some(job) => Learned::Final(job),
                    None => Learned::Nothing,
                }
            }
            (Purpose::Watch | Purpose::Cancel(_), Reply::Error(error))
                if error.kind == RequestErrorKind::NotFound =>
            {
                // Over and forgotten, while nobody was listening.
                wish.is_over = true;
                wish.cancels.clear();
                Learned::Nothing
            }
            (Purpose::Results, Reply::Results(_)) => {
                wish.has_results = true;
                Learned::Nothing
            }
            _ => Learned::Nothing,
        }
    }
}

impl Wish {
    fn due(&self, now: Time) -> Vec<(Purpose, Request)> {
        let mut due = Vec::new();
        if now < self.next_try || self.is_done() {
            return due;
        }
        let is_waiting = |wanted: Purpose| self.waiting.iter().any(|(known, ..)| *known == wanted);
        let Some(job) = self.job else {
            if !is_waiting(Purpose::Submit) {
                let values = self.test.secret.then(|| ("token".to_owned(), "s3cret".to_owned()));
                due.push((
                    Purpose::Submit,
                    Request::Submit {
                        key: self.test.plan.name.clone(),
                        plan: self.test.plan.to_bytes(),
                        blobs: self.test.blobs.clone(),
                        secrets: Secrets(values.into_iter().collect()),
                    },
                ));
            }
            return due;
        };
        if !self.is_over && !is_waiting(Purpose::Watch) {
            due.push((Purpose::Watch, Request::Watch { job, after: self.last_event }));
        }
        if self.is_over && !is_waiting(Purpose::Results) {
            due.push((Purpose::Results, Request::Results { job }));
        }
        if let Some(steer) = self.test.steers.get(self.steered)
            && now >= self.test.submit_at + steer.after
            && !self.is_over
            && !is_waiting(Purpose::Steer)
        {
            let (pause, scale) = (steer.pause, steer.scale.clone());
            due.push((Purpose::Steer, Request::Steer { job, pause, scale }));
        }
        if let Some(cancel) = &self.test.cancel
            && now >= self.test.submit_at + cancel.after
        {
            for &which in &self.cancels {
                if !is_waiting(Purpose::Cancel(which)) {
                    let workflow = cancel.workflows.get(which).cloned();
                    let mode = cancel.mode;
                    due.push((Purpose::Cancel(which), Request::Cancel { job, workflow, mode }));
                }
            }
        }
        due
    }
}
