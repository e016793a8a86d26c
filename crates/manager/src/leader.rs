//! What only a leader does. Everything it remembers for that is in [`Leading`].
//!
//! A review compares what is decided with what is seen, and proposes or sends what is missing. It
//! runs after each input and is free of memory of its own: whatever it did not finish, or was lost
//! on the way, is missing again at the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{
    AttemptId, BlobHash, DeltaSeq, EndStatus, FailureCause, Fence, NodeId, PartId, Pressure,
    ProgressSeq, ProposalId, ShardIndex, SplitMix, Time, WorkflowIndex,
};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Context, Plan, Priority, RowLease, UniqueRows};
use hyperscale_resilience::{Alarm, BreakerConfig, Breakers, ManagersTrouble};
use hyperscale_stats::{Arrival, Delta, Watermark};
use hyperscale_wire::{
    Assignment, AttemptEnd, AttemptPhase, AttemptReport, AttemptSummary, GapCause, Message,
    PartReport, PartResult, RefuseAttempt, StopMode, StopReason, WorkerReport, WorkflowReport,
    WorkflowState, end_publishing,
};

use crate::gap::gaps;
use crate::placement::{Candidate, Wish, choose, has_work, place};
use crate::relay::Relay;
use crate::rows::{first_rows, rows_used};
use crate::state::{
    Applied, Attempt, CloseReason, Closed, Entry, Part, Placement, Shard, State, Workflow, shard_id,
};
use crate::{Event, Input, Leadership, Manager, Output};

/// How long the managers must be in trouble before it is told.
const ALARM_AFTER: Duration = Duration::from_secs(5);

/// How often a new leader calls workers that it does not hear of. Whoever misses that many notices by
/// itself that its lease is not renewed.
const CALLS_MAX: u32 = 4;
/// After how many tellings of a part's end that nobody acknowledged someone is told.
const TELLINGS_MAX: u32 = 10;

/// What a leader knows for as long as it leads.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) fence: Fence,
    since: Time,
    /// Leases may be granted and attempts started before this.
    pub(crate) confirmed_until: Time,
    /// The ledger has refused a proposal: it would refuse every other before something happens.
    pub(crate) is_refused: bool,
    pub(crate) live: BTreeMap<AttemptId, Live>,
    /// The job's time of parts at an instant, from this leader's own start of them or from workers.
    pub(crate) job_times: BTreeMap<PartId, (Time, Duration)>,
    /// Proposals on their way, by what they are about, with the cores that they give away.
    proposed: BTreeMap<ProposalId, (About, Vec<(NodeId, u32)>)>,
    report_seq: ProgressSeq,
    next_report: Time,
    /// The time of the last review. What was due then has been done, or waits for something else
    /// than time: a link, an acknowledgement, a decision.
    reviewed: Time,
    /// When each ended part is told again, and how often it was.
    told: BTreeMap<PartId, (Time, u32)>,
    /// Requests that came too late, and the deltas that brought them.
    late: BTreeMap<AttemptId, (Watermark, u64)>,
    /// Which other managers have stored a blob.
    pub(crate) kept: BTreeMap<BlobHash, BTreeSet<NodeId>>,
    /// When workers that have not been heard of are called next, and how often they were.
    next_call: Time,
    calls: u32,
    /// Of workers, by whether they take what they are offered.
    pub(crate) breakers: Breakers<NodeId>,
    /// What is wrong with the managers, so that it is told once.
    pub(crate) alarm: Alarm<ManagersTrouble>,
}

/// What is known of an attempt beyond the ledger.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) is_accepted: bool,
    pub(crate) refusal: Option<RefuseAttempt>,
    ended: Option<AttemptSummary>,
    is_running: bool,
    offered_at: Option<Time>,
    start_sent_at: Option<Time>,
    absent_since: Option<Time>,
    /// The newest version of its steering that its worker has heard of, and the job's time when that
    /// was known.
    pub(crate) steered: (u64, Duration),
    pub(crate) relay: Relay,
}

impl Live {
    const fn new(relay: Relay) -> Self {
        Self {
            is_accepted: false,
            refusal: None,
            ended: None,
            is_running: false,
            offered_at: None,
            start_sent_at: None,
            absent_since: None,
            steered: (0, Duration::ZERO),
            relay,
        }
    }
}

/// What an entry is about: two proposals about the same thing would race each other.
#[derive(Debug, PartialEq, Eq)]
struct About(u8, Option<PartId>, Option<WorkflowIndex>, Option<AttemptId>);

impl About {
    const fn closing(attempt: AttemptId) -> Self {
        Self(7, None, None, Some(attempt))
    }

    const fn new(entry: &Entry) -> Self {
        match entry {
            Entry::LeaderStarted { .. } => Self(0, None, None, None),
            Entry::PartAccepted { part, .. } => Self(1, Some(*part), None, None),
            Entry::PartStarted { part, .. } => Self(2, Some(*part), None, None),
            Entry::WorkflowPlaced { part, workflow, .. } => {
                Self(3, Some(*part), Some(*workflow), None)
            }
            Entry::WorkflowStarted { part, workflow, .. } => {
                Self(4, Some(*part), Some(*workflow), None)
            }
            Entry::AttemptOpened { attempt, .. } => Self(5, None, None, Some(*attempt)),
            Entry::AttemptStarted { attempt, .. } => Self(6, None, None, Some(*attempt)),
            Entry::AttemptClosed { attempt, .. } => Self::closing(*attempt),
            Entry::StopAsked { part, mode: StopMode::Graceful, .. } => {
                Self(8, Some(*part), None, None)
            }
            Entry::StopAsked { part, mode: StopMode::Now, .. } => Self(9, Some(*part), None, None),
            Entry::WorkflowStopAsked { part, workflow, .. } => {
                Self(10, Some(*part), Some(*workflow), None)
            }
            Entry::WorkflowEnded { part, workflow, .. } => {
                Self(11, Some(*part), Some(*workflow), None)
            }
            Entry::PartEnded { part, .. } => Self(12, Some(*part), None, None),
            Entry::PartForgotten { part } => Self(13, Some(*part), None, None),
            Entry::PartSteered { part, .. } => Self(14, Some(*part), None, None),
            Entry::PartResumed { part, .. } => Self(15, Some(*part), None, None),
            Entry::RowsLeased { attempt, .. } => Self(16, None, None, Some(*attempt)),
            Entry::WorkflowSettled { part, workflow, .. } => {
                Self(17, Some(*part), Some(*workflow), None)
            }
        }
    }
}

impl Leading {
    pub(crate) fn new(fence: Fence, since: Time, confirmed_until: Time, state: &State) -> Self {
        Self {
            fence,
            since,
            confirmed_until,
            is_refused: false,
            live: (state.open_attempts())
                .map(|(attempt, _)| (attempt, Live::new(Relay::inherited())))
                .collect(),
            job_times: BTreeMap::new(),
            proposed: BTreeMap::new(),
            report_seq: ProgressSeq::NONE,
            next_report: since,
            reviewed: since,
            told: BTreeMap::new(),
            late: BTreeMap::new(),
            kept: BTreeMap::new(),
            next_call: since,
            calls: 0,
            breakers: Breakers::new(BreakerConfig::DEFAULT),
            alarm: Alarm::new(ALARM_AFTER),
        }
    }

    /// Notes a proposal; false if one about the same thing is on its way.
    pub(crate) fn register(&mut self, proposal: ProposalId, entry: &Entry) -> bool {
        let about = About::new(entry);
        let is_new = !self.proposed.values().any(|(known, _)| *known == about);
        if is_new {
            self.proposed.insert(proposal, (about, given_by(entry)));
        }
        is_new
    }

    /// Whether an entry that closes the attempt, and says what of it counts, is on its way.
    fn is_closing(&self, attempt: AttemptId) -> bool {
        self.proposed.values().any(|(about, _)| *about == About::closing(attempt))
    }

