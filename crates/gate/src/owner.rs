//! What the owner of a job does: parts, statistics, thresholds, completion, news.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{
    AttemptId, DatacenterId, DeltaSeq, EndStatus, FailureCause, Fence, JobId, NodeId, PartId,
    PartIndex, Pressure, ProgressSeq, Time, Verdict, WorkflowIndex,
};
use hyperscale_plan::{DataIndex, Datacenters, Plan, Secrets, Slice, UniqueRows};
use hyperscale_report::{
    EventRecord, JobResult, Latency, LiveView, ScaleView, SeriesPoint, Summary, SummaryInput,
    ThresholdView,
};
use hyperscale_stats::{Delta, Histogram};
use hyperscale_wire::{
    CopyMark, Gap, Message, PartOffer, PartReport, PartResult, RefusePart, RowsUsed, StopMode,
    StopReason, WorkflowState, decode_value,
};

use crate::copies::{Acknowledgement, Change, Checkpoint, Copies, as_blob, keep_event};
use crate::peers::Spread;
use crate::request::{Asker, News};
use crate::seal::open;
use crate::settle::Settled;
use crate::state::{Entry, Job, PartEnd};
use crate::statistics::{Statistics, threshold_view};
use crate::{About, Event, Gate, Output, Step};

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

    /// Whether some part waits for cores and none sends load.
    pub(crate) fn is_queued(&self) -> bool {
        let states =
            || self.parts.iter().filter_map(|part| part.report.as_ref()).flat_map(|r| &r.workflows);
        states().any(|workflow| workflow.state == WorkflowState::Ready)
            && !states().any(|workflow| workflow.state == WorkflowState::Running)
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

/// What became of the unique rows of a part that nobody hears of any more: whatever it has not
/// reported as sent it may have sent.
fn rows_of_missing(plan: &Plan, draws: &Slice, reported: &[RowsUsed]) -> Vec<RowsUsed> {
    let mut owned: BTreeMap<DataIndex, u64> = BTreeMap::new();
    for index in 0..plan.workflows.len() {
        let index = WorkflowIndex(u16::try_from(index).unwrap_or(u16::MAX));
        for (source, rows) in UniqueRows::of(plan, index).ending(draws) {
            *owned.entry(source).or_default() += rows;
        }
    }
    let of_source = |(source, rows): (DataIndex, u64)| {
        let known = reported.iter().find(|used| used.source == source);
        let sent = known.map_or(0, |used| used.sent);
        RowsUsed { source, sent, possibly_sent: rows.saturating_sub(sent) }
    };
    owned.into_iter().map(of_source).collect()
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
        let mut reports = reports.into_iter();
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

    fn live_part(&mut self, part: PartId) -> Option<&mut LivePart> {
        self.live.get_mut(&part.job)?.parts.get_mut(usize::from(part.part.0))
    }

    pub(crate) fn on_part_accepted(&mut self, now: Time, part: PartId, fence: Fence) {
        let Some(state) = self.state.jobs.get(&part.job) else { return };
        if state.fence != fence {
            return; // The answer to an offer of an earlier owner.
        }
        let name = state.parts.get(usize::from(part.part.0)).map(|(t, _)| t.datacenter.clone());
        let Some(live) = self.live_part(part) else { return };
        if live.needs_offer {
            (live.needs_offer, live.commanded_at) = (false, None);
        }
        if !live.is_accepted {
            (live.is_accepted, live.commanded_at) = (true, None);
            let took = live.asked_since.map(|since| now.since(since));
            if let Some((name, took)) = name.zip(took) {
                self.on_dispatched(now, &name, took);
                let text = format!("{name} accepted its part");
                self.note(now, part.job, "part_accepted", text);
            }
        }
    }

    pub(crate) fn on_part_refused(
        &mut self,
        now: Time,
        part: PartId,
        fence: Fence,
        why: RefusePart,
    ) {
        let Some(state) = self.state.jobs.get(&part.job).filter(|job| job.fence == fence) else {
            return;
        };
        let attempts = Vec::new();
        let message = match why {
            RefusePart::BadPlan { message } => message,
            // Offered again after a while, to whoever leads by then.
            RefusePart::NotLeader { .. } | RefusePart::NotReady { .. } => return,
        };
        if state.ended.is_none() {
            let cause = FailureCause::Placement { reasons: vec![message] };
            let end = PartEnd {
                status: EndStatus::Failed { cause },
                is_missing: false,
                gaps: Vec::new(),
                rows: Vec::new(),
                late_requests: 0,
                attempts,
            };
            self.end_part(now, part, end);
        }
    }

    fn end_part(&mut self, now: Time, part: PartId, end: PartEnd) {
        let (job, index) = (part.job, part.part);
        let Some(fence) = self.live.get(&job).map(Live::fence) else { return };
        let about = About::Job(Step::EndPart, job, u64::from(index.0));
        self.propose(now, about, &Entry::PartEnded { job, fence, part: index, end });
    }

    pub(crate) fn on_report(&mut self, now: Time, from: NodeId, report: PartReport) {
        let (part, fence) = (report.part, report.fence);
        self.stop_what_was_given_up(now, from, part);
        let Some(live) = self.live.get_mut(&part.job) else { return };
        let uncounted: Vec<AttemptId> = (report.inquire.iter().copied())
            .filter(|&attempt| live.statistics.inquire(attempt))
            .collect();
        for attempt in uncounted {
            let (through, iterations, until) = (DeltaSeq::NONE, 0, Duration::ZERO);
            let pressure = Pressure::None;
            self.send(from, Message::DeltaAck { attempt, through, iterations, until, pressure });
        }
        let elapsed = self.elapsed(now, part.job);
        // Where there are several, each tells of its own share.
        let parts = self.state.jobs.get(&part.job).map(|job| &job.parts);
        let place = parts.filter(|parts| parts.len() > 1).and_then(|parts| {
            let (target, _) = parts.get(usize::from(part.part.0))?;
            Some(target.datacenter.clone())
        });
        let Some(live) = self.live.get_mut(&part.job) else { return };
        let Some(known) = live.parts.get_mut(usize::from(part.part.0)) else { return };
        if (fence, report.seq) <= known.mark {
            if fence < known.mark.0 {
                let held = known.mark.0;
                self.event(Event::StaleFence { from, fence, held });
            }
            return;
        }
        known.mark = (fence, report.seq);
        known.is_accepted = true;
        let before = known.report.replace(report.clone());
        if before.as_ref().map(|before| before.steered) != Some(report.steered) {
            known.commanded_at = None; // There may be something newer.
        }
        if let Some(job) = report.job_time {
            // Each report is a little late, and none is early: the furthest is nearest.
            let known = live.job_time.map(|(at, known)| known + now.since(at));
            if known.is_none_or(|known| job > known) {
                live.job_time = Some((now, job));
            }
        }
        live.change_report(&report);
        let news = changes(&live.plan, before.as_ref(), &report);
        if news.iter().any(|(kind, _)| *kind == WORKFLOW_ENDED) {
            live.resend_all(); // Others may wait for it.
        }
        for (kind, text) in news {
            let text = match &place {
                Some(place) => format!("{place}: {text}"),
                None => text,
            };
            live.note(elapsed, kind, text);
        }
        if let Some(at) = report.started
            && self.state.jobs.get(&part.job).is_some_and(|job| job.started.is_none())
        {
            let (job, fence) = (part.job, live.fence);
            self.propose(
                now,
                About::Job(Step::Start, job, 0),
                &Entry::JobStarted { job, fence, at },
            );
        }
    }

    /// A datacenter that was out of reach may still run a part whose end is decided without it.
    fn stop_what_was_given_up(&mut self, now: Time, leader: NodeId, part: PartId) {
        if !self.takes_part() {
            return;
        }
        let Some(state) = self.state.jobs.get(&part.job) else {
            return self.seek(now, part, leader, Message::OrphanPart { part });
        };
        let end = state.parts.get(usize::from(part.part.0)).and_then(|(_, end)| end.as_ref());
        // Or holds a part that was moved before it answered.
        let is_given_up = end
            .is_some_and(|end| end.is_missing || matches!(end.status, EndStatus::Skipped { .. }));
        if is_given_up {
            let (fence, reason, mode) = (state.fence, StopReason::TimedOut, StopMode::Now);
            self.send(leader, Message::StopPart { part, fence, reason, mode });
        }
    }

    /// A manager speaks of a part whose job this gate does not know. It may have been forgotten long
    /// ago; or this gate is new, or was away, and has not heard of it yet: then the answer, after
    /// which the manager forgets the part too, would lose a result. The ledger settles it.
    fn seek(&mut self, now: Time, part: PartId, manager: NodeId, answer: Message) {
        if self.takes_part() {
            self.sought.insert((part, manager), answer);
            let about = About::Sought(part.job);
            self.propose(now, about, &Entry::JobSought { job: part.job });
        }
    }

    /// This gate's own question about a job was decided.
    pub(crate) fn on_sought(&mut self, job: JobId) {
        let is_known = self.state.jobs.contains_key(&job);
        let answers: Vec<((PartId, NodeId), Message)> =
            self.sought.extract_if(.., |(part, _), _| part.job == job).collect();
        for ((_, manager), answer) in answers {
            if !is_known {
                self.send(manager, answer);
            }
        }
    }

    pub(crate) fn on_part_ended(&mut self, now: Time, from: NodeId, result: PartResult) {
        let part = result.report.part;
        let Some(state) = self.state.jobs.get(&part.job) else {
            return self.seek(now, part, from, Message::PartEndedAck { part });
        };
        if state.ended.is_some() {
            self.send(from, Message::PartEndedAck { part });
            return;
        }
        self.on_report(now, from, result.report.clone());
        let Some(live) = self.live_part(part) else { return };
        let since = live.told_end.as_ref().map_or(now, |(since, ..)| *since);
        live.told_end = Some((since, result, from));
    }

    pub(crate) fn on_delta(&mut self, from: NodeId, delta: Box<Delta>) {
        let id = delta.attempt.shard;
        if !self.may_tell_of(from, id.part_id()) {
            return;
        }
        let ended = (self.state.jobs.get(&id.job))
            .and_then(|job| job.parts.get(usize::from(id.part.0))?.1.as_ref());
        let is_beyond_end = ended.is_some_and(|end| {
            let last = end.attempts.iter().find(|(attempt, _)| *attempt == delta.attempt);
            last.is_none_or(|(_, last)| delta.seq > *last)
        });
        if let Some(live) = self.live.get_mut(&id.job)
            && !is_beyond_end
            && live.statistics.add(&delta)
        {
            live.changes.push(Change::Delta(delta));
        }
    }

    /// Whether a manager's figures of a part count. Those of a deposed leader do not: the next one
    /// says in an entry what of an attempt counts, from what it has asked of this gate.
    fn may_tell_of(&self, from: NodeId, part: PartId) -> bool {
        let index = usize::from(part.part.0);
        let target = self.state.jobs.get(&part.job).and_then(|job| job.parts.get(index));
        let known = target.and_then(|(target, _)| self.federation.get(&target.datacenter));
        let live = self.live.get(&part.job).and_then(|live| live.parts.get(index));
        match (known.and_then(|known| known.leader()), live) {
            (Some(leader), Some(live)) => leader.node == from && leader.fence >= live.mark.0,
            (Some(_) | None, _) => false,
        }
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

    /// The leader of the ledger has jobs forgotten whose retention is over.
    fn forget_old_jobs(&mut self, now: Time) {
        if !self.leads {
            return;
        }
        let is_old = |job: &Job| {
            let end = job.ended.as_ref();
            end.is_some_and(|end| self.since(now, end.at) >= self.config.retention)
        };
        let old: Vec<JobId> =
            self.state.jobs.iter().filter(|(_, job)| is_old(job)).map(|(&job, _)| job).collect();
        for job in old {
            self.propose(now, About::Job(Step::Forget, job, 0), &Entry::JobForgotten { job });
        }
    }

    /// Results of ended jobs go where the driver keeps them.
    pub(crate) fn keep_results(&mut self) {
        let ended = self.state.jobs.iter().filter(|(job, _)| !self.stored.contains(job));
        let ended = ended.filter_map(|(&job, state)| Some((job, state.ended.as_ref()?.result)));
        let due: Vec<(JobId, Arc<[u8]>)> = ended
            .filter_map(|(job, result)| Some((job, Arc::clone(self.blobs.get(result)?))))
            .collect();
        for (job, bytes) in due {
            self.stored.insert(job);
            match decode_value::<JobResult>(&bytes) {
                Ok(result) => {
                    let result = Arc::new(result);
                    self.results.insert(job, Arc::clone(&result));
                    self.outputs.push(Output::StoreResult { result });
                }
                Err(error) => self.malformed("result", &error),
            }
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

    fn review_part(&mut self, now: Time, part: PartId) {
        let Some(state) = self.state.jobs.get(&part.job) else { return };
        let Some((target, ended)) = state.parts.get(usize::from(part.part.0)) else { return };
        let is_ended = ended.is_some();
        let (fence, datacenter, slice) =
            (state.fence, target.datacenter.clone(), target.slice.clone());
        let rows = target.rows.clone();
        let end = state.parts.get(usize::from(part.part.0)).and_then(|(_, end)| end.as_ref());
        let lacks_statistics = end
            .zip(self.live.get(&part.job))
            .is_some_and(|(end, live)| !live.statistics.is_complete(&end.attempts));
        let (plan, window) = (state.plan, self.config.window);
        let stop = match (&state.cancel, &state.broken) {
            (Some((by, mode)), _) => Some((StopReason::Cancelled { by: by.clone() }, *mode)),
            (None, Some(expression)) => {
                let expression = expression.clone();
                Some((StopReason::Threshold { expression }, StopMode::Graceful))
            }
            (None, None) => {
                state.is_over_limit.then_some((StopReason::TimedOut, StopMode::Graceful))
            }
        };
        let stopped_workflows = state.stopped_workflows.clone();
        let steering = state.steering();
        let accepted = state.accepted;
        let leader = self.leader_of(&datacenter);
        let (resend, start_margin) = (self.config.resend, self.config.start_margin);
        let since_accepted = self.since(now, accepted);
        let (wait, dispatch_wait) = (self.config.part_wait, self.config.dispatch_wait);
        let is_starting = state.is_starting;
        let open: Vec<bool> = state.parts.iter().map(|(_, end)| end.is_none()).collect();
        let elapsed = state.started.map(|_| self.elapsed(now, part.job));
        let wall = self.wall(now);
        let is_lost = self.is_lost(now, &datacenter);
        let is_shared = self.is_shared(part.job);
        let settled = self.settled(part);
        let Some(live) = self.live.get_mut(&part.job) else { return };
        let run = live.plan.run.clone();
        let all_accepted =
            live.parts.iter().zip(&open).all(|(part, is_open)| part.is_accepted || !is_open);
        let secrets = live.secrets.clone();
        // A start that was asked for later moves everything with it.
        let ahead = Duration::from_millis(run.start_at.unwrap_or(0).saturating_sub(accepted.0));
        let deadline = run.deadline + wait + ahead;
        let has_best_effort = run.best_effort.is_some_and(|effort| {
            let reported = live.parts.iter().filter(|part| part.told_end.is_some()).count();
            let waited = elapsed.unwrap_or(since_accepted.saturating_sub(ahead));
            waited >= effort.deadline && reported >= usize::from(effort.min_datacenters)
        });
        let Some(known) = live.parts.get_mut(usize::from(part.part.0)) else { return };
        known.lost_since = known.lost_since.filter(|_| is_lost).or(is_lost.then_some(now));
        let is_lost_for_good = known.lost_since.is_some_and(|since| now >= since + wait);
        if let Some((_, result, _)) = &known.told_end {
            if !is_ended {
                let end = PartEnd {
                    status: result.status.clone(),
                    is_missing: false,
                    gaps: result.report.gaps.clone(),
                    rows: result.report.rows.clone(),
                    late_requests: result.report.late_requests,
                    attempts: result.attempts.clone(),
                };
                self.end_part(now, part, end);
            }
            return;
        }
        if is_ended {
            // It ended while another gate owned the job, and that is where its datacenter sends what
            // is not counted yet.
            let is_due = known.commanded_at.is_none_or(|sent| now >= sent + resend);
            if let Some(leader) = leader.filter(|_| lacks_statistics && known.needs_offer && is_due)
            {
                known.commanded_at = Some(now);
                let offer =
                    PartOffer { part, fence, plan, slice, rows, is_shared, window, secrets };
                self.send(leader, Message::OfferPart(Box::new(offer)));
            }
            return;
        }
        if since_accepted >= deadline || is_lost_for_good || has_best_effort {
            let report = known.report.as_ref();
            let gaps = report.map(|report| report.gaps.clone()).unwrap_or_default();
            let reported = report.map(|report| report.rows.as_slice()).unwrap_or_default();
            let rows = if is_starting {
                rows_of_missing(&live.plan, &slice.within(&rows), reported)
            } else {
                Vec::new() // No part was told to start.
            };
            let end = PartEnd {
                status: EndStatus::TimedOut,
                is_missing: true,
                gaps,
                rows,
                late_requests: 0,
                attempts: Vec::new(),
            };
            self.end_part(now, part, end);
            return;
        }
        let asked_since = *known.asked_since.get_or_insert(now);
        let is_promised = matches!(run.datacenters, Datacenters::Named(_));
        if !known.is_accepted && !is_starting && !is_promised && now >= asked_since + dispatch_wait
        {
            known.asked_since = Some(now); // If there is no other, this one is asked on.
            self.move_part(now, part.job, part.part, &run);
            return;
        }
        if known.commanded_at.is_some_and(|sent| now < sent + resend) {
            return;
        }
        let Some(leader) = leader else { return };
        let has_started = known.report.as_ref().is_some_and(|report| report.started.is_some());
        let is_live = |workflow: &WorkflowIndex| {
            let report = known.report.as_ref();
            let state = report.and_then(|report| report.workflows.get(usize::from(workflow.0)));
            state.is_none_or(|workflow| !matches!(workflow.state, WorkflowState::Ended(_)))
        };
        let steered = known.report.as_ref().map_or(0, |report| report.steered);
        let mut messages = Vec::new();
        if known.is_accepted && stop.is_none() && steered < steering.version {
            messages.push(Message::SteerPart { part, fence, steering });
        }
        messages.extend(settled.into_iter().map(|Settled { workflow, status, published }| {
            Message::SettleWorkflow { part, fence, workflow, status, published }
        }));
        if !known.is_accepted || known.needs_offer {
            let offer = PartOffer { part, fence, plan, slice, rows, is_shared, window, secrets };
            messages.push(Message::OfferPart(Box::new(offer)));
        }
        if !known.is_accepted {
            // Everything else needs a part that is there.
        } else if let Some((reason, mode)) = stop {
            messages.push(Message::StopPart { part, fence, reason, mode });
        } else if !has_started && all_accepted && !is_starting {
            let job = part.job;
            let entry = Entry::StartAsked { job, fence };
            if messages.is_empty() {
                self.propose(now, About::Job(Step::AskStart, job, 0), &entry);
                return;
            }
        } else if !has_started && all_accepted {
            let until = Duration::from_millis(run.start_at.unwrap_or(0).saturating_sub(wall.0));
            if until <= START_AHEAD {
                let start_in = start_margin.max(until);
                messages.push(Message::StartPart { part, fence, start_in });
            }
        } else {
            let stops = (stopped_workflows.into_iter())
                .filter(|(workflow, _)| is_live(workflow))
                .map(|(workflow, by)| Message::StopWorkflow { part, fence, workflow, by });
            messages.extend(stops);
        }
        if messages.is_empty() {
            return;
        }
        known.commanded_at = Some(now);
        messages.into_iter().for_each(|message| self.send(leader, message));
    }

    fn judge(&mut self, now: Time, job: JobId) {
        let elapsed = self.elapsed(now, job);
        let Some(state) = self.state.jobs.get(&job).filter(|job| job.started.is_some()) else {
            return;
        };
        let names: Vec<String> =
            state.parts.iter().map(|(target, _)| target.datacenter.to_string()).collect();
        let is_stopping = state.is_stopping();
        let every = self.config.judge;
        let Some(live) = self.live.get_mut(&job) else { return };
        if now < live.next_judge || live.plan.thresholds.is_empty() {
            return;
        }
        live.next_judge = now + every;
        let broken = live.judge(&names, elapsed, false);
        if let Some(expression) = broken.filter(|_| !is_stopping) {
            let fence = live.fence;
            let entry = Entry::ThresholdBroken { job, fence, expression };
            self.propose(now, About::Job(Step::Break, job, 0), &entry);
        }
    }

    /// Stops what still runs once the job's time is over in one of its datacenters. Each leader
    /// watches over its own part, so one alone needs no gate; of several, one may have started
    /// late, or be stuck.
    fn watch_limit(&mut self, now: Time, job: JobId) {
        let Some(state) = self.state.jobs.get(&job).filter(|job| job.started.is_some()) else {
            return;
        };
        let Some(live) = self.live.get(&job) else { return };
        let is_open = |end: &&Option<PartEnd>| end.is_none();
        let ends = || state.parts.iter().map(|(_, end)| end);
        if state.is_stopping() || state.parts.len() < 2 || !ends().any(|end| is_open(&end)) {
            return;
        }
        let told = live.parts.iter().filter_map(|part| part.told_end.as_ref());
        let has_timed_out = told.into_iter().any(|(_, end, _)| end.status == EndStatus::TimedOut)
            || ends().flatten().any(|end| !end.is_missing && end.status == EndStatus::TimedOut);
        let limit = live.plan.run.deadline + self.config.limit_grace;
        if has_timed_out || self.elapsed(now, job) >= limit {
            let fence = live.fence;
            let entry = Entry::LimitReached { job, fence };
            self.propose(now, About::Job(Step::Limit, job, 0), &entry);
        }
    }

    /// Ends the job once every part has ended and all statistics are in, or their wait is over.
    fn complete(&mut self, now: Time, job: JobId) {
        let Some(state) = self.state.jobs.get(&job) else { return };
        if state.parts.iter().any(|(_, end)| end.is_none()) {
            return;
        }
        if self.live.get(&job).is_some_and(|live| live.ending.is_some()) {
            return self.propose_end(now, job);
        }
        let elapsed = self.elapsed(now, job);
        let Some(live) = self.live.get(&job) else { return };
        let mut is_incomplete = false;
        for (known, (_, end)) in live.parts.iter().zip(&state.parts) {
            let Some(end) = end else { return };
            if live.statistics.is_complete(&end.attempts) {
                continue;
            }
            // After a restart the end is known from the ledger, and the wait starts anew.
            let since = known.told_end.as_ref().map(|(since, ..)| *since);
            let waited = now - since.unwrap_or(live.owned_since);
            if waited < self.config.statistics_wait {
                return;
            }
            is_incomplete = true;
        }
        let ends = || state.parts.iter().filter_map(|(_, end)| end.as_ref());
        // Best effort: those that have reported decide, if they are enough.
        let reported = ends().filter(|end| !end.is_missing).count();
        let is_enough = (live.plan.run.best_effort)
            .is_some_and(|effort| reported >= usize::from(effort.min_datacenters.max(1)));
        let deciding = ends().filter(|end| !(is_enough && end.is_missing));
        let status = EndStatus::combine(deciding.map(|end| &end.status));
        let is_partial = is_incomplete || ends().any(|end| end.is_missing || !end.gaps.is_empty());
        let names: Vec<String> =
            state.parts.iter().map(|(target, _)| target.datacenter.to_string()).collect();
        let (started, at) = (state.started, self.wall(now));
        let late_requests = ends().map(|end| end.late_requests).sum();
        let gaps: Vec<Gap> = ends().flat_map(|end| end.gaps.clone()).collect();
        let rows: Vec<RowsUsed> = ends().flat_map(|end| end.rows.clone()).collect();
        let Some(live) = self.live.get_mut(&job) else { return };
        let length = live.load_time().unwrap_or(elapsed);
        live.judge(&names, length, true);
        let verdict = match live.thresholds.iter().all(|threshold| threshold.passed) {
            _ if live.thresholds.is_empty() || started.is_none() => Verdict::NotJudged,
            true => Verdict::Passed,
            false => Verdict::Broken,
        };
        live.note(elapsed, "ended", format!("the job ended: {}", status.as_str()));
        let input = SummaryInput {
            job,
            plan: &live.plan,
            status: &status,
            verdict,
            thresholds: &live.thresholds,
            gaps: &gaps,
            rows: &rows,
            late_requests,
            is_incomplete: is_partial,
            duration: length,
            figures: &live.statistics.merged(),
            busiest_core: live.statistics.busiest_core(),
            busy_time_share: live.statistics.busy_time_share(),
        };
        let workflow_starts_ms = (0..live.plan.workflows.len())
            .map(|index| {
                let reports = live.parts.iter().filter_map(|part| part.report.as_ref());
                let started = reports.filter_map(|report| report.workflows.get(index)?.started);
                started.min().map(millis)
            })
            .collect();
        let result = JobResult {
            workflow_starts_ms,
            summary: Summary::build(input),
            plan: live.plan.as_ref().clone(),
            started,
            series: SeriesPoint::all(live.statistics.series()),
            exchanges: live.statistics.exchanges().to_vec(),
            events: live.events.iter().cloned().collect(),
        };
        let (partial, fence) = (is_partial, live.fence);
        let (hash, bytes) = match as_blob(&result) {
            Ok(blob) => blob,
            Err(error) => return self.malformed("result", &error),
        };
        let entry = Entry::JobEnded { job, fence, result: hash, status, verdict, partial, at };
        live.ending = Some(Ending { entry, spread: Spread::new(BTreeSet::from([hash])) });
        self.blobs.insert(Arc::clone(&bytes));
        self.outputs.push(Output::StoreBlob { hash, bytes });
        self.propose_end(now, job);
    }

    /// Ends a job once a majority of gates holds its result.
    fn propose_end(&mut self, now: Time, job: JobId) {
        let ending = self.live.get_mut(&job).and_then(|live| live.ending.take());
        let Some(mut ending) = ending else { return };
        if self.is_spread(now, &mut ending.spread) {
            self.propose(now, About::Job(Step::End, job, 0), &ending.entry);
        }
        if let Some(live) = self.live.get_mut(&job) {
            live.ending = Some(ending);
        }
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
                Some(state) => {
                    let parts = state.parts.len();
                    if let Some(live) = self.live.get_mut(&job) {
                        live.parts.resize_with(parts, LivePart::moved);
                    }
                }
            }
        }
        self.drop_copies();
        self.settle_requests();
    }

    /// A part has another datacenter, as a new part.
    pub(crate) fn on_part_moved(
        &mut self,
        now: Time,
        job: JobId,
        part: PartIndex,
        to: &DatacenterId,
    ) {
        let from = (self.state.jobs.get(&job))
            .and_then(|job| job.parts.get(usize::from(part.0)))
            .map_or_else(String::new, |(target, _)| target.datacenter.to_string());
        if let Some(live) = self.live.get_mut(&job) {
            live.parts.push(LivePart::moved());
        }
        let text = format!("{from} did not accept its part in time, {to} is asked instead");
        self.note(now, job, "part_moved", text);
    }

    pub(crate) fn on_part_end_decided(
        &mut self,
        now: Time,
        job: JobId,
        part: PartIndex,
        end: &PartEnd,
    ) {
        if let Some(live) = self.live.get_mut(&job) {
            live.statistics.close(&end.attempts);
        }
        let name = (self.state.jobs.get(&job))
            .and_then(|job| job.parts.get(usize::from(part.0)))
            .map_or_else(String::new, |(target, _)| target.datacenter.to_string());
        let text = format!("{name} ended its part: {}", end.status.as_str());
        self.note(now, job, "part_ended", text);
    }

    pub(crate) fn on_job_end_decided(&mut self, now: Time, job: JobId) {
        let mut told = Vec::new();
        if let Some(live) = self.live.get_mut(&job) {
            live.next_push = now;
            for (known, index) in live.parts.iter().zip(0..) {
                if let Some((.., manager)) = &known.told_end {
                    told.push((*manager, PartId { job, part: PartIndex(index) }));
                }
            }
        }
        for (manager, part) in told {
            self.send(manager, Message::PartEndedAck { part });
        }
        self.forget_copies(job);
        self.keep_results();
    }

    /// Answers with what happened to a job after an event, as soon as something did. False if this
    /// gate has not taken the job up.
    pub(crate) fn watch(&mut self, now: Time, asker: Asker, job: JobId, after: u64) -> bool {
        let is_over = self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some());
        let Some(live) = self.live.get_mut(&job) else { return false };
        live.watchers.push((asker, after));
        if live.last_event > after || is_over {
            live.next_push = now;
            self.push(now, job);
        }
        true
    }

    /// Tells watchers how the job is.
    fn push(&mut self, now: Time, job: JobId) {
        let Some(live) = self.live.get_mut(&job) else { return };
        if now < live.next_push || live.watchers.is_empty() {
            return;
        }
        live.next_push = now + self.config.push;
        let watchers = std::mem::take(&mut live.watchers);
        if self.is_cut_off(now, job) {
            return watchers.into_iter().for_each(|(asker, _)| self.answer_cut_off(asker));
        }
        let view = self.live_view(now, job);
        let is_over = self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some());
        let Some(live) = self.live.get(&job) else { return };
        let told: Vec<(Asker, News)> = (watchers.into_iter())
            .map(|(asker, after)| {
                let events = live.events.iter().filter(|event| event.id > after).cloned();
                let view = view.clone().map(Box::new);
                (asker, News { events: events.collect(), view, is_over })
            })
            .collect();
        told.into_iter().for_each(|(asker, news)| self.tell(asker, Ok(news)));
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
    fn live_view(&self, now: Time, job: JobId) -> Option<LiveView> {
        let state = self.state.jobs.get(&job)?;
        let live = self.live.get(&job)?;
        let elapsed = self.elapsed(now, job);
        let (statistics, plan) = (&live.statistics, &live.plan);
        let merged = statistics.merged();
        let mut latency = Histogram::new();
        merged.steps.iter().for_each(|(_, step)| latency.merge_dense(&step.latency));
        let second = Duration::from_secs(1);
        let newest = statistics.series().newest();
        let last = statistics.series().between(newest.saturating_sub(second), newest);
        let seconds = second.min(newest).as_secs_f64().max(1e-3);
        let from = newest.saturating_sub(self.config.window * 60);
        let recent = statistics.series().recent(from, newest).map(|(_, point)| {
            let mut latency = Histogram::new();
            point.figures.steps.iter().for_each(|(_, step)| latency.merge(&step.latency));
            let outcomes = point.figures.outcomes();
            (outcomes.total(), outcomes.failed(), Latency::of(&latency).p95)
        });
        let mut recent: Vec<(u64, u64, f64)> = recent.rev().take(RECENT_WINDOWS).collect();
        recent.reverse();
        let busiest = statistics
            .series()
            .recent(newest.saturating_sub(second), newest)
            .map(|(_, point)| point.busiest_core)
            .max()
            .unwrap_or(0);
        let reports = || live.parts.iter().map(|part| part.report.as_ref());
        let steering = state.steering();
        // Datacenters pause a few milliseconds apart: for showing, any of them will do.
        let pauses = reports().flatten().next().map(|report| report.pauses.clone());
        let pauses = pauses.unwrap_or_default();
        let workflows = plan.workflows.iter().enumerate().map(|(index, workflow)| {
            let state = reports().flatten().find_map(|report| report.workflows.get(index));
            (
                workflow.name.clone(),
                state.map_or("waiting", |s| state_in_a_word(&s.state)).to_owned(),
            )
        });
        let planned_rate = plan.workflows.iter().enumerate().filter_map(|(index, workflow)| {
            let started =
                reports().flatten().find_map(|report| report.workflows.get(index)?.started)?;
            let index = WorkflowIndex(u16::try_from(index).unwrap_or(u16::MAX));
            let share = steering.amounts.get(&index).map_or(1.0, |amount| amount.share());
            let share = if steering.is_paused { 0.0 } else { share };
            Some(workflow.load.arrivals()?.rate_at(pauses.load_time(started, elapsed)) * share)
        });
        // Where a workflow runs in several datacenters, the last decides.
        let expected_end = plan.expected_end(|index| {
            let all = || reports().flatten().filter_map(|report| report.workflows.get(index));
            let is_over = all().all(|workflow| workflow.ended.is_some());
            let ended = all().filter_map(|workflow| workflow.ended).max();
            let started = all().filter_map(|workflow| workflow.started).max();
            let started = started.map(|started| started + pauses.between(started, elapsed));
            (started, ended.filter(|_| is_over))
        });
        let outcomes = merged.outcomes();
        Some(LiveView {
            job,
            name: state.name.clone(),
            state: self.job_state(job, state),
            elapsed_ms: millis(elapsed),
            planned_ms: expected_end.map(millis),
            planned_iterations: (plan.workflows.iter())
                .map(|workflow| workflow.load.iterations())
                .try_fold(0u64, |sum, iterations| sum.checked_add(iterations?)),
            workflows: workflows.collect(),
            vus: statistics.vus(elapsed),
            vus_max: plan.workflows.iter().map(|workflow| workflow.load.vus_max()).sum(),
            planned_rate: planned_rate.sum(),
            request_rate: last.requests() as f64 / seconds,
            iteration_rate: last.iterations as f64 / seconds,
            requests: outcomes.total(),
            failed: outcomes.failed(),
            iterations: merged.iterations,
            dropped: merged.dropped,
            latency_us: Latency::of(&latency),
            recent,
            steps: statistics.live_steps(plan, &merged),
            thresholds: live.thresholds.clone(),
            gaps: live
                .gaps(state)
                .iter()
                .map(|gap| hyperscale_report::gap_view(plan, gap))
                .collect(),
            rows: hyperscale_report::rows_views(plan, &live.rows(state)),
            datacenters: (state.parts.iter().zip(reports()))
                .map(|((target, _), report)| {
                    let (workers, cores) = report.map_or((0, 0), |r| (r.workers, r.cores));
                    (target.datacenter.to_string(), workers, cores)
                })
                .collect(),
            lag_p99_us: Latency::of(&merged.lag).p99,
            busy_share: f64::from(busiest) / 1e3,
            examples: statistics.live_examples(plan),
            paused: steering.is_paused,
            scales: (plan.workflows.iter().zip(0..))
                .map(|(workflow, index)| {
                    let amount = steering.amounts.get(&WorkflowIndex(index)).copied();
                    ScaleView::of(workflow, amount)
                })
                .collect(),
        })
    }
}

impl Live {
    /// Judges all thresholds; returns one that must stop the job.
    fn judge(&mut self, names: &[String], elapsed: Duration, is_final: bool) -> Option<String> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut stops = None;
        let mut views = Vec::with_capacity(self.plan.thresholds.len());
        let mut news = Vec::new();
        for (threshold, broken_since) in self.plan.thresholds.iter().zip(&mut self.broken_since) {
            let judged = self.statistics.judge(threshold, &self.plan, &names, elapsed, is_final);
            let counts = is_final || (elapsed >= threshold.after && !judged.is_tentative);
            let is_broken = !judged.holds && counts;
            if is_broken && broken_since.is_none() {
                *broken_since = Some(elapsed);
                news.push(format!("threshold `{}` is broken", threshold.expression));
            } else if !is_broken {
                *broken_since = None;
            }
            // At the end the time is that of the load, which may lie before the last judgement.
            let lasts = broken_since.map_or(Duration::ZERO, |since| elapsed.saturating_sub(since));
            if is_broken && threshold.abort && lasts >= threshold.for_at_least {
                stops.get_or_insert_with(|| threshold.expression.clone());
            }
            let mut view = threshold_view(threshold, &judged, *broken_since);
            view.passed |= !counts;
            views.push(view);
        }
        self.thresholds = views;
        for text in news {
            self.note(elapsed, "threshold", text);
        }
        stops
    }

    /// From the job's start to the end of its last workflow, as the datacenters report it.
    fn load_time(&self) -> Option<Duration> {
        (self.parts.iter().filter_map(|part| part.report.as_ref()))
            .flat_map(|report| &report.workflows)
            .filter_map(|workflow| workflow.ended)
            .max()
    }
}

