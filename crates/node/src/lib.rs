//! Nodes: the roles on real sockets, disks and clocks.
//!
//! A [`Node`] runs one or several roles on one thread, beside the engine's threads. Roles of one
//! process are linked through memory, others over TLS; either way the same frames pass the same
//! checks ([`link`]). Drivers hold no rules: what happens is decided in the roles.

mod clock;
mod drive;
mod gate;
mod link;
mod links;
mod manager;
mod storage;
mod worker;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use hyperscale_engine::Engine;
use hyperscale_gate::GateConfig;
use hyperscale_manager::ManagerConfig;
use hyperscale_model::{DatacenterId, Role};
use hyperscale_wire::{Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use hyperscale_worker::WorkerConfig;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

pub use crate::clock::Clock;
pub use crate::drive::NodeError;
pub use crate::gate::GateHandle;
pub use crate::storage::Storage;

use crate::drive::drive;
use crate::gate::GateHost;
use crate::manager::ManagerHost;
use crate::storage::Identity;
use crate::worker::WorkerHost;

/// Inputs that may wait for a role.
const QUEUE: usize = 4_096;

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
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
    /// The length of a window of statistics.
    pub window: Duration,
    /// How long before its start a part is told to start, so that all start together.
    pub start_margin: Duration,
}

impl NodeConfig {
    /// Everything in one process, for one test.
    #[must_use]
    pub fn local(cores: u32) -> Self {
        Self {
            cluster: "local".to_owned(),
            environment: "local".to_owned(),
            datacenter: DatacenterId::from("local"),
            data_dir: None,
            results_dir: None,
            cores,
            window: Duration::from_millis(250),
            // Nothing is far away within a process.
            start_margin: Duration::from_millis(2),
        }
    }

    fn storage(&self) -> Result<Storage, NodeError> {
        match &self.data_dir {
            Some(root) => Storage::at(root),
            None => Storage::in_memory(self.results_dir.as_deref()),
        }
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
    gate: GateHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), NodeError>>>,
}

