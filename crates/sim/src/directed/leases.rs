//! Workers without their leaders, and leaders without their workers.

use super::*;

/// A job of 40 starts a second for 40 s, on two of three workers, one of which is cut off.
fn cut_worker(stretch: u64, mutation: Option<Mutation>) -> (World, NodeId) {
    let mut job = test(0, 3, arrivals(40.0, seconds(40)));
    job.plan.workflows[0].cores = Some(2);
    let datacenters = vec![datacenter(1, &[1, 1, 1])];
    let mut world = world(scenario(1, datacenters, vec![job]), 8, mutation);
    world.live_until(at(8));
    let manager = world.leading_manager().unwrap();
    let busy = world.heard_from(manager, at(3), |m| matches!(m, Message::StartAttempt { .. }));
    let worker = busy[0].1;
    world.split(|node| usize::from(node == worker));
    let end = world.now + seconds(stretch);
    world.live_until(end);
    (world, worker)
}

#[test]
fn orp_03_a_worker_whose_leader_is_back_before_its_lease_has_ended_goes_on() {
    let (mut world, worker) = cut_worker(7, None);
    world.heal();

    let came = &world.finish()["test-0"];

    assert_eq!(world.oracle.lost(), 0, "nothing was given to anyone else");
    assert_eq!((came.requests, came.partial), (1_600, false), "nothing of {worker} is missing");
}

#[test]
fn orp_03_a_worker_goes_on_under_the_next_leader_that_claims_it_in_time() {
    let mut job = test(0, 3, arrivals(40.0, seconds(30)));
    job.plan.workflows[0].cores = Some(2);
    let datacenters = vec![datacenter(3, &[1, 1])];
    let mut world = world(scenario(1, datacenters, vec![job]), 9, None);
    world.live_until(at(10));
    let first = world.leading_manager().unwrap();

    // For good, as far as this job is concerned.
    world.freeze(first, seconds(100));
    let came = world.finish();

    assert_eq!(world.oracle.lost(), 0, "nothing was restarted");
    assert_eq!((came["test-0"].requests, came["test-0"].partial), (1_200, false));
}

#[test]
fn orp_03_orp_05_a_worker_that_was_given_up_had_stopped_and_nothing_more_of_it_counts() {
    let (mut world, worker) = cut_worker(25, None);
    let requests = world.oracle.requests_of(|node| node == worker);
    assert_eq!(world.oracle.lost(), 1, "its work was given to another");
    world.heal();
    // It has heard within a second or two that its attempt is over, and its core is free.
    let end = world.now + seconds(4);
    world.live_until(end);
    let Some(Node::Worker { worker: state, .. }) = &world.hosts[&worker].node else { panic!() };
    assert_eq!((state.running().count(), state.free_cores()), (0, 1));

    let came = world.finish();

    // That no two attempts of a shard send at once, and that nothing counts of one after it was
    // closed, is checked all along.
    let after = world.oracle.requests_of(|node| node == worker);
    assert_eq!(after, requests, "it sent something after the other had begun");
    let came = &came["test-0"];
    assert!(came.partial, "the gap is told");
    assert!((1_200..1_600).contains(&came.requests), "{came:?}");
}

#[test]
fn orp_05_the_ways_to_send_twice_are_seen() {
    let broken = [Mutation::IgnoreLease, Mutation::EarlyRedispatch].map(|mutation| {
        let (mut world, _) = cut_worker(25, Some(mutation));
        world.heal();
        let end = world.now + seconds(20);
        world.live_until(end);
        world.broken().map(str::to_owned)
    });

    for what in broken {
        assert!(what.as_deref().is_some_and(|what| what.starts_with("INV-15")), "{what:?}");
    }
}
