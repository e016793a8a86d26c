//! Processes under test, and what is asked of them from outside.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Whatever takes longer than this hangs.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// How often what cannot be waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "processes live by the real clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Looks until it finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < limit, "not within {within:?}: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Whether runs are as long as before a release, or longer.
pub(crate) fn is_long() -> bool {
    std::env::var("HYPERSCALE_E2E").is_ok_and(|value| value == "long") || is_nightly()
}

/// Whether runs are as long as in a night.
pub(crate) fn is_nightly() -> bool {
    std::env::var("HYPERSCALE_E2E").is_ok_and(|value| value == "nightly")
}

/// Tests that measure time have the machine for themselves among those of this binary.
static MACHINE: RwLock<()> = RwLock::new(());

enum Share {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// A directory of its own, and the processes that work in it.
pub(crate) struct World {
    _share: Share,
    directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let guard = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Self { _share: Share::Shared { _guard: guard }, directory: tempfile::tempdir().unwrap() }
    }

    /// While no other world is there.
    pub(crate) fn alone() -> Self {
        let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Self { _share: Share::Alone { _guard: guard }, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The command line, with nothing of the environment that could change what it does.
    pub(crate) fn command(&self) -> Command {
        self.of(env!("CARGO_BIN_EXE_hyperscale"))
    }

    /// The same through a shell: `script` sees the binary as `$0` and its arguments as `$@`.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.of("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_hyperscale")]);
        command
    }

    pub(crate) fn of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HYPERSCALE_") {
                command.env_remove(name);
            }
        }
        command
            .env("XDG_STATE_HOME", self.path("state"))
            .env("NO_COLOR", "1")
            .current_dir(self.directory.path());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Ended {
        self.start(arguments).end(WITHIN)
    }

    #[track_caller]
    pub(crate) fn start<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
    ) -> Process {
        let mut command = self.command();
        command.args(arguments);
        Process::start(&mut command)
    }

    /// Runs a test on this machine; also returns its summary.
    #[track_caller]
    pub(crate) fn run_test(&self, test: &Path, more: &[&str]) -> (Ended, Value) {
        let path = self.path("summary.json");
        let mut command = self.command();
        command.arg("run").arg(test).args(["--out", "json=summary.json"]).args(more);
        let ended = Process::start(&mut command).end(WITHIN);
        assert!(path.exists(), "no summary was written: {ended}");
        let summary = read_json(&path);
        std::fs::remove_file(&path).unwrap();
        (ended, summary)
    }

    /// A target that counts.
    #[track_caller]
    pub(crate) fn target(&self) -> Target {
        let process = self.start(["target", "--listen", "127.0.0.1:0"]);
        let address = process.announced("listening on http://");
        Target { _process: process, address }
    }

    /// A gate and a manager, which keep what they know in `data`.
    #[track_caller]
    pub(crate) fn control(&self) -> Control {
        self.control_at("127.0.0.1:0", "127.0.0.1:0")
    }

    #[track_caller]
    pub(crate) fn control_at(&self, nodes: &str, api: &str) -> Control {
        let data = self.path("data");
        let process = self.start([
            OsStr::new("serve"),
            OsStr::new("--roles"),
            OsStr::new("gate,manager"),
            OsStr::new("--listen"),
            OsStr::new(nodes),
            OsStr::new("--api"),
            OsStr::new(api),
            OsStr::new("--data-dir"),
            data.as_os_str(),
            // Tests look more often than people do.
            OsStr::new("--api-rate"),
            OsStr::new("10000"),
            OsStr::new("--api-burst"),
            OsStr::new("10000"),
        ]);
        let nodes = process.announced("listening for nodes on ");
        let api = process.announced("API on http://").trim_end_matches("/api/v1").to_owned();
        Control { process, nodes, api }
    }

    /// A worker with one core.
    #[track_caller]
    pub(crate) fn worker(&self, control: &Control) -> Process {
        self.worker_of(control, 1)
    }

    #[track_caller]
    pub(crate) fn worker_of(&self, control: &Control, cores: usize) -> Process {
        let certificates = self.path("data/development-certificates/worker");
        self.start([
            OsStr::new("worker"),
            OsStr::new("--join"),
            OsStr::new(&control.nodes),
            OsStr::new("--certs"),
            certificates.as_os_str(),
            OsStr::new("--cores"),
            OsStr::new(&cores.to_string()),
        ])
    }

    /// A gate, a manager and so many workers, ready to work.
    #[track_caller]
    pub(crate) fn system(&self, workers: usize) -> (Control, Vec<Process>) {
        let control = self.control();
        let workers: Vec<Process> = (0..workers).map(|_| self.worker(&control)).collect();
        control.until_free(workers.len());
        (control, workers)
    }

    /// Certificates for nodes of all roles in a datacenter, of this world's one authority.
    #[track_caller]
    pub(crate) fn certificates(&self, datacenter: &str) -> PathBuf {
        let (authority, certificates) =
            (self.path("ca"), self.path(&format!("certificates-{datacenter}")));
        if !authority.exists() {
            let words = ["cert", "init", "--out"].map(OsStr::new);
            self.run(words.into_iter().chain([authority.as_os_str()])).expect(0);
        }
        let words = ["cert", "node", "--roles", "gate,manager,worker", "--datacenter", datacenter];
        let places = [OsStr::new("--ca"), authority.as_os_str(), OsStr::new("--out")];
        let words = words.into_iter().map(OsStr::new).chain(places);
        self.run(words.chain([certificates.as_os_str()])).expect(0);
        certificates
    }

    /// Submits a test; the answer is the job.
    #[track_caller]
    pub(crate) fn submit(&self, control: &Control, test: &Path) -> String {
        let ended = self.run([
            OsStr::new("submit"),
            test.as_os_str(),
            OsStr::new("--gate"),
            control.gate(),
        ]);
        ended.expect(0);
        ended.stdout.trim().to_owned()
    }

    /// The summary of a job that has ended or will, as `results --out json` writes it.
    #[track_caller]
    pub(crate) fn summary(&self, control: &Control, job: &str) -> Value {
        control.until_ended(job);
        let path = self.path(&format!("{job}.json"));
        let out = format!("json={}", path.display());
        let ended = self.run([
            OsStr::new("results"),
            OsStr::new(job),
            OsStr::new("--gate"),
            control.gate(),
            OsStr::new("--out"),
            OsStr::new(&out),
        ]);
        assert!(path.exists(), "no summary was written: {ended}");
        read_json(&path)
    }
}

