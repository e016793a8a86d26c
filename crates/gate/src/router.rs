//! Which datacenter takes a part: the best one first, and why the others don't.
//!
//! Buckets of health come before everything else; inside one the lowest score wins: distance times
//! load times doubt times service, so that a far datacenter must be much emptier to win. One that
//! was never measured has no score and is not taken for near: it comes after those that have one,
//! by its free share.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use hyperscale_model::{DatacenterHealth, DatacenterId, Time};

use crate::federation::Standing;

/// A datacenter, as its last acknowledgement and this gate's own measurements have it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// Which.
    pub(crate) datacenter: DatacenterId,
    /// Whether this gate reaches it.
    pub(crate) standing: Standing,
    /// How well it says it is.
    pub(crate) health: DatacenterHealth,
    /// Whether that is too old to be relied on.
    pub(crate) is_stale: bool,
    /// Its managers that this gate has a link to.
    pub(crate) managers: u32,
    /// Those of them whose breaker is open.
    pub(crate) breakers_open: u32,
    /// How far it is, if that was measured.
    pub(crate) distance: Option<Distance>,
    /// How long its answers to offers took, if there were any.
    pub(crate) observed: Option<Observed>,
    /// Its cores.
    pub(crate) cores: u32,
    /// Those of them that are free.
    pub(crate) free_cores: u32,
    /// Parts and workflows that wait there.
    pub(crate) queue: u32,
    /// The share of processors or memory that is used there, whichever is more: load shows here
    /// before it shows in latency.
    pub(crate) resources: f64,
    /// How well it keeps its objectives, if it says so.
    pub(crate) service: Option<Service>,
    /// When an offer to it failed last.
    pub(crate) failed_at: Option<Time>,
}

/// A distance by round trips or coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Distance {
    /// What nearly every round trip stays under.
    pub(crate) upper_bound: Duration,
    /// How much that is worth: 0 nothing, 1 all.
    pub(crate) quality: f64,
}

/// From offer to acceptance, smoothed. How long jobs run is no latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// How long it took.
    pub(crate) latency: Duration,
    /// How many there were.
    pub(crate) samples: u32,
    /// How long ago the last one was.
    pub(crate) age: Duration,
}

/// A datacenter's latencies of control requests over the last minutes, each divided by its
/// objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Service {
    /// The median.
    pub(crate) p50: f64,
    /// The 95th percentile.
    pub(crate) p95: f64,
    /// The 99th percentile.
    pub(crate) p99: f64,
    /// How many requests there were.
    pub(crate) samples: u32,
    /// How long ago the last one was.
    pub(crate) age: Duration,
}

/// What a job asks of the datacenters that it runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Only these. A promise: nothing else takes their place.
    pub(crate) named: Option<BTreeSet<DatacenterId>>,
    /// These rather than others, if they are not much worse.
    pub(crate) preferred: BTreeSet<DatacenterId>,
    /// Only datacenters that are surely as near as this.
    pub(crate) distance_max: Option<Duration>,
}

/// Why a datacenter is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exclusion {
    /// The job names others.
    NotNamed,
    /// It has never answered.
    Unknown,
    /// It has been silent for some time.
    Suspected,
    /// It has been silent for too long.
    Unreachable,
    /// It comes and goes.
    Flapping,
    /// By its own word nobody there can take work.
    Unhealthy,
    /// There is no link to a manager of it.
    NoManager,
    /// The breakers of all its managers are open.
    BreakersOpen,
    /// It is too far away for the job, or may be.
    TooFar {
        /// How far it is, if that was measured.
        distance: Option<Duration>,
    },
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => f.write_str("the job names others"),
            Self::Unknown => f.write_str("it has not answered yet"),
            Self::Suspected => f.write_str("it does not answer at the moment"),
            Self::Unreachable => f.write_str("it is not reachable"),
            Self::Flapping => f.write_str("it comes and goes"),
            Self::Unhealthy => f.write_str("it has no manager or no worker that can take work"),
            Self::NoManager => f.write_str("there is no link to a manager of it"),
            Self::BreakersOpen => f.write_str("all its managers have failed lately"),
            Self::TooFar { distance: Some(distance) } => write!(f, "it is {distance:?} away"),
            Self::TooFar { distance: None } => f.write_str("its distance is not known yet"),
        }
    }
}

/// A datacenter that can take the part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranked {
    /// Which.
    pub(crate) datacenter: DatacenterId,
    /// The bucket that it is in: its health, or worse if something speaks against it.
    pub(crate) bucket: DatacenterHealth,
    /// What it would cost.
    pub(crate) cost: Cost,
    failed_at: Option<Time>,
}

