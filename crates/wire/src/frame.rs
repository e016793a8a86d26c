//! Frames: a length of 4 bytes, big end first, then so many bytes of MessagePack.

use std::io::Cursor;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Message;

/// The largest frame, without its length.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// How deeply values may nest.
const DEPTH_MAX: usize = 64;

/// A message that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// It is larger than a frame.
    #[error("the message takes {bytes} bytes, a frame has at most {FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It holds something that cannot be written.
    #[error("the message cannot be written")]
    Unwritable(#[source] rmp_serde::encode::Error),
}

/// A frame that is no message.
#[derive(Debug, thiserror::Error)]
#[error("the frame holds no message of this protocol")]
pub struct DecodeError(#[source] rmp_serde::decode::Error);

/// A byte stream that holds no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {bytes} bytes is announced, at most {FRAME_BYTES_MAX} are allowed")]
pub struct FrameError {
    /// The announced length.
    pub bytes: usize,
}

/// The bytes of a message with their length in front.
///
/// # Errors
///
/// If the message is larger than a frame.
pub fn encode_frame<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let body = encode_value(value)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= FRAME_BYTES_MAX)
        .ok_or(EncodeError::TooLarge { bytes: body.len() })?;
    let mut frame = Vec::with_capacity(body.len().saturating_add(LENGTH_BYTES));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The message in a frame's body.
///
/// # Errors
///
/// If the bytes are none.
pub fn decode_message(body: &[u8]) -> Result<Message, DecodeError> {
    decode_value(body)
}

/// The bytes of any value of the protocol: fields by name, so that peers of other versions skip
/// what they do not know.
///
/// # Errors
///
/// If the value holds something that cannot be written.
pub fn encode_value<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec_named(value).map_err(EncodeError::Unwritable)
}

/// The value in these bytes.
///
/// # Errors
///
/// If they are none, nest too deeply or go on after it.
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut reader = rmp_serde::Deserializer::new(Cursor::new(bytes));
    reader.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut reader).map_err(DecodeError)?;
    if usize::try_from(reader.position()) == Ok(bytes.len()) {
        Ok(value)
    } else {
        let excess = "bytes are left after the message".to_owned();
        Err(DecodeError(rmp_serde::decode::Error::Uncategorized(excess)))
    }
}

/// Cuts a byte stream, however it arrives, into frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes at the front that were handed out.
    consumed: usize,
}

