//! Jobs whose time is over, and datacenters that say nothing for a while.

use hyperscale_plan::BestEffort;
use hyperscale_wire::StopReason;

use super::*;

const LIMIT: u64 = 20;

/// A job with a limit of 20 s that runs in both datacenters since the gates' first instant.
fn limited(cluster: &mut Cluster) -> JobId {
    let mut plan = both();
    plan.run.deadline = Duration::from_secs(LIMIT);
    let id = cluster.submit(A, "k", &plan);
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 1, WorkflowState::Running);
    cluster.report(part(job, 1), 1, WorkflowState::Running);
    cluster.wait(1);
    cluster.told.clear();
    job
}

/// Which datacenters were told to stop since the time is over, and under which fences.
fn stopped(cluster: &mut Cluster) -> BTreeSet<(NodeId, Fence)> {
    let told = std::mem::take(&mut cluster.told).into_iter();
    let stops = told.filter_map(|(_, to, message)| match message {
        Message::StopPart { fence, reason: StopReason::TimedOut, .. } => Some((to, fence)),
        _ => None,
    });
    stops.collect()
}

fn until(cluster: &mut Cluster, second: u64) {
    let now = cluster.now.as_nanos() / 1_000_000_000;
    cluster.wait(second - now);
}

#[test]
fn tmo_01_a_job_over_its_limit_is_stopped_everywhere() {
    let mut cluster = Cluster::new();
    let job = limited(&mut cluster);
    let attempts = [0, 1].map(|index| cluster.delta(part(job, index), 1));
    until(&mut cluster, LIMIT - 1);
    assert_eq!(stopped(&mut cluster), [].into(), "its time is not over");

    // Nobody there says that it is: the owner does.
    until(&mut cluster, LIMIT + 15);
    let fence = cluster.fence(job);
    assert_eq!(stopped(&mut cluster), [(EU, fence), (US, fence)].into());
    for (index, attempt) in [0, 1].into_iter().zip(attempts) {
        let counted = vec![(attempt, DeltaSeq(1))];
        cluster.end_as(part(job, index), 2, counted, EndStatus::TimedOut);
    }
    until(&mut cluster, LIMIT + 30);

    let ended = cluster.gates[&A].state().jobs[&job].ended.clone().unwrap();
    assert_eq!((ended.status, ended.partial), (EndStatus::TimedOut, false));
    let result = cluster.result(A, job);
    assert_eq!(result.summary.totals.iterations, 6, "what was done until then is kept");
    cluster.told.clear();
    cluster.wait(30);
    assert_eq!(stopped(&mut cluster), [].into(), "an ended job has no limit");
}

#[test]
fn tmo_01_a_job_of_one_datacenter_is_left_to_its_leader() {
    let mut cluster = Cluster::new();
    let mut plan = plan(vec![workflow("a")]);
    plan.run.deadline = Duration::from_secs(LIMIT);
    let id = cluster.submit(A, "k", &plan);
    let job = cluster.accepted(id);
    let (manager, fence) = (cluster.offers(job)[0].1, cluster.fence(job));
    let part = part(job, 0);
    cluster.manager_says(manager, Message::PartAccepted { part, fence });
    cluster.wait(1);
    cluster.report(part, 1, WorkflowState::Running);

    until(&mut cluster, LIMIT + 20);
    assert_eq!(stopped(&mut cluster), [].into(), "it decides alone");
    cluster.end_as(part, 2, Vec::new(), EndStatus::TimedOut);
    cluster.wait(2);

    let ended = cluster.gates[&A].state().jobs[&job].ended.clone().unwrap();
    assert_eq!(ended.status, EndStatus::TimedOut);
}

