//! Processes on chosen cores, and what they have used.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// On which core a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    /// The target's.
    First,
    /// The generator's.
    Last,
    /// Whichever.
    Any,
}

/// CPU time of a process that has ended, its threads included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Used {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

/// The binary that is measured, built beside this one.
pub(crate) fn hyperscale() -> anyhow::Result<Command> {
    let own: PathBuf = std::env::current_exe().context("the path of this program")?;
    let binary = own.with_file_name("hyperscale");
    anyhow::ensure!(binary.exists(), "{} is missing: build it first", binary.display());
    let mut command = Command::new(binary);
    command.env("HYPERSCALE_LOG", "error");
    Ok(command)
}

/// Starts a process on a core.
pub(crate) fn spawn(command: &mut Command, core: Core) -> anyhow::Result<Child> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this).context("the cores of this process")?;
    let allowed: Vec<usize> =
        (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)).collect();
    let chosen = match core {
        Core::First => allowed.first(),
        Core::Last => allowed.last(),
        Core::Any => None,
    };
    if let Some(&cpu) = chosen {
        let mut only = CpuSet::new();
        only.set(cpu).context("a set of one core")?;
        // Children inherit it.
        sched_setaffinity(this, &only).context("pinning to a core")?;
    }
    let child = command.spawn();
    sched_setaffinity(this, &all).context("unpinning")?;
    child.with_context(|| format!("starting {}", command.get_program().display()))
}

/// Runs a process to its end; returns what it printed and used.
pub(crate) fn run(command: &mut Command, core: Core) -> anyhow::Result<(String, Used)> {
    let before = children()?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    let output = spawn(command, core)?.wait_with_output().context("waiting for a process")?;
    let after = children()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success() || output.status.code() == Some(99),
        "{} ended with {}: {}",
        command.get_program().display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let used = Used { user: after.user - before.user, system: after.system - before.system };
    Ok((text, used))
}

/// What children that have ended have used so far.
fn children() -> anyhow::Result<Used> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("the usage of children")?;
    let time = |value: nix::sys::time::TimeVal| {
        let micros = u64::try_from(value.tv_usec()).unwrap_or(0);
        Duration::from_secs(u64::try_from(value.tv_sec()).unwrap_or(0))
            + Duration::from_micros(micros)
    };
    Ok(Used { user: time(usage.user_time()), system: time(usage.system_time()) })
}

/// Resident memory of a running process, in KiB.
pub(crate) fn resident_kib(child: &Child) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/status", child.id());
    let text = std::fs::read_to_string(&path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.context("the status of a process has no memory")
}

/// The built-in target, which ends with this value.
#[derive(Debug)]
pub(crate) struct Target {
    child: Child,
    /// `scheme://address`.
    pub(crate) url: String,
    address: String,
    is_tls: bool,
}

impl Target {
    /// Starts one on the first core.
    pub(crate) fn start(is_tls: bool) -> anyhow::Result<Self> {
        let mut command = hyperscale()?;
        command.args(["target", "--listen", "127.0.0.1:0", "--threads", "1"]);
        if is_tls {
            command.arg("--tls");
        }
        command.stdout(Stdio::piped());
        let mut child = spawn(&mut command, Core::First)?;
        let stdout = child.stdout.take().context("the target's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the target's address")?;
        let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let (_, address) = url.split_once("://").context("the target's address")?;
        let address = address.to_owned();
        Ok(Self { child, url, address, is_tls })
    }

    /// What it has counted. Only of one without TLS.
    pub(crate) fn stats(&self) -> anyhow::Result<hyperscale_target::Stats> {
        anyhow::ensure!(!self.is_tls, "the counters of a target with TLS are not read");
        let body = crate::http::get(&self.address, "/_target/stats")?;
        serde_json::from_slice(&body).context("the target's counters")
    }

    /// Stops it for a while.
    pub(crate) fn freeze(&self, time: Duration) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("a process id")?);
        kill(pid, Signal::SIGSTOP).context("freezing the target")?;
        crate::clock::sleep(time);
        kill(pid, Signal::SIGCONT).context("thawing the target")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        debug_assert!(ended.is_ok(), "a child can be killed and waited for");
    }
}
