//! What membership costs.

use std::time::Duration;

use crate::is_long;
use crate::world::{Network, World};

/// Datagrams and bytes a node sends in a second, when nothing happens and while one is dying.
fn traffic(count: u64) -> [f64; 4] {
    let mut world = World::formed(1, Network::calm(), count);
    world.run_for(Duration::from_secs(20));
    let mut measure = |seconds: u64, nodes: u64| {
        let before = (world.datagrams, world.bytes);
        world.run_for(Duration::from_secs(seconds));
        let share = |all: u64| all as f64 / seconds as f64 / nodes as f64;
        let figures = [share(world.datagrams - before.0), share(world.bytes - before.1)];
        world.crash(count);
        figures
    };
    let [datagrams, bytes] = measure(30, count);
    let [dying_datagrams, dying_bytes] = measure(12, count - 1);
    [datagrams, bytes, dying_datagrams, dying_bytes]
}

fn report(count: u64, [datagrams, bytes, dying_datagrams, dying_bytes]: [f64; 4]) {
    eprintln!(
        "{count} nodes: {datagrams:.1} datagrams, {bytes:.0} bytes per node and second; \
         {dying_datagrams:.1}, {dying_bytes:.0} while one dies"
    );
}

#[test]
fn traffic_of_a_node_does_not_grow_with_its_cluster() {
    let many = if is_long() { 1_000 } else { 200 };
    let (small, large) = (traffic(10), traffic(many));
    report(10, small);
    report(many, large);

    for (small, large) in small.into_iter().zip(large).take(2) {
        assert!(large <= small * 1.1, "from {small} at 10 nodes to {large} at {many}");
    }
    // Gossip of a death lasts a little longer in the larger cluster, and is bounded by its fanout.
    assert!(large[2] <= 3.0 * 5.0 + small[0] * 2.0, "{} datagrams while one dies", large[2]);
}
