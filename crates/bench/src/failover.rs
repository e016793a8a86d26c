//! How long it takes until a cluster goes on when one of its nodes is killed.
//!
//! All nodes run on this machine, so what is measured is the timers: how soon a death is noticed,
//! and how soon somebody else takes over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Target, hyperscale};
use crate::{Effort, clock, http};

/// Of each datacenter.
const WORKERS: u64 = 3;
const DATACENTERS: usize = 2;
/// Where the jobs run that are measured; the other datacenter is there to be lost.
const HOME: &str = "dc-0";
const AWAY: &str = "dc-1";
/// Requests per second of all workers together.
const RATE: u64 = 90;
/// What takes longer than this does not happen any more.
const WITHIN: Duration = Duration::from_secs(60);
/// How long load must have run before a worker is killed, and after the job's start it is steady.
const STEADY: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) fn failover(effort: Effort) -> anyhow::Result<()> {
    let rounds = if effort == Effort::Quick { 5 } else { 20 };
    let world = World::start()?;
    let target = Target::start(false)?;
    let rows = [
        ("owner_gate", "owner gate killed → next news at the client", owner_gate(&world, rounds)?),
        ("leader", "leading manager killed → next job has started", leader(&world, rounds)?),
        ("worker", "worker killed → all of the load is back", worker(&world, &target, rounds)?),
    ];
    let mut least = undisturbed(&world, rounds)?;
    let cut = cut(&world, rounds.div_ceil(CUTS_PER))?;
    let restart = ("restart", "all killed → all jobs are known", restart(&world, rounds)?);
    let rows = rows.into_iter().chain(cut).chain([restart]);
    println!("{:<46} {:>9} {:>9}", "", "median", "worst");
    for (name, what, mut times) in rows {
        times.sort();
        let rounds = times.len();
        let seconds = |time: Option<&Duration>| time.copied().unwrap_or_default().as_secs_f64();
        let (median, worst) = (seconds(times.get(times.len() / 2)), seconds(times.last()));
        println!("{what:<46} {median:>7.2} s {worst:>7.2} s   of {rounds}");
        println!("figure failover.{name} {median:.2} s");
        println!("figure failover.{name}.worst {worst:.2} s");
    }
    least.sort_by(f64::total_cmp);
    let (median, worst) = (least[least.len() / 2], least[0]);
    let what = "leading manager killed → least load in 1 s";
    println!("{what:<46} {median:>7.2} % {worst:>7.2} %   of {rounds}, of the plan");
    println!("figure failover.undisturbed {median:.2} %");
    println!("figure failover.undisturbed.worst {worst:.2} %");
    Ok(())
}

/// Waits until something is found.
fn until<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let limit = clock::now() + WITHIN;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        anyhow::ensure!(clock::now() < limit, "not within {WITHIN:?}: {what}");
        clock::sleep(LOOK_EVERY);
    }
}

/// A playground with datacenters of three managers.
#[derive(Debug)]
struct World {
    child: Child,
    /// Open as long as the playground may write.
    _stdout: BufReader<ChildStdout>,
    directory: TempDir,
    /// Of each gate, by its place.
    apis: Vec<String>,
}

