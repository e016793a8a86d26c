//! Which peer gets a request: few for each key, the less loaded of two of them, and none that is
//! failing.
//!
//! Weighted rendezvous hashing names the candidates of a key, so that they change little when peers
//! come and go. Of two of them drawn at random the better one is taken (Mitzenmacher, 2001): always
//! taking the best would send everybody to the same one at once.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{NodeId, SplitMix, Time};

use crate::ring::weight;

/// A peer that fails so often in a row is out.
const FAILURES_MAX: u32 = 3;
/// A peer that is slower than the median of all by this factor is out, if there are three.
const SLOW_FACTOR: u32 = 5;
/// How long a peer stays out before it is tried again.
const OUT_FOR: Duration = Duration::from_secs(60);
/// Each latency moves the smoothed one by a fifth of the way.
const SMOOTHING: u32 = 5;

#[derive(Debug, Clone)]
struct Peer {
    /// How much it can take against others.
    capacity: u32,
    latency: Option<Duration>,
    failures: u32,
    in_flight: u32,
    out_until: Time,
}

/// The peers of one kind.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    peers: BTreeMap<NodeId, Peer>,
}

impl Peers {
    /// A peer is there, with so much capacity against others; 0 counts as 1.
    pub fn insert(&mut self, node: NodeId, capacity: u32) {
        let capacity = capacity.max(1);
        let new =
            Peer { capacity, latency: None, failures: 0, in_flight: 0, out_until: Time::ZERO };
        self.peers.entry(node).or_insert(new).capacity = capacity;
    }

    /// A peer is gone, and everything about it.
    pub fn forget(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// The `count` peers for a key, the first one first, whether they are out or not.
    #[must_use]
    pub fn candidates(&self, key: u128, count: usize) -> Vec<NodeId> {
        let mut ranked: Vec<(f64, NodeId)> = (self.peers.iter())
            .map(|(&node, peer)| (rendezvous(key, node, peer.capacity), node))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked.into_iter().take(count).map(|(_, node)| node).collect()
    }

    /// The peer for a request, out of the `count` candidates of its key that are not out. If all
    /// are, any other that is not, and else the one that is back first: a poor peer is better than
    /// none. It counts as busy until [`Peers::on_success`] or [`Peers::on_failure`].
    pub fn choose(
        &mut self,
        now: Time,
        key: u128,
        count: usize,
        random: &mut SplitMix,
    ) -> Option<NodeId> {
        let ranked = self.candidates(key, self.peers.len());
        let is_in = |node: &NodeId| !self.is_out(now, *node);
        let healthy: Vec<NodeId> = ranked.iter().take(count).copied().filter(is_in).collect();
        let chosen = if healthy.is_empty() {
            let back_at = |node: &NodeId| self.peers.get(node).map(|peer| peer.out_until.max(now));
            ranked.into_iter().min_by_key(back_at)?
        } else {
            let (first, second) = two_of(healthy.len(), random);
            let cost = |place: usize| healthy.get(place).and_then(|node| self.cost(*node));
            *healthy.get(if cost(second) < cost(first) { second } else { first })?
        };
        if let Some(peer) = self.peers.get_mut(&chosen) {
            peer.in_flight = peer.in_flight.saturating_add(1);
        }
        Some(chosen)
    }

    /// A request that [`Peers::choose`] gave to a peer was answered.
    pub fn on_success(&mut self, now: Time, node: NodeId, latency: Duration) {
        let median = self.median_latency();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.in_flight = peer.in_flight.saturating_sub(1);
        peer.failures = 0;
        let smoothed =
            peer.latency.map_or(latency, |known| (known * (SMOOTHING - 1) + latency) / SMOOTHING);
        peer.latency = Some(smoothed);
        if median.is_some_and(|median| smoothed > median * SLOW_FACTOR) {
            peer.put_out(now);
        }
    }

    /// A request that [`Peers::choose`] gave to a peer was not answered.
    pub fn on_failure(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.in_flight = peer.in_flight.saturating_sub(1);
        peer.failures = peer.failures.saturating_add(1);
        if peer.failures >= FAILURES_MAX {
            peer.put_out(now);
        }
    }

    /// Whether a peer failed or was slow lately.
    #[must_use]
    pub fn is_out(&self, now: Time, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| now < peer.out_until)
    }

