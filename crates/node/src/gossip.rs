//! Membership on a real socket: opens and seals datagrams, and keeps its time.
//!
//! The loop never waits for whoever reads its notices, since a member that stands still is taken for
//! dead. What they have not yet read is bounded by the changes that can happen meanwhile.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use hyperscale_membership::{
    Config, Event, Input, Keys, MemberState, Membership, Metadata, OpenError, Output, Sealer,
};
use hyperscale_model::{Incarnation, NodeId};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::drive::NodeError;
use crate::observe::{Count, Observer, Part};
use crate::storage::random;

/// Inputs and notices that may wait.
const QUEUE: usize = 1_024;
/// Datagrams that are read before outputs are looked at.
const BATCH: usize = 64;

/// What the rest of a node hears of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A member stands differently.
    Stands {
        /// Which.
        node: NodeId,
        /// Which life of it.
        incarnation: Incarnation,
        /// How.
        state: MemberState,
    },
    /// A member says something else of itself.
    Says {
        /// Which.
        node: NodeId,
        /// What.
        metadata: Metadata,
    },
}

/// Writes an incarnation to disk, and returns when it is there.
pub type StoreIncarnation = Box<dyn FnMut(Incarnation) -> Result<(), NodeError>>;

/// A member's share of a process's socket.
#[derive(Debug)]
pub struct Port {
    /// The socket.
    pub socket: Arc<UdpSocket>,
    /// The first byte of its datagrams, which says for whom they are.
    pub tag: u8,
    /// What came for it, without that byte.
    pub datagrams: mpsc::Receiver<Vec<u8>>,
}

/// The node's side of its membership.
#[derive(Debug)]
pub struct Handle {
    /// What happens: peers, links, metadata, leaving.
    pub inputs: mpsc::Sender<Input>,
    /// What became of it.
    pub notices: mpsc::Receiver<Notice>,
}

/// A membership and its socket.
pub struct Gossip {
    port: Port,
    sealer: Sealer,
    keys: watch::Receiver<Keys>,
    membership: Membership,
    clock: Clock,
    store: StoreIncarnation,
    inputs: mpsc::Receiver<Input>,
    notices: mpsc::Sender<Notice>,
    unread: VecDeque<Notice>,
    observer: Arc<Observer>,
    has_left: bool,
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Gossip {
    /// A member that speaks through this port, sealed with whatever the keys are at the time.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub fn new(
        config: Config,
        cluster: &str,
        mut keys: watch::Receiver<Keys>,
        port: Port,
        clock: Clock,
        store: StoreIncarnation,
        observer: Arc<Observer>,
    ) -> Result<(Self, Handle), NodeError> {
        let (to_inputs, inputs) = mpsc::channel(QUEUE);
        let (notices, from_notices) = mpsc::channel(QUEUE);
        let first = keys.borrow_and_update().clone();
        let sealer = Sealer::new(cluster, first, config.node, random()?);
        let gossip = Self {
            port,
            sealer,
            keys,
            membership: Membership::new(config, clock.now(), random()?),
            clock,
            store,
            inputs,
            notices,
            unread: VecDeque::new(),
            observer,
            has_left: false,
        };
        Ok((gossip, Handle { inputs: to_inputs, notices: from_notices }))
    }