impl World {
    fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("a directory")?;
        let mut command = hyperscale()?;
        command.args(["playground", "--gates", "3", "--managers", "3"]);
        command.args(["--datacenters", &DATACENTERS.to_string()]);
        command.args(["--workers", &WORKERS.to_string(), "--dir"]).arg(directory.path().join("p"));
        let mut child = command.stdout(Stdio::piped()).spawn().context("a playground")?;
        let stdout = child.stdout.take().context("the playground's output")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line).context("the playground's output")?;
        let mut world = Self { child, _stdout: stdout, directory, apis: Vec::new() };
        anyhow::ensure!(line.starts_with("ready: "), "the playground is not ready: {line}");
        let state = world.state()?;
        let nodes = state["nodes"].as_array().context("the playground's nodes")?;
        world.apis =
            nodes.iter().filter_map(|node| node["api"].as_str().map(str::to_owned)).collect();
        Ok(world)
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("p")
    }

    fn state(&self) -> anyhow::Result<Value> {
        let bytes = std::fs::read(self.path().join("playground.json")).context("its state")?;
        serde_json::from_slice(&bytes).context("its state")
    }

    /// The name of a node, by its id.
    fn name(&self, id: &Value) -> anyhow::Result<String> {
        let state = self.state()?;
        let mut nodes = state["nodes"].as_array().into_iter().flatten();
        let found = nodes.find(|node| node["node"] == *id);
        let name = found.and_then(|node| node["name"].as_str());
        name.map(str::to_owned).with_context(|| format!("no node has the id {id}"))
    }

    fn play(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut command = hyperscale()?;
        command.arg("playground").args(words).arg("--dir").arg(self.path()).stdout(Stdio::null());
        let status = command.status().context("a command to the playground")?;
        anyhow::ensure!(status.success(), "playground {words:?} ended with {status}");
        Ok(())
    }

    /// Submits a test; `None` if it is refused.
    fn submit(&self, file: &Path) -> anyhow::Result<Option<String>> {
        let mut command = hyperscale()?;
        command.arg("submit").arg(file).args(["--gate", &self.apis.join(",")]);
        let output = command.stderr(Stdio::null()).output().context("a submission")?;
        let job = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(output.status.success().then_some(job))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<std::path::PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).context("a test file")?;
        Ok(path)
    }

    fn cancel(&self, job: &str) -> anyhow::Result<()> {
        let mut command = hyperscale()?;
        command.args(["cancel", job, "--now", "--gate", &self.apis.join(",")]);
        let status = command.stdout(Stdio::null()).status().context("a cancel")?;
        anyhow::ensure!(status.success(), "cancel ended with {status}");
        Ok(())
    }

    /// What any gate that lives says; `None` if none does.
    fn get(&self, path: &str) -> Option<Value> {
        let answers = self.apis.iter().map(|api| {
            let body = http::get(api, &format!("/api/v1{path}")).ok()?;
            let value: Value = serde_json::from_slice(&body).ok()?;
            value["status"].is_null().then_some(value)
        });
        answers.flatten().next()
    }

    /// Waits until all gates take part, and all workers are there and, if wanted, free.
    fn until_whole(&self, is_idle: bool) -> anyhow::Result<()> {
        for api in &self.apis {
            until("a whole cluster", || {
                let Ok(body) = http::get(api, "/api/v1/cluster") else { return Ok(None) };
                let Ok(cluster) = serde_json::from_slice::<Value>(&body) else { return Ok(None) };
                let gates = cluster["gates"].as_array().map_or(0, |gates| {
                    gates.iter().filter(|gate| gate["has_session"] == true).count()
                });
                let is_well = |known: &&Value| {
                    let cores = if is_idle { &known["free_cores"] } else { &known["cores"] };
                    known["is_fresh"] == true && *cores == WORKERS
                };
                let datacenters = cluster["datacenters"].as_array();
                let is_whole = gates == self.apis.len()
                    && cluster["quorum"]["can_decide"] == true
                    && datacenters.map_or(0, |all| all.iter().filter(is_well).count())
                        == DATACENTERS;
                Ok(is_whole.then_some(()))
            })?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It ends its nodes itself; killed hard, it could not.
        let asked =
            i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGINT));
        debug_assert!(matches!(asked, Ok(Ok(()))), "a child can be interrupted");
        let ended = self.child.wait();
        debug_assert!(ended.is_ok(), "a child can be waited for");
    }
}

fn test(url: &str, rate: u64, seconds: u64) -> String {
    format!(
        "target: {url}\nrun: {{ datacenters: [{HOME}] }}\nworkflows:\n  main:\n    load: {{ rate: {rate}/s, duration: {seconds}s, \
         max_vus: 100 }}\n    cores: {WORKERS}\n    steps: [ {{ get: / }} ]\n"
    )
}

