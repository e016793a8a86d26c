//! A replicated log: openraft in a sans-IO shell.
//!
//! A [`Ledger`] is driven like a role: inputs in, outputs out, time passed in. The consensus library
//! inside runs on a runtime on which nothing happens by itself (`runtime.rs`), so that equal inputs
//! give equal outputs and the simulator runs the real thing. Entries are opaque bytes; decided ones
//! leave in log order, and the index of an entry is what a fence is made of.
//!
//! Only the log's store is called from inside, since nothing may be acknowledged before it is
//! written ([`Store`]).
//!
//! ```
//! use hyperscale_ledger::{Input, Ledger, LedgerConfig, MemoryStore, Output};
//! use hyperscale_model::{NodeId, ProposalId, Time};
//!
//! let config = LedgerConfig::new(NodeId(1));
//! let store = Box::new(MemoryStore::default());
//! let mut ledger = Ledger::open(config, store, 7, Time::ZERO).unwrap();
//! ledger.handle(Time::ZERO, Input::Bootstrap { voters: vec![NodeId(1)] });
//! ledger.handle(Time::ZERO, Input::Propose { proposal: ProposalId(1), entry: b"x".to_vec() });
//! let decided = ledger.drain().find(|output| matches!(output, Output::Committed { .. }));
//! assert!(decided.is_some());
//! ```

mod raft;
mod runtime;
mod store;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{Electorate, ElectorateChange, NodeId, ProposalId, Time};
use openraft::alias::SnapshotOf;
use openraft::{
    AsyncRuntime as _, ChangeMembers, Config, EmptyNode, Raft, ServerState, Snapshot,
    SnapshotPolicy,
};

use crate::raft::{Log, Machine, Network, Node, Payload, Rpc, Types, decode};
use crate::runtime::{Executor, Virtual, spawn};
pub use crate::store::{DiskStore, MemoryStore, Recovered, Store, Write};

/// Settings of a ledger node.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// This node.
    pub node: NodeId,
    /// How often a leader shows its followers that it is there.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower stands for election; the longest is twice that.
    pub election: Duration,
    /// How long a leader's authority outlives its last contact with a majority.
    pub leader_lease: Duration,
    /// After how many entries a snapshot takes their place.
    pub snapshot_after: u64,
}

impl LedgerConfig {
    /// The defaults.
    #[must_use]
    pub const fn new(node: NodeId) -> Self {
        Self {
            node,
            heartbeat: Duration::from_millis(250),
            election: Duration::from_secs(1),
            leader_lease: Duration::from_secs(2),
            snapshot_after: 10_000,
        }
    }
}

/// A ledger that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store cannot be read, or holds something else.
    #[error("the ledger's log cannot be read")]
    Store(#[from] io::Error),
    /// The settings contradict each other.
    #[error("the ledger's settings do not fit: {0}")]
    Config(String),
    /// The log contradicts itself.
    #[error("the ledger cannot start from its log: {0}")]
    Start(String),
}

/// What happens to a ledger node.
#[derive(Debug)]
pub enum Input {
    /// Start a new ledger with these voters, unless it has been started.
    Bootstrap {
        /// The voters.
        voters: Vec<NodeId>,
    },
    /// Decide an entry. Answered by `Committed` with the proposal, or by `Refused`.
    Propose {
        /// The proposal, as its proposer numbers it.
        proposal: ProposalId,
        /// The entry.
        entry: Vec<u8>,
    },
    /// Another node says something.
    Peer {
        /// Which.
        from: NodeId,
        /// What.
        message: Vec<u8>,
    },
    /// The snapshot that was asked for.
    Snapshot {
        /// The role's state.
        snapshot: Vec<u8>,
    },
    /// Change who takes part. What came of it is told by [`Output::Electorate`], and by nothing if
    /// nothing came of it.
    Change(ElectorateChange),
    /// Have the voter lead that is nearest, if this node does: it is about to leave.
    HandOver,
    /// Take a snapshot now.
    Compact,
    /// The deadline has come.
    Tick,
}

