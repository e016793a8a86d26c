//! Datagrams between members, as bytes.
//!
//! ```text
//! format 1 | kind 1, its fields | sender | what is held of the receiver | records and metadata …
//! ```
//!
//! Numbers are big-endian. Decoding refuses what it does not know and never reads past the end.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyperscale_model::{Incarnation, NodeId, Version};

use crate::metadata::{Metadata, Versioned};
use crate::seal::PAYLOAD_BYTES_MAX;

const FORMAT: u8 = 1;
const RECORD: u8 = 1;
const METADATA: u8 = 2;

/// Which life of which node, and where it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: SocketAddr,
}

/// What one node believes of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) subject: Identity,
    pub(crate) belief: Belief,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    Alive,
    Suspect { accuser: NodeId },
    Dead,
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Who are you, and who else is there? `to` is where it was sent, so that the answer tells
    /// which configured address it is of.
    Join {
        to: SocketAddr,
    },
    Welcome {
        to: SocketAddr,
    },
    Ping {
        number: u64,
    },
    Ack {
        number: u64,
    },
    /// Ping the target for me.
    PingRequest {
        number: u64,
        target: NodeId,
    },
    /// The target of your request answered.
    Vouch {
        number: u64,
    },
    Gossip,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) kind: Kind,
    pub(crate) sender: Identity,
    /// The metadata that the sender holds of the receiver.
    pub(crate) held: Option<(Incarnation, Version)>,
    pub(crate) records: Vec<Record>,
    pub(crate) metadata: Vec<(NodeId, Versioned)>,
}

/// Bytes that are no datagram of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// A datagram that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(kind: Kind, sender: Identity, held: Option<(Incarnation, Version)>) -> Self {
        let mut writer = Self { bytes: vec![FORMAT] };
        match kind {
            Kind::Join { to } => writer.u8(1).address(to),
            Kind::Welcome { to } => writer.u8(2).address(to),
            Kind::Ping { number } => writer.u8(3).u64(number),
            Kind::Ack { number } => writer.u8(4).u64(number),
            Kind::PingRequest { number, target } => writer.u8(5).u64(number).u64(target.0),
            Kind::Vouch { number } => writer.u8(6).u64(number),
            Kind::Gossip => writer.u8(7),
        };
        writer.identity(sender);
        match held {
            Some((incarnation, version)) => writer.u8(1).u64(incarnation.0).u64(version.0),
            None => writer.u8(0),
        };
        writer
    }

    /// Adds a record if there is room.
    pub(crate) fn record(&mut self, record: &Record) -> bool {
        self.whole(|writer| {
            writer.u8(RECORD).identity(record.subject);
            match record.belief {
                Belief::Alive => writer.u8(1),
                Belief::Suspect { accuser } => writer.u8(2).u64(accuser.0),
                Belief::Dead => writer.u8(3),
                Belief::Left => writer.u8(4),
            };
        })
    }

    /// Adds metadata if there is room.
    pub(crate) fn metadata(&mut self, node: NodeId, of: &Versioned) -> bool {
        let bytes = of.metadata.as_bytes();
        let Ok(len) = u16::try_from(bytes.len()) else { return false };
        self.whole(|writer| {
            writer.u8(METADATA).u64(node.0).u64(of.incarnation.0).u64(of.version.0);
            writer.bytes.extend_from_slice(&len.to_be_bytes());
            writer.bytes.extend_from_slice(bytes);
        })
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn whole(&mut self, write: impl FnOnce(&mut Self)) -> bool {
        let before = self.bytes.len();
        write(self);
        let fits = self.bytes.len() <= PAYLOAD_BYTES_MAX;
        if !fits {
            self.bytes.truncate(before);
        }
        fits
    }

    fn identity(&mut self, identity: Identity) -> &mut Self {
        self.u64(identity.node.0).u64(identity.incarnation.0).address(identity.address)
    }

    fn address(&mut self, address: SocketAddr) -> &mut Self {
        match address.ip() {
            IpAddr::V4(ip) => {
                self.u8(4).bytes.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6).bytes.extend_from_slice(&ip.octets());
            }
        }
        self.bytes.extend_from_slice(&address.port().to_be_bytes());
        self
    }

    fn u8(&mut self, byte: u8) -> &mut Self {
        self.bytes.push(byte);
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }
}

