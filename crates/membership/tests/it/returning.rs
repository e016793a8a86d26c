//! Nodes that come back: with an old incarnation, a new one, or from the other side of a cut.

use std::time::Duration;

use hyperscale_membership::{Event, Input, MemberState, Refusal};
use hyperscale_model::{Incarnation, NodeId};

use crate::world::{Network, World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn mem_05_zombie_is_refused_until_it_raises_its_incarnation() {
    let mut refused = 0;
    for seed in 0..20 {
        let mut world = World::formed(seed, Network::rough(), 12);
        let old = world.stored(4);
        world.pause(4, 25 * SECOND);
        world.run_for(24 * SECOND);
        assert_eq!(world.told(4, MemberState::Dead), 11, "it was not declared dead (seed {seed})");
        for (node, membership) in world.running().filter(|&(node, _)| node != 4) {
            assert!(
                !membership.admits(NodeId(4), Incarnation(old)),
                "{node} listens to a dead incarnation"
            );
        }

        let since = world.now;
        let took = world.run_until(60 * SECOND, World::is_formed);

        assert!(took.is_some(), "it did not return within 60 s (seed {seed})");
        world.assert_orderly();
        assert!(world.stored(4) > old);
        let accepted = world.changes.iter().filter(|change| {
            let is_back = matches!(change.state, MemberState::Alive | MemberState::Unconfirmed);
            change.node == 4 && change.at >= since && is_back && change.incarnation <= old
        });
        assert_eq!(accepted.count(), 0, "a zombie was accepted (seed {seed})");
        let reason = Refusal::DeadIncarnation;
        let is_refusal = |event: &Event| *event == Event::Refused { node: NodeId(4), reason };
        refused += world.events.iter().filter(|(_, _, event)| is_refusal(event)).count();
    }
    assert!(refused > 0, "no zombie ever spoke");
}

#[test]
fn mem_05_zombie_on_a_link_is_refused() {
    let mut world = World::formed(1, Network::calm(), 3);
    let old = Incarnation(world.stored(2));
    world.crash(2);
    world.run_for(20 * SECOND);
    world.changes.clear();

    world.input(1, Input::Heard { node: NodeId(2), incarnation: old });
    assert_eq!(world.state(1, 2), Some(MemberState::Dead));
    assert_eq!(world.changes, []);

    world.input(1, Input::Heard { node: NodeId(2), incarnation: old.next() });
    assert_eq!(world.state(1, 2), Some(MemberState::Alive));
}

#[test]
fn mem_05_incarnation_survives_restarts() {
    let mut world = World::formed(3, Network::rough(), 5);
    let mut before = world.stored(2);
    for downtime in [0, 1, 3, 8, 30, 130] {
        world.crash(2);
        world.run_for(downtime * SECOND);
        world.restart(2);
        assert!(world.stored(2) > before, "the incarnation went back");
        before = world.stored(2);
        let took = world.run_until(60 * SECOND, World::is_formed);
        assert!(took.is_some(), "not formed after {downtime} s");
        // As others know the present life, not an older one.
        for (node, membership) in world.running().filter(|&(node, _)| node != 2) {
            let known = membership.member(NodeId(2)).unwrap().incarnation.0;
            assert_eq!(known, world.stored(2), "{node} knows an old life");
        }
        world.run_for(10 * SECOND);
        before = before.max(world.stored(2));
    }
    world.assert_orderly();
}

#[test]
fn sides_of_a_cut_find_each_other_again() {
    for seed in 0..10 {
        let mut world = World::formed(seed, Network::rough(), 12);
        let sides: [Vec<u64>; 2] = [(1..=6).collect(), (7..=12).collect()];
        for (a, b) in sides[0].iter().flat_map(|&a| sides[1].iter().map(move |&b| (a, b))) {
            world.network.cuts.extend([(a, b), (b, a)]);
        }
        world.run_for(60 * SECOND);
        for (observer, membership) in world.running() {
            let dead = membership.members().filter(|m| m.state == MemberState::Dead).count();
            assert_eq!(dead, 6, "{observer} sees {dead} dead (seed {seed})");
        }

        world.network.cuts.clear();
        let took = world.run_until(120 * SECOND, World::is_formed);
        assert!(took.is_some(), "the sides stay apart (seed {seed})");
        world.assert_orderly();
    }
}

#[test]
fn dead_are_reaped_and_return_as_new() {
    let mut world = World::new(2, Network::calm());
    world.tune = |config| config.reap_after = Duration::from_secs(120);
    for node in 1..=5 {
        world.start(node, &[1, 2, 3]);
    }
    world.run_for(20 * SECOND);
    world.crash(5);
    world.run_for(100 * SECOND);
    assert_eq!(world.state(1, 5), Some(MemberState::Dead), "forgotten too early");

    world.run_for(60 * SECOND);
    assert_eq!(world.state(1, 5), None, "still remembered");
    world.run_for(600 * SECOND);
    for (node, membership) in world.running() {
        assert_eq!(membership.member(NodeId(5)), None, "{node} has heard of it again");
    }

    world.restart(5);
    assert!(world.run_until(30 * SECOND, World::is_formed).is_some());
    world.assert_orderly();
}

#[test]
fn dead_are_not_revived_by_old_news_among_new_nodes() {
    let mut world = World::new(4, Network::rough());
    world.tune = |config| config.reap_after = Duration::from_secs(30);
    for node in 1..=8 {
        world.start(node, &[1, 2, 3]);
    }
    world.run_for(20 * SECOND);
    world.crash(8);
    // New nodes, which never knew it, come all the time.
    for node in 9..=20 {
        world.run_for(10 * SECOND);
        world.start(node, &[1, 2, 3]);
    }
    world.run_for(60 * SECOND);

    for (node, membership) in world.running() {
        assert_eq!(membership.member(NodeId(8)), None, "{node} still passes it on");
    }
    world.assert_orderly();
}
