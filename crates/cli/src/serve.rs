//! Commands that run nodes for others: `serve`, `gate`, `manager`, `worker`; and `cert`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{ClientId, DatacenterId, Role};
use hyperscale_node::{
    Certificates, Node, NodeConfig, NodeError, Timers, make_authority, make_node, revoke,
};
use hyperscale_web::{Access, Limits, Rate, Token, Tokens};
use tokio::net::TcpListener;

use crate::args::{CertCommand, NodeArgs, ServeArgs};
use crate::exit::{Exit, Failure};
use crate::follow::{Signals, say};
use crate::run;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// How long development certificates are valid.
const VALID: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Where a gate's API listens unless told otherwise.
const API: ([u8; 4], u16) = ([127, 0, 0, 1], 7780);

pub(crate) async fn serve(args: Box<ServeArgs>) -> Result<Exit, Failure> {
    let named: Vec<Role> = args.roles.iter().filter_map(|name| role(name)).collect();
    let all = [Role::Gate, Role::Manager, Role::Worker];
    node(&args.node, if named.is_empty() { &all } else { &named }).await
}

/// Runs a node of some roles until it is told to leave.
pub(crate) async fn node(args: &NodeArgs, roles: &[Role]) -> Result<Exit, Failure> {
    let roles: BTreeSet<Role> = roles.iter().copied().collect();
    let is_alone = roles.len() > 1
        && args.listen.is_none()
        && [&args.join, &args.peers, &args.gates].into_iter().all(Vec::is_empty);
    if !roles.contains(&Role::Manager) && args.join.is_empty() {
        let message =
            "this node has no manager of its own: say which one it calls with --join ADDRESS";
        return Err(Failure::new(Exit::Invalid, message));
    }
    let timers = timers(args);
    // Before anything is made that would be left behind.
    timers.check().map_err(|error| failed(&error))?;
    let tokens = tokens(&args.tokens)?;
    let certificates = if is_alone { None } else { Some(certificates(args, &roles)?) };
    let config = NodeConfig {
        roles: roles.clone(),
        listen: args.listen,
        advertise: args.advertise,
        join: args.join.clone(),
        peers: args.peers.clone(),
        gates: args.gates.clone(),
        certificates,
        cluster: args.cluster.clone(),
        environment: args.environment.clone(),
        datacenter: DatacenterId::from(args.datacenter.as_str()),
        data_dir: args.data_dir.clone(),
        results_dir: None,
        cores: run::cores(args.cores),
        timers,
        start_margin: Duration::from_millis(200),
        otlp: args.otlp_endpoint.clone(),
    };
    let limits = limits(args);
    // Before anything is started: a port in use must leave nothing behind.
    let api = if roles.contains(&Role::Gate) {
        Some(listen("the API", args.api.unwrap_or_else(|| API.into()), &tokens).await?)
    } else {
        None
    };
    let metrics = match args.metrics {
        Some(address) => Some(listen("metrics", address, &tokens).await?),
        None => None,
    };
    let node = Node::start(config).map_err(|error| failed(&error))?;
    if let Some(address) = node.listening() {
        announce(&format!("listening for nodes on {address}"));
    }
    if let (Some((listener, address)), Some(gate)) = (api, node.gate()) {
        announce(&format!("API on http://{address}/api/v1"));
        let tokens = tokens.clone();
        tokio::spawn(async move {
            if let Err(error) = hyperscale_web::serve(listener, gate, tokens, limits).await {
                tracing::error!(%error, "the API ended");
            }
        });
    }
    if let Some((listener, address)) = metrics {
        announce(&format!("metrics on http://{address}/metrics"));
        let served =
            hyperscale_web::serve_metrics(listener, Arc::clone(node.observer()), tokens, limits);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "metrics are shown no more");
            }
        });
    }
    let mut signals = Signals::new()?;
    let mut owner = std::pin::pin!(owner_gone());
    let mut is_draining = false;
    loop {
        tokio::select! {
            () = node.left() => break,
            () = &mut owner => break,
            () = signals.next() => {
                if is_draining {
                    say("leaving at once");
                    break;
                }
                say("finishing what runs, then leaving; again to leave at once");
                is_draining = true;
                node.drain();
            }
        }
    }
    node.stop().map_err(|error| failed(&error))?;
    Ok(Exit::Passed)
}

/// If this variable is set, the node leaves when its standard input ends: with whoever started it,
/// however that ends.
pub(crate) const OWNED: &str = "HYPERSCALE_OWNED";

/// Waits until whoever owns this process is gone; for ever if nobody does.
async fn owner_gone() {
    if std::env::var_os(OWNED).is_none() {
        return std::future::pending().await;
    }
    let (sender, gone) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: a runtime would wait for the read when it ends.
    std::thread::spawn(move || {
        let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        tracing::debug!(?ended, "whoever started this node is gone");
        drop(sender);
    });
    // The sender says nothing: its end is the word.
    drop(gone.await);
}

