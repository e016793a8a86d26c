//! What the consensus library asks of its surroundings: log, state machine, network.
//!
//! The log has a mirror in memory and is written through to the node's [`Store`] before it is
//! acknowledged. The state machine is the role outside: decided entries leave through the outputs,
//! in log order. The network is messages with a number, so that no answer is taken for another's.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hyperscale_model::{NodeId, ProposalId};
use hyperscale_resilience::Patience;
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, AsyncRuntime, EmptyNode, EntryPayload, LogState, OptionalSend, RaftLogReader,
    RaftNetworkFactory, RaftNetworkV2, RaftSnapshotBuilder, Snapshot,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Output;
// Of tokio only channels come in here: they need no runtime, no thread and no clock.
use crate::runtime::{Virtual, now};
use crate::store::{Recovered, Store, Write};

/// An entry's content, with the proposal that it comes from: the node that proposed it, that
/// node's life, and the number there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) proposer: (u64, u64),
    pub(crate) proposal: u64,
    pub(crate) bytes: Vec<u8>,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

openraft::declare_raft_types!(
    /// The library's types as this crate uses them.
    pub(crate) Types:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = EmptyNode,
        AsyncRuntime = Virtual,
);

pub(crate) type Entry = openraft::alias::EntryOf<Types>;

/// A message between two nodes of a ledger.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Rpc {
    Append { number: u64, request: AppendEntriesRequest<Types> },
    Appended { number: u64, response: AppendEntriesResponse<Types> },
    Vote { number: u64, request: VoteRequest<Types>, is_pre_vote: bool },
    Voted { number: u64, response: VoteResponse<Types> },
    Snapshot { number: u64, vote: VoteOf<Types>, meta: SnapshotMetaOf<Types>, state: Vec<u8> },
    Snapshotted { number: u64, response: SnapshotResponse<Types> },
    HandOver { number: u64, request: TransferLeaderRequest<Types> },
    HandedOver { number: u64, response: TransferLeaderResponse<Types> },
}

/// What the parts of one node share. One thread drives them; nothing is held across an `await`.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Which life of the node this is, so that proposals of an earlier one are not taken for ours.
    pub(crate) life: u64,
    pub(crate) outputs: RefCell<VecDeque<Output>>,
    store: RefCell<Box<dyn Store>>,
    /// The store failed: nothing may be acknowledged any more.
    pub(crate) failure: RefCell<Option<String>>,
    log: RefCell<BTreeMap<u64, Entry>>,
    vote: RefCell<Option<VoteOf<Types>>>,
    committed: RefCell<Option<LogIdOf<Types>>>,
    purged: RefCell<Option<LogIdOf<Types>>>,
    applied: RefCell<Option<LogIdOf<Types>>>,
    membership: RefCell<StoredMembershipOf<Types>>,
    snapshot: RefCell<Option<(SnapshotMetaOf<Types>, Vec<u8>)>>,
    /// Who waits for the role's snapshot.
    pub(crate) snapshot_waiter: RefCell<Option<tokio::sync::oneshot::Sender<Vec<u8>>>>,
    numbers: Cell<u64>,
    answers: RefCell<BTreeMap<u64, tokio::sync::oneshot::Sender<Rpc>>>,
    /// How long the answers of each other node are waited for.
    patience: RefCell<BTreeMap<u64, Patience>>,
    /// The longest that they are.
    patience_max: Duration,
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(io::Error::other)
}

impl Node {
    /// A node with what its store remembers. The role gets the snapshot, if there is one.
    pub(crate) fn recover(
        id: NodeId,
        life: u64,
        patience_max: Duration,
        mut store: Box<dyn Store>,
    ) -> io::Result<Self> {
        let Recovered { vote, committed, purged, snapshot, entries } = store.recover()?;
        let mut log = BTreeMap::new();
        for (index, bytes) in entries {
            log.insert(index, decode(&bytes)?);
        }
        let snapshot: Option<(SnapshotMetaOf<Types>, Vec<u8>)> =
            snapshot.map(|bytes| decode(&bytes)).transpose()?;
        let mut outputs = VecDeque::new();
        let (mut applied, mut membership) = (None, StoredMembershipOf::<Types>::default());
        if let Some((meta, state)) = &snapshot {
            applied = meta.last_log_id;
            membership = meta.last_membership.clone();
            outputs.push_back(Output::Restored { snapshot: state.clone() });
        }
        Ok(Self {
            id,
            life,
            outputs: RefCell::new(outputs),
            store: RefCell::new(store),
            failure: RefCell::default(),
            log: RefCell::new(log),
            vote: RefCell::new(vote.map(|bytes| decode(&bytes)).transpose()?),
            committed: RefCell::new(committed.map(|bytes| decode(&bytes)).transpose()?),
            purged: RefCell::new(purged.map(|bytes| decode(&bytes)).transpose()?),
            applied: RefCell::new(applied),
            membership: RefCell::new(membership),
            snapshot: RefCell::new(snapshot),
            snapshot_waiter: RefCell::default(),
            // An answer to an earlier life must not be taken for one to this.
            numbers: Cell::new(life),
            answers: RefCell::default(),
            patience: RefCell::default(),
            patience_max,
        })
    }