/// What an API answers, once it does.
pub(crate) fn get_json(api: &str, path: &str) -> Option<Value> {
    let (status, body) = try_http(api, "GET", path, &[], "").ok()?;
    serde_json::from_str(&body).ok().filter(|_| status == 200)
}

/// Nodes of a cluster must know where the others will be before they are there, and find their
/// places again when they come back. So these ports are none of those that connections get (from
/// 32768 on), and no two tests of this process get the same.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let from = 21_000 + std::process::id() % 5_000;
    let next = || format!("127.0.0.1:{}", from + NEXT.fetch_add(1, Ordering::Relaxed) % 6_000);
    let free = std::iter::repeat_with(next).filter(|address| TcpListener::bind(address).is_ok());
    free.take(count).collect()
}

/// In the summary that was written, nothing was lost, restarted or counted twice.
#[track_caller]
pub(crate) fn is_whole(world: &World, counted: u64) {
    let summary = read_json(&world.path("summary.json"));
    sums_up(&summary);
    assert_eq!(summary["status"], "completed", "{summary:#}");
    assert_eq!(summary["partial"], false, "{summary:#}");
    assert_eq!(summary["totals"]["requests"].as_u64(), Some(counted), "{summary:#}");
}

#[track_caller]
pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A process that does not outlive its test.
pub(crate) struct Process {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, took } = self;
        write!(f, "{status} after {took:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self.expect_no_panic();
    }

    /// A refusal: its code, and what it says.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, words: &[&str]) {
        self.expect(code);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not said: {self}");
        }
    }

    #[track_caller]
    pub(crate) fn expect_no_panic(&self) {
        assert!(!self.stderr.contains("panicked"), "{self}");
    }
}

