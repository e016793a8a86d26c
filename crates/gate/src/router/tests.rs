use std::collections::BTreeMap;

use hyperscale_model::SplitMix;
use hyperscale_resilience::Rtt;

use super::*;

const NOW: Time = Time::from_secs(10_000);

/// Turns something against a candidate.
type Spoil = fn(&mut Candidate);

fn dc(name: &str) -> DatacenterId {
    DatacenterId::from(name)
}

fn names(ranking: &Ranking) -> Vec<&str> {
    ranking.order.iter().map(|ranked| ranked.datacenter.as_str()).collect()
}

/// A datacenter without anything against it, so many milliseconds away.
fn candidate(name: &str, ms: u64) -> Candidate {
    Candidate {
        datacenter: dc(name),
        standing: Standing::Reachable,
        health: DatacenterHealth::Healthy,
        is_stale: false,
        managers: 3,
        breakers_open: 0,
        distance: Some(Distance { upper_bound: Duration::from_millis(ms), quality: 1.0 }),
        observed: None,
        cores: 100,
        free_cores: 100,
        queue: 0,
        resources: 0.0,
        service: None,
        failed_at: None,
    }
}

fn service(ratio: f64) -> Option<Service> {
    Some(Service { p50: ratio, p95: ratio, p99: ratio, samples: 100, age: Duration::ZERO })
}

fn score(candidate: &Candidate) -> f64 {
    match cost(NOW, candidate, &Wish::default()) {
        Cost::Score(score) => score,
        Cost::Unmeasured { .. } => panic!("{candidate:?} has no score"),
    }
}

fn any_candidate(random: &mut SplitMix, number: u64) -> Candidate {
    let standings = [
        Standing::Unknown,
        Standing::Reachable,
        Standing::Reachable,
        Standing::Recovering,
        Standing::Flapping,
        Standing::Suspected,
        Standing::Unreachable,
    ];
    let healths = [
        DatacenterHealth::Healthy,
        DatacenterHealth::Busy,
        DatacenterHealth::Degraded,
        DatacenterHealth::Unhealthy,
    ];
    let small = |random: &mut SplitMix, bound| u32::try_from(random.below(bound)).unwrap();
    let cores = small(random, 100);
    Candidate {
        standing: standings[usize::try_from(random.below(7)).unwrap()],
        health: healths[usize::try_from(random.below(4)).unwrap()],
        is_stale: random.chance(0.2),
        managers: small(random, 4),
        breakers_open: small(random, 4),
        distance: random.chance(0.8).then(|| Distance {
            upper_bound: Duration::from_micros(random.below(400_000)),
            quality: random.unit(),
        }),
        observed: random.chance(0.5).then(|| Observed {
            latency: Duration::from_micros(random.below(2_000_000)),
            samples: small(random, 30),
            age: Duration::from_secs(random.below(600)),
        }),
        cores,
        free_cores: small(random, 101),
        queue: small(random, 1_000),
        resources: random.unit(),
        service: random.chance(0.5).then(|| Service {
            p50: random.unit() * 3.0,
            p95: random.unit() * 3.0,
            p99: random.unit() * 3.0,
            samples: small(random, 200),
            age: Duration::from_secs(random.below(600)),
        }),
        failed_at: random.chance(0.2).then(|| Time::from_secs(9_900 + random.below(100))),
        ..candidate(&format!("dc-{number}"), 0)
    }
}

