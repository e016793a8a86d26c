use hyperscale_model::SplitMix;
use proptest::prelude::*;

use super::*;

const CONFIG: FederationConfig = FederationConfig::DEFAULT;

fn dc(name: &str) -> DatacenterId {
    DatacenterId::from(name)
}

const fn leader(node: u64, fence: u64) -> Leader {
    Leader { node: NodeId(node), fence: Fence(fence), incarnation: Incarnation(1) }
}

const fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// Datacenters that are probed every 2 s of virtual time and answer, or don't.
#[derive(Debug)]
struct Bench {
    federation: Federation,
    now_ms: u64,
    told: Vec<(u64, DatacenterId, Change)>,
}

impl Bench {
    fn new() -> Self {
        Self { federation: Federation::new(CONFIG), now_ms: 0, told: Vec::new() }
    }

    /// For so long only the `answering` answer, after 50 ms.
    fn run(&mut self, secs: u64, all: &[&str], answering: &[&str]) {
        let end = self.now_ms + secs * 1_000;
        while self.now_ms < end {
            if self.now_ms.is_multiple_of(2_000) {
                for name in all {
                    let seq = self.federation.probe(at(self.now_ms), &dc(name));
                    if answering.contains(name) {
                        let then = at(self.now_ms + 50);
                        let (_, change) =
                            self.federation.on_ack(then, &dc(name), seq, leader(1, 1));
                        self.told.extend(change.map(|change| (self.now_ms, dc(name), change)));
                    }
                }
            }
            self.now_ms += 100;
            let changes = self.federation.tick(at(self.now_ms));
            self.told.extend(changes.into_iter().map(|(dc, change)| (self.now_ms, dc, change)));
        }
    }

    fn told_of(&self, name: &str) -> Vec<(u64, Change)> {
        (self.told.iter())
            .filter(|(_, of, _)| *of == dc(name))
            .map(|(at, _, change)| (*at, *change))
            .collect()
    }

    fn standing(&self, name: &str) -> Standing {
        self.federation.get(&dc(name)).unwrap().standing(at(self.now_ms))
    }
}

#[test]
fn fed_01_silence_makes_suspect_then_unreachable_although_sending_works() {
    let mut bench = Bench::new();
    bench.run(10, &["a"], &["a"]);
    let last_ack = 8_050;

    bench.run(120, &["a"], &[]);

    let [_, suspected, lost] = bench.told_of("a")[..] else { panic!("{:?}", bench.told) };
    assert_eq!(suspected.1, Change::Suspected);
    assert!(suspected.0 - last_ack <= 15_100, "suspected only after {} ms", suspected.0 - last_ack);
    assert!(suspected.0 - last_ack >= 15_000, "suspected after {} ms", suspected.0 - last_ack);
    assert_eq!(lost.1, Change::Lost);
    assert!(lost.0 - last_ack <= 45_200, "unreachable only after {} ms", lost.0 - last_ack);
    assert!(bench.federation.may_evict(at(bench.now_ms), &dc("a")));
}

#[test]
fn fed_01_one_that_never_answers_gets_no_work_and_becomes_unreachable() {
    let mut bench = Bench::new();

    bench.run(14, &["a"], &[]);
    assert_eq!(bench.standing("a"), Standing::Unknown);
    bench.run(120, &["a"], &[]);

    assert_eq!(bench.told_of("a").len(), 2);
    assert_eq!(bench.standing("a"), Standing::Unreachable);
}

#[test]
fn fed_01_the_first_answer_restores() {
    let mut bench = Bench::new();
    bench.run(10, &["a"], &["a"]);
    bench.run(60, &["a"], &[]);

    bench.run(2, &["a"], &["a"]);

    let watch = bench.federation.get(&dc("a")).unwrap();
    assert_eq!(watch.reachability(), Reachability::Reachable);
}