    /// Cores of a worker that proposals on their way give away.
    fn reserved(&self, worker: NodeId) -> u32 {
        let given = self.proposed.values().flat_map(|(_, given)| given);
        given.filter(|(to, _)| *to == worker).map(|(_, cores)| cores).sum()
    }

    pub(crate) fn settle(&mut self, proposal: ProposalId) {
        self.proposed.remove(&proposal);
    }

    /// Whether the gate has counted an attempt's deltas up to this one for good.
    fn is_passed_on(&mut self, attempt: AttemptId, last: DeltaSeq) -> bool {
        if last == DeltaSeq::NONE {
            return true;
        }
        let live = self.live.entry(attempt).or_insert_with(|| Live::new(Relay::inherited()));
        live.relay.is_based && live.relay.acknowledged >= last
    }

    pub(crate) fn on_gate_connected(&mut self) {
        self.live.values_mut().for_each(|live| live.relay.resend_all());
        self.told.clear();
        self.next_report = Time::ZERO;
    }
}

/// A workflow of a part with what the plan says of it.
#[derive(Clone, Copy)]
struct Subject<'a> {
    part_id: PartId,
    part: &'a Part,
    index: WorkflowIndex,
    workflow: &'a Workflow,
    planned: &'a hyperscale_plan::Workflow,
    elapsed: Duration,
}

impl Subject<'_> {
    /// Whether a stop of the part or of the workflow ends it. Workflows that run whatever happened
    /// before them (`after: { any: … }`) are ended only by a stop that cuts.
    fn stop(&self) -> Option<(EndStatus, StopMode)> {
        if let Some(by) = &self.workflow.stopped_by {
            return Some((EndStatus::Cancelled { by: by.clone() }, StopMode::Graceful));
        }
        let (reason, mode) = self.part.stop.as_ref()?;
        // Of a part that never started there is nothing to clean up, and no time to do it in.
        let has_started = self.part.started.is_some();
        let runs_anyway =
            has_started && self.planned.after.any_end && !self.planned.after.is_nothing();
        (*mode == StopMode::Now || !runs_anyway).then(|| (reason.end_status(), *mode))
    }

    /// Whether the load's time is over.
    fn is_over(&self) -> bool {
        self.workflow.started.is_some_and(|started| {
            self.part.pauses.load_time(started, self.elapsed) >= self.planned.load.duration()
        })
    }

    /// Whether the shard has nothing left to do.
    fn is_shard_done(&self, shard: &Shard, has_failed: bool) -> bool {
        if shard.open().is_some() {
            return false;
        }
        let Some(closed) = shard.attempts.last().and_then(|attempt| attempt.closed.as_ref()) else {
            return false;
        };
        match &closed.why {
            CloseReason::Ended(
                AttemptEnd::Finished | AttemptEnd::Stopped | AttemptEnd::Aborted { .. },
            ) => true,
            CloseReason::Ended(AttemptEnd::CoreLost { .. } | AttemptEnd::Drained)
            | CloseReason::Refused(_)
            | CloseReason::Lost(_) => {
                let is_counted_out = (self.planned.load.iterations())
                    .is_some_and(|total| shard.iterations_done() >= shard.slice.count(total));
                self.stop().is_some() || has_failed || self.is_over() || is_counted_out
            }
        }
    }

    /// What the test said when it asked the job to stop, as a closed attempt tells.
    fn aborted(&self) -> Option<String> {
        let closes = self.workflow.shards.iter().flat_map(|shard| &shard.attempts);
        closes.filter_map(|attempt| attempt.closed.as_ref()).find_map(|closed| match &closed.why {
            CloseReason::Ended(AttemptEnd::Aborted { message }) => Some(message.clone()),
            CloseReason::Ended(_) | CloseReason::Refused(_) | CloseReason::Lost(_) => None,
        })
    }

    /// Why the workflow cannot go on, if it cannot.
    fn failure(&self, manager: &Manager) -> Option<FailureCause> {
        let (shard_retries, part_retries) = manager.config.retries;
        let mut reasons: Vec<String> = Vec::new();
        let mut is_exhausted = false;
        for shard in &self.workflow.shards {
            if shard.losses() >= manager.config.poison_after {
                let workers = u32::try_from(shard.losses()).unwrap_or(u32::MAX);
                return Some(FailureCause::Poison { workers });
            }
            let before = reasons.len();
            reasons.extend(shard.refusals().map(refusal_in_words));
            is_exhausted |= reasons.len() - before > shard_retries;
        }
        let spent: usize =
            self.part.workflows.iter().flat_map(|w| &w.shards).map(|s| s.refusals().count()).sum();
        (is_exhausted || spent > part_retries && !reasons.is_empty())
            .then_some(FailureCause::Placement { reasons })
    }
}

fn refusal_in_words(why: &RefuseAttempt) -> String {
    match why {
        RefuseAttempt::NoCores { free } => format!("a worker had only {free} free cores"),
        RefuseAttempt::Draining => "a worker was about to leave".to_owned(),
        RefuseAttempt::BadPlan { message } => message.clone(),
    }
}

impl Manager {
    /// What the worker's word on an attempt may change: it runs there and is open.
    pub(crate) fn live_of(&mut self, worker: NodeId, attempt: AttemptId) -> Option<&mut Live> {
        let known = self.state.attempt(attempt)?;
        if known.worker != worker || known.closed.is_some() {
            return None;
        }
        let Leadership::Leading(leading) = &mut self.leadership else { return None };
        leading.live.get_mut(&attempt)
    }

    pub(crate) fn on_renewal(
        &mut self,
        now: Time,
        worker: NodeId,
        sent_at: Time,
        report: WorkerReport,
    ) {
        let leader = self.other_leader();
        let Some(view) = self.workers.get_mut(&worker) else { return };
        (view.last_heard, view.is_gone) = (now, false);
        let is_new = view.report.is_none();
        let is_newer = view.report.as_ref().is_none_or(|known| known.version < report.version);
        if is_newer {
            view.report = Some(report.clone());
        }
        let Leadership::Leading(leading) = &mut self.leadership else {
            self.send(worker, Message::NotLeader { leader });
            return;
        };
        if is_newer {
            leading.note_report(now, worker, &report, &self.state);
            self.note_steered(now, &report);
        }
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let Some(view) = self.workers.get_mut(&worker) else { return };
        if is_new {
            leading.next_report = now; // A gate may be waiting for its cores.
        }
        if now >= leading.confirmed_until {
            // Another may lead: no load in our name.
            self.send(worker, Message::NotLeader { leader: None });
            return;
        }
        let fence = leading.fence;
        view.last_granted = Some(now);
        let mut stop = Vec::new();
        let mut forget = Vec::new();
        let mut acknowledge = Vec::new();
        let mut steer = Vec::new();
        let mut closed_ones = Vec::new();
        let mut open = Vec::new();
        // An old report that came late says nothing of what the worker should do now.
        let current = report.attempts.iter().filter(|_| is_newer);
        for reported in current {
            let attempt = reported.attempt;
            let Some(known) = self.state.attempt(attempt).filter(|known| known.worker == worker)
            else {
                forget.push(attempt);
                continue;
            };
            match &known.closed {
                None => {
                    open.push(*reported);
                    if let Some(mode) = self.stop_of(attempt) {
                        stop.push((attempt, mode));
                    }
                    steer.extend(self.steering_beyond(attempt, reported.steered));
                }
                Some(Closed { why: CloseReason::Ended(_), .. })
                    if reported.phase == AttemptPhase::Ended =>
                {
                    acknowledge.push(attempt);
                }
                Some(closed) => closed_ones.push((attempt, closed.last_delta, reported.phase)),
            }
        }
        for reported in &open {
            self.on_rows_reported(reported);
        }
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        for (attempt, last, phase) in closed_ones {
            // The worker keeps what counts until the gate has counted it: this leader may be lost
            // before it has passed it on.
            if leading.is_passed_on(attempt, last) {
                forget.push(attempt);
            } else if phase != AttemptPhase::Ended {
                stop.push((attempt, StopMode::Now));
            }
        }
        for attempt in acknowledge {
            self.send(worker, Message::AttemptEndedAck { attempt });
        }
        let lease = self.config.execution_lease;
        self.send(worker, Message::LeaseGranted { sent_at, fence, lease, stop, forget, steer });
    }