#[test]
fn dsp_03_buckets_hold_and_what_is_excluded_never_appears() {
    let seed = 3;
    let mut random = SplitMix::new(seed);
    let (mut ranked_count, mut mixed_count) = (0, 0);
    for set in 0..100_000 {
        let count = 1 + random.below(7);
        let candidates: Vec<Candidate> =
            (0..count).map(|number| any_candidate(&mut random, number)).collect();
        let ranking = rank(NOW, &candidates, &Wish::default());

        let total = ranking.order.len() + ranking.excluded.len();
        assert_eq!(total, candidates.len(), "seed {seed}, set {set}: one was lost or doubled");
        let is_any_reachable = candidates.iter().any(|c| {
            matches!(c.standing, Standing::Reachable | Standing::Recovering | Standing::Flapping)
        });
        let is_any_steady = candidates
            .iter()
            .any(|c| matches!(c.standing, Standing::Reachable | Standing::Recovering));
        for ranked in &ranking.order {
            let of = candidates.iter().find(|c| c.datacenter == ranked.datacenter).unwrap();
            let told = format!("seed {seed}, set {set}: {of:?}");
            assert_ne!(of.health, DatacenterHealth::Unhealthy, "{told}");
            assert!(of.breakers_open < of.managers, "{told}");
            assert!(ranked.bucket >= of.health, "better than it says: {told}");
            assert!(!of.is_stale || ranked.bucket == DatacenterHealth::Degraded, "{told}");
            match of.standing {
                Standing::Unknown | Standing::Unreachable => panic!("{told}"),
                Standing::Flapping => assert!(!is_any_steady, "{told}"),
                Standing::Suspected => assert!(!is_any_reachable, "{told}"),
                Standing::Recovering => {
                    assert_eq!(ranked.bucket, DatacenterHealth::Degraded, "{told}");
                }
                Standing::Reachable => {}
            }
        }
        for pair in ranking.order.windows(2) {
            let [better, worse] = pair else { continue };
            assert!(better.bucket <= worse.bucket, "seed {seed}, set {set}: {pair:?}");
            let is_in_order = better.cost.compare(&worse.cost) != Ordering::Greater;
            assert!(
                is_in_order || better.bucket < worse.bucket,
                "seed {seed}, set {set}: {pair:?}"
            );
            mixed_count += usize::from(better.bucket < worse.bucket);
        }
        ranked_count += ranking.order.len();
    }
    assert!(ranked_count > 40_000 && mixed_count > 4_000, "{ranked_count} ranked, {mixed_count}");
}

#[test]
fn dsp_03_a_healthy_one_wins_however_far_it_is() {
    let mut candidates = [candidate("a", 1), candidate("b", 2), candidate("c", 300)];
    candidates[0].health = DatacenterHealth::Unhealthy;
    candidates[1].health = DatacenterHealth::Busy;

    let ranking = rank(NOW, &candidates, &Wish::default());

    assert_eq!(names(&ranking), ["c", "b"]);
    assert_eq!(ranking.exclusion(&dc("a")), Some(Exclusion::Unhealthy));
    assert_eq!(ranking.exclusion(&dc("c")), None);
}

#[test]
fn fed_04_one_that_comes_and_goes_is_taken_only_by_name_or_if_there_is_no_other() {
    let mut candidates = [candidate("a", 1), candidate("b", 300)];
    candidates[0].standing = Standing::Flapping;
    let by_name = Wish { named: Some(BTreeSet::from([dc("a")])), ..Wish::default() };

    let ranking = rank(NOW, &candidates, &Wish::default());
    assert_eq!(names(&ranking), ["b"]);
    assert_eq!(ranking.exclusion(&dc("a")), Some(Exclusion::Flapping));
    assert_eq!(names(&rank(NOW, &candidates, &by_name)), ["a"]);
    candidates[1].standing = Standing::Suspected;
    assert_eq!(names(&rank(NOW, &candidates, &Wish::default())), ["a"]);
}

#[test]
fn dsp_03_each_exclusion_has_its_reason() {
    let rows: [(Spoil, Exclusion); 8] = [
        (|c| c.standing = Standing::Unknown, Exclusion::Unknown),
        (|c| c.standing = Standing::Suspected, Exclusion::Suspected),
        (|c| c.standing = Standing::Unreachable, Exclusion::Unreachable),
        (|c| c.health = DatacenterHealth::Unhealthy, Exclusion::Unhealthy),
        (|c| c.managers = 0, Exclusion::NoManager),
        (|c| c.breakers_open = 3, Exclusion::BreakersOpen),
        (|c| c.distance = None, Exclusion::TooFar { distance: None }),
        (|c| c.datacenter = dc("other"), Exclusion::NotNamed),
    ];
    let wish = Wish {
        named: Some(BTreeSet::from([dc("a"), dc("b")])),
        distance_max: Some(Duration::from_millis(100)),
        ..Wish::default()
    };
    for (spoil, why) in rows {
        let mut spoiled = candidate("a", 10);
        spoil(&mut spoiled);

        let ranking = rank(NOW, &[spoiled.clone(), candidate("b", 20)], &wish);

        assert_eq!(ranking.exclusion(&spoiled.datacenter), Some(why));
        assert_eq!(names(&ranking), ["b"]);
        assert!(!why.to_string().is_empty());
    }
}

