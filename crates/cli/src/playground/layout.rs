//! Which nodes a playground has, what they are called, and how each is started.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use hyperscale_model::Role;

/// The name of a playground's cluster.
pub(super) const CLUSTER: &str = "playground";
/// The datacenter in the certificates of gates, which stand in none.
pub(super) const OUTSIDE: &str = "local";
/// Lower ports than this belong to others.
const PORT_MIN: u16 = 20_000;

/// How large a playground is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) gates: u16,
    pub(super) datacenters: u16,
    /// Of each datacenter.
    pub(super) managers: u16,
    /// Of each datacenter.
    pub(super) workers: u16,
    /// Of each worker.
    pub(super) cores: u32,
}

/// A node that is to be.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) datacenter: Option<String>,
    /// The places of those that it calls: gates, or managers of its datacenter and others.
    pub(super) calls: Vec<usize>,
}

impl Shape {
    /// All nodes: gates, then each datacenter's managers and workers.
    pub(super) fn nodes(self) -> Vec<Planned> {
        let mut nodes = Vec::new();
        for gate in 0..self.gates {
            nodes.push(node(format!("gate-{gate}"), Role::Gate, None));
        }
        for datacenter in (0..self.datacenters).map(|number| format!("dc-{number}")) {
            for (role, count) in [(Role::Manager, self.managers), (Role::Worker, self.workers)] {
                let names = (0..count).map(|n| format!("{datacenter}-{}-{n}", role.as_str()));
                nodes.extend(names.map(|name| node(name, role, Some(datacenter.clone()))));
            }
        }
        let places = |role, datacenter: Option<&str>| -> Vec<usize> {
            let fits = |node: &Planned| {
                node.role == role
                    && (datacenter.is_none() || node.datacenter.as_deref() == datacenter)
            };
            (0..nodes.len()).filter(|&place| fits(&nodes[place])).collect()
        };
        let calls: Vec<Vec<usize>> = (nodes.iter().enumerate())
            .map(|(own, node)| {
                let gates = match node.role {
                    Role::Gate => places(Role::Gate, None),
                    Role::Manager | Role::Worker | Role::Client => Vec::new(),
                };
                let managers = places(Role::Manager, node.datacenter.as_deref());
                gates.into_iter().chain(managers).filter(|&place| place != own).collect()
            })
            .collect();
        nodes.iter_mut().zip(calls).for_each(|(node, calls)| node.calls = calls);
        nodes
    }
}

fn node(name: String, role: Role, datacenter: Option<String>) -> Planned {
    Planned { name, role, datacenter, calls: Vec::new() }
}

impl Planned {
    /// The name of the directory with its certificates.
    pub(super) fn certificates(&self) -> &str {
        self.datacenter.as_deref().unwrap_or(OUTSIDE)
    }

    /// Whether two gossip with each other: gates do, and the nodes of a datacenter.
    pub(super) fn gossips_with(&self, other: &Self) -> bool {
        self.datacenter == other.datacenter
    }

    /// The command line that starts it.
    pub(super) fn words(
        &self,
        directory: &Path,
        listen: SocketAddr,
        advertise: SocketAddr,
        api: Option<SocketAddr>,
        called: &[(Role, SocketAddr)],
        cores: u32,
    ) -> Vec<String> {
        let within = |parts: &[&str]| {
            let path = parts.iter().fold(directory.to_owned(), |path, part| path.join(part));
            path.display().to_string()
        };
        let of = |role: Role| -> String {
            let addresses = called.iter().filter(|(known, _)| *known == role);
            addresses.map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(",")
        };
        let mut words = vec![self.role.as_str().to_owned()];
        let mut flag = |name: &str, value: String| {
            if !value.is_empty() {
                words.extend([name.to_owned(), value]);
            }
        };
        flag("--cluster", CLUSTER.to_owned());
        flag("--datacenter", self.certificates().to_owned());
        flag("--certs", within(&["certificates", self.certificates()]));
        flag("--data-dir", within(&["data", &self.name]));
        flag("--log", "info".to_owned());
        flag("--listen", listen.to_string());
        flag("--advertise", advertise.to_string());
        flag("--api", api.map(|address| address.to_string()).unwrap_or_default());
        match self.role {
            Role::Gate => {
                flag("--gates", of(Role::Gate));
                flag("--join", of(Role::Manager));
                // Whoever plays asks more often than people do.
                flag("--api-rate", "10000".to_owned());
                flag("--api-burst", "10000".to_owned());
            }
            Role::Manager => flag("--peers", of(Role::Manager)),
            Role::Worker => {
                flag("--join", of(Role::Manager));
                flag("--cores", cores.to_string());
            }
            Role::Client => {}
        }
        words
    }
}