    /// How an open attempt shall stop, if it shall.
    fn stop_of(&self, attempt: AttemptId) -> Option<StopMode> {
        let id = attempt.shard;
        let part = self.state.parts.get(&id.part_id())?;
        let workflow = part.workflows.get(usize::from(id.workflow.0))?;
        let plan = self.plans.get(&part.plan)?;
        let planned = plan.workflow(id.workflow)?;
        let (part_id, index, elapsed) = (id.part_id(), id.workflow, Duration::ZERO);
        let subject = Subject { part_id, part, index, workflow, planned, elapsed };
        subject.stop().map(|(_, mode)| mode)
    }

    pub(crate) fn on_attempt_ended(
        &mut self,
        worker: NodeId,
        attempt: AttemptId,
        end: AttemptSummary,
    ) {
        if let Some(live) = self.live_of(worker, attempt) {
            live.ended = Some(end);
            return;
        }
        if self.leading().is_none() {
            return;
        }
        let closed = self.state.attempt(attempt).and_then(|known| known.closed.as_ref());
        // Closed without its end, or long forgotten: then the next lease says so.
        if matches!(closed, Some(Closed { why: CloseReason::Ended(_), .. })) {
            self.send(worker, Message::AttemptEndedAck { attempt });
        }
    }

    pub(crate) fn on_delta(&mut self, now: Time, delta: Delta) {
        let attempt = delta.attempt;
        let Some(part) = self.state.parts.get(&attempt.shard.part_id()) else { return };
        let (gate, window) = (part.gate, part.window);
        let Some(known) = self.state.attempt(attempt) else { return };
        let last = known.closed.as_ref().map(|closed| closed.last_delta);
        let worker = known.worker;
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        if last.is_some_and(|last| delta.seq > last) {
            let requests = delta.figures.figures.requests();
            let (seen, late) = leading.late.entry(attempt).or_default();
            if seen.arrive(delta.seq) == Arrival::New {
                *late += requests;
                self.event(Event::LateDelta { attempt, requests });
            }
            return;
        }
        if last.is_none() && leading.is_closing(attempt) {
            return; // The entry does not count it. If it is not decided, the worker says it again.
        }
        let live = leading.live.entry(attempt).or_insert_with(|| Live::new(Relay::inherited()));
        if live.relay.is_based && delta.seq <= live.relay.acknowledged {
            // Counted for good: the worker has missed its acknowledgement.
            let (through, until) = (live.relay.acknowledged, live.relay.until);
            let (iterations, pressure) = (live.relay.iterations, Pressure::None);
            let ack = Message::DeltaAck { attempt, through, iterations, until, pressure };
            self.send(worker, ack);
            return;
        }
        live.relay.on_delta(delta, window);
        self.relay(now, attempt, gate);
    }

    fn relay(&mut self, now: Time, attempt: AttemptId, gate: NodeId) {
        let Some(gate) = self.gate_for(gate) else { return };
        let resend = self.config.resend * 2;
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        if now >= leading.confirmed_until {
            return; // Another may have said already what of it counts.
        }
        let Some(live) = leading.live.get_mut(&attempt) else { return };
        for delta in live.relay.due(now, resend) {
            let message = Message::Delta(Box::new(delta));
            self.outputs.push(Output::Send { to: gate, message });
        }
    }

    /// The gate to talk to about a job: its owner, or any other that may know the owner.
    fn gate_for(&self, owner: NodeId) -> Option<NodeId> {
        if self.gates.contains(&owner) { Some(owner) } else { self.gates.first().copied() }
    }

    /// Returns the worker that should hear of the acknowledgement.
    pub(crate) fn on_delta_ack(
        &mut self,
        attempt: AttemptId,
        through: DeltaSeq,
        iterations: u64,
        until: Duration,
    ) -> Option<NodeId> {
        let window = self.state.parts.get(&attempt.shard.part_id())?.window;
        let worker = self.state.attempt(attempt)?.worker;
        let Leadership::Leading(leading) = &mut self.leadership else { return None };
        let live = leading.live.entry(attempt).or_insert_with(|| Live::new(Relay::inherited()));
        live.relay.on_ack(through, iterations, until, window);
        self.workers.get(&worker).filter(|view| view.is_connected).map(|_| worker)
    }

    /// A workflow has ended in all datacenters, as the job's owner says.
    pub(crate) fn settle_workflow(
        &mut self,
        now: Time,
        part: PartId,
        workflow: WorkflowIndex,
        status: EndStatus,
        published: BTreeMap<String, Value>,
    ) {
        let at = self.elapsed(now, part).unwrap_or_default();
        let Some(state) = self.state.parts.get(&part) else { return };
        let known = state.workflows.get(usize::from(workflow.0));
        if known.is_some_and(|known| known.ended.is_some() && known.settled.is_none()) {
            // All leaders find the same, from the same.
            let (status, published) = end_publishing(status, &state.context, published);
            self.propose(Entry::WorkflowSettled { part, workflow, status, at, published });
        }
    }

    /// What a decided entry means for what only the leader knows.
    pub(crate) fn after_applied(&mut self, now: Time, entry: &Entry, applied: Applied) {
        match entry {
            Entry::PartAccepted { part, fence, gate, .. } => {
                let is_theirs = self.state.parts.get(part).is_some_and(|p| p.fence == *fence);
                if is_theirs {
                    self.event(Event::PartAccepted { part: *part });
                    self.send(*gate, Message::PartAccepted { part: *part, fence: *fence });
                }
            }
            Entry::WorkflowPlaced { part, workflow, shards, .. } if applied == Applied::Changed => {
                self.event(Event::WorkflowPlaced {
                    part: *part,
                    workflow: *workflow,
                    shards: shards.len(),
                });
                self.track_opened(*part, *workflow);
            }
            Entry::AttemptOpened { attempt, placement } if applied == Applied::Changed => {
                let (attempt, worker) = (*attempt, placement.worker);
                self.event(Event::AttemptOpened { attempt, worker });
                self.track_opened(attempt.shard.part_id(), attempt.shard.workflow);
            }
            Entry::AttemptClosed { attempt, closed } if applied == Applied::Changed => {
                let Some(known) = self.state.attempt(*attempt) else { return };
                let (worker, at) = (known.worker, known.started);
                match &closed.why {
                    CloseReason::Ended(_) => {
                        self.send(worker, Message::AttemptEndedAck { attempt: *attempt });
                    }
                    CloseReason::Lost(cause) => {
                        let (attempt, cause) = (*attempt, *cause);
                        let zero = self.state.parts.get(&attempt.shard.part_id());
                        let zero = zero.and_then(|part| part.started);
                        let started = zero.zip(at).map(|(zero, at)| zero + at);
                        let until = at.map(|at| at.max(closed.until));
                        let counted_until = zero.zip(until).map(|(zero, until)| zero + until);
                        self.event(Event::AttemptLost {
                            attempt,
                            worker,
                            cause,
                            started,
                            counted_until,
                        });
                    }
                    CloseReason::Refused(why) => {
                        let (attempt, why) = (*attempt, why.clone());
                        self.event(Event::AttemptRefused { attempt, worker, why });
                    }
                }
                self.report_soon(now);
            }
            Entry::RowsLeased { attempt, until } if applied == Applied::Changed => {
                if let Some(known) = self.state.attempt(*attempt) {
                    self.tell_rows(*attempt, known.worker, *until);
                }
            }
            Entry::WorkflowEnded { part, workflow, status, .. } if applied == Applied::Changed => {
                self.event(Event::WorkflowEnded {
                    part: *part,
                    workflow: *workflow,
                    status: status.clone(),
                });
                self.report_soon(now);
            }
            Entry::WorkflowSettled { .. } if applied == Applied::Changed => self.report_soon(now),
            Entry::PartEnded { part, status } if applied == Applied::Changed => {
                let started = self.state.parts.get(part).and_then(|part| part.started);
                self.event(Event::PartEnded { part: *part, status: status.clone(), started });
            }
            Entry::PartSteered { part, .. } | Entry::PartResumed { part, .. }
                if applied == Applied::Changed =>
            {
                self.steer_attempts(*part);
                self.report_soon(now);
            }
            Entry::PartStarted { .. } | Entry::WorkflowStarted { .. } => self.report_soon(now),
            Entry::LeaderStarted { .. }
            | Entry::WorkflowPlaced { .. }
            | Entry::AttemptOpened { .. }
            | Entry::AttemptStarted { .. }
            | Entry::RowsLeased { .. }
            | Entry::AttemptClosed { .. }
            | Entry::StopAsked { .. }
            | Entry::WorkflowStopAsked { .. }
            | Entry::PartSteered { .. }
            | Entry::PartResumed { .. }
            | Entry::WorkflowEnded { .. }
            | Entry::WorkflowSettled { .. }
            | Entry::PartEnded { .. }
            | Entry::PartForgotten { .. } => {}
        }
    }

