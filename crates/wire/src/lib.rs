//! What nodes say to each other, and how it becomes bytes.
//!
//! [`Message`] lists everything that may be said; [`Message::may_pass`] says between whom. A
//! [`FrameDecoder`] turns a byte stream, cut anywhere, into frames of bounded size. Nothing here
//! knows a rule of a role.
//!
//! ```
//! use hyperscale_wire::{FrameDecoder, Message, encode_frame, decode_message};
//! use hyperscale_model::{BlobHash};
//!
//! let message = Message::BlobMissing { hash: BlobHash([7; 32]) };
//! let bytes = encode_frame(&message).unwrap();
//! let mut decoder = FrameDecoder::default();
//! decoder.feed(&bytes);
//! let frame = decoder.next_frame().unwrap().unwrap();
//! assert_eq!(decode_message(&frame).unwrap(), message);
//! ```

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod frame;
mod handshake;
mod ledger;
mod message;

pub use frame::{
    DecodeError, EncodeError, FRAME_BYTES_MAX, FrameDecoder, FrameError, decode_message,
    decode_value, encode_frame, encode_value,
};
pub use handshake::{Hello, HelloError, PROTOCOL_MAX, PROTOCOL_MIN};
pub use ledger::{Assembly, LEDGER_BYTES_MAX, ledger_pieces};
pub use message::{
    Assignment, AttemptEnd, AttemptPhase, AttemptReport, AttemptSummary, BLOB_CHUNK_BYTES,
    CopyMark, DatacenterStatus, Gap, GapCause, Message, NODES_TOLD_MAX, NodeState, NodeStatus,
    PartOffer, PartReport, PartResult, RefuseAttempt, RefusePart, RowsUsed, SOFTWARE, StopMode,
    StopReason, Subject, WorkerReport, WorkflowReport, WorkflowState, check_published,
    end_publishing,
};
