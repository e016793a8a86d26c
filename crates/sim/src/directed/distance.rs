//! Nodes that are far apart.

use super::*;

/// Gates on three continents and datacenters on two others, all of them so far from each other. Frames
/// take up to twice as long.
fn wide(one_way: Duration, tests: Vec<Test>) -> World {
    let datacenters = vec![datacenter(3, &[2, 2]), datacenter(3, &[2, 2])];
    let wide = Scenario { distance: one_way, ..scenario(3, datacenters, tests) };
    world(wide, 1, None)
}

#[test]
fn tmo_07_nothing_that_is_only_far_is_taken_for_late_or_dead() {
    // Round trips of 260 to 560 ms, 400 in the mean.
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

#[test]
fn parts_of_a_job_start_at_once_however_far_apart_their_datacenters_are() {
    let jobs = (0..8).map(|n| test(n, 30 + n as u64 * 4, arrivals(10.0, seconds(3)))).collect();
    let datacenters = vec![datacenter(1, &[2, 2]), datacenter(1, &[2, 2])];
    let mut world = world(scenario(1, datacenters, jobs), 1, None);
    let is_far = |node: NodeId| node.0 >= 200;
    for (&(a, b), link) in &mut world.network.links {
        if is_far(a) != is_far(b) {
            link.delay = Duration::from_millis(150);
        }
    }
    world.live_until(at(70));
    assert_eq!(world.finish().len(), 8);

    let mut starts: BTreeMap<_, BTreeMap<bool, Time>> = BTreeMap::new();
    for (at, _, to, message) in &world.heard {
        if let Message::StartPart { part, start_in, .. } = message {
            let of_job = starts.entry(part.job).or_default();
            of_job.entry(is_far(*to)).or_insert(*at + *start_in);
        }
    }
    assert_eq!(starts.len(), 8);
    let late = |of_job: &BTreeMap<bool, Time>| {
        of_job[&true].as_nanos() as f64 / 1e6 - of_job[&false].as_nanos() as f64 / 1e6
    };
    let late: Vec<f64> = starts.values().map(late).collect();
    // A word to the far one takes 150 to 300 ms, and nobody knows how long this time.
    assert!(late.iter().all(|ms| ms.abs() <= 100.0), "{late:?}");
}
