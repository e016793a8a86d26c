//! Clusters that fall apart and come together again.

use super::*;

/// Jobs that are submitted before, in and after a split.
fn tests(count: usize, every: u64) -> Vec<Test> {
    (0..count).map(|n| test(n, 5 + n as u64 * every, users(4, seconds(6)))).collect()
}

/// How long it takes from now on until all gates hold the same state.
fn agreed_within(world: &mut World) -> Duration {
    let healed = world.now;
    while !world.agree(Role::Gate) && world.now < healed + seconds(60) {
        let next = world.now + Duration::from_millis(500);
        world.live_until(next);
    }
    world.now - healed
}

fn numbers(world: &World, nodes: &[u64]) -> Vec<(u64, u64)> {
    nodes.iter().map(|&node| (node, world.applied(NodeId(node)))).collect()
}

#[test]
fn ldr_06_of_five_gates_only_the_side_with_three_decides_and_all_agree_when_it_heals() {
    let datacenters = vec![datacenter(1, &[2, 2, 2, 2])];
    let mut world = world(scenario(5, datacenters, tests(6, 4)), 1, None);
    world.live_until(at(10));
    let small: [u64; 2] = [1, 2];

    world.split(|node| usize::from(small.contains(&node.0)));
    world.live_until(at(14));
    let before = numbers(&world, &small);
    let large = numbers(&world, &[3, 4, 5]);
    world.live_until(at(26));
    assert_eq!(world.broken(), None);
    assert_eq!(numbers(&world, &small), before, "two of five decided something");
    let after = numbers(&world, &[3, 4, 5]);
    assert!(after[0].1 > large[0].1 + 5, "three of five went on: {after:?}");
    world.heal();
    let took = agreed_within(&mut world);
    let came = world.finish();
    assert!(took <= seconds(30), "{took:?}");
    assert_eq!(came.len(), 6, "one result for each job, at every gate");
    assert!(came.values().all(|came| came.status == "completed"), "{came:?}");
}

#[test]
fn ldr_06_of_two_two_and_one_no_side_decides_until_it_heals() {
    let datacenters = vec![datacenter(1, &[2, 2, 2])];
    let mut world = world(scenario(5, datacenters, tests(4, 3)), 2, None);
    world.live_until(at(9));

    world.split(|node| match node.0 {
        1 | 2 => 0,
        3 | 4 => 1,
        5 => 2,
        _ => 1,
    });
    // What was on its way to a majority may still arrive at the one or the other.
    world.live_until(at(10));
    let decided = world.oracle.gate_entries();
    world.live_until(at(22));
    assert_eq!(world.broken(), None);
    assert_eq!(world.oracle.gate_entries(), decided, "a minority decided something");
    assert_eq!(world.leading_gate(), None, "nobody is followed by a majority");
    world.heal();
    let took = agreed_within(&mut world);
    assert_eq!(world.finish().len(), 4);
    assert!(took <= seconds(30), "{took:?}");
    assert!(world.oracle.gate_entries() > decided, "they decide again");
}

#[test]
fn ldr_07_when_managers_split_only_the_majority_gives_load() {
    let datacenters = vec![datacenter(3, &[2, 2, 2, 2])];
    let jobs = (0..6).map(|n| test(n, 3 + n as u64 * 5, users(4, seconds(8)))).collect();
    let mut world = world(scenario(1, datacenters, jobs), 3, None);
    world.live_until(at(10));
    let old = world.leading_manager().unwrap();
    let fence = world.fence_of_leader(old).unwrap();
    let with_old = [old, NodeId(110), NodeId(111)];

    world.split(|node| usize::from(with_old.contains(&node)));
    world.live_until(at(24));
    assert_eq!(world.broken(), None);
    let new = world.leading_manager().unwrap();
    assert_ne!(new, old, "the majority has another leader within 14 s");
    assert!(world.fence_of_leader(new) > Some(fence));
    world.live_until(at(35));
    world.heal();
    let came = world.finish();

    let first = world.heard_from(new, at(10), is_of_load).first().copied().unwrap().0;
    let late = world.heard_from(old, first, is_of_load);
    let late: Vec<_> = late.into_iter().filter(|(at, _)| *at < Time::from_secs(35)).collect();
    assert_eq!(late, [], "the old leader gave load after the new one had begun at {first}");
    assert_eq!(came.len(), 6);
    assert!(came.values().all(|came| came.status == "completed"), "{came:?}");
}

