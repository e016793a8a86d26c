//! Traces: what became of a job, of its parts and of their attempts, as spans of one trace.
//!
//! Nothing of this travels between nodes. A trace has the id of its job, and the id of a span follows
//! from what the span is about, so a node knows the parent of its span, whoever exports that. A span
//! is handed over when it is over, by the one node that sees that:
//!
//! ```text
//! job              the gate that owns it when it ends
//! └─ part          the manager that leads when it ends
//!    └─ attempt    its worker, once the leader has decided that it ended as the worker said;
//!                  the leader itself, if the worker is lost or has refused it
//! ```
//!
//! What a span tells of its past is what that node has seen: after a takeover, only what came then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_gate::Event as GateEvent;
use hyperscale_manager::Event as ManagerEvent;
use hyperscale_model::{
    AttemptId, DatacenterId, EndStatus, JobId, NodeId, PartId, Role, SplitMix, Time, WallTime,
};
use hyperscale_wire::{AttemptEnd, GapCause, RefuseAttempt, Subject as Guarded};
use hyperscale_worker::Event as WorkerEvent;

use crate::clock::Clock;
use crate::otlp::SpanQueue;

/// Spans that are open at once; beyond that the one of the oldest job is forgotten.
const OPEN_MAX: usize = 10_000;
/// Events that a span keeps, the first ones; beyond that they are counted.
const MOMENTS_MAX: usize = 128;

/// The id of a job's trace: the 128 bits of the job's id, as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl From<JobId> for TraceId {
    fn from(job: JobId) -> Self {
        Self(job.as_u128())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The trace that an attempt belongs to.
pub(crate) fn trace_of(attempt: &AttemptId) -> TraceId {
    attempt.shard.job.into()
}

/// The id of a span within its trace, as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Job(JobId),
    Part(PartId),
    Attempt(AttemptId),
}

impl Subject {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Job(_) => "job",
            Self::Part(_) => "part",
            Self::Attempt(_) => "attempt",
        }
    }

    pub(crate) fn trace(self) -> TraceId {
        self.job().into()
    }

    /// Mixed from all that names it, so that two of one trace do not meet; never zero, which would
    /// be no id.
    pub(crate) fn span(self) -> SpanId {
        let (kind, part, place, number) = match self {
            Self::Job(_) => (1, 0, 0, 0),
            Self::Part(part) => (2, part.part.0, 0, 0),
            Self::Attempt(AttemptId { shard, number }) => {
                let place = u64::from(shard.workflow.0) << 16 | u64::from(shard.shard.0);
                (3, shard.part.0, place, number.0)
            }
        };
        let job = self.job().as_u128();
        #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
        let (high, low) = ((job >> 64) as u64, job as u64);
        let words = [high, low, kind, u64::from(part), place, u64::from(number)];
        let mixed = words.iter().fold(0, |mixed, word| SplitMix::new(mixed ^ word).next_u64());
        SpanId(mixed.max(1))
    }

    pub(crate) fn parent(self) -> Option<SpanId> {
        match self {
            Self::Job(_) => None,
            Self::Part(part) => Some(Self::Job(part.job).span()),
            Self::Attempt(attempt) => Some(Self::Part(attempt.shard.part_id()).span()),
        }
    }

    const fn job(self) -> JobId {
        match self {
            Self::Job(job) => job,
            Self::Part(part) => part.job,
            Self::Attempt(attempt) => attempt.shard.job,
        }
    }

    /// What names it, for people and queries.
    fn attributes(self) -> Vec<Attribute> {
        let mut attributes = vec![("hyperscale.job", Value::Text(self.job().to_string()))];
        match self {
            Self::Job(_) => {}
            Self::Part(part) => attributes.push(("hyperscale.part", part.part.0.into())),
            Self::Attempt(AttemptId { shard, number }) => attributes.extend([
                ("hyperscale.part", shard.part.0.into()),
                ("hyperscale.workflow", shard.workflow.0.into()),
                ("hyperscale.shard", shard.shard.0.into()),
                ("hyperscale.attempt", number.0.into()),
            ]),
        }
        attributes
    }
}

/// Whose span it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(crate) role: Role,
    pub(crate) node: NodeId,
    pub(crate) datacenter: DatacenterId,
    pub(crate) cluster: String,
    pub(crate) environment: String,
}