#[test]
fn dsp_03_stale_and_recovering_ones_are_demoted_not_dropped() {
    let mut candidates = [candidate("a", 1), candidate("b", 2), candidate("c", 300)];
    candidates[0].is_stale = true;
    candidates[1].standing = Standing::Recovering;

    assert_eq!(names(&rank(NOW, &candidates, &Wish::default())), ["c", "a", "b"]);
}

#[test]
fn fed_04_suspected_ones_are_taken_only_if_all_are() {
    let mut candidates = [candidate("a", 1), candidate("b", 2), candidate("c", 3)];
    candidates[0].standing = Standing::Suspected;
    candidates[1].standing = Standing::Unreachable;
    assert_eq!(names(&rank(NOW, &candidates, &Wish::default())), ["c"]);

    candidates[2].standing = Standing::Suspected;
    assert_eq!(names(&rank(NOW, &candidates, &Wish::default())), ["a", "c"]);
}

#[test]
fn dsp_04_the_nearest_wins_at_low_load() {
    let mut router = Router::default();
    let mut random = SplitMix::new(4);
    let mut nearest = 0;
    for job in 0..1_000 {
        let mut candidates = [candidate("far", 200), candidate("near", 10), candidate("mid", 80)];
        for candidate in &mut candidates {
            candidate.free_cores = 60 + u32::try_from(random.below(41)).unwrap();
        }
        let ranking = router.route(Time::from_secs(job), &candidates, &Wish::default());
        nearest += usize::from(names(&ranking)[0] == "near");
    }

    assert!(nearest >= 990, "{nearest} of 1000 jobs went to the nearest");
}

/// Cores that run jobs of 60 s, with a queue in front. Time goes in rounds of 100 ms.
#[derive(Debug, Default)]
struct Site {
    cores: usize,
    ends: Vec<u64>,
    queue: usize,
    started: u64,
}

impl Site {
    fn step(&mut self, round: u64) {
        self.ends.retain(|&end| end > round);
        while self.queue > 0 && self.ends.len() < self.cores {
            self.queue -= 1;
            self.start(round);
        }
    }

    fn start(&mut self, round: u64) {
        self.ends.push(round + 600);
        self.started += 1;
    }

    fn seen(&self, place: usize, distance_ms: Option<u64>) -> Candidate {
        let mut seen = candidate(&place.to_string(), distance_ms.unwrap_or(0));
        seen.distance = seen.distance.filter(|_| distance_ms.is_some());
        let free = self.cores - self.ends.len();
        seen.health = if free == 0 { DatacenterHealth::Busy } else { DatacenterHealth::Healthy };
        seen.cores = u32::try_from(self.cores).unwrap();
        seen.free_cores = u32::try_from(free).unwrap();
        seen.queue = u32::try_from(self.queue).unwrap();
        seen
    }
}

/// Jobs come a little faster than 100, 200 and 400 cores can run them. Returns how many jobs each
/// started in the second half of the time, and how full it was on average.
fn saturate(distances: [Option<u64>; 3]) -> [(u64, f64); 3] {
    const ROUNDS: u64 = 6_000;
    let mut sites = [100, 200, 400].map(|cores| Site { cores, ..Site::default() });
    let mut used = [0.0; 3];
    let mut router = Router::default();
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            sites.iter_mut().for_each(|site| site.started = 0);
            used = [0.0; 3];
        }
        sites.iter_mut().for_each(|site| site.step(round));
        // Six jobs in five rounds are 720 at once.
        for _ in 0..1 + u64::from(round % 5 == 0) {
            let candidates: Vec<Candidate> = (sites.iter().zip(distances).enumerate())
                .map(|(place, (site, distance))| site.seen(place, distance))
                .collect();
            let now = Time::from_millis(round * 100);
            let ranking = router.route(now, &candidates, &Wish::default());
            let site = &mut sites[names(&ranking)[0].parse::<usize>().unwrap()];
            site.queue += 1;
            site.step(round);
        }
        for (used, site) in used.iter_mut().zip(&sites) {
            *used += site.ends.len() as f64 / site.cores as f64;
        }
    }
    [0, 1, 2].map(|place| (sites[place].started, used[place] / (ROUNDS / 2) as f64))
}

