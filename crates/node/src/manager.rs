//! A manager on this machine.

use std::sync::Arc;
use std::time::Duration;

use hyperscale_ledger::{Input as LedgerInput, Ledger, Output as LedgerOutput};
use hyperscale_manager::{Event, Input, Manager, ManagerConfig, Output};
use hyperscale_model::{JobId, NodeId, OverloadState, Role, Time};
use hyperscale_resilience::Crossing;

use crate::audit::Audit;
use crate::drive::{Host, NodeError, Progress};
use crate::gate::{open_ledger, tell_electorate};
use crate::link::LinkEvent;
use crate::links::{Change, Links};
use crate::observe::{Count, Observer, Part};
use crate::storage::Storage;
use crate::talk::Talk;
use crate::timers::LedgerTimers;
use crate::traces::{TraceId, Traces, trace_of};

/// How long a leader that leaves waits for another to lead.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// What comes from outside the cluster.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Gossip says that a node is dead, or has left.
    Gone {
        node: NodeId,
    },
    /// How overloaded this process is now.
    Overload(OverloadState),
    Leave,
}

pub(crate) struct ManagerHost {
    manager: Manager,
    ledger: Ledger,
    storage: Storage,
    pub(crate) links: Links,
    talk: Talk,
    observer: Arc<Observer>,
    /// When it goes, whether or not another leads by then.
    leaves_at: Option<Time>,
    audit: Audit,
    pub(crate) traces: Traces,
}

impl ManagerHost {
    pub(crate) fn open(
        config: ManagerConfig,
        timers: LedgerTimers,
        storage: Storage,
        observer: Arc<Observer>,
    ) -> Result<Self, NodeError> {
        let now = observer.clock().now();
        let node = config.node;
        let mut manager = Manager::new(config);
        for bytes in storage.blobs(Role::Manager)? {
            manager.handle(now, Input::Blob { bytes });
        }
        let audit = Audit::new(storage.trail("manager")?, Part::Manager, Arc::clone(&observer));
        let ledger = open_ledger(&storage, "manager", node, timers, now)?;
        manager.handle(now, if ledger.is_founded() { Input::Founded } else { Input::Tick });
        let links = Links::new(Arc::clone(&observer));
        let talk = Talk::default();
        Ok(Self {
            manager,
            ledger,
            storage,
            links,
            talk,
            observer,
            leaves_at: None,
            audit,
            traces: Traces::default(),
        })
    }

    fn on_ledger(&mut self, now: Time, output: LedgerOutput) -> Result<(), NodeError> {
        let input = match output {
            LedgerOutput::Committed { index, entry, proposal } => {
                Input::Committed { index, entry, proposal }
            }
            LedgerOutput::Refused { proposal } => Input::Refused { proposal },
            LedgerOutput::Leadership { leads, leader } => Input::Leadership { leads, leader },
            LedgerOutput::Confirmed { until } => Input::Confirmed { until },
            LedgerOutput::Electorate(electorate) => Input::Electorate(electorate),
            LedgerOutput::TakeSnapshot { index } => Input::TakeSnapshot { index },
            LedgerOutput::Restored { snapshot } => Input::Restored { snapshot },
            LedgerOutput::Failed { error } => return Err(NodeError::LedgerFailed(error)),
            LedgerOutput::Send { to, message } => {
                self.talk.say(&self.links, to, &message);
                return Ok(());
            }
        };
        self.manager.handle(now, input);
        Ok(())
    }

    /// Goes once another leads, if this one does and there is another.
    fn leave(&mut self, now: Time) {
        if self.leaves_at.is_some() {
            return;
        }
        self.links.announce_leaving();
        let is_alone = self.ledger.status().voters.len() <= 1;
        self.leaves_at = Some(if is_alone { now } else { now + LEAVE_LIMIT });
        self.ledger.handle(now, LedgerInput::HandOver);
    }

