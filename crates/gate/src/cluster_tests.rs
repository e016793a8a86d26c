//! Several gates and two datacenters, whose messages and entries pass at once unless a test is in
//! the way.

#![expect(clippy::wildcard_enum_match_arm, reason = "tests look at a few messages of many")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{
    AttemptId, AttemptNumber, ClientId, DatacenterId, DeltaSeq, Electorate, ElectorateChange,
    EndStatus, Fence, Incarnation, JobId, NodeId, PartId, PartIndex, ProgressSeq, Role, ShardId,
    Time, Version, WallTime,
};
use hyperscale_plan::{Datacenters, Plan, RunSettings, Secrets, Slice, Split};
use hyperscale_stats::{Delta, Figures, WindowFigures};
use hyperscale_wire::{
    DatacenterStatus, Message, NodeState, NodeStatus, PartReport, PartResult, StopMode, Subject,
    WorkflowReport, WorkflowState,
};

use crate::request::{Reply, Request, RequestError, RequestErrorKind, RequestId};
use crate::tests::{plan, workflow};
use crate::{Event, Gate, GateConfig, Input, Output};

mod leaders;
mod limits;
mod settling;
mod spillover;
mod submissions;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const EU: NodeId = NodeId(100);
const US: NodeId = NodeId(200);