#[test]
fn dsp_04_at_saturation_shares_follow_capacity() {
    for distances in [[Some(10), Some(80), Some(200)], [Some(200), Some(80), Some(10)], [None; 3]] {
        let shares = saturate(distances);

        let total: u64 = shares.iter().map(|(jobs, _)| jobs).sum();
        for ((jobs, _), capacity) in shares.iter().zip([1.0, 2.0, 4.0]) {
            let share = *jobs as f64 / total as f64;
            let off = (share - capacity / 7.0).abs();
            assert!(
                off <= 0.1,
                "{distances:?}: a share of {share} for {capacity} of 7: {shares:?}"
            );
        }
        let mean = shares.iter().map(|(_, used)| used).sum::<f64>() / 3.0;
        let variance = shares.iter().map(|(_, used)| (used - mean).powi(2)).sum::<f64>() / 3.0;
        let variation = variance.sqrt() / mean;
        assert!(variation < 0.3, "{distances:?}: utilisation varies by {variation}: {shares:?}");
    }
}

#[test]
fn dsp_04_a_preferred_one_gets_a_bounded_bonus() {
    let wish = Wish { preferred: BTreeSet::from([dc("b")]), ..Wish::default() };

    let slightly_farther = [candidate("a", 100), candidate("b", 110)];
    assert_eq!(names(&rank(NOW, &slightly_farther, &wish)), ["b", "a"]);
    let farther = [candidate("a", 100), candidate("b", 112)];
    assert_eq!(names(&rank(NOW, &farther, &wish)), ["a", "b"]);
}

#[test]
fn dsp_04_without_distances_the_free_share_ranks_then_queue_then_breakers() {
    let unmeasured = |name: &str, free_cores, queue, breakers_open| Candidate {
        distance: None,
        free_cores,
        queue,
        breakers_open,
        ..candidate(name, 0)
    };
    let candidates = [
        unmeasured("a", 50, 1, 1),
        unmeasured("b", 50, 1, 0),
        unmeasured("c", 50, 0, 2),
        unmeasured("d", 80, 9, 2),
        candidate("measured", 400),
    ];

    let ranking = rank(NOW, &candidates, &Wish::default());

    assert_eq!(names(&ranking), ["measured", "d", "c", "b", "a"]);
    assert!(ranking.excluded.is_empty());
}

#[test]
fn dsp_04_an_injected_delay_changes_the_order_within_20_probes() {
    let mut near = Rtt::first(Time::ZERO, Duration::from_millis(10));
    (0..300).for_each(|n| near.measure(Time::from_secs(2 * n), Duration::from_millis(10)));
    let at = |rtt: &Rtt| {
        let (upper_bound, quality) = (rtt.upper_bound(), 1.0);
        let near =
            Candidate { distance: Some(Distance { upper_bound, quality }), ..candidate("near", 0) };
        rank(NOW, &[near, candidate("mid", 80)], &Wish::default()).order[0].datacenter.clone()
    };
    assert_eq!(at(&near), dc("near"));

    (0..20).for_each(|n| near.measure(Time::from_secs(600 + 2 * n), Duration::from_millis(310)));

    assert_eq!(at(&near), dc("mid"));
}

#[test]
fn dsp_05_the_weight_of_observations_at_its_corners() {
    let weight = |samples, secs| {
        let age = Duration::from_secs(secs);
        weight(&Observed { latency: Duration::ZERO, samples, age })
    };
    let rows = [
        (0, 0, 0.0),
        (1, 0, 0.1),
        (10, 0, 1.0),
        (1_000, 0, 1.0),
        (10, 150, 0.5),
        (5, 150, 0.25),
        (10, 300, 0.0),
        (1_000, 9_999, 0.0),
    ];
    for (samples, secs, expected) in rows {
        let is = weight(samples, secs);
        assert!((is - expected).abs() < 1e-9, "{samples} samples {secs} s ago weigh {is}");
    }
}

