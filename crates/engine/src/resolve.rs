//! Addresses of hosts: looked up once a core, shared by its users.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyperscale_model::{Outcome, SplitMix};
use hyperscale_plan::{DnsFamily, DnsSelect, HttpSettings};
use tokio::sync::Mutex;

use crate::clock;
use crate::connection::Failure;
use crate::request::Origin;

/// How long a failed lookup is believed, so that a thousand users do not ask at once again.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// The names that a core has looked up.
#[derive(Debug)]
pub(crate) struct Resolver {
    settings: HttpSettings,
    /// The lock makes users wait for a lookup that is under way instead of starting another.
    names: RefCell<BTreeMap<String, Rc<Mutex<Option<Found>>>>>,
    turn: RefCell<usize>,
    source_turn: RefCell<usize>,
    random: RefCell<SplitMix>,
}

#[derive(Debug)]
struct Found {
    at: Instant,
    addresses: Result<Rc<[IpAddr]>, String>,
}

impl Resolver {
    pub(crate) fn new(settings: &HttpSettings) -> Self {
        Self {
            settings: settings.clone(),
            names: RefCell::default(),
            turn: RefCell::new(0),
            source_turn: RefCell::new(0),
            random: RefCell::new(SplitMix::new(0)),
        }
    }

    /// The addresses of an origin in the order in which they shall be tried.
    pub(crate) async fn resolve(&self, origin: &Origin) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = origin.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, origin.port)]);
        }
        let addresses = self.addresses(&origin.host).await;
        let addresses = addresses.map_err(|message| Failure::new(Outcome::Dns, message))?;
        let first = match self.settings.dns.select {
            DnsSelect::First => 0,
            DnsSelect::RoundRobin => {
                let mut turn = self.turn.borrow_mut();
                *turn = turn.wrapping_add(1);
                turn.wrapping_sub(1) % addresses.len()
            }
            DnsSelect::Random => {
                let drawn = self.random.borrow_mut().below(addresses.len() as u64);
                usize::try_from(drawn).unwrap_or(0)
            }
        };
        let in_order = addresses.iter().cycle().skip(first).take(addresses.len());
        Ok(in_order.map(|&address| SocketAddr::new(address, origin.port)).collect())
    }

    /// The local address to connect from, each in turn; `None` leaves it to the system.
    pub(crate) fn source(&self, to: SocketAddr) -> Option<IpAddr> {
        let fits = |source: &&IpAddr| source.is_ipv4() == to.is_ipv4();
        let count = self.settings.source_ips.iter().filter(fits).count();
        let mut turn = self.source_turn.borrow_mut();
        *turn = turn.wrapping_add(1);
        let at = turn.checked_rem(count)?;
        self.settings.source_ips.iter().filter(fits).nth(at).copied()
    }

    async fn addresses(&self, host: &str) -> Result<Rc<[IpAddr]>, String> {
        if let Some(fixed) = self.settings.resolve.get(host) {
            return self.of_family(host, fixed.iter().copied());
        }
        let name = {
            let mut names = self.names.borrow_mut();
            Rc::clone(names.entry(host.to_owned()).or_default())
        };
        let mut name = name.lock().await;
        let now = clock::now();
        if let Some(found) = &*name {
            let ttl = match found.addresses {
                Ok(_) => self.settings.dns.ttl,
                Err(_) => Some(FAILURE_TTL),
            };
            if ttl.is_none_or(|ttl| now.duration_since(found.at) < ttl) {
                return found.addresses.clone();
            }
        }
        let addresses = match tokio::net::lookup_host((host, 0)).await {
            Ok(found) => self.of_family(host, found.map(|address| address.ip())),
            Err(error) => Err(format!("`{host}` has no address: {error}")),
        };
        *name = Some(Found { at: now, addresses: addresses.clone() });
        addresses
    }

    fn of_family(
        &self,
        host: &str,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<Rc<[IpAddr]>, String> {
        let family = self.settings.dns.family;
        let mut wanted: Vec<IpAddr> = Vec::new();
        for address in addresses {
            let fits = match family {
                DnsFamily::Auto => true,
                DnsFamily::V4 => address.is_ipv4(),
                DnsFamily::V6 => address.is_ipv6(),
            };
            if fits && !wanted.contains(&address) {
                wanted.push(address);
            }
        }
        if wanted.is_empty() {
            return Err(format!("`{host}` has no address of the family that the test asks for"));
        }
        Ok(wanted.into())
    }
}
