//! Clusters that form.

use std::time::Duration;

use hyperscale_membership::{Event, Input, MemberState, Metadata};
use hyperscale_model::{NodeId, SplitMix};

use crate::world::{Network, World, address};

const SECOND: Duration = Duration::from_secs(1);
const GATES: [u64; 3] = [1, 2, 3];

/// Starts nodes in this order with gaps below `gap_ms`; how long forming takes after the last.
fn form(seed: u64, order: &[u64], gap_ms: u64, network: Network) -> Duration {
    let mut world = World::new(seed, network);
    for &node in order {
        world.start(node, &GATES);
        let gap = Duration::from_millis(world.random().below(gap_ms));
        world.run_for(gap);
    }
    let took = world.run_until(30 * SECOND, World::is_formed);
    world.assert_orderly();
    let accused = |state| (1..=12).map(|node| world.told(node, state)).sum::<usize>();
    assert_eq!(accused(MemberState::Dead), 0, "somebody died while forming (seed {seed})");
    took.unwrap_or_else(|| panic!("{order:?} has not formed in 30 s (seed {seed})"))
}

fn shuffled(seed: u64, count: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (1..=count).collect();
    let mut random = SplitMix::new(seed);
    for place in (1..order.len()).rev() {
        order.swap(place, usize::try_from(random.below(place as u64 + 1)).unwrap());
    }
    order
}

fn permutations(nodes: &[u64]) -> Vec<Vec<u64>> {
    if nodes.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, &first) in nodes.iter().enumerate() {
        let rest = [&nodes[..place], &nodes[place + 1..]].concat();
        for mut order in permutations(&rest) {
            order.insert(0, first);
            all.push(order);
        }
    }
    all
}

#[test]
fn mem_01_three_gates_and_nine_managers_form_in_any_start_order() {
    let mut worst = Duration::ZERO;
    for seed in 0..150 {
        let gap_ms = [1, 200, 3_000, 20_000][usize::try_from(seed % 4).unwrap()];
        let network = if seed % 2 == 0 { Network::rough() } else { Network::calm() };
        worst = worst.max(form(seed, &shuffled(seed, 12), gap_ms, network));
    }
    eprintln!("formed at most {worst:?} after the last start");
}

#[test]
fn mem_01_all_orders_of_five_nodes_form() {
    let orders = permutations(&[1, 2, 3, 4, 5]);
    assert_eq!(orders.len(), 120);
    for (seed, order) in orders.iter().enumerate() {
        form(seed as u64, order, 3_000, Network::rough());
    }
}

#[test]
fn mem_01_peer_that_never_answers_is_warned_about_once_and_never_accused() {
    let mut world = World::new(1, Network::calm());
    world.start(1, &[2, 3]);
    world.start(2, &[1, 3]);
    world.run_for(59 * SECOND);
    assert_eq!(silent(&world), [], "warned too early");

    world.run_for(2 * SECOND);
    assert_eq!(silent(&world), [(1, 3), (2, 3)]);

    let datagrams = world.datagrams;
    world.run_for(3_600 * SECOND);
    assert_eq!(silent(&world).len(), 2, "warned again");
    assert_eq!(world.told(3, MemberState::Suspect) + world.told(3, MemberState::Dead), 0);
    assert_eq!(world.membership(1).members().count(), 1, "an address alone is no member");
    // Two pings and answers a second, and a try at the silent peer by both every 30 s.
    assert!(world.datagrams - datagrams < 4 * 3_600 + 2 * 3_600 / 20, "the silent peer is flooded");
}

fn silent(world: &World) -> Vec<(u64, u64)> {
    let nodes = 1..=3u64;
    let at = |silent| nodes.clone().find(|&node| address(node) == silent).unwrap();
    let warnings = world.events.iter().filter_map(|(_, observer, event)| match event {
        Event::Silent { address, .. } => Some((*observer, at(*address))),
        _ => None,
    });
    warnings.collect()
}

#[test]
fn mem_01_hearsay_neither_confirms_nor_accuses() {
    // 4 and 5 cannot hear each other, but both talk to the others, from the very start.
    let mut world = World::new(5, Network::calm());
    world.network.cuts = [(4, 5), (5, 4)].into();
    for node in 1..=5 {
        world.start(node, &GATES);
    }

    world.run_for(600 * SECOND);

    assert_eq!(world.state(4, 5), Some(MemberState::Unconfirmed), "hearsay confirmed it");
    assert_eq!(world.state(5, 4), Some(MemberState::Unconfirmed), "hearsay confirmed it");
    assert_eq!(world.state(1, 5), Some(MemberState::Alive));
    assert_eq!(world.state(1, 4), Some(MemberState::Alive));
    let accused = world.changes.iter().filter(|change| change.state >= MemberState::Suspect);
    assert_eq!(accused.count(), 0, "a peer that was never heard from was accused");
    let warned = |(_, observer, event): &&(_, u64, Event)| {
        *observer == 4 && matches!(event, Event::Silent { node: Some(_), .. })
    };
    assert_eq!(world.events.iter().filter(warned).count(), 1, "one warning");

    world.network.cuts.clear();
    let took = world.run_until(60 * SECOND, World::is_formed);
    assert!(took.is_some(), "they do not find each other when they can");
}

#[test]
fn equal_seeds_give_equal_traces() {
    let run = |seed| {
        let mut world = World::formed(seed, Network::rough(), 10);
        world.crash(4);
        world.pause(5, 3 * SECOND);
        world.run_for(30 * SECOND);
        (world.trace, world.changes)
    };

    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

fn metadata(node: u64, number: u64) -> Metadata {
    Metadata::new(format!("node {node}, {number}").into_bytes()).unwrap()
}

/// Every running node holds this of every other.
fn all_hold(world: &World, number: u64) -> bool {
    let nodes: Vec<u64> = world.running().map(|(node, _)| node).collect();
    world.running().all(|(_, membership)| {
        nodes.iter().all(|&node| {
            let held = membership.metadata(NodeId(node)).map(|said| &said.metadata);
            held == Some(&metadata(node, number))
        })
    })
}

#[test]
fn reg_03_metadata_reaches_all_whatever_was_lost() {
    for seed in 0..10 {
        let mut world = World::new(seed, Network::rough());
        for node in 1..=12 {
            world.start(node, &GATES);
            world.input(node, Input::SetMetadata(metadata(node, 1)));
        }
        let took = world.run_until(30 * SECOND, |world| all_hold(world, 1));
        assert!(took.is_some(), "not all know what all are (seed {seed})");

        for node in 1..=12 {
            world.input(node, Input::SetMetadata(metadata(node, 2)));
        }
        let took = world.run_until(10 * SECOND, |world| all_hold(world, 2));
        assert!(took.is_some(), "changes do not arrive (seed {seed})");

        // Whoever comes when nothing is news any more learns it too.
        world.run_for(30 * SECOND);
        world.start(13, &GATES);
        world.input(13, Input::SetMetadata(metadata(13, 2)));
        let took = world.run_until(30 * SECOND, |world| all_hold(world, 2));
        assert!(took.is_some(), "a new node is not told (seed {seed})");

        // One is dead for a while, and returns in the same process.
        world.pause(7, 25 * SECOND);
        world.run_for(24 * SECOND);
        assert_eq!(world.told(7, MemberState::Dead), 12);
        for node in 1..=13 {
            world.input(node, Input::SetMetadata(metadata(node, 3)));
        }
        let took = world.run_until(60 * SECOND, |world| all_hold(world, 3));
        assert!(took.is_some(), "what returned is not known (seed {seed})");
    }
}