#[test]
fn dsp_05_observed_latency_takes_over_from_the_predicted() {
    let observed = |samples, secs| Candidate {
        observed: Some(Observed {
            latency: Duration::from_millis(500),
            samples,
            age: Duration::from_secs(secs),
        }),
        ..candidate("a", 100)
    };

    assert!((score(&observed(0, 0)) - 100.0).abs() < 1e-9);
    assert!((score(&observed(5, 0)) - 300.0).abs() < 1e-9);
    assert!((score(&observed(10, 0)) - 500.0).abs() < 1e-9);
    assert!((score(&observed(1_000, 300)) - 100.0).abs() < 1e-9, "late old samples change nothing");
}

#[test]
fn dsp_05_swinging_scores_do_not_move_the_choice() {
    let mut random = SplitMix::new(5);
    let mut swing = |ms: f64| Duration::from_secs_f64(ms * (0.85 + 0.3 * random.unit()) / 1_000.0);
    let mut router = Router::default();
    let (mut switches, mut last) = (0, None);
    for decision in 0..10_000 {
        let mut candidates = [candidate("a", 0), candidate("b", 0)];
        for candidate in &mut candidates {
            candidate.distance = Some(Distance { upper_bound: swing(100.0), quality: 1.0 });
        }
        let now = Time::from_millis(decision * 200);
        let ranking = router.route(now, &candidates, &Wish::default());
        let first = ranking.order[0].datacenter.clone();
        switches += u32::from(last.replace(first.clone()).is_some_and(|last| last != first));
    }

    assert!(switches < 100, "{switches} switches in 10000 decisions");
}

#[test]
fn dsp_05_a_choice_is_held_for_30_s_and_left_for_a_fifth() {
    let mut router = Router::default();
    let mut first = |secs, a_ms, b_ms| {
        let candidates = [candidate("a", a_ms), candidate("b", b_ms)];
        let ranking = router.route(Time::from_secs(secs), &candidates, &Wish::default());
        names(&ranking)[0].to_owned()
    };

    assert_eq!(first(0, 100, 120), "a");
    assert_eq!(first(29, 100, 10), "a", "held");
    assert_eq!(first(31, 100, 81), "a", "a gain of less than a fifth");
    assert_eq!(first(32, 100, 80), "b");
    assert_eq!(first(61, 10, 80), "b", "held anew");
    assert_eq!(first(62, 10, 80), "a");
}

#[test]
fn dsp_05_an_excluded_demoted_or_failed_one_is_left_at_once() {
    let rows: [Spoil; 3] = [
        |c| c.standing = Standing::Suspected,
        |c| c.health = DatacenterHealth::Busy,
        |c| c.failed_at = Some(Time::from_secs(1)),
    ];
    for spoil in rows {
        let mut router = Router::default();
        let mut candidates = [candidate("a", 100), candidate("b", 120)];
        router.route(Time::ZERO, &candidates, &Wish::default());

        spoil(&mut candidates[0]);
        let ranking = router.route(Time::from_secs(2), &candidates, &Wish::default());

        assert_eq!(names(&ranking)[0], "b");
    }
}

#[test]
fn dsp_05_a_job_with_wishes_neither_follows_nor_moves_the_choice() {
    let mut router = Router::default();
    let candidates = [candidate("a", 100), candidate("b", 120)];
    router.route(Time::ZERO, &candidates, &Wish::default());

    let wish = Wish { named: Some(BTreeSet::from([dc("b")])), ..Wish::default() };
    let named = router.route(Time::from_secs(1), &candidates, &wish);
    assert_eq!(names(&named), ["b"]);

    let nearer = [candidate("a", 100), candidate("b", 20)];
    let ranking = router.route(Time::from_secs(2), &nearer, &Wish::default());
    assert_eq!(names(&ranking), ["a", "b"], "still held");
}

#[test]
fn dsp_06_a_failed_ones_score_is_doubled_for_60_s() {
    let failed = Candidate { failed_at: Some(NOW), ..candidate("a", 100) };
    let score_at = |secs| match cost(NOW + Duration::from_secs(secs), &failed, &Wish::default()) {
        Cost::Score(score) => score,
        Cost::Unmeasured { .. } => panic!("it was measured"),
    };

    assert!((score_at(0) - 200.0).abs() < 1e-9);
    assert!((score_at(59) - 200.0).abs() < 1e-9);
    assert!((score_at(60) - 100.0).abs() < 1e-9);
}

