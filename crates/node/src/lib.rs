//! Nodes: the roles on real sockets, disks and clocks.
//!
//! A [`Node`] runs one or several roles on one thread, beside the engine's threads. Roles of one
//! process are linked through memory, others over TLS; either way the same frames pass the same
//! checks. Drivers hold no rules: what happens is decided in the roles.

mod audit;
mod checkpoints;
mod clock;
mod discovery;
mod drive;
mod gate;
pub mod gossip;
mod keys;
mod link;
mod links;
mod load;
mod manager;
mod members;
mod net;
mod observe;
mod otlp;
mod storage;
mod talk;
mod timers;
mod tls;
mod traces;
mod worker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use hyperscale_engine::Engine;
use hyperscale_gate::GateConfig;
use hyperscale_manager::ManagerConfig;
use hyperscale_model::{DatacenterId, NodeId, Role};
use hyperscale_wire::{Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use hyperscale_worker::WorkerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tracing::Instrument as _;

pub use crate::clock::Clock;
pub use crate::drive::NodeError;
pub use crate::gate::GateHandle;
pub use crate::keys::{GossipKeys, KeyStep, change_keys};
pub use crate::observe::{Count, Observer, Part, family_head, sample};
pub use crate::otlp::{OtlpEndpoint, ParseOtlpEndpointError};
pub use crate::storage::Storage;
pub use crate::timers::Timers;
pub use crate::tls::{Certificates, make_authority, make_node, revoke};
pub use crate::traces::TraceId;
pub use hyperscale_membership::KeyId;

use crate::drive::{ask, drive};
use crate::gate::GateHost;
use crate::manager::ManagerHost;
use crate::members::Members;
use crate::otlp::{Export, SpanQueue};
use crate::storage::Identity;
use crate::traces::{Source, Traces};
use crate::worker::WorkerHost;

/// Inputs that may wait for a role.
const QUEUE: usize = 4_096;

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// What it is.
    pub roles: BTreeSet<Role>,
    /// Where it listens for other nodes: all of it hears gossip there, and managers and gates are
    /// called.
    pub listen: Option<SocketAddr>,
    /// Where others are told to send its gossip, if that is another address.
    pub advertise: Option<SocketAddr>,
    /// The addresses of managers that its gate and its worker call.
    pub join: Vec<String>,
    /// The addresses of the other gates of its gate's cluster.
    pub gates: Vec<String>,
    /// The addresses of the other managers of its manager's datacenter; its gate and its worker call
    /// them too.
    pub peers: Vec<String>,
    /// Who it is for nodes of other processes.
    pub certificates: Option<Certificates>,
    /// The cluster's name: nodes of different clusters refuse each other.
    pub cluster: String,
    /// The environment within it.
    pub environment: String,
    /// Where the node stands.
    pub datacenter: DatacenterId,
    /// Where it keeps what must outlive it; nothing does if absent.
    pub data_dir: Option<PathBuf>,
    /// Where results go if there is no data directory.
    pub results_dir: Option<PathBuf>,
    /// Cores that its worker offers.
    pub cores: u32,
    /// Leases, windows and other times.
    pub timers: Timers,
    /// How long before its start a part is told to start, so that all start together.
    pub start_margin: Duration,
    /// Where it sends its traces, if anywhere.
    pub otlp: Option<OtlpEndpoint>,
}

impl NodeConfig {
    /// Everything in one process, for one test.
    #[must_use]
    pub fn local(cores: u32) -> Self {
        Self {
            roles: BTreeSet::from([Role::Gate, Role::Manager, Role::Worker]),
            listen: None,
            advertise: None,
            join: Vec::new(),
            peers: Vec::new(),
            gates: Vec::new(),
            certificates: None,
            cluster: "local".to_owned(),
            environment: "local".to_owned(),
            datacenter: DatacenterId::from("local"),
            data_dir: None,
            results_dir: None,
            cores,
            timers: Timers { window: Duration::from_millis(250), ..Timers::DEFAULT },
            // Nothing is far away within a process.
            start_margin: Duration::from_millis(2),
            otlp: None,
        }
    }

    fn storage(&self) -> Result<Storage, NodeError> {
        match &self.data_dir {
            Some(root) => Storage::at(root),
            None => Storage::in_memory(self.results_dir.as_deref()),
        }
    }

