//! Clocks that differ, and processes that stand still.

use super::*;

/// What came of everything with these wall clocks, and how many attempts were lost.
fn with_clocks(
    ahead: BTreeMap<NodeId, i64>,
    has_takeover: bool,
) -> (BTreeMap<String, Came>, usize) {
    let datacenters = vec![datacenter(3, &[2, 2]), datacenter(1, &[2, 2])];
    // Not much more than its load lasts.
    let mut close = test(0, 3, arrivals(20.0, seconds(12)));
    close.plan.run.deadline = seconds(15);
    let jobs = vec![
        close,
        test(1, 4, Load::SharedIterations { vus: 6, total: 90, max_duration: seconds(30) }),
        test(2, 5, Load::PerVuIterations { vus: 4, iterations: 10, max_duration: seconds(30) }),
    ];
    let scenario = Scenario { ahead, ..scenario(1, datacenters, jobs) };
    let mut world = world(scenario, 10, None);
    if has_takeover {
        world.live_until(at(9));
        let first = (100..103).map(NodeId);
        let leader = first.max_by_key(|node| world.fence_of_leader(*node)).unwrap();
        world.freeze(leader, seconds(60));
    }
    let came = world.finish();
    (came, world.oracle.lost())
}

/// Every node is off by something, up to 5 s either way.
fn off(factor: i64) -> BTreeMap<NodeId, i64> {
    let nodes = [1].into_iter().chain(100..103).chain(110..112).chain([200]).chain(210..212);
    let offsets = [-5_000, -4_500, 0, 4_500, 700, -100, 1_900, -4_100, 4_400, -900];
    nodes.zip(offsets).map(|(node, ahead)| (NodeId(node), ahead * factor)).collect()
}

#[test]
fn clk_01_outcomes_do_not_depend_on_wall_clocks() {
    let (expected, _) = with_clocks(BTreeMap::new(), false);
    assert_eq!(expected["test-0"].iterations, 240);
    assert_eq!(expected["test-1"].iterations, 90);

    for factor in [1, -1] {
        let (came, lost) = with_clocks(off(factor), false);
        assert_eq!(came, expected, "clocks that are off changed what came of it");
        assert_eq!(lost, 0);
    }
}

#[test]
fn clk_01_nor_do_they_when_the_next_leaders_clock_is_another() {
    let (expected, _) = with_clocks(BTreeMap::new(), true);

    for factor in [1, -1] {
        let (came, lost) = with_clocks(off(factor), true);
        assert_eq!(came, expected, "clocks that are off changed what came of it");
        assert_eq!(lost, 0);
    }
}

/// A leader that stands still for 15 s with a job on its workers; gives it with its fence.
fn frozen_leader(mutation: Option<Mutation>) -> (World, NodeId, Fence) {
    let mut job = test(0, 3, arrivals(40.0, seconds(30)));
    job.plan.workflows[0].cores = Some(4);
    let datacenters = vec![datacenter(3, &[2, 2, 2])];
    let later = test(1, 14, users(4, seconds(5)));
    let mut world = world(scenario(1, datacenters, vec![job, later]), 11, mutation);
    world.live_until(at(10));
    let leader = world.leading_manager().unwrap();
    let fence = world.fence_of_leader(leader).unwrap();
    world.freeze(leader, seconds(15));
    (world, leader, fence)
}

#[test]
fn clk_04_a_leader_that_stood_still_leads_no_more_and_is_not_obeyed() {
    let (mut world, old, fence) = frozen_leader(None);
    world.live_until(at(24));
    let new = world.leading_manager().unwrap();
    assert_ne!(new, old);
    assert!(world.fence_of_leader(new) > Some(fence), "another leads by now");
    assert_eq!(world.fence_of_leader(old), Some(fence), "and it does not know");

    world.live_until(at(26));

    assert_eq!(world.broken(), None);
    assert_ne!(world.fence_of_leader(old), Some(fence), "it knows within a second");
    let late = world.heard_from(old, at(25), is_of_load);
    assert_eq!(late, [], "it gave load before it had made sure");
    let came = world.finish();
    assert_eq!((came["test-0"].requests, came["test-0"].partial), (1_200, false));
    assert_eq!(world.oracle.lost(), 0);
}

#[test]
fn clk_04_a_gate_that_stood_still_owns_and_decides_nothing_when_it_goes_on() {
    let jobs = (0..4).map(|n| test(n, 3, users(4, seconds(20)))).collect();
    let mut world = world(scenario(3, vec![datacenter(1, &[2, 2])], jobs), 12, None);
    world.live_until(at(10));
    let gate = world.leading_gate().unwrap();
    let owned = |world: &World| match world.hosts[&gate].node.as_ref() {
        Some(Node::Gate { gate, .. }) => gate.owned().collect::<BTreeSet<_>>(),
        Some(Node::Manager { .. } | Node::Worker { .. }) | None => BTreeSet::new(),
    };
    let before = owned(&world);

    world.freeze(gate, seconds(15));
    world.live_until(at(26));

    assert_eq!(world.broken(), None);
    assert_ne!(world.leading_gate(), Some(gate), "another leads the ledger");
    let kept: Vec<_> = owned(&world).intersection(&before).copied().collect();
    assert_eq!(kept, [], "what it owned is another's, or its own again under a higher fence");
    assert_eq!(world.finish().len(), 4);
}