#[test]
fn dsp_08_named_datacenters_and_bounds_are_never_left() {
    let mut random = SplitMix::new(8);
    for _ in 0..20_000 {
        let candidates: Vec<Candidate> = (0..5).map(|n| any_candidate(&mut random, n)).collect();
        let named = random.chance(0.5).then(|| BTreeSet::from([dc("dc-1"), dc("dc-3")]));
        let max = Duration::from_millis(random.below(400));
        let distance_max = random.chance(0.5).then_some(max);
        let wish =
            Wish { named: named.clone(), distance_max, preferred: BTreeSet::from([dc("dc-0")]) };

        for ranked in rank(NOW, &candidates, &wish).order {
            let of = candidates.iter().find(|c| c.datacenter == ranked.datacenter).unwrap();
            assert!(named.as_ref().is_none_or(|named| named.contains(&of.datacenter)));
            let is_near = distance_max.is_none_or(|max| of.distance.unwrap().upper_bound <= max);
            assert!(is_near, "{of:?} is farther than {distance_max:?}");
        }
    }
}

#[test]
fn dsp_08_a_named_one_that_is_missing_is_told_with_the_reason() {
    let names = ["a", "b", "gone"].map(dc);
    let wish = Wish { named: Some(BTreeSet::from(names)), ..Wish::default() };
    let mut candidates = [candidate("a", 10), candidate("b", 20), candidate("c", 30)];
    candidates[1].standing = Standing::Unreachable;

    let ranking = rank(NOW, &candidates, &wish);

    let missing: Vec<_> = ranking.missing(&wish).collect();
    assert_eq!(missing, [(&dc("b"), Some(Exclusion::Unreachable)), (&dc("gone"), None)]);
    assert_eq!(ranking.reasons(), "`b`: it is not reachable; `c`: the job names others");
}

#[test]
fn dsp_08_the_service_factor_is_clamped_and_needs_fresh_samples() {
    let with = |ratio, samples, secs| {
        let age = Duration::from_secs(secs);
        let service = service(ratio).map(|service| Service { samples, age, ..service });
        score(&Candidate { service, ..candidate("a", 100) })
    };
    let rows = [
        (1.0, 100, 0, 100.0),
        (0.0, 100, 0, 60.0),
        (1.5, 100, 0, 120.0),
        (9.0, 100, 0, 300.0),
        (1.5, 99, 0, 100.0),
        (1.5, 100, 300, 120.0),
        (1.5, 100, 301, 100.0),
    ];
    for (ratio, samples, secs, expected) in rows {
        let is = with(ratio, samples, secs);
        assert!((is - expected).abs() < 1e-9, "{ratio} of {samples} {secs} s ago: {is}");
    }
    let weighed = Service { p50: 2.0, p95: 1.0, p99: 1.0, samples: 100, age: Duration::ZERO };
    let is = score(&Candidate { service: Some(weighed), ..candidate("a", 100) });
    assert!((is - 108.0).abs() < 1e-9, "the median weighs a fifth: {is}");
}

#[test]
fn dsp_08_a_broken_objective_demotes_in_spite_of_a_short_way() {
    let broken = |samples| {
        let service = service(2.0).map(|service| Service { samples, ..service });
        [Candidate { service, ..candidate("a", 1) }, candidate("b", 300)]
    };

    assert_eq!(names(&rank(NOW, &broken(100), &Wish::default())), ["b", "a"]);
    assert_eq!(names(&rank(NOW, &broken(99), &Wish::default())), ["a", "b"], "too few to say");
}

#[test]
fn dsp_08_pressure_counts_before_latency_breaks() {
    let mut pressed = candidate("a", 100);
    pressed.resources = 0.9;

    assert!((score(&pressed) - 145.0).abs() < 1e-9);
}

#[test]
fn dsp_04_the_load_factor_follows_cores_queue_and_breakers() {
    let mut loaded = candidate("a", 100);
    loaded.free_cores = 50;
    assert!((score(&loaded) - 125.0).abs() < 1e-9, "half of the cores");
    loaded.queue = 10;
    assert!((score(&loaded) - 140.0).abs() < 1e-9, "and a queue of ten");
    (loaded.managers, loaded.breakers_open) = (4, 1);
    assert!((score(&loaded) - 145.0).abs() < 1e-9, "and one breaker of four");
    loaded.cores = 0;
    assert!((score(&loaded) - 170.0).abs() < 1e-9, "no cores are no free cores");

    let doubtful = Distance { upper_bound: Duration::from_millis(100), quality: 0.0 };
    let unsure = Candidate { distance: Some(doubtful), ..candidate("a", 100) };
    assert!((score(&unsure) - 150.0).abs() < 1e-9, "an estimate that is worth nothing");
}