    /// Requests under way, then latency and failures. An unmeasured peer is as good as the median:
    /// else it would get everything, or nothing.
    fn cost(&self, node: NodeId) -> Option<(u64, Duration)> {
        let peer = self.peers.get(&node)?;
        let usual = self.median_latency().unwrap_or_default();
        let latency = peer.latency.unwrap_or(usual) * (1 + peer.failures);
        Some((u64::from(peer.in_flight) * 1_000 / u64::from(peer.capacity), latency))
    }

    /// The median of at least three.
    fn median_latency(&self) -> Option<Duration> {
        let mut known: Vec<Duration> = self.peers.values().filter_map(|p| p.latency).collect();
        known.sort();
        if known.len() < 3 { None } else { known.get((known.len() - 1) / 2).copied() }
    }
}

impl Peer {
    /// Back, it is measured anew, and one failure puts it out again.
    fn put_out(&mut self, now: Time) {
        self.out_until = now + OUT_FOR;
        self.failures = FAILURES_MAX - 1;
        self.latency = None;
    }
}

/// Weighted rendezvous hashing by logarithms (Mosko and others, 2016): −capacity / ln(u), where u is
/// the hash as a number between 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "the upper 53 bits are spread as well as all 64")]
fn rendezvous(key: u128, node: NodeId, capacity: u32) -> f64 {
    let unit = ((weight(key, node) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(capacity) / unit.ln()
}

/// Two different places below `count`; the same twice if there is only one.
fn two_of(count: usize, random: &mut SplitMix) -> (usize, usize) {
    let mut below = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap_or(0);
    let first = below(count);
    let second = below(count.saturating_sub(1));
    (first, if second >= first && count > 1 { second + 1 } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANDIDATES: usize = 4;

    fn peers(count: u64) -> Peers {
        let mut peers = Peers::default();
        (1..=count).for_each(|n| peers.insert(NodeId(n), 1));
        peers
    }

    fn fail(peers: &mut Peers, now: Time, node: NodeId, times: u32) {
        (0..times).for_each(|_| peers.on_failure(now, node));
    }

    #[test]
    fn dsp_09_two_choices_spread_requests() {
        for count in [3, 5, 10, 30] {
            let mut peers = peers(count);
            let mut random = SplitMix::new(9);
            for key in 0..1_000 * u128::from(count) {
                peers.choose(Time::ZERO, key, CANDIDATES, &mut random).unwrap();
            }

            let most = peers.peers.values().map(|peer| peer.in_flight).max().unwrap();
            assert!(most <= 1_100, "one of {count} has {most} requests, the mean is 1000");
        }
    }

    #[test]
    fn dsp_09_even_few_keys_stay_below_one_and_a_half_times_the_mean() {
        let mut peers = peers(10);
        let mut random = SplitMix::new(10);
        for request in 0..10_000 {
            peers.choose(Time::ZERO, request % 20, CANDIDATES, &mut random).unwrap();
        }

        let most = peers.peers.values().map(|peer| peer.in_flight).max().unwrap();
        assert!(most <= 1_500, "{most} requests at one, the mean is 1000");
    }

    #[test]
    fn dsp_09_keys_follow_capacity() {
        let mut peers = peers(3);
        peers.insert(NodeId(3), 2);

        let of_third = (0..20_000).filter(|&key| peers.candidates(key, 1) == [NodeId(3)]).count();

        assert!(of_third.abs_diff(10_000) < 500, "{of_third} of 20000 keys, half were expected");
    }

    #[test]
    fn dsp_09_candidates_change_little_on_churn() {
        let (before, mut after) = (peers(10), peers(10));
        after.insert(NodeId(11), 1);

        let moved =
            (0..10_000).filter(|&key| before.candidates(key, 1) != after.candidates(key, 1));

        assert!(moved.count() <= 10_000 / 11 + 500);
    }

    #[test]
    fn dsp_09_a_failing_peer_is_out_for_60_s_then_tried_again() {
        let (mut peers, mut random) = (peers(5), SplitMix::new(1));
        let failing = peers.candidates(7, 1)[0];
        let at = Time::from_secs;

        fail(&mut peers, at(0), failing, 2);
        assert!(!peers.is_out(at(0), failing));
        fail(&mut peers, at(0), failing, 1);

        let mut times_chosen = |peers: &mut Peers, now: Time| {
            let mut chosen = 0;
            for _ in 0..200 {
                let node = peers.choose(now, 7, CANDIDATES, &mut random).unwrap();
                chosen += usize::from(node == failing);
            }
            chosen
        };
        assert_eq!(times_chosen(&mut peers, at(59)), 0);
        assert!(times_chosen(&mut peers, at(60)) > 0, "never tried again");
        fail(&mut peers, at(61), failing, 1);
        assert!(peers.is_out(at(62), failing), "one more failure is enough");
        peers.on_success(at(122), failing, Duration::from_millis(1));
        fail(&mut peers, at(123), failing, 2);
        assert!(!peers.is_out(at(123), failing), "a success clears what was before");
    }

    #[test]
    fn dsp_09_a_slow_peer_is_out() {
        let mut peers = peers(5);
        for n in 1..=5 {
            peers.on_success(Time::ZERO, NodeId(n), Duration::from_millis(10));
        }

        (0..3).for_each(|_| peers.on_success(Time::ZERO, NodeId(2), Duration::from_millis(200)));

        assert!(peers.is_out(Time::from_secs(59), NodeId(2)));
        assert!(!peers.is_out(Time::from_secs(60), NodeId(2)));
        assert!(!peers.is_out(Time::ZERO, NodeId(3)));
    }

    #[test]
    fn dsp_09_the_faster_of_two_is_taken() {
        let (mut peers, mut random) = (peers(3), SplitMix::new(3));
        for (n, ms) in [(1, 10), (2, 10), (3, 30)] {
            peers.on_success(Time::ZERO, NodeId(n), Duration::from_millis(ms));
        }

        for key in 0..100 {
            let chosen = peers.choose(Time::ZERO, key, 3, &mut random).unwrap();
            assert_ne!(chosen, NodeId(3), "the slowest of three loses against any");
            peers.on_success(Time::ZERO, chosen, Duration::from_millis(10));
        }
    }

    #[test]
    fn dsp_09_if_all_are_out_the_first_to_be_back_is_taken() {
        let (mut peers, mut random) = (peers(3), SplitMix::new(2));
        for n in [2, 1, 3] {
            fail(&mut peers, Time::from_secs(n), NodeId(n), 3);
        }

        for key in 0..20 {
            let chosen = peers.choose(Time::from_secs(4), key, CANDIDATES, &mut random);
            assert_eq!(chosen, Some(NodeId(1)));
        }
        assert_eq!(Peers::default().choose(Time::ZERO, 1, CANDIDATES, &mut random), None);
    }

    #[test]
    fn dsp_09_peers_that_are_out_give_their_keys_to_others() {
        let (mut peers, mut random) = (peers(6), SplitMix::new(2));
        for node in peers.candidates(7, 2) {
            fail(&mut peers, Time::ZERO, node, 3);
        }

        let chosen = peers.choose(Time::ZERO, 7, 2, &mut random);

        assert_eq!(chosen, peers.candidates(7, 3).get(2).copied());
    }

    #[test]
    fn reg_06_a_peer_that_is_gone_leaves_nothing() {
        let mut peers = peers(2);
        fail(&mut peers, Time::ZERO, NodeId(1), 3);

        peers.forget(NodeId(1));
        peers.on_success(Time::ZERO, NodeId(1), Duration::ZERO);
        assert_eq!(peers.peers.len(), 1);
        peers.insert(NodeId(1), 1);

        assert!(!peers.is_out(Time::ZERO, NodeId(1)));
    }
}