#[test]
fn tmo_03_what_one_datacenter_finds_over_is_stopped_in_all_by_whoever_owns_it() {
    let mut cluster = Cluster::new();
    let job = limited(&mut cluster);
    until(&mut cluster, LIMIT);
    let (first, before) = (cluster.owner(job), cluster.fence(job));

    cluster.end_as(part(job, 0), 2, Vec::new(), EndStatus::TimedOut);
    assert_eq!(stopped(&mut cluster), [(US, before)].into(), "the other one, at once");

    // It was not heard, and the owner dies: the next one says so under its own fence.
    cluster.kill(first);
    cluster.wait(4);
    let after = cluster.fence(job);
    assert!(after > before);
    stopped(&mut cluster);
    cluster.manager_says(US, Message::PartAccepted { part: part(job, 1), fence: after });
    cluster.wait(3);
    assert_eq!(stopped(&mut cluster), [(US, after)].into());

    // A report from before changes nothing any more.
    cluster.report(part(job, 1), 1, WorkflowState::Waiting);
    cluster.end_as(part(job, 1), 3, Vec::new(), EndStatus::TimedOut);
    cluster.wait(2);
    let any = cluster.gates.values().next().unwrap();
    let ended = any.state().jobs[&job].ended.clone().unwrap();
    assert_eq!(ended.status, EndStatus::TimedOut);
}

/// A job that ends with what is there 30 s after its start, if so many datacenters have reported. The
/// first of two has, with 3 iterations; the other sends load and says nothing more.
fn with_best_effort(cluster: &mut Cluster, min_datacenters: u16) -> JobId {
    let mut plan = both();
    let deadline = Duration::from_secs(30);
    plan.run.best_effort = Some(BestEffort { min_datacenters, deadline });
    let id = cluster.submit(A, "k", &plan);
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 1, WorkflowState::Running);
    cluster.report(part(job, 1), 1, WorkflowState::Running);
    let attempt = cluster.delta(part(job, 0), 1);
    cluster.wait(2);
    cluster.end(part(job, 0), 2, vec![(attempt, DeltaSeq(1))]);
    job
}

fn ended(cluster: &Cluster, job: JobId) -> Option<crate::state::JobEnd> {
    cluster.gates.values().next().unwrap().state().jobs[&job].ended.clone()
}

#[test]
fn res_11_best_effort_ends_with_what_is_there_and_what_comes_later_counts_for_nothing() {
    let mut cluster = Cluster::new();
    let job = with_best_effort(&mut cluster, 1);
    until(&mut cluster, 28);
    assert_eq!(ended(&cluster, job), None, "the other one has its time");

    until(&mut cluster, 36);
    let end = ended(&cluster, job).expect("its time is over");
    assert_eq!((end.status, end.partial), (EndStatus::Completed, true), "and the result says so");
    assert_eq!(cluster.result(A, job).summary.totals.iterations, 3);

    // The other one is heard of again: it is stopped, and what it says is too late.
    cluster.told.clear();
    cluster.delta(part(job, 1), 1);
    cluster.report(part(job, 1), 2, WorkflowState::Running);
    cluster.wait(2);
    let is_stop = |message: &Message| matches!(message, Message::StopPart { part: stopped, .. } if *stopped == part(job, 1));
    assert!(cluster.told.iter().any(|(_, to, message)| *to == US && is_stop(message)));
    cluster.end(part(job, 1), 3, Vec::new());
    assert_eq!(cluster.result(A, job).summary.totals.iterations, 3);
}

#[test]
fn res_11_best_effort_waits_for_as_many_as_it_wants() {
    let mut cluster = Cluster::new();
    let job = with_best_effort(&mut cluster, 2);
    until(&mut cluster, 60);

    assert_eq!(ended(&cluster, job), None, "one of two is not enough");
}

#[test]
fn res_11_the_next_owner_knows_how_many_have_reported() {
    let mut cluster = Cluster::new();
    let job = with_best_effort(&mut cluster, 1);
    cluster.wait(2);
    cluster.kill(cluster.owner(job));
    until(&mut cluster, 45);

    let end = ended(&cluster, job).expect("its time is over");
    assert_eq!((end.status, end.partial), (EndStatus::Completed, true));
}