/// A name with its value.
pub(crate) type Attribute = (&'static str, Value);

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
}

impl<T: Into<i64>> From<T> for Value {
    fn from(number: T) -> Self {
        Self::Number(number.into())
    }
}

fn text(text: impl fmt::Display) -> Value {
    Value::Text(text.to_string())
}

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: WallTime,
    pub(crate) name: &'static str,
    pub(crate) attributes: Vec<Attribute>,
}

/// What went wrong: a word for programs, and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

fn failure(kind: &'static str, message: impl fmt::Display) -> Failure {
    Failure { kind, message: message.to_string() }
}

/// A span that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) source: Arc<Source>,
    pub(crate) subject: Subject,
    pub(crate) start: WallTime,
    pub(crate) end: WallTime,
    pub(crate) failure: Option<Failure>,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) moments: Vec<Moment>,
    pub(crate) moments_dropped: u32,
}

/// What a role has seen of a span that is not over.
#[derive(Debug, Default)]
struct Open {
    received: Option<WallTime>,
    ended: Option<WallTime>,
    moments: Vec<Moment>,
    moments_dropped: u32,
}

impl Open {
    fn note(&mut self, at: WallTime, name: &'static str, attributes: Vec<Attribute>) {
        if self.moments.len() < MOMENTS_MAX {
            self.moments.push(Moment { at, name, attributes });
        } else {
            self.moments_dropped = self.moments_dropped.saturating_add(1);
        }
    }
}

/// Makes a role's spans from its events. Without a place for them it does nothing.
#[derive(Debug, Default)]
pub(crate) struct Traces(Option<Recorder>);

#[derive(Debug)]
struct Recorder {
    source: Arc<Source>,
    spans: Arc<SpanQueue>,
    wall_at_zero: WallTime,
    open: BTreeMap<Subject, Open>,
    /// Since when a manager leads.
    leads_since: Option<WallTime>,
}

impl Traces {
    pub(crate) fn new(source: Source, clock: Clock, spans: Arc<SpanQueue>) -> Self {
        Self(Some(Recorder {
            source: Arc::new(source),
            spans,
            wall_at_zero: clock.wall_at_zero(),
            open: BTreeMap::new(),
            leads_since: None,
        }))
    }

    pub(crate) fn on_gate(&mut self, now: Time, event: &GateEvent) {
        if let Some(recorder) = &mut self.0 {
            recorder.on_gate(now, event);
        }
    }

    pub(crate) fn on_manager(&mut self, now: Time, event: &ManagerEvent) {
        if let Some(recorder) = &mut self.0 {
            recorder.on_manager(now, event);
        }
    }

    pub(crate) fn on_worker(&mut self, now: Time, event: &WorkerEvent) {
        if let Some(recorder) = &mut self.0 {
            recorder.on_worker(now, event);
        }
    }
}

impl Recorder {
    fn on_gate(&mut self, now: Time, event: &GateEvent) {
        let at = self.wall(now);
        match event {
            GateEvent::JobAccepted { job } => {
                self.open(Subject::Job(*job));
            }
            GateEvent::JobTakenOver { job, fence } => {
                let attributes = vec![("hyperscale.fence", text(fence))];
                self.open(Subject::Job(*job)).note(at, "job taken over", attributes);
            }
            GateEvent::PartMoved { job, to } => {
                let attributes = vec![("hyperscale.datacenter", text(to))];
                self.open(Subject::Job(*job)).note(at, "part moved", attributes);
            }
            GateEvent::Deposed { subject: Guarded::Job(job), .. } => {
                self.open.remove(&Subject::Job(*job)); // Its owner tells how it ended.
            }
            GateEvent::JobEnded { job, test, status, started } => {
                let subject = Subject::Job(*job);
                let mut open = self.take(subject);
                if let Some(started) = started {
                    open.note(*started, "load started", Vec::new());
                }
                let mut attributes = of_status(status);
                attributes.push(("hyperscale.test", text(test)));
                self.close(subject, open, (job.created(), at), failure_of(status), attributes);
            }
            GateEvent::LeadershipGained
            | GateEvent::LeadershipLost
            | GateEvent::SessionOpened { .. }
            | GateEvent::SessionEnded { .. }
            | GateEvent::NodeRemoved { .. }
            | GateEvent::JobUnrecovered { .. }
            | GateEvent::Electorate(_)
            | GateEvent::Datacenter { .. }
            | GateEvent::JobRefused { .. }
            | GateEvent::StaleFence { .. }
            | GateEvent::Deposed { subject: Guarded::Leadership, .. }
            | GateEvent::Malformed { .. } => {}
        }
    }

