//! What is true, kept apart from what the roles believe, and the invariants that tie the two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_gate::state::{Job, JobEnd, State as GateState, Steer};
use hyperscale_gate::{Reply, read_entry};
use hyperscale_model::{
    AttemptId, DatacenterId, EndStatus, Fence, JobId, NodeId, PartId, PartIndex, Role, Time,
    WorkflowIndex,
};
use hyperscale_plan::{
    Context, DataIndex, DataSource, Load, LoadKind, Plan, Slice, Split, Steering, UniqueRows,
};
use hyperscale_report::{JobResult, RowsView};
use hyperscale_stats::Delta;
use hyperscale_wire::{Message, decode_value};
use hyperscale_worker::Preparation;

use crate::client::Learned;
use crate::decided::{Decided, Trouble, Turn};
use crate::engine::Sent;
use crate::host::{Host, Node, is_barrier};
use crate::mutation::fence_of;
use crate::scenario::{Scenario, datacenter_name};

type Checked = Result<(), String>;

/// How far a workflow is, by the word that is shown for it.
fn stage(state: &str) -> u8 {
    match state {
        "waiting" => 0,
        // Cores may be lost again before the start.
        "waits for cores" | "prepares" => 1,
        "running" => 2,
        _ => 3,
    }
}

/// How long any request may wait for its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// How much later than its time something may be forgotten.
const SLACK: Duration = Duration::from_secs(15);
/// How long a datacenter must have been in reach before none of its parts may be given up.
const MISSED: Duration = Duration::from_secs(45);
/// How long a gate may take a silent datacenter for reached: 15 s, a step of its clock, and drift.
const REACH: Duration = Duration::from_millis(18_000);
/// How long all workers take to follow what their datacenter has decided, if nothing is in the way.
const STEERED_WITHIN: Duration = Duration::from_secs(2);
/// How long any worker takes: without an answer that tells it so it has no lease, and whoever answers
/// without knowing it is confirmed no more; with some drift.
const STEERED_AT_LAST: Duration = Duration::from_millis(12_500);
/// How long load may overlap: an engine stops within this time.
const TOLERANCE: Duration = Duration::from_millis(100);

/// How long a leader's authority outlives its last contact with a majority; with drift.
const LEADER_LEASE: Duration = Duration::from_millis(2_002);

/// What one delta says.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    requests: u64,
    iterations: u64,
    delta: Box<Delta>,
}

/// The truth about an attempt.
#[derive(Debug, Default)]
struct Attempt {
    requests: u64,
    iterations: u64,
    told: BTreeMap<u64, Told>,
    /// The worker that was told to prepare it, and its life.
    runs_on: Option<(NodeId, u64)>,
    /// Its users until then.
    active: Option<(Time, u64)>,
    /// The load's time up to which it has sent.
    load: Duration,
    /// Its share of the load.
    slice: Slice,
    /// How it was steered when it sent last.
    steered: u64,
}

/// What a view of a job showed.
#[derive(Debug)]
struct Shown {
    /// The gate, its life and its fence.
    owner: (NodeId, u64, Fence),
    requests: u64,
    /// Its parts: one more after each move, which begins anew what has not begun.
    parts: usize,
    /// How far each workflow was.
    stages: Vec<u8>,
}

/// The truth about a job.
#[derive(Debug, Default)]
struct Truth {
    plan: Option<Plan>,
    first_seen: Time,
    started: Option<Time>,
    ended: Option<JobEnd>,
    ended_at: Option<Time>,
    is_acknowledged: bool,
    /// Stops that the client was promised; of a workflow, or of all.
    promised: Vec<Option<String>>,
    result: Option<Box<JobResult>>,
    /// What the client was shown last.
    shown: Option<Shown>,
    /// By source the unique rows that were sent.
    rows: BTreeMap<DataIndex, BTreeSet<u64>>,
}

#[derive(Debug)]
pub(crate) struct Oracle {
    plans: BTreeMap<String, Plan>,
    jobs: BTreeMap<JobId, Truth>,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// By place of the datacenter.
    decided: Vec<Decided>,
    /// The highest fence that each life of each worker has heard.
    fences: BTreeMap<(NodeId, u64), Fence>,
    /// The context that the first attempt of each workflow got.
    contexts: BTreeMap<(PartId, WorkflowIndex), Context>,
    /// When each gate last heard the answer of each datacenter's leader to a probe.
    answers: BTreeMap<(NodeId, DatacenterId), Time>,
    /// Until when each worker may send load, by its own clock.
    leases: BTreeMap<NodeId, Time>,
    /// Each ledger's one log: that of the gates, and by place those of the datacenters.
    logs: BTreeMap<Option<usize>, BTreeMap<u64, Vec<u8>>>,
    /// What the gates' log comes to, and its last entry.
    gates: GateState,
    last_entry: u64,
    majority: usize,
    /// Which manager leads each datacenter under each fence, in which of its lives, and since when.
    leaders: BTreeMap<(Option<usize>, Fence), (NodeId, u64, Time)>,
}