    fn track_opened(&mut self, part: PartId, workflow: WorkflowIndex) {
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let of_workflow =
            |id: &AttemptId| id.shard.part_id() == part && id.shard.workflow == workflow;
        for (attempt, _) in self.state.open_attempts().filter(|(id, _)| of_workflow(id)) {
            leading.live.entry(attempt).or_insert_with(|| Live::new(Relay::fresh()));
        }
    }

    pub(crate) fn report_soon(&mut self, now: Time) {
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.next_report = leading.next_report.min(now);
        }
    }

    /// Drops what only a part that is done with needed.
    pub(crate) fn forget(&mut self, now: Time, part: PartId) {
        self.secrets.remove(&part);
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.live.retain(|attempt, _| attempt.shard.part_id() != part);
            leading.late.retain(|attempt, _| attempt.shard.part_id() != part);
            leading.told.remove(&part);
            leading.job_times.remove(&part);
        }
        let mut needed: BTreeSet<_> = self.state.parts.values().map(|part| part.plan).collect();
        self.plans.retain(|hash, _| needed.contains(hash));
        let plans: Vec<BlobHash> = needed.iter().copied().collect();
        // A plan that is still on its way may need anything.
        let are_known = plans.into_iter().all(|plan| self.plan(plan).is_some());
        needed.extend(self.plans.values().flat_map(|plan| plan.blobs()));
        needed.extend(self.peers.kept(now));
        if self.offers.is_empty() && are_known {
            if let Leadership::Leading(leading) = &mut self.leadership {
                leading.kept.retain(|hash, _| needed.contains(hash));
            }
            self.blobs.retain(|hash| needed.contains(&hash));
            self.outputs.push(Output::DropBlobs { needed });
        }
    }

    /// Cores of a worker that are given away, or are about to be.
    pub(crate) fn given_away(&self, worker: NodeId) -> u32 {
        let used = self.state.cores_used(worker);
        match &self.leadership {
            Leadership::Leading(leading) => used + leading.reserved(worker),
            Leadership::Follower { .. } | Leadership::Barrier { .. } => used,
        }
    }

    /// Whether the workers of an entry still have the cores that it gives away: entries of one
    /// review are made from the same view, and earlier ones may be on their way.
    pub(crate) fn has_room(&self, entry: &Entry) -> bool {
        given_by(entry).into_iter().all(|(worker, cores)| {
            let report = self.workers.get(&worker).and_then(|view| view.report.as_ref());
            report.is_some_and(|report| self.given_away(worker) + cores <= report.cores)
        })
    }

    /// Workers that may be given cores, with how many.
    pub(crate) fn candidates(&self, now: Time) -> Vec<Candidate> {
        let rests = |worker: &NodeId| match &self.leadership {
            Leadership::Leading(leading) => leading.breakers.rests(now, worker),
            Leadership::Follower { .. } | Leadership::Barrier { .. } => false,
        };
        (self.workers.iter())
            .filter(|(worker, _)| !rests(worker))
            .filter(|(_, view)| view.is_connected && view.last_granted.is_some())
            .filter(|(_, view)| !view.is_gone)
            .filter(|(_, view)| now < view.last_heard + self.config.stale_after)
            .filter_map(|(&worker, view)| {
                let report = view.report.as_ref().filter(|report| !report.is_draining)?;
                let free = report.cores.saturating_sub(self.given_away(worker));
                Some(Candidate { worker, incarnation: view.incarnation, free })
            })
            .collect()
    }

    pub(crate) fn next_of_leader(&self) -> Option<Time> {
        let Leadership::Leading(leading) = &self.leadership else { return None };
        let resend = self.config.resend;
        let mut next = leading.next_report;
        let mut consider = |at: Option<Time>| {
            next = next.min(at.filter(|&at| at > leading.reviewed).unwrap_or(next));
        };
        for (&attempt, live) in &leading.live {
            consider(live.relay.next_resend(resend * 2));
            let Some(known) = self.state.attempt(attempt).filter(|a| a.closed.is_none()) else {
                continue;
            };
            let resends = [
                live.offered_at.filter(|_| !live.is_accepted),
                live.start_sent_at.filter(|_| !live.is_running),
            ];
            resends.into_iter().flatten().for_each(|sent| consider(Some(sent + resend)));
            consider(self.safe_at(leading, known));
        }
        leading.told.values().for_each(|(at, _)| consider(Some(*at)));
        if self.unheard(leading).next().is_some() {
            consider(Some(leading.next_call));
        }
        Some(next)
    }

    /// When an attempt has certainly stopped sending load unless its worker is heard of.
    fn safe_at(&self, leading: &Leading, attempt: &Attempt) -> Option<Time> {
        let lease = self.config.execution_lease + self.config.lease_margin;
        let view = self.workers.get(&attempt.worker);
        let granted = view.and_then(|view| view.last_granted).unwrap_or(leading.since);
        // An earlier leader may have granted it a lease until shortly after we took over, and it may
        // have heard nothing of ours.
        Some(granted.max(leading.since + self.config.leader_lease) + lease)
    }

    /// Workers that are linked and have not asked this leader for their lease.
    fn unheard<'a>(&'a self, leading: &Leading) -> impl Iterator<Item = NodeId> + use<'a> {
        let may_call = leading.calls < CALLS_MAX;
        let linked = self.workers.iter().filter(|(_, view)| view.is_connected);
        linked
            .filter(move |(_, view)| may_call && view.last_granted.is_none())
            .map(|(&worker, _)| worker)
    }

    /// Asks workers what runs: they may still follow an earlier leader.
    fn call_workers(&mut self, now: Time) {
        let Leadership::Leading(leading) = &self.leadership else { return };
        if now < leading.next_call {
            return;
        }
        let workers: Vec<NodeId> = self.unheard(leading).collect();
        if workers.is_empty() {
            return;
        }
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let fence = leading.fence;
        let seed = self.config.node.0 ^ fence.0.rotate_left(32) ^ u64::from(leading.calls);
        let jitter = SplitMix::new(seed).unit();
        let pause = Duration::from_millis(500) * (1 << leading.calls);
        leading.next_call = now + pause.mul_f64(0.75 + jitter / 2.0);
        leading.calls += 1;
        workers.into_iter().for_each(|worker| self.send(worker, Message::Lead { fence }));
    }

    /// Whether an input is one of the many that change nothing beyond what they are answered with: a
    /// worker that goes on as before, statistics of a load that runs, their acknowledgements. With a
    /// thousand workers these come by the thousand a second, and looking at everything after each of
    /// them would take more than a core. What time makes due is looked at when it is.
    pub(crate) fn is_routine(&self, now: Time, input: &Input) -> bool {
        let Leadership::Leading(leading) = &self.leadership else { return false };
        let Input::Message { from, message } = input else { return false };
        let runs = |attempt: &AttemptId| {
            let is_open = self.state.attempt(*attempt).is_some_and(|known| known.closed.is_none());
            let live = leading.live.get(attempt);
            is_open && live.is_some_and(|live| live.ended.is_none() && live.refusal.is_none())
        };
        if let Message::Delta(delta) = message {
            return runs(&delta.attempt);
        }
        if let Message::DeltaAck { attempt, .. } = message {
            return runs(attempt);
        }
        let Message::RenewLease { report, .. } = message else { return false };
        let Some(view) = self.workers.get(from) else { return false };
        let Some(known) = &view.report else { return false };
        let is_well = !view.is_gone
            && view.last_granted.is_some()
            && now < view.last_heard + self.config.stale_after;
        let goes_on = |(was, is): (&AttemptReport, &AttemptReport)| {
            (was.attempt, was.phase, was.cores, was.steered)
                == (is.attempt, is.phase, is.cores, is.steered)
                && runs(&is.attempt)
        };
        is_well
            && (known.cores, known.is_draining) == (report.cores, report.is_draining)
            && known.attempts.len() == report.attempts.len()
            && known.attempts.iter().zip(&report.attempts).all(goes_on)
    }

    /// Looks for what is missing, and proposes or sends it.
    pub(crate) fn lead(&mut self, now: Time) {
        if self.leading().is_none() {
            return;
        }
        self.call_workers(now);
        let parts: Vec<PartId> = self.state.parts.keys().copied().collect();
        for part in parts {
            self.close_attempts(now, part);
            self.review_part(now, part);
        }
        self.place_ready(now);
        self.send_upward(now);
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.reviewed = now;
        }
    }

    /// Proposes the end of each open attempt that has ended, was refused or is lost.
    fn close_attempts(&mut self, now: Time, part: PartId) {
        let Leadership::Leading(leading) = &self.leadership else { return };
        let mut closing = Vec::new();
        for (id, attempt) in self.state.open_attempts().filter(|(id, _)| id.shard.part_id() == part)
        {
            let Some(live) = leading.live.get(&id) else { continue };
            let lost = self.loss_of(now, leading, attempt, live);
            let why = match (&live.refusal, &live.ended, lost) {
                (Some(why), ..) => CloseReason::Refused(why.clone()),
                (None, Some(end), _)
                    if live.relay.is_based && live.relay.through >= end.last_delta =>
                {
                    CloseReason::Ended(end.end.clone())
                }
                (None, _, Some(cause)) if live.relay.is_based => CloseReason::Lost(cause),
                (None, ..) => continue,
            };
            let published = match (&why, &live.ended) {
                (CloseReason::Ended(_), Some(end)) => end.published.clone(),
                (CloseReason::Ended(_) | CloseReason::Refused(_) | CloseReason::Lost(_), _) => {
                    BTreeMap::new()
                }
            };
            let closed = Closed {
                why,
                last_delta: live.relay.through,
                until: live.relay.until,
                iterations: live.relay.iterations,
                load_sent: self.load_sent(now, id, live),
                draws_made: live.ended.as_ref().and_then(|end| end.draws_made),
                published,
            };
            closing.push(Entry::AttemptClosed { attempt: id, closed });
        }
        closing.into_iter().for_each(|entry| self.propose(entry));
    }

    fn loss_of(
        &self,
        now: Time,
        leading: &Leading,
        attempt: &Attempt,
        live: &Live,
    ) -> Option<GapCause> {
        let view = self.workers.get(&attempt.worker);
        if view.is_some_and(|view| view.incarnation > attempt.incarnation) {
            return Some(GapCause::WorkerRestarted);
        }
        let is_confirmed = now < leading.confirmed_until;
        if is_confirmed && self.safe_at(leading, attempt).is_some_and(|safe_at| now >= safe_at) {
            return Some(GapCause::WorkerLost);
        }
        let absent = live.absent_since.map(|since| since + self.config.absent_after);
        absent.filter(|&limit| now >= limit).map(|_| GapCause::WorkerLost)
    }

    /// Whether a worker that runs an attempt of the part has still to tell this leader what the job's
    /// time is.
    fn awaits_time(&self, part: PartId) -> bool {
        let Leadership::Leading(leading) = &self.leadership else { return false };
        let open = self.state.open_attempts().filter(|(id, _)| id.shard.part_id() == part);
        let is_unheard = |attempt: &Attempt| {
            let view = self.workers.get(&attempt.worker);
            attempt.started.is_some() && view.is_none_or(|view| view.last_granted.is_none())
        };
        !leading.job_times.contains_key(&part) && open.into_iter().any(|(_, a)| is_unheard(a))
    }

    /// Where nobody can tell the job's time, this leader's wall clock settles it: what is told later
    /// comes from those that it has told, and may be late.
    fn settle_time(&mut self, now: Time, part: PartId) {
        if self.job_time(now, part).is_some() || self.awaits_time(part) {
            return;
        }
        let Some(elapsed) = self.elapsed(now, part) else { return };
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.job_times.insert(part, (now, elapsed));
        }
    }

    fn review_part(&mut self, now: Time, part_id: PartId) {
        let Some(part) = self.state.parts.get(&part_id).filter(|part| part.ended.is_none()) else {
            return;
        };
        let (hash, stop) = (part.plan, part.stop.clone());
        let Some(plan) = self.plan(hash) else { return };
        self.settle_time(now, part_id);
        let elapsed = self.elapsed(now, part_id);
        let is_over = elapsed.is_some_and(|elapsed| elapsed >= plan.run.deadline);
        if stop.is_none() && is_over && !self.awaits_time(part_id) {
            let (reason, mode) = (StopReason::TimedOut, StopMode::Graceful);
            self.propose(Entry::StopAsked { part: part_id, reason, mode });
        }
        if stop.is_some() && self.state.parts.get(&part_id).is_some_and(|p| p.steering.is_paused) {
            let at = elapsed.unwrap_or_default();
            self.propose(Entry::PartResumed { part: part_id, at });
        }
        let Some(part) = self.state.parts.get(&part_id) else { return };
        let mut entries = Vec::new();
        let mut dispatches = Vec::new();
        if elapsed.is_some() || stop.is_some() {
            let elapsed = elapsed.unwrap_or_default();
            for ((workflow, planned), index) in part.workflows.iter().zip(&plan.workflows).zip(0..)
            {
                let index = WorkflowIndex(index);
                let subject = Subject { part_id, part, index, workflow, planned, elapsed };
                if workflow.ended.is_none() {
                    self.review_workflow(now, &subject, &plan, &mut entries, &mut dispatches);
                }
            }
        }
        if part.workflows.iter().all(|workflow| workflow.ended.is_some()) {
            let ends = part.workflows.iter().filter_map(|w| w.ended.as_ref()).map(|(end, _)| end);
            let status = EndStatus::combine(ends);
            entries.push(Entry::PartEnded { part: part_id, status });
        }
        entries.into_iter().for_each(|entry| self.propose(entry));
        dispatches.into_iter().for_each(|dispatch| self.dispatch(now, dispatch));
    }

    fn review_workflow(
        &self,
        now: Time,
        subject: &Subject<'_>,
        plan: &Plan,
        entries: &mut Vec<Entry>,
        dispatches: &mut Vec<Dispatch>,
    ) {
        let (part, workflow) = (subject.part_id, subject.index);
        let at = subject.elapsed;
        let end =
            |status, published| Entry::WorkflowEnded { part, workflow, status, at, published };
        if subject.workflow.shards.is_empty() {
            if let Some(status) = end_before_start(subject, plan) {
                entries.push(end(status, BTreeMap::new()));
            }
            return;
        }
        let failure = subject.failure(self);
        let stop = subject.stop();
        let shards = || subject.workflow.shards();
        let aborted = subject.aborted();
        if let Some(message) = &aborted
            && subject.part.stop.is_none()
        {
            // The whole part stops, and only then it is clear how its workflows end.
            let reason = StopReason::Test { message: message.clone() };
            entries.push(Entry::StopAsked { part, reason, mode: StopMode::Graceful });
            return;
        }
        if shards().all(|(_, shard)| subject.is_shard_done(shard, failure.is_some())) {
            let closes = || shards().filter_map(|(_, s)| s.attempts.last()?.closed.as_ref());
            let was_stopped = closes()
                .any(|closed| !matches!(closed.why, CloseReason::Ended(AttemptEnd::Finished)));
            let status = match (failure, stop, aborted) {
                (Some(cause), ..) => EndStatus::Failed { cause },
                (None, Some((status, _)), _) if was_stopped => status,
                (None, _, Some(message)) => {
                    EndStatus::Failed { cause: FailureCause::Test { message } }
                }
                (None, ..) => EndStatus::Completed,
            };
            let published = published(subject);
            let own = subject
                .part
                .workflows
                .iter()
                .zip(0..)
                .map(|(workflow, index)| (WorkflowIndex(index), workflow.published.clone()));
            let before = match subject.part.is_shared {
                true => Context { layers: own.collect() },
                false => subject.part.context.clone(),
            };
            let (status, published) = end_publishing(status, &before, published);
            entries.push(end(status, published));
            return;
        }
        let Leadership::Leading(leading) = &self.leadership else { return };
        let mut all_accepted = true;
        for (shard_index, shard) in shards() {
            let Some((number, attempt)) = shard.open() else {
                all_accepted = false;
                if !subject.is_shard_done(shard, failure.is_some()) {
                    entries.extend(self.reopen(now, subject, plan, (shard_index, shard)));
                }
                continue;
            };
            let id = AttemptId { shard: shard_id(part, workflow, shard_index), number };
            let Some(live) = leading.live.get(&id) else { continue };
            all_accepted &= live.is_accepted;
            let aborted = live.ended.as_ref().and_then(|ended| match &ended.end {
                AttemptEnd::Aborted { message } => Some(message),
                AttemptEnd::Finished
                | AttemptEnd::Stopped
                | AttemptEnd::CoreLost { .. }
                | AttemptEnd::Drained => None,
            });
            if let Some(message) = aborted.filter(|_| subject.part.stop.is_none()) {
                let reason = StopReason::Test { message: message.clone() };
                entries.push(Entry::StopAsked { part, reason, mode: StopMode::Graceful });
            }
            let is_due =
                |sent: Option<Time>| sent.is_none_or(|sent| now >= sent + self.config.resend);
            let stop = if failure.is_some() {
                Some(StopMode::Graceful)
            } else {
                stop.as_ref().map(|(_, mode)| *mode)
            };
            if let Some(mode) = stop {
                // Renewals repeat it; this only makes it fast.
                if live.ended.is_none() && is_due(live.start_sent_at) {
                    dispatches.push(Dispatch::Stop { attempt: id, worker: attempt.worker, mode });
                }
                continue;
            }
            if live.ended.is_some() {
                continue;
            }
            if !live.is_accepted {
                if live.refusal.is_none() && is_due(live.offered_at) {
                    dispatches.push(Dispatch::Offer { attempt: id, worker: attempt.worker });
                }
                continue;
            }
            match (attempt.started, subject.workflow.started) {
                (None, Some(_)) => {
                    let at = subject.elapsed + self.config.start_margin;
                    entries.push(Entry::AttemptStarted { attempt: id, at });
                }
                (Some(at), Some(_)) if !live.is_running && is_due(live.start_sent_at) => {
                    dispatches.push(Dispatch::Start { attempt: id, worker: attempt.worker, at });
                }
                (Some(_) | None, _) => {}
            }
        }
        if all_accepted && stop.is_none() && subject.workflow.started.is_none() {
            let at = subject.elapsed + self.config.start_margin;
            entries.push(Entry::WorkflowStarted { part, workflow, at });
        }
    }

    /// The next attempt of a shard, if a worker can take it.
    fn reopen(
        &self,
        now: Time,
        subject: &Subject<'_>,
        plan: &Plan,
        (shard_index, shard): (ShardIndex, &Shard),
    ) -> Option<Entry> {
        let last = shard.attempts.last()?;
        let has_failed = |worker| shard.attempts.iter().any(|attempt| attempt.worker == worker);
        let candidates = self.candidates(now);
        let slice = shard.slice.clone();
        let rows = {
            let unique = UniqueRows::of(plan, subject.index);
            let draws = slice.within(&subject.part.rows);
            let started = subject.workflow.started.unwrap_or(subject.elapsed);
            let load_time = subject.part.pauses.load_time(started, subject.elapsed);
            let load = &subject.planned.load;
            first_rows(&unique, load, (&slice, &draws), shard.rows_end(), load_time)
        };
        let placement = match choose(&candidates, last.cores, has_failed) {
            Some(chosen) => Placement {
                worker: chosen.worker,
                incarnation: chosen.incarnation,
                cores: chosen.free,
                beside: None,
                slice,
                rows,
            },
            // No core is free, and none may be until the load ends: whoever runs another shard of
            // this workflow takes this one over too.
            None => {
                let sibling = self.sibling(subject, &candidates, has_failed)?;
                Placement {
                    worker: sibling.worker,
                    incarnation: sibling.incarnation,
                    cores: sibling.cores,
                    beside: Some(sibling.seat),
                    slice,
                    rows,
                }
            }
        };
        let shard_id = shard_id(subject.part_id, subject.index, shard_index);
        let number = u32::try_from(shard.attempts.len() + 1).ok()?;
        let attempt =
            AttemptId { shard: shard_id, number: hyperscale_model::AttemptNumber(number) };
        Some(Entry::AttemptOpened { attempt, placement })
    }

    /// The open attempt of a workflow beside which a lost shard costs least: on a worker that has
    /// not failed the shard if there is one, with the fewest attempts for its cores.
    fn sibling<'a>(
        &'a self,
        subject: &Subject<'a>,
        candidates: &[Candidate],
        has_failed: impl Fn(NodeId) -> bool,
    ) -> Option<&'a Attempt> {
        let open = || subject.workflow.shards.iter().filter_map(|shard| Some(shard.open()?.1));
        let crowd = |seat| open().filter(|attempt| attempt.seat == seat).count();
        open()
            .filter(|attempt| attempt.started.is_some())
            .filter(|attempt| {
                candidates.iter().any(|candidate| {
                    (candidate.worker, candidate.incarnation)
                        == (attempt.worker, attempt.incarnation)
                })
            })
            .min_by_key(|attempt| {
                // Attempts per core, in thousandths, so that more cores take more.
                let crowd = crowd(attempt.seat) * 1_000
                    / usize::try_from(attempt.cores).unwrap_or(1).max(1);
                (has_failed(attempt.worker), crowd, attempt.seat)
            })
    }

    fn dispatch(&mut self, now: Time, dispatch: Dispatch) {
        let (attempt, worker) = match dispatch {
            Dispatch::Offer { attempt, worker }
            | Dispatch::Start { attempt, worker, .. }
            | Dispatch::Stop { attempt, worker, .. } => (attempt, worker),
        };
        // A later life of the worker knows nothing of the attempt: it must be closed, not repeated.
        let incarnation = self.state.attempt(attempt).map(|known| known.incarnation);
        let view = self.workers.get(&worker).filter(|view| view.is_connected);
        if view.map(|view| view.incarnation) != incarnation {
            return;
        }
        let part_id = attempt.shard.part_id();
        let Some(part) = self.state.parts.get(&part_id) else { return };
        let Some(workflow) = part.workflows.get(usize::from(attempt.shard.workflow.0)) else {
            return;
        };
        let Some(shard) = self.state.shard(attempt.shard) else { return };
        let Some(known) = self.state.attempt(attempt) else { return };
        let now_elapsed = self.elapsed(now, part_id).unwrap_or_default();
        let plan = self.plans.get(&part.plan);
        let needs_secrets = plan.is_some_and(|plan| !plan.secrets.is_empty());
        let has_blobs =
            plan.is_some_and(|plan| plan.blobs().iter().all(|h| self.blobs.get(*h).is_some()));
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let fence = leading.fence;
        let Some(live) = leading.live.get_mut(&attempt) else { return };
        let message = match dispatch {
            Dispatch::Offer { .. } => {
                let secrets = self.secrets.get(&part_id).cloned();
                if !has_blobs || needs_secrets && secrets.is_none() {
                    return; // A peer's pieces or the gate's repeated offer bring them.
                }
                live.offered_at = Some(now);
                Message::OfferAttempt(Box::new(Assignment {
                    attempt,
                    fence,
                    plan: part.plan,
                    slice: shard.slice.clone(),
                    cores: known.cores,
                    seat: known.seat,
                    iterations_done: shard.iterations_done(),
                    load_sent: shard.load_sent(),
                    rows: RowLease {
                        slice: shard.slice.within(&part.rows),
                        from: known.rows.0,
                        until: known.rows.1,
                    },
                    steering: part.load_steering(attempt.shard.workflow),
                    context: workflow.context.clone(),
                    secrets: secrets.unwrap_or_default(),
                    window: part.window,
                    datacenter: self.config.datacenter.clone(),
                    job_started: part.started.unwrap_or_default(),
                }))
            }
            Dispatch::Start { at, .. } => {
                if now >= leading.confirmed_until {
                    return;
                }
                live.start_sent_at = Some(now);
                let workflow_started = workflow.started.unwrap_or(at);
                let job_elapsed = at.max(now_elapsed);
                Message::StartAttempt {
                    attempt,
                    fence,
                    start_in: at.saturating_sub(now_elapsed),
                    job_elapsed,
                    load_elapsed: job_elapsed.saturating_sub(workflow_started),
                }
            }
            Dispatch::Stop { mode, .. } => {
                live.start_sent_at = Some(now);
                Message::StopAttempt { attempt, fence, mode }
            }
        };
        self.send(worker, message);
    }

    /// Gives free cores to workflows that could start.
    fn place_ready(&mut self, now: Time) {
        let Leadership::Leading(leading) = &self.leadership else { return };
        if now >= leading.confirmed_until {
            return;
        }
        let mut ready: Vec<(Priority, PartId, WorkflowIndex, Arc<Plan>)> = Vec::new();
        for (&part_id, part) in self.state.parts.iter().filter(|(_, part)| part.ended.is_none()) {
            let Some(plan) = self.plans.get(&part.plan) else { continue };
            let Some(elapsed) = self.elapsed(now, part_id) else { continue };
            for ((workflow, planned), index) in part.workflows.iter().zip(&plan.workflows).zip(0..)
            {
                let index = WorkflowIndex(index);
                let subject = Subject { part_id, part, index, workflow, planned, elapsed };
                let is_waiting = workflow.shards.is_empty() && workflow.ended.is_none();
                if is_waiting && subject.stop().is_none() && is_ready(&subject) {
                    ready.push((plan.run.priority, part_id, index, Arc::clone(plan)));
                }
            }
        }
        if ready.is_empty() {
            return;
        }
        // The most urgent first, then the oldest job.
        ready.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let candidates = self.candidates(now);
        let slices: Vec<_> = ready
            .iter()
            .filter_map(|(_, part, ..)| Some(self.state.parts.get(part)?.slice.clone()))
            .collect();
        let wishes: Vec<Wish<'_>> = (ready.iter().zip(&slices))
            .filter_map(|((_, _, index, plan), slice)| {
                let planned = plan.workflow(*index)?;
                Some(Wish { load: &planned.load, cores: planned.cores, slice })
            })
            .collect();
        let placed = place(&wishes, &candidates);
        let entries: Vec<Entry> = (ready.iter().zip(placed))
            .filter_map(|((_, part_id, workflow, plan), placed)| {
                let mut shards = placed?;
                let part = self.state.parts.get(part_id)?;
                let unique = UniqueRows::of(plan, *workflow);
                let load = &plan.workflow(*workflow)?.load;
                for shard in &mut shards {
                    let draws = shard.slice.within(&part.rows);
                    let slices = (&shard.slice, &draws);
                    shard.rows = first_rows(&unique, load, slices, 0, Duration::ZERO);
                }
                // Whatever else has ended by now may have ended later elsewhere.
                let context = part.context.of(&plan.before(*workflow));
                let (part, workflow) = (*part_id, *workflow);
                Some(Entry::WorkflowPlaced { part, workflow, shards, context })
            })
            .collect();
        // One at a time where they share cores: the next review sees what this one took.
        entries.into_iter().for_each(|entry| self.propose(entry));
    }

    fn send_upward(&mut self, now: Time) {
        let parts: Vec<(PartId, NodeId, bool)> =
            self.state.parts.iter().map(|(&id, p)| (id, p.gate, p.ended.is_some())).collect();
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let attempts: Vec<AttemptId> = leading.live.keys().copied().collect();
        let is_report_due = now >= leading.next_report;
        if is_report_due {
            leading.next_report = now + self.config.report;
        }
        if is_report_due {
            // First: a gate takes figures only from whom it knows to lead.
            let status = self.datacenter_status(now);
            for gate in self.gates.clone() {
                self.send(gate, Message::DatacenterStatus(status.clone()));
            }
        }
        for attempt in attempts {
            let gate = self.state.parts.get(&attempt.shard.part_id()).map(|part| part.gate);
            if let Some(gate) = gate {
                self.relay(now, attempt, gate);
            }
        }
        for (part, owner, is_ended) in parts {
            let Some(gate) = self.gate_for(owner) else { continue };
            if is_ended {
                self.tell_end(now, part, gate);
            } else if is_report_due && let Some(report) = self.part_report(now, part) {
                self.send(gate, Message::PartReport(Box::new(report)));
            }
        }
    }

    /// Tells a part's end until it is acknowledged, at growing distances.
    fn tell_end(&mut self, now: Time, part: PartId, gate: NodeId) {
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let (next, times) = leading.told.get(&part).copied().unwrap_or((now, 0));
        if now < next {
            return;
        }
        let pause = (self.config.resend * (1 << times.min(5))).min(Duration::from_secs(30));
        leading.told.insert(part, (now + pause, times + 1));
        if times + 1 == TELLINGS_MAX {
            self.event(Event::EndUnheard { part, times: TELLINGS_MAX });
        }
        let Some(report) = self.part_report(now, part) else { return };
        let Some(state) = self.state.parts.get(&part) else { return };
        let Some(status) = state.ended.clone() else { return };
        let attempts = (state.workflows.iter().zip(0..))
            .flat_map(|(workflow, index)| {
                let workflow_index = WorkflowIndex(index);
                workflow.shards().flat_map(move |(shard_index, shard)| {
                    let id = shard_id(part, workflow_index, shard_index);
                    shard.attempts.iter().zip(1..).filter_map(move |(attempt, number)| {
                        let number = hyperscale_model::AttemptNumber(number);
                        let last = attempt.closed.as_ref()?.last_delta;
                        Some((AttemptId { shard: id, number }, last))
                    })
                })
            })
            .collect();
        let result = PartResult { report, status, attempts };
        self.send(gate, Message::PartEnded(Box::new(result)));
    }

    fn part_report(&mut self, now: Time, id: PartId) -> Option<PartReport> {
        let plan = self.plan(self.state.parts.get(&id)?.plan)?;
        let part = self.state.parts.get(&id)?;
        let elapsed = self.elapsed(now, id).unwrap_or_default();
        let job_time = self.job_time(now, id);
        let workflows = (part.workflows.iter().zip(&plan.workflows).zip(0..))
            .map(|((workflow, planned), index)| {
                let index = WorkflowIndex(index);
                let subject = Subject { part_id: id, part, index, workflow, planned, elapsed };
                let state = match (&workflow.ended, workflow.started) {
                    (Some((status, _)), _) => WorkflowState::Ended(status.clone()),
                    (None, Some(_)) => WorkflowState::Running,
                    (None, None) if !workflow.shards.is_empty() => WorkflowState::Placed,
                    (None, None) if part.started.is_some() && is_ready(&subject) => {
                        WorkflowState::Ready
                    }
                    (None, None) => WorkflowState::Waiting,
                };
                let ended = workflow.ended.as_ref().map(|(_, at)| *at);
                WorkflowReport { state, started: workflow.started, ended }
            })
            .collect();
        let open =
            || self.state.open_attempts().filter(|(attempt, _)| attempt.shard.part_id() == id);
        let workers: std::collections::BTreeSet<NodeId> =
            open().map(|(_, attempt)| attempt.worker).collect();
        let seats: std::collections::BTreeMap<AttemptId, u32> =
            open().map(|(_, attempt)| (attempt.seat, attempt.cores)).collect();
        let cores = seats.values().sum();
        let gaps = gaps(id, part, &plan, elapsed);
        let Leadership::Leading(leading) = &self.leadership else { return None };
        let rows = rows_used(leading, (id, part), &plan);
        let started = part.started;
        let indexed = || (0..).map(WorkflowIndex).zip(&part.workflows);
        let of_shared = indexed().filter(|(_, workflow)| !workflow.published.is_empty());
        let published =
            Context { layers: of_shared.map(|(index, w)| (index, w.published.clone())).collect() };
        let settled = indexed().filter(|(_, workflow)| workflow.settled.is_some());
        let settled = settled.map(|(index, _)| index).collect();
        let (steered, pauses) = (part.steering.version, part.pauses.clone());
        let Leadership::Leading(leading) = &mut self.leadership else { return None };
        leading.report_seq = leading.report_seq.next();
        let of_part = |attempt: &AttemptId| attempt.shard.part_id() == id;
        let late = leading.late.iter().filter(|(attempt, _)| of_part(attempt));
        let inquire = (leading.live.iter())
            .filter(|(attempt, live)| of_part(attempt) && !live.relay.is_based)
            .map(|(&attempt, _)| attempt)
            .collect();
        Some(PartReport {
            part: id,
            fence: leading.fence,
            seq: leading.report_seq,
            workflows,
            gaps,
            rows,
            workers: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            cores,
            late_requests: late.map(|(_, (_, requests))| *requests).sum(),
            started,
            inquire,
            published,
            settled,
            steered,
            pauses,
            job_time,
        })
    }
}

