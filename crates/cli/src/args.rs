//! Flags of all commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hyperscale_model::NodeId;
use hyperscale_node::OtlpEndpoint;

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
  114  ping got no answer
  120  something that should not happen: please report it";

/// Distributed load testing: one test, on a laptop or over continents.
#[derive(Debug, Parser)]
#[command(name = "hyperscale", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
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

/// Where settings come from that are no flags.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// A TOML file with settings; variables go before it, flags before both
    #[arg(long, global = true, value_name = "FILE", env = "HYPERSCALE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Print the effective settings with the origin of each, and do nothing else
    #[arg(long, global = true)]
    pub(crate) print_config: bool,
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
    Gate(Box<NodeArgs>),
    /// Serve a manager that workers and gates call
    Manager(Box<NodeArgs>),
    /// Serve a worker that calls its manager
    Worker(Box<NodeArgs>),
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Cert(CertCommand),
    /// Submit a test to a gate
    Submit(Box<SubmitArgs>),
    /// List the jobs of a gate
    Jobs(JobsArgs),
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
    /// List the nodes that a gate knows of
    Nodes(ListArgs),
    /// Show how a cluster is: its gates, its datacenters, who owns the jobs
    #[command(
        subcommand,
        after_help = "Examples:
  hyperscale cluster status --gate 10.0.0.5:7780,10.0.1.5:7780
  hyperscale cluster status --output json"
    )]
    Cluster(ClusterCommand),
    /// Print the JSON Schema of test files
    #[command(after_help = "Examples:
  hyperscale schema > hyperscale.schema.json")]
    Schema,
    /// Write a first test file from a template
    New(NewArgs),
    /// Show what a test would do, without doing it
    Plan(PlanArgs),
    /// Send one request and show every detail of it
    Ping(PingArgs),
    /// Start a whole cluster on this machine, to break it and watch
    Playground(Box<PlaygroundArgs>),
    /// Print what a shell needs to complete this command's words
    Completions(CompletionsArgs),
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale run http://127.0.0.1:8080 --vus 50 --duration 30s
  hyperscale run http://127.0.0.1:8080 --rate 500/s --duration 1m --out html=report.html
  hyperscale run test.yaml --vus 5 --duration 10s
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

/// The load of a test that is a URL; for a file, what these flags say goes before what it says.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Users at once [default: 10; the file's]
    #[arg(long, short = 'c', value_name = "N", env = "HYPERSCALE_VUS")]
    pub(crate) vus: Option<u32>,
    /// How long [default: 10s; the file's]
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
    /// The method, of a URL [default: GET]
    #[arg(long, short = 'm', value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// A header, such as 'accept: text/html'; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body, of a URL
    #[arg(long, short = 'b', value_name = "TEXT")]
    pub(crate) body: Option<String>,
    /// Take any certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Override a value of the test, such as workflows.browse.load.vus=50; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Cores that send load, of one worker [default: all of this machine]
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
#[command(after_help = "Examples:
  hyperscale demo
  hyperscale demo --duration 5s --out html=demo.html")]
pub(crate) struct DemoArgs {
    /// How long
    #[arg(long, short = 'd', value_name = "DURATION", default_value = "20s")]
    pub(crate) duration: String,
    #[command(flatten)]
    pub(crate) outputs: OutputArgs,
}

/// Flags of `target`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale target
  hyperscale target --listen 127.0.0.1:8443 --tls --tls-ca ca.pem")]
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
#[command(after_help = "Examples:
  hyperscale validate test.yaml
  hyperscale validate test.yaml --set workflows.browse.load.vus=50")]
pub(crate) struct ValidateArgs {
    /// The test file
    pub(crate) file: PathBuf,
    /// Override a value of the test; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) sets: Vec<String>,
}

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = NODE_EXAMPLES)]
pub(crate) struct ServeArgs {
    /// What this process is: gate, manager, worker [default: all]
    #[arg(long, value_name = "ROLES", value_delimiter = ',', env = "HYPERSCALE_ROLES",
          value_parser = ["gate", "manager", "worker"])]
    pub(crate) roles: Vec<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

const NODE_EXAMPLES: &str = "Examples:
  hyperscale serve --listen 0.0.0.0:7700 --api 127.0.0.1:7780 --data-dir /var/lib/hyperscale
  hyperscale worker --join 10.0.0.5:7700 --certs /etc/hyperscale/certs
  hyperscale serve --config hyperscale.toml --print-config";