    /// The cluster whose ledger or leader a role follows, in words.
    fn home(&self, role: Role) -> String {
        let Self { cluster, environment, datacenter, .. } = self;
        match role {
            Role::Gate | Role::Client => format!("cluster {cluster} ({environment})"),
            Role::Manager | Role::Worker => {
                format!("datacenter {datacenter} of cluster {cluster} ({environment})")
            }
        }
    }

    /// Whose spans a role's are.
    fn source(&self, role: Role, node: NodeId) -> Source {
        let Self { cluster, environment, datacenter, .. } = self;
        let (cluster, environment) = (cluster.clone(), environment.clone());
        Source { role, node, datacenter: datacenter.clone(), cluster, environment }
    }

    fn hello(&self, identity: Identity, role: Role, to: Role) -> Hello {
        Hello {
            cluster: self.cluster.clone(),
            environment: self.environment.clone(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            node: identity.node,
            role,
            to,
            datacenter: self.datacenter.clone(),
            incarnation: identity.incarnation,
            features: Vec::new(),
            address: None,
        }
    }
}

/// A running node. Dropping it stops it at once.
#[derive(Debug)]
pub struct Node {
    gate: Option<GateHandle>,
    observer: Arc<Observer>,
    control: mpsc::Sender<Leave>,
    listening: Option<SocketAddr>,
    thread: Option<JoinHandle<Result<(), NodeError>>>,
    left: watch::Receiver<bool>,
}

/// How a node shall leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Its worker finishes what runs, within a limit.
    Drained,
    Now,
}

impl Node {
    /// Starts the roles of a node.
    ///
    /// # Errors
    ///
    /// If its disk, its address, its threads or its ledgers cannot be used.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let (asks, receiver) = mpsc::channel(QUEUE);
        let observer = Observer::start();
        let ours = Arc::clone(&observer);
        let last = Arc::new(AtomicU64::new(1));
        let handle = GateHandle { asks, last, observer: Arc::clone(&observer) };
        let gate = config.roles.contains(&Role::Gate).then(|| handle.clone());
        let (control, leave) = mpsc::channel(8);
        let (started, has_started) = std::sync::mpsc::sync_channel(1);
        let (has_left, left) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("the node's runtime does not start"))?;
        let thread = Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                let all = async move {
                    let opened = match Roles::open(config, observer).await {
                        Ok(roles) => Ok((roles.listening(), roles)),
                        Err(error) => Err(error),
                    };
                    let (answer, roles) = match opened {
                        Ok((listening, roles)) => (Ok(listening), Some(roles)),
                        Err(error) => (Err(error), None),
                    };
                    let told = started.send(answer);
                    debug_assert!(told.is_ok(), "whoever starts a node waits for it");
                    match roles {
                        Some(roles) => roles.run(receiver, handle, leave).await,
                        None => Ok(()),
                    }
                };
                let result = LocalSet::new().block_on(&runtime, all);
                has_left.send_replace(true);
                result
            })
            .map_err(io("the node's thread does not start"))?;
        match has_started.recv() {
            Ok(Ok(listening)) => {
                let (observer, thread) = (ours, Some(thread));
                Ok(Self { gate, observer, control, listening, thread, left })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NodeError::Stopped),
        }
    }

    /// What asks its gate, if it has one.
    #[must_use]
    pub fn gate(&self) -> Option<GateHandle> {
        self.gate.clone()
    }

    /// What it counts.
    #[must_use]
    pub const fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Where it listens for other nodes, if it does.
    #[must_use]
    pub const fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Waits until its roles have left, by themselves or because they failed.
    pub async fn left(&self) {
        let mut left = self.left.clone();
        // If the sender is gone, so is the thread.
        drop(left.wait_for(|left| *left).await);
    }

    /// Takes nothing new, finishes what runs within the limit, then leaves; see [`Self::left`].
    pub fn drain(&self) {
        self.tell(Leave::Drained);
    }

    /// Stops the node and waits until it has left.
    ///
    /// # Errors
    ///
    /// If it had failed before.
    pub fn stop(mut self) -> Result<(), NodeError> {
        self.end()
    }

    fn tell(&self, leave: Leave) {
        if self.control.try_send(leave).is_err() {
            tracing::debug!("the node has left already");
        }
    }

    fn end(&mut self) -> Result<(), NodeError> {
        self.tell(Leave::Now);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(NodeError::Config("the node's thread panicked".to_owned())),
            None => Ok(()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(error = gate::chain(&error), "the node failed");
        }
    }
}