struct Cluster {
    now: Time,
    gates: BTreeMap<NodeId, Gate>,
    lives: BTreeMap<NodeId, u64>,
    /// Gates that nobody reaches.
    cut: BTreeSet<NodeId>,
    leader: NodeId,
    log: Vec<Vec<u8>>,
    applied: BTreeMap<NodeId, usize>,
    wires: VecDeque<(NodeId, NodeId, Message)>,
    /// What managers were told, by whom.
    told: Vec<(NodeId, NodeId, Message)>,
    replies: BTreeMap<RequestId, Reply>,
    /// How often each request was answered.
    answers: BTreeMap<RequestId, u32>,
    events: Vec<(NodeId, Event)>,
    /// What gates handed to the leader, to have it decided.
    handed: Vec<(NodeId, Vec<u8>)>,
    requests: u64,
    version: u64,
    /// Managers that answer.
    answering: BTreeSet<NodeId>,
    /// Nodes of which datacenters were told that they are removed.
    removed: BTreeSet<NodeId>,
    electorate: Electorate,
    /// What the leader wants changed of who votes.
    changes: Vec<ElectorateChange>,
    /// Gates that were told that they are removed.
    stopped: BTreeSet<NodeId>,
    /// After how long gates that start from now on give up a voter.
    reap: Option<Duration>,
    /// Managers of the first datacenter that follow without a vote.
    spares: BTreeSet<NodeId>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            now: Time::ZERO,
            gates: BTreeMap::new(),
            lives: BTreeMap::new(),
            cut: BTreeSet::new(),
            leader: A,
            log: Vec::new(),
            applied: BTreeMap::new(),
            wires: VecDeque::new(),
            told: Vec::new(),
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            events: Vec::new(),
            handed: Vec::new(),
            requests: 0,
            version: 0,
            answering: [EU, US].into(),
            removed: BTreeSet::new(),
            electorate: Electorate::default(),
            changes: Vec::new(),
            stopped: BTreeSet::new(),
            reap: None,
            spares: BTreeSet::new(),
        };
        [A, B, C].into_iter().for_each(|gate| cluster.start(gate));
        cluster.wait(1);
        cluster
    }

    fn start(&mut self, id: NodeId) {
        let life = self.lives.entry(id).or_default();
        *life += 1;
        let mut config = GateConfig::new(id, Incarnation(*life), WallTime(1_000), [7; 32]);
        config.gates = 3;
        config.reap_voters_after = self.reap;
        self.gates.insert(id, Gate::new(config, id.0));
        self.applied.insert(id, 0);
        self.cut.remove(&id);
        let others: Vec<NodeId> = self.gates.keys().copied().filter(|gate| *gate != id).collect();
        for other in others {
            self.input(id, Input::GateConnected { gate: other });
            self.input(other, Input::GateConnected { gate: id });
        }
        let electorate = self.electorate.clone();
        self.input(id, Input::Electorate(electorate));
        self.catch_up(id);
        let (leads, leader) = (self.leader == id, Some(self.leader));
        self.input(id, Input::Leadership { leads, leader });
        for manager in [EU, US] {
            self.input(id, Input::ManagerConnected { manager });
            let message = Message::DatacenterStatus(self.status(manager));
            self.input(id, Input::Message { from: manager, message });
        }
        self.run();
    }

    /// A gate is gone, and its links with it; another leads the ledger if it did.
    fn kill(&mut self, id: NodeId) {
        self.gates.remove(&id);
        self.part(id);
    }

    /// Nobody reaches a gate that lives on.
    fn cut(&mut self, id: NodeId) {
        self.cut.insert(id);
        self.part(id);
        let others: Vec<NodeId> = self.gates.keys().copied().filter(|gate| *gate != id).collect();
        for node in others.into_iter().chain([EU, US]) {
            self.input(id, Input::Disconnected { node });
        }
        self.input(id, Input::Leadership { leads: false, leader: None });
    }

    fn part(&mut self, id: NodeId) {
        let others: Vec<NodeId> =
            self.gates.keys().copied().filter(|gate| !self.cut.contains(gate)).collect();
        others.iter().for_each(|&other| self.input(other, Input::Disconnected { node: id }));
        if self.leader == id
            && let Some(&next) = others.iter().find(|other| **other != id)
        {
            self.leader = next;
            for other in others.into_iter().filter(|other| *other != id) {
                let (leads, leader) = (other == next, Some(next));
                self.input(other, Input::Leadership { leads, leader });
            }
        }
        self.run();
    }

    fn heal(&mut self, id: NodeId) {
        self.cut.remove(&id);
        let others: Vec<NodeId> = self.gates.keys().copied().filter(|gate| *gate != id).collect();
        for other in others {
            self.input(id, Input::GateConnected { gate: other });
            self.input(other, Input::GateConnected { gate: id });
        }
        self.catch_up(id);
        let leader = Some(self.leader);
        self.input(id, Input::Leadership { leads: false, leader });
        for manager in [EU, US] {
            self.input(id, Input::ManagerConnected { manager });
        }
        self.run();
    }

    fn status(&mut self, manager: NodeId) -> DatacenterStatus {
        self.version += 1;
        let node = |node, role, state, cores| NodeStatus {
            node,
            role,
            state,
            cores,
            free_cores: cores,
            software: String::new(),
        };
        let spares = self.spares.iter().filter(|_| manager == EU);
        let spares = spares.map(|spare| node(*spare, Role::Manager, NodeState::Following, 0));
        DatacenterStatus {
            datacenter: DatacenterId::from(if manager == EU { "eu" } else { "us" }),
            leading: Some(Fence(1)),
            version: Version(self.version),
            managers: 1,
            managers_healthy: 1,
            voters: [manager, NodeId(manager.0 + 2)].into(),
            queue: 0,
            workers: 1,
            cores: 4,
            free_cores: 4,
            nodes: spares
                .chain([
                    node(manager, Role::Manager, NodeState::Leading, 0),
                    node(NodeId(manager.0 + 1), Role::Worker, NodeState::Ready, 4),
                ])
                .collect(),
        }
    }

    fn input(&mut self, id: NodeId, input: Input) {
        let Some(gate) = self.gates.get_mut(&id) else { return };
        gate.handle(self.now, input);
        let outputs: Vec<Output> = gate.drain().collect();
        for output in outputs {
            match output {
                Output::Send { to, message } => self.wires.push_back((id, to, message)),
                Output::Reply { id, reply } => {
                    self.replies.insert(id, reply);
                    *self.answers.entry(id).or_default() += 1;
                }
                Output::Event(event) => self.events.push((id, event)),
                Output::Propose { proposal, entry } => {
                    let reached = self.gates.len() - self.cut.len();
                    if id == self.leader && reached >= 2 {
                        self.log.push(entry);
                    } else {
                        self.input(id, Input::Refused { proposal });
                    }
                }
                Output::ChangeElectorate(change) => self.changes.push(change),
                Output::Removed => {
                    self.stopped.insert(id);
                }
                _ => {}
            }
        }
    }

    fn catch_up(&mut self, id: NodeId) {
        while let Some(entry) = self.log.get(self.applied[&id]).cloned() {
            let index = self.applied[&id] as u64 + 1;
            self.applied.insert(id, self.applied[&id] + 1);
            self.input(id, Input::Committed { index, entry, proposal: None });
        }
    }

    /// Lets everything arrive that is on its way.
    fn run(&mut self) {
        while self.step() {}
    }

    /// Lets the gates hear of what was decided, and one message arrive; false if none is left.
    fn step(&mut self) -> bool {
        let reached: Vec<NodeId> =
            self.gates.keys().copied().filter(|id| !self.cut.contains(id)).collect();
        reached.into_iter().for_each(|id| self.catch_up(id));
        let Some((from, to, message)) = self.wires.pop_front() else { return false };
        if self.cut.contains(&from) || self.cut.contains(&to) {
            return true;
        }
        if let Message::Propose { entry, .. } = &message {
            self.handed.push((from, entry.clone()));
        }
        match message {
            Message::Probe { number, removed } => {
                self.removed.extend(removed);
                if self.answering.contains(&to) {
                    let message = Message::ProbeAck { number, status: self.status(to) };
                    self.input(from, Input::Message { from: to, message });
                }
            }
            message if to == EU || to == US => self.told.push((from, to, message)),
            message => self.input(to, Input::Message { from, message }),
        }
        true
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += Duration::from_millis(250);
            let gates: Vec<NodeId> = self.gates.keys().copied().collect();
            gates.into_iter().for_each(|gate| self.input(gate, Input::Tick));
            self.run();
        }
    }

    fn ask(&mut self, gate: NodeId, request: Request) -> RequestId {
        let id = self.ask_only(gate, request);
        self.run();
        id
    }

    /// Asks, and lets nothing arrive anywhere.
    fn ask_only(&mut self, gate: NodeId, request: Request) -> RequestId {
        self.requests += 1;
        let (id, client) = (RequestId(self.requests), ClientId::from("test"));
        self.input(gate, Input::Request { id, client, request });
        id
    }

    fn submit(&mut self, gate: NodeId, key: &str, plan: &Plan) -> RequestId {
        self.ask(gate, submission(key, plan))
    }

    #[track_caller]
    fn accepted(&self, id: RequestId) -> JobId {
        match self.replies.get(&id) {
            Some(Reply::Accepted { job }) => *job,
            other => panic!("not accepted: {other:?}"),
        }
    }

    fn owner(&self, job: JobId) -> NodeId {
        let any = self.gates.iter().find(|(id, _)| !self.cut.contains(id)).unwrap().1;
        any.state().jobs[&job].gate
    }

    fn fence(&self, job: JobId) -> Fence {
        let any = self.gates.iter().find(|(id, _)| !self.cut.contains(id)).unwrap().1;
        any.state().jobs[&job].fence
    }

    fn manager_says(&mut self, manager: NodeId, message: Message) {
        let gates: Vec<NodeId> =
            self.gates.keys().copied().filter(|gate| !self.cut.contains(gate)).collect();
        for gate in gates {
            self.input(gate, Input::Message { from: manager, message: message.clone() });
        }
        self.run();
    }

    /// Datacenters accept what they were offered, and start.
    fn accept_all(&mut self, job: JobId) {
        let fence = self.fence(job);
        for (manager, index) in [EU, US].into_iter().zip(0..) {
            let part = PartId { job, part: PartIndex(index) };
            self.manager_says(manager, Message::PartAccepted { part, fence });
        }
        self.wait(1);
    }

    fn report(&mut self, part: PartId, seq: u64, state: WorkflowState) -> PartReport {
        let report = report(part, seq, state);
        let manager = if part.part.0 == 0 { EU } else { US };
        self.manager_says(manager, Message::PartReport(Box::new(report.clone())));
        report
    }

    fn end(&mut self, part: PartId, seq: u64, attempts: Vec<(AttemptId, DeltaSeq)>) {
        self.end_as(part, seq, attempts, EndStatus::Completed);
    }

    fn end_as(
        &mut self,
        part: PartId,
        seq: u64,
        attempts: Vec<(AttemptId, DeltaSeq)>,
        status: EndStatus,
    ) {
        let report = self.report(part, seq, WorkflowState::Ended(status.clone()));
        let manager = if part.part.0 == 0 { EU } else { US };
        let result = PartResult { report, status, attempts };
        self.manager_says(manager, Message::PartEnded(Box::new(result)));
        self.wait(1);
    }

    fn delta(&mut self, part: PartId, seq: u64) -> AttemptId {
        let (job, index) = (part.job, part.part);
        let shard =
            ShardId { job, part: index, workflow: Default::default(), shard: Default::default() };
        let attempt = AttemptId { shard, number: AttemptNumber(1) };
        let figures = WindowFigures {
            figures: Figures { iterations: 3, ..Figures::default() },
            ..WindowFigures::default()
        };
        let (window, span) = (seq - 1, 1);
        let delta = Delta { attempt, seq: DeltaSeq(seq), window, span, figures };
        let manager = if index.0 == 0 { EU } else { US };
        self.manager_says(manager, Message::Delta(Box::new(delta)));
        attempt
    }

    fn offers(&self, job: JobId) -> Vec<(NodeId, NodeId)> {
        let offers = self.told.iter().filter_map(|(from, to, message)| match message {
            Message::OfferPart(offer) if offer.part.job == job => Some((*from, *to)),
            _ => None,
        });
        offers.collect()
    }

    fn result(&mut self, gate: NodeId, job: JobId) -> Arc<hyperscale_report::JobResult> {
        let id = self.ask(gate, Request::Results { job });
        match self.replies.remove(&id) {
            Some(Reply::Results(result)) => result,
            other => panic!("no result: {other:?}"),
        }
    }
}

