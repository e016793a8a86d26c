//! What only a leader does. Everything it remembers for that is in [`Leading`].
//!
//! A review compares what is decided with what is seen, and proposes or sends what is missing. It
//! runs after each input and is free of memory of its own: whatever it did not finish, or was lost
//! on the way, is missing again at the next one.

mod dispatch;
mod upward;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{
    AttemptId, BlobHash, DeltaSeq, Fence, NodeId, PartId, ProgressSeq, ProposalId, SplitMix, Time,
    WorkflowIndex,
};
use hyperscale_resilience::{Alarm, BreakerConfig, Breakers, ManagersTrouble};
use hyperscale_stats::Watermark;
use hyperscale_wire::{
    AttemptPhase, AttemptReport, AttemptSummary, GapCause, Message, RefuseAttempt, StopMode,
    WorkerReport,
};

use self::dispatch::given_by;
use self::workflows::Subject;
use crate::relay::Relay;
use crate::state::{Applied, Attempt, CloseReason, Closed, Entry, State};
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