impl Datagram {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader { rest: bytes };
        if reader.u8()? != FORMAT {
            return Err(Unreadable);
        }
        let kind = match reader.u8()? {
            1 => Kind::Join { to: reader.address()? },
            2 => Kind::Welcome { to: reader.address()? },
            3 => Kind::Ping { number: reader.u64()? },
            4 => Kind::Ack { number: reader.u64()? },
            5 => Kind::PingRequest { number: reader.u64()?, target: NodeId(reader.u64()?) },
            6 => Kind::Vouch { number: reader.u64()? },
            7 => Kind::Gossip,
            _ => return Err(Unreadable),
        };
        let sender = reader.identity()?;
        let held = match reader.u8()? {
            0 => None,
            1 => Some((Incarnation(reader.u64()?), Version(reader.u64()?))),
            _ => return Err(Unreadable),
        };
        let (mut records, mut metadata) = (Vec::new(), Vec::new());
        while !reader.rest.is_empty() {
            match reader.u8()? {
                RECORD => records.push(reader.record()?),
                METADATA => metadata.push(reader.metadata()?),
                _ => return Err(Unreadable),
            }
        }
        Ok(Self { kind, sender, held, records, metadata })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Unreadable)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Unreadable> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Unreadable> {
        self.take().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        self.take().map(u64::from_be_bytes)
    }

    fn address(&mut self) -> Result<SocketAddr, Unreadable> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.take::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)),
            _ => return Err(Unreadable),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    fn identity(&mut self) -> Result<Identity, Unreadable> {
        Ok(Identity {
            node: NodeId(self.u64()?),
            incarnation: Incarnation(self.u64()?),
            address: self.address()?,
        })
    }

    fn record(&mut self) -> Result<Record, Unreadable> {
        let subject = self.identity()?;
        let belief = match self.u8()? {
            1 => Belief::Alive,
            2 => Belief::Suspect { accuser: NodeId(self.u64()?) },
            3 => Belief::Dead,
            4 => Belief::Left,
            _ => return Err(Unreadable),
        };
        Ok(Record { subject, belief })
    }

    fn metadata(&mut self) -> Result<(NodeId, Versioned), Unreadable> {
        let node = NodeId(self.u64()?);
        let (incarnation, version) = (Incarnation(self.u64()?), Version(self.u64()?));
        let len = usize::from(self.u16()?);
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Unreadable)?;
        self.rest = rest;
        let metadata = Metadata::new(bytes.to_vec()).map_err(|_too_large| Unreadable)?;
        Ok((node, Versioned { incarnation, version, metadata }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
            (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
        ]
    }

    prop_compose! {
        fn identity()(node in any::<u64>(), incarnation in any::<u64>(), address in address())
            -> Identity
        {
            Identity { node: NodeId(node), incarnation: Incarnation(incarnation), address }
        }
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            address().prop_map(|to| Kind::Join { to }),
            address().prop_map(|to| Kind::Welcome { to }),
            any::<u64>().prop_map(|number| Kind::Ping { number }),
            any::<u64>().prop_map(|number| Kind::Ack { number }),
            any::<(u64, u64)>()
                .prop_map(|(number, target)| Kind::PingRequest { number, target: NodeId(target) }),
            any::<u64>().prop_map(|number| Kind::Vouch { number }),
            Just(Kind::Gossip),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let belief = prop_oneof![
            Just(Belief::Alive),
            any::<u64>().prop_map(|accuser| Belief::Suspect { accuser: NodeId(accuser) }),
            Just(Belief::Dead),
            Just(Belief::Left),
        ];
        (identity(), belief).prop_map(|(subject, belief)| Record { subject, belief })
    }

    fn metadata() -> impl Strategy<Value = (NodeId, Versioned)> {
        let bytes = prop::collection::vec(any::<u8>(), 0..512);
        (any::<[u64; 3]>(), bytes).prop_map(|([node, incarnation, version], bytes)| {
            let metadata = Metadata::new(bytes).unwrap();
            let (incarnation, version) = (Incarnation(incarnation), Version(version));
            (NodeId(node), Versioned { incarnation, version, metadata })
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            kind in kind(),
            sender in identity(),
            held in prop::option::of(any::<(u64, u64)>()),
            records in prop::collection::vec(record(), 0..60),
            metadata in prop::collection::vec(metadata(), 0..4),
        ) {
            let held = held.map(|(a, b)| (Incarnation(a), Version(b)));
            let mut writer = Writer::new(kind, sender, held);
            let records: Vec<Record> =
                records.into_iter().filter(|record| writer.record(record)).collect();
            let metadata: Vec<(NodeId, Versioned)> =
                metadata.into_iter().filter(|(node, of)| writer.metadata(*node, of)).collect();
            let bytes = writer.finish();

            prop_assert!(bytes.len() <= PAYLOAD_BYTES_MAX);
            let read = Datagram::decode(&bytes);
            prop_assert_eq!(read, Ok(Datagram { kind, sender, held, records, metadata }));
        }

        #[test]
        fn sec_04_no_bytes_make_decoding_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..1_200),
        ) {
            drop(Datagram::decode(&bytes));
        }

        #[test]
        fn sec_04_cut_datagrams_are_refused_or_shorter(
            sender in identity(),
            records in prop::collection::vec(record(), 1..9),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut writer = Writer::new(Kind::Gossip, sender, None);
            records.iter().for_each(|record| assert!(writer.record(record)));
            let bytes = writer.finish();

            let read = Datagram::decode(&bytes[..cut.index(bytes.len())]);

            prop_assert!(read.is_err() || read.unwrap().records.len() < records.len());
        }
    }
}
