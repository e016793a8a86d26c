//! Nodes that are far apart.

use super::*;

/// Gates on three continents and datacenters on two others, all of them so far from each other. Frames
/// take up to twice as long.
fn wide(one_way: Duration, tests: Vec<Test>) -> World {
    let datacenters = vec![datacenter(3, &[2, 2]), datacenter(3, &[2, 2])];
    let mut world = world(scenario(3, datacenters, tests), 1, None);
    let place = |node: NodeId| if node.0 < 100 { node.0 } else { node.0 / 100 * 100 };
    for (&(a, b), link) in &mut world.network.links {
        if place(a) != place(b) {
            link.delay = one_way;
        }
    }
    world
}

#[test]
fn tmo_07_nothing_that_is_only_far_is_taken_for_late_or_dead() {
    // Round trips of 260 to 520 ms, 390 in the mean; no two places on Earth are farther apart.
    let one_way = Duration::from_millis(130);
    let jobs = (0..8).map(|n| test(n, 10 + n as u64 * 4, arrivals(10.0, seconds(10)))).collect();
    let mut world = wide(one_way, jobs);
    world.live_until(at(9));
    let leader = world.leading_gate().expect("a gate leads by now");
    let term = world.term(leader);

    world.live_until(at(60));
    assert_eq!(world.broken(), None);
    let came = world.finish();

    assert_eq!(came.len(), 8);
    for (name, came) in &came {
        assert_eq!((came.status.as_str(), came.partial), ("completed", false), "{name}");
        assert_eq!(came.requests, 100, "{name}");
    }
    assert!(world.now < at(65), "the last one ended in time: {}", world.now);
    assert_eq!((world.leading_gate(), world.term(leader)), (Some(leader), term), "it leads on");
    let mut offers: BTreeMap<String, usize> = BTreeMap::new();
    for (.., message) in &world.heard {
        if let Message::OfferPart(offer) = message {
            *offers.entry(format!("{:?}", offer.part)).or_default() += 1;
        }
    }
    assert_eq!(offers.len(), 16);
    assert!(offers.values().all(|times| *times == 1), "an offer is not taken for lost: {offers:?}");
}

#[test]
fn tmo_07_a_gate_that_dies_far_away_is_found_dead_as_soon_as_a_near_one() {
    let jobs = (0..6).map(|n| test(n, 10 + n as u64 * 4, arrivals(10.0, seconds(10)))).collect();
    let mut world = wide(Duration::from_millis(100), jobs);
    world.live_until(at(20));
    let leader = world.leading_gate().expect("a gate leads by now");

    world.split(|node| usize::from(node == leader));
    let died = world.now;
    while world.leading_gate().is_none_or(|gate| gate == leader) {
        assert!(world.now < died + seconds(12), "nobody leads");
        let soon = world.now + Duration::from_millis(100);
        world.live_until(soon);
    }
    let took = world.now - died;
    assert!(took <= seconds(6), "{took:?}");
    world.heal();
    assert_eq!(world.finish().len(), 6);
}