fn report(part: PartId, seq: u64, state: WorkflowState) -> PartReport {
    PartReport {
        part,
        fence: Fence(1),
        seq: ProgressSeq(seq),
        workflows: vec![WorkflowReport { state, started: Some(Duration::ZERO), ended: None }],
        gaps: Vec::new(),
        rows: Vec::new(),
        workers: 1,
        cores: 1,
        late_requests: 0,
        started: Some(WallTime(1_000)),
        published: Default::default(),
        settled: Default::default(),
        steered: Default::default(),
        pauses: Default::default(),
        job_time: None,
        wait: None,
        inquire: Vec::new(),
    }
}

fn submission(key: &str, plan: &Plan) -> Request {
    let (key, plan) = (key.to_owned(), plan.to_bytes());
    Request::Submit { key, plan, blobs: Vec::new(), secrets: Secrets::default() }
}

fn both() -> Plan {
    let run = RunSettings { datacenters: Datacenters::All, ..RunSettings::default() };
    Plan { run, ..plan(vec![workflow("a")]) }
}

fn part(job: JobId, index: u16) -> PartId {
    PartId { job, part: PartIndex(index) }
}

#[test]
fn reg_01_every_gate_takes_part_and_knows_both_datacenters() {
    let mut cluster = Cluster::new();

    for gate in [A, B, C] {
        assert!(cluster.gates[&gate].takes_part(), "{gate}");
        let id = cluster.ask(gate, Request::Datacenters);
        let Some(Reply::Datacenters(views)) = cluster.replies.get(&id) else { panic!() };
        assert_eq!(views.iter().filter(|view| view.is_fresh).count(), 2, "{gate}: {views:?}");
    }
}

#[test]
fn dsp_01_each_datacenter_is_offered_its_part_once_by_the_owner() {
    let mut cluster = Cluster::new();

    let id = cluster.submit(B, "k", &both());
    let job = cluster.accepted(id);
    cluster.wait(0);

    let owner = cluster.owner(job);
    let mut offers = cluster.offers(job);
    offers.sort();
    assert_eq!(offers, [(owner, EU), (owner, US)]);
}

#[test]
fn idm_01_idm_05_a_repeated_submission_gets_the_same_job_at_every_gate() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);

    for gate in [A, B, C] {
        let again = cluster.submit(gate, "k", &both());
        assert_eq!(cluster.accepted(again), job);
        let other = cluster.submit(gate, "k", &plan(vec![workflow("b")]));
        let refused = cluster.replies.get(&other);
        let is_conflict = |reply: &Reply| matches!(reply, Reply::Error(error) if error.kind == RequestErrorKind::KeyConflict);
        assert!(refused.is_some_and(is_conflict), "{refused:?}");
    }
    assert_eq!(cluster.gates[&A].state().jobs.len(), 1);
}