/// Ports that are free, each held until it is needed. They are none of those that connections get:
/// nodes find their places again when they come back.
pub(super) fn free_ports(count: usize, seed: u64) -> std::io::Result<Vec<TcpListener>> {
    let (first, last) = ephemeral();
    let range = if first > PORT_MIN + 1_000 { PORT_MIN..first } else { last..u16::MAX };
    let size = u64::from(range.end - range.start).max(1);
    // From somewhere, so that two playgrounds that start together do not meet.
    let from = seed % size;
    let ports = (0..size).filter_map(|step| {
        let step = u16::try_from((from + step) % size).ok()?;
        let address = (Ipv4Addr::LOCALHOST, range.start.checked_add(step)?);
        // Nodes gossip there, too.
        UdpSocket::bind(address).ok().and_then(|_free| TcpListener::bind(address).ok())
    });
    let found: Vec<TcpListener> = ports.take(count).collect();
    if found.len() < count {
        let message = format!("there are {} free ports, {count} are needed", found.len());
        return Err(std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, message));
    }
    Ok(found)
}

/// The ports that connections get, as Linux says, or as most systems have them.
fn ephemeral() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let read = text.ok().and_then(|text| {
        let mut words = text.split_whitespace().map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    read.unwrap_or((32_768, 60_999))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { gates: 3, datacenters: 2, managers: 3, workers: 2, cores: 1 };

    fn called_by(name: &str) -> Vec<String> {
        let nodes = SHAPE.nodes();
        let node = nodes.iter().find(|node| node.name == name).unwrap();
        node.calls.iter().map(|&place| nodes[place].name.clone()).collect()
    }

    #[test]
    fn each_node_calls_those_that_it_may() {
        assert_eq!(SHAPE.nodes().len(), 3 + 2 * (3 + 2));
        assert_eq!(called_by("gate-1")[..2], ["gate-0", "gate-2"]);
        assert_eq!(called_by("gate-1")[2..].len(), 6, "every manager");
        assert_eq!(called_by("dc-1-manager-1"), ["dc-1-manager-0", "dc-1-manager-2"]);
        let own = ["dc-0-manager-0", "dc-0-manager-1", "dc-0-manager-2"];
        assert_eq!(called_by("dc-0-worker-1"), own);
    }

    #[test]
    fn a_node_is_told_whom_it_calls_by_role() {
        let nodes = SHAPE.nodes();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let called = [(Role::Gate, at(1)), (Role::Gate, at(2)), (Role::Manager, at(3))];

        let words =
            nodes[0].words(Path::new("/p"), at(4), at(6), Some(at(5)), &called, 1).join(" ");

        assert!(words.starts_with("gate "), "{words}");
        assert!(words.contains("--gates 127.0.0.1:1,127.0.0.1:2 --join 127.0.0.1:3"), "{words}");
        assert!(words.contains("--data-dir /p/data/gate-0"), "{words}");
    }

    #[test]
    fn ports_differ_and_are_none_that_connections_get() {
        let ports = free_ports(20, 7).unwrap();

        let (first, last) = ephemeral();
        let numbers: std::collections::BTreeSet<u16> =
            ports.iter().map(|port| port.local_addr().unwrap().port()).collect();
        assert_eq!(numbers.len(), 20);
        assert!(numbers.iter().all(|port| *port < first || *port >= last), "{numbers:?}");
    }
}
