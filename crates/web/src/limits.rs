//! How much a client may ask: a token bucket for each client and operation.

use std::net::IpAddr;
use std::time::Duration;

use hyperscale_model::ClientId;
use hyperscale_resilience::{Buckets, Rate};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    /// The holder of a token.
    Client(ClientId),
    /// Whoever sits at an address, as long as no token says who that is.
    Address(IpAddr),
}

/// What clients may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// How fast a client may ask for one thing; without a limit if absent.
    pub rate: Option<Rate>,
    /// The largest body of a request.
    pub body_bytes: usize,
    /// How long the head of a request may take, and how long a connection may idle before it.
    pub head_time: Duration,
    /// How long the body of a request may take; a large one gets a second more for each 128 KiB.
    pub body_time: Duration,
    /// How long an answer may take, other than a stream of events.
    pub answer_time: Duration,
    /// How long a client may take nothing of what it is sent.
    pub stall_time: Duration,
    /// Connections at once.
    pub connections: usize,
}

impl Limits {
    /// What holds unless it is set otherwise.
    pub const DEFAULT: Self = Self {
        rate: Some(Rate { burst: 100, per_second: 10 }),
        // A plan with its data, in base64.
        body_bytes: 96 << 20,
        head_time: Duration::from_secs(30),
        body_time: Duration::from_secs(30),
        answer_time: Duration::from_secs(60),
        stall_time: Duration::from_secs(30),
        connections: 1_000,
    };
}

/// Buckets by client and operation.
pub(crate) type RateLimiter = Buckets<(Asker, &'static str)>;

#[cfg(test)]
mod tests {
    use hyperscale_model::Time;

    use super::*;

    fn ann() -> Asker {
        Asker::Client(ClientId::from("ann"))
    }

    #[test]
    fn lim_01_clients_and_operations_do_not_share() {
        let mut limiter = RateLimiter::new(Rate { burst: 1, per_second: 1 }, 10);
        let now = Time::ZERO;
        let address = Asker::Address(IpAddr::from([127, 0, 0, 1]));

        assert!(limiter.take(now, (ann(), "list")).is_ok());
        assert!(limiter.take(now, (ann(), "list")).is_err());

        assert!(limiter.take(now, (ann(), "get")).is_ok());
        assert!(limiter.take(now, (Asker::Client(ClientId::from("eve")), "list")).is_ok());
        assert!(limiter.take(now, (address, "list")).is_ok());
    }
}
