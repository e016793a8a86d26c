//! The load engine: threads that send requests and count what came of them.
//!
//! One thread a core, each with a runtime of its own; a virtual user is a small task that lives and
//! dies on one core. Cores share nothing but the number of the next draw of unique rows: each counts
//! into its own recorder and hands over a window at a time, which [`Engine::join`] joins to what an
//! attempt did. This crate knows nothing of clusters.
//!
//! A request on a kept connection costs one write, one read, a few clock reads, a parse in place
//! and some counters: it allocates nothing, takes no lock, and sets no timer unless the last one is
//! used up.

mod alarm;
mod clock;
mod connection;
mod core;
mod draws;
mod executor;
mod lease;
mod pool;
mod program;
mod request;
mod resolve;
mod run;
mod scope;
mod tls;
mod user;
mod windows;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyperscale_model::{AttemptId, BlobHash, DatacenterId, WorkflowIndex};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Context, LoadSteering, Plan, RowLease, Secrets, Slice};
use hyperscale_stats::WindowFigures;
use tokio::sync::mpsc;

pub use crate::connection::{
    Answer, Connection, Failure, Keep, Kept, Opened, SCRATCH_BYTES, Session, Trace, Way,
};
pub use crate::core::CoreError;
pub use crate::request::Origin;
pub use crate::tls::probe_connector;
pub use crate::windows::AttemptNews;

use crate::core::Core;
use crate::draws::Draws;
use crate::scope::Rows;
use crate::windows::Windows;

/// What an attempt is.
#[derive(Debug, Clone)]
pub struct Work {
    /// The attempt.
    pub attempt: AttemptId,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The blobs that the plan names.
    pub blobs: BTreeMap<BlobHash, Arc<[u8]>>,
    /// The attempt's share of the workflow's load.
    pub slice: Slice,
    /// The cores that it has.
    pub cores: Vec<u32>,
    /// Iterations of the slice that earlier attempts have done.
    pub iterations_done: u64,
    /// The load's time up to which earlier attempts may have sent its starts.
    pub load_sent: Duration,
    /// Which draws of unique rows it may make.
    pub rows: RowLease,
    /// How its load is steered when it is made ready.
    pub steering: LoadSteering,
    /// Values published by other workflows.
    pub context: Context,
    /// The values of the plan's secrets.
    pub secrets: Secrets,
    /// The length of a window.
    pub window: Duration,
    /// The datacenter's name, for the test.
    pub datacenter: DatacenterId,
}

impl Work {
    /// The workflow that the attempt runs a share of.
    #[must_use]
    pub const fn workflow(&self) -> WorkflowIndex {
        self.attempt.shard.workflow
    }
}

/// How an attempt stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Nothing new starts; running iterations may finish within the workflow's `graceful_stop`.
    Graceful,
    /// Running requests are cut.
    Now,
    /// Like `Now`, and nothing more is told.
    Silent,
}

/// Why an attempt is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// Its load is done.
    Finished,
    /// It was told to stop.
    Stopped,
    /// The test asked the whole job to stop.
    Aborted(String),
    /// A core could not go on.
    Lost(String),
}

/// The rows of a plan's data, read by the first core that needs them.
pub(crate) type SharedRows = Arc<OnceLock<Result<Rows, String>>>;

/// What the cores of an attempt share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) rows: SharedRows,
    /// Its draws of unique rows, if it makes any.
    pub(crate) draws: Option<Arc<Draws>>,
}

/// What a core is told.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Prepare { work: Arc<Work>, slice: Slice, shared: Shared },
    Start { attempt: AttemptId, job_zero: Instant, load_zero: Instant, at: Instant, late: Duration },
    Lease { until: Instant },
    Steer { attempt: AttemptId, steering: Arc<LoadSteering> },
    Rows { attempt: AttemptId },
    Stop { attempt: AttemptId, stop: Stop },
}

/// What a core tells; [`Engine::join`] makes sense of it.
#[derive(Debug)]
pub struct CoreEvent {
    pub(crate) core: u32,
    pub(crate) attempt: AttemptId,
    pub(crate) what: CoreNews,
}

impl CoreEvent {
    /// The attempt that it is about.
    #[must_use]
    pub const fn attempt(&self) -> AttemptId {
        self.attempt
    }
}

#[derive(Debug)]
pub(crate) enum CoreNews {
    Prepared,
    Unprepared(String),
    Window { window: u64, figures: Box<WindowFigures> },
    RowsWanted,
    Ended { end: RunEnd, published: BTreeMap<String, Value> },
}

/// The core threads.
#[derive(Debug)]
pub struct Engine {
    cores: Vec<Core>,
    attempts: BTreeMap<AttemptId, Running>,
    windows: Windows,
}

/// An attempt that cores have.
#[derive(Debug)]
struct Running {
    cores: Vec<u32>,
    draws: Option<Arc<Draws>>,
}

