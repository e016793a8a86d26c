//! The load engine's HTTP/1.1 client: requests as bytes that are made once, answers parsed in place.
//!
//! One write and one read a request on a kept connection; bodies are counted and dropped. It
//! allocates for redirects, failures and heads that come in pieces; nothing measures that yet. All connections of a core read into one buffer. Executors and
//! virtual users are not here yet.

mod clock;
mod connection;
mod request;
mod tls;

pub use connection::{Answer, Connection, Failure, Opened, SCRATCH_BYTES};
pub use request::{Origin, Ready};
pub use tls::connector;
