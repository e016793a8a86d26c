//! Relays between nodes: connections that can be cut and slowed, without any privilege.
//!
//! A cut holds bytes back instead of closing connections, as a network does that loses every
//! packet: nobody is told, and what was on its way arrives once the cut is healed, if the nodes have
//! not given the connection up by then.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks on their way in one direction of a connection: with a delay of 100 ms up to 40 MiB/s.
const CHUNKS_MAX: usize = 256;
/// After a connection that cannot be accepted, for want of descriptors most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What becomes of the bytes between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weather {
    pub(super) is_cut: bool,
    pub(super) delay: Duration,
}

/// What one node calls in the place of another.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Relay {
    /// A relay to an address, on a port of its own. It ends with this value.
    pub(super) async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, known) = watch::channel(Weather::default());
        tokio::spawn(accept(listener, to, known));
        Ok(Self { address, weather })
    }

    pub(super) fn weather(&self) -> Weather {
        *self.weather.borrow()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, mut weather: watch::Receiver<Weather>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((caller, _)) => {
                    tokio::spawn(pass(caller, to, weather.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a relay cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            changed = weather.changed() => if changed.is_err() { return },
        }
    }
}

/// Waits until nothing is cut; `None` if the relay has ended.
async fn clear(weather: &mut watch::Receiver<Weather>) -> Option<()> {
    weather.wait_for(|weather| !weather.is_cut).await.ok().map(drop)
}

async fn pass(caller: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>) {
    if clear(&mut weather).await.is_none() {
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
        one_way(from_caller, to_called, weather.clone()),
        one_way(from_called, to_caller, weather),
    );
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let known = weather.clone();
    let reading = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
            chunk.truncate(read);
            let due = Instant::now() + known.borrow().delay;
            if sender.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            if clear(&mut weather).await.is_none() || to.write_all(&chunk).await.is_err() {
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

    /// Both ends of a relayed connection.
    async fn connected() -> (Relay, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(listener.local_addr().unwrap()).await.unwrap();
        let caller = TcpStream::connect(relay.address).await.unwrap();
        let (called, _) = listener.accept().await.unwrap();
        (relay, caller, called)
    }

    async fn read(from: &mut TcpStream) -> [u8; 4] {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_cut_holds_bytes_back_in_both_directions_until_it_is_healed() {
        let (relay, mut caller, mut called) = connected().await;
        relay.change(|weather| weather.is_cut = true);

        caller.write_all(b"ping").await.unwrap();
        called.write_all(b"pong").await.unwrap();
        let passed = tokio::time::timeout(SOON, async {
            tokio::select! {
                _ = read(&mut called) => {}
                _ = read(&mut caller) => {}
            }
        });

        assert!(passed.await.is_err(), "a byte came through a cut");
        relay.change(|weather| weather.is_cut = false);
        assert_eq!((&read(&mut called).await, &read(&mut caller).await), (b"ping", b"pong"));
    }

    #[tokio::test]
    async fn a_slow_connection_delays_bytes_and_keeps_their_order() {
        let (relay, mut caller, mut called) = connected().await;
        relay.change(|weather| weather.delay = SOON);
        let start = Instant::now();

        caller.write_all(b"ping").await.unwrap();
        caller.write_all(b"pong").await.unwrap();

        assert_eq!((&read(&mut called).await, &read(&mut called).await), (b"ping", b"pong"));
        assert!(start.elapsed() >= SOON, "it took {:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_end_of_a_node_is_seen_at_the_other_end() {
        let (_relay, mut caller, called) = connected().await;

        drop(called);

        assert_eq!(caller.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn to_whom_a_dead_node_is_called_the_connection_closes() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let relay = Relay::start(dead).await.unwrap();

        let mut caller = TcpStream::connect(relay.address).await.unwrap();

        assert_eq!(caller.read(&mut [0; 4]).await.unwrap(), 0);
    }
}
