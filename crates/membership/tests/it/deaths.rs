//! Nodes that crash, and nodes that leave.

use std::time::Duration;

use hyperscale_membership::{Input, MemberState};
use hyperscale_model::NodeId;

use crate::world::{Network, World};

const SECOND: Duration = Duration::from_secs(1);

/// How long until all others have seen the node dead.
fn time_to_death(world: &mut World, node: u64) -> Duration {
    let others = world.running().filter(|&(other, _)| other != node).count();
    world.crash(node);
    let took = world.run_until(60 * SECOND, |world| world.told(node, MemberState::Dead) == others);
    took.unwrap_or_else(|| panic!("not all of {others} saw node {node} die"))
}

#[test]
fn mem_02_crashed_node_is_dead_everywhere_within_12_s() {
    for (count, network, seeds) in [
        (2, Network::calm(), 30),
        (3, Network::rough(), 60),
        (12, Network::rough(), 40),
        (20, Network::rough(), 40),
        (60, Network::calm(), 6),
    ] {
        let mut all: Vec<Duration> = Vec::new();
        for seed in 0..seeds {
            let mut world = World::formed(seed, network.clone(), count);
            let victim = 1 + seed % count;
            all.push(time_to_death(&mut world, victim));
            world.run_for(5 * SECOND);
            world.assert_orderly();
            assert_eq!(
                world.told(victim, MemberState::Suspect),
                world.told(victim, MemberState::Dead),
                "somebody did not see it suspect first (seed {seed})"
            );
            let limit = 12 * SECOND;
            let took = all.last().unwrap();
            assert!(*took <= limit, "{count} nodes took {took:?} (seed {seed})");
        }
        all.sort();
        eprintln!(
            "{count} nodes: dead at all after {:?} (median), {:?} (longest)",
            all[all.len() / 2],
            all[all.len() - 1]
        );
    }
}

#[test]
fn mem_02_closed_links_find_a_death_sooner_and_kill_nobody() {
    let mut worst = Duration::ZERO;
    for seed in 0..40 {
        let mut world = World::formed(seed, Network::rough(), 12);
        for observer in 2..=12 {
            world.input(observer, Input::LinkClosed { node: NodeId(1) });
        }
        world.run_for(20 * SECOND);
        assert_eq!(world.told(1, MemberState::Dead), 0, "a closed link killed (seed {seed})");

        for observer in 2..=12 {
            world.input(observer, Input::LinkClosed { node: NodeId(1) });
        }
        worst = worst.max(time_to_death(&mut world, 1));
        world.assert_orderly();
    }
    eprintln!("dead at all at most {worst:?} after links closed");
    assert!(worst <= 4 * SECOND, "{worst:?} with all links closed");
}

#[test]
fn mem_02_single_lost_probe_changes_nothing() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut world = World::formed(seed, Network::calm(), 5);
        for from in 2..=5 {
            world.lose_next.insert((from, 1), 1);
        }
        let dropped = world.dropped;
        world.run_for(20 * SECOND);
        lost += world.dropped - dropped;
        assert_eq!(world.changes, [], "a lost datagram changed something (seed {seed})");
    }
    assert_eq!(lost, 4 * 50, "the datagrams were not lost");
}

#[test]
fn mem_02_probes_of_a_suspect_do_not_flood() {
    for count in [3, 12, 20] {
        let (mut steady, mut suspecting) = (0, 0);
        for seed in 0..10 {
            let mut world = World::formed(seed, Network::calm(), count);
            let before = world.probes();
            world.run_for(20 * SECOND);
            steady += (world.probes() - before) * 50 / count;

            world.crash(1);
            world.run_until(20 * SECOND, |world| world.told(1, MemberState::Suspect) > 0);
            let before = world.probes();
            world.run_for(SECOND * 3);
            suspecting += (world.probes() - before) * 1_000 / 3 / (count - 1);
        }
        eprintln!(
            "{count} nodes: {steady} probe datagrams per node in 10,000 s, {suspecting} suspecting"
        );
        assert!(suspecting <= 2 * steady, "{count} nodes send {suspecting} after {steady}");
    }
}

#[test]
fn mem_03_death_acts_once_for_each_observer_seen_or_heard() {
    for seed in 0..20 {
        let mut world = World::formed(seed, Network::rough(), 12);
        // Half of the observers lose their links, so some see the death and others hear of it.
        world.crash(1);
        for observer in 2..=6 {
            world.input(observer, Input::LinkClosed { node: NodeId(1) });
        }
        world.run_for(90 * SECOND);

        world.assert_orderly();
        for observer in 2..=12 {
            let deaths = world.changes.iter().filter(|change| {
                (change.observer, change.node, change.state) == (observer, 1, MemberState::Dead)
            });
            assert_eq!(deaths.count(), 1, "reactions of {observer} (seed {seed})");
        }
        let others = world
            .changes
            .iter()
            .filter(|change| change.node != 1 && change.state == MemberState::Dead);
        assert_eq!(others.count(), 0, "somebody else died (seed {seed})");
    }
}

#[test]
fn leaving_is_announced_and_is_no_failure() {
    for seed in 0..20 {
        let mut world = World::formed(seed, Network::rough(), 12);
        world.input(5, Input::Leave);
        world.run_for(3 * SECOND);
        assert_eq!(world.membership(5).next_deadline(), None, "it has not gone");
        world.crash(5);
        world.run_for(60 * SECOND);

        world.assert_orderly();
        assert_eq!(world.told(5, MemberState::Left), 11, "not all heard of it (seed {seed})");
        assert_eq!(world.told(5, MemberState::Dead), 0, "taken for a failure (seed {seed})");
    }
}