impl Leading {
    /// Takes from a worker's report what it says of its attempts.
    fn note_report(&mut self, now: Time, worker: NodeId, report: &WorkerReport, state: &State) {
        for reported in &report.attempts {
            let Some(live) = self.live.get_mut(&reported.attempt) else { continue };
            let runs_there = state
                .attempt(reported.attempt)
                .is_some_and(|known| known.worker == worker && known.closed.is_none());
            if !runs_there {
                continue;
            }
            live.absent_since = None;
            if let Some(job) = reported.job_time {
                // Each report is a little late, and none is early: the furthest is nearest.
                let part = reported.attempt.shard.part_id();
                let known = self.job_times.get(&part).map(|(at, known)| *known + now.since(*at));
                if known.is_none_or(|known| job > known) {
                    self.job_times.insert(part, (now, job));
                }
            }
            match reported.phase {
                AttemptPhase::Preparing => {}
                AttemptPhase::Prepared => live.is_accepted = true,
                AttemptPhase::Running | AttemptPhase::Paused => {
                    (live.is_accepted, live.is_running) = (true, true);
                }
                AttemptPhase::Ended => live.is_accepted = true,
            }
        }
        for (attempt, known) in state.open_attempts().filter(|(_, known)| known.worker == worker) {
            let is_reported = report.attempts.iter().any(|reported| reported.attempt == attempt);
            if let Some(live) = self.live.get_mut(&attempt)
                && !is_reported
                && (live.is_accepted || known.started.is_some())
            {
                live.absent_since.get_or_insert(now);
            }
        }
    }
}