    fn carry_out(&mut self, now: Time, output: Output) -> Result<(), NodeError> {
        match output {
            Output::Found { voters } => {
                let count = voters.len();
                tracing::info!(voters = count, "this manager founds the datacenter's ledger");
                self.ledger.handle(now, LedgerInput::Bootstrap { voters });
            }
            Output::ChangeElectorate(change) => {
                self.ledger.handle(now, LedgerInput::Change(change));
            }
            Output::Removed => return Err(NodeError::Removed),
            Output::Leave => self.leave(now),
            Output::Send { to, message } => self.links.send(to, &message),
            Output::Propose { proposal, entry } => {
                self.ledger.handle(now, LedgerInput::Propose { proposal, entry });
            }
            Output::StoreBlob { hash, bytes } => {
                self.storage.put_blob(Role::Manager, hash, &bytes)?
            }
            Output::DropBlobs { needed } => self.storage.drop_blobs(Role::Manager, &needed)?,
            Output::Snapshot { snapshot, .. } => {
                self.ledger.handle(now, LedgerInput::Snapshot { snapshot });
            }
            Output::Decided(decision) => self.audit.note(&decision),
            Output::Event(event) => {
                self.traces.on_manager(now, &event);
                log(&self.observer, &event);
            }
        }
        Ok(())
    }
}

fn log(observer: &Observer, event: &Event) {
    match event {
        Event::LeadershipGained { fence } => {
            observer.count(Count::LeadershipGained);
            tracing::info!(%fence, "this manager leads");
        }
        Event::LeadershipLost => {
            observer.count(Count::LeadershipLost);
            tracing::warn!("this manager leads no more");
        }
        Event::Electorate(electorate) => tell_electorate(electorate),
        Event::ManagersTrouble(Crossing { from: was, to }) => match to {
            Some(trouble) => tracing::warn!(?trouble, ?was, "the managers are in trouble"),
            None => tracing::info!(?was, "the managers are well again"),
        },
        Event::PartAccepted { part } => {
            observer.count(Count::PartAccepted);
            tracing::info!(job = %part.job, trace_id = %TraceId::from(part.job), %part, "part accepted");
        }
        Event::PartRefused { part, why } => {
            observer.count(Count::PartRefused);
            if let Some(held_back) = observer.trouble(Part::Manager, "part refused", part) {
                tracing::warn!(job = %part.job, trace_id = %TraceId::from(part.job), %part, ?why, held_back, "part refused");
            }
        }
        Event::WorkflowPlaced { part, workflow, shards } => {
            let workflow = workflow.0;
            tracing::info!(job = %part.job, trace_id = %TraceId::from(part.job), %part, workflow, shards, "workflow placed");
        }
        Event::WorkflowEnded { part, workflow, status } => {
            let workflow = workflow.0;
            tracing::info!(job = %part.job, trace_id = %TraceId::from(part.job), %part, workflow, ?status, "workflow ended");
        }
        Event::AttemptLost { attempt, worker, cause, .. } => {
            observer.count(Count::AttemptLost);
            if let Some(held_back) = observer.trouble(Part::Manager, "attempt lost", attempt) {
                let (job, trace_id) = (attempt.shard.job, trace_of(attempt));
                tracing::warn!(%job, %trace_id, %attempt, %worker, ?cause, held_back, "attempt lost");
            }
        }
        Event::AttemptRefused { attempt, worker, why } => {
            let (job, trace_id) = (attempt.shard.job, trace_of(attempt));
            tracing::info!(%job, %trace_id, %attempt, %worker, ?why, "attempt refused");
        }
        Event::AttemptOpened { attempt, worker } => {
            observer.count(Count::AttemptReopened);
            tracing::info!(job = %attempt.shard.job, trace_id = %trace_of(attempt), %attempt, %worker, "attempt opened");
        }
        Event::PartEnded { part, status, .. } => {
            observer.count(Count::PartEnded);
            tracing::info!(job = %part.job, trace_id = %TraceId::from(part.job), %part, ?status, "part ended");
        }
        Event::EndUnheard { part, times } => {
            if let Some(held_back) = observer.trouble(Part::Manager, "end unheard", part) {
                tracing::error!(
                    job = %part.job, trace_id = %TraceId::from(part.job), %part, times, held_back,
                    "no gate acknowledges the end of a part"
                );
            }
        }
        Event::WorkerJoined { worker, incarnation } => {
            observer.count(Count::WorkerJoined);
            tracing::info!(%worker, %incarnation, "worker joined");
        }
        Event::StaleFence { from, fence, held } => {
            observer.count(Count::StaleFence);
            if let Some(held_back) = observer.trouble(Part::Manager, "stale fence", from) {
                tracing::warn!(%from, %fence, %held, held_back, "a deposed sender was refused");
            }
        }
        Event::LateDelta { attempt, requests } => {
            observer.add(Count::LateRequests, *requests);
            if let Some(held_back) = observer.trouble(Part::Manager, "late delta", attempt) {
                tracing::warn!(
                    job = %attempt.shard.job, trace_id = %trace_of(attempt), %attempt, requests, held_back,
                    "statistics came after their attempt was closed"
                );
            }
        }
        Event::Malformed { what, error } => {
            if let Some(held_back) = observer.trouble(Part::Manager, "unreadable", what) {
                tracing::error!(what, error, held_back, "unreadable");
            }
        }
    }
}