#[test]
fn idm_03_equal_submissions_that_cross_are_one_job() {
    let mut cluster = Cluster::new();
    let ids: Vec<RequestId> = [A, B, C]
        .into_iter()
        .map(|gate| {
            // Nothing arrives anywhere until all have been asked.
            cluster.ask_only(gate, submission("k", &both()))
        })
        .collect();
    cluster.run();

    let jobs: BTreeSet<JobId> = ids.iter().map(|&id| cluster.accepted(id)).collect();
    assert_eq!(jobs.len(), 1);
    assert_eq!(cluster.gates[&C].state().jobs.len(), 1);
}

#[test]
fn ldr_05_a_gate_without_a_majority_refuses_at_once_and_says_why() {
    let mut cluster = Cluster::new();
    cluster.kill(A);
    cluster.kill(B);

    let id = cluster.submit(C, "k", &both());

    match cluster.replies.get(&id) {
        Some(Reply::Error(error)) => {
            assert_eq!(error.kind, RequestErrorKind::NotReady);
            assert!(error.message.contains("reaches 1 of 3 gates"), "{}", error.message);
        }
        other => panic!("not refused: {other:?}"),
    }
    cluster.start(A);
    cluster.wait(4);
    let id = cluster.submit(C, "k", &both());
    cluster.accepted(id);
}

#[test]
fn orp_01_sta_05_the_next_owner_goes_on_with_what_was_counted() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 1, WorkflowState::Running);
    cluster.report(part(job, 1), 1, WorkflowState::Running);
    let attempts = [0, 1].map(|index| cluster.delta(part(job, index), 1));
    cluster.wait(2);
    let (first, before) = (cluster.owner(job), cluster.fence(job));

    cluster.kill(first);
    cluster.wait(4);

    let second = cluster.owner(job);
    assert_ne!(second, first);
    assert!(cluster.fence(job) > before, "the next owner has a higher fence");
    cluster.accept_all(job);
    for (index, attempt) in [0, 1].into_iter().zip(attempts) {
        cluster.delta(part(job, index), 2);
        cluster.end(part(job, index), 2, vec![(attempt, DeltaSeq(2))]);
    }
    cluster.wait(2);
    let result = cluster.result(second, job);
    assert_eq!(result.summary.totals.iterations, 12, "four deltas of three");
    assert!(!result.summary.partial);
}

#[test]
fn ldr_11_lse_03_a_gate_that_comes_back_finds_that_it_owns_nothing() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let first = cluster.owner(job);

    cluster.cut(first);
    cluster.wait(4);
    assert_eq!(cluster.gates[&first].owned().count(), 1, "it does not know yet");
    assert_ne!(cluster.owner(job), first);
    cluster.heal(first);
    cluster.wait(2);

    assert_eq!(cluster.gates[&first].owned().count(), 0);
    assert!(cluster.gates[&first].takes_part(), "it may own jobs to come");
    let owners = cluster.gates.values().filter(|gate| gate.owned().count() > 0).count();
    assert_eq!(owners, 1);
}

#[test]
fn ldr_08_an_owner_that_hears_of_a_higher_fence_sends_its_watchers_on() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let owner = cluster.owner(job);
    cluster.cut(owner);
    cluster.ask(owner, Request::Watch { job, after: u64::MAX });
    let id = cluster.ask(owner, Request::Watch { job, after: u64::MAX });

    // A manager that it still reaches knows of the next owner.
    let (subject, held) = (Subject::Job(job), Fence(1_000));
    let message = Message::StaleFence { subject, held };
    cluster.input(owner, Input::Message { from: EU, message });

    assert_eq!(cluster.gates[&owner].owned().count(), 0);
    let reply = cluster.replies.get(&id);
    let is_sent_on = matches!(reply, Some(Reply::Error(e)) if e.kind == RequestErrorKind::NotReady);
    assert!(is_sent_on, "{reply:?}");
}

#[test]
fn can_07_a_cancel_outlives_the_owner_that_knew_of_it() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 1, WorkflowState::Running);
    let first = cluster.owner(job);
    let other = [A, B, C].into_iter().find(|gate| *gate != first).unwrap();
    cluster.ask(other, Request::Cancel { job, workflow: None, mode: StopMode::Graceful });

    cluster.kill(first);
    cluster.told.clear();
    cluster.wait(4);
    cluster.accept_all(job);
    cluster.wait(2);

    let second = cluster.owner(job);
    let stopped: BTreeSet<NodeId> = (cluster.told.iter())
        .filter(|(from, _, message)| *from == second && matches!(message, Message::StopPart { .. }))
        .map(|(_, to, _)| *to)
        .collect();
    assert_eq!(stopped, [EU, US].into(), "nobody had to ask again");
}

#[test]
fn can_02_can_05_a_cancel_after_the_end_changes_nothing() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.end(part(job, 0), 1, Vec::new());
    cluster.end(part(job, 1), 1, Vec::new());
    cluster.wait(2);

    for gate in [A, B, C] {
        let mode = StopMode::Now;
        let id = cluster.ask(gate, Request::Cancel { job, workflow: None, mode });
        match cluster.replies.get(&id) {
            Some(Reply::Job(view)) => assert_eq!(view.end(), Some(&EndStatus::Completed)),
            other => panic!("no answer: {other:?}"),
        }
    }
}

#[test]
fn res_01_res_02_res_05_a_job_ends_once_and_only_with_its_last_datacenter() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);

    cluster.end(part(job, 1), 1, Vec::new());
    cluster.end(part(job, 1), 1, Vec::new());
    cluster.wait(60);
    let is_open = |cluster: &Cluster| cluster.gates[&A].state().jobs[&job].ended.is_none();
    assert!(is_open(&cluster), "the other datacenter has not reported");
    cluster.end(part(job, 0), 1, Vec::new());
    cluster.wait(2);

    assert!(!is_open(&cluster));
    let results: Vec<_> = [A, B, C].map(|gate| cluster.result(gate, job)).into();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "one result, at every gate");
}