    fn write(&self, batch: &[Write]) -> io::Result<()> {
        if let Some(failure) = &*self.failure.borrow() {
            return Err(io::Error::other(failure.clone()));
        }
        self.store.borrow_mut().write(batch).inspect_err(|error| {
            self.failure.replace(Some(error.to_string()));
        })
    }

    pub(crate) fn output(&self, output: Output) {
        self.outputs.borrow_mut().push_back(output);
    }

    /// Entries of the log, for the decision whether a snapshot is due.
    pub(crate) fn log_len(&self) -> usize {
        self.log.borrow().len()
    }

    /// Whether anything was ever decided or proposed to this node.
    pub(crate) fn has_log(&self) -> bool {
        !self.log.borrow().is_empty()
            || self.purged.borrow().is_some()
            || self.snapshot.borrow().is_some()
    }

    pub(crate) fn send(&self, to: u64, rpc: &Rpc) {
        // What cannot be written cannot be sent: the library takes it for a lost message.
        if let Ok(message) = encode(rpc) {
            self.output(Output::Send { to: NodeId(to), message });
        }
    }

    /// Takes the answer to a question of this node.
    pub(crate) fn answer(&self, number: u64, rpc: Rpc) {
        if let Some(waiting) = self.answers.borrow_mut().remove(&number) {
            drop(waiting.send(rpc)); // Whoever asked may have given up.
        }
    }

    /// The answer of another node, which is waited for at least so long, and longer where answers take
    /// longer: over a slow way a large request would be sent again and again, and never answered in
    /// time.
    async fn ask_patiently(
        &self,
        to: u64,
        at_least: Duration,
        make: impl FnOnce(u64) -> Rpc,
    ) -> Option<Rpc> {
        let patience = self.patience.borrow().get(&to).copied().unwrap_or_default();
        let asked_at = now();
        let answer = self.ask(to, patience.limit(at_least, self.patience_max), make).await;
        let answered_at = now();
        let mut all = self.patience.borrow_mut();
        let patience = all.entry(to).or_default();
        match answer {
            Some(_) => patience.answered(answered_at, answered_at.since(asked_at)),
            None => patience.missed(),
        }
        answer
    }

    /// The answer of another node, unless it does not come in time.
    async fn ask(&self, to: u64, within: Duration, make: impl FnOnce(u64) -> Rpc) -> Option<Rpc> {
        let number = self.numbers.get().wrapping_add(1);
        self.numbers.set(number);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.answers.borrow_mut().insert(number, sender);
        self.send(to, &make(number));
        let _forget = Forget { node: self, number };
        Virtual::timeout(within, receiver).await.ok()?.ok()
    }
}

/// A question whose asker has given up is forgotten, whichever way that came.
struct Forget<'a> {
    node: &'a Node,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.node.answers.borrow_mut().remove(&self.number);
    }
}

