//! Links: streams of frames between two nodes that may stall, break and come back.
//!
//! A link's connection has a number. Frames of one connection arrive in order; when it breaks,
//! whatever is on its way is gone, unless the seed lets some of it straggle in later. Each end
//! learns of the break by itself, or when the next connection takes the place of the last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{NodeId, SplitMix, Time};

/// A frame on its way.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) connection: u64,
    pub(crate) sender_life: u64,
    pub(crate) receiver_life: u64,
    pub(crate) bytes: Vec<u8>,
    /// Whether it comes outside its connection's order.
    pub(crate) is_straggler: bool,
}

/// A way between two nodes, the first of which opens it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    /// The connection that the opening end has, or is about to have.
    pub(crate) connection: Option<u64>,
    pub(crate) is_dialing: bool,
    /// When the last frame of each direction arrives.
    last_arrival: [Time; 2],
    /// Frames that a cut holds back, by direction.
    held: [Vec<Frame>; 2],
    /// What slowness adds to each frame.
    pub(crate) slowness: Duration,
}

/// All links, and what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<(NodeId, NodeId), Link>,
    /// Directions in which nothing passes.
    pub(crate) cuts: BTreeSet<(NodeId, NodeId)>,
    /// Connections that are broken, whether or not their ends know.
    pub(crate) broken: BTreeSet<u64>,
    /// The life of each end of each connection: no later one ever hears what is sent on it.
    pub(crate) lives: BTreeMap<(u64, NodeId), u64>,
    /// Share of frames that have to be sent again.
    pub(crate) loss: f64,
    connections: u64,
}

impl Network {
    pub(crate) fn add(&mut self, dialer: NodeId, acceptor: NodeId, delay: Duration) {
        let link = Link {
            delay,
            connection: None,
            is_dialing: false,
            last_arrival: [Time::ZERO; 2],
            held: [Vec::new(), Vec::new()],
            slowness: Duration::ZERO,
        };
        self.links.insert((dialer, acceptor), link);
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// The link between two nodes, with its ends in order and the direction of `from`.
    fn way(&mut self, from: NodeId, to: NodeId) -> Option<(&mut Link, usize)> {
        if self.links.contains_key(&(from, to)) {
            return self.links.get_mut(&(from, to)).map(|link| (link, 0));
        }
        self.links.get_mut(&(to, from)).map(|link| (link, 1))
    }

    /// A number for the next connection, whose frames owe nothing to the ones before.
    pub(crate) fn connect(&mut self, now: Time, dialer: NodeId, acceptor: NodeId) -> u64 {
        self.connections += 1;
        let number = self.connections;
        if let Some(link) = self.links.get_mut(&(dialer, acceptor)) {
            link.connection = Some(number);
            link.last_arrival = [now; 2];
            link.held = [Vec::new(), Vec::new()];
        }
        number
    }

    /// When a frame that is sent now arrives, in its connection's order.
    pub(crate) fn arrival(
        &mut self,
        random: &mut SplitMix,
        now: Time,
        from: NodeId,
        to: NodeId,
    ) -> Option<Time> {
        let loss = self.loss;
        let (link, direction) = self.way(from, to)?;
        let mut delay = link.delay + link.slowness;
        let spread = u64::try_from(link.delay.as_nanos()).unwrap_or(u64::MAX);
        delay += Duration::from_nanos(random.below(spread));
        if loss > 0.0 && random.chance(loss) {
            delay += Duration::from_millis(200 + random.below(1_300)); // Sent again by the stream.
        }
        let arrival = (now + delay).max(link.last_arrival[direction] + Duration::from_nanos(1));
        link.last_arrival[direction] = arrival;
        Some(arrival)
    }

    /// Keeps a frame until nothing cuts its way any more.
    pub(crate) fn hold(&mut self, frame: Frame) {
        if let Some((link, direction)) = self.way(frame.from, frame.to) {
            link.held[direction].push(frame);
        }
    }

    /// The frames that were held back and may go on now.
    pub(crate) fn release(&mut self) -> Vec<Frame> {
        let cuts = &self.cuts;
        let mut released = Vec::new();
        for (&(a, b), link) in &mut self.links {
            for (direction, way) in [(a, b), (b, a)].into_iter().enumerate() {
                if !cuts.contains(&way) {
                    released.append(&mut link.held[direction]);
                }
            }
        }
        released
    }
}
