//! Plans and data files by the hash of their content.
//!
//! Whoever is offered work that names a blob fetches it, piece by piece, from whoever offered it.
//! Each request stands alone, so that lost and repeated pieces change nothing; the hash decides at
//! the end. Over a long way several pieces are asked for at once: as many more with each one as come
//! without waiting for each other, so that whatever else is on that way, heartbeats first of all,
//! waits little for them.
//!
//! ```
//! use hyperscale_blobs::Blobs;
//! use hyperscale_model::{NodeId, Time};
//!
//! let (mut holder, mut seeker) = (Blobs::default(), Blobs::default());
//! let hash = holder.insert(b"a plan".as_slice().into());
//! seeker.fetch(Time::ZERO, hash, NodeId(1));
//! # use hyperscale_wire::Message;
//! let requests: Vec<_> = seeker.drain().collect();
//! let Message::BlobRequest { hash, offset } = requests[0].1 else { unreachable!() };
//! let Message::BlobChunk { hash, offset, total, bytes } = holder.serve(hash, offset) else { unreachable!() };
//! seeker.on_chunk(Time::ZERO, hash, offset, total, &bytes);
//! assert!(seeker.get(hash).is_some());
//! ```

mod peers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{BlobHash, NodeId, Time};
use hyperscale_wire::{BLOB_CHUNK_BYTES, Message};
use sha2::{Digest, Sha256};

pub use crate::peers::Peers;

/// The largest blob.
pub const BLOB_BYTES_MAX: u64 = 64 << 20;

/// How long a piece may take before it is asked for again.
const RETRY: Duration = Duration::from_secs(2);
/// So many pieces are on their way at most.
const WINDOW_MAX: usize = 32;
/// A piece that takes so much longer than the fastest has waited for others.
const QUEUEING: Duration = Duration::from_millis(100);

/// The hash of some bytes.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> BlobHash {
    BlobHash(Sha256::digest(bytes).into())
}

/// The blobs that a node holds, and those that it fetches.
#[derive(Debug, Default)]
pub struct Blobs {
    held: BTreeMap<BlobHash, Arc<[u8]>>,
    fetching: BTreeMap<BlobHash, Fetch>,
    outputs: Vec<(NodeId, Message)>,
}

#[derive(Debug)]
struct Fetch {
    from: NodeId,
    received: Vec<u8>,
    /// How many bytes there are, once a piece has told.
    total: Option<u64>,
    /// Pieces that were asked for, in order: where each begins, and when.
    asked: VecDeque<(u64, Time)>,
    /// How many may be on their way.
    window: usize,
    /// The shortest time that a piece has taken.
    fastest: Option<Duration>,
    /// Pieces before this were asked for before fewer were: that they waited says nothing new.
    narrowed_at: u64,
    retry_at: Time,
}

impl Fetch {
    const fn new(from: NodeId, now: Time) -> Self {
        Self {
            from,
            received: Vec::new(),
            total: None,
            asked: VecDeque::new(),
            window: 1,
            fastest: None,
            narrowed_at: 0,
            retry_at: now,
        }
    }

    /// Asks for what is missing from its beginning on, as if nothing had been asked for.
    fn restart(&mut self, now: Time, hash: BlobHash, outputs: &mut Vec<(NodeId, Message)>) {
        self.asked.clear();
        self.window = 1;
        self.ask(now, hash, outputs);
    }

    /// Asks for as many pieces as may be on their way.
    fn ask(&mut self, now: Time, hash: BlobHash, outputs: &mut Vec<(NodeId, Message)>) {
        self.retry_at = now + RETRY;
        while self.asked.len() < self.window {
            let piece = BLOB_CHUNK_BYTES as u64;
            let next = self.asked.back().map(|(offset, _)| offset + piece);
            let offset = next.unwrap_or(self.received.len() as u64);
            // How many there are is not known before the first has come.
            let is_there = self.total.map_or(self.asked.is_empty(), |total| offset < total);
            if !is_there {
                break;
            }
            self.asked.push_back((offset, now));
            outputs.push((self.from, Message::BlobRequest { hash, offset }));
        }
    }