impl FrameDecoder {
    /// Adds bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame's body, if it has arrived.
    ///
    /// # Errors
    ///
    /// If a frame is announced that is too large: the stream is lost, the link must close.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let rest = self.buffer.get(self.consumed..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > FRAME_BYTES_MAX {
            return Err(FrameError { bytes });
        }
        let Some(body) = rest.get(..bytes) else { return Ok(None) };
        let body = body.to_vec();
        self.consumed = self.consumed.saturating_add(LENGTH_BYTES).saturating_add(bytes);
        Ok(Some(body))
    }

    /// Bytes that wait for the rest of their frame.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len().saturating_sub(self.consumed)
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::{BlobHash, NodeId};
    use proptest::prelude::*;

    use super::*;

    fn corpus() -> Vec<Message> {
        (0..20u8)
            .flat_map(|i| {
                let hash = BlobHash([i; 32]);
                [
                    Message::BlobMissing { hash },
                    Message::NotLeader { leader: Some(NodeId(u64::from(i))) },
                    Message::BlobChunk {
                        hash,
                        offset: 3,
                        total: 900,
                        bytes: vec![i; usize::from(i) * 40],
                    },
                ]
            })
            .collect()
    }

    fn stream(messages: &[Message]) -> Vec<u8> {
        messages.iter().flat_map(|message| encode_frame(message).unwrap()).collect()
    }

    fn read_all(decoder: &mut FrameDecoder, messages: &mut Vec<Message>) {
        while let Some(body) = decoder.next_frame().unwrap() {
            messages.push(decode_message(&body).unwrap());
        }
    }

    #[test]
    fn pro_02_any_single_cut_gives_the_same_messages() {
        let sent = corpus();
        let bytes = stream(&sent);
        for cut in 0..bytes.len() {
            let (mut decoder, mut received) = (FrameDecoder::default(), Vec::new());
            for piece in [&bytes[..cut], &bytes[cut..]] {
                decoder.feed(piece);
                read_all(&mut decoder, &mut received);
            }
            assert_eq!(received, sent, "cut at {cut}");
            assert_eq!(decoder.buffered(), 0);
        }
    }

    #[test]
    fn pro_01_an_oversized_frame_is_refused_before_it_is_read() {
        let mut decoder = FrameDecoder::default();

        decoder.feed(&u32::MAX.to_be_bytes());

        assert_eq!(decoder.next_frame(), Err(FrameError { bytes: u32::MAX as usize }));
    }

    #[test]
    fn pro_01_an_oversized_message_is_not_sent() {
        let hash = BlobHash([0; 32]);
        let bytes = vec![0; FRAME_BYTES_MAX];

        let error = encode_frame(&Message::BlobChunk { hash, offset: 0, total: 0, bytes });

        assert!(matches!(error, Err(EncodeError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn pro_02_any_cuts_give_the_same_messages(
            cuts in proptest::collection::vec(0usize..8_000, 0..40),
        ) {
            let sent = corpus();
            let bytes = stream(&sent);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut decoder, mut received, mut from) = (FrameDecoder::default(), Vec::new(), 0);

            for cut in cuts {
                decoder.feed(&bytes[from..cut]);
                read_all(&mut decoder, &mut received);
                from = cut;
            }

            prop_assert_eq!(received, sent);
        }

        #[test]
        fn pro_03_random_bytes_are_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let _ignored = decode_message(&bytes).is_ok();
        }

        #[test]
        fn pro_03_random_streams_keep_little_and_never_panic(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..30),
        ) {
            let (mut decoder, mut fed) = (FrameDecoder::default(), 0);
            for piece in &pieces {
                decoder.feed(piece);
                fed += piece.len();
                while let Ok(Some(body)) = decoder.next_frame() {
                    fed -= body.len() + LENGTH_BYTES;
                }
                prop_assert!(decoder.buffered() <= fed);
            }
        }

        #[test]
        fn pro_03_damaged_handshakes_never_panic(
            at in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<prop::sample::Index>(),
        ) {
            let hello = crate::Hello {
                cluster: "blue".to_owned(),
                environment: "test".to_owned(),
                protocol_min: 1,
                protocol_max: 2,
                node: NodeId(7),
                role: hyperscale_model::Role::Worker,
                to: hyperscale_model::Role::Manager,
                datacenter: hyperscale_model::DatacenterId::from("eu"),
                incarnation: hyperscale_model::Incarnation(3),
                features: vec!["a".to_owned()],
                address: Some("127.0.0.1:1".to_owned()),
            };
            let refused: Result<(), crate::HelloError> =
                Err(crate::HelloError::Protocol { min: 1, max: 2 });
            for mut bytes in [encode_value(&hello).unwrap(), encode_value(&refused).unwrap()] {
                // What is damaged may happen to end well where it is cut; what is only cut may not.
                let mut short = bytes.clone();
                short.truncate(cut.index(bytes.len()));
                prop_assert!(decode_value::<crate::Hello>(&short).is_err());
                *at.get_mut(&mut bytes) ^= flip;
                if let Ok(theirs) = decode_value::<crate::Hello>(&bytes) {
                    let _verdict = hello.check(&theirs);
                }
                let _verdict = decode_value::<Result<(), crate::HelloError>>(&bytes).is_ok();
            }
        }

        /// An announced length must not be believed before the bytes are there.
        #[test]
        fn pro_01_announced_lengths_cost_nothing(
            marker in prop::sample::select(vec![0xdbu8, 0xc6, 0xdd, 0xdf]), length in any::<u32>(),
        ) {
            let mut bytes = vec![marker];
            bytes.extend_from_slice(&length.to_be_bytes());
            prop_assert!(decode_message(&bytes).is_err());
            prop_assert!(decode_value::<Vec<String>>(&bytes).is_err() || length == 0);
            prop_assert!(decode_value::<Vec<u64>>(&bytes).is_err() || length == 0);
        }

        #[test]
        fn pro_03_damaged_messages_never_panic(
            which in 0usize..60, at in 0usize..400, flip in 1u8..=255,
        ) {
            let mut bytes = encode_value(&corpus()[which]).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let _ignored = decode_message(&bytes).is_ok();
        }
    }
}
