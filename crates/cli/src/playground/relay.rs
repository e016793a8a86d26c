//! Relays between nodes: connections and datagrams that can be cut, slowed and lost, without any
//! privilege.
//!
//! A cut holds the bytes of connections back instead of closing them, as a network does that loses
//! every packet: nobody is told, and what was on its way arrives once the cut is healed, if the nodes
//! have not given the connection up by then. A datagram is lost in a cut.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks on their way in one direction of a connection: with a delay of 100 ms up to 40 MiB/s.
const CHUNKS_MAX: usize = 256;
/// After a connection that cannot be accepted, for want of descriptors most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Most bytes of a datagram.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Datagrams on their way through one relay; more are lost.
const DATAGRAMS_MAX: usize = 1_024;
/// Ports that are tried for a relay of both kinds.
const PORTS_TRIED: usize = 20;

/// What becomes of what two nodes say to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weather {
    pub(super) is_cut: bool,
    pub(super) delay: Duration,
    /// Of 100 datagrams, how many are lost.
    pub(super) loss: u8,
}

/// Two nodes by their places, the lower first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair(usize, usize);

impl Pair {
    pub(super) fn of(one: usize, other: usize) -> Self {
        Self(one.min(other), one.max(other))
    }

    pub(super) const fn places(self) -> (usize, usize) {
        (self.0, self.1)
    }
}

/// The weather between those between whom it is not fair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sky(BTreeMap<Pair, Weather>);

impl Sky {
    fn between(&self, pair: Pair) -> Weather {
        self.0.get(&pair).copied().unwrap_or_default()
    }

    pub(super) fn change(&mut self, pair: Pair, change: impl FnOnce(&mut Weather)) {
        let mut weather = self.between(pair);
        change(&mut weather);
        if weather == Weather::default() {
            self.0.remove(&pair);
        } else {
            self.0.insert(pair, weather);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Pair, Weather)> {
        self.0.iter().map(|(pair, weather)| (*pair, *weather))
    }
}

/// What one node calls, and sends gossip to, in the place of another. Returns its address. It ends
/// with the sender of the weather.
pub(super) async fn relay(
    pair: Pair,
    to: SocketAddr,
    sky: watch::Receiver<Sky>,
) -> io::Result<SocketAddr> {
    let (listener, socket) = both().await?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, to, pair, sky.clone()));
    tokio::spawn(pass_datagrams(socket, to, sky, move |_| Some(pair)));
    Ok(address)
}

/// Where all others send a node their gossip, once they have heard of it. It knows them by the
/// addresses from which they send.
pub(super) async fn post(
    own: usize,
    to: SocketAddr,
    senders: Arc<BTreeMap<SocketAddr, usize>>,
    sky: watch::Receiver<Sky>,
) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    let pair = move |from| senders.get(&from).map(|&from| Pair::of(own, from));
    tokio::spawn(pass_datagrams(socket, to, sky, pair));
    Ok(address)
}

/// A port for connections and for datagrams.
async fn both() -> io::Result<(TcpListener, UdpSocket)> {
    let mut tried = 0;
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tried < PORTS_TRIED => {
                tried += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Passes datagrams on; those of nobody that is known are dropped.
async fn pass_datagrams(
    socket: UdpSocket,
    to: SocketAddr,
    mut sky: watch::Receiver<Sky>,
    pair: impl Fn(SocketAddr) -> Option<Pair>,
) {
    let socket = Arc::new(socket);
    let room = Arc::new(Semaphore::new(DATAGRAMS_MAX));
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            changed = sky.changed() => match changed {
                Ok(()) => continue,
                Err(_ended) => return,
            },
        };
        let (len, from) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "a relay cannot receive a datagram");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Some(weather) = pair(from).map(|pair| sky.borrow().between(pair)) else { continue };
        let Ok(room) = Arc::clone(&room).try_acquire_owned() else { continue };
        if weather.is_cut || is_lost(weather.loss) {
            continue;
        }
        let (socket, datagram) = (Arc::clone(&socket), buffer[..len].to_vec());
        tokio::spawn(async move {
            if !weather.delay.is_zero() {
                tokio::time::sleep(weather.delay).await;
            }
            if let Err(error) = socket.send_to(&datagram, to).await {
                tracing::debug!(%error, %to, "a relay reaches nobody");
            }
            drop(room);
        });
    }
}

/// Whether a datagram is among those of 100 that are lost.
fn is_lost(loss: u8) -> bool {
    // Without random numbers from the system nothing is lost.
    loss > 0 && getrandom::u32().is_ok_and(|random| random % 100 < u32::from(loss))
}

