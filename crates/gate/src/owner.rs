//! What the owner of a job does: parts, statistics, thresholds, completion, news.

mod ending;
mod news;
mod parts;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{BlobHash, Fence, JobId, NodeId, PartId, PartIndex, ProgressSeq, Time};
use hyperscale_plan::{Plan, Secrets};
use hyperscale_report::{EventRecord, ThresholdView};
use hyperscale_wire::{CopyMark, Gap, Message, PartReport, PartResult, RowsUsed, WorkflowState};

use crate::copies::{Acknowledgement, Change, Checkpoint, Copies, keep_event};
use crate::peers::Spread;
use crate::request::Asker;
use crate::seal::open;
use crate::state::{Entry, Job};
use crate::statistics::Statistics;
use crate::{Event, Gate, Output};

/// Events of a job that are kept for those who come back.
pub(crate) const EVENTS_MAX: usize = 1_000;
/// How long before a start at a certain time parts are told of it.
const START_AHEAD: Duration = Duration::from_secs(5);
/// Windows that a live view shows.
const RECENT_WINDOWS: usize = 60;

/// The kind of the event that tells of a workflow's end in a datacenter.
const WORKFLOW_ENDED: &str = "workflow_ended";

/// What the owner knows of a running job beyond the ledger.
#[derive(Debug)]
pub(crate) struct Live {
    fence: Fence,
    plan: Arc<Plan>,
    secrets: Secrets,
    statistics: Statistics,
    /// What was added to statistics, events and reports since the last checkpoint.
    changes: Vec<Change>,
    pub(crate) copies: Copies,
    parts: Vec<LivePart>,
    /// Since when each threshold has been broken.
    broken_since: Vec<Option<Duration>>,
    thresholds: Vec<ThresholdView>,
    events: VecDeque<EventRecord>,
    last_event: u64,
    /// Changes of the job's steering that the events tell of.
    steers: usize,
    watchers: Vec<(Asker, u64)>,
    next_push: Time,
    next_judge: Time,
    next_checkpoint: Time,
    /// The job's time at an instant, as a datacenter told it.
    job_time: Option<(Time, Duration)>,
    /// Since when this gate has owned the job in this life.
    owned_since: Time,
    pub(crate) ending: Option<Ending>,
}

/// A job's end on its way to a decision: its result goes first.
#[derive(Debug)]
pub(crate) struct Ending {
    entry: Entry,
    pub(crate) spread: Spread,
}

#[derive(Debug, Default)]
struct LivePart {
    is_accepted: bool,
    /// Since when its datacenter has been asked.
    asked_since: Option<Time>,
    /// How far its datacenter has come with each blob that the plan names, and when it came further.
    fetched: BTreeMap<BlobHash, u64>,
    fetched_at: Option<Time>,
    /// Since when most gates have lost its datacenter.
    lost_since: Option<Time>,
    /// Whether a leader took over that has not answered an offer.
    needs_offer: bool,
    /// When the last command was sent that is not answered yet.
    commanded_at: Option<Time>,
    report: Option<PartReport>,
    mark: (Fence, ProgressSeq),
    /// The end as its leader told it, and when.
    told_end: Option<(Time, PartResult, NodeId)>,
}

impl LivePart {
    /// A part that another datacenter did not accept.
    fn moved() -> Self {
        Self { needs_offer: true, ..Self::default() }
    }
}

impl Live {
    pub(crate) const fn fence(&self) -> Fence {
        self.fence
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What a part's datacenter has said of it last.
    pub(crate) fn report(&self, part: usize) -> Option<&PartReport> {
        self.parts.get(part)?.report.as_ref()
    }

    /// All that must outlive this gate.
    pub(crate) fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint {
            mark: CopyMark { fence: self.fence, position: self.copies.position() },
            statistics: Cow::Borrowed(&self.statistics),
            events: Cow::Borrowed(&self.events),
            last_event: self.last_event,
            steers: self.steers,
            reports: self.parts.iter().map(|part| part.report.clone()).collect(),
        }
    }

