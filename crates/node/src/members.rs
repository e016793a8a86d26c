//! Who is alive, beside the links: one socket for the gossip of all roles of a process.
//!
//! Gates gossip among themselves, managers and workers within their datacenter. A datagram's first
//! byte says for which of the two it is; the rest is sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyperscale_membership::{Config, DATAGRAM_BYTES_MAX, Input, Keys, MemberState, Metadata};
use hyperscale_model::{Incarnation, NodeId, Role};
use hyperscale_wire::{SOFTWARE, decode_value, encode_value};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use crate::discovery::{LOOK_EVERY, LOOK_SOON, pause};
use crate::drive::NodeError;
use crate::gossip::{Gossip, Notice, Port};
use crate::observe::{Count, Observer, Part};
use crate::storage::{Identity, Storage};
use crate::{NodeConfig, discovery, io, keys};

/// Datagrams that may wait for a role.
const QUEUE: usize = 1_024;

/// The cluster of a role.
fn tag_of(role: Role) -> u8 {
    match role {
        Role::Gate | Role::Client => 0,
        Role::Manager | Role::Worker => 1,
    }
}

/// The socket of a process, and who gets what comes.
pub(crate) struct Members {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    /// What datagrams are sealed with, of all roles.
    keys: watch::Receiver<Keys>,
    routes: Vec<(u8, mpsc::Sender<Vec<u8>>)>,
}

/// What a member says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct SaidOfItself {
    role: Role,
    datacenter: String,
    software: String,
    /// Of a worker.
    cores: u32,
}

/// Tells of a member that is new, or is something else than it was.
fn tell_what_it_says(node: NodeId, metadata: &[u8]) {
    match decode_value::<SaidOfItself>(metadata) {
        Ok(SaidOfItself { role, datacenter, software, cores }) => {
            tracing::info!(%node, %role, datacenter, software, cores, "a member says what it is");
            if software != SOFTWARE {
                tracing::warn!(%node, theirs = software, ours = SOFTWARE, "members of two versions");
            }
        }
        // Of another version, perhaps, that says it in another way.
        Err(error) => {
            tracing::warn!(%node, %error, "what a member says of itself is not understood")
        }
    }
}

/// What a role's host holds of its membership.
#[derive(Debug, Clone)]
pub(crate) struct Evidence(mpsc::Sender<Input>);

impl Evidence {
    /// A link to a node is down: a reason to look at once.
    pub(crate) fn link_closed(&self, node: NodeId) {
        if self.0.try_send(Input::LinkClosed { node }).is_err() {
            tracing::debug!(%node, "membership is busy or gone");
        }
    }

    pub(crate) fn leave(&self) {
        if self.0.try_send(Input::Leave).is_err() {
            tracing::debug!("membership is busy or gone");
        }
    }
}

impl Members {
    /// Takes a socket, if this process is to take part in gossip, and looks after its keys.
    pub(crate) async fn open(
        config: &NodeConfig,
        observer: &Arc<Observer>,
    ) -> Result<Option<Self>, NodeError> {
        let peers: Vec<&String> =
            config.join.iter().chain(&config.peers).chain(&config.gates).collect();
        let Some((directory, held)) = config.certificates.as_ref().and_then(|c| c.gossip()) else {
            return Ok(None);
        };
        if config.listen.is_none() && peers.is_empty() {
            return Ok(None);
        }
        let bind = config.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let socket = UdpSocket::bind(bind).await;
        let socket = socket.map_err(|source| NodeError::Listen { address: bind, source })?;
        let mut address = socket.local_addr().map_err(io("the socket has no address"))?;
        if address.ip().is_unspecified() {
            address.set_ip(own_ip(&peers).await);
        }
        let (changed, keys) = watch::channel(held.keys());
        keys::show(held, observer);
        let (directory, held) = (directory.to_owned(), held.clone());
        let follow = keys::follow(directory, held, changed, Arc::clone(observer));
        tokio::task::spawn_local(follow);
        let address = config.advertise.unwrap_or(address);
        Ok(Some(Self { socket: Arc::new(socket), address, keys, routes: Vec::new() }))
    }