/// Flags of `serve`, `gate`, `manager` and `worker`.
#[derive(Debug, clap::Args)]
#[command(after_help = NODE_EXAMPLES)]
pub(crate) struct NodeArgs {
    /// Where other nodes call this one; where a worker hears gossip
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where other nodes are to send this one's gossip, behind a translation of addresses [default:
    /// where it listens]
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_ADVERTISE")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Managers that this node calls: HOST:PORT, with every address of a name, or @FILE that lists them,
    /// one a line, and is read again and again; may be repeated
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_JOIN", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// The other gates of the cluster, 2 or 4; may be repeated
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_GATES", value_delimiter = ',')]
    pub(crate) gates: Vec<String>,
    /// The other managers of this one's datacenter, 2 or 4; may be repeated
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_PEERS", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// Where the HTTP API listens [default: 127.0.0.1:7780 for a gate]
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_API")]
    pub(crate) api: Option<SocketAddr>,
    /// Where metrics are shown, for a node without a gate; a gate's API has them at /metrics
    #[arg(long, value_name = "ADDRESS", env = "HYPERSCALE_METRICS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Where traces of jobs are sent: OTLP over HTTP, such as http://localhost:4318 [default: nowhere]
    #[arg(long, value_name = "URL", env = "HYPERSCALE_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<OtlpEndpoint>,
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
    #[command(flatten)]
    pub(crate) timers: TimerArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Times of a node. They are checked together at start.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Times")]
pub(crate) struct TimerArgs {
    /// The length of a window of statistics
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration,
          env = "HYPERSCALE_WINDOW")]
    pub(crate) window: Duration,
    /// How long a worker sends load without hearing from its leader
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration,
          env = "HYPERSCALE_EXECUTION_LEASE")]
    pub(crate) execution_lease: Duration,
    /// How often a worker asks for that lease
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration,
          env = "HYPERSCALE_RENEWAL")]
    pub(crate) renewal: Duration,
    /// How long a leader's authority outlives its last contact with a majority
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration,
          env = "HYPERSCALE_LEADER_LEASE")]
    pub(crate) leader_lease: Duration,
    /// The shortest silence before an election, more than twice a round trip; the longest is twice
    /// that
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration,
          env = "HYPERSCALE_ELECTION")]
    pub(crate) election: Duration,
    /// How long an ended job stays at hand
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration,
          env = "HYPERSCALE_RETENTION")]
    pub(crate) retention: Duration,
    /// How long running load may go on once the node is told to leave
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration,
          env = "HYPERSCALE_DRAIN")]
    pub(crate) drain: Duration,
    /// After how long a gate or a manager that is not there gives its vote to a spare; of gates [default:
    /// never]
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "HYPERSCALE_REAP_VOTERS_AFTER")]
    pub(crate) reap_voters_after: Option<Duration>,
}

/// What clients of the API may cost.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits of the API")]
pub(crate) struct LimitArgs {
    /// Requests per second for ever, for each client and operation
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..),
          env = "HYPERSCALE_API_RATE")]
    pub(crate) api_rate: u32,
    /// Requests at once after a rest, for each client and operation
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..),
          env = "HYPERSCALE_API_BURST")]
    pub(crate) api_burst: u32,
    /// Connections of clients at once
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..),
          env = "HYPERSCALE_API_CONNECTIONS")]
    pub(crate) api_connections: u32,
}

/// A duration as test files have them.
fn duration(text: &str) -> Result<Duration, String> {
    hyperscale_plan::parse_duration(text).map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })
}

/// What `cert` makes.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  hyperscale cert init --out ca --cluster blue
  hyperscale cert node --ca ca --out eu-1 --roles manager,worker --datacenter eu --cluster blue
  hyperscale cert revoke --ca ca eu-1/node.pem")]
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
        /// How long it is valid; other nodes refuse it afterwards
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(..=36500))]
        days: u32,
    },
    /// Have a node's certificate count no more: adds it to the authority's file `revoked`
    Revoke {
        /// The directory of the authority
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The certificate, a node's `node.pem`
        #[arg(value_name = "FILE")]
        certificate: PathBuf,
    },
}

/// Which gate, and who asks it.
#[derive(Debug, clap::Args)]
pub(crate) struct GateArgs {
    /// The API of a gate, or of several of a cluster: whoever answers serves; may be repeated
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7780",
        env = "HYPERSCALE_GATE",
        value_delimiter = ','
    )]
    pub(crate) gate: Vec<String>,
    /// The token for it
    #[arg(long, value_name = "TOKEN", env = "HYPERSCALE_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,
}