/// When news of a job have come, through whichever gate serves them.
#[derive(Debug)]
struct Watch {
    times: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start(apis: Vec<String>, job: String) -> Self {
        let (times, is_over) = (Arc::default(), Arc::default());
        let (to, stop): (Arc<Mutex<Vec<Instant>>>, Arc<AtomicBool>) =
            (Arc::clone(&times), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            for api in apis.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A stream that ends is followed by one of the next gate.
                if follow(api, &job, &to, &stop).is_err() {
                    clock::sleep(LOOK_EVERY);
                }
            }
        });
        Self { times, is_over, thread: Some(thread) }
    }

    fn times(&self) -> Vec<Instant> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until news have come steadily for a while.
    fn until_steady(&self) -> anyhow::Result<()> {
        until("steady news", || {
            let now = clock::now();
            let recent = self.times().into_iter().filter(|time| now < *time + STEADY).count();
            Ok((recent > 10).then_some(()))
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        debug_assert!(matches!(ended, Some(Ok(()))), "the thread ends once it is told to");
    }
}

fn follow(
    api: &str,
    job: &str,
    to: &Mutex<Vec<Instant>>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(api)?;
    // Much longer than between two news.
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    // A refusal must end at once, too.
    let path = format!("/api/v1/jobs/{job}/events");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        if stop.load(Ordering::Relaxed) || line.starts_with("event: problem") {
            return Ok(());
        }
        if line.starts_with("event: view") {
            to.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
        }
    }
    Ok(())
}

fn owner_gate(world: &World, rounds: usize) -> anyhow::Result<Vec<Duration>> {
    let listener =
        std::net::TcpListener::bind("127.0.0.1:0").context("a place without requests")?;
    let url = format!("http://{}/", listener.local_addr().context("its address")?);
    let file = world.write("watched.yaml", &test(&url, 1, 3_000))?;
    let job = world.submit(&file)?.context("the job was refused")?;
    let watch = Watch::start(world.apis.clone(), job.clone());
    let mut times = Vec::new();
    for _ in 0..rounds {
        watch.until_steady()?;
        let cluster = world.get("/cluster").context("no gate answers")?;
        let owners = cluster["owners"].as_array().context("owners")?;
        let owns = |owner: &&Value| {
            owner["live"].as_array().is_some_and(|live| live.contains(&Value::from(job.as_str())))
        };
        let owner = owners.iter().find(owns).context("nobody owns the job")?;
        let name = world.name(&owner["gate"])?;
        let killed = clock::now();
        world.play(&["kill", &name])?;
        // What was on its way may come in yet: the silence is over when it has been longest.
        let news = until("news after the owner's death", || {
            let all = watch.times();
            let after = all.iter().filter(|time| **time > killed).count();
            if after < 8 {
                return Ok(None);
            }
            let pairs = all.iter().zip(all.iter().skip(1)).filter(|(_, next)| **next > killed);
            Ok(pairs.max_by_key(|(one, next)| next.duration_since(**one)).map(|(_, next)| *next))
        })?;
        times.push(news.duration_since(killed));
        world.play(&["restart", &name])?;
        world.until_whole(false)?;
    }
    drop(watch);
    world.cancel(&job)?;
    world.until_whole(true)?;
    Ok(times)
}

fn leader(world: &World, rounds: usize) -> anyhow::Result<Vec<Duration>> {
    let listener =
        std::net::TcpListener::bind("127.0.0.1:0").context("a place without requests")?;
    let url = format!("http://{}/", listener.local_addr().context("its address")?);
    let file = world.write("next.yaml", &test(&url, 1, 1))?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let cluster = world.get("/cluster").context("no gate answers")?;
        let name = world.name(&datacenter(&cluster, HOME)["leader"])?;
        let killed = clock::now();
        world.play(&["kill", &name])?;
        let job = until("a submission that is accepted", || world.submit(&file))?;
        let path = format!("/jobs/{job}");
        until("the start of a job", || {
            let view = world.get(&path);
            Ok(view.filter(|view| !view["started"].is_null()).map(drop))
        })?;
        times.push(killed.elapsed());
        world.play(&["restart", &name])?;
        world.cancel(&job)?;
        world.until_whole(true)?;
    }
    Ok(times)
}

