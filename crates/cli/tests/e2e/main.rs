//! The real thing: processes, sockets, signals and disks, as people meet them.
//!
//! Every test starts what it needs, waits for conditions instead of for time, and ends what it has
//! started, whatever happens. `HYPERSCALE_E2E=long` makes the runs under faults as long as those
//! that guard a release.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; what it measured or skipped is told"
)]

mod bad_input;
mod chaos;
mod commands;
mod conservation;
mod faults;
mod gates;
mod jobs;
mod keys;
mod managers;
mod playground;
mod recorder;
mod system;
mod together;
mod traces;
