//! `hyperscale run`: a gate, a manager and a worker in this process, and a client that submits the
//! test to them as to any other gate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use hyperscale_gate::DatacenterView;
use hyperscale_model::{ClientId, JobId};
use hyperscale_node::{Node, NodeConfig, TraceId};
use hyperscale_plan::Compiled;
use hyperscale_web::{Accepted, Access, Limits, Submission, Token, Tokens};
use tokio::net::TcpListener;

use crate::api::{Api, ApiError};
use crate::args::{OutputArgs, RunArgs};
use crate::exit::{Exit, Failure};
use crate::{follow, output, source};

/// How long a system within this process may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: Box<RunArgs>) -> Result<Exit, Failure> {
    let compiled = source::of(&args.source, &args.load)?;
    run_here(compiled, args.load.cores, &args.outputs).await
}

/// Runs a test within this process.
pub(crate) async fn run_here(
    compiled: Compiled,
    cores: Option<u32>,
    outputs: &OutputArgs,
) -> Result<Exit, Failure> {
    let outs = output::parse_with(&outputs.outs, &compiled.outputs)?;
    for warning in &compiled.warnings {
        follow::say(&format!("{warning}\n"));
    }
    let cores = self::cores(cores);
    let mut config = NodeConfig::local(cores);
    config.results_dir = state_dir().filter(|directory| is_usable(directory));
    let node = Node::start(config)
        .map_err(|error| Failure::caused(Exit::Io, "the local system does not start", &error))?;
    let api = serve(&node).await?;
    let until_ready = ready(&api, cores);
    match tokio::time::timeout(READY_WITHIN, until_ready).await {
        Ok(ready) => ready?,
        Err(_) => {
            let message = "the local system is not ready after 10 s";
            return Err(Failure::new(Exit::Internal, message));
        }
    }
    let job = submit(&api, compiled).await?;
    follow::follow(&api, job, outputs.display(), Duration::ZERO).await?;
    let result = api.results(job).await.map_err(|error| refused(&error))?;
    // Whatever becomes of the files, the figures are shown.
    let written = output::write(&outs, &result);
    let outs = if written.is_ok() { outs } else { Vec::new() };
    let exit = output::show(&outs, &result, outputs.is_colourless());
    node.stop().map_err(|error| Failure::internal("the local system failed", &error))?;
    written?;
    exit
}

/// The cores of a worker: those that were asked for, or all of this machine.
pub(crate) fn cores(asked: Option<u32>) -> u32 {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.unwrap_or_else(|| u32::try_from(all()).unwrap_or(1)).max(1)
}

/// Serves the node's API to this process only: the port is local, the token random.
async fn serve(node: &Node) -> Result<Api, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::caused(Exit::ApiFailed, "the local API cannot listen on the loopback", &error)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let mut secret = [0; 16];
    getrandom::fill(&mut secret)
        .map_err(|error| Failure::internal("the system gives no random numbers", &error))?;
    let secret = base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret);
    let (client, access) = (ClientId::from("local"), Access::Admin);
    let tokens = Tokens(vec![Token { client, access, secret: secret.clone() }]);
    let gate = node.gate().ok_or_else(|| Failure::new(Exit::Internal, "the node has no gate"))?;
    tokio::spawn(async move {
        // Nobody else has the token.
        let limits = Limits { rate: None, ..Limits::DEFAULT };
        if let Err(error) = hyperscale_web::serve(listener, gate, tokens, limits).await {
            tracing::error!(%error, "the local API ended");
        }
    });
    Ok(Api::new(vec![address.to_string()], Some(secret)))
}

async fn ready(api: &Api, cores: u32) -> Result<(), Failure> {
    loop {
        match api.get::<Vec<DatacenterView>>("/datacenters").await {
            Ok(views) if views.iter().any(|view| view.is_fresh && view.free_cores >= cores) => {
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(refused(&error)),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Submits a test; repeated with the same key until the gate has decided.
pub(crate) async fn submit(api: &Api, compiled: Compiled) -> Result<JobId, Failure> {
    let mut key = [0; 16];
    getrandom::fill(&mut key)
        .map_err(|error| Failure::internal("the system gives no random numbers", &error))?;
    let base64 = &base64::engine::general_purpose::STANDARD;
    let submission = Submission {
        key: base64.encode(key),
        plan: compiled.plan,
        blobs: compiled.blobs.iter().map(|(_, bytes)| base64.encode(bytes)).collect(),
        secrets: compiled.secrets,
    };
    for tries in 1.. {
        match api.post::<Accepted>("/jobs", &submission).await {
            Ok(accepted) => {
                let job = accepted.job;
                tracing::info!(%job, trace_id = %TraceId::from(job), "job submitted");
                return Ok(job);
            }
            Err(error) if error.is_transient() && !error.was_waited_for() && tries < 10 => {
                tokio::time::sleep(Duration::from_millis(100 * tries)).await;
            }
            Err(ApiError::Refused(problem)) if problem.kind == "bad-plan" => {
                return Err(Failure::new(Exit::Invalid, problem.detail));
            }
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(Failure::new(Exit::Refused, "the gate does not answer"))
}

pub(crate) fn refused(error: &ApiError) -> Failure {
    Failure::caused(Exit::Refused, "the gate refuses", error)
}

/// Whether results can be kept in a directory. If not, the run goes on without: many a container
/// has no place for them.
fn is_usable(directory: &Path) -> bool {
    match std::fs::create_dir_all(directory) {
        Ok(()) => true,
        Err(error) => {
            follow::say(&format!("the result is not kept in {}: {error}", directory.display()));
            false
        }
    }
}

/// Where results of local runs are kept, by the XDG rules.
fn state_dir() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local").join("state"))
    })?;
    Some(base.join("hyperscale").join("results"))
}
