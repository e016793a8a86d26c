//! Whole systems in virtual time.
//!
//! A world holds the real roles with their ledgers, a network that carries real frames, disks that
//! outlive their nodes, a client that tries again, and engines that are modelled. Everything that
//! happens follows from one seed, so a seed replays a failure. Faults come first; then they end, and
//! everything must finish. Invariants are checked against a truth of the world's own.
//!
//! ```
//! let outcome = hyperscale_sim::run(1, &hyperscale_sim::Options::default());
//! assert_eq!(outcome.violation, None);
//! ```

mod client;
mod clock;
mod decided;
mod disk;
mod engine;
mod faults;
mod host;
mod mutation;
mod network;
mod oracle;
mod scenario;
mod world;

use std::fmt;
use std::time::Duration;

use hyperscale_model::Time;

pub use crate::mutation::Mutation;
use crate::world::World;

/// Which systems are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// One gate and one manager, with workers.
    #[default]
    Local,
    /// One to five gates and one to five datacenters, each of one to five managers and up to 20
    /// workers.
    Cluster,
    /// Three gates and two datacenters, each of three managers and four workers.
    Reference,
}

impl Kind {
    /// Its name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cluster => "cluster",
            Self::Reference => "reference",
        }
    }
}

/// How a world is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Which systems are drawn.
    pub kind: Kind,
    /// Whether faults happen.
    pub faults: bool,
    /// Whether the leading manager dies again and again, beside all other faults.
    pub falls: bool,
    /// Whether each event is printed.
    pub trace: bool,
    /// A rule that the system is made to break.
    pub mutation: Option<Mutation>,
}

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What must never happen and did.
    pub violation: Option<Violation>,
    /// How long the world lived.
    pub virtual_time: Duration,
    /// A hash of everything that happened: equal seeds give equal ones.
    pub trace: u64,
}

/// Something that must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// When.
    pub at: Time,
    /// What.
    pub what: String,
    /// The command that shows it again.
    pub replay: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, what, replay } = self;
        write!(f, "violation: seed {seed} at {at}: {what}\nreplay: {replay}")
    }
}

/// Lives through one seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Outcome {
    let life = || World::new(seed, options).run();
    // A world that panicked is not looked at again.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(life)) {
        Ok((broken, lived, trace)) => {
            let replay = replay(seed, options);
            let violation = broken.map(|(at, what)| Violation { seed, at, what, replay });
            Outcome { violation, virtual_time: lived - Time::ZERO, trace }
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            let what = format!("a role panicked: {text}");
            let replay = replay(seed, options);
            let violation = Some(Violation { seed, at: Time::ZERO, what, replay });
            Outcome { violation, virtual_time: Duration::ZERO, trace: 0 }
        }
    }
}

fn replay(seed: u64, options: &Options) -> String {
    let mut command =
        format!("cargo run --release -p hyperscale-sim -- --seeds {seed}..{}", seed + 1);
    if options.kind != Kind::Local {
        command += &format!(" --world {}", options.kind.as_str());
    }
    if let Some(mutation) = options.mutation {
        command += &format!(" --mutation {mutation}");
    }
    if options.falls {
        command += " --falls";
    }
    if !options.faults {
        command += " --no-faults";
    }
    command
}

#[expect(clippy::print_stdout, reason = "a trace is asked for")]
pub(crate) fn trace_line(now: Time, what: &str) {
    println!("{now} {what}");
}