/// What a ledger node wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to another node; may be lost.
    Send {
        /// Which.
        to: NodeId,
        /// What.
        message: Vec<u8>,
    },
    /// An entry was decided.
    Committed {
        /// Its index: the fence of whatever it grants.
        index: u64,
        /// The entry.
        entry: Vec<u8>,
        /// The proposal, if this life of this node made it.
        proposal: Option<ProposalId>,
    },
    /// A proposal will not be decided, as far as this node can know: another node may have to be
    /// asked, or a later entry shows that it was after all.
    Refused {
        /// Which.
        proposal: ProposalId,
    },
    /// Who leads has changed.
    Leadership {
        /// Whether this node does.
        leads: bool,
        /// Who does, if it is known.
        leader: Option<NodeId>,
    },
    /// This node's leadership is certain until then.
    Confirmed {
        /// Until when.
        until: Time,
    },
    /// Who takes part has changed, or who of them has caught up.
    Electorate(Electorate),
    /// Take a snapshot of the role's state as it is after all entries before this output.
    TakeSnapshot {
        /// The index of the last of them.
        index: u64,
    },
    /// The role's state is this one, whatever it was.
    Restored {
        /// The state.
        snapshot: Vec<u8>,
    },
    /// The store failed: the node must stop.
    Failed {
        /// Why.
        error: String,
    },
}

/// How a ledger node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The election that is current.
    pub term: u64,
    /// Who leads, if it is known.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Whether a change of the voters is not complete.
    pub is_changing: bool,
    /// How many of them make a decision.
    pub quorum: usize,
    /// The last entry that was applied here.
    pub applied: u64,
}

/// How many voters make a decision, from the committed voters and nothing else.
#[must_use]
pub const fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// How long a follower may take to receive a snapshot and to answer.
const SNAPSHOT: Duration = Duration::from_secs(3);

/// How many entries a node may be behind that has caught up: those that are on their way.
const CAUGHT_UP_WITHIN: u64 = 100;

type Consensus = Raft<Types, Machine>;

