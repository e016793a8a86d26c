//! Flags of all commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::follow::Display;
use crate::terminal;

/// The exit codes as the help shows them; `docs/exit-codes.md` says more.
pub(crate) const EXIT_CODES: &str = "Exit codes:
    0  all well
   99  a threshold is broken
  102  the job's time was over
  104  the test, a flag or a setting is invalid
  105  somebody stopped it
  106  the API could not start
  108  the test stopped itself
  111  the job failed
  112  the gate cannot be reached, or refuses
  113  a file or directory cannot be used
  120  something that should not happen: please report it";

/// Distributed load testing: one test, on a laptop or over continents.
#[derive(Debug, Parser)]
#[command(name = "hyperscale", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is logged.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// What is logged to standard error: error, warn, info, debug, trace, or filters by module
    #[arg(long, global = true, env = "HYPERSCALE_LOG", default_value = "warn")]
    pub(crate) log: String,
    /// How: text or json
    #[arg(long, global = true, env = "HYPERSCALE_LOG_FORMAT", default_value = "text",
          value_parser = ["text", "json"])]
    pub(crate) log_format: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a test on this machine
    Run(Box<RunArgs>),
    /// Start a target and run a test against it, to see everything with nothing at hand
    Demo(DemoArgs),
    /// Serve a fast HTTP target that counts what it receives
    Target(TargetArgs),
    /// Check a test file
    Validate(ValidateArgs),
    /// Print the JSON Schema of test files
    Schema,
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale run http://127.0.0.1:8080 --vus 50 --duration 30s
  hyperscale run http://127.0.0.1:8080 --rate 500/s --duration 1m --out html=report.html
  hyperscale run test.yaml --set workflows.browse.load.max_vus=50")]
pub(crate) struct RunArgs {
    /// A test file, or a URL to send GET requests to
    #[arg(value_name = "FILE|URL")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) outputs: OutputArgs,
}

/// The load of a test that is a URL.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Users at once [default: 10]
    #[arg(long, short = 'c', value_name = "N", env = "HYPERSCALE_VUS")]
    pub(crate) vus: Option<u32>,
    /// How long [default: 10s]
    #[arg(
        long,
        short = 'd',
        short_alias = 'z',
        value_name = "DURATION",
        env = "HYPERSCALE_DURATION"
    )]
    pub(crate) duration: Option<String>,
    /// Starts per second, whatever the target does, such as 500/s
    #[arg(long, short = 'q', value_name = "RATE", env = "HYPERSCALE_RATE")]
    pub(crate) rate: Option<String>,
    /// So many requests in all, instead of for a time
    #[arg(long, short = 'n', value_name = "N", env = "HYPERSCALE_ITERATIONS")]
    pub(crate) iterations: Option<u64>,
    /// The method
    #[arg(long, short = 'm', value_name = "METHOD", default_value = "GET")]
    pub(crate) method: String,
    /// A header, such as 'accept: text/html'; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body
    #[arg(long, short = 'b', value_name = "TEXT")]
    pub(crate) body: Option<String>,
    /// Take any certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Override a value of the test, such as workflows.browse.load.vus=50; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Cores that send load [default: all]
    #[arg(long, value_name = "N", env = "HYPERSCALE_CORES")]
    pub(crate) cores: Option<u32>,
}

/// What is shown and written.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    /// Write a result, as json=PATH, csv=PATH, html=PATH or junit=PATH; may be repeated
    #[arg(long = "out", value_name = "KIND=PATH")]
    pub(crate) outs: Vec<String>,
    /// Show only the summary
    #[arg(long, env = "HYPERSCALE_QUIET")]
    pub(crate) quiet: bool,
    /// No colours; NO_COLOR says the same
    #[arg(long, env = "HYPERSCALE_NO_COLOR")]
    pub(crate) no_color: bool,
}

impl OutputArgs {
    /// How a job is shown as it runs.
    pub(crate) fn display(&self) -> Display {
        if self.quiet {
            Display::Quiet
        } else if terminal::is_there(self.is_colourless()) {
            Display::Screen
        } else {
            Display::Lines
        }
    }

    /// Whether colours are unwanted, by <https://no-color.org>.
    pub(crate) fn is_colourless(&self) -> bool {
        self.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
    }
}

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// How long
    #[arg(long, short = 'd', value_name = "DURATION", default_value = "20s")]
    pub(crate) duration: String,
    #[command(flatten)]
    pub(crate) outputs: OutputArgs,
}

/// Flags of `target`.
#[derive(Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// Where it listens
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        env = "HYPERSCALE_TARGET_LISTEN"
    )]
    pub(crate) listen: SocketAddr,
    /// Speak TLS, with a certificate made for the occasion
    #[arg(long)]
    pub(crate) tls: bool,
    /// Write that certificate here, so that clients can trust it
    #[arg(long, value_name = "PATH", requires = "tls")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Threads that serve [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// Flags of `validate`.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// The test file
    pub(crate) file: PathBuf,
    /// Override a value of the test; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) sets: Vec<String>,
}