impl Host for ManagerHost {
    type Ask = Ask;

    fn on_link(&mut self, now: Time, event: LinkEvent) {
        let input = match self.links.on(event) {
            Change::Up(peer) if peer.role == Role::Gate => Input::GateConnected { gate: peer.node },
            Change::Up(peer) if peer.role == Role::Manager => {
                self.talk.connect(peer.node);
                Input::ManagerConnected { manager: peer.node }
            }
            Change::Up(peer) => {
                Input::WorkerConnected { worker: peer.node, incarnation: peer.incarnation }
            }
            Change::Message(from, message) => {
                match self.talk.hear(now, &mut self.ledger, from, *message) {
                    Some(message) => Input::Message { from, message },
                    None => return,
                }
            }
            Change::Down(node) => Input::Disconnected { node },
            Change::Nothing => return,
        };
        self.manager.handle(now, input);
    }

    fn on_ask(&mut self, now: Time, ask: Ask) {
        match ask {
            Ask::Gone { node } => self.manager.handle(now, Input::MemberGone { node }),
            Ask::Overload(state) => self.manager.handle(now, Input::Overload(state)),
            Ask::Leave => self.leave(now),
        }
    }

    fn tick(&mut self, now: Time) {
        self.ledger.handle(now, LedgerInput::Tick);
        self.manager.handle(now, Input::Tick);
    }

    fn next_deadline(&self) -> Option<Time> {
        let deadlines = [self.manager.next_deadline(), self.ledger.next_deadline(), self.leaves_at];
        deadlines.into_iter().flatten().min()
    }

    fn active(&self) -> Vec<(JobId, String)> {
        if self.manager.leading().is_none() {
            return Vec::new(); // Whoever leads says it.
        }
        let open = self.manager.state().open_attempts();
        open.map(|(attempt, at)| (attempt.shard.job, format!("{attempt} on {}", at.worker)))
            .collect()
    }

    fn flush(&mut self, now: Time) -> Result<Progress, NodeError> {
        loop {
            let decided: Vec<LedgerOutput> = self.ledger.drain().collect();
            let wanted: Vec<Output> = self.manager.drain().collect();
            if decided.is_empty() && wanted.is_empty() {
                break;
            }
            for output in wanted {
                self.carry_out(now, output)?;
            }
            for output in decided {
                self.on_ledger(now, output)?;
            }
        }
        if self.leaves_at.is_some_and(|at| now >= at || self.manager.leading().is_none()) {
            self.links.close();
            return Ok(Progress::Left);
        }
        Ok(Progress::GoOn)
    }
}
