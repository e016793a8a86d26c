//! Links that begin: within the process, called, and answered.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::Role;
use hyperscale_resilience::Backoff;
use hyperscale_wire::Hello;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::NodeConfig;
use crate::gate::chain;
use crate::link::{self, End, LinkEvent};
use crate::observe::{Observer, Part};
use crate::storage::{Identity, random};

/// How long a connection and its TLS handshake may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Between calls to a node that calls this one itself. It may have been replaced by another that does
/// not, and takes no part before it is called.
const CALLBACK: Duration = Duration::from_secs(5);
/// Between calls to a node that does not answer, at most; well below an execution lease.
const RETRY_MAX: Duration = Duration::from_secs(2);

type Events = mpsc::Sender<LinkEvent>;

/// Links two roles of this process through memory.
pub(crate) fn join(caller: Hello, to_caller: Events, called: Hello, to_called: Events) {
    let (left, right) = tokio::io::duplex(1 << 20);
    tokio::task::spawn_local(async move {
        // Nothing is lost within a process, so the caller goes on until its role has left.
        let error = link::run(left, End::Caller(&caller), None, Some(to_caller)).await;
        tracing::debug!(link = %caller, error = chain(&error), "a link within the process ended");
    });
    tokio::task::spawn_local(async move {
        let pick = |_: &Hello| Some((called.clone(), to_called.clone()));
        let error = link::run(right, End::Called(&pick), None, None).await;
        tracing::debug!(link = %called, error = chain(&error), "a link within the process ended");
    });
}

/// Calls a node for ever: whenever the link is down, it is called again.
pub(crate) async fn call(
    config: Rc<NodeConfig>,
    address: String,
    hello: Hello,
    events: Events,
    observer: Arc<Observer>,
) {
    let seed = random().unwrap_or(0); // It only spreads retries.
    let mut backoff = Backoff::seeded(Duration::from_millis(100), seed).with_cap(RETRY_MAX);
    loop {
        let error = call_once(&config, &address, &hello, &events).await;
        if events.is_closed() {
            return;
        }
        if error.calls_back {
            tokio::time::sleep(CALLBACK).await;
            continue;
        }
        if error.was_up {
            backoff.reset();
        }
        if let Some(held_back) = observer.trouble(Part::Link, "no link", &address) {
            let (node, role, error) = (hello.node, hello.role, error.message);
            tracing::warn!(%address, %node, %role, error, held_back, "no link; trying again");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

struct CallError {
    message: String,
    was_up: bool,
    /// The other node calls this one instead.
    calls_back: bool,
}

async fn call_once(
    config: &NodeConfig,
    address: &str,
    hello: &Hello,
    events: &Events,
) -> CallError {
    let failed = |message: String| CallError { message, was_up: false, calls_back: false };
    let Some(certificates) = &config.certificates else {
        return failed("this node has no certificates".to_owned());
    };
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        certificates.connect(stream).await
    };
    let (stream, certified) = match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return failed(chain(&error)),
        Err(_) => return failed("no connection in time".to_owned()),
    };
    let error = link::run(stream, End::Caller(hello), Some(&certified), Some(events.clone())).await;
    let (was_up, calls_back) = (error.was_up(), error.calls_back());
    CallError { message: chain(&error), was_up, calls_back }
}

/// The roles of this process that others call.
#[derive(Debug, Clone)]
pub(crate) struct Answering {
    pub(crate) manager: Option<(Identity, Events)>,
    pub(crate) gate: Option<(Identity, Events)>,
}

/// Answers whoever calls a role of this process.
pub(crate) async fn listen(
    config: Rc<NodeConfig>,
    listener: TcpListener,
    answering: Answering,
    observer: Arc<Observer>,
) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: links must end before others begin.
                if let Some(held_back) = observer.trouble(Part::Link, "accept", "") {
                    tracing::error!(%error, held_back, "a link cannot be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (config, answering) = (Rc::clone(&config), answering.clone());
        let observer = Arc::clone(&observer);
        tokio::task::spawn_local(async move {
            if let Err(message) = answer(&config, stream, &answering).await
                && let Some(held_back) = observer.trouble(Part::Link, "link ended", from.ip())
            {
                tracing::warn!(%from, error = message, held_back, "a link ended");
            }
        });
    }
}

async fn answer(
    config: &NodeConfig,
    stream: TcpStream,
    answering: &Answering,
) -> Result<(), String> {
    let certificates = config.certificates.as_ref().ok_or("this node has no certificates")?;
    stream.set_nodelay(true).map_err(|error| chain(&error))?;
    let (stream, certified) = tokio::time::timeout(CONNECT, certificates.accept(stream))
        .await
        .map_err(|_late| "no TLS session in time".to_owned())?
        .map_err(|error| chain(&error))?;
    let pick = |theirs: &Hello| {
        let called = match theirs.to {
            Role::Manager => answering.manager.as_ref(),
            Role::Gate => answering.gate.as_ref(),
            Role::Client | Role::Worker => None,
        };
        let (identity, events) = called?;
        Some((config.hello(*identity, theirs.to, theirs.role), events.clone()))
    };
    let error = link::run(stream, End::Called(&pick), Some(&certified), None).await;
    if error.calls_back() {
        return Ok(());
    }
    Err(chain(&error))
}
