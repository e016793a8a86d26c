//! Clusters of members in virtual time: rows of the scenarios, by their names.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
#![expect(clippy::print_stderr, reason = "figures, for whoever asks with --nocapture")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod deaths;
mod forming;
mod noise;
mod returning;
mod traffic;
mod world;