#[test]
fn ldr_04_a_leader_that_loses_one_gate_after_another_decides_as_long_as_a_majority_hears_it() {
    let datacenters = vec![datacenter(1, &[2, 2])];
    let mut world = world(scenario(5, datacenters, tests(8, 3)), 4, None);
    world.live_until(at(8));
    let leader = world.leading_gate().unwrap();
    let others: Vec<NodeId> =
        world.all(Role::Gate).into_iter().filter(|gate| *gate != leader).collect();
    let lose = |world: &mut World, lost: &[NodeId]| {
        let lost = lost.to_vec();
        world.split(|node| lost.iter().position(|gate| *gate == node).map_or(0, |at| at + 1));
    };

    for count in [1, 2] {
        lose(&mut world, &others[..count]);
        let until = world.now + seconds(4);
        world.live_until(until);
        assert_eq!(world.leading_gate(), Some(leader), "three of five are enough");
        let (before, term) = (world.applied(leader), world.term(leader));
        let until = world.now + seconds(4);
        world.live_until(until);
        assert!(world.applied(leader) > before, "it decides with {count} lost");
        assert_eq!(world.term(leader), term, "nobody stands against it");
    }
    lose(&mut world, &others[..3]);
    let until = world.now + seconds(8);
    world.live_until(until);
    assert_eq!(world.leading_gate(), None, "two of five are not: it leads no more");
    let decided = world.oracle.gate_entries();
    let until = world.now + seconds(8);
    world.live_until(until);
    assert_eq!(world.oracle.gate_entries(), decided);
    world.heal();

    let came = world.finish();
    assert_eq!(came.len(), 8, "no job is left without an end");
}

#[test]
fn ldr_04_a_leader_that_is_unheard_for_less_than_its_lease_leads_on() {
    let datacenters = vec![datacenter(1, &[2, 2])];
    let mut world = world(scenario(3, datacenters, tests(2, 3)), 5, None);
    world.live_until(at(8));
    let leader = world.leading_gate().unwrap();
    let term = world.term(leader);

    // Half a second of silence, again and again, and words in between.
    for _ in 0..10 {
        let ways: Vec<(NodeId, NodeId)> = (world.all(Role::Gate).into_iter())
            .filter(|gate| *gate != leader)
            .flat_map(|gate| [(leader, gate), (gate, leader)])
            .collect();
        world.network.cuts.extend(ways);
        let until = world.now + Duration::from_millis(500);
        world.live_until(until);
        world.heal();
        let until = world.now + Duration::from_millis(700);
        world.live_until(until);
        assert_eq!((world.leading_gate(), world.term(leader)), (Some(leader), term));
    }

    world.finish();
}

#[test]
fn fed_06_a_datacenter_that_no_gate_reaches_goes_on_and_its_results_count_once() {
    let datacenters = vec![datacenter(1, &[2, 2]), datacenter(1, &[2, 2])];
    let mut jobs =
        vec![test(0, 3, arrivals(20.0, seconds(25))), test(1, 4, arrivals(5.0, seconds(50)))];
    // Both run at once.
    jobs.iter_mut().for_each(|job| job.plan.workflows[0].cores = Some(2));
    let mut world = world(scenario(3, datacenters, jobs), 6, None);
    world.live_until(at(8));
    let far = |node: NodeId| node.0 >= 200;
    let sent = |world: &World| world.oracle.requests_of(far);
    let before = sent(&world);

    world.split(|node| usize::from(far(node)));
    world.live_until(at(27));
    assert!(sent(&world) > before + 150, "its load goes on: {} after {before}", sent(&world));
    world.live_until(at(45));
    world.heal();
    let healed = world.now;
    let came = world.finish();
    assert!(world.now <= healed + seconds(30), "all is told within 30 s: {}", world.now);

    let expected = [("test-0", 500), ("test-1", 250)];
    for (name, requests) in expected {
        let came = &came[name];
        assert_eq!((came.status.as_str(), came.partial), ("completed", false), "{name}");
        assert_eq!(came.requests, requests, "{name}: nothing is lost, nothing counts twice");
    }
}

#[test]
fn syn_09_a_manager_that_was_cut_off_catches_up_with_what_it_missed_and_little_more() {
    let datacenters = vec![datacenter(3, &[2, 2, 2])];
    let jobs = (0..10).map(|n| test(n, 3 + n as u64 * 2, users(4, seconds(1)))).collect();
    let mut world = world(scenario(1, datacenters, jobs), 7, None);
    world.live_until(at(6));
    let leader = world.leading_manager().unwrap();
    let cut = world.all(Role::Manager).into_iter().find(|node| *node != leader).unwrap();

    world.split(|node| usize::from(node == cut));
    world.live_until(at(30));
    let (behind, ahead) = (world.applied(cut), world.applied(leader));
    assert!(ahead > behind + 40, "{ahead} entries, {behind} of them known");
    let missed = world.oracle.entry_bytes(0, behind + 1..=ahead);
    world.heal();
    let healed = world.now;
    while world.applied(cut) < ahead {
        let next = world.now + Duration::from_millis(100);
        assert!(next < healed + seconds(30), "not within 30 s");
        world.live_until(next);
    }
    let repair: u64 = (world.heard.iter())
        .filter(|(at, _, to, message)| {
            *at >= healed && *to == cut && matches!(message, Message::Ledger { .. })
        })
        .map(|(.., message)| encode_frame(message).unwrap().len() as u64)
        .sum();

    assert!(repair <= 3 * missed + (64 << 10), "{repair} bytes for {missed}");
    assert!(repair >= missed, "{repair} bytes for {missed}: was it behind at all?");
    assert_eq!(world.finish().len(), 10, "every job ends once");
}
