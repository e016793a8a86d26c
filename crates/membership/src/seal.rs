//! Datagrams, sealed with the cluster's key.
//!
//! ```text
//! key id 4 | sender 8 | life 8 | counter 8 | sealed: wall clock 8, payload | tag 16
//! ```
//!
//! Sender, life and counter are the nonce of XChaCha20-Poly1305: a node counts its datagrams, and a
//! life is a random number drawn at its start, so no nonce is used twice with a key. They also make a
//! replay visible: of each life a window of counters is remembered. Lives that had to be forgotten
//! leave a floor behind, the newest clock among them: an unknown life must be newer than that.
//!
//! The name of the cluster is authenticated, so clusters that share a key do not hear each other.
//! Every holder of the key can speak for every node: the key makes members of strangers, and nothing
//! finer.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hyperscale_model::{NodeId, WallTime};
use sha2::{Digest, Sha256};

/// The largest datagram: it fits every path without being cut.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;
const HEADER_BYTES: usize = 28;
const CLOCK_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// The largest payload of a datagram.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - CLOCK_BYTES - TAG_BYTES;
/// How old a datagram may be, by the clocks of both ends.
const PAST_MS: u64 = 300_000;
/// How far ahead the sender's clock may be.
const FUTURE_MS: u64 = 60_000;
/// Lives whose counters are remembered.
const LIVES_MAX: usize = 4_096;

/// What a key is called: it tells keys apart, and tells nothing of them. Every datagram begins with
/// it in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// The same as a number, for what holds nothing but numbers.
    #[must_use]
    pub const fn as_number(self) -> u32 {
        u32::from_be_bytes(self.0)
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.as_number())
    }
}

/// A key of a cluster: 32 secret bytes.
#[derive(Clone)]
pub struct ClusterKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl ClusterKey {
    /// The key for datagrams that follows from a cluster's secret, which may have other uses.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let derive = |label: &str| -> [u8; 32] {
            Sha256::new().chain_update(label).chain_update(secret).finalize().into()
        };
        let [a, b, c, d, ..] = derive("hyperscale gossip key id 1");
        let key = derive("hyperscale gossip key 1");
        Self { id: KeyId([a, b, c, d]), cipher: XChaCha20Poly1305::new(&key.into()) }
    }

    /// What it is called.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys of a cluster. To change them: first add the next one everywhere, then make it the
/// current one and keep the old one as the previous, then drop that.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Seals and opens.
    pub current: ClusterKey,
    /// Opens what nodes send that have not yet changed.
    pub previous: Option<ClusterKey>,
    /// Opens what nodes send that have changed already.
    pub next: Option<ClusterKey>,
}

impl Keys {
    /// One key.
    #[must_use]
    pub const fn only(current: ClusterKey) -> Self {
        Self { current, previous: None, next: None }
    }

    /// Each of them with its place.
    pub fn iter(&self) -> impl Iterator<Item = (KeyPlace, &ClusterKey)> {
        let of = |place: KeyPlace| move |key| (place, key);
        std::iter::once((KeyPlace::Current, &self.current))
            .chain(self.previous.iter().map(of(KeyPlace::Previous)))
            .chain(self.next.iter().map(of(KeyPlace::Next)))
    }

    fn find(&self, id: KeyId) -> Option<(KeyPlace, &ClusterKey)> {
        self.iter().find(|(_, key)| key.id == id)
    }
}

/// Which of a node's keys one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// What it seals with itself.
    Current,
    /// What nodes use that are a step behind.
    Previous,
    /// What nodes use that are a step ahead.
    Next,
}

/// A payload that cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payload of {payload_bytes} bytes does not fit a datagram")]
pub struct SealError {
    payload_bytes: usize,
}

/// Why a datagram was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Too short or too long to be one.
    #[error("its size is none of a datagram's")]
    Size,
    /// Sealed with a key that is not known here.
    #[error("its key {0} is not known")]
    UnknownKey(KeyId),
    /// Not sealed by a holder of the key for this cluster, or changed on its way.
    #[error("it was not sealed for this cluster")]
    Forged,
    /// Sent more than 300 s ago.
    #[error("it is too old, or a clock is wrong")]
    Past,
    /// Sent more than 60 s from now.
    #[error("it is from the future: a clock is wrong")]
    Future,
    /// It, or later ones, arrived already.
    #[error("it was sent before")]
    Replayed,
}

/// A datagram that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sealed it.
    pub from: NodeId,
    /// Which key it was sealed with.
    pub key: KeyPlace,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Seals and opens the datagrams of one life of one node in one cluster.