#[test]
fn res_11_a_part_that_was_moved_has_not_reported() {
    let mut cluster = Cluster::new();
    let mut plan = plan(vec![workflow("a")]);
    plan.run.best_effort =
        Some(BestEffort { min_datacenters: 1, deadline: Duration::from_secs(20) });
    let id = cluster.submit(A, "k", &plan);
    let job = cluster.accepted(id);
    let first = cluster.offers(job)[0].1;
    let next = if first == EU { US } else { EU };
    cluster.wait(8);
    let fence = cluster.fence(job);
    cluster.manager_says(next, Message::PartAccepted { part: part(job, 1), fence });
    cluster.wait(1);
    let running = report(part(job, 1), 1, WorkflowState::Running);
    cluster.manager_says(next, Message::PartReport(Box::new(running)));
    // Where it was first it ends late, as nobody wants it any more.
    let report = report(part(job, 0), 1, WorkflowState::Ended(EndStatus::TimedOut));
    let result = PartResult { report, status: EndStatus::TimedOut, attempts: Vec::new() };
    cluster.manager_says(first, Message::PartEnded(Box::new(result)));
    cluster.wait(40);

    assert_eq!(ended(&cluster, job), None, "nobody has reported");
}

#[test]
fn tmo_03_the_limit_is_decided_once_and_not_by_a_deposed_owner() {
    let mut cluster = Cluster::new();
    let job = limited(&mut cluster);
    let before = cluster.fence(job);
    let owner = cluster.owner(job);
    cluster.kill(owner);
    cluster.wait(4);
    let mut state = cluster.gates.values().next().unwrap().state().clone();
    let fence = state.jobs[&job].fence;
    let known = state.clone();

    let old = crate::state::Entry::LimitReached { job, fence: before };
    assert_eq!(state.apply(1_000, &old), crate::state::Applied::Ignored);
    assert_eq!(state, known, "the decision of a deposed owner changed the job");
    let entry = crate::state::Entry::LimitReached { job, fence };
    assert_eq!(state.apply(1_001, &entry), crate::state::Applied::Changed);
    assert_eq!(state.apply(1_002, &entry), crate::state::Applied::Ignored);
}

#[test]
fn fed_06_a_datacenter_that_was_cut_off_is_shown_as_it_was_and_counts_once_when_it_is_back() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 1, WorkflowState::Running);
    cluster.report(part(job, 1), 1, WorkflowState::Running);
    let eu = cluster.delta(part(job, 0), 1);
    cluster.delta(part(job, 1), 1);
    cluster.wait(2);
    let views = |cluster: &mut Cluster| {
        let id = cluster.ask(A, Request::Datacenters);
        match cluster.replies.remove(&id) {
            Some(Reply::Datacenters(views)) => views,
            other => panic!("no datacenters: {other:?}"),
        }
    };
    let us = |views: Vec<crate::DatacenterView>| {
        views.into_iter().find(|view| view.datacenter.as_str() == "us").unwrap()
    };
    let before = us(views(&mut cluster));

    cluster.answering.remove(&US);
    cluster.wait(6);
    let cut = us(views(&mut cluster));
    assert!(before.is_fresh && !cut.is_fresh, "its age is shown");
    assert_eq!(crate::DatacenterView { is_fresh: true, ..cut }, before, "as it was");
    cluster.end(part(job, 0), 2, vec![(eu, DeltaSeq(1))]);
    cluster.wait(60);
    assert!(cluster.gates[&A].state().jobs[&job].ended.is_none(), "it may have gone on");

    cluster.answering.insert(US);
    cluster.wait(3);
    // What it did meanwhile, some of it twice.
    let mut attempt = None;
    for seq in [2, 3, 2, 3] {
        attempt = Some(cluster.delta(part(job, 1), seq));
    }
    let counted = vec![(attempt.unwrap(), DeltaSeq(3))];
    cluster.end(part(job, 1), 2, counted.clone());
    cluster.end(part(job, 1), 2, counted);
    cluster.wait(5);

    let ended: Vec<_> =
        [A, B, C].map(|gate| cluster.gates[&gate].state().jobs[&job].ended.clone()).into();
    assert!(ended[0].is_some() && ended.iter().all(|end| *end == ended[0]), "{ended:?}");
    let result = cluster.result(B, job);
    assert_eq!(result.summary.totals.iterations, 4 * 3, "four windows, each counted once");
    assert!(!result.summary.partial);
    assert!(us(views(&mut cluster)).is_fresh);
}