/// The cores that an entry gives away.
fn given_by(entry: &Entry) -> Vec<(NodeId, u32)> {
    let of = |placement: &Placement| (placement.worker, placement.cores);
    match entry {
        Entry::WorkflowPlaced { shards, .. } => shards.iter().map(of).collect(),
        Entry::AttemptOpened { placement, .. } if placement.beside.is_some() => Vec::new(),
        Entry::AttemptOpened { placement, .. } => vec![of(placement)],
        Entry::LeaderStarted { .. }
        | Entry::PartAccepted { .. }
        | Entry::PartStarted { .. }
        | Entry::WorkflowStarted { .. }
        | Entry::AttemptStarted { .. }
        | Entry::RowsLeased { .. }
        | Entry::AttemptClosed { .. }
        | Entry::StopAsked { .. }
        | Entry::WorkflowStopAsked { .. }
        | Entry::PartSteered { .. }
        | Entry::PartResumed { .. }
        | Entry::WorkflowEnded { .. }
        | Entry::WorkflowSettled { .. }
        | Entry::PartEnded { .. }
        | Entry::PartForgotten { .. } => Vec::new(),
    }
}

/// A message to a worker that is due.
#[derive(Debug, Clone, Copy)]
enum Dispatch {
    Offer { attempt: AttemptId, worker: NodeId },
    Start { attempt: AttemptId, worker: NodeId, at: Duration },
    Stop { attempt: AttemptId, worker: NodeId, mode: StopMode },
}