    /// The piece that was asked for first has come.
    fn note_arrival(&mut self, now: Time, offset: u64) {
        let Some((_, asked_at)) = self.asked.pop_front().filter(|(asked, _)| *asked == offset)
        else {
            self.asked.clear();
            return;
        };
        let took = now.since(asked_at);
        let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
        self.fastest = Some(fastest);
        if took <= fastest + QUEUEING {
            // Half as many more with each round trip: what this leads to shows a round trip later.
            let is_second = offset / BLOB_CHUNK_BYTES as u64 % 2 == 1;
            self.window = (self.window + usize::from(is_second)).min(WINDOW_MAX);
        } else if offset >= self.narrowed_at {
            self.window = (self.window * 3 / 4).max(1);
            self.narrowed_at = self.asked.back().map_or(offset, |(last, _)| last + 1);
        }
    }
}

impl Blobs {
    /// No blobs.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: BTreeMap::new(), fetching: BTreeMap::new(), outputs: Vec::new() }
    }

    /// Holds these bytes and returns their hash.
    pub fn insert(&mut self, bytes: Arc<[u8]>) -> BlobHash {
        let hash = hash_of(&bytes);
        self.fetching.remove(&hash);
        self.held.insert(hash, bytes);
        hash
    }

    /// The blob's bytes, if it is held.
    #[must_use]
    pub fn get(&self, hash: BlobHash) -> Option<&Arc<[u8]>> {
        self.held.get(&hash)
    }

    /// Forgets all blobs but those that `is_needed` says yes to.
    pub fn retain(&mut self, is_needed: impl Fn(BlobHash) -> bool) {
        self.held.retain(|hash, _| is_needed(*hash));
        self.fetching.retain(|hash, _| is_needed(*hash));
    }

    /// Asks `from` for a blob, unless it is held. A fetch under way changes over to `from`.
    pub fn fetch(&mut self, now: Time, hash: BlobHash, from: NodeId) {
        if self.held.contains_key(&hash) {
            return;
        }
        let fetch = self.fetching.entry(hash).or_insert_with(|| Fetch::new(from, now));
        if fetch.from != from || fetch.retry_at <= now {
            fetch.from = from;
            fetch.fastest = None;
            fetch.restart(now, hash, &mut self.outputs);
        }
    }

    /// From whom a blob is being fetched, if it is.
    #[must_use]
    pub fn source(&self, hash: BlobHash) -> Option<NodeId> {
        self.fetching.get(&hash).map(|fetch| fetch.from)
    }

    /// The answer to a request for a piece.
    #[must_use]
    pub fn serve(&self, hash: BlobHash, offset: u64) -> Message {
        let Some(bytes) = self.held.get(&hash) else { return Message::BlobMissing { hash } };
        let total = bytes.len() as u64;
        let from = usize::try_from(offset.min(total)).unwrap_or(bytes.len());
        let to = from.saturating_add(BLOB_CHUNK_BYTES).min(bytes.len());
        Message::BlobChunk { hash, offset, total, bytes: bytes[from..to].to_vec() }
    }

    /// Takes a piece, from whomever: the hash decides. Returns the blob when it is whole.
    pub fn on_chunk(
        &mut self,
        now: Time,
        hash: BlobHash,
        offset: u64,
        total: u64,
        bytes: &[u8],
    ) -> Option<Arc<[u8]>> {
        let fetch = self.fetching.get_mut(&hash)?;
        if offset != fetch.received.len() as u64 {
            return None; // A repeated piece, or one after a piece that was lost.
        }
        let is_within =
            total <= BLOB_BYTES_MAX && offset.saturating_add(bytes.len() as u64) <= total;
        if !is_within || (bytes.is_empty() && total > 0) {
            *fetch = Fetch { retry_at: fetch.retry_at, ..Fetch::new(fetch.from, now) };
            return None; // Asked again after a while, from the start.
        }
        fetch.received.extend_from_slice(bytes);
        fetch.total = Some(total);
        fetch.note_arrival(now, offset);
        if (fetch.received.len() as u64) < total {
            fetch.ask(now, hash, &mut self.outputs);
            return None;
        }
        let received = std::mem::take(&mut fetch.received);
        *fetch = Fetch { retry_at: fetch.retry_at, ..Fetch::new(fetch.from, now) };
        if hash_of(&received) != hash {
            return None; // Damaged: asked again after a while, from the start.
        }
        let bytes: Arc<[u8]> = received.into();
        self.fetching.remove(&hash);
        self.held.insert(hash, Arc::clone(&bytes));
        Some(bytes)
    }

    /// When [`Blobs::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.fetching.values().map(|fetch| fetch.retry_at).min()
    }

    /// Asks again for pieces that did not come.
    pub fn tick(&mut self, now: Time) {
        for (&hash, fetch) in &mut self.fetching {
            if fetch.retry_at <= now {
                fetch.restart(now, hash, &mut self.outputs);
            }
        }
    }

    /// What is to be sent, to whom.
    pub fn drain(&mut self) -> impl Iterator<Item = (NodeId, Message)> {
        self.outputs.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLDER: NodeId = NodeId(1);

    proptest! {
        #[test]
        fn a_blob_arrives_whole_although_pieces_are_lost_and_repeated(
            len in 0usize..3 * BLOB_CHUNK_BYTES,
            fates in proptest::collection::vec(0u8..3, 0..30),
        ) {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let (mut holder, mut seeker) = (Blobs::default(), Blobs::default());
            let hash = holder.insert(bytes.clone().into());
            let mut now = Time::ZERO;
            seeker.fetch(now, hash, HOLDER);
            let mut fates = fates.into_iter().chain(std::iter::repeat(0));

            for _ in 0..100 {
                let requests: Vec<_> = seeker.drain().collect();
                for (_, request) in requests {
                    let Message::BlobRequest { hash, offset } = request else { panic!() };
                    let answer = holder.serve(hash, offset);
                    let Message::BlobChunk { total, bytes, .. } = answer else { panic!() };
                    let deliveries = match fates.next() { Some(1) => 0, Some(2) => 2, _ => 1 };
                    for _ in 0..deliveries {
                        seeker.on_chunk(now, hash, offset, total, &bytes);
                    }
                }
                now += RETRY;
                seeker.tick(now);
            }

            prop_assert_eq!(seeker.get(hash).map(|blob| blob.to_vec()), Some(bytes));
            prop_assert_eq!(seeker.next_deadline(), None);
        }
    }

    /// Fetches so many bytes over a way that takes `rtt` and, for each piece, one after the other,
    /// `per_piece`. Returns how long that took, and the longest that a piece has waited for others.
    fn fetch_over(len: usize, rtt: Duration, per_piece: Duration) -> (Duration, Duration) {
        let (mut holder, mut seeker) = (Blobs::default(), Blobs::default());
        let hash = holder.insert(vec![7; len].into());
        let (mut now, mut way_is_free, mut waited) = (Time::ZERO, Time::ZERO, Duration::ZERO);
        let mut on_their_way: VecDeque<(Time, u64)> = VecDeque::new();
        seeker.fetch(now, hash, HOLDER);
        while seeker.get(hash).is_none() {
            for (_, request) in seeker.drain().collect::<Vec<_>>() {
                let Message::BlobRequest { offset, .. } = request else { panic!() };
                let starts = way_is_free.max(now + rtt);
                waited = waited.max(starts.since(now + rtt));
                way_is_free = starts + per_piece;
                on_their_way.push_back((way_is_free, offset));
            }
            let (arrives, offset) = on_their_way.pop_front().unwrap();
            now = arrives;
            let Message::BlobChunk { total, bytes, .. } = holder.serve(hash, offset) else {
                panic!()
            };
            seeker.on_chunk(now, hash, offset, total, &bytes);
        }
        (now - Time::ZERO, waited)
    }

    #[test]
    fn a_large_blob_takes_few_round_trips_and_does_not_fill_a_slow_way() {
        let (rtt, ms) = (Duration::from_millis(300), Duration::from_millis);

        let (fast, waited) = fetch_over(64 << 20, rtt, ms(1));
        assert!(fast < rtt * 20, "{fast:?} for 256 pieces");
        assert!(waited <= ms(32), "{waited:?}");

        // 10 MB/s: 25 ms for each piece.
        let (slow, waited) = fetch_over(64 << 20, rtt, ms(25));
        assert!(slow < ms(25) * 256 * 2, "{slow:?}, at best 6.4 s");
        assert!(waited <= ms(400), "{waited:?} is what a heartbeat waits, too");

        // 1 MB/s: hardly more than one at a time.
        let (_, waited) = fetch_over(8 << 20, rtt, ms(250));
        assert!(waited <= ms(600), "{waited:?}");
    }

    #[test]
    fn a_damaged_blob_is_not_taken() {
        let mut seeker = Blobs::default();
        let hash = hash_of(b"right");
        seeker.fetch(Time::ZERO, hash, HOLDER);

        let taken = seeker.on_chunk(Time::ZERO, hash, 0, 5, b"wrong");

        assert_eq!(taken, None);
        assert!(seeker.get(hash).is_none());
    }
}
