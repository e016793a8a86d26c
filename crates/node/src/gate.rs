//! A gate on this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyperscale_gate::{
    DatacenterChange, Event, Gate, GateConfig, Input, Output, Reply, Request, RequestError,
    RequestErrorKind, RequestId,
};
use hyperscale_ledger::{Input as LedgerInput, Ledger, LedgerConfig, Output as LedgerOutput};
use hyperscale_model::{ClientId, Electorate, EndStatus, JobId, NodeId, Role, Time};
use tokio::sync::{mpsc, oneshot};

use crate::audit::Audit;
use crate::checkpoints::Checkpoints;
use crate::drive::{Host, NodeError, Progress};
use crate::link::LinkEvent;
use crate::links::{Change, Links};
use crate::observe::{Count, Observer, Part};
use crate::storage::{Storage, random};
use crate::talk::Talk;
use crate::timers::LedgerTimers;
use crate::traces::{TraceId, Traces};

/// How long a gate that leaves waits for the others to know.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What comes from outside the cluster.
#[derive(Debug)]
pub(crate) enum Ask {
    Request {
        id: RequestId,
        client: ClientId,
        request: Request,
        reply: oneshot::Sender<Reply>,
    },
    Abandon {
        id: RequestId,
    },
    /// Gossip says that a gate is dead, or has left.
    Gone {
        node: NodeId,
    },
    Leave,
}

/// Asks a gate; may be used from any thread.
#[derive(Debug, Clone)]
pub struct GateHandle {
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) last: Arc<AtomicU64>,
    pub(crate) observer: Arc<Observer>,
}

/// Tells the gate when nobody waits for a reply any more.
struct Waiting<'a> {
    asks: &'a mpsc::Sender<Ask>,
    id: RequestId,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered && self.asks.try_send(Ask::Abandon { id: self.id }).is_err() {
            tracing::debug!("a gate that is busy or gone answers to nobody");
        }
    }
}