impl Process {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = Lines::read(child.stdout.take().unwrap());
        let stderr = Lines::read(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Starts a command whose outputs are somebody else's.
    #[track_caller]
    pub(crate) fn start_as_it_is(command: &mut Command) -> Self {
        Self { child: command.spawn().unwrap(), stdout: Lines::none(), stderr: Lines::none() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What follows a prefix in a line of its output.
    #[track_caller]
    pub(crate) fn announced(&self, prefix: &str) -> String {
        let line = self.stdout.wait_for(prefix, &self.stderr);
        line.trim_start_matches(prefix).trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    #[track_caller]
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self, within: Duration) -> Ended {
        let start = now();
        if !self.is_over(within) {
            let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
            panic!("it runs after {within:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}");
        }
        self.ended(start)
    }

    /// Waits for its end, and ends it as a crash would if that does not come in time.
    pub(crate) fn end_or_kill(mut self, within: Duration) -> Ended {
        let start = now();
        if !self.is_over(within) {
            self.kill();
        }
        self.ended(start)
    }

    fn is_over(&mut self, within: Duration) -> bool {
        let start = now();
        while self.is_running() {
            if start.elapsed() > within {
                return false;
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        true
    }

    fn ended(mut self, start: Instant) -> Ended {
        let status = self.child.wait().unwrap();
        let (stdout, stderr) = (self.stdout.whole(), self.stderr.whole());
        Ended { status, stdout, stderr, took: start.elapsed() }
    }

    /// Its resident memory at its highest so far, in KiB; `None` once it has ended.
    pub(crate) fn memory_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines that a process writes, as they come.
#[derive(Clone)]
pub(crate) struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    is_over: bool,
}

impl Lines {
    fn none() -> Self {
        let lines = Self(Arc::default());
        lines.0.0.lock().unwrap().is_over = true;
        lines
    }

    fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Self(Arc::default());
        let to = lines.clone();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            loop {
                let mut line = Vec::new();
                let read = from.read_until(b'\n', &mut line);
                let mut written = to.0.0.lock().unwrap();
                match read {
                    Ok(bytes) if bytes > 0 => {
                        let line = String::from_utf8_lossy(&line);
                        written.lines.push(line.trim_end_matches('\n').to_owned());
                    }
                    _ => written.is_over = true,
                }
                to.0.1.notify_all();
                if written.is_over {
                    return;
                }
            }
        });
        lines
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }

    /// Everything, once the other end is closed.
    fn whole(&self) -> String {
        let written = self.0.0.lock().unwrap();
        let over = self.0.1.wait_timeout_while(written, WITHIN, |written| !written.is_over);
        over.unwrap().0.lines.join("\n")
    }

    /// The first line with some words in it.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str, beside: &Self) -> String {
        let found =
            |written: &Written| written.lines.iter().find(|line| line.contains(words)).cloned();
        let written = self.0.0.lock().unwrap();
        let (written, _) = (self.0.1)
            .wait_timeout_while(written, WITHIN, |written| {
                found(written).is_none() && !written.is_over
            })
            .unwrap();
        match found(&written) {
            Some(line) => line,
            None => panic!(
                "`{words}` was never said\n-- said\n{}\n-- beside\n{}",
                written.lines.join("\n"),
                beside.text()
            ),
        }
    }
}

/// A target that counts.
pub(crate) struct Target {
    _process: Process,
    pub(crate) address: String,
}

/// What a target has counted.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) requests: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) per_second: Vec<u64>,
}