#[test]
fn res_06_an_end_that_is_told_again_is_acknowledged_again() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let acknowledged = |cluster: &mut Cluster| {
        let told = std::mem::take(&mut cluster.told).into_iter();
        let acks = told.filter(|(.., message)| matches!(message, Message::PartEndedAck { .. }));
        acks.map(|(_, to, _)| to).collect::<BTreeSet<NodeId>>()
    };
    cluster.told.clear();
    cluster.end(part(job, 0), 1, Vec::new());
    cluster.wait(3);
    assert_eq!(acknowledged(&mut cluster), [].into(), "nothing is recorded yet");
    cluster.end(part(job, 1), 1, Vec::new());
    cluster.wait(2);
    assert_eq!(acknowledged(&mut cluster), [EU, US].into());

    // The acknowledgement was lost; the owner may be gone by then, and the job forgotten.
    cluster.end(part(job, 1), 1, Vec::new());
    assert_eq!(acknowledged(&mut cluster), [US].into());
    cluster.kill(cluster.owner(job));
    cluster.wait(4);
    cluster.told.clear();
    cluster.end(part(job, 1), 1, Vec::new());
    assert_eq!(acknowledged(&mut cluster), [US].into(), "whoever lives acknowledges it");
    cluster.wait(400);
    cluster.told.clear();
    assert!(cluster.gates.values().all(|gate| gate.state().jobs.is_empty()), "it is forgotten");
    cluster.end(part(job, 1), 1, Vec::new());
    assert_eq!(acknowledged(&mut cluster), [US].into(), "so its manager may forget it too");
}

#[test]
fn clk_01_the_jobs_time_is_what_its_datacenter_tells_whatever_its_wall_clock_shows() {
    for ahead in [0, 5_000, 60_000] {
        let mut cluster = Cluster::new();
        let id = cluster.submit(A, "k", &both());
        let job = cluster.accepted(id);
        cluster.accept_all(job);
        // The leader's wall clock is ahead of the gates', and its load has run for three seconds.
        let (started, job_time) = (Some(WallTime(1_000 + ahead)), Some(Duration::from_secs(3)));
        let report = report(part(job, 0), 1, WorkflowState::Running);
        let report = PartReport { started, job_time, ..report };
        cluster.manager_says(EU, Message::PartReport(Box::new(report)));
        cluster.wait(2);

        let owner = cluster.owner(job);
        let id = cluster.ask(owner, Request::Watch { job, after: 0 });
        cluster.wait(1);
        let elapsed = match cluster.replies.get(&id) {
            Some(Reply::News { view: Some(view), .. }) => view.elapsed_ms,
            other => panic!("no view: {other:?}"),
        };
        assert!((5_000..=6_000).contains(&elapsed), "{elapsed} ms, {ahead} ms ahead");
    }
}