impl Node {
    /// Starts a gate, a manager and a worker in this process.
    ///
    /// # Errors
    ///
    /// If its disk, its threads or its ledgers cannot be used.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| NodeError::Io { what, source }
        };
        let (asks, receiver) = mpsc::channel(QUEUE);
        let gate = GateHandle { asks, last: Arc::new(AtomicU64::new(1)) };
        let (stop, stopped) = oneshot::channel();
        let (started, has_started) = std::sync::mpsc::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("the node's runtime does not start"))?;
        let handle = gate.clone();
        let thread = Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                let all = async move {
                    let roles = match Roles::open(&config) {
                        Ok(roles) => roles,
                        Err(error) => {
                            let told = started.send(Err(error));
                            debug_assert!(told.is_ok(), "whoever starts a node waits for it");
                            return Ok(());
                        }
                    };
                    let told = started.send(Ok(()));
                    debug_assert!(told.is_ok(), "whoever starts a node waits for it");
                    roles.run(&config, receiver, handle, stopped).await
                };
                LocalSet::new().block_on(&runtime, all)
            })
            .map_err(io("the node's thread does not start"))?;
        match has_started.recv() {
            Ok(Ok(())) => Ok(Self { gate, stop: Some(stop), thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NodeError::Stopped),
        }
    }

    /// What asks its gate.
    #[must_use]
    pub fn gate(&self) -> GateHandle {
        self.gate.clone()
    }

    /// Whether its roles still run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the node and waits until it has left.
    ///
    /// # Errors
    ///
    /// If it had failed before.
    pub fn stop(mut self) -> Result<(), NodeError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), NodeError> {
        drop(self.stop.take());
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

/// The roles of a process.
struct Roles {
    clock: Clock,
    gate: (GateHost, Identity),
    manager: (ManagerHost, Identity),
    worker: (WorkerHost, Identity),
    cores: mpsc::Receiver<hyperscale_engine::CoreEvent>,
}

impl Roles {
    fn open(config: &NodeConfig) -> Result<Self, NodeError> {
        let clock = Clock::start();
        let now = clock.now();
        let storage = config.storage()?;
        let identity = storage.identity("gate")?;
        let mut settings =
            GateConfig::new(identity.node, clock.wall_at_zero(), storage.secret_key()?);
        settings.window = config.window;
        settings.push = config.window.min(settings.push);
        settings.start_margin = config.start_margin;
        let gate = (GateHost::open(settings, storage.clone(), now)?, identity);
        let identity = storage.identity("manager")?;
        let mut settings =
            ManagerConfig::new(identity.node, config.datacenter.clone(), clock.wall_at_zero());
        settings.start_margin = config.start_margin;
        let manager = (ManagerHost::open(settings, storage.clone(), now)?, identity);
        let identity = storage.identity("worker")?;
        let (engine, cores) = Engine::start(config.cores)?;
        let worker = (WorkerHost::new(WorkerConfig::new(config.cores), engine), identity);
        Ok(Self { clock, gate, manager, worker, cores })
    }

    async fn run(
        self,
        config: &NodeConfig,
        gate_asks: mpsc::Receiver<gate::Ask>,
        handle: GateHandle,
        stopped: oneshot::Receiver<()>,
    ) -> Result<(), NodeError> {
        let Self { clock, gate, manager, worker, mut cores } = self;
        let (to_gate, gate_links) = mpsc::channel(QUEUE);
        let (to_manager, manager_links) = mpsc::channel(QUEUE);
        let (to_worker, worker_links) = mpsc::channel(QUEUE);
        let (manager_ask, manager_asks) = mpsc::channel(QUEUE);
        let (worker_ask, worker_asks) = mpsc::channel(QUEUE);
        join(
            (config.hello(gate.1, Role::Gate, Role::Manager), to_gate),
            (config.hello(manager.1, Role::Manager, Role::Gate), to_manager.clone()),
        );
        join(
            (config.hello(worker.1, Role::Worker, Role::Manager), to_worker),
            (config.hello(manager.1, Role::Manager, Role::Worker), to_manager),
        );
        let (mut gate, mut manager, mut worker) = (gate.0, manager.0, worker.0);
        let to_worker = worker_ask.clone();
        let feeding = async move {
            while let Some(event) = cores.recv().await {
                if to_worker.send(worker::Ask::Core(event)).await.is_err() {
                    break; // The worker has left.
                }
            }
            std::future::pending::<()>().await;
        };
        let roles = async {
            tokio::try_join!(
                drive(&mut gate, clock, gate_links, gate_asks),
                drive(&mut manager, clock, manager_links, manager_asks),
                drive(&mut worker, clock, worker_links, worker_asks),
            )
        };
        let leaving = async {
            // Whether it was told or dropped: the node shall stop.
            drop(stopped.await);
            if worker_ask.send(worker::Ask::Leave).await.is_err()
                || manager_ask.send(manager::Ask::Leave).await.is_err()
            {
                tracing::debug!("a role has left already");
            }
            handle.leave().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = roles => result.map(|_| ()),
            () = feeding => Ok(()),
            () = leaving => Ok(()),
        }
    }
}

/// Links two roles of this process through memory.
fn join(
    (one, to_one): (Hello, mpsc::Sender<link::LinkEvent>),
    (other, to_other): (Hello, mpsc::Sender<link::LinkEvent>),
) {
    let (left, right) = tokio::io::duplex(1 << 20);
    let spawn = |stream, hello: Hello, events| {
        let hello = Rc::new(hello);
        tokio::task::spawn_local(async move {
            let error = link::run(stream, &hello, None, &events).await;
            tracing::debug!(link = %hello, error = gate::chain(&error), "a link within the process ended");
        });
    };
    spawn(left, one, to_one);
    spawn(right, other, to_other);
}
