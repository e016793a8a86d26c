//! Who is in a cluster: SWIM without sockets and clocks.
//!
//! A [`Membership`] is one node's view of its cluster: the gates, or the managers and workers of one
//! datacenter. It is driven like a role: inputs in, outputs out, time passed in, randomness from a
//! seed. A [`Sealer`] stands between it and the socket.
//!
//! ```text
//! Unconfirmed ─► Alive ⇄ Suspect ─► Dead | Left ─► forgotten
//! ```
//!
//! - A peer that is configured or that others speak of is *unconfirmed*: it is contacted, and never
//!   suspected, until a datagram or a frame of its own arrives.
//! - Nobody dies without having been suspect first. A suspect that lives says so by a higher
//!   incarnation, which is stored before it is used.
//! - Of each (node, incarnation) a state is told once, whether it was seen or heard of.
//! - What a dead incarnation says is refused; the node has to raise it, and is then new.
//!
//! It knows nothing of roles, links, ledgers or what is done about a death. Addresses are those of
//! `core::net`, in which there are no sockets: they are read, told and compared, never opened.
//!
//! The algorithm is that of Das, Gupta, Motivala ("SWIM", 2002) with suspicion, and with Lifeguard
//! (2017) for the waits. It differs in how views are mended: each probe and its answer carry a few
//! records in turn, so the traffic of a node does not grow with its cluster.
//!
//! ```
//! use hyperscale_membership::{Config, Input, MemberState, Membership, Output};
//! use hyperscale_model::{Incarnation, NodeId, Time};
//!
//! let address = |last| core::net::SocketAddr::from(([10, 0, 0, last], 7400));
//! let member = |n: u8| {
//!     let config = Config::new(NodeId(n.into()), address(n), Incarnation::NONE);
//!     Membership::new(config, Time::ZERO, n.into())
//! };
//! let (mut one, mut two) = (member(1), member(2));
//! one.handle(Time::ZERO, Input::Peers([address(2)].into()));
//! let now = one.next_deadline().unwrap();
//! one.handle(now, Input::Tick);
//! for output in one.drain() {
//!     if let Output::Datagram { bytes, .. } = output {
//!         two.handle(now, Input::Datagram { from: NodeId(1), bytes });
//!     }
//! }
//! assert_eq!(two.member(NodeId(1)).unwrap().state, MemberState::Alive);
//! ```

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod broadcasts;
mod config;
mod datagram;
mod health;
mod limit;
mod membership;
mod metadata;
mod seal;
mod suspicion;

pub use config::{AddressRange, Config};
pub use membership::{Event, Input, MemberState, MemberView, Membership, Output, Refusal};
pub use metadata::{METADATA_BYTES_MAX, Metadata, MetadataError, Versioned};
pub use seal::{
    ClusterKey, DATAGRAM_BYTES_MAX, KeyId, KeyPlace, Keys, OpenError, Opened, PAYLOAD_BYTES_MAX,
    SealError, Sealer,
};