    fn on_manager(&mut self, now: Time, event: &ManagerEvent) {
        let at = self.wall(now);
        match event {
            ManagerEvent::LeadershipGained { .. } => self.leads_since = Some(at),
            ManagerEvent::PartAccepted { part } => {
                // Again, if its job has another owner.
                self.open(Subject::Part(*part)).received.get_or_insert(at);
            }
            ManagerEvent::WorkflowPlaced { part, workflow, shards } => {
                let shards = i64::try_from(*shards).unwrap_or(i64::MAX);
                let attributes = vec![
                    ("hyperscale.workflow", workflow.0.into()),
                    ("hyperscale.shards", shards.into()),
                ];
                self.open(Subject::Part(*part)).note(at, "workflow placed", attributes);
            }
            ManagerEvent::WorkflowEnded { part, workflow, status } => {
                let mut attributes = of_status(status);
                attributes.push(("hyperscale.workflow", workflow.0.into()));
                self.open(Subject::Part(*part)).note(at, "workflow ended", attributes);
            }
            ManagerEvent::AttemptOpened { attempt, worker } => {
                let mut attributes = Subject::Attempt(*attempt).attributes();
                attributes.push(("hyperscale.worker", text(worker)));
                let part = Subject::Part(attempt.shard.part_id());
                self.open(part).note(at, "attempt opened", attributes);
            }
            ManagerEvent::AttemptLost { attempt, worker, cause, started, counted_until } => {
                let mut open = Open::default();
                if let Some(until) = counted_until {
                    open.note(*until, "figures end", Vec::new());
                }
                let attributes = vec![("hyperscale.worker", text(worker))];
                let times = (started.unwrap_or(at), at);
                let failure = Some(lost(*cause));
                self.close(Subject::Attempt(*attempt), open, times, failure, attributes);
            }
            ManagerEvent::AttemptRefused { attempt, worker, why } => {
                let attributes = vec![("hyperscale.worker", text(worker))];
                let (open, failure) = (Open::default(), Some(refused(why)));
                self.close(Subject::Attempt(*attempt), open, (at, at), failure, attributes);
            }
            ManagerEvent::PartEnded { part, status, started } => {
                let subject = Subject::Part(*part);
                let mut open = self.take(subject);
                let begun = [open.received, *started].into_iter().flatten().min().unwrap_or(at);
                if let Some(started) = started {
                    open.note(*started, "load started", Vec::new());
                }
                if let Some(since) = self.leads_since.filter(|since| *since > begun) {
                    open.note(since, "part taken over", Vec::new());
                }
                let (failure, attributes) = (failure_of(status), of_status(status));
                self.close(subject, open, (begun, at), failure, attributes);
            }
            ManagerEvent::LeadershipLost
            | ManagerEvent::Electorate(_)
            | ManagerEvent::ManagersTrouble(_)
            | ManagerEvent::PartRefused { .. }
            | ManagerEvent::EndUnheard { .. }
            | ManagerEvent::WorkerJoined { .. }
            | ManagerEvent::StaleFence { .. }
            | ManagerEvent::LateDelta { .. }
            | ManagerEvent::Malformed { .. } => {}
        }
    }

    fn on_worker(&mut self, now: Time, event: &WorkerEvent) {
        let at = self.wall(now);
        match event {
            WorkerEvent::AttemptReceived { attempt } => {
                self.open(Subject::Attempt(*attempt)).received.get_or_insert(at);
            }
            WorkerEvent::AttemptStarted { attempt, start_in } => {
                let open = self.open(Subject::Attempt(*attempt));
                open.note(at + *start_in, "load started", Vec::new());
            }
            WorkerEvent::LeaseLost => self.note_all(at, "lease lost"),
            WorkerEvent::LeaseRegained => self.note_all(at, "lease regained"),
            WorkerEvent::AttemptEnded { attempt, .. } => {
                self.open(Subject::Attempt(*attempt)).ended.get_or_insert(at);
            }
            WorkerEvent::AttemptEndAcknowledged { attempt, end } => {
                let subject = Subject::Attempt(*attempt);
                let open = self.take(subject);
                let ended = open.ended.unwrap_or(at);
                let times = (open.received.unwrap_or(ended), ended);
                let (word, failure) = ended_as(end);
                self.close(subject, open, times, failure, vec![("hyperscale.status", text(word))]);
            }
            // The leader tells of what it has refused, or closed without this worker.
            WorkerEvent::AttemptRefused { attempt, .. }
            | WorkerEvent::AttemptForgotten { attempt, .. } => {
                self.open.remove(&Subject::Attempt(*attempt));
            }
            WorkerEvent::LeaderChanged { .. }
            | WorkerEvent::StaleFence { .. }
            | WorkerEvent::OutOfTurn { .. } => {}
        }
    }

