//! Settings of a member.

use core::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyperscale_model::{Incarnation, NodeId};

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// An address in it.
    pub address: IpAddr,
    /// How many leading bits all of its addresses share.
    pub prefix_bits: u8,
}

impl AddressRange {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (32, u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => (128, u128::from(v6)),
        };
        let ((width, mine), (other_width, other)) = (bits(self.address), bits(address));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits.min(width))).unwrap_or(0);
        width == other_width && mine & mask == other & mask
    }
}

/// Settings of a member.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Where other members reach it.
    pub address: SocketAddr,
    /// The last incarnation that was stored, of an earlier life; this life takes the next one.
    pub stored_incarnation: Incarnation,
    /// How often a member is probed by this node. Shorter finds deaths sooner and costs traffic.
    pub probe_period: Duration,
    /// How long a direct answer may take before others are asked; well below the period.
    pub probe_timeout: Duration,
    /// How many others are asked.
    pub indirect_probes: usize,
    /// How long a suspect has without confirmations, at good local health. Longer forgives longer
    /// pauses and finds deaths later.
    pub suspicion_base: Duration,
    /// The shortest suspicion.
    pub suspicion_min: Duration,
    /// The longest suspicion.
    pub suspicion_max: Duration,
    /// Between rounds of gossip while there is news.
    pub gossip_period: Duration,
    /// How many members hear of it in a round.
    pub gossip_fanout: usize,
    /// When a peer that never answered is warned about.
    pub warn_after: Duration,
    /// How long the dead are remembered.
    pub reap_after: Duration,
    /// How long a node that leaves goes on telling so.
    pub leave_for: Duration,
    /// Where members may be. Empty: anywhere.
    pub allowed: Vec<AddressRange>,
}

impl Config {
    /// How long gates remember their dead.
    pub const REAP_GATES: Duration = Duration::from_secs(120);
    /// How long managers and workers remember theirs.
    pub const REAP_DATACENTER: Duration = Duration::from_secs(900);

    /// The defaults, with the longer memory of datacenters.
    #[must_use]
    pub const fn new(node: NodeId, address: SocketAddr, stored_incarnation: Incarnation) -> Self {
        Self {
            node,
            address,
            stored_incarnation,
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(450),
            indirect_probes: 3,
            suspicion_base: Duration::from_secs(4),
            suspicion_min: Duration::from_millis(1_500),
            suspicion_max: Duration::from_secs(8),
            gossip_period: Duration::from_millis(200),
            gossip_fanout: 3,
            warn_after: Duration::from_secs(60),
            reap_after: Self::REAP_DATACENTER,
            leave_for: Duration::from_secs(2),
            allowed: Vec::new(),
        }
    }

    pub(crate) fn allows(&self, address: SocketAddr) -> bool {
        let is_listed = self.allowed.iter().any(|range| range.contains(address.ip()));
        let is_possible = !address.ip().is_unspecified() && address.port() != 0;
        is_possible && (self.allowed.is_empty() || is_listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_04_ranges_contain_their_own() {
        let rows = [
            ("10.0.0.0", 8, "10.255.1.2", true),
            ("10.0.0.0", 8, "11.0.0.0", false),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("0.0.0.0", 0, "192.168.0.1", true),
            ("0.0.0.0", 0, "::1", false),
            ("fd00::", 8, "fd12::1", true),
            ("fd00::", 8, "fe80::1", false),
        ];
        for (range, prefix_bits, address, expected) in rows {
            let range = AddressRange { address: range.parse().unwrap(), prefix_bits };
            assert_eq!(
                range.contains(address.parse().unwrap()),
                expected,
                "{address} in {range:?}"
            );
        }
    }
}