#[test]
fn res_03_fed_01_a_datacenter_that_never_reports_is_given_up_and_named() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let attempt = cluster.delta(part(job, 0), 1);
    cluster.wait(2);
    cluster.end(part(job, 0), 1, vec![(attempt, DeltaSeq(1))]);

    cluster.answering.remove(&US);
    cluster.wait(60);
    assert!(cluster.gates[&A].state().jobs[&job].ended.is_none(), "it may come back");
    cluster.wait(300);

    let ended = cluster.gates[&A].state().jobs[&job].ended.clone().unwrap();
    assert_eq!((ended.status, ended.partial), (EndStatus::TimedOut, true));
    let result = cluster.result(C, job);
    assert_eq!(result.summary.totals.iterations, 3, "what the other has sent counts");
}

#[test]
fn dsp_06_a_datacenter_that_fetches_what_the_plan_names_is_not_late_until_it_gets_no_further() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &plan(vec![workflow("a")]));
    let job = cluster.accepted(id);
    let first = cluster.offers(job)[0].1;
    let second = if first == EU { US } else { EU };
    let hash = cluster.gates[&A].state().jobs[&job].plan;
    let owner = cluster.owner(job);
    let moved = |cluster: &Cluster| cluster.offers(job).iter().any(|(_, to)| *to == second);
    let ask = |cluster: &mut Cluster, offset: u64| {
        let message = Message::BlobRequest { hash, offset };
        cluster.input(owner, Input::Message { from: first, message });
        cluster.wait(4);
    };

    (0..10).for_each(|piece| ask(&mut cluster, piece));
    assert!(!moved(&cluster), "40 s, a piece every 4 s");

    // It asks for the last one again and again: it does not hear what it is answered.
    (0..3).for_each(|_| ask(&mut cluster, 9));
    assert!(moved(&cluster));
}

#[test]
fn dsp_06_a_part_that_nobody_accepts_goes_to_the_next_datacenter() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &plan(vec![workflow("a")]));
    let job = cluster.accepted(id);
    let first = cluster.offers(job)[0].1;
    let second = if first == EU { US } else { EU };

    cluster.wait(5);
    assert!(!cluster.offers(job).iter().any(|(_, to)| *to == second), "not at once");
    cluster.wait(5);

    assert!(cluster.offers(job).iter().any(|(_, to)| *to == second), "within 10 s");
    // The first one answers after all: it must not start.
    let (fence, late) = (cluster.fence(job), part(job, 0));
    cluster.told.clear();
    cluster.manager_says(first, Message::PartAccepted { part: late, fence });
    cluster.manager_says(second, Message::PartAccepted { part: part(job, 1), fence });
    cluster.wait(3);
    let started: Vec<NodeId> = (cluster.told.iter())
        .filter(|(.., message)| matches!(message, Message::StartPart { .. }))
        .map(|(_, to, _)| *to)
        .collect();
    assert!(!started.is_empty() && started.iter().all(|to| *to == second), "{started:?}");
}

#[test]
fn prg_01_an_older_report_changes_nothing() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 5, WorkflowState::Running);

    cluster.report(part(job, 0), 4, WorkflowState::Waiting);
    cluster.report(part(job, 0), 5, WorkflowState::Waiting);
    let owner = cluster.owner(job);
    let id = cluster.ask(owner, Request::Watch { job, after: 0 });
    cluster.wait(1);

    match cluster.replies.get(&id) {
        Some(Reply::News { view: Some(view), .. }) => {
            assert_eq!(view.workflows[0].1, "running");
        }
        other => panic!("no view: {other:?}"),
    }
}

#[test]
fn prg_02_what_is_reported_of_a_job_that_is_over_changes_nothing() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let attempt = cluster.delta(part(job, 0), 1);
    cluster.end(part(job, 0), 1, vec![(attempt, DeltaSeq(1))]);
    cluster.end(part(job, 1), 1, Vec::new());
    let before = cluster.gates[&A].state().jobs[&job].clone();
    let shown = cluster.result(A, job);
    assert_eq!(before.ended.as_ref().unwrap().status, EndStatus::Completed);
    let (entries, owner) = (cluster.log.len(), cluster.owner(job));

    cluster.delta(part(job, 0), 2);
    cluster.report(part(job, 0), 2, WorkflowState::Running);
    cluster.end_as(part(job, 1), 3, Vec::new(), EndStatus::TimedOut);
    cluster.wait(5);

    assert_eq!(cluster.log.len(), entries, "nothing is decided anew");
    assert_eq!(cluster.gates[&A].state().jobs[&job], before);
    assert_eq!(cluster.result(A, job), shown);
    let kept = cluster.gates[&owner].owned().filter(|(owned, _)| *owned == job).count();
    assert_eq!(kept, 1, "and nothing is made anew");
}

#[test]
fn prg_03_the_next_leaders_numbers_count_at_once_and_the_last_ones_no_more() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let owner = cluster.owner(job);
    let shown = |cluster: &mut Cluster| {
        let id = cluster.ask(owner, Request::Watch { job, after: 0 });
        cluster.wait(1);
        match cluster.replies.remove(&id) {
            Some(Reply::News { view: Some(view), .. }) => view.workflows[0].1.clone(),
            other => panic!("no view: {other:?}"),
        }
    };
    let say = |cluster: &mut Cluster, fence: u64, seq: u64, state: WorkflowState| {
        let report = PartReport { fence: Fence(fence), ..report(part(job, 0), seq, state) };
        cluster.manager_says(EU, Message::PartReport(Box::new(report)));
    };
    say(&mut cluster, 1, 500, WorkflowState::Placed);
    assert_eq!(shown(&mut cluster), "prepares");

    // The next one begins to count at 1.
    say(&mut cluster, 7, 1, WorkflowState::Running);
    assert_eq!(shown(&mut cluster), "running");
    say(&mut cluster, 1, 501, WorkflowState::Placed);

    assert_eq!(shown(&mut cluster), "running", "the last one is not heard any more");
    let stale = cluster.events.iter().any(|(gate, event)| {
        let is_stale = matches!(event, Event::StaleFence { fence: Fence(1), held: Fence(7), .. });
        *gate == owner && is_stale
    });
    assert!(stale, "and that is counted");
}