/// What a gate needs that is not the only one.
fn check_gates(config: &NodeConfig) -> Result<(), NodeError> {
    let message = if !config.roles.contains(&Role::Gate) {
        "only a gate has other gates beside it; other nodes join managers"
    } else if config.listen.is_none() {
        "a gate with others beside it must listen for them"
    } else if config.data_dir.is_none() {
        "a gate with others beside it needs a data directory: after a restart they must know it \
         again"
    } else if !config.gates.len().is_multiple_of(2) {
        "a cluster has an odd number of gates: name 2 or 4 others"
    } else if config.certificates.as_ref().is_some_and(|known| known.cluster_key().is_none()) {
        "several gates share a key for secrets: it is `cluster.key` beside their certificates, and \
         `hyperscale cert node` puts it there"
    } else {
        return Ok(());
    };
    Err(NodeError::Config(message.to_owned()))
}

/// What a manager needs that is not alone in its datacenter.
fn check_peers(config: &NodeConfig) -> Result<(), NodeError> {
    let message = if !config.roles.contains(&Role::Manager) {
        "only a manager has peers; other nodes join managers"
    } else if config.listen.is_none() {
        "a manager with peers must listen for them"
    } else if config.data_dir.is_none() {
        "a manager with peers needs a data directory: after a restart they must know it again"
    } else if !config.peers.len().is_multiple_of(2) {
        "a datacenter has an odd number of managers: name 2 or 4 peers"
    } else {
        return Ok(());
    };
    Err(NodeError::Config(message.to_owned()))
}

