//! Equal submissions, and crashes between a submission and its answer.

use super::*;

const MANY: usize = 1_000;

fn many(cluster: &mut Cluster, gate: NodeId) -> Vec<RequestId> {
    (0..MANY).map(|_| cluster.ask_only(gate, submission("k", &both()))).collect()
}

#[test]
fn idm_02_a_thousand_equal_submissions_wait_for_one_outcome() {
    let mut cluster = Cluster::new();

    let ids = many(&mut cluster, B);
    assert!(ids.iter().all(|id| !cluster.replies.contains_key(id)), "nothing is decided");
    cluster.run();

    let jobs: BTreeSet<JobId> = ids.iter().map(|&id| cluster.accepted(id)).collect();
    assert_eq!(jobs.len(), 1, "one job");
    assert!(ids.iter().all(|id| cluster.answers[id] == 1), "one answer each");
    let job = *jobs.first().unwrap();
    cluster.wait(0);
    let mut offers = cluster.offers(job);
    offers.sort();
    let owner = cluster.owner(job);
    assert_eq!(offers, [(owner, EU), (owner, US)], "one dispatch for each datacenter");
}

#[test]
fn idm_02_tmo_05_whoever_waits_in_vain_is_told_once_to_try_again() {
    let mut cluster = Cluster::new();
    // The others hang: their links are up, and they say nothing.
    cluster.cut.extend([A, C]);
    let ids = many(&mut cluster, B);

    cluster.wait(30);
    for id in &ids {
        let reply = cluster.replies.get(id);
        let is_retryable =
            matches!(reply, Some(Reply::Error(e)) if e.kind == RequestErrorKind::NotReady);
        assert!(is_retryable, "{reply:?}");
    }
    // Whatever was on its way is decided after all.
    cluster.cut.clear();
    cluster.wait(5);
    let again = cluster.submit(B, "k", &both());
    let job = cluster.accepted(again);
    cluster.wait(5);

    assert_eq!(cluster.gates[&B].state().jobs.keys().collect::<Vec<_>>(), [&job], "never a second");
    let answered: BTreeSet<u32> = ids.iter().map(|id| cluster.answers[id]).collect();
    assert_eq!(answered, [1].into(), "a thousand timers at once, and each answer once");
}

#[test]
fn idm_06_of_two_entries_with_one_key_the_ledger_takes_the_first() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(B, "k", &both());
    let job = cluster.accepted(id);
    let is_acceptance =
        |entry: &crate::state::Entry| matches!(entry, crate::state::Entry::JobAccepted { .. });
    let mut entries = cluster.log.iter().filter_map(|entry| crate::read_entry(entry).ok());
    let mut copy = entries.find(is_acceptance).unwrap();
    let mut state = cluster.gates[&A].state().clone();

    // Another gate had proposed its own job for it before it died.
    if let crate::state::Entry::JobAccepted { job, .. } = &mut copy {
        *job = JobId::from_parts(9, 9);
    }
    assert_eq!(state.apply(1_000, &copy), crate::state::Applied::Ignored);

    assert_eq!(state.jobs.keys().collect::<Vec<_>>(), [&job]);
}