/// What a datacenter would cost, against others in its bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cost {
    /// Lower is better.
    Score(f64),
    /// Its distance is not known: by capacity, after those whose is.
    Unmeasured {
        /// More is better.
        free_share: f64,
        /// Fewer are better.
        queue: u32,
        /// Fewer are better.
        breakers_open: u32,
    },
}

impl Cost {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Score(a), Self::Score(b)) => a.total_cmp(b),
            (Self::Score(_), Self::Unmeasured { .. }) => Ordering::Less,
            (Self::Unmeasured { .. }, Self::Score(_)) => Ordering::Greater,
            (
                Self::Unmeasured { free_share: a, queue: a_queue, breakers_open: a_open },
                Self::Unmeasured { free_share: b, queue: b_queue, breakers_open: b_open },
            ) => b.total_cmp(a).then(a_queue.cmp(b_queue)).then(a_open.cmp(b_open)),
        }
    }

    /// Whether this is so much better than `held` that it is worth a change.
    fn gains_on(&self, held: &Self) -> bool {
        match (self, held) {
            (Self::Score(a), Self::Score(b)) => *a <= b * (1.0 - GAIN_MIN),
            (Self::Unmeasured { free_share: a, .. }, Self::Unmeasured { free_share: b, .. }) => {
                *a >= b * (1.0 + GAIN_MIN)
            }
            (Self::Score(_), Self::Unmeasured { .. })
            | (Self::Unmeasured { .. }, Self::Score(_)) => true,
        }
    }
}

/// All candidates, in two lists.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranking {
    /// Those that can take the part, the best first: the order of fallback.
    pub(crate) order: Vec<Ranked>,
    /// The others, each with the reason.
    pub(crate) excluded: Vec<(DatacenterId, Exclusion)>,
}

impl Ranking {
    /// The named datacenters of a job that are not in the order, each with the reason, if it is
    /// known at all. One is enough to refuse the job: named is a promise.
    pub(crate) fn missing<'a>(
        &'a self,
        wish: &'a Wish,
    ) -> impl Iterator<Item = (&'a DatacenterId, Option<Exclusion>)> {
        let is_there = |name: &DatacenterId| self.order.iter().any(|r| r.datacenter == *name);
        (wish.named.iter().flatten())
            .filter(move |name| !is_there(name))
            .map(|name| (name, self.exclusion(name)))
    }

    /// Why each of the others is not taken, in a line for people.
    #[must_use]
    pub(crate) fn reasons(&self) -> String {
        let one = |(name, why): &(DatacenterId, Exclusion)| format!("`{name}`: {why}");
        self.excluded.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// Why a datacenter is not in the order; `None` if it is, or was no candidate.
    #[must_use]
    pub(crate) fn exclusion(&self, datacenter: &DatacenterId) -> Option<Exclusion> {
        self.excluded.iter().find(|(name, _)| name == datacenter).map(|(_, why)| *why)
    }
}

/// A part waits for cores for so long before it is moved to another datacenter.
const SPILL_WAIT: Duration = Duration::from_secs(60);
/// That may be farther away by so much.
const SPILL_EXTRA_LATENCY: Duration = Duration::from_millis(100);
/// A choice is kept for so long.
const HOLD: Duration = Duration::from_secs(30);
/// After that, something so much better takes its place.
const GAIN_MIN: f64 = 0.2;
/// For so long after a failure …
const FAILED_FOR: Duration = Duration::from_secs(60);
/// … a score counts as so much worse.
const FAILED_FACTOR: f64 = 2.0;
/// The score of a preferred datacenter counts as so much better.
const PREFERRED_FACTOR: f64 = 0.9;
/// An observation of this age says nothing any more.
const OBSERVED_AGE_MAX: Duration = Duration::from_secs(300);
/// So many observations say everything.
const OBSERVED_SAMPLES: u32 = 10;
/// Objectives over fewer requests than this, or older ones, say nothing.
const SERVICE_SAMPLES_MIN: u32 = 100;
const SERVICE_AGE_MAX: Duration = Duration::from_secs(300);
/// An objective missed by this factor makes a datacenter degraded.
const SERVICE_BROKEN: f64 = 2.0;

/// Ranks the candidates for a job.
#[must_use]
pub(crate) fn rank(now: Time, candidates: &[Candidate], wish: &Wish) -> Ranking {
    let mut ranking = Ranking { order: Vec::new(), excluded: Vec::new() };
    let second_best = second_best(candidates, wish);
    for candidate in candidates {
        match exclusion(candidate, wish, second_best) {
            Some(why) => ranking.excluded.push((candidate.datacenter.clone(), why)),
            None => ranking.order.push(Ranked {
                datacenter: candidate.datacenter.clone(),
                bucket: bucket(candidate),
                cost: cost(now, candidate, wish),
                failed_at: candidate.failed_at,
            }),
        }
    }
    ranking.order.sort_by(|a, b| {
        let by_cost = a.bucket.cmp(&b.bucket).then_with(|| a.cost.compare(&b.cost));
        by_cost.then_with(|| a.datacenter.cmp(&b.datacenter))
    });
    ranking
}