#[test]
fn fed_01_an_answer_to_nothing_is_no_life() {
    let mut federation = Federation::new(CONFIG);
    let probe = federation.probe(at(0), &dc("a"));

    let invented = federation.on_ack(at(1), &dc("a"), ProbeSeq(7), leader(1, 1));
    let unasked = federation.on_ack(at(1), &dc("b"), probe, leader(1, 1));
    assert_eq!([invented, unasked], [(Acked::Stale, None); 2]);
    assert_eq!(federation.get(&dc("a")).unwrap().reachability(), Reachability::Unknown);

    let first = federation.on_ack(at(50), &dc("a"), probe, leader(1, 1));
    let doubled = federation.on_ack(at(14_000), &dc("a"), probe, leader(1, 1));
    assert_eq!(first, (Acked::Fresh, Some(Change::Reached)));
    assert_eq!(doubled, (Acked::Stale, None));
    assert_eq!(federation.next_deadline(), Some(at(15_050)), "a doubled answer is no life");
}

#[test]
fn fed_02_jitter_loss_and_a_transient_suspect_nobody() {
    let mut random = SplitMix::new(11);
    let mut federation = Federation::new(CONFIG);
    let mut answers: BTreeMap<u64, Vec<ProbeSeq>> = BTreeMap::new();
    for now_ms in (0..3_600_000).step_by(10) {
        if now_ms % 2_000 == 0 {
            let probe = federation.probe(at(now_ms), &dc("a"));
            // One in 20 is lost each way; at 600 s there is a transient.
            let transient = if now_ms == 600_000 { 500 } else { 0 };
            let rtt = 150 + random.below(21) * 10 + transient;
            if !random.chance(0.0975) {
                answers.entry(now_ms + rtt).or_default().push(probe);
            }
        }
        for probe in answers.remove(&now_ms).unwrap_or_default() {
            let (acked, _) = federation.on_ack(at(now_ms), &dc("a"), probe, leader(1, 1));
            assert_eq!(acked, Acked::Fresh);
        }
        assert_eq!(federation.tick(at(now_ms)), [], "at {now_ms} ms");
        if now_ms == 60_000 {
            let mean = federation.get(&dc("a")).unwrap().rtt().unwrap().mean();
            assert!(mean.abs_diff(Duration::from_millis(250)) <= Duration::from_millis(50));
        }
    }
}

#[test]
fn fed_02_a_late_answer_is_not_taken_for_a_fast_one() {
    let mut federation = Federation::new(CONFIG);
    let early = federation.probe(at(0), &dc("a"));
    federation.probe(at(2_000), &dc("a"));

    federation.on_ack(at(2_010), &dc("a"), early, leader(1, 1));

    let rtt = federation.get(&dc("a")).unwrap().rtt().unwrap();
    assert_eq!(rtt.mean(), Duration::from_millis(2_010));
}

#[test]
fn fed_03_a_new_leader_is_taken_at_once_and_old_answers_change_nothing() {
    let mut federation = Federation::new(CONFIG);
    let probes = [0, 2_000, 4_000].map(|ms| federation.probe(at(ms), &dc("a")));
    federation.on_ack(at(50), &dc("a"), probes[0], leader(1, 10));

    let (acked, _) = federation.on_ack(at(4_050), &dc("a"), probes[2], leader(2, 20));
    assert_eq!(acked, Acked::Fresh);
    assert_eq!(federation.get(&dc("a")).unwrap().leader(), Some(leader(2, 20)));

    let before = format!("{:?}", federation.get(&dc("a")));
    let (acked, change) = federation.on_ack(at(5_000), &dc("a"), probes[1], leader(1, 10));
    assert_eq!((acked, change), (Acked::Stale, None));
    assert!(!federation.on_leader(&dc("a"), leader(1, 10)));
    assert!(!federation.on_leader(&dc("a"), leader(3, 20)), "one fence has one leader");
    assert_eq!(
        format!("{:?}", federation.get(&dc("a"))),
        before,
        "an old answer changed something"
    );
}