impl Oracle {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let plans = scenario.tests.iter().map(|test| (test.plan.name.clone(), test.plan.clone()));
        Self {
            plans: plans.collect(),
            jobs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            decided: scenario.datacenters.iter().map(|_| Decided::default()).collect(),
            fences: BTreeMap::new(),
            contexts: BTreeMap::new(),
            answers: BTreeMap::new(),
            leases: BTreeMap::new(),
            logs: BTreeMap::new(),
            gates: GateState::default(),
            last_entry: 0,
            majority: scenario.gates / 2 + 1,
            leaders: BTreeMap::new(),
        }
    }

    /// When all jobs must be over if nothing goes wrong from now on.
    pub(crate) fn limit(&self, now: Time) -> Time {
        let of = |truth: &Truth| {
            let plan = truth.plan.as_ref()?;
            let from = truth.started.unwrap_or(now);
            // What runs whatever happened may follow the deadline.
            let rest: Duration =
                plan.workflows.iter().map(|w| w.load.duration() + w.graceful_stop).sum();
            Some(from + plan.run.deadline + rest)
        };
        self.jobs.values().filter_map(of).max().unwrap_or(now).max(now)
    }

    /// How many entries of the gates' ledger were decided.
    #[cfg(test)]
    pub(crate) const fn gate_entries(&self) -> u64 {
        self.last_entry
    }

    /// The bytes of decided entries of a datacenter's ledger.
    #[cfg(test)]
    pub(crate) fn entry_bytes(&self, place: usize, entries: std::ops::RangeInclusive<u64>) -> u64 {
        let log = self.logs.get(&Some(place)).into_iter();
        log.flat_map(|log| log.range(entries.clone())).map(|(_, entry)| entry.len() as u64).sum()
    }

    /// Requests that some workers have sent.
    #[cfg(test)]
    pub(crate) fn requests_of(&self, is: impl Fn(NodeId) -> bool) -> u64 {
        let attempts = self.attempts.values();
        let theirs = attempts.filter(|truth| truth.runs_on.is_some_and(|(node, _)| is(node)));
        theirs.map(|truth| truth.requests).sum()
    }

    /// How many attempts were closed since their worker was taken for lost.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> usize {
        self.decided.iter().map(|at| at.lost().count()).sum()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.jobs.values().all(|truth| truth.ended.is_some())
    }

    /// The jobs that are not over, in words.
    pub(crate) fn open(&self) -> String {
        let open = self.jobs.iter().filter(|(_, truth)| truth.ended.is_none());
        open.map(|(job, _)| job.to_string()).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn on_send(&mut self, now: Time, host: Option<&Host>, message: &Message) -> Checked {
        let Some(host) = host else { return Ok(()) };
        let node = host.id;
        let needs_confirmation =
            matches!(message, Message::LeaseGranted { .. } | Message::StartAttempt { .. });
        if needs_confirmation && host.is_up() && host.clock.local(now) >= host.confirmed_until {
            let name = message.name();
            return Err(format!("INV-1: {node} says {name} and is not confirmed"));
        }
        let Message::Delta(delta) = message else { return Ok(()) };
        let truth = self.attempts.entry(delta.attempt).or_default();
        if truth.runs_on.is_none_or(|(worker, _)| worker != node) {
            return Ok(()); // The manager passes it on.
        }
        let figures = &delta.figures.figures;
        let (requests, iterations) = (figures.requests(), figures.iterations);
        if figures.outcomes().total() != requests {
            return Err(format!("INV-16: {} does not add up", delta.attempt));
        }
        let told = Told { requests, iterations, delta: delta.clone() };
        let known = truth.told.entry(delta.seq.0).or_insert_with(|| told.clone());
        if *known != told {
            return Err(format!("{} of {} changed after it was sent", delta.seq, delta.attempt));
        }
        Ok(())
    }

    /// The ways in which a part may be steered at an instant, and what no attempt is behind: what
    /// was decided long enough ago, and all that came after it.
    fn steered(&self, trouble: Time, at: Time, part: PartId) -> (u64, Vec<Steering>) {
        let turns = self.decided.iter().find_map(|decided| decided.turns(part)).unwrap_or_default();
        let has_arrived = |turn: &&Turn| {
            at > turn.at + STEERED_AT_LAST || at > turn.at.max(trouble) + STEERED_WITHIN
        };
        let floor = turns.iter().filter(has_arrived).map(|turn| turn.number).max().unwrap_or(0);
        let allowed = turns.iter().filter(|turn| turn.number >= floor);
        let mut allowed: Vec<Steering> = allowed.map(|turn| turn.steering.clone()).collect();
        if floor == 0 {
            allowed.push(Steering::default());
        }
        (floor, allowed)
    }

    /// How the load is steered: by the newest that was decided, also after takeovers.
    fn check_steering(&mut self, trouble: Time, at: Time, sent: &Sent, load: &Load) -> Checked {
        let id = sent.attempt;
        let (floor, allowed) = self.steered(trouble, at, id.shard.part_id());
        let truth = self.attempts.entry(id).or_default();
        if sent.steered < truth.steered.max(floor) {
            let (by, known) = (sent.steered, truth.steered);
            return Err(format!(
                "INV-15: {id} is steered by {by} at {at}, {floor}, {known} before"
            ));
        }
        truth.steered = sent.steered;
        let going = || allowed.iter().filter(|steering| !steering.is_paused);
        if going().next().is_none() {
            return Err(format!("INV-15: {id} sends at {at}, and the job is paused"));
        }
        if let Some(arrivals) = load.arrivals() {
            let due = |at| truth.slice.count(arrivals.due_before(at));
            let planned = due(sent.load.1).saturating_sub(due(sent.load.0));
            let amounts = going().map(|steering| steering.amounts.get(&id.shard.workflow));
            #[expect(clippy::cast_precision_loss, reason = "starts are few")]
            let most = amounts
                .map(|amount| amount.map_or(1.0, |amount| amount.share()) * planned as f64)
                .fold(0.0, f64::max);
            #[expect(clippy::cast_precision_loss, reason = "starts are few")]
            if sent.starts as f64 > most + 1.0 {
                let starts = sent.starts;
                return Err(format!("INV-15: {id} makes {starts} starts of {most:.1} at {at}"));
            }
        }
        Ok(())
    }

    /// How many users a workflow may have at an instant.
    fn users_allowed(&self, trouble: Time, at: Time, of: AttemptId, load: &Load) -> u64 {
        let job = of.shard.job;
        let parts: BTreeSet<PartId> = (self.attempts.keys())
            .filter(|id| id.shard.job == job)
            .map(|id| id.shard.part_id())
            .collect();
        let steerings = parts.into_iter().flat_map(|part| self.steered(trouble, at, part).1);
        let users = steerings.filter(|steering| !steering.is_paused).map(|steering| {
            match (load, steering.amounts.get(&of.shard.workflow)) {
                (Load::ExternallyControlled { vus, .. }, None) => *vus,
                (_, None) => load.vus_max(),
                (_, Some(amount)) => amount.of_users(load.vus_max()),
            }
        });
        users.max().map_or(0, u64::from)
    }

    /// Iterations have drawn unique rows: none that any has drawn before.
    fn on_rows(&mut self, plan: &Plan, sent: &Sent) -> Checked {
        let shard = sent.attempt.shard;
        let unique = UniqueRows::of(plan, shard.workflow);
        let truth = self.jobs.entry(shard.job).or_default();
        for (source, _) in unique.ending(&Slice::whole()) {
            let rows = truth.rows.entry(source).or_default();
            for draw in &sent.draws {
                let Some(row) = unique.row(source, *draw) else {
                    return Err(format!("DAT-01: draw {draw} of {} finds no row", sent.attempt));
                };
                if !rows.insert(row) {
                    let attempt = sent.attempt;
                    return Err(format!("DAT-01: row {row} is sent twice, now by {attempt}"));
                }
            }
        }
        Ok(())
    }

    /// The rows that a job says it has sent are those that were, as far as it can know.
    fn check_rows(&self, id: JobId, result: &JobResult) -> Checked {
        let Some(truth) = self.jobs.get(&id) else { return Ok(()) };
        for view in &result.summary.rows {
            let named = |(_, source): &(usize, &DataSource)| source.name == view.source;
            let Some((index, _)) = result.plan.data.iter().enumerate().find(named) else {
                return Err(format!("DAT-01: {id} has no source {}", view.source));
            };
            let source = truth.rows.iter().find(|(source, _)| source.get() == index);
            let drawn = source.map_or(0, |(_, rows)| rows.len() as u64);
            let RowsView { rows, sent, left, possibly_sent, .. } = *view;
            let adds_up = rows == sent + left + possibly_sent;
            if !adds_up || drawn < sent || drawn > sent + possibly_sent {
                return Err(format!(
                    "DAT-01: {drawn} of {rows} rows of {id} were sent; it says {sent} sent, {left} \
                     left, {possibly_sent} possibly sent"
                ));
            }
        }
        Ok(())
    }

    /// Load was sent: never more than planned, by one attempt of a shard at a time.
    pub(crate) fn on_load(&mut self, trouble: Time, between: (Time, Time), sent: &Sent) -> Checked {
        let shard = sent.attempt.shard;
        let plan = self.jobs.get(&shard.job).and_then(|truth| truth.plan.as_ref());
        let Some(plan) = plan else { return Err(format!("{} has no plan", sent.attempt)) };
        // Each datacenter gets the whole load, or all of them together.
        let is_each = plan.run.split == Split::Each;
        let plan = plan.clone();
        self.on_rows(&plan, sent)?;
        let load = plan.workflow(shard.workflow).map(|workflow| workflow.load.clone());
        let Some(load) = load else { return Err(format!("{} has no load", sent.attempt)) };
        let truth = self.attempts.entry(sent.attempt).or_default();
        truth.requests += sent.requests;
        truth.iterations += sent.iterations;
        if sent.users == 0 {
            return Ok(());
        }
        truth.active = Some((between.1, sent.users));
        truth.load = truth.load.max(sent.load.1);
        self.check_steering(trouble, between.0, sent, &load)?;
        let mut users = 0;
        let of_workflow = self.attempts.iter().filter(|(id, _)| {
            let is_of_part = id.shard.part == shard.part || !is_each;
            id.shard.job == shard.job && is_of_part && id.shard.workflow == shard.workflow
        });
        for (id, other) in of_workflow {
            let Some((until, active)) = other.active else { continue };
            let overlaps = until > between.0 + TOLERANCE;
            users += if overlaps { active } else { 0 };
            if *id == sent.attempt || id.shard != shard {
                continue;
            }
            if overlaps {
                return Err(format!(
                    "INV-15: {} sends from {}, {id} until {until}",
                    sent.attempt, between.0
                ));
            }
            if load.kind() == LoadKind::Arrivals && other.load > sent.load.0 + TOLERANCE {
                return Err(format!(
                    "INV-15: {} sends from {:?} of its load, {id} has sent until {:?}",
                    sent.attempt, sent.load.0, other.load
                ));
            }
        }
        if load.kind() == LoadKind::Arrivals {
            return Ok(());
        }
        let allowed = self.users_allowed(trouble, between.0, sent.attempt, &load);
        if users > allowed {
            return Err(format!("INV-15: {users} users for {}, {allowed} allowed", sent.attempt));
        }
        Ok(())
    }

    pub(crate) fn on_prepared(&mut self, host: &Host, preparation: &Preparation) -> Checked {
        let Preparation { assignment, cores, .. } = preparation;
        let attempt = assignment.attempt;
        if let Some(Node::Worker { engine, .. }) = &host.node {
            // Attempts of one workflow share cores as a whole, if the leader says so.
            let may_share = |other: &Preparation| {
                other.assignment.seat == assignment.seat
                    && other.assignment.attempt.shard.part_id() == attempt.shard.part_id()
                    && other.assignment.attempt.shard.workflow == attempt.shard.workflow
                    && other.cores == *cores
            };
            for other in engine.prepared().filter(|other| other.assignment.attempt != attempt) {
                if !may_share(other) && other.cores.iter().any(|core| cores.contains(core)) {
                    let (other, worker) = (other.assignment.attempt, host.id);
                    return Err(format!("INV-5: {attempt} and {other} share a core of {worker}"));
                }
            }
        }
        if cores.is_empty() || cores.iter().any(|core| *core >= host.cores) {
            return Err(format!("INV-5: {attempt} got cores {cores:?} of {}", host.cores));
        }
        self.check_order(attempt)?;
        let mut workflow = (attempt.shard.part_id(), attempt.shard.workflow);
        if !self.sharers(attempt.shard.job).is_empty() {
            workflow.0.part = Default::default(); // It is the same in all of them.
        }
        let context = self.contexts.entry(workflow).or_insert_with(|| assignment.context.clone());
        if *context != assignment.context {
            return Err(format!("DAG-05: {attempt} got another context than the first one"));
        }
        let truth = self.attempts.entry(attempt).or_default();
        let place = (host.id, host.life);
        // Prepared again after a refusal that was lost is well; run again, or elsewhere, is not.
        if truth.runs_on.is_some_and(|known| known != place || truth.active.is_some()) {
            return Err(format!("INV-4: {attempt} runs at {place:?} and at {:?}", truth.runs_on));
        }
        truth.runs_on = Some((host.id, host.life));
        truth.slice = assignment.slice.clone();
        Ok(())
    }

    /// The parts that have shares of a job's load, with their datacenters; none if only one has.
    fn sharers(&self, id: JobId) -> Vec<(PartId, usize)> {
        let (Some(job), Some(plan)) =
            (self.gates.jobs.get(&id), self.jobs.get(&id).and_then(|job| job.plan.as_ref()))
        else {
            return Vec::new();
        };
        let open = job.parts.iter().zip(0..).filter(|((_, end), _)| {
            // What was moved, or ended without all of its workflows, is waited for by nobody.
            end.as_ref().is_none_or(|end| end.status == EndStatus::Completed)
        });
        let place = |name: &str| (0..self.decided.len()).find(|at| datacenter_name(*at) == name);
        let sharers: Vec<(PartId, usize)> = open
            .filter_map(|((target, _), index)| {
                let part = PartId { job: id, part: PartIndex(index) };
                Some((part, place(target.datacenter.as_str())?))
            })
            .collect();
        if sharers.len() < 2 || plan.run.split == Split::Each { Vec::new() } else { sharers }
    }

    /// What an attempt's workflow waits for has ended in all datacenters.
    fn check_order(&self, attempt: AttemptId) -> Checked {
        let (job, workflow) = (attempt.shard.job, attempt.shard.workflow);
        let plan = self.jobs.get(&job).and_then(|job| job.plan.as_ref());
        let Some(planned) = plan.and_then(|plan| plan.workflow(workflow)) else { return Ok(()) };
        for (part, place) in self.sharers(job) {
            let has_ended = |needed: &&WorkflowIndex| {
                self.decided.get(place).is_some_and(|at| at.has_workflow_ended(part, **needed))
            };
            if let Some(needed) = planned.after.workflows.iter().find(|needed| !has_ended(needed)) {
                return Err(format!("DAG-01: {attempt} runs before {part}/{needed} has ended"));
            }
        }
        Ok(())
    }

    /// An entry was decided as one node sees it: all see the same.
    pub(crate) fn on_logged(
        &mut self,
        (now, trouble): (Time, Time),
        host: &Host,
        (index, entry): (u64, Vec<u8>),
        hosts: &BTreeMap<NodeId, Host>,
    ) -> Checked {
        let log = self.logs.entry(host.place).or_default();
        let known = log.entry(index).or_insert_with(|| entry.clone());
        if *known != entry {
            let node = host.id;
            return Err(format!("INV-1: {node} was told another entry {index} than others"));
        }
        if host.role != Role::Gate || index <= self.last_entry {
            return Ok(());
        }
        self.last_entry = index;
        let entry = read_entry(&entry).map_err(|error| format!("entry {index}: {error}"))?;
        self.gates.apply(index, &entry);
        let gates = std::mem::take(&mut self.gates);
        let checked = gates
            .jobs
            .iter()
            .try_for_each(|(&id, job)| self.on_job(now, trouble, (id, job), hosts));
        self.gates = gates;
        checked
    }

    /// At most one manager leads under a fence, its own; and no leader is confirmed for longer than
    /// its lease after the next one's barrier.
    pub(crate) fn on_managers(&mut self, now: Time, hosts: &BTreeMap<NodeId, Host>) -> Checked {
        let mut confirmed: Vec<(Option<usize>, NodeId, Fence)> = Vec::new();
        for host in hosts.values().filter(|host| !host.is_frozen) {
            let Some(Node::Manager { manager, .. }) = &host.node else { continue };
            let Some(fence) = manager.leading() else { continue };
            let place = (host.id, host.life, now);
            let (node, life, _) = *self.leaders.entry((host.place, fence)).or_insert(place);
            if (node, life) != (host.id, host.life) {
                return Err(format!("INV-1: {node} and {} lead under {fence}", host.id));
            }
            let log = self.logs.get(&host.place);
            if !log.and_then(|log| log.get(&fence.0)).is_some_and(|entry| is_barrier(entry)) {
                return Err(format!("INV-1: {} leads under {fence}, which is no barrier", host.id));
            }
            if manager.leading_at(host.clock.local(now)).is_some() {
                confirmed.push((host.place, host.id, fence));
            }
        }
        for (place, node, fence) in confirmed {
            let ours = (place, Fence::NONE)..=(place, Fence(u64::MAX));
            let newest = self.leaders.range(ours).next_back();
            let Some((&(_, newest), &(next, _, since))) = newest else { continue };
            if fence < newest && now > since + LEADER_LEASE {
                return Err(format!(
                    "INV-1: {node} is confirmed under {fence}, {next} leads under {newest} since {since}"
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn on_stored(&mut self, result: &JobResult) -> Checked {
        let known = self.jobs.get(&result.summary.job).and_then(|truth| truth.result.as_ref());
        match known {
            Some(known) if **known == *result => Ok(()),
            Some(_) | None => {
                Err(format!("INV-2: the result of {} is not the decided one", result.summary.job))
            }
        }
    }

    pub(crate) fn on_decided(
        &mut self,
        now: Time,
        host: &Host,
        hosts: &BTreeMap<NodeId, Host>,
    ) -> Checked {
        match host.node.as_ref().or(host.remains.as_ref()) {
            Some(Node::Manager { manager, .. }) => {
                let jobs = &self.jobs;
                let plans = |job: JobId| jobs.get(&job)?.plan.clone();
                let decided = host.place.and_then(|place| self.decided.get_mut(place));
                decided.map_or(Ok(()), |decided| {
                    decided.on_manager(now, manager.state(), hosts, plans)
                })
            }
            Some(Node::Gate { .. } | Node::Worker { .. }) | None => Ok(()),
        }
    }

    /// What must have happened by now, if nothing was in its way since `trouble`.
    pub(crate) fn on_time(
        &mut self,
        now: Time,
        trouble: Trouble,
        retention: Duration,
        hosts: &BTreeMap<NodeId, Host>,
    ) -> Checked {
        self.check_leases(now, hosts)?;
        self.check_reach(now, hosts)?;
        let awake = || hosts.values().filter(|host| host.is_up() && !host.is_frozen);
        for (id, since) in awake().flat_map(|host| &host.owed) {
            if now > *since + ANSWER {
                return Err(format!("INV-14: {id:?} has waited for its answer since {since}"));
            }
        }
        for (id, truth) in &self.jobs {
            let known = self.gates.jobs.get(id);
            if known.is_none() && truth.is_acknowledged && truth.ended.is_none() {
                return Err(format!("INV-12: {id} was accepted and is gone"));
            }
            let is_stale =
                truth.ended_at.is_some_and(|at| now > at.max(trouble.all) + retention + SLACK);
            if known.is_some() && is_stale {
                return Err(format!("INV-9: {id} is not forgotten"));
            }
        }
        let jobs = &self.jobs;
        let plans = |job: JobId| jobs.get(&job)?.plan.clone();
        for (place, decided) in self.decided.iter_mut().enumerate() {
            let managers = awake().filter(|host| host.place == Some(place));
            let managers = managers.filter_map(|host| match &host.node {
                Some(Node::Manager { manager, .. }) => Some(manager),
                Some(Node::Gate { .. } | Node::Worker { .. }) | None => None,
            });
            if let Some(manager) = managers.max_by_key(|manager| manager.leading()) {
                let name = datacenter_name(place);
                decided.on_time(now, trouble, &self.gates, &name, manager.state(), plans)?;
            }
        }
        Ok(())
    }

    /// A datacenter's leader has answered a gate.
    pub(crate) fn on_answer(&mut self, now: Time, gate: NodeId, datacenter: DatacenterId) {
        self.answers.insert((gate, datacenter), now);
    }

    /// No gate takes a datacenter for reached that has not answered it for long.
    fn check_reach(&self, now: Time, hosts: &BTreeMap<NodeId, Host>) -> Checked {
        for host in hosts.values().filter(|host| !host.is_frozen) {
            let Some(Node::Gate { gate, .. }) = &host.node else { continue };
            for datacenter in gate.reached(host.clock.local(now)) {
                let answer = self.answers.get(&(host.id, datacenter.clone()));
                let last = answer.copied().unwrap_or_default();
                if now > last + REACH {
                    let gate = host.id;
                    return Err(format!(
                        "FED-01: {gate} reaches {datacenter}, silent since {last}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A worker was granted a lease until then, by its own clock.
    pub(crate) fn on_lease(&mut self, worker: NodeId, until: Time) {
        let known = self.leases.entry(worker).or_default();
        *known = (*known).max(until);
    }

    /// A worker starts anew, with another clock.
    pub(crate) fn on_start(&mut self, node: NodeId) {
        self.leases.remove(&node);
    }

    /// No worker takes its lease for longer than it was granted.
    fn check_leases(&self, now: Time, hosts: &BTreeMap<NodeId, Host>) -> Checked {
        for host in hosts.values().filter(|host| !host.is_frozen) {
            let Some(Node::Worker { worker, .. }) = &host.node else { continue };
            let until = self.leases.get(&host.id).copied().unwrap_or_default();
            let local = host.clock.local(now);
            if worker.holds_lease(local) && local >= until {
                return Err(format!("INV-15: {} takes its lease for longer", host.id));
            }
        }
        Ok(())
    }

    /// The highest fence that the receiver of a command knows.
    pub(crate) fn held(&self, host: &Host, message: &mut Message) -> Option<Fence> {
        match (&host.node, &*message) {
            (Some(Node::Worker { .. }), _) => self.fences.get(&(host.id, host.life)).copied(),
            (Some(Node::Manager { manager, .. }), message) => {
                let part = match message {
                    Message::OfferPart(offer) => offer.part,
                    Message::StartPart { part, .. }
                    | Message::StopPart { part, .. }
                    | Message::StopWorkflow { part, .. }
                    | Message::SettleWorkflow { part, .. }
                    | Message::SteerPart { part, .. } => *part,
                    _ => return None,
                };
                manager.leading()?;
                manager.state().parts.get(&part).map(|part| part.fence)
            }
            (Some(Node::Gate { .. }) | None, _) => None,
        }
    }

    /// Notes a command's fence; true if its receiver must refuse it.
    pub(crate) fn is_stale(&mut self, host: &Host, message: &Message) -> bool {
        let mut message = message.clone();
        let held = self.held(host, &mut message);
        let Some(fence) = fence_of(&mut message).map(|fence| *fence) else { return false };
        if matches!(host.node, Some(Node::Worker { .. })) {
            let known = self.fences.entry((host.id, host.life)).or_default();
            *known = (*known).max(fence);
        }
        held.is_some_and(|held| fence < held)
    }

    fn on_job(
        &mut self,
        now: Time,
        trouble: Time,
        (id, job): (JobId, &Job),
        hosts: &BTreeMap<NodeId, Host>,
    ) -> Checked {
        let plan = self.plans.get(&job.name);
        let truth = self.jobs.entry(id).or_default();
        if truth.plan.is_none() {
            (truth.plan, truth.first_seen) = (plan.cloned(), now);
        }
        if job.started.is_some() {
            truth.started.get_or_insert(now);
        }
        let has_stopped = |workflow: &Option<String>| match workflow {
            None => job.cancel.is_some(),
            Some(name) => job.stopped_workflows.iter().any(|(index, _)| {
                let workflow = truth.plan.as_ref().and_then(|plan| plan.workflow(*index));
                workflow.is_some_and(|workflow| workflow.name == *name)
            }),
        };
        let is_missing =
            job.parts.iter().any(|(_, end)| end.as_ref().is_some_and(|e| e.is_missing));
        if is_missing && truth.ended.is_none() && now > trouble + MISSED {
            return Err(format!("INV-6: a part of {id} is given up, and nothing was in its way"));
        }
        if job.ended.is_none() && !truth.promised.iter().all(has_stopped) {
            return Err(format!("INV-12: {id} has forgotten a stop that was promised"));
        }
        match (&truth.ended, &job.ended) {
            (Some(known), Some(end)) if known != end => {
                return Err(format!("INV-2: {id} ended as {known:?}, then as {end:?}"));
            }
            (None, Some(end)) => {
                truth.ended = Some(end.clone());
                truth.ended_at = Some(now);
                let gates = hosts.values().filter(|host| host.role == Role::Gate);
                let held: Vec<_> = gates
                    .filter_map(|gate| {
                        let disk = gate.disk.0.borrow();
                        let held = disk.blobs.get(&end.result);
                        held.or_else(|| disk.dropped.get(&end.result)).cloned()
                    })
                    .collect();
                let (count, majority) = (held.len(), self.majority);
                if count < majority {
                    return Err(format!(
                        "INV-12: {count} of {majority} gates hold the result of {id}"
                    ));
                }
                let result = held.first().map(|bytes| decode_value(bytes));
                match result {
                    Some(Ok(result)) => truth.result = Some(Box::new(result)),
                    other => return Err(format!("the result of {id} is none: {other:?}")),
                }
                return self.check_result(id, job, hosts);
            }
            (Some(_) | None, _) => {}
        }
        Ok(())
    }

    /// The figures of a job that has ended.
    fn check_result(&self, id: JobId, job: &Job, hosts: &BTreeMap<NodeId, Host>) -> Checked {
        let Some(result) = self.jobs.get(&id).and_then(|truth| truth.result.as_ref()) else {
            return Err(format!("INV-12: {id} ended without a stored result"));
        };
        self.check_rows(id, result)?;
        let totals = &result.summary.totals;
        let outcomes: u64 = totals.outcomes.values().sum();
        let steps: u64 = result.summary.steps.iter().map(|step| step.totals.requests).sum();
        let series: u64 = result.series.iter().map(|point| point.figures.requests()).sum();
        let requests = totals.requests;
        if [outcomes, steps, series] != [requests; 3] {
            return Err(format!(
                "INV-16: {id} has {requests} requests, {outcomes} by outcome, {steps} by step, \
                 {series} over time"
            ));
        }
        let of_job = self.attempts.iter().filter(|(attempt, _)| attempt.shard.job == id);
        let executed: u64 = of_job.map(|(_, truth)| truth.requests).sum();
        if requests > executed {
            return Err(format!("INV-7: {id} counts {requests} requests, {executed} were sent"));
        }
        let mut accounted = 0;
        let mut is_known = true;
        let mut has_lost_workers = false;
        for (_, end) in &job.parts {
            let Some(end) = end else { return Err(format!("{id} ended before its parts")) };
            is_known &= !end.is_missing;
            for (attempt, last) in &end.attempts {
                let Some(truth) = self.attempts.get(attempt) else { continue };
                let told = truth.told.range(..=last.0).map(|(_, told)| told.requests);
                accounted += told.sum::<u64>();
                has_lost_workers |= truth.runs_on.is_some_and(|(node, life)| {
                    hosts.get(&node).is_none_or(|host| !host.is_up() || host.life != life)
                });
            }
        }
        // A worker and the leader that had its last figures may die together: then they are
        // missing, and the result says so.
        let is_excused = has_lost_workers && result.summary.partial && requests < accounted;
        if is_known && requests != accounted && !is_excused {
            return Err(format!(
                "INV-7: {id} counts {requests} requests, its attempts account for {accounted}"
            ));
        }
        Ok(())
    }

    pub(crate) fn on_reply(&mut self, host: &Host, reply: &Reply) -> Checked {
        let Reply::News { view, is_over, .. } = reply else { return Ok(()) };
        let Some(view) = view else { return Ok(()) };
        let job = view.job;
        let of_job = self.attempts.iter().filter(|(attempt, _)| attempt.shard.job == job);
        let executed: u64 = of_job.map(|(_, truth)| truth.requests).sum();
        if view.requests > executed {
            let shown = view.requests;
            return Err(format!("INV-7: {job} shows {shown} requests, {executed} were sent"));
        }
        let truth = self.jobs.entry(job).or_default();
        if *is_over && truth.ended.is_none() {
            return Err(format!("INV-3: {job} is said to be over, and is not"));
        }
        // The next owner may not know what the last one had shown and not yet given to others.
        let Some(Node::Gate { gate, .. }) = &host.node else { return Ok(()) };
        let Some((_, fence)) = gate.owned().find(|(owned, _)| *owned == job) else {
            return Ok(());
        };
        let owner = (host.id, host.life, fence);
        // What several datacenters report of a workflow is shown as one.
        let is_one_part = view.datacenters.len() == 1;
        let parts = gate.state().jobs.get(&job).map_or(0, |job| job.parts.len());
        let stages: Vec<u8> = view.workflows.iter().map(|(_, state)| stage(state)).collect();
        if let Some(last) = truth.shown.as_ref().filter(|last| last.owner == owner) {
            if view.requests < last.requests {
                let (before, now) = (last.requests, view.requests);
                return Err(format!("INV-7: {job} showed {before} requests, then {now}"));
            }
            let is_same = is_one_part && last.parts == parts;
            if is_same && stages.iter().zip(&last.stages).any(|(now, before)| now < before) {
                let (before, now) = (&last.stages, &view.workflows);
                return Err(format!("PRG-01: {job} went back from {before:?} to {now:?}"));
            }
        }
        truth.shown = Some(Shown { owner, requests: view.requests, parts, stages });
        Ok(())
    }

    pub(crate) fn on_learned(&mut self, learned: &Learned) -> Checked {
        match learned {
            Learned::Accepted(job) => {
                let truth = self.jobs.entry(*job).or_default();
                truth.is_acknowledged = true;
                Ok(())
            }
            Learned::Final(job) => {
                let is_over = self.jobs.get(job).is_some_and(|truth| truth.ended.is_some());
                is_over.then_some(()).ok_or_else(|| format!("INV-3: {job} is not over"))
            }
            Learned::Cancelled { job, workflow } => {
                self.jobs.entry(*job).or_default().promised.push(workflow.clone());
                Ok(())
            }
            Learned::Steered { job, pause, scaled } => {
                let known = self.gates.jobs.get(job).map(|job| &job.steers);
                let is_it = |steer: &Steer| steer.pause == *pause && steer.amounts.len() == *scaled;
                let is_known = known.is_none_or(|all| all.iter().any(|(_, steer)| is_it(steer)));
                is_known.then_some(()).ok_or_else(|| {
                    format!("INV-12: {job} was said to be steered, and nothing was decided")
                })
            }
            Learned::Nothing => Ok(()),
        }
    }

    /// An attempt that its worker ended has told everything that it sent.
    fn check_told(&self) -> Checked {
        for (id, truth) in
            self.attempts.iter().filter(|(id, _)| self.decided.iter().any(|at| at.has_ended(**id)))
        {
            let told: u64 = truth.told.values().map(|told| told.requests).sum();
            let iterations: u64 = truth.told.values().map(|told| told.iterations).sum();
            if told != truth.requests || iterations > truth.iterations {
                let sent = truth.requests;
                return Err(format!("INV-16: {id} sent {sent} requests and told of {told}"));
            }
        }
        Ok(())
    }

    /// No attempt was taken for lost.
    pub(crate) fn check_nothing_lost(&self) -> Checked {
        match self.decided.iter().find_map(|at| at.lost().next()) {
            Some(id) => Err(format!("ORP-02: {id} was restarted, and its worker lived")),
            None => Ok(()),
        }
    }

    pub(crate) fn check_rest(&self, hosts: &BTreeMap<NodeId, Host>) -> Checked {
        self.check_told()?;
        for place in 0..self.decided.len() {
            let here = hosts.values().filter(|host| host.place == Some(place));
            let mut states = here.filter_map(|host| match &host.node {
                Some(Node::Manager { manager, .. }) => Some((host.id, manager.state())),
                Some(Node::Gate { .. } | Node::Worker { .. }) | None => None,
            });
            if let Some((first, state)) = states.next()
                && let Some((other, _)) = states.find(|(_, other)| *other != state)
            {
                return Err(format!("INV-1: {other} holds another state than {first}"));
            }
        }
        for host in hosts.values() {
            if let Some(Node::Gate { gate, .. }) = &host.node
                && *gate.state() != self.gates
            {
                return Err(format!("INV-1: {} holds another state than was decided", host.id));
            }
            // The disk of one that is lost lies there as it was.
            if let Some(job) = host.disk.0.borrow().checkpoints.keys().next()
                && !host.is_leaving
            {
                return Err(format!("INV-9: {} still holds statistics of {job}", host.id));
            }
            if let Some(Node::Manager { manager, .. }) = &host.node
                && let Some(part) = manager.state().parts.keys().next()
            {
                return Err(format!("INV-9: the manager still holds part {part}"));
            }
            if let Some(Node::Worker { worker, .. }) = &host.node
                && worker.outbox_bytes() > 0
            {
                let bytes = worker.outbox_bytes();
                return Err(format!("INV-9: {} still holds {bytes} bytes of figures", host.id));
            }
            if let Some(Node::Worker { worker, .. }) = &host.node
                && host.role == Role::Worker
                && worker.free_cores() != host.cores
            {
                let (free, cores) = (worker.free_cores(), host.cores);
                return Err(format!("INV-5: {} idles with {free} of {cores} cores free", host.id));
            }
        }
        Ok(())
    }
}