/// Requests per second of a load in which one more or less in a second is nothing.
const DENSE_RATE: u64 = 900;
/// So many seconds are looked at, at least.
const SECONDS_MIN: usize = 6;

/// The leading manager is killed while its workers send load: the least that came in any second until
/// another led and it was back, in percent of the plan.
fn undisturbed(world: &World, rounds: usize) -> anyhow::Result<Vec<f64>> {
    let mut least = Vec::new();
    for _ in 0..rounds {
        let target = Target::start(false)?;
        let file = world.write("dense.yaml", &test(&target.url, DENSE_RATE, 300))?;
        let job = until("a submission that is accepted", || world.submit(&file))?;
        until("load", || Ok((target.stats()?.requests > DENSE_RATE * 3).then_some(())))?;
        let leader = |world: &World| -> anyhow::Result<Value> {
            let cluster = world.get("/cluster").context("no gate answers")?;
            Ok(datacenter(&cluster, HOME)["leader"].clone())
        };
        let before = leader(world)?;
        let name = world.name(&before)?;
        let from = target.stats()?.per_second.len();
        world.play(&["kill", &name])?;
        until("another leader", || Ok((leader(world)? != before).then_some(())))?;
        world.play(&["restart", &name])?;
        world.until_whole(false)?;
        let seconds = until("seconds with load", || {
            let seconds = target.stats()?.per_second;
            Ok((seconds.len() > from + SECONDS_MIN).then_some(seconds))
        })?;
        // The second that is not over yet counts for nothing.
        let counted = seconds.get(from..seconds.len().saturating_sub(1)).unwrap_or_default();
        let fewest = counted.iter().min().context("no whole second")?;
        least.push(*fewest as f64 * 100.0 / DENSE_RATE as f64);
        world.cancel(&job)?;
        world.until_whole(true)?;
    }
    Ok(least)
}

fn worker(world: &World, target: &Target, rounds: usize) -> anyhow::Result<Vec<Duration>> {
    let file = world.write("load.yaml", &test(&target.url, RATE, 300))?;
    let mut times = Vec::new();
    for round in 0..rounds {
        let job = until("a submission that is accepted", || world.submit(&file))?;
        let mut seen: Vec<(Instant, u64)> = Vec::new();
        // Requests in the second before the last look.
        let mut rate = || -> anyhow::Result<Option<(Instant, u64)>> {
            let (now, count) = (clock::now(), target.stats()?.requests);
            seen.push((now, count));
            let from = seen.iter().rfind(|(at, _)| now >= *at + Duration::from_secs(1));
            Ok(from.map(|(at, before)| (*at, count - before)))
        };
        let is_whole = |count: u64| count * 100 >= RATE * 95;
        until("all of the load", || Ok(rate()?.filter(|(_, count)| is_whole(*count))))?;
        let name = format!("{HOME}-worker-{}", round as u64 % WORKERS);
        let killed = clock::now();
        world.play(&["kill", &name])?;
        until("less load", || Ok(rate()?.filter(|(_, count)| !is_whole(*count))))?;
        let (back, _) = until("the load is back", || {
            Ok(rate()?.filter(|(from, count)| *from > killed && is_whole(*count)))
        })?;
        times.push(back.duration_since(killed));
        world.play(&["restart", &name])?;
        world.cancel(&job)?;
        world.until_whole(true)?;
    }
    Ok(times)
}

/// A datacenter as a gate sees it.
fn datacenter<'a>(cluster: &'a Value, name: &str) -> &'a Value {
    let mut all = cluster["datacenters"].as_array().into_iter().flatten();
    all.find(|known| known["datacenter"] == name).unwrap_or(&Value::Null)
}

/// A datacenter is cut off once in so many rounds: it takes a minute.
const CUTS_PER: usize = 4;
/// How much of the plan must arrive in every two seconds while another datacenter is lost.
const STEADY_SHARE: f64 = 0.9;