    /// Takes part until it has left, or nobody holds its handle.
    ///
    /// # Errors
    ///
    /// If an incarnation cannot be stored: without that it may not go on.
    pub async fn run(mut self) -> Result<(), NodeError> {
        self.flush().await?;
        while !self.has_left {
            let due = self.membership.next_deadline();
            tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => self.membership.handle(self.clock.now(), input),
                    None => return Ok(()),
                },
                received = self.port.datagrams.recv() => {
                    let Some(datagram) = received else { return Ok(()) };
                    if self.keys.has_changed().is_ok_and(|changed| changed) {
                        self.take_keys(); // Before anything is opened with others.
                    }
                    self.on_received(&datagram);
                    for _ in 1..BATCH {
                        let Ok(datagram) = self.port.datagrams.try_recv() else { break };
                        self.on_received(&datagram);
                    }
                }
                permit = self.notices.clone().reserve_owned(), if !self.unread.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(notice) = self.unread.pop_front() {
                            drop(permit.send(notice)); // The sender comes back.
                        }
                    }
                    Err(_closed) => return Ok(()),
                },
                // Once nobody changes them any more, they stay as they are.
                Ok(()) = self.keys.changed() => self.take_keys(),
                () = self.clock.sleep_until(due) => {}
            }
            let now = self.clock.now();
            if self.membership.next_deadline().is_some_and(|due| due <= now) {
                self.membership.handle(now, Input::Tick);
            }
            self.flush().await?;
        }
        while let Some(notice) = self.unread.pop_front() {
            if self.notices.send(notice).await.is_err() {
                break; // Nobody wants to know.
            }
        }
        Ok(())
    }

    fn take_keys(&mut self) {
        self.sealer.change_keys(self.keys.borrow_and_update().clone());
    }

    fn on_received(&mut self, datagram: &[u8]) {
        match self.sealer.open(self.clock.wall(), datagram) {
            Ok(opened) => {
                self.observer.count(Count::opened(opened.key));
                let input = Input::Datagram { from: opened.from, bytes: opened.payload };
                self.membership.handle(self.clock.now(), input);
            }
            Err(OpenError::UnknownKey(key)) => {
                self.observer.count(Count::DatagramUnknownKey);
                // Whose it is nobody can tell: the sender is known by what cannot be opened.
                if let Some(held_back) = self.observer.trouble(Part::Link, "unknown key", "") {
                    warn!(%key, held_back, "a datagram was sealed with a key that is not known here");
                }
            }
            Err(error) => {
                self.observer.count(Count::DatagramRefused);
                debug!(%error, "datagram refused");
            }
        }
    }

    /// Carries out what the membership wants done, in its order.
    async fn flush(&mut self) -> Result<(), NodeError> {
        for output in self.membership.drain() {
            match output {
                Output::StoreIncarnation(incarnation) => {
                    (self.store)(incarnation)?;
                }
                Output::Datagram { to, bytes } => self.send(to, &bytes).await,
                Output::Member { node, incarnation, state } => {
                    info!(%node, incarnation = incarnation.0, ?state, "member changed");
                    self.unread.push_back(Notice::Stands { node, incarnation, state });
                }
                Output::Metadata { node, said } => {
                    self.unread.push_back(Notice::Says { node, metadata: said.metadata });
                }
                // No role keeps anything by a member's id that its link does not take away.
                Output::Forgotten { node } => debug!(%node, "member forgotten"),
                Output::Event(Event::LeaveTold) => self.has_left = true,
                Output::Event(Event::Silent { address, node }) => {
                    warn!(%address, ?node, "peer has never answered");
                }
                Output::Event(Event::Refused { node, reason }) => {
                    debug!(%node, ?reason, "message of a member refused");
                }
                Output::Event(event) => info!(?event, "membership"),
            }
        }
        Ok(())
    }

    async fn send(&mut self, to: SocketAddr, payload: &[u8]) {
        match self.sealer.seal(self.clock.wall(), payload) {
            Ok(sealed) => {
                let mut datagram = vec![self.port.tag];
                datagram.extend_from_slice(&sealed);
                // Like a loss: whoever is probed has to be reached in another way.
                if let Err(error) = self.port.socket.send_to(&datagram, to).await {
                    debug!(%to, %error, "datagram not sent");
                }
            }
            Err(error) => debug!(%to, %error, "datagram not sealed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use hyperscale_membership::{ClusterKey, Metadata};
    use tokio::task::JoinHandle;

    use super::*;

    struct Member {
        handle: Handle,
        address: SocketAddr,
        task: JoinHandle<Result<(), NodeError>>,
        seen: BTreeMap<NodeId, MemberState>,
        observer: Arc<Observer>,
    }

    /// The only port of a socket.
    fn alone(socket: UdpSocket) -> Port {
        let (route, datagrams) = mpsc::channel(QUEUE);
        let socket = Arc::new(socket);
        let port = Port { socket: Arc::clone(&socket), tag: 7, datagrams };
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 2_000];
            while let Ok((len, _)) = socket.recv_from(&mut buffer).await {
                if route.send(buffer[1.min(len)..len].to_vec()).await.is_err() {
                    return;
                }
            }
        });
        port
    }

    async fn member(node: u64, clock: Clock, tune: fn(&mut Config)) -> Member {
        let (changes, keys) = watch::channel(Keys::only(ClusterKey::new(&[7; 32])));
        drop(changes); // They stay as they are.
        member_with(keys, node, clock, tune).await
    }

    async fn member_with(
        keys: watch::Receiver<Keys>,
        node: u64,
        clock: Clock,
        tune: fn(&mut Config),
    ) -> Member {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let observer = Observer::start();
        let mut config = Config::new(NodeId(node), address, Incarnation::NONE);
        tune(&mut config);
        let store = Box::new(|_| Ok(()));
        let (gossip, handle) =
            Gossip::new(config, "dc-a", keys, alone(socket), clock, store, Arc::clone(&observer))
                .unwrap();
        let task = tokio::task::spawn_local(gossip.run());
        Member { handle, address, task, seen: BTreeMap::new(), observer }
    }

    impl Member {
        /// Reads notices until this is so.
        async fn until(&mut self, node: u64, state: MemberState) {
            let is_so = async {
                while self.seen.get(&NodeId(node)) != Some(&state) {
                    let notice = self.handle.notices.recv().await.unwrap();
                    if let Notice::Stands { node, state, .. } = notice {
                        self.seen.insert(node, state);
                    }
                }
            };
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, is_so).await.unwrap_or_else(|_| {
                panic!("node {node} is not {state:?} after {limit:?}: {:?}", self.seen)
            });
        }
    }

    fn counted(observer: &Observer, name: &str) -> u64 {
        let text = observer.text();
        let count = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    #[tokio::test]
    async fn mem_02_member_that_is_gone_is_seen_dead_over_sockets() {
        tokio::task::LocalSet::new()
            .run_until(async {
                // Five times as fast, so that the test is.
                let tune = |config: &mut Config| {
                    config.probe_period /= 5;
                    config.probe_timeout /= 5;
                    config.suspicion_base /= 5;
                    config.suspicion_min /= 5;
                    config.suspicion_max /= 5;
                };
                let clock = Clock::start();
                let mut all = Vec::new();
                for node in 1..=3 {
                    all.push(member(node, clock, tune).await);
                }
                let addresses: Vec<SocketAddr> = all.iter().map(|one| one.address).collect();
                for one in &all {
                    let peers = Input::Peers(addresses.iter().copied().collect());
                    one.handle.inputs.send(peers).await.unwrap();
                }
                let cores = Metadata::new(b"cores: 8".to_vec()).unwrap();
                all[2].handle.inputs.send(Input::SetMetadata(cores.clone())).await.unwrap();
                let [one, two, three] = &mut all[..] else { panic!("not three") };
                for (member, others) in [(one, [2, 3]), (two, [1, 3]), (three, [1, 2])] {
                    for other in others {
                        member.until(other, MemberState::Alive).await;
                    }
                }

                all[2].task.abort();
                all[0].until(3, MemberState::Dead).await;
                all[1].until(3, MemberState::Dead).await;

                assert_eq!(all[0].seen[&NodeId(2)], MemberState::Alive);
                assert_eq!(all[1].seen[&NodeId(1)], MemberState::Alive);

                all[0].handle.inputs.send(Input::Leave).await.unwrap();
                all[1].until(1, MemberState::Left).await;
                let left = tokio::time::timeout(Duration::from_secs(10), &mut all[0].task).await;
                left.unwrap().unwrap().unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn sec_04_garbage_is_counted_and_changes_nothing() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let mut one = member(1, Clock::start(), |_| {}).await;
                let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                for len in 0..200 {
                    stranger.send_to(&vec![7; len * 10], one.address).await.unwrap();
                    tokio::task::yield_now().await;
                }

                let observer = Arc::clone(&one.observer);
                let fate = |fate| {
                    counted(&observer, &format!("hyperscale_datagrams_total{{fate=\"{fate}\"}}"))
                };
                // Some may be lost on their way; its task has the thread between two looks.
                let most = async {
                    while fate("refused") + fate("unknown_key") < 100 {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(20), most).await.unwrap();
                assert!(one.handle.notices.try_recv().is_err(), "garbage changed something");
            })
            .await;
    }
    #[tokio::test]
    async fn sec_03_keys_change_while_members_talk_and_nobody_is_missed() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let tune = |config: &mut Config| {
                    config.probe_period /= 5;
                };
                let key = |byte| ClusterKey::new(&[byte; 32]);
                let clock = Clock::start();
                let (change_one, keys) = watch::channel(Keys::only(key(1)));
                let mut one = member_with(keys, 1, clock, tune).await;
                let (change_two, keys) = watch::channel(Keys::only(key(1)));
                let mut two = member_with(keys, 2, clock, tune).await;
                let peers = Input::Peers([one.address, two.address].into());
                one.handle.inputs.send(peers.clone()).await.unwrap();
                two.handle.inputs.send(peers).await.unwrap();
                one.until(2, MemberState::Alive).await;
                two.until(1, MemberState::Alive).await;
                let next = Keys { next: Some(key(2)), ..Keys::only(key(1)) };
                let used = Keys { previous: Some(key(1)), ..Keys::only(key(2)) };
                let opened = |member: &Member, key| {
                    let name = "hyperscale_gossip_datagrams_opened_total";
                    counted(&member.observer, &format!("{name}{{key=\"{key}\"}}"))
                };
                let hears = async |member: &Member, key| {
                    let before = opened(member, key);
                    let more = async {
                        while opened(member, key) == before {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    };
                    let heard = tokio::time::timeout(Duration::from_secs(20), more).await;
                    assert!(heard.is_ok(), "nothing more was opened with the {key} key");
                };

                change_one.send_replace(next.clone());
                hears(&one, "current").await;
                change_two.send_replace(next);
                change_one.send_replace(used.clone());
                hears(&one, "previous").await;
                hears(&two, "next").await;
                change_two.send_replace(used);
                hears(&one, "current").await;
                change_one.send_replace(Keys::only(key(2)));
                hears(&one, "current").await;
                hears(&two, "current").await;

                for member in [&one, &two] {
                    let unknown = "hyperscale_datagrams_total{fate=\"unknown_key\"}";
                    assert_eq!(counted(&member.observer, unknown), 0, "a key was missing");
                }
                assert!(one.handle.notices.try_recv().is_err(), "the other was suspected");
                assert!(two.handle.notices.try_recv().is_err(), "the other was suspected");

                // Who misses all of it is heard no more, and it is told.
                change_two.send_replace(Keys::only(key(1)));
                one.until(2, MemberState::Dead).await;
                let unknown = "hyperscale_datagrams_total{fate=\"unknown_key\"}";
                assert!(counted(&one.observer, unknown) > 0, "nobody sees why");
            })
            .await;
    }
}