impl Engine {
    /// Starts a thread for each core. What they tell comes out of the returned queue.
    ///
    /// # Errors
    ///
    /// If a thread or its runtime cannot be started.
    pub fn start(cores: u32) -> Result<(Self, mpsc::Receiver<CoreEvent>), CoreError> {
        let (events, receiver) = mpsc::channel(4_096);
        let cores = (0..cores)
            .map(|core| core::spawn(core, events.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let engine = Self { cores, attempts: BTreeMap::new(), windows: Windows::default() };
        Ok((engine, receiver))
    }

    /// Makes ready to run an attempt. False if one of its cores takes no commands any more.
    pub fn prepare(&mut self, work: Work) -> bool {
        let attempt = work.attempt;
        let mut cores = work.cores.clone();
        if let Some(workflow) = work.plan.workflow(work.workflow()) {
            // More cores than users would have load and nobody to send it.
            cores.truncate(executor::useful_cores(&work.slice, &workflow.load, cores.len()));
        }
        let slices = work.slice.split_evenly(cores.len());
        let draws = Draws::of(&work).map(Arc::new);
        let work = Arc::new(work);
        let shared = Shared { rows: SharedRows::default(), draws: draws.clone() };
        self.attempts.insert(attempt, Running { cores: cores.clone(), draws });
        self.windows.expect(attempt, &cores);
        (cores.iter().zip(slices)).all(|(core, slice)| {
            let (work, shared) = (Arc::clone(&work), shared.clone());
            self.tell_core(*core, Command::Prepare { work, slice, shared })
        })
    }

    /// Runs a prepared attempt: in `start_in` the job's time is `job_elapsed` and that of the load,
    /// if it never stood still, `load_elapsed`. It was to begin `late` before that: starts that were due
    /// since then count as dropped, but for the last moment's. False if one of its cores takes no commands any more.
    pub fn run(
        &self,
        attempt: AttemptId,
        start_in: Duration,
        job_elapsed: Duration,
        load_elapsed: Duration,
        late: Duration,
    ) -> bool {
        let at = clock::now() + start_in;
        let zero = |elapsed| at.checked_sub(elapsed).unwrap_or(at);
        let (job_zero, load_zero) = (zero(job_elapsed), zero(load_elapsed));
        self.tell(attempt, &Command::Start { attempt, job_zero, load_zero, at, late })
    }

    /// Load may be sent until then. Before it is told for the first time, and after that instant,
    /// no request begins and starts that are due are dropped; the load's time goes on.
    ///
    /// Each core looks at its own clock before each request: a process that was frozen beyond its
    /// lease sends nothing when it goes on, whichever of its threads does so first.
    pub fn lease(&self, until: Instant) {
        for core in &self.cores {
            if core.commands.try_send(Command::Lease { until }).is_err() {
                // It gets the next one. One that is gone is found by `lost`.
                tracing::debug!("a core has not heard of its lease");
            }
        }
    }

    /// Steers an attempt's load from now on. While it stands still, no iteration starts and running
    /// ones end. False as above.
    pub fn steer(&self, attempt: AttemptId, steering: LoadSteering) -> bool {
        self.tell(attempt, &Command::Steer { attempt, steering: Arc::new(steering) })
    }

    /// Draws of unique rows before this one, by its number within the attempt's share of them, may
    /// be made as well. False as above.
    pub fn lease_rows(&self, attempt: AttemptId, until: u64) -> bool {
        if let Some(draws) = self.draws(attempt) {
            draws.lease(until);
        }
        self.tell(attempt, &Command::Rows { attempt })
    }

    /// How many draws of unique rows an attempt has made.
    #[must_use]
    pub fn draws_made(&self, attempt: AttemptId) -> u64 {
        self.draws(attempt).map_or(0, Draws::made)
    }

    fn draws(&self, attempt: AttemptId) -> Option<&Draws> {
        self.attempts.get(&attempt)?.draws.as_deref()
    }

    /// Stops an attempt. False as above.
    pub fn stop(&mut self, attempt: AttemptId, stop: Stop) -> bool {
        let is_told = self.tell(attempt, &Command::Stop { attempt, stop });
        if stop == Stop::Silent {
            self.attempts.remove(&attempt);
            self.windows.forget(attempt);
        }
        is_told
    }

    /// Joins what a core tells to what its attempt did.
    pub fn join(&mut self, event: CoreEvent) -> Vec<AttemptNews> {
        let attempt = event.attempt;
        let mut news = self.windows.on(event);
        for news in &mut news {
            if let AttemptNews::Ended { draws_made, .. } = news {
                *draws_made = self.draws_made(attempt);
                self.attempts.remove(&attempt);
            }
        }
        news
    }

    /// The attempts that had a core whose thread is gone. They are over: their other cores are told
    /// to stop.
    pub fn lost(&mut self) -> Vec<AttemptId> {
        let is_gone = |core: &u32| {
            let core = usize::try_from(*core).ok().and_then(|core| self.cores.get(core));
            core.is_none_or(|core| core.thread.is_finished())
        };
        let lost: Vec<AttemptId> = (self.attempts.iter())
            .filter(|(_, running)| running.cores.iter().any(is_gone))
            .map(|(&attempt, _)| attempt)
            .collect();
        for &attempt in &lost {
            // A core that is gone hears nothing, which is why this is here.
            self.stop(attempt, Stop::Silent);
        }
        lost
    }

    fn tell(&self, attempt: AttemptId, command: &Command) -> bool {
        let running = self.attempts.get(&attempt);
        let cores = running.map(|running| running.cores.as_slice()).unwrap_or_default();
        // Each is told, whatever became of the others.
        let told = cores.iter().filter(|&&core| self.tell_core(core, command.clone())).count();
        told == cores.len()
    }

    fn tell_core(&self, core: u32, command: Command) -> bool {
        let core = usize::try_from(core).ok().and_then(|core| self.cores.get(core));
        core.is_some_and(|core| core.commands.try_send(command).is_ok())
    }
}
