//! Bad networks and slow processes in which nobody has crashed.

use std::time::Duration;

use hyperscale_membership::{Event, MemberState};

use crate::is_long;
use crate::world::{Network, World};

const SECOND: Duration = Duration::from_secs(1);

/// What was seen in one world.
#[derive(Debug, Default)]
struct Seen {
    suspicions: usize,
    refutations: usize,
    dead: usize,
    dropped: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.suspicions += other.suspicions;
        self.refutations += other.refutations;
        self.dead += other.dead;
        self.dropped += other.dropped;
    }
}

/// 5 % loss, 50–200 ms, spikes of 500 ms. One after the other, a node stands still for 2 s, one is cut
/// off for 3 s, or two are cut one way for 10 s with all the others as a detour.
fn noise(seed: u64, count: u64, length: Duration) -> Seen {
    let mut world = World::formed(seed, Network::rough(), count);
    let begin = world.now;
    let dropped = world.dropped;
    while world.now.since(begin) < length {
        let a = 1 + world.random().below(count);
        let b = 1 + (a + world.random().below(count - 1)) % count;
        match world.random().below(3) {
            0 => world.pause(a, 2 * SECOND),
            1 => world.drop_all(a, 3 * SECOND),
            _ => world.network.cuts = [(a, b)].into(),
        }
        world.run_for(10 * SECOND);
        world.network.cuts.clear();
        let rest = 5 + world.random().below(20);
        world.run_for(Duration::from_secs(rest));
    }
    world.assert_orderly();
    let refuted = |event: &&(_, u64, Event)| matches!(event.2, Event::Refuted { .. });
    let told = |state| (1..=count).map(|node| world.told(node, state)).sum();
    Seen {
        suspicions: told(MemberState::Suspect),
        refutations: world.events.iter().filter(refuted).count(),
        dead: told(MemberState::Dead),
        dropped: world.dropped - dropped,
    }
}

#[test]
fn mem_06_nobody_dies_of_noise() {
    let (length, seeds) = match is_long() {
        true => (3_600 * SECOND, [100; 3]),
        false => (300 * SECOND, [4, 3, 6]),
    };
    let mut deadly = Vec::new();
    for (count, seeds) in [3, 12, 20].into_iter().zip(seeds) {
        let mut all = Seen::default();
        for seed in 0..seeds {
            let seen = noise(seed, count, length);
            assert!(seen.dropped > 0, "the network lost nothing");
            if seen.dead > 0 {
                deadly.push((count, seed, seen.dead));
            }
            all.add(&seen);
        }
        eprintln!("{count} nodes, {seeds} × {length:?}: {all:?}");
        assert!(all.suspicions > 0, "nothing put the rule to the test");
    }
    assert_eq!(deadly, [], "nodes, seeds and deaths");
}

#[test]
fn mem_06_broken_one_way_link_with_a_detour_suspects_nobody() {
    for seed in 0..10 {
        let mut world = World::formed(seed, Network::calm(), 6);
        world.network.cuts = [(1, 2)].into();
        let dropped = world.dropped;
        world.run_for(300 * SECOND);

        assert!(world.dropped > dropped + 50, "the link carried nothing");
        assert_eq!(world.changes, [], "the detour was not used (seed {seed})");
    }
}