impl GateHandle {
    /// What its process counts.
    #[must_use]
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Asks and waits for the reply. Dropping the future takes the question back.
    ///
    /// # Errors
    ///
    /// If the gate has stopped.
    pub async fn ask(&self, client: ClientId, request: Request) -> Result<Reply, NodeError> {
        let id = RequestId(self.last.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Request { id, client, request, reply };
        self.asks.send(ask).await.map_err(|_gone| NodeError::Stopped)?;
        let mut waiting = Waiting { asks: &self.asks, id, is_answered: false };
        let answer = answer.await.map_err(|_gone| NodeError::Stopped);
        waiting.is_answered = true;
        answer
    }
}

pub(crate) struct GateHost {
    gate: Gate,
    ledger: Ledger,
    storage: Storage,
    checkpoints: Checkpoints,
    pub(crate) links: Links,
    talk: Talk,
    waiting: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    observer: Arc<Observer>,
    /// When it goes, whether or not the others know by then.
    leaves_at: Option<Time>,
    /// Whether another gate was asked to lead instead.
    has_handed_over: bool,
    audit: Audit,
    pub(crate) traces: Traces,
}

impl GateHost {
    pub(crate) fn open(
        config: GateConfig,
        timers: LedgerTimers,
        storage: Storage,
        observer: Arc<Observer>,
    ) -> Result<Self, NodeError> {
        let now = observer.clock().now();
        let node = config.node;
        let mut gate = Gate::new(config, random()?);
        for bytes in storage.blobs(Role::Gate)? {
            gate.handle(now, Input::Blob { bytes });
        }
        let checkpoints = storage.checkpoints()?;
        for (job, kept) in checkpoints.all()? {
            gate.handle(now, Input::Checkpoint { job, kept });
        }
        let audit = Audit::new(storage.trail("gate")?, Part::Gate, Arc::clone(&observer));
        let ledger = open_ledger(&storage, "gate", node, timers, now)?;
        gate.handle(now, if ledger.is_founded() { Input::Founded } else { Input::Tick });
        let (links, waiting) = (Links::new(Arc::clone(&observer)), BTreeMap::new());
        let talk = Talk::default();
        Ok(Self {
            gate,
            ledger,
            storage,
            checkpoints,
            links,
            talk,
            waiting,
            observer,
            leaves_at: None,
            has_handed_over: false,
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
            LedgerOutput::Electorate(electorate) => Input::Electorate(electorate),
            LedgerOutput::TakeSnapshot { index } => Input::TakeSnapshot { index },
            LedgerOutput::Restored { snapshot } => Input::Restored { snapshot },
            LedgerOutput::Failed { error } => return Err(NodeError::LedgerFailed(error)),
            LedgerOutput::Send { to, message } => {
                self.talk.say(&self.links, to, &message);
                return Ok(());
            }
            // A gate grants nothing that hangs on a confirmed lease.
            LedgerOutput::Confirmed { .. } => return Ok(()),
        };
        self.gate.handle(now, input);
        Ok(())
    }

    /// Goes once others have its jobs and one of them leads.
    fn leave(&mut self, now: Time) {
        if self.leaves_at.is_none() {
            self.links.announce_leaving();
            self.leaves_at = Some(now + LEAVE_LIMIT);
            self.gate.handle(now, Input::Leave);
        }
    }

    fn carry_out(&mut self, now: Time, output: Output) -> Result<(), NodeError> {
        match output {
            Output::Found { voters } => {
                let count = voters.len();
                tracing::info!(voters = count, "this gate founds the gates' ledger");
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
            Output::Reply { id, reply } => {
                let reply = match reply {
                    Reply::Stored { job } => match self.storage.result(job) {
                        Ok(Some(result)) => Reply::Results(Arc::new(result)),
                        Ok(None) => no(RequestErrorKind::NotFound, "there is no such job here"),
                        Err(error) => {
                            let trouble =
                                self.observer.trouble(Part::Gate, "a result is unreadable", job);
                            if let Some(held_back) = trouble {
                                let error = chain(&error);
                                let trace_id = TraceId::from(job);
                                tracing::error!(
                                    %job, %trace_id, error, held_back,
                                    "a result is unreadable"
                                );
                            }
                            no(RequestErrorKind::NotFound, "its result cannot be read")
                        }
                    },
                    other => other,
                };
                if let Some(waiting) = self.waiting.remove(&id)
                    && waiting.send(reply).is_err()
                {
                    self.observer.count(Count::ReplyUnwanted);
                    tracing::debug!(request = id.0, "nobody waits for this reply any more");
                }
            }
            Output::StoreBlob { hash, bytes } => self.storage.put_blob(Role::Gate, hash, &bytes)?,
            Output::DropBlobs { needed } => self.storage.drop_blobs(Role::Gate, &needed)?,
            Output::StoreCheckpoint { job, checkpoint } => {
                self.checkpoints.put(job, &checkpoint)?;
            }
            Output::StoreChange { job, mark, change } => {
                self.checkpoints.add(job, mark, &change)?;
            }
            Output::DropCheckpoint { job } => self.checkpoints.forget(job)?,
            Output::StoreResult { result } => match self.storage.put_result(&result) {
                // Whoever waits for the result of a local run gets it all the same.
                Err(error) if !self.storage.is_durable() => {
                    tracing::warn!(error = chain(&error), "the result is not kept");
                }
                stored => stored?,
            },
            Output::Snapshot { snapshot, .. } => {
                self.ledger.handle(now, LedgerInput::Snapshot { snapshot });
            }
            Output::Decided(decision) => self.audit.note(&decision),
            Output::Event(event) => {
                self.traces.on_gate(now, &event);
                log(&self.observer, &event);
            }
        }
        Ok(())
    }
}

/// Opens a role's ledger.
pub(crate) fn open_ledger(
    storage: &Storage,
    name: &str,
    node: NodeId,
    timers: LedgerTimers,
    now: Time,
) -> Result<Ledger, NodeError> {
    let store = storage.ledger(name)?;
    let mut config = LedgerConfig::new(node);
    (config.election, config.leader_lease) = (timers.election, timers.leader_lease);
    Ok(Ledger::open(config, store, random()?, now)?)
}

fn no(kind: RequestErrorKind, message: &str) -> Reply {
    Reply::Error(RequestError { kind, message: message.to_owned() })
}

/// Says who decides from now on.
pub(crate) fn tell_electorate(electorate: &Electorate) {
    let voters: Vec<String> = electorate.voters.iter().map(NodeId::to_string).collect();
    tracing::info!(voters = voters.join(" "), "who votes in the ledger has changed");
}

/// An error with its causes, for a log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn log(observer: &Observer, event: &Event) {
    match event {
        Event::LeadershipGained => {
            observer.count(Count::LeadershipGained);
            tracing::info!("this gate leads the gates' ledger");
        }
        Event::LeadershipLost => {
            observer.count(Count::LeadershipLost);
            tracing::warn!("this gate leads the gates' ledger no more");
        }
        Event::SessionOpened { gate } => tracing::info!(%gate, "a gate takes part"),
        Event::SessionEnded { gate, has_left: true } => tracing::info!(%gate, "a gate has left"),
        Event::SessionEnded { gate, has_left: false } => {
            observer.count(Count::GateLost);
            tracing::warn!(%gate, "a gate is gone, its jobs have other owners");
        }
        Event::NodeRemoved { node, by } => tracing::warn!(%node, by, "a node was removed"),
        Event::Electorate(electorate) => tell_electorate(electorate),
        Event::Datacenter { datacenter, change } => match change {
            DatacenterChange::Reached => tracing::info!(%datacenter, "datacenter reached"),
            DatacenterChange::Healed => tracing::info!(%datacenter, "datacenter is stable again"),
            DatacenterChange::Suspected => {
                observer.count(Count::DatacenterSuspected);
                tracing::warn!(%datacenter, "datacenter does not answer");
            }
            DatacenterChange::Lost => {
                observer.count(Count::DatacenterLost);
                tracing::error!(%datacenter, "datacenter is out of reach");
            }
        },
        Event::PartMoved { job, to } => {
            observer.count(Count::PartMoved);
            let trace_id = TraceId::from(*job);
            tracing::warn!(%job, %trace_id, %to, "a part goes to another datacenter");
        }
        Event::JobUnrecovered { job, gates } => {
            let gates: Vec<String> = gates.iter().map(NodeId::to_string).collect();
            let (gates, trace_id) = (gates.join(", "), TraceId::from(*job));
            tracing::warn!(
                %job, %trace_id, gates,
                "the job waits for what these gates hold of its figures; one that is lost for \
                 good must be removed (`hyperscale cluster remove`)"
            );
        }
        Event::JobTakenOver { job, fence } => {
            observer.count(Count::JobTakenOver);
            tracing::info!(%job, trace_id = %TraceId::from(*job), %fence, "job taken over");
        }
        Event::JobAccepted { job } => {
            observer.count(Count::JobAccepted);
            tracing::info!(%job, trace_id = %TraceId::from(*job), "job accepted");
        }
        Event::JobRefused { error } => {
            observer.count(Count::JobRefused);
            tracing::info!(%error, "job refused");
        }
        Event::JobEnded { job, status, .. } => {
            observer.count(match status {
                // No job is skipped: that is how workflows end which never start.
                EndStatus::Completed | EndStatus::Skipped { .. } => Count::JobCompleted,
                EndStatus::Failed { .. } => Count::JobFailed,
                EndStatus::Cancelled { .. } => Count::JobCancelled,
                EndStatus::TimedOut => Count::JobTimedOut,
            });
            tracing::info!(%job, trace_id = %TraceId::from(*job), ?status, "job ended");
        }
        Event::StaleFence { from, fence, held } => {
            observer.count(Count::StaleFence);
            if let Some(held_back) = observer.trouble(Part::Gate, "stale fence", from) {
                tracing::warn!(%from, %fence, %held, held_back, "a deposed sender was refused");
            }
        }
        Event::Deposed { subject, held } => {
            if let Some(held_back) = observer.trouble(Part::Gate, "deposed", held) {
                tracing::warn!(?subject, %held, held_back, "another has taken over");
            }
        }
        Event::Malformed { what, error } => {
            if let Some(held_back) = observer.trouble(Part::Gate, "unreadable", what) {
                tracing::error!(what, error, held_back, "unreadable");
            }
        }
    }
}

impl Host for GateHost {
    type Ask = Ask;