#[test]
fn fed_03_a_leader_counts_even_if_its_answer_is_no_life() {
    let mut federation = Federation::new(CONFIG);
    let probe = federation.probe(at(0), &dc("a"));
    federation.on_ack(at(50), &dc("a"), probe, leader(1, 10));

    let (acked, _) = federation.on_ack(at(9_000), &dc("a"), probe, leader(2, 20));

    assert_eq!(acked, Acked::Stale, "that probe was answered");
    assert_eq!(federation.get(&dc("a")).unwrap().leader(), Some(leader(2, 20)));
    assert_eq!(federation.next_deadline(), Some(at(15_050)), "a doubled answer is no life");
}

#[test]
fn fed_03_a_lower_incarnation_is_ignored() {
    let mut federation = Federation::new(CONFIG);
    let probe = federation.probe(at(0), &dc("a"));
    let again = Leader { incarnation: Incarnation(5), ..leader(1, 10) };
    federation.on_ack(at(50), &dc("a"), probe, again);

    let probe = federation.probe(at(2_000), &dc("a"));
    let (acked, _) = federation.on_ack(at(2_050), &dc("a"), probe, leader(1, 10));

    assert_eq!(acked, Acked::Stale);
    assert_eq!(federation.get(&dc("a")).unwrap().leader(), Some(again));
}

#[test]
fn fed_03_a_silent_leader_lets_the_others_be_asked_within_two_probes() {
    let mut bench = Bench::new();
    bench.run(10, &["a"], &["a"]);
    let is_silent = |bench: &Bench| bench.federation.is_leader_silent(at(bench.now_ms), &dc("a"));
    assert!(!is_silent(&bench));

    bench.run(3, &["a"], &[]);
    assert!(is_silent(&bench), "two probes stayed without an answer");

    let probe = bench.federation.probe(at(bench.now_ms), &dc("a"));
    bench.federation.on_ack(at(bench.now_ms + 50), &dc("a"), probe, leader(2, 2));
    assert_eq!(bench.told_of("a").len(), 1, "nothing but the first answer was told");
    assert_eq!(bench.standing("a"), Standing::Reachable);
}

#[test]
fn fed_04_three_that_fail_together_are_evicted_late_and_one_is_not() {
    let all = ["a", "b", "c", "d"];
    for (failing, correlation) in [
        (1, Correlation::None),
        (2, Correlation::Low),
        (3, Correlation::Medium),
        (4, Correlation::High),
    ] {
        let mut bench = Bench::new();
        bench.run(10, &all, &all);
        bench.run(46, &all, &all[failing..]);

        let watch = bench.federation.get(&dc("a")).unwrap();
        assert_eq!(watch.correlation(), correlation);
        assert_eq!(bench.standing("a"), Standing::Unreachable);
        let is_evicted = |bench: &Bench| bench.federation.may_evict(at(bench.now_ms), &dc("a"));
        assert_eq!(is_evicted(&bench), failing < 3, "{failing} failed");
        bench.run(57, &all, &all[failing..]);
        assert_eq!(is_evicted(&bench), failing < 3, "{failing} failed, a little before 60 s");
        bench.run(4, &all, &all[failing..]);
        assert!(is_evicted(&bench), "60 s later");
    }
}

#[test]
fn fed_04_those_that_fail_one_by_one_do_not_fail_together() {
    let all = ["a", "b", "c", "d"];
    let mut bench = Bench::new();
    bench.run(10, &all, &all);

    for left in (0..4).rev() {
        bench.run(20, &all, &all[4 - left..]);
    }
    bench.run(40, &all, &[]);

    for name in all {
        let watch = bench.federation.get(&dc(name)).unwrap();
        assert_eq!(watch.correlation(), Correlation::Low, "{name}: two within 30 s, never three");
    }
}