#[derive(Debug)]
pub struct Sealer {
    cluster: Vec<u8>,
    keys: Keys,
    node: NodeId,
    life: u64,
    counter: u64,
    seen: BTreeMap<(NodeId, u64), Seen>,
    floor: u64,
    lives_max: usize,
}

/// Which datagrams of a life have arrived.
#[derive(Debug, Clone, Copy)]
struct Seen {
    highest: u64,
    /// Bit k: the one with counter `highest - k` has arrived.
    window: u128,
    newest_ms: u64,
}

impl Seen {
    fn admits(&self, counter: u64) -> bool {
        match self.highest.checked_sub(counter) {
            None => true,
            Some(age) => age < 128 && self.window >> age & 1 == 0,
        }
    }

    fn note(&mut self, counter: u64, sent_ms: u64) {
        if counter > self.highest {
            let ahead = counter - self.highest;
            self.window = if ahead < 128 { self.window << ahead } else { 0 };
            self.highest = counter;
        }
        self.window |= 1 << (self.highest - counter);
        self.newest_ms = self.newest_ms.max(sent_ms);
    }
}

impl Sealer {
    /// A sealer for a life of `node`; `life` is drawn at random at each start.
    #[must_use]
    pub fn new(cluster: &str, keys: Keys, node: NodeId, life: u64) -> Self {
        Self {
            cluster: cluster.as_bytes().to_vec(),
            keys,
            node,
            life,
            counter: 0,
            seen: BTreeMap::new(),
            floor: 0,
            lives_max: LIVES_MAX,
        }
    }

    /// Changes the keys, from the next datagram on. What was heard stays heard: counters and what is
    /// known of other lives go on, so that no datagram opens twice, whichever keys it meets.
    pub fn change_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// Seals a payload.
    ///
    /// # Errors
    ///
    /// If it is larger than [`PAYLOAD_BYTES_MAX`].
    pub fn seal(&mut self, now: WallTime, payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let refused = SealError { payload_bytes: payload.len() };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(refused);
        }
        self.counter += 1;
        let mut nonce = [0; 24];
        let (sender, rest) = nonce.split_at_mut(8);
        let (life, counter) = rest.split_at_mut(8);
        sender.copy_from_slice(&self.node.0.to_be_bytes());
        life.copy_from_slice(&self.life.to_be_bytes());
        counter.copy_from_slice(&self.counter.to_be_bytes());
        let clear = [&now.as_millis().to_be_bytes(), payload].concat();
        let key = &self.keys.current;
        let sealed = key
            .cipher
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &clear, aad: &self.cluster })
            .map_err(|_opaque| refused)?;
        Ok([key.id.0.as_slice(), &nonce, &sealed].concat())
    }

    /// Opens a datagram, once.
    ///
    /// # Errors
    ///
    /// If it is not for this node to believe: see [`OpenError`].
    pub fn open(&mut self, now: WallTime, datagram: &[u8]) -> Result<Opened, OpenError> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(OpenError::Size);
        }
        let (id, rest) = datagram.split_first_chunk::<4>().ok_or(OpenError::Size)?;
        let (nonce, sealed) = rest.split_first_chunk::<24>().ok_or(OpenError::Size)?;
        if sealed.len() < CLOCK_BYTES + TAG_BYTES {
            return Err(OpenError::Size);
        }
        let id = KeyId(*id);
        let (place, key) = self.keys.find(id).ok_or(OpenError::UnknownKey(id))?;
        let clear = key
            .cipher
            .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &self.cluster })
            .map_err(|_opaque| OpenError::Forged)?;
        let (sent, payload) = clear.split_first_chunk::<8>().ok_or(OpenError::Forged)?;
        let sent_ms = u64::from_be_bytes(*sent);
        if sent_ms.saturating_add(PAST_MS) < now.as_millis() {
            return Err(OpenError::Past);
        }
        if sent_ms > now.as_millis().saturating_add(FUTURE_MS) {
            return Err(OpenError::Future);
        }
        let [from, life, counter] = words(nonce);
        let from = NodeId(from);
        self.note(from, life, counter, sent_ms)?;
        Ok(Opened { from, key: place, payload: payload.to_vec() })
    }

    fn note(
        &mut self,
        from: NodeId,
        life: u64,
        counter: u64,
        sent_ms: u64,
    ) -> Result<(), OpenError> {
        if let Some(seen) = self.seen.get_mut(&(from, life)) {
            if !seen.admits(counter) {
                return Err(OpenError::Replayed);
            }
            seen.note(counter, sent_ms);
            return Ok(());
        }
        if sent_ms <= self.floor {
            return Err(OpenError::Replayed);
        }
        let first = Seen { highest: counter, window: 1, newest_ms: sent_ms };
        self.seen.insert((from, life), first);
        if self.seen.len() > self.lives_max {
            self.forget_oldest();
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.newest_ms);
        if let Some((&key, &Seen { newest_ms, .. })) = oldest {
            self.seen.remove(&key);
            self.floor = self.floor.max(newest_ms);
        }
    }
}