/// How a workflow that has no shards yet ends without them, if it does.
fn end_before_start(subject: &Subject<'_>, plan: &Plan) -> Option<EndStatus> {
    if let Some((status, _)) = subject.stop() {
        return Some(status);
    }
    let predecessors = || {
        subject.planned.after.workflows.iter().filter_map(|index| {
            let workflow = subject.part.workflows.get(usize::from(index.0))?;
            Some((plan.workflow(*index)?, *index, workflow))
        })
    };
    if !subject.planned.after.any_end {
        for (planned, index, _) in predecessors() {
            if let Some((status, _)) = subject.part.end_of(index)
                && *status != EndStatus::Completed
            {
                return Some(EndStatus::Skipped { because: planned.name.clone() });
            }
        }
    }
    if !is_ready(subject) {
        return None;
    }
    for (planned, index, workflow) in predecessors() {
        // Of a shared part it ran somewhere, if not here.
        let has_run = subject.part.is_shared || !workflow.shards.is_empty();
        let has_completed =
            has_run && matches!(subject.part.end_of(index), Some((EndStatus::Completed, _)));
        let missing = planned
            .publish
            .iter()
            .find(|publish| subject.part.context.get(index, &publish.name).is_none());
        if let Some(missing) = missing.filter(|_| has_completed && !subject.planned.after.any_end) {
            let name = format!("{}.{}", planned.name, missing.name);
            return Some(EndStatus::Failed { cause: FailureCause::Context { name } });
        }
    }
    (!has_work(&subject.planned.load, &subject.part.slice)).then_some(EndStatus::Completed)
}

