//! The leader of the gates' ledger: what it does for all, and what it leaves when it leads no more.

use super::*;

fn leads(cluster: &mut Cluster, gate: NodeId, leads: bool) {
    let leader = leads.then_some(gate);
    cluster.input(gate, Input::Leadership { leads, leader });
}

#[test]
fn ldr_09_a_gate_that_leads_no_more_decides_nothing_for_the_others() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.end(part(job, 0), 1, Vec::new());
    cluster.end(part(job, 1), 1, Vec::new());
    cluster.wait(2);
    cluster.input(A, Input::Leadership { leads: false, leader: Some(B) });
    let decided = cluster.log.len();
    cluster.handed.clear();

    // Another gate is gone, and the job's retention is over: the leader would say so.
    cluster.gates.remove(&C);
    cluster.input(A, Input::Disconnected { node: C });
    cluster.wait(600);
    let handed = cluster.handed.iter().filter(|(from, _)| *from == A);
    assert_eq!(handed.count(), 0, "that is for the leader to say");
    cluster.wires.clear();
    let message = Message::Propose { proposal: hyperscale_model::ProposalId(7), entry: Vec::new() };
    cluster.input(A, Input::Message { from: B, message });

    assert_eq!(cluster.log.len(), decided, "it had something decided");
    let is_refusal = |(from, to, message): &(NodeId, NodeId, Message)| {
        (*from, *to) == (A, B) && matches!(message, Message::ProposalRefused { .. })
    };
    assert!(cluster.wires.iter().any(is_refusal), "it passes nothing on");
}

#[test]
fn ldr_09_each_change_of_leadership_is_told_once_and_leaves_nothing_behind() {
    let mut cluster = Cluster::new();
    let id = cluster.submit(A, "k", &both());
    let job = cluster.accepted(id);
    cluster.accept_all(job);
    cluster.report(part(job, 0), 1, WorkflowState::Running);
    cluster.report(part(job, 1), 1, WorkflowState::Running);
    cluster.wait(5);
    let stretch = |cluster: &mut Cluster| {
        cluster.told.clear();
        let decided = cluster.log.len();
        cluster.wait(10);
        (cluster.told.len(), cluster.log.len() - decided)
    };
    let once = stretch(&mut cluster);
    cluster.events.clear();

    for _ in 0..50 {
        leads(&mut cluster, A, false);
        leads(&mut cluster, A, true);
        cluster.run();
    }

    let count = |of: &Event| {
        let events = cluster.events.iter().filter(|(gate, event)| *gate == A && event == of);
        events.count()
    };
    assert_eq!((count(&Event::LeadershipGained), count(&Event::LeadershipLost)), (50, 50));
    cluster.wait(2);
    let again = stretch(&mut cluster);
    assert!(again.0 <= once.0 && again.1 <= once.1, "{again:?} after {once:?}");
    assert_eq!(cluster.gates[&A].state().sessions.len(), 3, "nobody was given up");
}

#[test]
fn obs_03_what_a_gate_cannot_read_is_told_and_the_next_thing_is_done() {
    let mut cluster = Cluster::new();
    cluster.events.clear();
    let entry = b"no entry".to_vec();

    cluster.input(C, Input::Committed { index: 1_000, entry, proposal: None });
    cluster.input(C, Input::Restored { snapshot: b"no snapshot".to_vec() });
    let (job, kept) = (JobId::from_parts(1, 1), (b"no checkpoint".to_vec(), Vec::new()));
    cluster.input(C, Input::Checkpoint { job, kept });

    let told: Vec<&str> = (cluster.events.iter())
        .filter_map(|(gate, event)| match event {
            Event::Malformed { what, error } if *gate == C && !error.is_empty() => Some(*what),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["ledger entry", "snapshot", "checkpoint"]);
    let id = cluster.submit(C, "k", &both());
    cluster.accepted(id);
}