/// One node of a ledger.
pub struct Ledger {
    config: LedgerConfig,
    executor: Executor,
    node: Rc<Node>,
    raft: Consensus,
    /// The election in which this node leads, if it does, and who leads.
    leadership: (Option<u64>, Option<NodeId>),
    confirmed: Time,
    /// As it was told last.
    electorate: Electorate,
    has_failed: bool,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Starts a node from what its store remembers. All randomness follows from `seed`, which must
    /// differ from life to life of one node.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or settings or log contradict themselves.
    pub fn open(
        config: LedgerConfig,
        store: Box<dyn Store>,
        seed: u64,
        now: Time,
    ) -> Result<Self, OpenError> {
        let node = Rc::new(Node::recover(config.node, seed, config.election * 2, store)?);
        let executor = Executor::new(seed, now);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let settings = Config {
            cluster_name: "ledger".to_owned(),
            // So long the library waits for the answer to a heartbeat, and it leads only by answers:
            // whoever is farther away than that would be led, and nothing decided. Less than the
            // shortest of the next two, which it insists on.
            heartbeat_interval: millis(config.election * 12 / 25),
            // They are sent more often than that, by `beat`.
            enable_heartbeat: false,
            // The library lets a follower wait for the longest of these and, on top of that, for one
            // between them: in all from one and a half to two times the setting.
            election_timeout_min: millis(config.election / 2),
            election_timeout_max: millis(config.election),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_after),
            max_in_snapshot_log_to_keep: 0,
            enable_pre_vote: Some(true),
            // A snapshot travels as a whole, behind whatever else is on its way.
            install_snapshot_timeout: millis(SNAPSHOT),
            // So that a batch of the largest entries can be said.
            max_payload_entries: 48,
            ..Config::default()
        };
        let settings = settings.validate().map_err(|error| OpenError::Config(error.to_string()))?;
        let opened: Rc<RefCell<Option<Result<Consensus, String>>>> = Rc::default();
        executor.drive(now, || {
            let (id, slot) = (config.node.0, Rc::clone(&opened));
            let (log, machine) = (Log(Rc::clone(&node)), Machine(Rc::clone(&node)));
            let network = Network(Rc::clone(&node));
            spawn(async move {
                let raft = Raft::new(id, Arc::new(settings), network, log, machine).await;
                slot.replace(Some(raft.map_err(|error| error.to_string())));
            });
        });
        let raft = match opened.take() {
            Some(Ok(raft)) => raft,
            Some(Err(error)) => return Err(OpenError::Start(error)),
            None => return Err(OpenError::Start("it waits for something".to_owned())),
        };
        executor.drive(now, || spawn(beat(raft.clone(), config.heartbeat)));
        let mut ledger = Self {
            config,
            executor,
            node,
            raft,
            leadership: (None, None),
            confirmed: Time::ZERO,
            electorate: Electorate::default(),
            has_failed: false,
        };
        ledger.elect_if_alone(now);
        Ok(ledger)
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Time, input: Input) {
        let (node, raft) = (Rc::clone(&self.node), self.raft.clone());
        self.executor.drive(now, || match input {
            Input::Bootstrap { voters } => spawn(async move {
                let members = voters.into_iter().map(|voter| (voter.0, EmptyNode {}));
                let members: std::collections::BTreeMap<u64, EmptyNode> = members.collect();
                // Started already: then it has its voters.
                drop(raft.initialize(members).await);
            }),
            Input::Propose { proposal, entry } => spawn(async move {
                let proposer = (node.id.0, node.life);
                let payload = Payload { proposer, proposal: proposal.0, bytes: entry };
                if raft.client_write(payload).await.is_err() {
                    node.output(Output::Refused { proposal });
                }
            }),
            Input::Peer { from, message } => {
                // What cannot be read is dropped like a lost message.
                if let Ok(rpc) = decode::<Rpc>(&message) {
                    receive(&node, &raft, from.0, rpc);
                }
            }
            Input::Snapshot { snapshot } => {
                if let Some(waiter) = node.snapshot_waiter.take() {
                    drop(waiter.send(snapshot)); // Its builder may have given up.
                }
            }
            // Refused where we do not lead: whoever asked sees that nothing changes.
            Input::Change(ElectorateChange::Learn(learner)) => spawn(async move {
                drop(raft.add_learner(learner.0, EmptyNode {}, false).await);
            }),
            Input::Change(ElectorateChange::Forget(learner)) => spawn(async move {
                let change = ChangeMembers::RemoveNodes(BTreeSet::from([learner.0]));
                drop(raft.change_membership(change, false).await);
            }),
            Input::Change(ElectorateChange::Vote(voters)) => spawn(async move {
                let voters: BTreeSet<u64> = voters.into_iter().map(|voter| voter.0).collect();
                drop(raft.change_membership(voters, false).await);
            }),
            Input::HandOver => {
                let Some(successor) = successor(&self.metrics().0) else { return };
                spawn(async move {
                    drop(raft.trigger().transfer_leader(successor).await);
                });
            }
            Input::Compact => spawn(async move {
                drop(raft.trigger().snapshot().await);
            }),
            Input::Tick => {}
        });
        self.elect_if_alone(now);
        self.note_changes();
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.executor.next_deadline()
    }

    /// What is to be done, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> + use<> {
        self.node.outputs.take().into_iter()
    }

    /// How the node stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let voters: BTreeSet<NodeId> = metrics.1.into_iter().map(NodeId).collect();
        Status {
            term: metrics.0.current_term,
            leader: metrics.0.current_leader.map(NodeId),
            is_changing: self.electorate.is_changing,
            quorum: quorum(voters.len()),
            voters,
            applied: metrics.0.last_applied.map_or(0, |last| last.index),
        }
    }

    /// Whether the ledger has been started here or elsewhere: it has voters.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.node.has_log()
    }

    /// Entries that the log holds.
    #[must_use]
    pub fn log_len(&self) -> usize {
        self.node.log_len()
    }

    fn metrics(&self) -> (openraft::RaftMetrics<Types>, Vec<u64>) {
        use openraft::async_runtime::WatchReceiver;
        let metrics = self.raft.metrics().borrow_watched().clone();
        let voters = metrics.membership_config.voter_ids().collect();
        (metrics, voters)
    }

    /// A node that is its only voter need not wait for the silence of others.
    fn elect_if_alone(&mut self, now: Time) {
        let (metrics, voters) = self.metrics();
        let is_alone = voters == [self.config.node.0];
        if is_alone && metrics.state == ServerState::Follower {
            let raft = self.raft.clone();
            self.executor.drive(now, || {
                spawn(async move {
                    drop(raft.trigger().elect(false).await);
                });
            });
        }
    }

    fn note_changes(&mut self) {
        if let Some(error) = self.node.failure.borrow().clone()
            && !self.has_failed
        {
            self.has_failed = true;
            self.node.output(Output::Failed { error });
        }
        let (metrics, voters) = self.metrics();
        let electorate = electorate(&metrics);
        if self.electorate != electorate {
            self.electorate = electorate.clone();
            self.node.output(Output::Electorate(electorate));
        }
        let leads = metrics.state == ServerState::Leader;
        let leader = metrics.current_leader.map(NodeId);
        let leads_in = leads.then_some(metrics.current_term);
        if self.leadership != (leads_in, leader) {
            let before = std::mem::replace(&mut self.leadership, (leads_in, leader));
            if leads && before.0.is_some_and(|term| Some(term) != leads_in) {
                // Lost and won again: whatever hangs on the first does not hang on the second.
                self.node.output(Output::Leadership { leads: false, leader: None });
            }
            self.node.output(Output::Leadership { leads, leader });
            self.confirmed = Time::ZERO;
        }
        if leads {
            let until = if voters.len() == 1 {
                Time::from_nanos(u64::MAX) // Nobody else can be elected.
            } else {
                let acknowledged = metrics.last_quorum_acked.map(|at| at.into_inner().0);
                acknowledged.map_or(Time::ZERO, |at| at + self.config.leader_lease)
            };
            if until > self.confirmed {
                self.confirmed = until;
                self.node.output(Output::Confirmed { until });
            }
        }
    }
}