#[test]
fn fed_04_one_that_comes_and_goes_is_held_out() {
    let mut bench = Bench::new();
    bench.run(10, &["a"], &["a"]);

    bench.run(20, &["a"], &[]);
    bench.run(10, &["a"], &["a"]);
    assert_eq!(bench.standing("a"), Standing::Recovering);
    bench.run(20, &["a"], &[]);
    let changed_ms = bench.told_of("a").last().unwrap().0;
    bench.run(10, &["a"], &["a"]);
    assert_eq!(bench.standing("a"), Standing::Flapping, "three changes within 120 s");

    // It came back once more since: the hold began anew.
    bench.run(285, &["a"], &["a"]);
    assert_eq!(bench.standing("a"), Standing::Flapping);
    bench.run(10, &["a"], &["a"]);
    assert_eq!(bench.standing("a"), Standing::Reachable);
    assert!(bench.now_ms - changed_ms >= 300_000);
    let healed = bench.told_of("a").iter().filter(|(_, change)| *change == Change::Healed).count();
    assert_eq!(healed, 1, "healing is told once");
}

#[test]
fn fed_04_outages_far_apart_are_no_flapping() {
    let mut bench = Bench::new();

    for _ in 0..4 {
        bench.run(130, &["a"], &["a"]);
        bench.run(20, &["a"], &[]);
    }
    bench.run(2, &["a"], &["a"]);

    assert_eq!(bench.standing("a"), Standing::Recovering);
}

#[test]
fn fed_04_one_long_outage_is_no_flapping_and_over_30_s_after_the_first_answer() {
    let mut bench = Bench::new();
    bench.run(10, &["a"], &["a"]);
    bench.run(50, &["a"], &[]);

    bench.run(29, &["a"], &["a"]);
    assert_eq!(bench.standing("a"), Standing::Recovering);
    bench.run(2, &["a"], &["a"]);

    assert_eq!(bench.standing("a"), Standing::Reachable);
    let told: Vec<Change> = bench.told_of("a").into_iter().map(|(_, change)| change).collect();
    let [reached, suspected, lost] = [Change::Reached, Change::Suspected, Change::Lost];
    assert_eq!(told, [reached, suspected, lost, reached, Change::Healed]);
}

#[test]
fn fed_05_a_path_that_works_one_way_is_no_life() {
    let mut bench = Bench::new();
    bench.run(10, &["a"], &["a"]);

    for _ in 0..60 {
        bench.run(1, &["a"], &[]);
        // The datacenter's own messages still arrive.
        assert!(bench.federation.on_leader(&dc("a"), leader(1, 1)));
    }

    assert_eq!(bench.standing("a"), Standing::Unreachable);
}

proptest! {
    #[test]
    fn fed_01_only_answers_keep_a_datacenter_reachable(
        steps in proptest::collection::vec((0u64..4_000, 0u8..4, 0u64..5), 1..300),
    ) {
        let mut federation = Federation::new(CONFIG);
        let (mut now_ms, mut probes, mut fence, mut acked_ms) = (0, Vec::new(), 0, None::<u64>);
        for (gap_ms, kind, pick) in steps {
            now_ms += gap_ms;
            federation.tick(at(now_ms));
            match kind {
                0 | 1 => probes.push(federation.probe(at(now_ms), &dc("a"))),
                2 if !probes.is_empty() => {
                    let probe = probes[usize::try_from(pick).unwrap() % probes.len()];
                    let (acked, _) = federation.on_ack(at(now_ms), &dc("a"), probe, leader(pick, pick));
                    if acked == Acked::Fresh {
                        prop_assert!(pick >= fence, "fence {} after {}", pick, fence);
                        (fence, acked_ms) = (pick, Some(now_ms));
                    }
                }
                _ => {}
            }
            let Some(watch) = federation.get(&dc("a")) else { continue };
            let silent_ms = acked_ms.map(|acked| now_ms - acked);
            match watch.reachability() {
                Reachability::Unknown => prop_assert!(acked_ms.is_none()),
                Reachability::Reachable => prop_assert!(silent_ms.unwrap() < 15_000),
                Reachability::Suspected => prop_assert!(silent_ms.is_none_or(|ms| ms >= 15_000)),
                Reachability::Unreachable => prop_assert!(silent_ms.is_none_or(|ms| ms >= 45_000)),
            }
            prop_assert!(watch.open.len() <= PROBES_OPEN_MAX);
            prop_assert!(federation.next_deadline().is_none_or(|due| due > at(now_ms)));
        }
    }
}