    fn wall(&self, now: Time) -> WallTime {
        self.wall_at_zero + Duration::from_nanos(now.as_nanos())
    }

    fn open(&mut self, subject: Subject) -> &mut Open {
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&subject) {
            self.open.pop_first();
        }
        self.open.entry(subject).or_default()
    }

    fn take(&mut self, subject: Subject) -> Open {
        self.open.remove(&subject).unwrap_or_default()
    }

    fn note_all(&mut self, at: WallTime, name: &'static str) {
        for open in self.open.values_mut().filter(|open| open.ended.is_none()) {
            open.note(at, name, Vec::new());
        }
    }

    fn close(
        &self,
        subject: Subject,
        open: Open,
        (start, end): (WallTime, WallTime),
        failure: Option<Failure>,
        more: Vec<Attribute>,
    ) {
        let mut attributes = subject.attributes();
        attributes.extend(more);
        if let Some(failure) = &failure {
            attributes.push(("error.type", text(failure.kind)));
        }
        let Open { mut moments, moments_dropped, .. } = open;
        moments.sort_by_key(|moment| moment.at);
        // A start may be of another node's clock.
        let (source, end) = (Arc::clone(&self.source), end.max(start));
        self.spans.push(Span {
            source,
            subject,
            start,
            end,
            failure,
            attributes,
            moments,
            moments_dropped,
        });
    }
}

fn of_status(status: &EndStatus) -> Vec<Attribute> {
    let mut attributes = vec![("hyperscale.status", text(status.as_str()))];
    match status {
        EndStatus::Cancelled { by } => attributes.push(("hyperscale.cancelled_by", text(by))),
        EndStatus::Completed
        | EndStatus::Failed { .. }
        | EndStatus::TimedOut
        | EndStatus::Skipped { .. } => {}
    }
    attributes
}

/// To be stopped by somebody is no error.
fn failure_of(status: &EndStatus) -> Option<Failure> {
    match status {
        EndStatus::Failed { cause } => Some(failure(cause.kind(), cause)),
        EndStatus::TimedOut => Some(failure("timed_out", "its time was over")),
        EndStatus::Completed | EndStatus::Cancelled { .. } | EndStatus::Skipped { .. } => None,
    }
}

fn ended_as(end: &AttemptEnd) -> (&'static str, Option<Failure>) {
    match end {
        AttemptEnd::Finished => ("finished", None),
        AttemptEnd::Stopped => ("stopped", None),
        AttemptEnd::Aborted { message } => ("aborted", Some(failure("test", message))),
        AttemptEnd::CoreLost { message } => ("core_lost", Some(failure("core_lost", message))),
        AttemptEnd::Drained => ("drained", Some(lost(GapCause::WorkerDrained))),
    }
}

fn lost(cause: GapCause) -> Failure {
    match cause {
        GapCause::WorkerLost => {
            failure("worker_lost", "the worker was not heard of for longer than its lease")
        }
        GapCause::WorkerRestarted => failure("worker_restarted", "the worker had started anew"),
        GapCause::CoreLost => failure("core_lost", "a core of the worker panicked or hung"),
        GapCause::WorkerDrained => {
            failure("worker_drained", "the worker left before the load was done")
        }
    }
}

fn refused(why: &RefuseAttempt) -> Failure {
    match why {
        RefuseAttempt::NoCores { free } => {
            failure("no_cores", format_args!("the worker has only {free} free cores"))
        }
        RefuseAttempt::Draining => failure("draining", "the worker is about to leave"),
        RefuseAttempt::BadPlan { message } => failure("bad_plan", message),
    }
}

#[cfg(test)]
mod tests;
