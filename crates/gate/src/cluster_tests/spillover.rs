//! Parts that wait for cores in one datacenter while another has some.

use hyperscale_wire::StopReason;

use super::*;

/// A job of one datacenter that waits for cores there, for so many seconds more.
struct Waiting {
    cluster: Cluster,
    job: JobId,
    here: NodeId,
    there: NodeId,
}

fn report_of(part: PartId, seq: u64, state: WorkflowState, wait: Option<u64>) -> PartReport {
    let workflows = vec![WorkflowReport { state, started: None, ended: None }];
    let wait = wait.map(Duration::from_secs);
    PartReport { workflows, wait, cores: 0, workers: 0, ..report(part, seq, WorkflowState::Ready) }
}

impl Waiting {
    fn for_seconds(wait: u64, plan: &Plan) -> Self {
        let mut cluster = Cluster::new();
        cluster.wait(4); // Both datacenters' distances are known.
        let id = cluster.submit(A, "k", plan);
        let job = cluster.accepted(id);
        let here = cluster.offers(job)[0].1;
        let there = if here == EU { US } else { EU };
        let mut waiting = Self { cluster, job, here, there };
        waiting.accept(0);
        waiting.says(Message::PartReport(Box::new(report_of(
            part(job, 0),
            1,
            WorkflowState::Ready,
            Some(wait),
        ))));
        waiting.cluster.wait(1);
        waiting
    }

    fn accept(&mut self, index: u16) {
        let (part, fence) = (part(self.job, index), self.cluster.fence(self.job));
        let manager = if index == 0 { self.here } else { self.there };
        self.cluster.manager_says(manager, Message::PartAccepted { part, fence });
        self.cluster.wait(1);
    }

    /// The datacenter where it waits says something.
    fn says(&mut self, message: Message) {
        self.cluster.manager_says(self.here, message);
    }

    /// Who was asked to give it back, by whom.
    fn asked_back(&self) -> BTreeSet<(NodeId, NodeId)> {
        let told = self.cluster.told.iter().filter(|(.., message)| {
            matches!(message, Message::StopPart { reason: StopReason::Returned, .. })
        });
        told.map(|(from, to, _)| (*from, *to)).collect()
    }

    /// It is given back, as nothing of it has begun.
    fn give_back(&mut self) {
        let status = StopReason::Returned.end_status();
        let state = WorkflowState::Ended(status.clone());
        let report = report_of(part(self.job, 0), 2, state, None);
        let result = PartResult { report, status, attempts: Vec::new() };
        self.says(Message::PartEnded(Box::new(result)));
        self.cluster.wait(1);
    }

    fn offered_to(&self, index: u16) -> BTreeSet<NodeId> {
        let offers = self.cluster.told.iter().filter_map(|(_, to, message)| match message {
            Message::OfferPart(offer) if offer.part == part(self.job, index) => Some(*to),
            _ => None,
        });
        offers.collect()
    }

    fn state(&self) -> &crate::state::Job {
        let owner = self.cluster.owner(self.job);
        &self.cluster.gates[&owner].state().jobs[&self.job]
    }

    /// It runs where it is now, and ends well.
    fn run(&mut self, manager: NodeId, index: u16) {
        let (job, part) = (self.job, part(self.job, index));
        let started = report(part, 1, WorkflowState::Running);
        self.cluster.manager_says(manager, Message::PartReport(Box::new(started)));
        let shard = ShardId {
            job,
            part: part.part,
            workflow: Default::default(),
            shard: Default::default(),
        };
        let attempt = AttemptId { shard, number: AttemptNumber(1) };
        let figures = WindowFigures {
            figures: Figures { iterations: 3, ..Figures::default() },
            ..WindowFigures::default()
        };
        let delta = Delta { attempt, seq: DeltaSeq(1), window: 0, span: 1, figures };
        self.cluster.manager_says(manager, Message::Delta(Box::new(delta)));
        let report = report(part, 2, WorkflowState::Ended(EndStatus::Completed));
        let (status, attempts) = (EndStatus::Completed, vec![(attempt, DeltaSeq(1))]);
        let result = PartResult { report, status, attempts };
        self.cluster.manager_says(manager, Message::PartEnded(Box::new(result)));
        self.cluster.wait(3);
    }
}

fn one() -> Plan {
    plan(vec![workflow("a")])
}