/// Flags of `submit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale submit test.yaml --watch
  hyperscale submit test.yaml --gate 10.0.0.5:7780 --vus 200 --duration 5m")]
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
#[command(after_help = "Examples:
  hyperscale jobs --gate 10.0.0.5:7780
  hyperscale nodes --output json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    /// How: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) output: String,
}

/// What can be asked about a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show who takes part, whether anything can be decided, and if not why
    Status(ListArgs),
    /// Have a gate or a manager that is lost for good vote no more, so that a spare takes its place
    Remove(RemoveArgs),
    /// Have a node leave once it has handed over what it does, and wait until it is gone
    Drain(DrainArgs),
    /// Change the key of gossip in directories with certificates; nodes read it as they run
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// What is done about the keys of gossip.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
EXAMPLES:
  hyperscale cluster keys list ca certs-*
  hyperscale cluster keys next ca certs-*     then wait until all nodes know the next key
  hyperscale cluster keys use ca certs-*      then wait until all nodes use it
  hyperscale cluster keys drop ca certs-*

Name the directories of all nodes, and that of the authority, from which new nodes get theirs. Each \
step is for all nodes before the next one; docs/operations.md says what to look at between them.")]
pub(crate) enum KeysCommand {
    /// Show what the keys in each directory are called
    List {
        #[command(flatten)]
        of: KeyDirectories,
        /// How: text or json
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// Write a new random key that nodes will use once all of them know it
    Next {
        #[command(flatten)]
        of: KeyDirectories,
        /// Write another one where there is a next key that nobody has used
        #[arg(long)]
        force: bool,
    },
    /// Make the next key the one that is used, and keep the old one as the previous
    Use(KeyDirectories),
    /// Remove the previous key
    Drop(KeyDirectories),
}

/// Where keys of gossip lie.
#[derive(Debug, clap::Args)]
pub(crate) struct KeyDirectories {
    /// Directories that `cert` has written, of nodes and of the authority
    #[arg(value_name = "DIR", required = true)]
    pub(crate) directories: Vec<PathBuf>,
}

/// Flags of `cluster drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
EXAMPLES:
  hyperscale cluster drain node_51f0c2a9be8d7763
  hyperscale cluster drain node_51f0c2a9be8d7763 --within 5m --gate 10.0.0.5:7780")]
pub(crate) struct DrainArgs {
    /// The node, as `cluster status` and `nodes` name it
    pub(crate) node: NodeId,
    /// How long it may take
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration)]
    pub(crate) within: Duration,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// Flags of `cluster remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
EXAMPLES:
  hyperscale cluster remove node_51f0c2a9be8d7763
  hyperscale cluster remove node_51f0c2a9be8d7763 --gate 10.0.0.5:7780")]
