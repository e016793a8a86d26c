//! Until when a core may send load.

use std::cell::Cell;
use std::time::Instant;

use tokio::sync::Notify;

use crate::clock;

/// A core's copy of the worker's lease.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    until: Cell<Option<Instant>>,
    renewed: Notify,
}

impl Lease {
    pub(crate) fn renew(&self, until: Instant) {
        self.until.set(self.until.get().max(Some(until)));
        self.renewed.notify_waiters();
    }

    /// Whether load may be sent at an instant that has come.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.until.get().is_some_and(|until| now < until)
    }

    /// Waits until load may be sent; returns when that is.
    pub(crate) async fn held(&self) -> Instant {
        loop {
            let now = clock::now();
            if self.holds(now) {
                return now;
            }
            self.renewed.notified().await;
        }
    }
}