const fn state_in_a_word(state: &WorkflowState) -> &'static str {
    match state {
        WorkflowState::Waiting => "waiting",
        WorkflowState::Ready => "waits for cores",
        WorkflowState::Placed => "prepares",
        WorkflowState::Running => "running",
        WorkflowState::Ended(status) => status.as_str(),
    }
}

/// What a report says that the one before did not.
fn changes(
    plan: &Plan,
    before: Option<&PartReport>,
    report: &PartReport,
) -> Vec<(&'static str, String)> {
    let mut news = Vec::new();
    for (index, workflow) in report.workflows.iter().enumerate() {
        let known = before.and_then(|before| before.workflows.get(index)).map(|w| &w.state);
        if known == Some(&workflow.state) {
            continue;
        }
        let name = plan.workflows.get(index).map_or("", |workflow| workflow.name.as_str());
        match &workflow.state {
            WorkflowState::Waiting | WorkflowState::Placed => {}
            WorkflowState::Ready => {
                news.push(("workflow_queued", format!("{name} waits for cores")))
            }
            WorkflowState::Running => news.push(("workflow_started", format!("{name} started"))),
            WorkflowState::Ended(status) => {
                let cause = match status {
                    EndStatus::Failed { cause } => format!(": {cause}"),
                    EndStatus::Skipped { because } => format!(" because of {because}"),
                    EndStatus::Completed | EndStatus::Cancelled { .. } | EndStatus::TimedOut => {
                        String::new()
                    }
                };
                news.push((WORKFLOW_ENDED, format!("{name} {}{cause}", status.as_str())));
            }
        }
    }
    let known_gaps = before.map_or(0, |before| before.gaps.len());
    for gap in report.gaps.iter().skip(known_gaps) {
        let from = gap.from.as_secs_f64();
        news.push(("gap", format!("{} was lost, load is missing from +{from:.1} s", gap.worker)));
    }
    news
}

