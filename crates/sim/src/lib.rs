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
#[cfg(test)]
mod directed;
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
    /// The second at which all faults end, if that is earlier than the seed says.
    pub calm: Option<u64>,
    /// Kinds of fault that are left out, by bits; see [`fault_names`].
    pub without: u32,
    /// Faults that are left out, by bits.
    pub skip: u128,
}

/// The kinds of fault, in the order of the bits of [`Options::without`].
#[must_use]
pub const fn fault_names() -> &'static [&'static str] {
    &crate::scenario::Faults::NAMES
}

/// Looks for a shorter schedule under which a seed still fails: an earlier calm, fewer kinds of
/// fault, fewer faults. Whatever fails is as good as what failed first.
#[must_use]
pub fn shrink(seed: u64, options: &Options) -> Options {
    let fails = |options: &Options| run(seed, options).violation.is_some();
    let mut best = *options;
    let attempt = |changed: Options, best: &mut Options| {
        let is_better = fails(&changed);
        if is_better {
            *best = changed;
        }
        is_better
    };
    for second in [5, 10, 20, 40, 60, 90, 120, 180, 240, 300, 360] {
        if attempt(Options { calm: Some(second), ..best }, &mut best) {
            break;
        }
    }
    for kind in 0..fault_names().len() {
        attempt(Options { without: best.without | 1 << kind, ..best }, &mut best);
    }
    for width in [32, 16, 8, 4, 2, 1] {
        for from in (0..u128::BITS as usize).step_by(width) {
            let all = if width == 128 { u128::MAX } else { (1u128 << width) - 1 };
            let skip = best.skip | all << from;
            if skip != best.skip {
                attempt(Options { skip, ..best }, &mut best);
            }
        }
    }
    best
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
    if let Some(calm) = options.calm {
        command += &format!(" --calm {calm}");
    }
    let names = fault_names().iter().enumerate();
    let left_out = names.filter(|(bit, _)| options.without >> bit & 1 == 1);
    let left_out: Vec<&str> = left_out.map(|(_, name)| *name).collect();
    if !left_out.is_empty() {
        command += &format!(" --without {}", left_out.join(","));
    }
    if options.skip != 0 {
        command += &format!(" --skip {:x}", options.skip);
    }
    command
}

#[expect(clippy::print_stdout, reason = "a trace is asked for")]
pub(crate) fn trace_line(now: Time, what: &str) {
    println!("{now} {what}");
}
