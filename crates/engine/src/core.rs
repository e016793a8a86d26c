//! One core: a thread with a runtime of its own, and the attempts that run on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::thread::{Builder, JoinHandle};

use hyperscale_model::AttemptId;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::connection::SCRATCH_BYTES;
use crate::lease::Lease;
use crate::run::Run;
use crate::{Command, CoreEvent, CoreNews};

/// Commands that may wait for a core.
const COMMANDS_MAX: usize = 256;

/// A core's thread that does not start.
#[derive(Debug, thiserror::Error)]
#[error("a thread that sends load does not start")]
pub struct CoreError(#[from] std::io::Error);

/// A core's thread.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) thread: JoinHandle<()>,
}

/// What all attempts of a core share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) scratch: Rc<RefCell<Box<[u8]>>>,
    pub(crate) lease: Rc<Lease>,
}

/// Starts a core's thread. It ends when the sender of its commands is gone and its attempts are
/// over.
pub(crate) fn spawn(core: u32, events: mpsc::Sender<CoreEvent>) -> Result<Core, CoreError> {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = Builder::new().name(format!("load-{core}")).spawn(move || {
        LocalSet::new().block_on(&runtime, serve(core, receiver, events));
    })?;
    Ok(Core { commands, thread })
}

async fn serve(core: u32, mut commands: mpsc::Receiver<Command>, events: mpsc::Sender<CoreEvent>) {
    let common = Common {
        scratch: Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice())),
        lease: Rc::default(),
    };
    let mut runs: BTreeMap<AttemptId, Rc<Run>> = BTreeMap::new();
    while let Some(command) = commands.recv().await {
        runs.retain(|_, run| !run.is_over());
        match command {
            Command::Prepare { work, slice, shared } => {
                let attempt = work.attempt;
                let what = match Run::new(core, work, slice, shared, &common, events.clone()) {
                    Ok(run) => {
                        runs.insert(attempt, Rc::new(run));
                        CoreNews::Prepared
                    }
                    Err(message) => CoreNews::Unprepared(message),
                };
                if events.send(CoreEvent { core, attempt, what }).await.is_err() {
                    return; // Nobody listens: the process is about to end.
                }
            }
            Command::Start { attempt, job_zero, load_zero, at, late } => {
                if let Some(run) = runs.get(&attempt) {
                    let run = Rc::clone(run);
                    tokio::task::spawn_local(run.drive(job_zero, load_zero, at, late));
                }
            }
            Command::Lease { until } => common.lease.renew(until),
            Command::Steer { attempt, steering } => {
                if let Some(run) = runs.get(&attempt) {
                    run.steer((*steering).clone());
                }
            }
            Command::Rows { attempt } => {
                if let Some(run) = runs.get(&attempt) {
                    run.on_rows();
                }
            }
            Command::Stop { attempt, stop } => {
                if let Some(run) = runs.get(&attempt) {
                    run.stop(stop).await;
                }
            }
        }
    }
}