    fn on_link(&mut self, now: Time, event: LinkEvent) {
        let input = match self.links.on(event) {
            Change::Up(peer) if peer.role == Role::Gate => {
                self.talk.connect(peer.node);
                Input::GateConnected { gate: peer.node }
            }
            Change::Up(peer) => Input::ManagerConnected { manager: peer.node },
            Change::Message(from, message) => {
                match self.talk.hear(now, &mut self.ledger, from, *message) {
                    Some(message) => Input::Message { from, message },
                    None => return,
                }
            }
            Change::Down(node) => Input::Disconnected { node },
            Change::Nothing => return,
        };
        self.gate.handle(now, input);
    }

    fn on_ask(&mut self, now: Time, ask: Ask) {
        match ask {
            Ask::Request { id, client, request, reply } => {
                self.waiting.insert(id, reply);
                self.gate.handle(now, Input::Request { id, client, request });
            }
            Ask::Abandon { id } => {
                self.waiting.remove(&id);
                self.gate.handle(now, Input::RequestAbandoned { id });
            }
            Ask::Gone { node } => self.gate.handle(now, Input::MemberGone { node }),
            Ask::Leave => self.leave(now),
        }
    }

    fn tick(&mut self, now: Time) {
        self.ledger.handle(now, LedgerInput::Tick);
        self.gate.handle(now, Input::Tick);
    }

    fn next_deadline(&self) -> Option<Time> {
        let deadlines = [self.gate.next_deadline(), self.ledger.next_deadline(), self.leaves_at];
        deadlines.into_iter().flatten().min()
    }

    fn active(&self) -> Vec<(JobId, String)> {
        self.gate.active().map(|job| (job, "job".to_owned())).collect()
    }

    fn flush(&mut self, now: Time) -> Result<Progress, NodeError> {
        loop {
            let decided: Vec<LedgerOutput> = self.ledger.drain().collect();
            let wanted: Vec<Output> = self.gate.drain().collect();
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
        let Some(leaves_at) = self.leaves_at else { return Ok(Progress::GoOn) };
        if self.gate.has_left() && !self.has_handed_over {
            self.has_handed_over = true;
            self.ledger.handle(now, LedgerInput::HandOver);
            return self.flush(now);
        }
        let is_needed = self.gate.leads() && self.ledger.status().voters.len() > 1;
        if now >= leaves_at || (self.gate.has_left() && !is_needed) {
            self.links.close();
            return Ok(Progress::Left);
        }
        Ok(Progress::GoOn)
    }
}