#[cfg(test)]
mod tests {
    use hyperscale_plan::expr::{Expr, Var};
    use hyperscale_plan::{DataSource, OnEnd, Pick};

    use super::*;

    #[test]
    fn dat_01_whatever_a_missing_part_owned_it_may_have_sent() {
        let mut plan = crate::tests::plan(vec![crate::tests::workflow("a")]);
        plan.data = vec![DataSource {
            name: "users".to_owned(),
            blob: hyperscale_model::BlobHash([0; 32]),
            rows: 1_000,
            columns: None,
            pick: Pick::Unique,
            on_end: OnEnd::Stop,
        }];
        let source = DataIndex(0);
        plan.workflows[0].steps = vec![hyperscale_plan::Step {
            when: Some(Expr::Var(Var::Row(source))),
            action: hyperscale_plan::Action::Pause(hyperscale_plan::Pause::Constant(
                Duration::ZERO,
            )),
        }];
        let half = &Slice::whole().split_evenly(2)[1];

        let silent = rows_of_missing(&plan, half, &[]);
        let reported =
            rows_of_missing(&plan, half, &[RowsUsed { source, sent: 100, possibly_sent: 3 }]);

        assert_eq!(silent, [RowsUsed { source, sent: 0, possibly_sent: 500 }]);
        assert_eq!(reported, [RowsUsed { source, sent: 100, possibly_sent: 400 }]);
    }
}