#[derive(Clone)]
pub(crate) struct Log(pub(crate) Rc<Node>);

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let bounds: (Bound<u64>, Bound<u64>) =
            (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self.0.log.borrow().range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(*self.0.vote.borrow())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last_purged_log_id = *self.0.purged.borrow();
        let last = self.0.log.borrow().values().next_back().map(RaftEntry::log_id);
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.0.write(&[Write::Vote(encode(vote)?)])?;
        self.0.vote.replace(Some(*vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        // Only a hint for a faster start: it goes to disk with the next entry.
        self.0.committed.replace(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        Ok(*self.0.committed.borrow())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut batch = Vec::with_capacity(entries.len() + 1);
        for entry in &entries {
            batch.push(Write::Append(entry.index(), encode(entry)?));
        }
        if let Some(committed) = &*self.0.committed.borrow() {
            batch.push(Write::Committed(encode(committed)?));
        }
        let written = self.0.write(&batch);
        if written.is_ok() {
            let mut log = self.0.log.borrow_mut();
            log.extend(entries.into_iter().map(|entry| (entry.index(), entry)));
        }
        callback.io_completed(written);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        self.0.write(&[Write::TruncateFrom(from)])?;
        self.0.log.borrow_mut().split_off(&from);
        Ok(())
    }

    async fn purge(&mut self, through: LogIdOf<Types>) -> Result<(), io::Error> {
        self.0.write(&[Write::PurgeThrough(through.index, encode(&Some(through))?)])?;
        let mut log = self.0.log.borrow_mut();
        let kept = log.split_off(&(through.index + 1));
        *log = kept;
        self.0.purged.replace(Some(through));
        Ok(())
    }
}

/// The role outside, as the library sees it.
#[derive(Clone)]
pub(crate) struct Machine(pub(crate) Rc<Node>);

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Vec<u8>>, io::Error> {
        let node = &self.0;
        let last_log_id = *node.applied.borrow();
        let last_membership = node.membership.borrow().clone();
        let index = last_log_id.map_or(0, |last| last.index);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        node.snapshot_waiter.replace(Some(sender));
        // Behind all entries up to `index` in the role's one queue.
        node.output(Output::TakeSnapshot { index });
        let state = receiver.await.map_err(io::Error::other)?;
        let meta = SnapshotMetaOf::<Types> { last_log_id, last_membership };
        node.write(&[Write::Snapshot(encode(&(&meta, &state))?)])?;
        node.snapshot.replace(Some((meta.clone(), state.clone())));
        Ok(Snapshot { meta, snapshot: state })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((*self.0.applied.borrow(), self.0.membership.borrow().clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let log_id = entry.log_id();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(payload) => {
                    let is_ours = payload.proposer == (self.0.id.0, self.0.life);
                    self.0.output(Output::Committed {
                        index: log_id.index,
                        proposal: is_ours.then_some(ProposalId(payload.proposal)),
                        entry: payload.bytes,
                    });
                }
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembershipOf::<Types>::new(Some(log_id), membership);
                    self.0.membership.replace(stored);
                }
            }
            self.0.applied.replace(Some(log_id));
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        self.0.write(&[Write::Snapshot(encode(&(meta, &snapshot))?)])?;
        self.0.applied.replace(meta.last_log_id);
        self.0.membership.replace(meta.last_membership.clone());
        self.0.snapshot.replace(Some((meta.clone(), snapshot.clone())));
        self.0.output(Output::Restored { snapshot });
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Vec<u8>>>, io::Error> {
        let snapshot = self.0.snapshot.borrow().clone();
        Ok(snapshot.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Ways to the other nodes.
pub(crate) struct Network(pub(crate) Rc<Node>);

pub(crate) struct Peer {
    node: Rc<Node>,
    to: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Peer {
        Peer { node: Rc::clone(&self.0), to: target }
    }
}

fn unreachable() -> Unreachable<Types> {
    Unreachable::new(&AnyError::error("no answer"))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self
            .node
            .ask_patiently(self.to, option.hard_ttl(), |number| Rpc::Append { number, request })
            .await
        {
            Some(Rpc::Appended { response, .. }) => Ok(response),
            Some(_) | None => Err(unreachable().into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let make = |number| Rpc::Vote { number, request, is_pre_vote: false };
        match self.node.ask(self.to, option.hard_ttl(), make).await {
            Some(Rpc::Voted { response, .. }) => Ok(response),
            Some(_) | None => Err(unreachable().into()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let make = |number| Rpc::Vote { number, request, is_pre_vote: true };
        match self.node.ask(self.to, option.hard_ttl(), make).await {
            Some(Rpc::Voted { response, .. }) => Ok(response),
            Some(_) | None => Err(unreachable().into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let make = |number| Rpc::HandOver { number, request };
        match self.node.ask(self.to, option.hard_ttl(), make).await {
            Some(Rpc::HandedOver { response, .. }) => Ok(response),
            Some(_) | None => Err(unreachable().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, Vec<u8>>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Snapshot { meta, snapshot: state } = snapshot;
        let make = |number| Rpc::Snapshot { number, vote, meta, state };
        match self.node.ask(self.to, option.hard_ttl(), make).await {
            Some(Rpc::Snapshotted { response, .. }) => Ok(response),
            Some(_) | None => Err(unreachable().into()),
        }
    }
}
