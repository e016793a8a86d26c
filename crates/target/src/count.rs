//! What a target has received.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::clock;

/// Seconds that are kept.
const SECONDS_MAX: usize = 24 * 3_600;

/// What a target has received since its start or its last reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests received whole.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Bytes of those requests.
    pub bytes_in: u64,
    /// Bytes of the answers.
    pub bytes_out: u64,
    /// Requests by the second.
    pub per_second: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Counters {
    requests: AtomicU64,
    connections: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    seconds: Mutex<Seconds>,
}

#[derive(Debug)]
struct Seconds {
    since: Instant,
    counts: Vec<u64>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            seconds: Mutex::new(Seconds { since: clock::now(), counts: Vec::new() }),
        }
    }

    pub(crate) fn connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn request(&self, bytes: usize) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        let mut seconds = self.seconds();
        let second = clock::now().duration_since(seconds.since).as_secs();
        let second = usize::try_from(second).unwrap_or(SECONDS_MAX).min(SECONDS_MAX - 1);
        if seconds.counts.len() <= second {
            seconds.counts.resize(second + 1, 0);
        }
        seconds.counts[second] += 1;
    }

    pub(crate) fn answer(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn reset(&self) {
        let mut seconds = self.seconds();
        *seconds = Seconds { since: clock::now(), counts: Vec::new() };
        for counter in [&self.requests, &self.connections, &self.bytes_in, &self.bytes_out] {
            counter.store(0, Relaxed);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            requests: self.requests.load(Relaxed),
            connections: self.connections.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            per_second: self.seconds().counts.clone(),
        }
    }

    fn seconds(&self) -> std::sync::MutexGuard<'_, Seconds> {
        // Counts are whole after each step, so a panic elsewhere leaves nothing half done.
        self.seconds.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