/// Tells a role of a death; one that is too busy to hear it finds out by itself.
fn tell_gone<T>(asks: &mpsc::Sender<T>, gone: T) {
    if asks.try_send(gone).is_err() {
        tracing::debug!("a role that is busy or gone hears of no death");
    }
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> NodeError {
    let what = what.to_owned();
    move |source| NodeError::Io { what, source }
}

/// The roles of a process.
struct Roles {
    config: NodeConfig,
    observer: Arc<Observer>,
    gate: Option<(GateHost, Identity)>,
    manager: Option<(ManagerHost, Identity)>,
    worker: Option<(WorkerHost, Identity, mpsc::Receiver<hyperscale_engine::CoreEvent>)>,
    listener: Option<TcpListener>,
    members: Option<Members>,
    storage: Storage,
    spans: Option<Arc<SpanQueue>>,
}

impl Roles {
    async fn open(config: NodeConfig, observer: Arc<Observer>) -> Result<Self, NodeError> {
        let (clock, timers) = (observer.clock(), config.timers);
        timers.check()?;
        let storage = config.storage()?;
        let has = |role| config.roles.contains(&role);
        if !config.peers.is_empty() {
            check_peers(&config)?;
        }
        if !config.gates.is_empty() {
            check_gates(&config)?;
        }
        if config.certificates.is_none() && (config.listen.is_some() || !config.join.is_empty()) {
            let message = "a node that talks to others needs certificates".to_owned();
            return Err(NodeError::Config(message));
        }
        let is_called = has(Role::Gate) || has(Role::Manager);
        let listener = match config.listen.filter(|_| is_called) {
            None => None,
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| NodeError::Listen { address, source })?)
            }
        };
        let spans = config.otlp.is_some().then(|| SpanQueue::new(Arc::clone(&observer)));
        let traces = |role, identity: Identity| match &spans {
            Some(spans) => {
                Traces::new(config.source(role, identity.node), clock, Arc::clone(spans))
            }
            None => Traces::default(),
        };
        let gate = if has(Role::Gate) {
            let identity = storage.identity("gate", &config.home(Role::Gate))?;
            let shared = config.certificates.as_ref().and_then(Certificates::cluster_key);
            let key = match shared.filter(|_| !config.gates.is_empty()) {
                Some(key) => key,
                None => storage.secret_key()?,
            };
            let mut settings =
                GateConfig::new(identity.node, identity.incarnation, clock.wall_at_zero(), key);
            settings.gates = config.gates.len() + 1;
            settings.window = timers.window;
            settings.push = timers.window.min(settings.push);
            settings.retention = timers.retention;
            settings.reap_voters_after = timers.reap_voters_after;
            settings.start_margin = config.start_margin;
            let (storage, observer) = (storage.clone(), Arc::clone(&observer));
            let mut host = GateHost::open(settings, timers.ledger(), storage, observer)?;
            host.traces = traces(Role::Gate, identity);
            Some((host, identity))
        } else {
            None
        };
        let manager = if has(Role::Manager) {
            let identity = storage.identity("manager", &config.home(Role::Manager))?;
            let mut settings =
                ManagerConfig::new(identity.node, config.datacenter.clone(), clock.wall_at_zero());
            settings.start_margin = config.start_margin;
            settings.execution_lease = timers.execution_lease;
            settings.leader_lease = timers.leader_lease;
            settings.managers = config.peers.len() + 1;
            let (storage, observer) = (storage.clone(), Arc::clone(&observer));
            let mut host = ManagerHost::open(settings, timers.ledger(), storage, observer)?;
            host.traces = traces(Role::Manager, identity);
            Some((host, identity))
        } else {
            None
        };
        let worker = if has(Role::Worker) {
            let identity = storage.identity("worker", &config.home(Role::Worker))?;
            let (engine, cores) = Engine::start(config.cores)?;
            let mut settings = WorkerConfig::new(config.cores);
            (settings.renewal, settings.drain_limit) = (timers.renewal, timers.drain);
            let mut host = WorkerHost::new(settings, engine, Arc::clone(&observer));
            host.traces = traces(Role::Worker, identity);
            Some((host, identity, cores))
        } else {
            None
        };
        let members = Members::open(&config, &observer).await?;
        Ok(Self { config, observer, gate, manager, worker, listener, members, storage, spans })
    }

    fn listening(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    async fn run(
        self,
        gate_asks: mpsc::Receiver<gate::Ask>,
        handle: GateHandle,
        mut leave: mpsc::Receiver<Leave>,
    ) -> Result<(), NodeError> {
        let Self {
            config,
            observer,
            mut gate,
            mut manager,
            worker,
            listener,
            mut members,
            storage,
            spans,
        } = self;
        let export = config.otlp.clone().zip(spans).map(|(to, spans)| Export::start(to, spans));
        let clock = observer.clock();
        let config = Rc::new(config);
        let (to_gate, gate_links) = mpsc::channel(QUEUE);
        let (to_manager, manager_links) = mpsc::channel(QUEUE);
        let (to_worker, worker_links) = mpsc::channel(QUEUE);
        let (manager_ask, manager_asks) = mpsc::channel(QUEUE);
        let (worker_ask, worker_asks) = mpsc::channel(QUEUE);
        let manager_id = manager.as_ref().map(|manager| manager.1);
        let gate_id = gate.as_ref().map(|gate| gate.1);
        let answering = net::Answering {
            manager: manager_id.map(|identity| (identity, to_manager.clone())),
            gate: gate_id.map(|identity| (identity, to_gate.clone())),
        };
        let gates_call = gate_id.map(|identity| (identity, to_gate.clone()));
        let gate_hello = gate.as_ref().map(|g| config.hello(g.1, Role::Gate, Role::Manager));
        let worker_hello = worker.as_ref().map(|w| config.hello(w.1, Role::Worker, Role::Manager));
        let callers = [(gate_hello, to_gate), (worker_hello, to_worker)];
        let callers = callers.into_iter().filter_map(|(hello, to)| Some((hello?, to)));
        let call = |address: &String, hello: Hello, to_caller| {
            let (config, address) = (Rc::clone(&config), address.clone());
            let observer = Arc::clone(&observer);
            tokio::task::spawn_local(net::call(config, address, hello, to_caller, observer));
        };
        for (hello, to_caller) in callers {
            if let Some(identity) = manager_id {
                let ours = config.hello(identity, Role::Manager, hello.role);
                net::join(hello.clone(), to_caller.clone(), ours, to_manager.clone());
            }
            for address in config.join.iter().chain(&config.peers) {
                let (config, calls) = (Rc::clone(&config), Arc::clone(&observer));
                let (hello, to_caller) = (hello.clone(), to_caller.clone());
                let call = move |address: SocketAddr| {
                    let (config, calls) = (Rc::clone(&config), Arc::clone(&calls));
                    let (hello, to_caller) = (hello.clone(), to_caller.clone());
                    let call = net::call(config, address.to_string(), hello, to_caller, calls);
                    tokio::task::spawn_local(call).abort_handle()
                };
                let observer = Arc::clone(&observer);
                tokio::task::spawn_local(discovery::follow(address.clone(), observer, call));
            }
        }
        if let Some((identity, to_gate)) = gates_call {
            for address in &config.gates {
                let hello = config.hello(identity, Role::Gate, Role::Gate);
                call(address, hello, to_gate.clone());
            }
        }
        if let Some(identity) = manager_id {
            for address in &config.peers {
                let hello = config.hello(identity, Role::Manager, Role::Manager);
                call(address, hello, to_manager.clone());
            }
        }
        if let Some(listener) = listener {
            let (config, observer) = (Rc::clone(&config), Arc::clone(&observer));
            tokio::task::spawn_local(net::listen(config, listener, answering, observer));
        }
        if let Some(members) = &mut members {
            if let Some((host, identity)) = &mut gate {
                let asks = handle.asks.clone();
                let tell = move |node| tell_gone(&asks, gate::Ask::Gone { node });
                let role = (Role::Gate, *identity);
                host.links.evidence = members.join(&config, &storage, role, &observer, tell)?;
            }
            if let Some((host, identity)) = &mut manager {
                let asks = manager_ask.clone();
                let tell = move |node| tell_gone(&asks, manager::Ask::Gone { node });
                let role = (Role::Manager, *identity);
                host.links.evidence = members.join(&config, &storage, role, &observer, tell)?;
            }
            if let Some((_, identity, _)) = &worker {
                // A worker does nothing about the death of others.
                let role = (Role::Worker, *identity);
                members.join(&config, &storage, role, &observer, |_| {})?;
            }
        }
        let (to_manager_role, is_manager) = (manager_ask.clone(), manager.is_some());
        tokio::task::spawn_local(load::watch(Arc::clone(&observer), async move |overload| {
            if is_manager {
                ask(&to_manager_role, manager::Ask::Overload(overload)).await;
            }
        }));
        if let Some(members) = members {
            tokio::task::spawn_local(members.receive(Arc::clone(&observer)));
        }
        let mut worker_left = None;
        let mut roles = tokio::task::JoinSet::new();
        // Every line of a role says whose it is, whatever is logged.
        let named = |role: Role, identity: Identity| tracing::error_span!("role", role = role.as_str(), node = %identity.node);
        if let Some((mut host, identity)) = gate {
            let run = async move { drive(&mut host, clock, gate_links, gate_asks).await };
            roles.spawn_local(run.instrument(named(Role::Gate, identity)));
        }
        if let Some((mut host, identity)) = manager {
            let run = async move { drive(&mut host, clock, manager_links, manager_asks).await };
            roles.spawn_local(run.instrument(named(Role::Manager, identity)));
        }
        if let Some((mut host, identity, mut cores)) = worker {
            let to_worker = worker_ask.clone();
            tokio::task::spawn_local(async move {
                while let Some(event) = cores.recv().await {
                    if to_worker.send(worker::Ask::Core(event)).await.is_err() {
                        return; // The worker has left.
                    }
                }
            });
            let (left, has_left) = oneshot::channel::<()>();
            worker_left = Some(has_left);
            let run = async move {
                let result = drive(&mut host, clock, worker_links, worker_asks).await;
                drop(left);
                result
            };
            roles.spawn_local(run.instrument(named(Role::Worker, identity)));
        }
        let leaving = async move {
            let told = leave.recv().await;
            if let (Some(Leave::Drained), Some(left)) = (told, &mut worker_left) {
                ask(&worker_ask, worker::Ask::Drain).await;
                // A second word means: at once.
                tokio::select! {
                    _ = left => {}
                    _ = leave.recv() => {}
                }
            }
            ask(&worker_ask, worker::Ask::Leave).await;
            ask(&manager_ask, manager::Ask::Leave).await;
            ask(&handle.asks, gate::Ask::Leave).await;
            std::future::pending::<()>().await;
        };
        let all = async move {
            while let Some(ended) = roles.join_next().await {
                match ended {
                    Ok(result) => result?,
                    Err(error) => {
                        return Err(NodeError::Config(format!("a role panicked: {error}")));
                    }
                }
            }
            // What was queued for others goes out before the links go down with this thread.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        };
        let result = tokio::select! {
            result = all => result,
            () = leaving => Ok(()),
        };
        if let Some(export) = export {
            export.finish().await;
        }
        result
    }
}