#[test]
fn res_06_a_gate_that_has_not_heard_of_a_job_settles_with_the_others_whether_anybody_has() {
    let mut cluster = Cluster::new();
    let forgets = |message: &Message| {
        matches!(message, Message::PartEndedAck { .. } | Message::OrphanPart { .. })
    };
    cluster.cut(C);
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);

    // It hears a manager, and the gates' leader, before it hears what they have decided.
    cluster.input(C, Input::ManagerConnected { manager: EU });
    cluster.input(C, Input::GateConnected { gate: A });
    cluster.input(C, Input::Leadership { leads: false, leader: Some(A) });
    cluster.now += Duration::from_secs(100);
    let status = EndStatus::Completed;
    let report = report(part(job, 0), 1, WorkflowState::Ended(status.clone()));
    let runs = Message::PartReport(Box::new(report.clone()));
    let ended = PartResult { report, status, attempts: Vec::new() };
    for message in [runs, Message::PartEnded(Box::new(ended))] {
        cluster.input(C, Input::Message { from: EU, message });
    }
    let said: Vec<Message> = std::mem::take(&mut cluster.wires).into_iter().map(|w| w.2).collect();
    assert!(said.iter().any(|said| matches!(said, Message::Propose { .. })), "{said:?}");
    assert!(!said.iter().any(forgets), "its manager would forget the result: {said:?}");

    cluster.heal(C);
    // Whatever it proposed then is decided now.
    let asked = said.into_iter().find_map(|said| match said {
        Message::Propose { entry, .. } => Some(entry),
        _ => None,
    });
    cluster.log.extend(asked);
    cluster.told.clear();
    cluster.wait(3);
    assert!(!cluster.told.iter().any(|(.., said)| forgets(said)), "{:?}", cluster.told);
    cluster.end(part(job, 0), 2, Vec::new());
    cluster.end(part(job, 1), 2, Vec::new());
    cluster.wait(3);
    let acks = cluster.told.iter().filter(|(.., said)| forgets(said));
    assert_eq!(acks.map(|(_, to, _)| *to).collect::<BTreeSet<NodeId>>(), [EU, US].into());
}

/// What any gate still says of a job, beyond the trace of an answer.
fn left_of(cluster: &Cluster, job: JobId) -> Vec<(NodeId, String)> {
    let name = job.to_string();
    let said = cluster.gates.iter().filter_map(|(id, gate)| {
        // Ids that follow are made of the last one's.
        let all = format!("{gate:?}").replace(&format!("last_job: {name}"), "");
        let at = all.find(&name)?;
        Some((*id, all[at.saturating_sub(200)..at].to_owned()))
    });
    said.collect()
}

#[test]
fn res_08_nothing_is_left_of_a_forgotten_job_and_nothing_brings_it_back() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    let attempt = cluster.delta(part(job, 0), 1);
    cluster.wait(2);
    let watch = |cluster: &mut Cluster, gate| {
        let id = cluster.ask(gate, Request::Watch { job, after: 0 });
        cluster.replies.remove(&id)
    };
    [A, B, C].into_iter().for_each(|gate| drop(watch(&mut cluster, gate)));
    cluster.ask(B, Request::Steer { job, pause: Some(true), scale: Vec::new() });
    // It changes hands twice, and one gate has missed a part of it.
    let first = cluster.owner(job);
    cluster.cut(first);
    cluster.wait(10);
    cluster.heal(first);
    cluster.wait(5);
    let end = |cluster: &mut Cluster| {
        cluster.end(part(job, 0), 9, vec![(attempt, DeltaSeq(1))]);
        cluster.end(part(job, 1), 9, Vec::new());
    };
    cluster.accept_all(job);
    end(&mut cluster);
    cluster.wait(2);
    assert!(ended(&cluster, job).is_some());

    cluster.wait(400);
    assert_eq!(left_of(&cluster, job), []);

    cluster.delta(part(job, 0), 2);
    cluster.report(part(job, 1), 10, WorkflowState::Running);
    let fence = Fence(3);
    cluster.manager_says(US, Message::PartAccepted { part: part(job, 1), fence });
    end(&mut cluster);
    cluster.wait(10);

    assert_eq!(left_of(&cluster, job), []);
    let asked = cluster.ask(A, Request::Watch { job, after: 0 });
    cluster.wait(10);
    let told = cluster.replies.remove(&asked);
    assert!(
        matches!(&told, Some(Reply::Error(e)) if e.kind == RequestErrorKind::NotFound),
        "{told:?}"
    );
}
