//! The loop that gives a role its inputs and carries out its outputs.

use std::io;
use std::net::SocketAddr;

use hyperscale_ledger::OpenError;
use hyperscale_model::{JobId, Time};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::link::LinkEvent;
use crate::traces::TraceId;

/// Inputs that are taken before outputs are looked at.
const BATCH: usize = 256;
/// Lines about what a role leaves behind.
const ACTIVE_MAX: usize = 50;

/// Why a node cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error("{path}: {what}")]
    Disk {
        /// Where.
        path: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The ledger cannot start.
    #[error("the ledger cannot be opened")]
    Ledger(#[from] OpenError),
    /// The ledger broke: nothing that was acknowledged is lost, but nothing can be decided.
    #[error("the ledger cannot be written: {0}")]
    LedgerFailed(String),
    /// Somebody else listens there, or nobody may.
    #[error("cannot listen for nodes on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// A thread or socket cannot be had.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The engine's threads do not start.
    #[error("the load engine does not start")]
    Engine(#[from] hyperscale_engine::CoreError),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The cluster goes on without this node.
    #[error(
        "this node was removed from its cluster, which goes on without it; to have this machine \
         take part again, start it with an empty data directory: it is then a new node"
    )]
    Removed,
    /// Settings contradict each other.
    #[error("{0}")]
    Config(String),
}

/// A role with everything around it that is not rules.
pub(crate) trait Host {
    /// What comes from outside the cluster.
    type Ask;
    fn on_link(&mut self, now: Time, event: LinkEvent);
    fn on_ask(&mut self, now: Time, ask: Self::Ask);
    fn tick(&mut self, now: Time);
    fn next_deadline(&self) -> Option<Time>;
    /// Carries out what the role wants done.
    fn flush(&mut self, now: Time) -> Result<Progress, NodeError>;
    /// What of jobs is not over here, each with its job.
    fn active(&self) -> Vec<(JobId, String)>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    GoOn,
    /// The role has left.
    Left,
}

/// Runs a role until it has left or cannot go on.
pub(crate) async fn drive<H: Host>(
    host: &mut H,
    clock: Clock,
    links: mpsc::Receiver<LinkEvent>,
    asks: mpsc::Receiver<H::Ask>,
) -> Result<(), NodeError> {
    let result = go_on(host, clock, links, asks).await;
    tell_active(&host.active());
    result
}

/// A log that ends says what its role has left behind.
fn tell_active(active: &[(JobId, String)]) {
    for (job, what) in active.iter().take(ACTIVE_MAX) {
        tracing::warn!(%job, trace_id = %TraceId::from(*job), what, "active when this role ended");
    }
    if active.len() > ACTIVE_MAX {
        let more = active.len() - ACTIVE_MAX;
        tracing::warn!(more, "and more was active when this role ended");
    }
}

async fn go_on<H: Host>(
    host: &mut H,
    clock: Clock,
    mut links: mpsc::Receiver<LinkEvent>,
    mut asks: mpsc::Receiver<H::Ask>,
) -> Result<(), NodeError> {
    loop {
        if host.flush(clock.now())? == Progress::Left {
            return Ok(());
        }
        // A deadline that has passed already must not starve links and timers.
        let soon = clock.now() + std::time::Duration::from_micros(500);
        let deadline = host.next_deadline().map(|at| at.max(soon));
        tokio::select! {
            Some(event) = links.recv() => {
                host.on_link(clock.now(), event);
                for _ in 0..BATCH {
                    let Ok(event) = links.try_recv() else { break };
                    host.on_link(clock.now(), event);
                }
            }
            Some(ask) = asks.recv() => host.on_ask(clock.now(), ask),
            () = clock.sleep_until(deadline) => host.tick(clock.now()),
        }
    }
}

/// Tells a role something; one that has left needs to hear nothing.
pub(crate) async fn ask<T>(asks: &mpsc::Sender<T>, ask: T) {
    if asks.send(ask).await.is_err() {
        tracing::debug!("a role has left already");
    }
}