    /// Has a role take part. `tell` hears of nodes that are dead or have left.
    pub(crate) fn join(
        &mut self,
        config: &NodeConfig,
        storage: &Storage,
        (role, identity): (Role, Identity),
        observer: &Arc<Observer>,
        tell: impl Fn(NodeId) + 'static,
    ) -> Result<Option<Evidence>, NodeError> {
        let (cluster, seeds): (String, Vec<String>) = match role {
            Role::Gate | Role::Client => ("gates".to_owned(), config.gates.clone()),
            Role::Manager | Role::Worker => {
                let seeds = config.peers.iter().chain(&config.join).cloned().collect();
                (format!("datacenter/{}", config.datacenter), seeds)
            }
        };
        // A manager waits to be called, a lone gate has nobody to hear of, and a worker beside its
        // manager lives and dies with it.
        let is_covered = role == Role::Worker && config.roles.contains(&Role::Manager);
        if is_covered || (seeds.is_empty() && role != Role::Manager) {
            return Ok(None);
        }
        let cluster = format!("{}/{}/{cluster}", config.cluster, config.environment);
        let name = role.as_str();
        let stored = storage.gossip_incarnation(name)?;
        let mut settings = Config::new(identity.node, self.address, stored);
        if role == Role::Gate {
            settings.reap_after = Config::REAP_GATES;
        }
        let (route, datagrams) = mpsc::channel(QUEUE);
        self.routes.push((tag_of(role), route));
        let port = Port { socket: Arc::clone(&self.socket), tag: tag_of(role), datagrams };
        let store = {
            let storage = storage.clone();
            Box::new(move |incarnation: Incarnation| {
                storage.put_gossip_incarnation(name, incarnation)
            })
        };
        let clock = observer.clock();
        let (gossip, handle) = Gossip::new(
            settings,
            &cluster,
            self.keys.clone(),
            port,
            clock,
            store,
            Arc::clone(observer),
        )?;
        let inputs = handle.inputs;
        let said = |error: &dyn std::error::Error| NodeError::Config(crate::gate::chain(error));
        let cores = if role == Role::Worker { config.cores } else { 0 };
        let (datacenter, software) = (config.datacenter.to_string(), SOFTWARE.to_owned());
        let said_of_itself = SaidOfItself { role, datacenter, software, cores };
        let metadata = encode_value(&said_of_itself).map_err(|error| said(&error))?;
        let metadata = Metadata::new(metadata).map_err(|error| said(&error))?;
        tokio::task::spawn_local(resolve(seeds, inputs.clone(), metadata));
        tokio::task::spawn_local(async move {
            if let Err(error) = gossip.run().await {
                tracing::error!(error = crate::gate::chain(&error), "this node gossips no more");
            }
        });
        let (mut notices, observer) = (handle.notices, Arc::clone(observer));
        tokio::task::spawn_local(async move {
            let mut standing: BTreeMap<NodeId, Count> = BTreeMap::new();
            while let Some(notice) = notices.recv().await {
                let (node, state) = match notice {
                    Notice::Stands { node, state, .. } => (node, state),
                    Notice::Says { node, metadata } => {
                        tell_what_it_says(node, metadata.as_bytes());
                        continue;
                    }
                };
                if let Some(before) = standing.remove(&node) {
                    observer.less(before);
                }
                if let Some(now) = Count::members(state) {
                    observer.count(now);
                    standing.insert(node, now);
                }
                match state {
                    MemberState::Dead => {
                        observer.count(Count::MemberDead);
                        tell(node);
                    }
                    MemberState::Left => tell(node),
                    MemberState::Suspect => observer.count(Count::MemberSuspected),
                    MemberState::Alive => observer.count(Count::MemberAlive),
                    MemberState::Unconfirmed => {}
                }
            }
        });
        Ok(Some(Evidence(inputs)))
    }

    /// Gives each datagram to the role that it is for.
    pub(crate) async fn receive(self, observer: Arc<Observer>) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 2];
        loop {
            let len = match self.socket.recv_from(&mut buffer).await {
                Ok((len, _)) => len,
                Err(error) => {
                    // Another's trouble, mostly: a datagram of ours that nobody took.
                    if let Some(held_back) = observer.trouble(Part::Link, "datagrams", "") {
                        tracing::debug!(%error, held_back, "a datagram cannot be received");
                    }
                    continue;
                }
            };
            let Some((tag, sealed)) = buffer[..len].split_first() else { continue };
            for (_, route) in self.routes.iter().filter(|(known, _)| known == tag) {
                if route.try_send(sealed.to_vec()).is_err() {
                    observer.count(Count::DatagramDropped);
                }
            }
        }
    }
}

/// Resolves the names of peers, again and again: they may move.
async fn resolve(seeds: Vec<String>, inputs: mpsc::Sender<Input>, metadata: Metadata) {
    if inputs.send(Input::SetMetadata(metadata)).await.is_err() {
        return;
    }
    loop {
        let mut addresses = BTreeSet::new();
        let mut is_whole = true;
        for seed in &seeds {
            match discovery::addresses(seed).await {
                Ok(found) => addresses.extend(found),
                Err(error) => {
                    is_whole = false;
                    tracing::debug!(%seed, %error, "a peer's name has no address");
                }
            }
        }
        if inputs.send(Input::Peers(addresses)).await.is_err() {
            return; // The node has left.
        }
        pause(if is_whole { LOOK_EVERY } else { LOOK_SOON }).await;
    }
}

/// An address of TEST-NET-1 (RFC 5737), to which every machine with a default route has a way.
const ANYWHERE: &str = "192.0.2.1:9";

/// The address by which this machine reaches others is the one they reach it by: towards the first
/// peer that has an address already, else towards anywhere. A machine without a way to anything is
/// reached from itself only.
async fn own_ip(peers: &[&String]) -> IpAddr {
    let others = peers.iter().map(|peer| peer.as_str());
    for other in others.chain((!peers.is_empty()).then_some(ANYWHERE)) {
        match way_to(other).await {
            Ok(ip) => return ip,
            Err(error) => tracing::debug!(%error, other, "no way there yet"),
        }
    }
    IpAddr::from([127, 0, 0, 1])
}

/// The address of this machine towards another; nothing is sent.
async fn way_to(other: &str) -> std::io::Result<IpAddr> {
    let addresses = discovery::addresses(other).await?;
    let Some(address) = addresses.first() else {
        return Err(std::io::Error::other("it names nobody"));
    };
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(address).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_whose_first_peer_has_no_address_yet_gossips_all_the_same() {
        let (nowhere, here) = ("no-such-host.invalid:1".to_owned(), "127.0.0.1:1".to_owned());

        assert_eq!(own_ip(&[&nowhere, &here]).await, IpAddr::from([127, 0, 0, 1]));
        assert!(!own_ip(&[&nowhere]).await.is_unspecified(), "by its default route, or itself");
        assert_eq!(own_ip(&[]).await, IpAddr::from([127, 0, 0, 1]), "nobody is to be reached");
    }
}