#[test]
fn dsp_07_a_part_that_would_wait_for_too_long_is_given_back_and_runs_elsewhere() {
    let mut waiting = Waiting::for_seconds(61, &one());
    let owner = waiting.cluster.owner(waiting.job);
    assert_eq!(waiting.asked_back(), [(owner, waiting.here)].into());
    assert_eq!(waiting.offered_to(1), [].into(), "it may have begun here by now");
    assert!(waiting.state().started.is_some());
    for gate in [A, B, C] {
        let asked = waiting.cluster.ask(gate, Request::Get { job: waiting.job });
        let Reply::Job(view) = &waiting.cluster.replies[&asked] else { panic!() };
        assert_eq!(view.state, hyperscale_model::JobState::Queued, "whichever gate is asked");
    }

    waiting.give_back();
    assert_eq!(waiting.offered_to(1), [waiting.there].into());
    assert_eq!(waiting.state().started, None, "its time begins when it does");
    // The end is told again until it is acknowledged, and says when the wait had begun.
    waiting.give_back();
    assert_eq!(waiting.state().started, None);
    waiting.accept(1);
    let there = waiting.there;
    waiting.run(there, 1);

    let ended = waiting.state().ended.clone().unwrap();
    assert_eq!((ended.status, ended.partial), (EndStatus::Completed, false));
    let (job, name) = (waiting.job, if there == EU { "eu" } else { "us" });
    let result = waiting.cluster.result(A, job);
    assert_eq!(result.summary.totals.iterations, 3);
    let moved = result.events.iter().find(|event| event.kind == "part_moved").unwrap();
    assert!(moved.text.ends_with(&format!("{name} is asked instead")), "{}", moved.text);
    let told: Vec<&str> = result.events.iter().map(|event| event.kind.as_str()).collect();
    let expected = [
        "accepted",
        "part_accepted",
        "workflow_queued",
        "part_moved",
        "part_accepted",
        "workflow_started",
        "workflow_ended",
        "part_ended",
        "ended",
    ];
    assert_eq!(told, expected);
    let asked = waiting.cluster.ask(A, Request::Get { job });
    let Reply::Job(view) = &waiting.cluster.replies[&asked] else { panic!() };
    assert_eq!(view.datacenters, [DatacenterId::from(name)]);
}

#[test]
fn dsp_07_a_part_stays_where_it_is_if_the_wait_is_short_or_the_place_was_named() {
    let promised = |name: &str| Datacenters::Named(vec![name.to_owned()]);
    let named = RunSettings { datacenters: promised("eu"), ..RunSettings::default() };
    let cases = [
        ("a minute is not too long", 60, one()),
        ("a name is a promise", 600, Plan { run: named, ..one() }),
    ];
    for (why, wait, plan) in cases {
        let mut waiting = Waiting::for_seconds(wait, &plan);
        waiting.cluster.wait(4);
        assert_eq!(waiting.asked_back(), [].into(), "{why}");
    }
}

#[test]
fn dsp_07_whoever_owns_the_job_by_then_moves_what_was_given_back() {
    let mut waiting = Waiting::for_seconds(90, &one());
    let first = waiting.cluster.owner(waiting.job);
    waiting.cluster.kill(first);
    waiting.cluster.wait(8);
    assert_ne!(waiting.cluster.owner(waiting.job), first);
    waiting.cluster.told.clear();

    waiting.give_back();
    assert_eq!(waiting.offered_to(1), [waiting.there].into());
    waiting.accept(1);
    let there = waiting.there;
    waiting.run(there, 1);

    assert_eq!(waiting.state().ended.as_ref().unwrap().status, EndStatus::Completed);
}

#[test]
fn dsp_07_a_part_for_which_there_is_no_other_place_by_now_goes_back() {
    let mut waiting = Waiting::for_seconds(90, &one());
    let there = waiting.there;
    waiting.cluster.answering.remove(&there);
    waiting.cluster.wait(40);

    waiting.give_back();
    assert_eq!(waiting.offered_to(1), [waiting.here].into());
    let (job, here) = (waiting.job, waiting.here);
    let fence = waiting.cluster.fence(job);
    waiting.cluster.manager_says(here, Message::PartAccepted { part: part(job, 1), fence });
    waiting.cluster.wait(1);
    waiting.run(here, 1);

    assert_eq!(waiting.state().ended.as_ref().unwrap().status, EndStatus::Completed);
}

#[test]
fn can_04_a_cancel_that_crosses_a_move_ends_the_job_as_cancelled() {
    let mut waiting = Waiting::for_seconds(90, &one());
    assert_ne!(waiting.asked_back(), [].into());
    let job = waiting.job;
    let stop = Request::Cancel { job, workflow: None, mode: StopMode::Graceful };
    waiting.cluster.ask(A, stop);

    waiting.give_back();
    waiting.cluster.wait(3);

    let by = "test".to_owned();
    assert_eq!(waiting.state().ended.as_ref().unwrap().status, EndStatus::Cancelled { by });
    assert_eq!(waiting.offered_to(1), [].into(), "nothing is moved for nothing");
}

#[test]
fn dsp_07_a_part_whose_next_place_does_not_take_it_goes_back_to_the_one_that_gave_it() {
    let mut waiting = Waiting::for_seconds(90, &one());
    waiting.give_back();
    assert_eq!(waiting.offered_to(1), [waiting.there].into());

    // It dies before it has answered.
    waiting.cluster.wait(8);
    assert_eq!(waiting.offered_to(2), [waiting.here].into());
    // And it does not go back and forth for ever.
    waiting.cluster.wait(30);
    assert_eq!(waiting.state().parts.len(), 3);
    let (job, here) = (waiting.job, waiting.here);
    let fence = waiting.cluster.fence(job);
    waiting.cluster.manager_says(here, Message::PartAccepted { part: part(job, 2), fence });
    waiting.cluster.wait(1);
    waiting.run(here, 2);

    assert_eq!(waiting.state().ended.as_ref().unwrap().status, EndStatus::Completed);
}