/// A part that waits for cores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting<'a> {
    /// Where.
    pub(crate) datacenter: &'a DatacenterId,
    /// How long it will.
    pub(crate) wait: Duration,
    /// How many cores it asks for.
    pub(crate) cores: u32,
}

/// Whether a part should not wait for so long if it need not.
#[must_use]
pub(crate) fn is_too_long(wait: Duration) -> bool {
    wait > SPILL_WAIT
}

/// The datacenters that should take a part from where it waits, the best first: those that have the
/// cores now, of which this was heard just now, that are not much farther, and where it starts in half
/// the time at most.
pub(crate) fn spill<'a>(
    waiting: &Waiting<'_>,
    candidates: &[Candidate],
    ranking: &'a Ranking,
) -> impl Iterator<Item = &'a DatacenterId> {
    let find = |name: &DatacenterId| candidates.iter().find(|c| c.datacenter == *name);
    let here = find(waiting.datacenter).and_then(|here| here.distance);
    let is_worth_it = move |there: &Candidate| {
        let extra = there.distance.zip(here).map(|(there, here)| {
            there.upper_bound.saturating_sub(here.upper_bound) <= SPILL_EXTRA_LATENCY
        });
        let wait_there =
            latency_ms(there).map_or(Duration::MAX, |ms| Duration::from_secs_f64(ms / 1e3));
        is_too_long(waiting.wait)
            && there.datacenter != *waiting.datacenter
            && bucket(there) == DatacenterHealth::Healthy
            && there.queue == 0
            && there.free_cores >= waiting.cores.max(1)
            && extra == Some(true)
            && wait_there <= waiting.wait / 2
    };
    let worthy: BTreeSet<DatacenterId> = (candidates.iter())
        .filter(|there| is_worth_it(there))
        .map(|there| there.datacenter.clone())
        .collect();
    let order = ranking.order.iter().map(|ranked| &ranked.datacenter);
    order.filter(move |name| worthy.contains(*name))
}

/// Ranks, and keeps to what it has chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Router {
    held: Option<Held>,
}

#[derive(Debug, Clone)]
struct Held {
    datacenter: DatacenterId,
    since: Time,
}

impl Router {
    /// As [`rank`], but a datacenter that was chosen lately stays first in its bucket unless
    /// another is worth the change. A job with wishes of its own neither follows that nor moves it.
    pub(crate) fn route(&mut self, now: Time, candidates: &[Candidate], wish: &Wish) -> Ranking {
        let mut ranking = rank(now, candidates, wish);
        if *wish != Wish::default() {
            return ranking;
        }
        match self.place_of_held(now, &ranking) {
            Some(place) => ranking.order[..=place].rotate_right(1),
            None => {
                let first = ranking.order.first();
                self.held =
                    first.map(|first| Held { datacenter: first.datacenter.clone(), since: now });
            }
        }
        ranking
    }

    /// Where the held datacenter stands, if it is to be first.
    fn place_of_held(&self, now: Time, ranking: &Ranking) -> Option<usize> {
        let held = self.held.as_ref()?;
        let first = ranking.order.first()?;
        let place = ranking.order.iter().position(|r| r.datacenter == held.datacenter)?;
        let ranked = ranking.order.get(place)?;
        let has_failed = ranked.failed_at.is_some_and(|failed| failed >= held.since);
        let is_kept = now < held.since + HOLD || !first.cost.gains_on(&ranked.cost);
        (ranked.bucket == first.bucket && !has_failed && is_kept).then_some(place)
    }
}

/// What is better than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecondBest {
    /// There is better.
    Nothing,
    /// Those that come and go, since none is there to stay, or since the job names them.
    Flapping,
    /// Those that are silent, since none answers.
    Suspected,
}

fn second_best(candidates: &[Candidate], wish: &Wish) -> SecondBest {
    let is_any = |wanted: &[Standing]| candidates.iter().any(|c| wanted.contains(&c.standing));
    if !is_any(&[Standing::Reachable, Standing::Recovering, Standing::Flapping]) {
        SecondBest::Suspected
    } else if wish.named.is_some() || !is_any(&[Standing::Reachable, Standing::Recovering]) {
        SecondBest::Flapping
    } else {
        SecondBest::Nothing
    }
}