/// Listens for clients; where others than this machine can reach that, they need tokens.
async fn listen(
    what: &str,
    address: SocketAddr,
    tokens: &Tokens,
) -> Result<(TcpListener, SocketAddr), Failure> {
    if tokens.0.is_empty() && !address.ip().is_loopback() {
        let message = format!("{what} on {address} needs tokens: --token NAME:ROLE:TOKEN");
        return Err(Failure::new(Exit::Invalid, message));
    }
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error: std::io::Error| {
        Failure::caused(Exit::ApiFailed, &format!("{what} cannot listen on {address}"), &error)
    })
}

fn timers(args: &NodeArgs) -> Timers {
    let args = &args.timers;
    Timers {
        window: args.window,
        execution_lease: args.execution_lease,
        renewal: args.renewal,
        leader_lease: args.leader_lease,
        election: args.election,
        retention: args.retention,
        drain: args.drain,
        reap_voters_after: args.reap_voters_after,
    }
}

fn limits(args: &NodeArgs) -> Limits {
    let args = &args.limits;
    Limits {
        rate: Some(Rate { burst: args.api_burst, per_second: args.api_rate }),
        connections: usize::try_from(args.api_connections).unwrap_or(usize::MAX),
        ..Limits::DEFAULT
    }
}

fn failed(error: &NodeError) -> Failure {
    let exit = match error {
        NodeError::Config(_) => Exit::Invalid,
        NodeError::Listen { .. } => Exit::ApiFailed,
        NodeError::Disk { .. }
        | NodeError::Ledger(_)
        | NodeError::LedgerFailed(_)
        | NodeError::Io { .. } => Exit::Io,
        _ => Exit::Internal,
    };
    Failure::caused(exit, "the node cannot run", error)
}

/// Whoever started this for a script waits for these lines.
fn announce(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn role(name: &str) -> Option<Role> {
    match name {
        "gate" => Some(Role::Gate),
        "manager" => Some(Role::Manager),
        "worker" => Some(Role::Worker),
        _ => None,
    }
}

/// The node's certificates; for development throwaway ones, in a place from which workers on this
/// machine can take theirs.
fn certificates(args: &NodeArgs, roles: &BTreeSet<Role>) -> Result<Certificates, Failure> {
    if let Some(directory) = &args.certs {
        return Certificates::read(directory).map_err(|error| failed(&error));
    }
    if !roles.contains(&Role::Manager) {
        let message = "a node that joins others needs --certs DIR; for development, `serve` without \
                       --certs says where it has put some";
        return Err(Failure::new(Exit::Invalid, message));
    }
    let root = match &args.data_dir {
        Some(data_dir) => data_dir.join("development-certificates"),
        None => std::env::temp_dir().join(format!("hyperscale-{}", std::process::id())),
    };
    let (authority, own, worker) = (root.join("ca"), root.join("node"), root.join("worker"));
    let all = [Role::Gate, Role::Manager, Role::Worker];
    let make = |directory: &Path, roles: &[Role]| {
        make_node(&authority, directory, &args.cluster, &args.datacenter, roles, VALID)
    };
    let made = || -> Result<Certificates, NodeError> {
        if !authority.join("ca.pem").exists() {
            make_authority(&authority, &args.cluster)?;
            make(&own, &all)?;
            make(&worker, &[Role::Worker])?;
        }
        Certificates::read(&own)
    };
    let made = made().map_err(|error| failed(&error))?;
    say(&format!(
        "development certificates: workers join with --certs {}; for anything else make your own \
         with `hyperscale cert`",
        worker.display()
    ));
    Ok(made)
}

fn tokens(texts: &[String]) -> Result<Tokens, Failure> {
    (texts.iter())
        .map(|text| {
            let mut parts = text.splitn(3, ':');
            let access = |role| match role {
                "view" => Some(Access::View),
                "run" => Some(Access::Run),
                "admin" => Some(Access::Admin),
                _ => None,
            };
            match (parts.next(), parts.next().and_then(access), parts.next()) {
                (Some(name), Some(access), Some(secret)) if secret.len() >= 8 => {
                    Ok(Token { client: ClientId::from(name), access, secret: secret.to_owned() })
                }
                _ => {
                    let message = "--token wants NAME:ROLE:TOKEN, a role of view, run or admin, \
                                   and a token of at least 8 characters";
                    Err(Failure::new(Exit::Invalid, message))
                }
            }
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Tokens)
}

pub(crate) fn cert(command: CertCommand) -> Result<Exit, Failure> {
    let written: PathBuf = match command {
        CertCommand::Init { out, cluster } => {
            make_authority(&out, &cluster).map_err(|error| failed(&error))?;
            out
        }
        CertCommand::Node { ca, out, roles, datacenter, cluster, days } => {
            let roles: Vec<Role> = roles.iter().filter_map(|name| role(name)).collect();
            let valid = DAY * days;
            make_node(&ca, &out, &cluster, &datacenter, &roles, valid)
                .map_err(|error| failed(&error))?;
            out
        }
        CertCommand::Revoke { ca, certificate } => {
            let path = revoke(&ca, &certificate).map_err(|error| failed(&error))?;
            announce(
                "copy this file beside the certificates of all other nodes; links that are up \
                      stay until they break",
            );
            path
        }
    };
    announce(&format!("written to {}", written.display()));
    Ok(Exit::Passed)
}