impl Target {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    #[track_caller]
    pub(crate) fn counted(&self) -> Counted {
        let (status, stats) = http(&self.address, "GET", "/_target/stats", &[], "");
        assert_eq!(status, 200, "{stats}");
        let stats: Value = serde_json::from_str(&stats).unwrap();
        let number = |name: &str| stats[name].as_u64().unwrap();
        Counted {
            requests: number("requests"),
            bytes_in: number("bytes_in"),
            bytes_out: number("bytes_out"),
            per_second: (stats["per_second"].as_array().unwrap().iter())
                .map(|count| count.as_u64().unwrap())
                .collect(),
        }
    }

    #[track_caller]
    pub(crate) fn counts_within(&self, length: Duration) -> u64 {
        let (before, since) = (self.counted().requests, now());
        until("the end of a stretch of time", WITHIN, || (since.elapsed() >= length).then_some(()));
        self.counted().requests - before
    }

    pub(crate) fn until_counted(&self, requests: u64) {
        until(&format!("{requests} requests at the target"), WITHIN, || {
            (self.counted().requests >= requests).then_some(())
        });
    }
}

/// A gate with its manager.
pub(crate) struct Control {
    pub(crate) process: Process,
    pub(crate) nodes: String,
    pub(crate) api: String,
}

impl Control {
    pub(crate) fn gate(&self) -> &OsStr {
        OsStr::new(&self.api)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = http(&self.api, "GET", &format!("/api/v1{path}"), &[], "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until so many cores are free.
    #[track_caller]
    pub(crate) fn until_free(&self, cores: usize) {
        until(&format!("{cores} free cores"), WITHIN, || {
            let (status, body) = try_http(&self.api, "GET", "/api/v1/datacenters", &[], "").ok()?;
            let views: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
            let free: u64 = (views.as_array()?.iter())
                .filter(|view| view["is_fresh"] == true)
                .filter_map(|view| view["free_cores"].as_u64())
                .sum();
            (free >= cores as u64).then_some(())
        });
    }

    #[track_caller]
    pub(crate) fn until_ended(&self, job: &str) -> Value {
        until(&format!("the end of {job}"), 2 * WITHIN, || {
            let view = self.get(&format!("/jobs/{job}"));
            (view["state"]["state"] == "ended").then_some(view)
        })
    }
}

/// One request over a connection of its own.
#[track_caller]
pub(crate) fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    try_http(address, method, path, headers, body).unwrap()
}

pub(crate) fn try_http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WITHIN))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n")?;
    write!(stream, "content-type: application/json\r\ncontent-length: {length}\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n{body}")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok((status, unchunked(body)));
    }
    Ok((status, body.to_owned()))
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0).min(rest.len());
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Checks that requests of a summary sum up: over outcomes, and over steps.
#[track_caller]
pub(crate) fn sums_up(summary: &Value) {
    let sum = |totals: &Value| -> u64 {
        totals["outcomes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
    };
    let totals = &summary["totals"];
    assert_eq!(sum(totals), totals["requests"].as_u64().unwrap(), "outcomes: {totals}");
    let steps = summary["steps"].as_array().unwrap();
    for name in ["requests", "bytes_in", "bytes_out", "retries"] {
        let of_steps: u64 = steps.iter().map(|step| step["totals"][name].as_u64().unwrap()).sum();
        assert_eq!(of_steps, totals[name].as_u64().unwrap(), "{name} of all steps");
    }
    for step in steps {
        let own = &step["totals"];
        assert_eq!(sum(own), own["requests"].as_u64().unwrap(), "{step}");
        // What was cut says nothing of the target's time.
        let whole =
            own["requests"].as_u64().unwrap() - own["outcomes"]["cancelled"].as_u64().unwrap();
        for distribution in ["latency_us", "service_time_us"] {
            assert_eq!(step[distribution]["count"], whole, "{distribution} of {step}");
        }
    }
}

/// The outcomes that occurred, with their counts.
pub(crate) fn outcomes(summary: &Value) -> BTreeMap<String, u64> {
    (summary["totals"]["outcomes"].as_object().unwrap().iter())
        .map(|(name, count)| (name.clone(), count.as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect()
}
