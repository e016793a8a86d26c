//! Workflows that wait for others, and what they get from them.

use hyperscale_model::SplitMix;
use hyperscale_plan::expr::Value;
use hyperscale_plan::{LocalIndex, Publish};
use hyperscale_wire::Assignment;

use super::*;

fn after(workflows: &[u16], any_end: bool) -> After {
    After { workflows: workflows.iter().copied().map(WorkflowIndex).collect(), any_end }
}

/// What shall become of a workflow once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Completes,
    /// Every worker refuses it.
    IsRefused,
    /// Someone stops it.
    IsCancelled,
}

/// Workers that do what the manager tells them; each workflow ends so long after its start.
struct Crew {
    desk: Desk,
    fates: Vec<(Fate, Duration)>,
    /// What each worker runs, and since when.
    running: BTreeMap<AttemptId, (NodeId, Option<Time>)>,
    offers: Vec<(Time, Assignment)>,
    publishes: BTreeMap<u16, Value>,
}

impl Crew {
    fn new(plan: &Plan, fates: Vec<(Fate, Duration)>, workers: u64) -> Self {
        Self::with(Desk::new(), plan, fates, workers)
    }

    fn with(mut desk: Desk, plan: &Plan, fates: Vec<(Fate, Duration)>, workers: u64) -> Self {
        desk.connect_gate();
        (0..workers).for_each(|worker| desk.connect_worker(NodeId(10 + worker)));
        desk.offer(plan);
        desk.start();
        let (running, offers, publishes) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { desk, fates, running, offers, publishes }
    }