#[test]
fn prg_03_what_the_last_owner_shows_is_told_to_nobody_once_another_owns_the_job() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let owner = cluster.owner(job);
    let other = [A, B, C].into_iter().find(|gate| *gate != owner).unwrap();
    let asked = cluster.ask_only(other, Request::Watch { job, after: 0 });
    assert_eq!(cluster.replies.get(&asked), None, "its question is on its way");

    let incarnation = Incarnation(cluster.lives[&owner]);
    let ended = crate::state::Entry::SessionEnded { gate: owner, incarnation, has_left: false };
    let (by, proposal) = ((other, incarnation), hyperscale_model::ProposalId(1_000));
    let ended = crate::Proposed { by, proposal, entry: std::borrow::Cow::Owned(ended) };
    cluster.log.push(hyperscale_wire::encode_value(&ended).unwrap());
    cluster.catch_up(other);
    assert_ne!(cluster.gates[&other].state().jobs[&job].gate, owner);
    let news = crate::request::News { events: Vec::new(), view: None, is_over: false };
    let answer = hyperscale_wire::encode_value(&Ok::<_, RequestError>(news)).unwrap();
    let message = Message::Answer { number: 1, answer };
    cluster.input(other, Input::Message { from: owner, message });

    let reply = &cluster.replies[&asked];
    let is_retryable =
        matches!(reply, Reply::Error(error) if error.kind == RequestErrorKind::NotReady);
    assert!(is_retryable, "{reply:?}");
}

#[test]
fn dag_06_a_test_whose_workflows_make_no_sense_is_refused_before_anything_is_decided() {
    let after = |index: u16| hyperscale_plan::After {
        workflows: vec![hyperscale_model::WorkflowIndex(index)],
        ..Default::default()
    };
    let mut circle = plan(vec![workflow("a"), workflow("b")]);
    circle.workflows[0].after = after(1);
    circle.workflows[1].after = after(0);
    let mut itself = plan(vec![workflow("a")]);
    itself.workflows[0].after = after(0);
    let mut unknown = plan(vec![workflow("a")]);
    unknown.workflows[0].after = after(7);
    let mut idle = plan(vec![workflow("a")]);
    idle.workflows[0].load =
        hyperscale_plan::Load::ConstantVus { vus: 0, duration: Duration::from_secs(1) };
    let mut cluster = Cluster::new();
    let entries = cluster.log.len();

    for (what, plan) in [
        ("a circle", circle),
        ("one that waits for itself", itself),
        ("one that waits for nobody", unknown),
        ("no workflow", plan(Vec::new())),
        ("no user", idle),
    ] {
        let id = cluster.submit(A, what, &plan);
        let reply = &cluster.replies[&id];
        let is_refused = |error: &RequestError| {
            error.kind == RequestErrorKind::BadPlan && !error.message.is_empty()
        };
        assert!(matches!(reply, Reply::Error(error) if is_refused(error)), "{what}: {reply:?}");
    }

    assert_eq!(cluster.log.len(), entries, "nothing was decided");
    assert!(cluster.told.is_empty(), "and nobody was told");
}

#[test]
fn reports_of_a_load_that_stands_still_do_not_pile_up() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    for seq in 1..=50 {
        cluster.report(part(job, 0), seq, WorkflowState::Running);
        cluster.report(part(job, 1), seq, WorkflowState::Running);
    }

    let owner = cluster.owner(job);
    let kept = cluster.gates[&owner].live[&job].kept_reports();
    assert!(kept <= 2, "{kept} reports wait for a checkpoint");
}

#[test]
fn orp_07_news_come_through_any_gate() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);

    for gate in [A, B, C] {
        let id = cluster.ask(gate, Request::Watch { job, after: 0 });
        cluster.wait(1);
        let reply = cluster.replies.get(&id);
        let is_news = matches!(reply, Some(Reply::News { view: Some(_), is_over: false, .. }));
        assert!(is_news, "{gate}: {reply:?}");
    }
    let gate = [A, B, C].into_iter().find(|gate| *gate != cluster.owner(job)).unwrap();
    cluster.ask(gate, Request::Watch { job, after: u64::MAX });
    // What came a moment ago is not told again so soon: this one waits.
    let id = cluster.ask(gate, Request::Watch { job, after: u64::MAX });
    assert_eq!(cluster.replies.get(&id), None);
    cluster.kill(cluster.owner(job));
    let reply = cluster.replies.get(&id);
    let is_retryable =
        matches!(reply, Some(Reply::Error(e)) if e.kind == RequestErrorKind::NotReady);
    assert!(is_retryable, "whoever waited is told to ask again: {reply:?}");
}

impl Cluster {
    fn electorate(&mut self, voters: &[NodeId], learners: &[NodeId]) {
        let electorate = Electorate {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().map(|learner| (*learner, true)).collect(),
            is_changing: false,
        };
        self.electorate = electorate.clone();
        let gates: Vec<NodeId> = self.gates.keys().copied().collect();
        for gate in gates {
            self.input(gate, Input::Electorate(electorate.clone()));
        }
        self.run();
    }
}