    /// What is left of it once another gate owns the job, and who waits for news.
    pub(crate) fn into_copy(self) -> (Checkpoint<'static>, Vec<Asker>) {
        let checkpoint = Checkpoint {
            mark: CopyMark { fence: self.fence, position: self.copies.position() },
            statistics: Cow::Owned(self.statistics),
            events: Cow::Owned(self.events),
            last_event: self.last_event,
            steers: self.steers,
            reports: self.parts.into_iter().map(|part| part.report).collect(),
        };
        (checkpoint, self.watchers.into_iter().map(|(asker, _)| asker).collect())
    }

    /// Keeps a part's newest report for the next checkpoint. Those before it are of no use: a load that
    /// stands still for hours is reported each second, and nothing else asks for a checkpoint.
    fn change_report(&mut self, report: &PartReport) {
        self.changes.retain(|change| match change {
            Change::Report(known) => known.part != report.part,
            Change::Delta(_) | Change::Event(_) | Change::Steers(_) => true,
        });
        self.changes.push(Change::Report(Box::new(report.clone())));
    }

    /// The changes since the last checkpoint, if it is time for the next.
    pub(crate) fn take_changes(&mut self, now: Time, every: Duration) -> Option<Vec<Change>> {
        let is_ending = self.parts.iter().any(|part| part.told_end.is_some());
        if !self.statistics.is_dirty || (now < self.next_checkpoint && !is_ending) {
            return None;
        }
        self.next_checkpoint = now + every;
        self.statistics.is_dirty = false;
        Some(std::mem::take(&mut self.changes))
    }

    /// Reports that wait for the next checkpoint.
    #[cfg(test)]
    pub(crate) fn kept_reports(&self) -> usize {
        self.changes.iter().filter(|change| matches!(change, Change::Report(_))).count()
    }

    pub(crate) fn take_counted(&mut self) -> Vec<Acknowledgement> {
        self.statistics.take_acknowledgements()
    }

    pub(crate) fn forget_watcher(&mut self, asker: &Asker) {
        self.watchers.retain(|(watcher, _)| watcher != asker);
    }

    pub(crate) fn forget_watchers_of(&mut self, gate: NodeId) {
        self.watchers.retain(|(watcher, _)| !watcher.is_of(gate));
    }

    pub(crate) fn resend_all(&mut self) {
        self.parts.iter_mut().for_each(|part| part.commanded_at = None);
    }

    /// Marks the parts that a new leader must hear of, in their order.
    pub(crate) fn offer_anew(&mut self, concerned: impl Iterator<Item = bool>) {
        let has_secrets = !self.secrets.is_empty();
        for (part, is_concerned) in self.parts.iter_mut().zip(concerned) {
            part.needs_offer |= is_concerned && has_secrets;
        }
        self.statistics.acknowledge_anew();
    }

    fn note(&mut self, at: Duration, kind: &str, text: String) {
        self.statistics.is_dirty = true;
        self.last_event += 1;
        let event =
            EventRecord { id: self.last_event, at_ms: millis(at), kind: kind.to_owned(), text };
        self.changes.push(Change::Event(event.clone()));
        keep_event(&mut self.events, event);
    }

    fn rows(&self, job: &Job) -> Vec<RowsUsed> {
        (self.parts.iter().zip(&job.parts))
            .flat_map(|(live, (_, end))| match (end, &live.report) {
                (Some(end), _) => end.rows.clone(),
                (None, Some(report)) => report.rows.clone(),
                (None, None) => Vec::new(),
            })
            .collect()
    }

    fn gaps(&self, job: &Job) -> Vec<Gap> {
        (self.parts.iter().zip(&job.parts))
            .flat_map(|(live, (_, end))| match (end, &live.report) {
                (Some(end), _) => end.gaps.clone(),
                (None, Some(report)) => report.gaps.clone(),
                (None, None) => Vec::new(),
            })
            .collect()
    }
}

