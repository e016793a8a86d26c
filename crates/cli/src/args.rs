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
  106  an address cannot be listened on
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
    /// Serve a gate, a manager and a worker, for workers and clients to join
    Serve(Box<ServeArgs>),
    /// Serve a gate that calls the managers of its datacenters
    Gate(Box<ServeArgs>),
    /// Serve a manager that workers and gates call
    Manager(Box<ServeArgs>),
    /// Serve a worker that calls its manager
    Worker(Box<ServeArgs>),
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Cert(CertCommand),
    /// Submit a test to a gate
    Submit(Box<SubmitArgs>),
    /// List the jobs of a gate
    Jobs(ListArgs),
    /// Show how a job is
    Status(JobArgs),
    /// Follow a job to its end
    Watch(WatchArgs),
    /// Stop a job, or one workflow of it
    Cancel(CancelArgs),
    /// Show the results of an ended job
    Results(WatchArgs),
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

/// Flags of `serve`, `gate`, `manager` and `worker`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale serve --listen 0.0.0.0:7700 --api 127.0.0.1:7780 --data-dir /var/lib/hyperscale
  hyperscale worker --join 10.0.0.5:7700 --certs /etc/hyperscale/certs")]
pub(crate) struct ServeArgs {
    /// What this process is: gate, manager, worker [default: by the command; all for serve]
    #[arg(long, value_name = "ROLES", value_delimiter = ',', env = "HYPERSCALE_ROLES",
          value_parser = ["gate", "manager", "worker"])]
    pub(crate) roles: Vec<String>,
    /// Where other nodes call this one
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// The manager that this node calls; may be repeated
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_JOIN", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// Where the HTTP API listens [default: 127.0.0.1:7780 for a gate]
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_API")]
    pub(crate) api: Option<SocketAddr>,
    /// Who may use the API, as NAME:ROLE:TOKEN with the roles view, run and admin; may be repeated
    #[arg(
        long = "token",
        value_name = "NAME:ROLE:TOKEN",
        env = "HYPERSCALE_TOKENS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) tokens: Vec<String>,
    /// The directory with ca.pem, node.pem and node.key [default: throwaway ones for development]
    #[arg(long, value_name = "DIR", env = "HYPERSCALE_CERTS")]
    pub(crate) certs: Option<PathBuf>,
    /// Where everything is kept that must outlive the process [default: nothing does]
    #[arg(long, value_name = "DIR", env = "HYPERSCALE_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The cluster's name
    #[arg(long, default_value = "hyperscale", env = "HYPERSCALE_CLUSTER")]
    pub(crate) cluster: String,
    /// The environment within the cluster
    #[arg(long, default_value = "default", env = "HYPERSCALE_ENVIRONMENT")]
    pub(crate) environment: String,
    /// The datacenter that this node stands in
    #[arg(long, default_value = "local", env = "HYPERSCALE_DATACENTER")]
    pub(crate) datacenter: String,
    /// Cores that its worker offers [default: all]
    #[arg(long, value_name = "N", env = "HYPERSCALE_CORES")]
    pub(crate) cores: Option<u32>,
}

/// What `cert` makes.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make the cluster's certificate authority
    Init {
        /// Where it is written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The cluster's name
        #[arg(long, default_value = "hyperscale", env = "HYPERSCALE_CLUSTER")]
        cluster: String,
    },
    /// Make a node's certificate
    Node {
        /// The directory of the authority
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Where it is written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What the node may be: gate, manager, worker
        #[arg(long, value_name = "ROLES", value_delimiter = ',', required = true,
              value_parser = ["gate", "manager", "worker"])]
        roles: Vec<String>,
        /// The datacenter that it stands in
        #[arg(long, default_value = "local", env = "HYPERSCALE_DATACENTER")]
        datacenter: String,
        /// The cluster's name
        #[arg(long, default_value = "hyperscale", env = "HYPERSCALE_CLUSTER")]
        cluster: String,
    },
}

/// Which gate, and who asks it.
#[derive(Debug, clap::Args)]
pub(crate) struct GateArgs {
    /// The gate's API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7780", env = "HYPERSCALE_GATE")]
    pub(crate) gate: String,
    /// The token for it
    #[arg(long, value_name = "TOKEN", env = "HYPERSCALE_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,
}

/// Flags of `submit`.
#[derive(Debug, clap::Args)]
pub(crate) struct SubmitArgs {
    /// A test file, or a URL to send GET requests to
    #[arg(value_name = "FILE|URL")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    /// Follow the job to its end
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) outputs: OutputArgs,
}

/// Flags of `jobs`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    /// How: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) output: String,
}

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// The job
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// Flags of `watch` and `results`.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// The job
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    #[command(flatten)]
    pub(crate) outputs: OutputArgs,
}

/// Flags of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The job
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    /// One workflow instead of the whole job
    #[arg(long, value_name = "NAME")]
    pub(crate) workflow: Option<String>,
    /// Cut running requests instead of letting them finish
    #[arg(long)]
    pub(crate) now: bool,
}