type Row = (&'static str, &'static str, Vec<Duration>);

/// A whole datacenter is cut off while another sends load: when all gates suspect it, and when all
/// have given it up. Whatever the other sends goes on.
fn cut(world: &World, rounds: usize) -> anyhow::Result<[Row; 2]> {
    let target = Target::start(false)?;
    let file = world.write("home.yaml", &test(&target.url, RATE, 3_000))?;
    let (mut suspected, mut unreachable) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let before = target.stats()?.requests;
        let job = until("a submission that is accepted", || world.submit(&file))?;
        until("load", || Ok((target.stats()?.requests > before + RATE * 2).then_some(())))?;
        let cut = clock::now();
        world.play(&["cut", AWAY])?;
        let mut last = (clock::now(), target.stats()?.requests);
        let mut until_all = |standings: &[&str]| -> anyhow::Result<Duration> {
            until("another standing of what is cut off", || {
                let (at, count) = last;
                if clock::now() >= at + Duration::from_secs(2) {
                    last = (clock::now(), target.stats()?.requests);
                    let seconds = last.0.duration_since(at).as_secs_f64();
                    let share = (last.1 - count) as f64 / (RATE as f64 * seconds);
                    anyhow::ensure!(share >= STEADY_SHARE, "the rest sent {share:.2} of its plan");
                }
                let knows = |api: &String| {
                    let body = http::get(api, "/api/v1/cluster").ok()?;
                    let cluster: Value = serde_json::from_slice(&body).ok()?;
                    let standing = datacenter(&cluster, AWAY)["standing"].as_str()?.to_owned();
                    standings.contains(&standing.as_str()).then_some(())
                };
                Ok(world.apis.iter().all(|api| knows(api).is_some()).then(|| cut.elapsed()))
            })
        };
        suspected.push(until_all(&["suspected", "unreachable"])?);
        unreachable.push(until_all(&["unreachable"])?);
        world.play(&["heal"])?;
        world.cancel(&job)?;
        world.until_whole(true)?;
    }
    Ok([
        ("suspected", "datacenter cut off → all gates suspect it", suspected),
        ("unreachable", "datacenter cut off → all have given it up", unreachable),
    ])
}

/// Jobs that are accepted, running or waiting, when everything is killed.
const JOBS: usize = 5;

/// Everything is killed at once and started again: when all gates know all accepted jobs.
fn restart(world: &World, rounds: usize) -> anyhow::Result<Vec<Duration>> {
    let listener =
        std::net::TcpListener::bind("127.0.0.1:0").context("a place without requests")?;
    let url = format!("http://{}/", listener.local_addr().context("its address")?);
    let file = world.write("kept.yaml", &test(&url, 1, 3_000))?;
    let state = world.state()?;
    let nodes = state["nodes"].as_array().context("the playground's nodes")?;
    let names: Vec<&str> = nodes.iter().filter_map(|node| node["name"].as_str()).collect();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let jobs: Vec<String> = (0..JOBS)
            .map(|_| until("a submission that is accepted", || world.submit(&file)))
            .collect::<anyhow::Result<_>>()?;
        for name in &names {
            world.play(&["kill", name])?;
        }
        let start = clock::now();
        for name in &names {
            world.play(&["restart", name])?;
        }
        for api in &world.apis {
            until("all jobs at a gate", || {
                let knows = |job: &String| {
                    let body = http::get(api, &format!("/api/v1/jobs/{job}")).ok()?;
                    let view: Value = serde_json::from_slice(&body).ok()?;
                    (view["job"] == job.as_str()).then_some(())
                };
                Ok(jobs.iter().all(|job| knows(job).is_some()).then_some(()))
            })?;
        }
        times.push(start.elapsed());
        for job in &jobs {
            until("a cancel that is taken", || Ok(world.cancel(job).ok()))?;
        }
        world.until_whole(true)?;
    }
    Ok(times)
}
