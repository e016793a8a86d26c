//! Clusters of members in virtual time: rows of the scenarios, by their names.
//!
//! Short by default. The long forms, 100 seeds of an hour and 1,000 nodes:
//! `HYPERSCALE_TRIAL=long cargo test --release -p hyperscale-membership --test it -- --nocapture`

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
#![expect(clippy::print_stderr, reason = "figures, for whoever asks with --nocapture")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod deaths;
mod forming;
mod noise;
mod returning;
mod traffic;
mod world;

/// Whether the trials are as long as before a release.
fn is_long() -> bool {
    std::env::var("HYPERSCALE_TRIAL").is_ok_and(|value| value == "long")
}