/// Three numbers of eight bytes.
fn words(bytes: &[u8; 24]) -> [u64; 3] {
    std::array::from_fn(|place| {
        let word = bytes.iter().skip(place * 8).take(8);
        word.fold(0, |number, &byte| number << 8 | u64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: WallTime = WallTime(1_800_000_000_000);

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new(&[byte; 32])
    }

    fn sealer(node: u64) -> Sealer {
        Sealer::new("gates", Keys::only(key(1)), NodeId(node), node * 100)
    }

    fn at(offset_ms: i64) -> WallTime {
        WallTime(NOW.0.saturating_add_signed(offset_ms))
    }

    #[test]
    fn sec_04_what_was_sealed_opens_once_and_for_its_cluster_only() {
        let (mut one, mut two) = (sealer(1), sealer(2));
        let mut foreign = Sealer::new("dc-a", Keys::only(key(1)), NodeId(3), 3);
        let mut stranger = Sealer::new("gates", Keys::only(key(9)), NodeId(4), 4);

        let datagram = one.seal(NOW, b"secret words").unwrap();

        assert!(!datagram.windows(6).any(|bytes| bytes == b"secret"));
        let payload = b"secret words".to_vec();
        let opened = Opened { from: NodeId(1), key: KeyPlace::Current, payload };
        assert_eq!(foreign.open(NOW, &datagram), Err(OpenError::Forged));
        assert_eq!(stranger.open(NOW, &datagram), Err(OpenError::UnknownKey(key(1).id)));
        assert_eq!(two.open(NOW, &datagram), Ok(opened));
        assert_eq!(two.open(NOW, &datagram), Err(OpenError::Replayed));
    }

    #[test]
    fn sec_04_age_is_bounded_both_ways() {
        let mut one = sealer(1);
        let rows = [
            (-300_001, Err(OpenError::Past)),
            (-300_000, Ok(())),
            (0, Ok(())),
            (60_000, Ok(())),
            (60_001, Err(OpenError::Future)),
        ];
        for (offset, expected) in rows {
            let datagram = one.seal(at(offset), b"x").unwrap();
            assert_eq!(sealer(2).open(NOW, &datagram).map(drop), expected, "sent at {offset} ms");
        }
    }

    #[test]
    fn sec_04_each_changed_bit_is_seen() {
        let datagram = sealer(1).seal(NOW, b"x").unwrap();
        for bit in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer(2).open(NOW, &changed).is_err(), "bit {bit} is not protected");
        }
    }

    #[test]
    fn sec_04_forgotten_lives_stay_refused() {
        let mut receiver = sealer(1);
        receiver.lives_max = 2;
        let datagrams: Vec<Vec<u8>> =
            (2..6).map(|node| sealer(node).seal(at(node.cast_signed()), b"x").unwrap()).collect();

        for datagram in &datagrams {
            assert!(receiver.open(NOW, datagram).is_ok());
        }

        assert!(receiver.seen.len() <= 2, "the table grows");
        for datagram in &datagrams {
            assert_eq!(receiver.open(NOW, datagram), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn datagrams_may_overtake_each_other() {
        let (mut one, mut two) = (sealer(1), sealer(2));
        let datagrams: Vec<Vec<u8>> = (0..200).map(|_| one.seal(NOW, b"x").unwrap()).collect();

        assert!(two.open(NOW, &datagrams[150]).is_ok());
        assert!(two.open(NOW, &datagrams[149]).is_ok());
        assert!(two.open(NOW, &datagrams[23]).is_ok());
        assert_eq!(two.open(NOW, &datagrams[22]), Err(OpenError::Replayed), "out of the window");
        assert_eq!(two.open(NOW, &datagrams[149]), Err(OpenError::Replayed));
        assert!(two.open(NOW, &datagrams[199]).is_ok());
    }

    /// The keys of a node after each step: before all of them, `next`, `use`, `drop`.
    fn steps() -> [Keys; 4] {
        [
            Keys::only(key(1)),
            Keys { current: key(1), previous: None, next: Some(key(2)) },
            Keys { current: key(2), previous: Some(key(1)), next: None },
            Keys::only(key(2)),
        ]
    }

    #[test]
    fn sec_03_nodes_that_are_a_step_apart_hear_each_other() {
        let (mut one, mut two) = (sealer(1), sealer(2));
        for (ours, keys) in steps().into_iter().enumerate() {
            one.change_keys(keys);
            for (theirs, keys) in steps().into_iter().enumerate() {
                two.change_keys(keys);
                let is_allowed = ours.abs_diff(theirs) <= 1;

                let datagram = one.seal(NOW, b"x").unwrap();
                let heard = two.open(NOW, &datagram);

                // Two steps apart, a node hears only what it has a key for: that is why each step is
                // taken everywhere before the next one.
                let has_key = two.keys.find(one.keys.current.id);
                assert_eq!(heard.is_ok(), has_key.is_some(), "{theirs} hears {ours}: {heard:?}");
                assert!(heard.is_ok() || !is_allowed, "{theirs} does not hear {ours}");
                assert_eq!(heard.ok().map(|opened| opened.key), has_key.map(|(place, _)| place));
            }
        }
    }

    #[test]
    fn sec_03_what_was_sealed_with_a_dropped_key_is_refused() {
        let (mut one, mut two) = (sealer(1), sealer(2));
        let before = one.seal(NOW, b"x").unwrap();
        let [_, announced, changed, dropped] = steps();

        for keys in [announced, changed, dropped] {
            two.change_keys(keys);
        }

        assert_eq!(two.open(NOW, &before), Err(OpenError::UnknownKey(key(1).id)));
        let late = one.seal(NOW, b"x").unwrap();
        assert_eq!(two.open(NOW, &late), Err(OpenError::UnknownKey(key(1).id)));
    }

    #[test]
    fn sec_03_what_was_heard_is_not_heard_again_at_a_later_step() {
        let (mut one, mut two) = (sealer(1), sealer(2));
        let mut sent = Vec::new();
        for keys in steps() {
            one.change_keys(keys.clone());
            two.change_keys(keys);
            let datagram = one.seal(NOW, b"x").unwrap();
            assert!(two.open(NOW, &datagram).is_ok());
            sent.push(datagram);

            for datagram in &sent {
                let again = two.open(NOW, datagram);
                let is_refused =
                    matches!(again, Err(OpenError::Replayed | OpenError::UnknownKey(_)));
                assert!(is_refused, "opened twice: {again:?}");
            }
        }
        // Nor after the old key came back, as when somebody undoes a step.
        two.change_keys(steps()[2].clone());
        for datagram in &sent {
            assert_eq!(two.open(NOW, datagram), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn a_key_is_called_by_eight_digits_that_are_not_its_own() {
        let id = key(1).id;

        assert_eq!(id.to_string().len(), 8);
        assert_eq!(u32::from_str_radix(&id.to_string(), 16), Ok(id.as_number()));
        assert_ne!(id.to_string(), "01010101");
        assert_ne!(id, key(2).id);
    }

    #[test]
    fn largest_payload_fits_a_datagram() {
        let payload = [7; PAYLOAD_BYTES_MAX];
        let datagram = sealer(1).seal(NOW, &payload).unwrap();

        assert_eq!(datagram.len(), DATAGRAM_BYTES_MAX);
        assert_eq!(sealer(2).open(NOW, &datagram).unwrap().payload, payload);
        assert!(sealer(1).seal(NOW, &[7; PAYLOAD_BYTES_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn sec_04_no_bytes_open_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..1_400)) {
            prop_assert!(sealer(1).open(NOW, &bytes).is_err());
        }

        #[test]
        fn sec_04_no_bytes_behind_a_true_key_id_open_or_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..1_400),
        ) {
            let datagram = [key(1).id.0.as_slice(), &bytes].concat();
            prop_assert!(sealer(1).open(NOW, &datagram).is_err());
        }

        #[test]
        fn any_order_opens_each_datagram_at_most_once(
            order in prop::collection::vec(0usize..300, 0..600),
        ) {
            let (mut one, mut two) = (sealer(1), sealer(2));
            let datagrams: Vec<Vec<u8>> =
                (0..300).map(|_| one.seal(NOW, b"x").unwrap()).collect();
            let mut opened = std::collections::BTreeSet::new();

            for number in order {
                if two.open(NOW, &datagrams[number]).is_ok() {
                    prop_assert!(opened.insert(number), "datagram {number} opened twice");
                }
            }
        }
    }
}