    fn obey(&mut self) {
        for (to, message) in self.desk.take() {
            match message {
                Message::OfferAttempt(assignment) => {
                    let attempt = assignment.attempt;
                    let fate = self.fates[usize::from(attempt.shard.workflow.0)].0;
                    let fence = assignment.fence;
                    self.offers.push((self.desk.now, *assignment));
                    if fate == Fate::IsRefused {
                        let why = RefuseAttempt::BadPlan { message: "no".to_owned() };
                        self.desk.message(to, Message::AttemptRefused { attempt, fence, why });
                    } else {
                        self.running.entry(attempt).or_insert((to, None));
                        self.desk.accept(to, attempt);
                    }
                }
                Message::StartAttempt { attempt, start_in, .. } => {
                    if let Some((_, started)) = self.running.get_mut(&attempt) {
                        started.get_or_insert(self.desk.now + start_in);
                    }
                }
                Message::StopAttempt { attempt, .. } => self.end(attempt, AttemptEnd::Stopped),
                // A new leader asks what was counted.
                Message::PartReport(report) => {
                    report.inquire.iter().for_each(|&attempt| self.desk.acknowledge(attempt, 0));
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, attempt: AttemptId, end: AttemptEnd) {
        let Some((worker, _)) = self.running.remove(&attempt) else { return };
        let value = self.publishes.get(&attempt.shard.workflow.0).cloned();
        let published = value.map(|value| ("token".to_owned(), value)).into_iter().collect();
        let end = AttemptSummary { end, last_delta: DeltaSeq::NONE, published, draws_made: None };
        self.desk.message(worker, Message::AttemptEnded { attempt, end });
    }

    fn step(&mut self) {
        self.desk.wait(Duration::from_millis(250));
        self.obey();
        let now = self.desk.now;
        let due: Vec<AttemptId> = (self.running.iter())
            .filter(|(attempt, (_, started))| {
                let lasts = self.fates[usize::from(attempt.shard.workflow.0)].1;
                started.is_some_and(|started| now >= started + lasts)
            })
            .map(|(&attempt, _)| attempt)
            .collect();
        for attempt in due {
            if self.fates[usize::from(attempt.shard.workflow.0)].0 == Fate::IsCancelled {
                let (workflow, by) = (attempt.shard.workflow, "someone".to_owned());
                let stop = Message::StopWorkflow { part: part(), fence: FENCE, workflow, by };
                self.desk.message(GATE, stop);
            } else {
                self.end(attempt, AttemptEnd::Finished);
            }
        }
        self.obey();
        if now.as_nanos().is_multiple_of(1_000_000_000) {
            let workers: Vec<NodeId> = self.desk.manager.workers.keys().copied().collect();
            for worker in workers {
                let here = self.running.iter().filter(|(_, (on, _))| *on == worker);
                let reports = here.map(|(&attempt, (_, started))| AttemptReport {
                    phase: match started {
                        Some(started) if *started <= now => AttemptPhase::Running,
                        Some(_) | None => AttemptPhase::Prepared,
                    },
                    ..running(attempt)
                });
                let reports = reports.collect();
                self.desk.renew(worker, reports);
            }
            self.obey();
        }
    }

    /// Until the part is over; gives how long that took.
    fn finish(&mut self, limit: Duration) -> Option<Duration> {
        let begun = self.desk.now;
        while self.desk.now < begun + limit {
            if self.desk.part().ended.is_some() {
                return Some(self.desk.now - begun);
            }
            self.step();
        }
        None
    }

    fn ends(&self) -> Vec<EndStatus> {
        let ended = self.desk.part().workflows.iter().map(|workflow| workflow.ended.clone());
        ended.map(|ended| ended.unwrap().0).collect()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn dag_01_independents_run_at_once_and_dependents_after_all_before_them() {
    let mut workflows = vec![
        workflow("a", After::default()),
        workflow("b", After::default()),
        workflow("c", After::default()),
        workflow("d", after(&[0, 1, 2], false)),
    ];
    workflows.iter_mut().for_each(|workflow| workflow.cores = Some(1));
    let lasts = [20, 10, 15, 5].map(|lasts| (Fate::Completes, seconds(lasts)));
    let mut crew = Crew::new(&plan(workflows), lasts.to_vec(), 2);

    let took = crew.finish(seconds(120)).unwrap();

    let part = crew.desk.part();
    let started = |index: usize| part.workflows[index].started.unwrap();
    let ended = |index: usize| part.workflows[index].ended.clone().unwrap().1;
    let latest = (0..3).map(ended).max().unwrap();
    let last_start = (0..3).map(started).max().unwrap();
    assert!(last_start < seconds(1), "three cores were free, and one waited until {last_start:?}");
    assert!(started(3) >= latest, "d started at {:?}, before {latest:?}", started(3));
    let longest = seconds(20 + 5);
    assert!(took <= longest.mul_f64(1.2), "{took:?} for {longest:?}");
}

/// A DAG of up to six workflows with what becomes of each.
fn any_dag(random: &mut SplitMix) -> (Plan, Vec<(Fate, Duration)>) {
    let count = 2 + u16::try_from(random.below(5)).unwrap();
    let workflows = (0..count).map(|index| {
        let before: Vec<u16> = (0..index).filter(|_| random.chance(0.4)).collect();
        let mut workflow = workflow(&format!("w{index}"), after(&before, random.chance(0.3)));
        workflow.cores = Some(1);
        workflow
    });
    let plan = plan(workflows.collect());
    let fates = (0..count).map(|_| {
        let fate = match random.below(4) {
            0 => Fate::IsRefused,
            1 => Fate::IsCancelled,
            _ => Fate::Completes,
        };
        (fate, Duration::from_millis(250 + random.below(3_000)))
    });
    let fates = fates.collect();
    (plan, fates)
}

#[test]
fn dag_01_dag_02_any_graph_ends_with_each_dependent_run_in_order_or_skipped_with_the_cause() {
    for seed in 0..dags() {
        let mut random = SplitMix::new(seed);
        let (plan, fates) = any_dag(&mut random);
        let mut crew = Crew::new(&plan, fates, 1 + random.below(3));

        let took = crew.finish(seconds(300));
        assert!(took.is_some(), "seed {seed} hangs: {:?}", crew.desk.part().workflows);
        // One review after the last end.
        let ends = crew.ends();
        let part = crew.desk.part();
        for (planned, index) in plan.workflows.iter().zip(0..) {
            let before = || planned.after.workflows.iter().map(|index| usize::from(index.0));
            let this = &part.workflows[index];
            let broken = before().find(|&index| ends[index] != EndStatus::Completed);
            if let Some(broken) = broken.filter(|_| !planned.after.any_end) {
                let because = &plan.workflows[broken].name;
                let was_offered = crew
                    .offers
                    .iter()
                    .any(|(_, offer)| usize::from(offer.attempt.shard.workflow.0) == index);
                assert!(!was_offered, "seed {seed}: w{index} was started after {because} failed");
                let EndStatus::Skipped { because } = &ends[index] else {
                    panic!("seed {seed}: w{index} ended as {:?}", ends[index]);
                };
                let cause = before().find(|&index| plan.workflows[index].name == *because);
                let cause = cause.unwrap_or_else(|| panic!("seed {seed}: {because} is no cause"));
                assert_ne!(ends[cause], EndStatus::Completed, "seed {seed}: {because}");
            } else if let Some(started) = this.started {
                let latest = before().map(|index| part.workflows[index].ended.clone().unwrap().1);
                let latest = latest.max().unwrap_or_default();
                assert!(started >= latest, "seed {seed}: w{index} started before {latest:?}");
            }
        }
    }
}

/// How many graphs are tried; `HYPERSCALE_DAGS` asks for another number.
fn dags() -> u64 {
    std::env::var("HYPERSCALE_DAGS").map_or(1_000, |count| count.parse().unwrap())
}

/// `a` publishes its token to `b`, on two workers.
fn publishing() -> Plan {
    let mut plan = plan(vec![workflow("a", After::default()), workflow("b", after(&[0], false))]);
    plan.workflows[0].locals = vec!["token".to_owned()];
    plan.workflows[0].publish =
        vec![Publish { name: "token".to_owned(), local: LocalIndex(0), collect: None }];
    plan.workflows.iter_mut().for_each(|workflow| workflow.cores = Some(2));
    plan
}

fn both_complete() -> Vec<(Fate, Duration)> {
    vec![(Fate::Completes, seconds(2)), (Fate::Completes, seconds(5))]
}

impl Crew {
    fn offers_of(&self, workflow: u16) -> Vec<&Assignment> {
        let offers = self.offers.iter().map(|(_, offer)| offer);
        offers.filter(|offer| offer.attempt.shard.workflow.0 == workflow).collect()
    }

    fn step_for(&mut self, time: Duration) {
        let until = self.desk.now + time;
        while self.desk.now < until {
            self.step();
        }
    }
}

#[test]
fn dag_03_a_dependent_on_another_worker_sees_what_was_published() {
    let mut crew = Crew::new(&publishing(), both_complete(), 1);
    crew.publishes.insert(0, Value::text("secret-7"));
    crew.step_for(seconds(1));
    // The publisher's worker takes nothing more.
    crew.desk.connect_worker(NodeId(20));
    let first = NodeId(10);
    crew.desk.input(Input::MemberGone { node: first });
    crew.finish(seconds(60)).unwrap();

    let offers = crew.offers_of(1);
    assert!(!offers.is_empty());
    for offer in offers {
        let seen = offer.context.get(WorkflowIndex(0), "token");
        assert_eq!(seen, Some(&Value::text("secret-7")));
    }
    assert_eq!(crew.ends(), [EndStatus::Completed, EndStatus::Completed]);
}

#[test]
fn dag_03_a_dependent_whose_value_was_never_published_is_not_sent_to_anyone() {
    let mut crew = Crew::new(&publishing(), both_complete(), 1);

    crew.finish(seconds(60)).unwrap();

    assert_eq!(crew.offers_of(1).len(), 0, "sent out without the value that it needs");
    let cause = hyperscale_model::FailureCause::Context { name: "a.token".to_owned() };
    assert_eq!(crew.ends()[1], EndStatus::Failed { cause });
}

#[test]
fn dag_03_a_dependent_of_any_end_runs_without_the_value() {
    let mut plan = publishing();
    plan.workflows[1].after.any_end = true;
    let mut crew = Crew::new(&plan, both_complete(), 1);

    crew.finish(seconds(60)).unwrap();

    assert_eq!(crew.offers_of(1)[0].context.get(WorkflowIndex(0), "token"), None);
    assert_eq!(crew.ends()[1], EndStatus::Completed);
}

#[test]
fn dsp_14_refusals_are_counted_over_a_takeover_and_told_with_their_reasons() {
    let mut plan = plan(vec![workflow("a", After::default()), workflow("b", After::default())]);
    plan.workflows.iter_mut().for_each(|workflow| workflow.cores = Some(1));
    let fates = vec![(Fate::IsRefused, seconds(1)), (Fate::Completes, seconds(1))];
    let mut crew = Crew::new(&plan, fates, 2);
    while crew.offers_of(0).len() < 2 {
        crew.step();
    }
    let before = crew.offers_of(0).len();

    crew.desk.hand_over(NodeId(3));
    (0..2).for_each(|worker| crew.desk.connect_worker(NodeId(10 + worker)));
    crew.finish(seconds(120)).unwrap();

    let offers: BTreeSet<AttemptId> = crew.offers_of(0).iter().map(|offer| offer.attempt).collect();
    assert!(before < offers.len(), "the next leader goes on");
    assert_eq!(offers.len(), 4, "a first try and three more, whoever leads");
    let ends = crew.ends();
    let EndStatus::Failed { cause: hyperscale_model::FailureCause::Placement { reasons } } =
        &ends[0]
    else {
        panic!("{ends:?}")
    };
    assert_eq!(*reasons, ["no", "no", "no", "no"], "the cause of each try");
    assert_eq!(ends[1], EndStatus::Completed, "nobody else's budget");
}

#[test]
fn dag_05_a_workflow_gets_what_it_waited_for_and_nothing_that_happened_to_be_there() {
    let mut plan = publishing();
    // One waits for `b`, and so for `a`; one for nothing but a core.
    plan.workflows.push(workflow("c", after(&[1], false)));
    plan.workflows.push(workflow("d", After::default()));
    plan.workflows.iter_mut().for_each(|workflow| workflow.cores = Some(4));
    let completes = (Fate::Completes, seconds(3));
    let mut crew = Crew::new(&plan, vec![completes; 4], 1);
    crew.publishes.insert(0, Value::text("secret-7"));

    crew.finish(seconds(60)).unwrap();

    let started = |workflow| crew.offers_of(workflow)[0].attempt;
    let order: Vec<AttemptId> = crew.offers.iter().map(|(_, offer)| offer.attempt).collect();
    let place = |workflow| order.iter().position(|attempt| *attempt == started(workflow)).unwrap();
    assert!(place(0) < place(3), "`d` is sent out when `a` has ended: {order:?}");
    let token =
        |workflow| crew.offers_of(workflow)[0].context.get(WorkflowIndex(0), "token").cloned();
    assert_eq!([1, 2].map(token), [Some(Value::text("secret-7")), Some(Value::text("secret-7"))]);
    assert_eq!(token(3), None, "elsewhere it may have started before `a` had ended");
}

#[test]
fn dag_05_later_attempts_and_leaders_send_the_context_of_the_first_byte_for_byte() {
    let mut plan = publishing();
    // A third one publishes while `b` runs: `b` must not see that.
    let mut third = workflow("c", After::default());
    third.locals = vec!["token".to_owned()];
    third.publish = plan.workflows[0].publish.clone();
    third.cores = Some(1);
    plan.workflows[0].cores = Some(1);
    plan.workflows[1].load = Load::ConstantVus { vus: 4, duration: seconds(300) };
    plan.workflows.push(third);
    let lasts = [(Fate::Completes, seconds(2)), (Fate::Completes, seconds(300))];
    let mut crew = Crew::new(&plan, [&lasts[..], &[(Fate::Completes, seconds(6))]].concat(), 1);
    crew.publishes.insert(0, Value::text("from a"));
    crew.publishes.insert(2, Value::text("from c"));
    crew.step_for(seconds(8));
    let bytes = |crew: &Crew| -> Vec<Vec<u8>> {
        let offers = crew.offers_of(1);
        offers.iter().map(|offer| encode_value(&offer.context).unwrap()).collect()
    };
    let first = bytes(&crew);
    assert!(!first.is_empty());
    let now_published = crew.desk.part().context.get(WorkflowIndex(2), "token");
    assert!(now_published.is_some(), "c has published since then");
    crew.offers.clear();

    // Its worker dies.
    crew.desk.input(Input::Disconnected { node: NodeId(10) });
    crew.running.clear();
    crew.desk.connect_worker(NodeId(20));
    crew.step_for(seconds(14));
    let second = bytes(&crew);
    assert!(!second.is_empty(), "it was sent again");
    crew.offers.clear();
    // So does the next one, and the leader with it.
    crew.running.clear();
    crew.desk.hand_over(NodeId(3));
    crew.desk.connect_worker(NodeId(30));
    crew.step_for(seconds(16));
    let third = bytes(&crew);
    assert!(!third.is_empty(), "the next leader sends it again");

    for again in second.iter().chain(&third) {
        assert_eq!(*again, first[0], "another context than the first attempt had");
    }
}

#[test]
fn dag_03_a_dependent_waits_until_the_workflow_has_ended_in_all_datacenters_and_gets_what_that_gave()
 {
    let desk = Desk { is_shared: true, ..Desk::new() };
    let mut crew = Crew::with(desk, &publishing(), both_complete(), 1);
    crew.publishes.insert(0, Value::text("ours"));
    crew.step_for(seconds(30));

    assert_eq!(crew.offers_of(1).len(), 0, "the other datacenter still runs what it waits for");
    let reported = crew.desk.manager.state().parts[&part()].workflows[0].published.clone();
    assert_eq!(reported.get("token"), Some(&Value::text("ours")), "the job's owner hears of it");
    let settle = |token: &str| Message::SettleWorkflow {
        part: part(),
        fence: FENCE,
        workflow: WorkflowIndex(0),
        status: EndStatus::Completed,
        published: BTreeMap::from([("token".to_owned(), Value::text(token))]),
    };
    crew.desk.message(GATE, settle("theirs"));
    crew.desk.message(GATE, settle("late"));
    crew.finish(seconds(60)).unwrap();

    let seen: Vec<_> = (crew.offers_of(1).iter())
        .map(|offer| offer.context.get(WorkflowIndex(0), "token").cloned())
        .collect();
    assert!(!seen.is_empty() && seen.iter().all(|seen| *seen == Some(Value::text("theirs"))));
}

#[test]
fn dag_02_a_workflow_that_failed_in_another_datacenter_has_its_dependents_skipped_here_too() {
    let desk = Desk { is_shared: true, ..Desk::new() };
    let mut crew = Crew::with(desk, &publishing(), both_complete(), 1);
    crew.step_for(seconds(10));
    let cause = hyperscale_model::FailureCause::Test { message: "no".to_owned() };
    let status = EndStatus::Failed { cause };
    let (part, fence, published) = (part(), FENCE, BTreeMap::new());
    let workflow = WorkflowIndex(0);
    crew.desk.message(GATE, Message::SettleWorkflow { part, fence, workflow, status, published });
    crew.finish(seconds(30)).unwrap();

    assert_eq!(crew.offers_of(1).len(), 0);
    let ends = crew.ends();
    assert_eq!(ends, [EndStatus::Completed, EndStatus::Skipped { because: "a".to_owned() }]);
}
