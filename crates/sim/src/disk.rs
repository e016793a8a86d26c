//! A node's disk. It outlives its node; what was written for good is there after any crash.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use hyperscale_gate::Kept;
use hyperscale_ledger::{MemoryStore, Recovered, Store, Write};
use hyperscale_model::{BlobHash, JobId};
use hyperscale_report::JobResult;

/// What lies on a disk.
#[derive(Debug, Default)]
pub(crate) struct Content {
    ledger: MemoryStore,
    /// How many changes of the ledger still get through before the node is cut off.
    pub(crate) writes_left: Option<usize>,
    pub(crate) blobs: BTreeMap<BlobHash, Arc<[u8]>>,
    /// Blobs that its node has dropped since it was last at rest: whoever looks only then would
    /// miss a result that was decided and forgotten in between, after a long outage.
    pub(crate) dropped: BTreeMap<BlobHash, Arc<[u8]>>,
    pub(crate) checkpoints: BTreeMap<JobId, Kept>,
    pub(crate) results: BTreeMap<JobId, Arc<JobResult>>,
    pub(crate) incarnation: u64,
    /// Batches of the ledger that a mutation forgets at the next crash.
    pub(crate) forgets_batches: bool,
    before_last: Option<MemoryStore>,
}

impl Content {
    pub(crate) fn drop_blobs(&mut self, needed: &BTreeSet<BlobHash>) {
        let all = std::mem::take(&mut self.blobs).into_iter();
        let (kept, dropped): (BTreeMap<_, _>, _) = all.partition(|(hash, _)| needed.contains(hash));
        self.blobs = kept;
        self.dropped.extend::<BTreeMap<_, _>>(dropped);
    }

    /// What a crash leaves: all that was written for good.
    pub(crate) fn crash(&mut self) {
        self.writes_left = None;
        if let Some(before) = self.before_last.take()
            && self.forgets_batches
        {
            self.ledger = before;
        }
    }
}

/// A disk, shared by the node that uses it and the world that keeps it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(pub(crate) Rc<RefCell<Content>>);

impl Store for Disk {
    fn recover(&mut self) -> io::Result<Recovered> {
        self.0.borrow_mut().ledger.recover()
    }

    fn write(&mut self, batch: &[Write]) -> io::Result<()> {
        let mut content = self.0.borrow_mut();
        if content.forgets_batches {
            content.before_last = Some(content.ledger.clone());
        }
        let Some(left) = content.writes_left else { return content.ledger.write(batch) };
        let through = left.min(batch.len());
        content.ledger.write(&batch[..through])?;
        content.writes_left = Some(left - through);
        if through < batch.len() {
            return Err(io::Error::other("the power went"));
        }
        Ok(())
    }
}