/// A client submits at `B` and loses `victim` after so many messages; the ledger may lose what
/// nobody else has heard of. False if everything had arrived before.
fn crash_after(messages: usize, victim: NodeId, loses_tail: bool) -> bool {
    let story = format!("{victim} dies after {messages} messages, loses its tail: {loses_tail}");
    let mut cluster = Cluster::new();
    let first = cluster.ask_only(B, submission("k", &both()));
    let is_on_its_way = (0..messages).all(|_| cluster.step());
    let others = || cluster.applied.iter().filter(|(gate, _)| **gate != victim);
    let heard = others().map(|(_, applied)| *applied).max().unwrap_or(0);
    if victim == cluster.leader && loses_tail {
        cluster.log.truncate(heard);
    }
    let was_accepted = matches!(cluster.replies.get(&first), Some(Reply::Accepted { .. }));

    cluster.kill(victim);
    let began = cluster.now;
    let mut accepted = None;
    while accepted.is_none() {
        assert!(cluster.now < began + Duration::from_secs(30), "{story}: no gate takes the job");
        let again = cluster.submit(C, "k", &both());
        cluster.wait(3);
        if let Some(Reply::Accepted { job }) = cluster.replies.get(&again) {
            accepted = Some(*job);
        }
        let reply = cluster.replies.get(&again);
        let is_clean = matches!(reply, Some(Reply::Accepted { .. }))
            || matches!(reply, Some(Reply::Error(e)) if e.kind == RequestErrorKind::NotReady);
        assert!(is_clean, "{story}: {reply:?}");
    }
    let job = accepted.unwrap();
    cluster.start(victim);
    cluster.wait(5);

    if victim != B {
        cluster.wait(25);
        assert!(cluster.replies.contains_key(&first), "{story}: whoever waited hangs");
    }
    if was_accepted {
        assert_eq!(cluster.accepted(first), job, "{story}: an acknowledged job is another");
    }
    for gate in [A, B, C] {
        let known: Vec<JobId> = cluster.gates[&gate].state().jobs.keys().copied().collect();
        assert_eq!(known, [job], "{story}: at {gate}");
        let id = cluster.submit(gate, "k", &both());
        assert_eq!(cluster.accepted(id), job, "{story}: the key is known after the restart");
    }
    is_on_its_way
}

#[test]
fn idm_06_a_crash_at_any_step_leaves_one_job_and_nobody_waiting() {
    for victim in [A, B] {
        for loses_tail in [false, true] {
            let steps = (0..500).take_while(|&step| crash_after(step, victim, loses_tail)).count();
            assert!((3..500).contains(&steps), "{steps} steps were tried");
        }
    }
}

#[test]
fn dsp_02_without_a_datacenter_that_answers_a_submission_is_refused_with_the_reason() {
    let mut cluster = Cluster::new();
    cluster.answering.clear();
    cluster.wait(60);

    let id = cluster.submit(A, "k", &plan(vec![workflow("a")]));
    cluster.wait(5);

    let reply = &cluster.replies[&id];
    let Reply::Error(error) = reply else { panic!("accepted: {reply:?}") };
    assert!(
        error.message.contains("eu") && error.message.contains("us"),
        "which, and why: {error:?}"
    );
    for gate in cluster.gates.values() {
        assert!(gate.state().jobs.is_empty(), "nothing is left of it");
    }
    // They answer again: the same submission is a new one.
    cluster.answering = [EU, US].into();
    cluster.wait(5);
    let again = cluster.submit(A, "k", &plan(vec![workflow("a")]));
    cluster.wait(2);
    cluster.accepted(again);
}

#[test]
fn idm_01_a_gate_that_was_cut_off_unnoticed_does_not_say_that_there_is_no_such_job() {
    let mut cluster = Cluster::new();
    cluster.wait(3);
    // Nobody has noticed yet: its links are up, and nothing comes through them.
    cluster.cut.insert(C);
    let id = cluster.submit(A, "k", &plan(vec![workflow("a")]));
    cluster.wait(1);
    let job = cluster.accepted(id);

    let asked = cluster.ask(C, Request::Watch { job, after: 0 });
    cluster.wait(4);

    let reply = &cluster.replies[&asked];
    assert!(
        matches!(reply, Reply::Error(error) if error.kind == RequestErrorKind::NotReady),
        "{reply:?}"
    );
    // One that nobody knows of is still told as such, where the others are heard.
    let asked = cluster.ask(A, Request::Watch { job: JobId::from_parts(9, 9), after: 0 });
    cluster.wait(4);
    let reply = &cluster.replies[&asked];
    assert!(
        matches!(reply, Reply::Error(error) if error.kind == RequestErrorKind::NotFound),
        "{reply:?}"
    );
}