pub(crate) struct RemoveArgs {
    /// The node, as `cluster status` and `nodes` name it
    pub(crate) node: NodeId,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// Flags of `jobs`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<JobsCommand>,
    /// List all jobs that are kept, not only those that live and the last 20 that ended; as JSON
    /// all are listed in any case
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What is done to a job as it runs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum JobsCommand {
    /// Let a job's load stand still: running iterations end, none starts, its time waits
    Pause(JobArgs),
    /// Let a paused job's load go on where it was
    Resume(JobArgs),
    /// Change how much of a workflow's load is sent, up to what the test says
    Scale(ScaleArgs),
}

/// Flags of `jobs scale`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale jobs scale job_01m8a17v99eebbzvsdzyjrxshv browse=50
  hyperscale jobs scale job_01m8a17v99eebbzvsdzyjrxshv browse=200/s buy=40%")]
pub(crate) struct ScaleArgs {
    /// The job
    pub(crate) job: String,
    /// Workflows with their amounts: users such as 50, a rate such as 200/s, a share such as 40%
    #[arg(required = true, value_name = "WORKFLOW=AMOUNT")]
    pub(crate) scales: Vec<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// Flags of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale status job_01m8a17v99eebbzvsdzyjrxshv --output json")]
pub(crate) struct JobArgs {
    /// The job
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// Flags of `watch` and `results`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale watch job_01m8a17v99eebbzvsdzyjrxshv
  hyperscale results job_01m8a17v99eebbzvsdzyjrxshv --out html=report.html --out junit=report.xml")]
pub(crate) struct WatchArgs {
    /// The job
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    #[command(flatten)]
    pub(crate) outputs: OutputArgs,
}

/// Flags of `new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale new                                   lists the templates
  hyperscale new smallest > test.yaml
  hyperscale new api-with-login --out shop.yaml")]
pub(crate) struct NewArgs {
    /// The template; without one they are listed
    #[arg(value_name = "TEMPLATE")]
    pub(crate) template: Option<String>,
    /// Where it is written; what is there already is left alone [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How templates are listed: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) output: String,
}

/// Flags of `plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale plan test.yaml
  hyperscale plan test.yaml --vus 500 --latency 20ms --cores 8
  hyperscale plan test.yaml --output json")]
pub(crate) struct PlanArgs {
    /// A test file, or a URL to send GET requests to
    #[arg(value_name = "FILE|URL")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// How long a request is taken to last
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub(crate) latency: Duration,
    /// How: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) output: String,
}

/// Flags of `ping`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale ping https://127.0.0.1:8443/ --insecure
  hyperscale ping http://127.0.0.1:8080/orders -m POST -b '{\"id\":1}' -H 'content-type: application/json'
  hyperscale ping http://127.0.0.1:8080/ --follow --output json")]
pub(crate) struct PingArgs {
    /// The URL
    pub(crate) url: String,
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
    /// Follow redirects, ten at most
    #[arg(long)]
    pub(crate) follow: bool,
    /// How long each phase may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub(crate) output: String,
}

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale completions bash > ~/.local/share/bash-completion/completions/hyperscale
  hyperscale completions zsh > ~/.zfunc/_hyperscale
  hyperscale completions fish > ~/.config/fish/completions/hyperscale.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Flags of `cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hyperscale cancel job_01m8a17v99eebbzvsdzyjrxshv
  hyperscale cancel job_01m8a17v99eebbzvsdzyjrxshv --workflow browse --now")]
pub(crate) struct CancelArgs {
    /// The job
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) list: ListArgs,
    /// One workflow instead of the whole job
    #[arg(long, value_name = "NAME")]
    pub(crate) workflow: Option<String>,
    /// Cut running requests instead of letting them finish
    #[arg(long)]
    pub(crate) now: bool,
}

/// Flags of `playground`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  hyperscale playground
  hyperscale playground --gates 3 --datacenters 2 --managers 3 --workers 4
  hyperscale playground list
  hyperscale playground kill gate-0
  hyperscale playground cut dc-1"
)]
pub(crate) struct PlaygroundArgs {
    /// Gates: 1, 3 or 5
    #[arg(long = "gates", id = "gate_count", value_name = "N", default_value_t = 3,
          value_parser = clap::builder::ValueParser::new(odd))]
    pub(crate) gates: u16,
    /// Datacenters
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=20))]
    pub(crate) datacenters: u16,
    /// Managers of each datacenter: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::builder::ValueParser::new(odd))]
    pub(crate) managers: u16,
    /// Workers of each datacenter
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) workers: u16,
    /// Cores of each worker
    #[arg(long = "cores", id = "core_count", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cores: u32,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: Option<PlaygroundCommand>,
}

/// Where a playground lies.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Its directory, which stays when it ends [default: a place of its own, removed at the end]
    #[arg(long, value_name = "DIR", env = "HYPERSCALE_PLAYGROUND")]
    pub(crate) dir: Option<PathBuf>,
}

/// What can be done to a playground that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum PlaygroundCommand {
    /// List its nodes, and what is wrong between them
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// How: text or json
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// Kill a node as a crash would
    Kill {
        /// The node
        name: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Stop a node where it stands, with its connections open
    Freeze {
        /// The node
        name: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Let a frozen node go on
    Thaw {
        /// The node
        name: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Start a node again, on what is left of it; one that runs is killed first
    Restart {
        /// The node
        name: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Cut the connection of two nodes, or those of a node or a datacenter with all others
    Cut {
        /// Two nodes, one node, or a datacenter
        #[arg(value_name = "NAME", required = true, num_args = 1..=2)]
        names: Vec<String>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Delay what a node or a datacenter says and hears
    Slow {
        /// The node or datacenter
        name: String,
        /// How long, each way
        #[arg(value_parser = duration)]
        delay: Duration,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Lose some of what a node, or the nodes of a datacenter, say and hear by gossip
    Lose {
        /// The node or datacenter
        name: String,
        /// Of 100 datagrams, how many
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
        loss: u8,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// End all cuts, delays and losses
    Heal {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// A number of nodes that share a ledger.
fn odd(text: &str) -> Result<u16, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a ledger is shared by 1, 3 or 5".to_owned()),
    }
}
