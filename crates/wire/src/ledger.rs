//! What ledgers say to each other, in pieces that fit in frames.
//!
//! A batch of entries or a snapshot may be larger than a frame. Pieces of one link come in order; if
//! one is missing, or comes outside its order, the whole is dropped like a lost message: ledgers say
//! again what is not answered.

use crate::Message;

/// The longest that a ledger may say.
pub const LEDGER_BYTES_MAX: usize = 64 << 20;
/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;

/// The pieces of a ledger's word, in order; none if it is too long. `number` must differ from the
/// one before on the same link.
pub fn ledger_pieces(number: u64, word: &[u8]) -> impl Iterator<Item = Message> {
    let total = word.len() as u64;
    let fits = word.len() <= LEDGER_BYTES_MAX;
    let pieces = word.chunks(PIECE_BYTES).filter(move |_| fits);
    pieces.scan(0u64, move |offset, bytes| {
        let piece = Message::Ledger { number, offset: *offset, total, bytes: bytes.to_vec() };
        *offset = offset.saturating_add(bytes.len() as u64);
        Some(piece)
    })
}

/// Puts the pieces of one link together.
///
/// ```
/// use hyperscale_wire::{Assembly, Message, ledger_pieces};
///
/// let word = vec![7; 1_000_000];
/// let mut assembly = Assembly::default();
/// let whole = ledger_pieces(1, &word).find_map(|piece| match piece {
///     Message::Ledger { number, offset, total, bytes } => {
///         assembly.take(number, offset, total, bytes)
///     }
///     _ => None,
/// });
/// assert_eq!(whole, Some(word));
/// ```
#[derive(Debug, Default)]
pub struct Assembly {
    number: u64,
    received: Vec<u8>,
}

impl Assembly {
    /// Takes a piece; returns the whole with its last one.
    pub fn take(
        &mut self,
        number: u64,
        offset: u64,
        total: u64,
        bytes: Vec<u8>,
    ) -> Option<Vec<u8>> {
        if offset == 0 {
            (self.number, self.received) = (number, Vec::new());
        }
        let have = self.received.len() as u64;
        let end = offset.saturating_add(bytes.len() as u64);
        let is_bounded = total <= LEDGER_BYTES_MAX as u64 && end <= total;
        if number != self.number || offset != have || !is_bounded {
            self.received = Vec::new();
            return None;
        }
        if end == total && offset == 0 {
            return Some(bytes); // As nearly always.
        }
        self.received.extend_from_slice(&bytes);
        (end == total).then(|| std::mem::take(&mut self.received))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(assembly: &mut Assembly, piece: Message) -> Option<Vec<u8>> {
        let Message::Ledger { number, offset, total, bytes } = piece else { panic!("no piece") };
        assembly.take(number, offset, total, bytes)
    }

    proptest! {
        #[test]
        fn pro_01_words_come_whole_or_not_at_all(
            words in proptest::collection::vec(1usize..3 * PIECE_BYTES, 1..5),
            fates in proptest::collection::vec(0u8..10, 0..20),
        ) {
            let word = |number: u64, len: usize| -> Vec<u8> {
                (0..len).map(|i| u8::try_from((i as u64 + number) % 251).unwrap()).collect()
            };
            let mut assembly = Assembly::default();
            let mut fates = fates.into_iter().chain(std::iter::repeat(0));
            for (len, number) in words.into_iter().zip(1..) {
                let word = word(number, len);
                let mut is_disturbed = false;
                let mut whole = None;
                for piece in ledger_pieces(number, &word) {
                    let copies = match fates.next() { Some(8) => 0, Some(9) => 2, _ => 1 };
                    is_disturbed |= copies != 1;
                    for _ in 0..copies {
                        whole = take(&mut assembly, piece.clone()).or(whole);
                    }
                }
                if let Some(whole) = &whole {
                    prop_assert_eq!(whole, &word);
                }
                prop_assert!(is_disturbed || whole.is_some());
            }
        }
    }

    #[test]
    fn pro_01_what_is_announced_too_long_is_not_kept() {
        let mut assembly = Assembly::default();
        let total = LEDGER_BYTES_MAX as u64 + 1;

        assert_eq!(assembly.take(1, 0, total, vec![0; 9]), None);
        assert_eq!(assembly.take(1, 9, total, vec![0; 9]), None);
        assert!(assembly.received.is_empty());
        assert_eq!(ledger_pieces(1, &vec![0; LEDGER_BYTES_MAX + 1]).count(), 0);
    }
}