#[test]
fn a_gate_that_is_lost_for_good_is_removed_and_a_spare_owns_jobs_in_its_place() {
    const D: NodeId = NodeId(4);
    let mut cluster = Cluster::new();
    cluster.electorate(&[A, B, C], &[]);
    cluster.kill(C);
    cluster.wait(5);
    cluster.start(D);
    cluster.wait(2);
    assert_eq!(cluster.changes.pop(), Some(ElectorateChange::Learn(D)));
    cluster.electorate(&[A, B, C], &[D]);
    cluster.wait(2);
    let spare = cluster.gates[&D].state().sessions.clone();
    assert_eq!(spare.keys().copied().collect::<Vec<_>>(), [A, B], "a spare owns nothing");
    let asked = cluster.submit(D, "spare", &plan(vec![workflow("a")]));
    assert!(
        matches!(&cluster.replies[&asked], Reply::Error(error) if error.message.contains("spare")),
        "{:?}",
        cluster.replies[&asked]
    );

    // It knows of nobody, and says so: whoever asks goes to another gate.
    for request in [Request::Remove { node: NodeId(77) }, Request::Drain { node: NodeId(77) }] {
        let asked = cluster.ask(D, request);
        let reply = &cluster.replies[&asked];
        assert!(
            matches!(reply, Reply::Error(error) if error.kind == RequestErrorKind::NotReady),
            "{reply:?}"
        );
    }

    let removed = cluster.ask(B, Request::Remove { node: C });

    assert_eq!(cluster.replies[&removed], Reply::Removed { node: C });
    cluster.wait(1);
    assert_eq!(cluster.changes.pop(), Some(ElectorateChange::Vote([A, B, D].into())));
    cluster.electorate(&[A, B, D], &[]);
    cluster.wait(2);
    assert!(cluster.gates[&A].state().sessions.contains_key(&D), "it takes part now");
    let asked = cluster.submit(D, "voter", &plan(vec![workflow("a")]));
    cluster.wait(1);
    cluster.accepted(asked);

    // It was only cut off, and comes back: it is told, and can own nothing.
    cluster.start(C);
    cluster.wait(2);
    assert!(cluster.stopped.contains(&C));
    assert!(!cluster.gates[&A].state().sessions.contains_key(&C));
}

/// A job whose figures its owner and one other gate hold, and that gate's place was taken by a spare
/// which has been sent nothing yet. The owner is cut off just then. Returns the job and the owner.
fn replaced_amid_a_job(cluster: &mut Cluster) -> (JobId, NodeId) {
    const D: NodeId = NodeId(4);
    cluster.electorate(&[A, B, C], &[]);
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let owner = cluster.owner(job);
    let lost = [A, B, C].into_iter().find(|gate| *gate != owner).unwrap();
    cluster.delta(part(job, 0), 1);
    cluster.wait(2);
    cluster.kill(lost);
    cluster.start(D);
    cluster.electorate(&[A, B, C], &[D]);
    cluster.ask(owner, Request::Remove { node: lost });
    cluster.wait(1);
    cluster.cut(owner);
    let rest: Vec<NodeId> = [A, B, C, D].into_iter().filter(|gate| *gate != lost).collect();
    cluster.electorate(&rest, &[]);
    cluster.wait(20);
    assert_ne!(cluster.owner(job), owner);
    (job, owner)
}

fn goes_on(cluster: &mut Cluster, job: JobId) -> bool {
    cluster.told.clear();
    cluster.wait(10);
    let owner = cluster.owner(job);
    cluster.offers(job).iter().any(|(from, _)| *from == owner)
}

#[test]
fn sta_05_a_gate_that_has_taken_a_lost_ones_place_stands_for_nothing_that_one_held() {
    let mut cluster = Cluster::new();
    let (job, owner) = replaced_amid_a_job(&mut cluster);
    // Both that are there may have less than was acknowledged: only the third knows.
    assert!(!goes_on(&mut cluster, job), "from copies that may lack what was acknowledged");
    let told: Vec<&Vec<NodeId>> = (cluster.events.iter())
        .filter_map(|(_, event)| match event {
            Event::JobUnrecovered { gates, .. } => Some(gates),
            _ => None,
        })
        .collect();
    assert_eq!(told, [&vec![owner]], "it is said, once");

    cluster.heal(owner);
    assert!(goes_on(&mut cluster, job), "the third is back");
    for index in 0..2 {
        cluster.end(part(job, index), 2, Vec::new());
    }
    let gate = cluster.owner(job);
    assert_eq!(cluster.result(gate, job).summary.totals.iterations, 3);
}

#[test]
fn sta_05_whoever_removes_the_last_that_knows_has_the_job_go_on_with_what_is_left() {
    let mut cluster = Cluster::new();
    let (job, owner) = replaced_amid_a_job(&mut cluster);

    cluster.cut.remove(&owner);
    cluster.gates.remove(&owner);
    let gate = cluster.owner(job);
    let removed = cluster.ask(gate, Request::Remove { node: owner });
    assert_eq!(cluster.replies[&removed], Reply::Removed { node: owner });
    let rest: Vec<NodeId> = cluster.gates.keys().copied().collect();
    cluster.electorate(&rest, &[]);

    assert!(goes_on(&mut cluster, job));
}

/// Gates that give up voters after 30 s.
fn reaping() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.reap = Some(Duration::from_secs(30));
    for gate in [B, C, A] {
        cluster.kill(gate);
        cluster.start(gate);
    }
    cluster.electorate(&[A, B, C], &[]);
    cluster.wait(2);
    cluster
}