async fn accept(listener: TcpListener, to: SocketAddr, pair: Pair, mut sky: watch::Receiver<Sky>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((caller, _)) => {
                    tokio::spawn(pass(caller, to, pair, sky.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a relay cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            changed = sky.changed() => if changed.is_err() { return },
        }
    }
}

/// Waits until nothing is cut between two; `None` if the relay has ended.
async fn clear(pair: Pair, sky: &mut watch::Receiver<Sky>) -> Option<()> {
    sky.wait_for(|sky| !sky.between(pair).is_cut).await.ok().map(drop)
}

async fn pass(caller: TcpStream, to: SocketAddr, pair: Pair, mut sky: watch::Receiver<Sky>) {
    if clear(pair, &mut sky).await.is_none() {
        return;
    }
    let connected = async {
        let called = TcpStream::connect(to).await?;
        called.set_nodelay(true)?;
        caller.set_nodelay(true)?;
        Ok::<_, io::Error>(called)
    };
    let called = match connected.await {
        Ok(called) => called,
        // The caller's connection closes: to it the other node is gone, and so it is.
        Err(error) => return tracing::debug!(%error, %to, "a relay reaches nobody"),
    };
    let (from_caller, to_caller) = caller.into_split();
    let (from_called, to_called) = called.into_split();
    tokio::join!(
        one_way(from_caller, to_called, pair, sky.clone()),
        one_way(from_called, to_caller, pair, sky),
    );
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pair: Pair,
    mut sky: watch::Receiver<Sky>,
) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let known = sky.clone();
    let reading = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
            chunk.truncate(read);
            let due = Instant::now() + known.borrow().between(pair).delay;
            if sender.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            if clear(pair, &mut sky).await.is_none() || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        if let Err(error) = to.shutdown().await {
            tracing::trace!(%error, "the other end of a relayed connection is gone already");
        }
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Pair = Pair(0, 1);

    fn change(sky: &watch::Sender<Sky>, how: impl FnOnce(&mut Weather)) {
        sky.send_modify(|sky| sky.change(PAIR, how));
    }

    /// Both ends of a relayed connection.
    async fn connected() -> (watch::Sender<Sky>, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sky, known) = watch::channel(Sky::default());
        let relay = relay(PAIR, listener.local_addr().unwrap(), known).await.unwrap();
        let caller = TcpStream::connect(relay).await.unwrap();
        let (called, _) = listener.accept().await.unwrap();
        (sky, caller, called)
    }

    /// What sends to and hears from a relayed node, and the node.
    async fn spoken(is_post: bool) -> (watch::Sender<Sky>, UdpSocket, UdpSocket) {
        let bind = || UdpSocket::bind("127.0.0.1:0");
        let (sender, node) = (bind().await.unwrap(), bind().await.unwrap());
        let (sky, known) = watch::channel(Sky::default());
        let to = node.local_addr().unwrap();
        let address = match is_post {
            true => {
                let senders = Arc::new([(sender.local_addr().unwrap(), 1)].into());
                post(0, to, senders, known).await.unwrap()
            }
            false => relay(PAIR, to, known).await.unwrap(),
        };
        sender.connect(address).await.unwrap();
        (sky, sender, node)
    }

    /// The first bytes that come, if any do soon.
    async fn heard(node: &UdpSocket) -> Option<Vec<u8>> {
        let mut bytes = [0; 9];
        let read = tokio::time::timeout(3 * SOON, node.recv(&mut bytes)).await.ok()?.unwrap();
        Some(bytes[..read].to_vec())
    }

    #[tokio::test]
    async fn datagrams_pass_and_are_lost_in_a_cut() {
        for is_post in [false, true] {
            let (sky, sender, node) = spoken(is_post).await;
            sender.send(b"one").await.unwrap();
            assert_eq!(heard(&node).await.as_deref(), Some(&b"one"[..]));

            change(&sky, |weather| weather.is_cut = true);
            sender.send(b"two").await.unwrap();
            assert_eq!(heard(&node).await, None);

            change(&sky, |weather| *weather = Weather { loss: 100, ..Weather::default() });
            sender.send(b"three").await.unwrap();
            assert_eq!(heard(&node).await, None);

            change(&sky, |weather| *weather = Weather { delay: SOON, ..Weather::default() });
            let start = Instant::now();
            sender.send(b"four").await.unwrap();
            assert_eq!(heard(&node).await.as_deref(), Some(&b"four"[..]));
            assert!(start.elapsed() >= SOON, "it took {:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn a_node_hears_nobody_that_is_none() {
        let (_sky, sender, node) = spoken(true).await;
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();

        stranger.send_to(b"one", sender.peer_addr().unwrap()).await.unwrap();

        assert_eq!(heard(&node).await, None);
    }

    async fn read(from: &mut TcpStream) -> [u8; 4] {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_cut_holds_bytes_back_in_both_directions_until_it_is_healed() {
        let (sky, mut caller, mut called) = connected().await;
        change(&sky, |weather| weather.is_cut = true);

        caller.write_all(b"ping").await.unwrap();
        called.write_all(b"pong").await.unwrap();
        let passed = tokio::time::timeout(SOON, async {
            tokio::select! {
                _ = read(&mut called) => {}
                _ = read(&mut caller) => {}
            }
        });

        assert!(passed.await.is_err(), "a byte came through a cut");
        change(&sky, |weather| weather.is_cut = false);
        assert_eq!((&read(&mut called).await, &read(&mut caller).await), (b"ping", b"pong"));
    }

    #[tokio::test]
    async fn a_slow_connection_delays_bytes_and_keeps_their_order() {
        let (sky, mut caller, mut called) = connected().await;
        change(&sky, |weather| weather.delay = SOON);
        let start = Instant::now();

        caller.write_all(b"ping").await.unwrap();
        caller.write_all(b"pong").await.unwrap();

        assert_eq!((&read(&mut called).await, &read(&mut called).await), (b"ping", b"pong"));
        assert!(start.elapsed() >= SOON, "it took {:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_end_of_a_node_is_seen_at_the_other_end() {
        let (_sky, mut caller, called) = connected().await;

        drop(called);

        assert_eq!(caller.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn to_whom_a_dead_node_is_called_the_connection_closes() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (_sky, known) = watch::channel(Sky::default());
        let relay = relay(PAIR, dead, known).await.unwrap();

        let mut caller = TcpStream::connect(relay).await.unwrap();

        assert_eq!(caller.read(&mut [0; 4]).await.unwrap(), 0);
    }
}