#[test]
fn dsp_04_no_distance_hides_load() {
    let mut here = candidate("here", 0);
    here.free_cores = 1;

    assert_eq!(names(&rank(NOW, &[here, candidate("beside", 1)], &Wish::default()))[0], "beside");
}

#[test]
fn dsp_05_one_that_failed_and_is_still_the_best_is_held_again() {
    let mut router = Router::default();
    let mut candidates = [candidate("a", 10), candidate("b", 100)];
    router.route(Time::ZERO, &candidates, &Wish::default());
    candidates[0].failed_at = Some(Time::from_secs(1));
    router.route(Time::from_secs(2), &candidates, &Wish::default());

    candidates[1] = candidate("b", 19);
    let ranking = router.route(Time::from_secs(40), &candidates, &Wish::default());

    assert_eq!(names(&ranking)[0], "a", "a gain of less than a fifth");
}

#[test]
fn dsp_03_equal_candidates_rank_alike_in_any_order() {
    let candidates = [candidate("a", 10), candidate("b", 10), candidate("c", 10)];
    let mut reversed = candidates.clone();
    reversed.reverse();

    let orders: BTreeMap<&str, Vec<String>> = [("as given", &candidates), ("reversed", &reversed)]
        .map(|(given, candidates)| {
            let ranking = rank(NOW, candidates, &Wish::default());
            (given, names(&ranking).into_iter().map(str::to_owned).collect())
        })
        .into();

    assert_eq!(orders["as given"], orders["reversed"]);
}

/// Where a part goes that has waited at `here` with this forecast, of these two.
fn spilled(wait: u64, here: &Candidate, there: &Candidate) -> bool {
    let candidates = [here.clone(), there.clone()];
    let ranking = rank(NOW, &candidates, &Wish::default());
    let waiting =
        Waiting { datacenter: &here.datacenter, wait: Duration::from_secs(wait), cores: 2 };
    let to: Vec<_> = spill(&waiting, &candidates, &ranking).collect();
    assert!(to.iter().all(|name| **name == there.datacenter), "{to:?}");
    !to.is_empty()
}

#[test]
fn dsp_07_a_part_is_moved_only_if_every_condition_holds() {
    let here = || Candidate {
        health: DatacenterHealth::Busy,
        free_cores: 0,
        queue: 1,
        ..candidate("here", 10)
    };
    let there = || candidate("there", 110);
    assert!(spilled(61, &here(), &there()));

    let spoils: [(&str, Spoil); 9] = [
        ("it has no core free", |there| {
            (there.health, there.free_cores) = (DatacenterHealth::Busy, 0);
        }),
        ("it has too few", |there| there.free_cores = 1),
        ("others wait there", |there| there.queue = 1),
        ("its word is old", |there| there.is_stale = true),
        ("it is 101 ms farther", |there| {
            let upper_bound = Duration::from_millis(111);
            there.distance = Some(Distance { upper_bound, quality: 1.0 });
        }),
        ("nobody knows how far it is", |there| there.distance = None),
        ("it takes longer than half of the wait to answer an offer", |there| {
            let (latency, age) = (Duration::from_secs(31), Duration::ZERO);
            there.observed = Some(Observed { latency, samples: 10, age });
        }),
        ("it is not well", |there| there.health = DatacenterHealth::Degraded),
        ("it comes and goes", |there| there.standing = Standing::Flapping),
    ];
    for (why, spoil) in spoils {
        let mut spoilt = there();
        spoil(&mut spoilt);
        assert!(!spilled(61, &here(), &spoilt), "{why}");
    }
    assert!(!spilled(60, &here(), &there()), "a minute is not too long");
    let unmeasured = Candidate { distance: None, ..here() };
    assert!(!spilled(61, &unmeasured, &there()), "nobody knows how much farther it is");
}