/// The voter that has the most of the leader's log, if there is another.
fn successor(metrics: &openraft::RaftMetrics<Types>) -> Option<u64> {
    let others = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id);
    let replicated =
        |id: &u64| metrics.replication.as_ref()?.get(id)?.as_ref().map(|log| log.index);
    others.max_by_key(replicated)
}

/// Who takes part, as one node has it from the log.
fn electorate(metrics: &openraft::RaftMetrics<Types>) -> Electorate {
    let members = &metrics.membership_config;
    let last = metrics.last_log_index.unwrap_or(0);
    let has_caught_up = |id: u64| {
        let replicated = metrics.replication.as_ref().and_then(|all| *all.get(&id)?);
        replicated.is_some_and(|log| log.index + CAUGHT_UP_WITHIN >= last)
    };
    Electorate {
        voters: members.voter_ids().map(NodeId).collect(),
        learners: members
            .membership()
            .learner_ids()
            .map(|id| (NodeId(id), has_caught_up(id)))
            .collect(),
        is_changing: members.membership().get_joint_config().len() > 1,
    }
}

/// Shows the followers again and again that this node leads, while it does.
async fn beat(raft: Consensus, every: Duration) {
    use openraft::async_runtime::WatchReceiver;
    loop {
        Virtual::sleep(every).await;
        let leads = raft.metrics().borrow_watched().state == ServerState::Leader;
        if leads && raft.trigger().heartbeat().await.is_err() {
            return; // It has stopped for good, which is told otherwise.
        }
    }
}

fn receive(node: &Rc<Node>, raft: &Consensus, from: u64, rpc: Rpc) {
    let (node, raft) = (Rc::clone(node), raft.clone());
    match rpc {
        Rpc::Append { number, request } => spawn(async move {
            if let Ok(response) = raft.append_entries(request).await {
                node.send(from, &Rpc::Appended { number, response });
            }
        }),
        Rpc::Vote { number, request, is_pre_vote } => spawn(async move {
            let response =
                if is_pre_vote { raft.pre_vote(request).await } else { raft.vote(request).await };
            if let Ok(response) = response {
                node.send(from, &Rpc::Voted { number, response });
            }
        }),
        Rpc::Snapshot { number, vote, meta, state } => spawn(async move {
            let snapshot: SnapshotOf<Types, Vec<u8>> = Snapshot { meta, snapshot: state };
            if let Ok(response) = raft.install_full_snapshot(vote, snapshot).await {
                node.send(from, &Rpc::Snapshotted { number, response });
            }
        }),
        Rpc::HandOver { number, request } => spawn(async move {
            if let Ok(response) = raft.handle_transfer_leader(request).await {
                node.send(from, &Rpc::HandedOver { number, response });
            }
        }),
        Rpc::Appended { number, .. }
        | Rpc::HandedOver { number, .. }
        | Rpc::Voted { number, .. }
        | Rpc::Snapshotted { number, .. } => {
            node.answer(number, rpc);
        }
    }
}

#[cfg(test)]
mod tests;