/// Whether everything that a workflow waits for has ended, long enough ago.
fn is_ready(subject: &Subject<'_>) -> bool {
    let mut ready_at = Duration::ZERO;
    for index in &subject.planned.after.workflows {
        match subject.part.end_of(*index) {
            Some((_, at)) => ready_at = ready_at.max(*at),
            None => return false,
        }
    }
    subject.elapsed >= ready_at + subject.planned.start_after
}

/// What a workflow gives to its dependents, from what its attempts published.
fn published(subject: &Subject<'_>) -> BTreeMap<String, Value> {
    let mut layer = BTreeMap::new();
    for publish in &subject.planned.publish {
        let mut values = (subject.workflow.shards.iter())
            .flat_map(|shard| &shard.attempts)
            .filter_map(|attempt| attempt.closed.as_ref()?.published.get(&publish.name));
        let value = match publish.collect {
            None => values.next_back().cloned(),
            Some(limit) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let all: Vec<Value> = values
                    .flat_map(|value| {
                        let Value::List(items) = value else { return vec![value.clone()] };
                        items.as_ref().clone()
                    })
                    .take(limit)
                    .collect();
                (!all.is_empty()).then(|| Value::List(Arc::new(all)))
            }
        };
        if let Some(value) = value {
            layer.insert(publish.name.clone(), value);
        }
    }
    layer
}