fn exclusion(candidate: &Candidate, wish: &Wish, second_best: SecondBest) -> Option<Exclusion> {
    if wish.named.as_ref().is_some_and(|named| !named.contains(&candidate.datacenter)) {
        return Some(Exclusion::NotNamed);
    }
    match candidate.standing {
        Standing::Unknown => return Some(Exclusion::Unknown),
        Standing::Unreachable => return Some(Exclusion::Unreachable),
        Standing::Flapping if second_best != SecondBest::Flapping => {
            return Some(Exclusion::Flapping);
        }
        Standing::Suspected if second_best != SecondBest::Suspected => {
            return Some(Exclusion::Suspected);
        }
        Standing::Flapping | Standing::Suspected | Standing::Reachable | Standing::Recovering => {}
    }
    if candidate.health == DatacenterHealth::Unhealthy {
        return Some(Exclusion::Unhealthy);
    }
    if candidate.managers == 0 {
        return Some(Exclusion::NoManager);
    }
    if candidate.breakers_open >= candidate.managers {
        return Some(Exclusion::BreakersOpen);
    }
    let distance = candidate.distance.map(|distance| distance.upper_bound);
    let is_too_far = |max: Duration| distance.is_none_or(|distance| distance > max);
    wish.distance_max.is_some_and(is_too_far).then_some(Exclusion::TooFar { distance })
}

fn bucket(candidate: &Candidate) -> DatacenterHealth {
    let is_doubtful = candidate.is_stale
        || matches!(
            candidate.standing,
            Standing::Recovering | Standing::Flapping | Standing::Suspected
        )
        || reliable(candidate.service).is_some_and(|service| service.p95 >= SERVICE_BROKEN);
    if is_doubtful { candidate.health.max(DatacenterHealth::Degraded) } else { candidate.health }
}

fn cost(now: Time, candidate: &Candidate, wish: &Wish) -> Cost {
    let Some(latency) = latency_ms(candidate) else {
        return Cost::Unmeasured {
            free_share: 1.0 - utilisation(candidate),
            queue: candidate.queue,
            breakers_open: candidate.breakers_open,
        };
    };
    let has_failed = candidate.failed_at.is_some_and(|failed| now < failed + FAILED_FOR);
    let failed = if has_failed { FAILED_FACTOR } else { 1.0 };
    let is_preferred = wish.preferred.contains(&candidate.datacenter);
    let preferred = if is_preferred { PREFERRED_FACTOR } else { 1.0 };
    let factors = [load(candidate), doubt(candidate), service(candidate), failed, preferred];
    Cost::Score(factors.iter().fold(latency, |score, factor| score * factor))
}

/// The distance, blended with what was observed. Not below a millisecond: next to nothing must not
/// hide load.
fn latency_ms(candidate: &Candidate) -> Option<f64> {
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let predicted = candidate.distance.map(|distance| ms(distance.upper_bound));
    let observed = candidate.observed.map(|observed| (ms(observed.latency), weight(&observed)));
    let blended = match (predicted, observed) {
        (Some(predicted), Some((observed, weight))) => {
            predicted * (1.0 - weight) + observed * weight
        }
        (Some(predicted), None) => predicted,
        (None, Some((observed, weight))) if weight > 0.0 => observed,
        (None, Some(_) | None) => return None,
    };
    Some(blended.max(1.0))
}

/// How much observations count against the prediction.
fn weight(observed: &Observed) -> f64 {
    let by_samples =
        f64::from(observed.samples.min(OBSERVED_SAMPLES)) / f64::from(OBSERVED_SAMPLES);
    by_samples * (1.0 - observed.age.div_duration_f64(OBSERVED_AGE_MAX)).max(0.0)
}

fn load(candidate: &Candidate) -> f64 {
    let queue = f64::from(candidate.queue);
    let open = f64::from(candidate.breakers_open) / f64::from(candidate.managers.max(1));
    let load = 1.0 + 0.5 * utilisation(candidate) + 0.3 * queue / (queue + 10.0) + 0.2 * open;
    load.min(5.0)
}

/// The share of the cores that is given away, or of its machines that is used, whichever is more.
fn utilisation(candidate: &Candidate) -> f64 {
    let free = f64::from(candidate.free_cores.min(candidate.cores));
    let given = if candidate.cores == 0 { 1.0 } else { 1.0 - free / f64::from(candidate.cores) };
    given.max(candidate.resources.clamp(0.0, 1.0))
}

fn doubt(candidate: &Candidate) -> f64 {
    let quality = candidate.distance.map_or(0.0, |distance| distance.quality);
    (1.0 + 0.5 * (1.0 - quality)).min(2.0)
}

fn service(candidate: &Candidate) -> f64 {
    reliable(candidate.service).map_or(1.0, |service| {
        let composite = 0.2 * service.p50 + 0.5 * service.p95 + 0.3 * service.p99;
        (1.0 + 0.4 * (composite - 1.0)).clamp(0.5, 3.0)
    })
}

fn reliable(service: Option<Service>) -> Option<Service> {
    service.filter(|s| s.samples >= SERVICE_SAMPLES_MIN && s.age <= SERVICE_AGE_MAX)
}

#[cfg(test)]
mod tests;