#[test]
fn a_gate_that_is_missed_for_long_gives_way_to_a_spare_and_to_nobody_else() {
    const D: NodeId = NodeId(4);
    let mut cluster = reaping();
    let missed = [A, B, C].into_iter().find(|gate| *gate != cluster.leader).unwrap();
    let removed = |cluster: &Cluster| {
        cluster.gates[&cluster.leader]
            .state()
            .removed
            .iter()
            .map(|(node, _)| *node)
            .collect::<Vec<_>>()
    };
    let nobody: Vec<NodeId> = Vec::new();
    cluster.kill(missed);
    cluster.wait(60);
    assert_eq!(removed(&cluster), nobody, "two that vote are no safer than three");

    cluster.start(D);
    cluster.electorate(&[A, B, C], &[D]);
    cluster.wait(2);
    assert_eq!(removed(&cluster), [missed]);
    let rest: Vec<NodeId> = [A, B, C, D].into_iter().filter(|gate| *gate != missed).collect();
    let vote = ElectorateChange::Vote(rest.iter().copied().collect());
    assert_eq!(cluster.changes.pop(), Some(vote));
    cluster.electorate(&rest, &[]);

    // The next one that is missed has its own time.
    let next = rest.iter().copied().find(|gate| *gate != cluster.leader).unwrap();
    cluster.start(NodeId(5));
    cluster.electorate(&rest, &[NodeId(5)]);
    cluster.kill(next);
    cluster.wait(20);
    cluster.start(next);
    cluster.wait(20);
    assert_eq!(removed(&cluster), [missed], "it was back in time");
}

#[test]
fn a_manager_that_is_missed_for_long_gives_way_to_a_spare() {
    let mut cluster = reaping();
    let gone = NodeId(EU.0 + 2);
    cluster.wait(60);
    assert_eq!(cluster.removed, [].into(), "there is no spare");

    cluster.spares.insert(NodeId(EU.0 + 3));
    cluster.wait(6);

    assert_eq!(cluster.removed, [gone].into());
}

#[test]
fn a_manager_that_is_removed_is_told_to_its_datacenter_with_every_probe() {
    let mut cluster = Cluster::new();
    let gone = NodeId(EU.0 + 2);

    let removed = cluster.ask(A, Request::Remove { node: gone });

    assert_eq!(cluster.replies[&removed], Reply::Removed { node: gone });
    cluster.wait(4);
    assert_eq!(cluster.removed, [gone].into(), "by gates that own nothing, too");
    let told = |cluster: &Cluster| {
        let told = |(_, event): &&(_, Event)| matches!(event, Event::NodeRemoved { .. });
        cluster.events.iter().filter(told).count()
    };
    assert_eq!(told(&cluster), 3, "each gate logs it");
    cluster.kill(C);
    cluster.start(C);
    cluster.wait(2);
    assert_eq!(told(&cluster), 3, "and not once more as it reads its ledger");
    assert_eq!(cluster.gates[&B].removed_of(&DatacenterId::from("us")), []);
}

#[test]
fn what_cannot_be_removed_is_refused_with_the_reason() {
    let mut cluster = Cluster::new();
    for (node, kind, words) in [
        (NodeId(999), RequestErrorKind::NotFound, "no node"),
        (NodeId(EU.0 + 1), RequestErrorKind::CannotRemove, "is a worker"),
    ] {
        let asked = cluster.ask(A, Request::Remove { node });
        let Reply::Error(error) = &cluster.replies[&asked] else { panic!("{node} was removed") };
        assert!(error.kind == kind && error.message.contains(words), "{error:?}");
    }
    cluster.electorate(&[A], &[]);
    let asked = cluster.ask(A, Request::Remove { node: A });
    let Reply::Error(error) = &cluster.replies[&asked] else { panic!("the last was removed") };
    assert!(error.message.contains("the only one that votes"), "{error:?}");
}

#[test]
fn dat_01_datacenters_that_run_the_whole_load_each_draw_from_rows_of_their_own() {
    let mut cluster = Cluster::new();
    let run = RunSettings { split: Split::Each, ..both().run };
    let id = cluster.submit(A, "k", &Plan { run, ..both() });
    let job = cluster.accepted(id);

    let offers: BTreeMap<PartId, (Slice, Slice)> = (cluster.told.iter())
        .filter_map(|(.., message)| match message {
            Message::OfferPart(offer) => {
                Some((offer.part, (offer.slice.clone(), offer.rows.clone())))
            }
            _ => None,
        })
        .collect();

    assert_eq!(offers.keys().copied().collect::<Vec<_>>(), [part(job, 0), part(job, 1)]);
    let halves = Slice::whole().split_evenly(2);
    for ((slice, rows), half) in offers.values().zip(&halves) {
        assert_eq!((slice, rows), (&Slice::whole(), half), "all of the load, half of the rows");
    }
}

#[test]
fn orp_01_the_next_owner_asks_for_the_statistics_of_parts_that_had_ended() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let attempt = cluster.delta(part(job, 0), 1);
    // Its second delta is still on its way when the part ends, and then the owner dies.
    cluster.end(part(job, 0), 1, vec![(attempt, DeltaSeq(2))]);
    let first = cluster.owner(job);
    cluster.kill(first);
    cluster.told.clear();
    cluster.wait(10);

    let owner = cluster.owner(job);
    assert_ne!(owner, first);
    let asks = |cluster: &Cluster| {
        let offers = cluster.told.iter().filter(|(from, to, message)| {
            let is_offer = matches!(message, Message::OfferPart(o) if o.part == part(job, 0));
            (*from, *to) == (owner, EU) && is_offer
        });
        offers.count()
    };
    assert!(asks(&cluster) > 0, "the datacenter speaks to the owner that it knows");
    let fence = cluster.fence(job);
    cluster.manager_says(EU, Message::PartAccepted { part: part(job, 0), fence });
    cluster.told.clear();
    cluster.wait(10);
    assert_eq!(asks(&cluster), 0, "it knows by now");
}
