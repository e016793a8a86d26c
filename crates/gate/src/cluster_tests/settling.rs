//! Workflows that others wait for, in several datacenters.

use hyperscale_model::WorkflowIndex;
use hyperscale_plan::expr::Value;
use hyperscale_plan::{After, Context, LocalIndex, Publish};

use super::*;

const SETUP: WorkflowIndex = WorkflowIndex(0);

/// A workflow that publishes a token, and one that waits for it.
fn with_setup(split: Split, collect: Option<u32>) -> Plan {
    let mut setup = workflow("setup");
    setup.locals = vec!["token".to_owned()];
    setup.publish = vec![Publish { name: "token".to_owned(), local: LocalIndex(0), collect }];
    let mut main = workflow("main");
    main.after = After { workflows: vec![SETUP], any_end: false };
    let run = RunSettings { datacenters: Datacenters::All, split, ..RunSettings::default() };
    Plan { run, ..plan(vec![setup, main]) }
}

fn accepted(cluster: &mut Cluster, plan: &Plan) -> JobId {
    let id = cluster.submit(A, "k", plan);
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    job
}

/// A datacenter says that its share of the setup has ended, and what it published.
fn ends_setup(
    cluster: &mut Cluster,
    (part, seq): (PartId, u64),
    status: EndStatus,
    (at, token): (u64, Option<&str>),
) {
    let mut report = report(part, seq, WorkflowState::Ended(status));
    report.workflows[0].ended = Some(Duration::from_secs(at));
    let waiting = WorkflowReport { state: WorkflowState::Waiting, started: None, ended: None };
    report.workflows.push(waiting);
    let layer = token.map(|token| BTreeMap::from([("token".to_owned(), Value::text(token))]));
    report.published = Context { layers: layer.map(|layer| (SETUP, layer)).into_iter().collect() };
    let manager = if part.part.0 == 0 { EU } else { US };
    cluster.manager_says(manager, Message::PartReport(Box::new(report)));
}

fn token(value: Option<&Value>) -> String {
    format!("{value:?}")
}

/// What each datacenter has heard of the setup since the last time, by whom.
fn heard(cluster: &mut Cluster) -> BTreeSet<(NodeId, NodeId, String, String)> {
    let told = std::mem::take(&mut cluster.told).into_iter();
    told.filter_map(|(from, to, message)| match message {
        Message::SettleWorkflow { workflow: SETUP, status, published, .. } => {
            Some((from, to, status.as_str().to_owned(), token(published.get("token"))))
        }
        _ => None,
    })
    .collect()
}

#[test]
fn dag_03_what_one_datacenter_publishes_reaches_all_once_all_have_ended_it() {
    let mut cluster = Cluster::new();
    let job = accepted(&mut cluster, &with_setup(Split::Even, None));
    ends_setup(&mut cluster, (part(job, 1), 1), EndStatus::Completed, (0, None));
    cluster.wait(3);
    assert_eq!(heard(&mut cluster), [].into(), "the other has not ended it");

    ends_setup(&mut cluster, (part(job, 0), 1), EndStatus::Completed, (4, Some("t")));
    cluster.wait(2);
    let told = |by| {
        let of = |to| (by, to, "completed".to_owned(), token(Some(&Value::text("t"))));
        BTreeSet::from([of(EU), of(US)])
    };
    let first = cluster.owner(job);
    assert_eq!(heard(&mut cluster), told(first));

    // Neither has said that it knows: whoever owns the job next says the same again.
    cluster.kill(first);
    cluster.wait(5);
    let next = cluster.owner(job);
    assert_ne!(next, first);
    let fence = cluster.fence(job);
    for (manager, index) in [(EU, 0), (US, 1)] {
        cluster.manager_says(manager, Message::PartAccepted { part: part(job, index), fence });
    }
    cluster.wait(2);
    assert_eq!(heard(&mut cluster), told(next));
}

#[test]
fn dag_02_a_setup_that_failed_in_one_datacenter_failed_in_all() {
    let mut cluster = Cluster::new();
    let job = accepted(&mut cluster, &with_setup(Split::Even, None));
    let cause = hyperscale_model::FailureCause::Test { message: "no".to_owned() };
    ends_setup(&mut cluster, (part(job, 0), 1), EndStatus::Failed { cause }, (1, None));
    ends_setup(&mut cluster, (part(job, 1), 1), EndStatus::Completed, (9, None));
    cluster.wait(2);

    let owner = cluster.owner(job);
    let of = |to| (owner, to, "failed".to_owned(), token(None));
    assert_eq!(heard(&mut cluster), [of(EU), of(US)].into());
}

#[test]
fn dag_03_the_last_value_counts_or_all_of_them_do() {
    for (collect, expected) in [
        (None, Value::text("late")),
        (Some(9), Value::List(Arc::new(vec![Value::text("late"), Value::text("early")]))),
    ] {
        let mut cluster = Cluster::new();
        let job = accepted(&mut cluster, &with_setup(Split::Even, collect));
        ends_setup(&mut cluster, (part(job, 0), 1), EndStatus::Completed, (7, Some("late")));
        ends_setup(&mut cluster, (part(job, 1), 1), EndStatus::Completed, (3, Some("early")));
        cluster.wait(2);

        let values: BTreeSet<_> = heard(&mut cluster).into_iter().map(|told| told.3).collect();
        assert_eq!(values, [token(Some(&expected))].into());
    }
}

#[test]
fn dag_03_datacenters_that_run_the_whole_load_each_wait_for_nobody() {
    let mut cluster = Cluster::new();
    let job = accepted(&mut cluster, &with_setup(Split::Each, None));
    for index in [0, 1] {
        ends_setup(&mut cluster, (part(job, index), 1), EndStatus::Completed, (1, Some("t")));
    }
    cluster.wait(3);
    assert_eq!(heard(&mut cluster), [].into());
    let offers = cluster.told.iter().filter_map(|(.., message)| match message {
        Message::OfferPart(offer) => Some(offer.is_shared),
        _ => None,
    });
    assert!(offers.into_iter().all(|is_shared| !is_shared));
}
