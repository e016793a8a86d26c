//! Plans and data files by the hash of their content.
//!
//! Whoever is offered work that names a blob fetches it, piece by piece, from whoever offered it.
//! Each request stands alone, so that lost and repeated pieces change nothing; the hash decides at
//! the end.
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
//! seeker.on_chunk(Time::ZERO, NodeId(1), hash, offset, total, &bytes);
//! assert!(seeker.get(hash).is_some());
//! ```

mod peers;

use std::collections::BTreeMap;
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
    retry_at: Time,
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
        let fetch = self.fetching.entry(hash).or_insert_with(|| Fetch {
            from,
            received: Vec::new(),
            retry_at: now,
        });
        if fetch.from != from || fetch.retry_at <= now {
            fetch.from = from;
            fetch.retry_at = now + RETRY;
            let offset = fetch.received.len() as u64;
            self.outputs.push((from, Message::BlobRequest { hash, offset }));
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

    /// Takes a piece. Returns the blob when it is whole.
    pub fn on_chunk(
        &mut self,
        now: Time,
        from: NodeId,
        hash: BlobHash,
        offset: u64,
        total: u64,
        bytes: &[u8],
    ) -> Option<Arc<[u8]>> {
        let fetch = self.fetching.get_mut(&hash)?;
        if offset != fetch.received.len() as u64 {
            return None; // A repeated or reordered piece: the next one was asked for already.
        }
        let is_within =
            total <= BLOB_BYTES_MAX && offset.saturating_add(bytes.len() as u64) <= total;
        if !is_within || (bytes.is_empty() && total > 0) {
            fetch.received.clear();
            return None; // Asked again after a while, from the start.
        }
        fetch.received.extend_from_slice(bytes);
        if (fetch.received.len() as u64) < total {
            fetch.retry_at = now + RETRY;
            let offset = fetch.received.len() as u64;
            self.outputs.push((from, Message::BlobRequest { hash, offset }));
            return None;
        }
        let received = std::mem::take(&mut fetch.received);
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
                fetch.retry_at = now + RETRY;
                let offset = fetch.received.len() as u64;
                self.outputs.push((fetch.from, Message::BlobRequest { hash, offset }));
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
                        seeker.on_chunk(now, HOLDER, hash, offset, total, &bytes);
                    }
                }
                now += RETRY;
                seeker.tick(now);
            }

            prop_assert_eq!(seeker.get(hash).map(|blob| blob.to_vec()), Some(bytes));
            prop_assert_eq!(seeker.next_deadline(), None);
        }
    }

    #[test]
    fn a_damaged_blob_is_not_taken() {
        let mut seeker = Blobs::default();
        let hash = hash_of(b"right");
        seeker.fetch(Time::ZERO, hash, HOLDER);

        let taken = seeker.on_chunk(Time::ZERO, HOLDER, hash, 0, 5, b"wrong");

        assert_eq!(taken, None);
        assert!(seeker.get(hash).is_none());
    }
}