/// Whether some part waits for cores and none sends load, as these reports have it.
fn are_queued<'a>(reports: impl Iterator<Item = &'a PartReport>) -> bool {
    let states: Vec<&WorkflowState> =
        reports.flat_map(|report| &report.workflows).map(|workflow| &workflow.state).collect();
    states.contains(&&WorkflowState::Ready) && !states.contains(&&WorkflowState::Running)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Gate {
    /// Takes up a job that this gate owns, with what its copy remembers of it. False if its plan is
    /// still on its way.
    pub(crate) fn own(&mut self, now: Time, job: JobId, fence: Fence) -> bool {
        let Some(state) = self.state.jobs.get(&job) else { return true };
        let plan = match self.blobs.get(state.plan).map(|bytes| Plan::from_bytes(bytes)) {
            Some(Ok(plan)) => Arc::new(plan),
            Some(Err(error)) => {
                self.malformed("plan", &error);
                return true;
            }
            None => return false,
        };
        let secrets = open(&self.config.secret_key, job, &state.sealed).unwrap_or_else(|_opaque| {
            let error = "this cluster's key does not open them".to_owned();
            self.outputs.push(Output::Event(Event::Malformed { what: "sealed secrets", error }));
            Secrets::default()
        });
        let known = self.copies.remove(&job);
        // Under another fence, all of it is written first.
        self.written.remove(&job);
        let is_new = known.is_none();
        let Checkpoint { statistics, events, last_event, steers, reports, .. } =
            known.unwrap_or_else(|| Checkpoint::empty(self.config.window));
        // Watchers may have heard of events since the checkpoint: their ids are not used again.
        let last_event = if is_new { 0 } else { last_event.saturating_add(EVENTS_MAX as u64) };
        let mut statistics = statistics.into_owned();
        // Nobody knows which acknowledgements have arrived.
        statistics.acknowledge_anew();
        let mut reports = (reports.into_iter().zip(0..))
            .map(|(report, part)| report.filter(|_| !state.is_moved(PartIndex(part))));
        let mut live = Live {
            fence,
            statistics,
            changes: Vec::new(),
            copies: Copies::new(is_new),
            parts: (state.parts.iter())
                // Whoever leads there may have heard of the part, and not of its secrets, and
                // speaks to the owner that it knows.
                .map(|_| {
                    let report: Option<PartReport> = reports.next().flatten();
                    LivePart {
                        needs_offer: !is_new || !secrets.is_empty(),
                        // What a deposed leader says stays refused.
                        mark: report.as_ref().map_or_else(Default::default, |r| (r.fence, r.seq)),
                        report,
                        ..LivePart::default()
                    }
                })
                .collect(),
            secrets,
            broken_since: vec![None; plan.thresholds.len()],
            thresholds: Vec::new(),
            events: events.into_owned(),
            last_event,
            steers,
            watchers: Vec::new(),
            next_push: now,
            next_judge: now,
            // At once: no watcher shall know of more than the next life does.
            next_checkpoint: now,
            job_time: None,
            owned_since: now,
            ending: None,
            plan,
        };
        let names: Vec<&str> =
            state.parts.iter().map(|(target, _)| target.datacenter.as_str()).collect();
        if is_new {
            live.note(Duration::ZERO, "accepted", format!("accepted for {}", names.join(", ")));
        }
        self.live.insert(job, live);
        if !is_new {
            self.taken_over(job, fence);
        }
        true
    }

    /// Whether a job waits for cores, as its datacenters have told this gate, or its owner did.
    pub(crate) fn is_queued(&self, job: JobId) -> bool {
        match (self.live.get(&job), self.copies.get(&job)) {
            (Some(live), _) => are_queued(live.parts.iter().filter_map(|p| p.report.as_ref())),
            (None, Some(copy)) => are_queued(copy.reports.iter().flatten()),
            (None, None) => false,
        }
    }

    fn elapsed(&self, now: Time, job: JobId) -> Duration {
        let started = self.state.jobs.get(&job).and_then(|job| job.started);
        let told = self.live.get(&job).and_then(|live| live.job_time);
        match (started, told) {
            (Some(_), Some((at, job))) => job + now.since(at),
            // By the wall clock, which may not be that of the datacenter.
            (Some(started), None) => self.since(now, started),
            (None, _) => Duration::ZERO,
        }
    }

    pub(crate) fn note(&mut self, now: Time, job: JobId, kind: &str, text: String) {
        let at = self.elapsed(now, job);
        if let Some(live) = self.live.get_mut(&job) {
            live.note(at, kind, text);
        }
    }

    /// Tells of each change of the job's steering that no event tells of yet: its owner may have
    /// been gone when it was decided.
    fn note_steers(&mut self, job: JobId) {
        let Some(state) = self.state.jobs.get(&job) else { return };
        let Some(live) = self.live.get_mut(&job) else { return };
        for (_, steer) in state.steers.iter().skip(live.steers) {
            let started = state.started.unwrap_or(steer.at);
            let at = Duration::from_millis(steer.at.0.saturating_sub(started.0));
            let text = steer.in_words(&live.plan);
            live.note(at, steer.kind(), text);
        }
        if live.steers < state.steers.len() {
            live.steers = state.steers.len();
            let steers = live.steers;
            live.changes.push(Change::Steers(steers));
        }
    }

    /// The job is steered anew: its datacenters hear of it at once.
    pub(crate) fn steer_parts(&mut self, now: Time, job: JobId) {
        self.note_steers(job);
        if let Some(live) = self.live.get_mut(&job) {
            live.resend_all();
            live.next_push = now;
        }
    }

    /// Takes up parts that were added, and forgets what was said of those that they are in place of.
    fn follow_parts(&mut self, job: JobId) {
        let (Some(state), Some(live)) = (self.state.jobs.get(&job), self.live.get_mut(&job)) else {
            return;
        };
        live.parts.resize_with(state.parts.len(), LivePart::moved);
        for (part, known) in (0..).map(PartIndex).zip(&mut live.parts) {
            if state.is_moved(part) {
                known.report = None;
            }
        }
        if state.started.is_none() {
            live.job_time = None;
        }
    }

    fn live_part(&mut self, part: PartId) -> Option<&mut LivePart> {
        self.live.get_mut(&part.job)?.parts.get_mut(usize::from(part.part.0))
    }

    /// Whether something is to be looked at again soon.
    pub(crate) fn has_work(&self) -> bool {
        !self.live.is_empty()
            || !self.state.jobs.is_empty()
            || !self.pending.is_empty()
            || !self.cancels.is_empty()
            || !self.removals.is_empty()
            || !self.unknown.is_empty()
            || !self.questions.is_empty()
            || (self.leader.is_some() && !self.takes_part())
            || self.misses_someone()
    }

    /// Sends and proposes whatever is missing.
    pub(crate) fn review(&mut self, now: Time) {
        self.beat(now);
        self.review_places(now);
        self.review_sessions(now);
        self.review_missed(now);
        self.review_electorate(now);
        self.recover(now);
        let jobs: Vec<JobId> = self.live.keys().copied().collect();
        for job in &jobs {
            self.checkpoint(now, *job);
            self.review_copies(now, *job);
            self.review_job(now, *job);
        }
        self.review_pending(now);
        self.review_waiting(now);
        self.review_removals(now);
        self.review_unknown(now);
        self.keep_results();
        self.forget_old_jobs(now);
        self.blobs.tick(now);
        let wanted: Vec<(NodeId, Message)> = self.blobs.drain().collect();
        wanted.into_iter().for_each(|(to, message)| self.send(to, message));
        let steps = [self.config.push, self.config.judge, self.config.checkpoint];
        let step = steps.into_iter().min().unwrap_or(self.config.resend);
        if self.next_review <= now {
            self.next_review = now + step;
        }
    }

    fn review_job(&mut self, now: Time, job: JobId) {
        self.note_steers(job);
        let Some(state) = self.state.jobs.get(&job) else { return };
        if state.ended.is_none() {
            let parts = u16::try_from(state.parts.len()).unwrap_or(u16::MAX);
            for part in 0..parts {
                self.review_part(now, PartId { job, part: PartIndex(part) });
            }
            self.judge(now, job);
            self.watch_limit(now, job);
            self.complete(now, job);
        }
        self.push(now, job);
    }

    /// Does what the entries would have led to in whose place a snapshot came.
    pub(crate) fn reconcile(&mut self, now: Time) {
        self.take_up_jobs(now);
        let live: Vec<JobId> = self.live.keys().copied().collect();
        for job in live {
            match self.state.jobs.get(&job) {
                None => {
                    self.live.remove(&job);
                    self.forget_copies(job);
                }
                Some(state) if state.ended.is_some() => self.on_job_end_decided(now, job),
                Some(_) => self.follow_parts(job),
            }
        }
        self.drop_copies();
        self.settle_requests();
    }
}
