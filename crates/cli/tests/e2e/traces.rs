//! Traces of jobs as a collector gets them from real nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use hyperscale_model::JobId;
use rustix::process::Signal;
use serde_json::Value;

use crate::system::{Control, Process, WITHIN, World};

/// Leases that end soon, so that a dead worker is known to be dead soon.
const TIMES: [&str; 8] = [
    "--execution-lease",
    "5s",
    "--leader-lease",
    "1s",
    "--election",
    "800ms",
    "--renewal",
    "200ms",
];

/// What a log ends with.
const ACTIVE: &str = "active when this role ended";

/// A collector that takes everything.
struct Collector {
    url: String,
    taken: Arc<Mutex<Vec<Span>>>,
}

/// A span with whose it is.
#[derive(Debug, Clone)]
struct Span {
    role: String,
    node: String,
    span: Value,
}

impl Span {
    fn text(&self, key: &str) -> &str {
        self.span[key].as_str().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.text("name")
    }

    fn id(&self) -> &str {
        self.text("spanId")
    }

    fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span["attributes"], key)
    }

    fn is_error(&self) -> bool {
        self.span["status"]["code"] == 2
    }

    fn nanos(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap()
    }

    fn events(&self) -> Vec<&str> {
        let events = self.span["events"].as_array().unwrap();
        events.iter().map(|event| event["name"].as_str().unwrap()).collect()
    }
}

fn attribute(attributes: &Value, key: &str) -> Option<String> {
    let found = attributes.as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    let value = &found["value"];
    let text = value["stringValue"].as_str().or_else(|| value["intValue"].as_str());
    Some(text.unwrap_or_else(|| panic!("{key} is {value}")).to_owned())
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    let line = line.trim_end().to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                if stream.read_exact(&mut body).is_err() {
                    continue; // Whoever sent it was killed.
                }
                let request: Value = serde_json::from_slice(&body).unwrap();
                into.lock().unwrap().extend(spans(&request));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                drop(stream.get_mut().write_all(answer));
            }
        });
        Self { url, taken }
    }

    fn taken(&self) -> Vec<Span> {
        self.taken.lock().unwrap().clone()
    }
}

fn spans(request: &Value) -> Vec<Span> {
    let mut all = Vec::new();
    for group in request["resourceSpans"].as_array().unwrap() {
        let resource = &group["resource"]["attributes"];
        let of = |key| attribute(resource, key).unwrap();
        for scope in group["scopeSpans"].as_array().unwrap() {
            for span in scope["spans"].as_array().unwrap() {
                let (role, node) = (of("hyperscale.role"), of("hyperscale.node"));
                assert_eq!(of("service.name"), format!("hyperscale-{role}"));
                all.push(Span { role, node, span: span.clone() });
            }
        }
    }
    all
}

#[test]
fn obs_01_a_job_and_its_lost_attempt_are_one_trace_over_gate_manager_and_workers() {
    let world = World::new();
    let (target, collector) = (world.target(), Collector::start());
    let certificates = world.certificates("local");
    let certificates = certificates.to_str().unwrap();
    let node = |role: &str, more: &[&str]| {
        let mut command = world.command();
        command.args([role, "--certs", certificates, "--log", "info"]).args(TIMES).args(more);
        Process::start(command.env("HYPERSCALE_OTLP_ENDPOINT", &collector.url))
    };
    let manager = node("manager", &["--listen", "127.0.0.1:0", "--data-dir", "manager"]);
    let nodes = manager.announced("listening for nodes on ");
    // Tests look more often than people do.
    let often = ["--api-rate", "10000", "--api-burst", "10000"];
    let gate = ["--join", &nodes, "--api", "127.0.0.1:0", "--data-dir", "gate"];
    let process = node("gate", &[&gate[..], &often].concat());
    let api = process.announced("API on http://").trim_end_matches("/api/v1").to_owned();
    let control = Control { process, nodes: nodes.clone(), api };
    let worker = || node("worker", &["--join", &nodes, "--cores", "1"]);
    let (mut killed, other) = (worker(), worker());
    control.until_free(2);
    let test = format!(
        "name: traced\ntarget: {}\nworkflows:\n  main:\n    load: {{ rate: 40/s, duration: 12s, \
         max_vus: 40 }}\n    steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    let test = world.write("traced.yaml", test);

    let gate = control.gate().to_str().unwrap();
    let test = test.to_str().unwrap();
    let submitted = world.run(["--log", "info", "submit", test, "--gate", gate]);
    submitted.expect(0);
    let job: JobId = submitted.stdout.trim().parse().unwrap();
    let trace = format!("{:032x}", job.as_u128());
    target.until_counted(80);
    killed.kill();
    control.until_ended(&job.to_string());
    // What they have not sent yet, they send as they leave.
    let left: Vec<_> = [other, control.process, manager]
        .into_iter()
        .map(|process| {
            process.signal(Signal::TERM);
            process.end(WITHIN)
        })
        .collect();
    for ended in &left {
        ended.expect(0);
        assert!(!ended.stderr.contains(ACTIVE), "nothing was active any more: {ended}");
    }

    let spans = collector.taken();
    for span in &spans {
        println!("{} {} {:#}", span.role, span.node, span.span);
        assert_eq!(span.text("traceId"), trace, "one job is one trace");
        assert_eq!(span.attribute("hyperscale.job"), Some(job.to_string()));
        let took = span.nanos("endTimeUnixNano") - span.nanos("startTimeUnixNano");
        assert!(took < 120_000_000_000, "{span:?}");
    }
    let ids: BTreeSet<&str> = spans.iter().map(Span::id).collect();
    assert_eq!(ids.len(), spans.len(), "a span ends once: {spans:#?}");
    let of = |name: &str| spans.iter().filter(|span| span.name() == name).collect::<Vec<_>>();
    let (jobs, parts, attempts) = (of("job"), of("part"), of("attempt"));
    assert_eq!((jobs.len(), parts.len(), attempts.len()), (1, 1, 3), "{spans:#?}");
    let (job_span, part) = (jobs[0], parts[0]);
    assert_eq!((&*job_span.role, &*part.role), ("gate", "manager"));
    assert!(job_span.span.get("parentSpanId").is_none());
    assert_eq!(part.text("parentSpanId"), job_span.id());
    for attempt in &attempts {
        assert_eq!(attempt.text("parentSpanId"), part.id());
    }
    assert_eq!(job_span.attribute("hyperscale.test").as_deref(), Some("traced"));
    assert!(!job_span.is_error() && !part.is_error(), "the load went on: {spans:#?}");
    assert!(part.events().contains(&"attempt opened"), "{part:?}");

    let (lost, ended): (Vec<&Span>, Vec<&Span>) =
        attempts.into_iter().partition(|attempt| attempt.is_error());
    let [lost] = lost[..] else { panic!("one attempt is lost: {lost:#?}") };
    assert_eq!(lost.role, "manager");
    assert_eq!(lost.attribute("error.type").as_deref(), Some("worker_lost"));
    assert_eq!(lost.attribute("hyperscale.attempt").as_deref(), Some("1"));
    assert_eq!(lost.events(), ["figures end"]);
    let shard_of = |span: &Span| span.attribute("hyperscale.shard").unwrap();
    let tries: BTreeMap<String, String> = (ended.iter())
        .map(|span| (shard_of(span), span.attribute("hyperscale.attempt").unwrap()))
        .collect();
    assert!(ended.iter().all(|span| span.role == "worker"), "{ended:#?}");
    assert_eq!(tries.len(), 2, "each shard came to its end: {tries:?}");
    assert_eq!(tries[&shard_of(lost)], "2", "the lost one with its next attempt");

    // The logs say the same, with the same ids.
    let log = killed.stderr.text();
    let about = |log: &str, words: &str| {
        log.lines().filter(|line| line.contains(words) && line.contains(&trace)).count()
    };
    assert_eq!(about(&submitted.stderr, "job submitted"), 1, "{submitted}");
    assert_eq!((about(&log, "attempt received"), about(&log, "attempt started")), (1, 1), "{log}");
    assert_eq!(about(&log, "attempt ended"), 0, "its log's end shows what was active: {log}");
    let [worker, gate, manager] = &left[..] else { panic!("three have left") };
    assert_eq!(about(&worker.stderr, "attempt ended"), 2, "{worker}");
    for words in ["job accepted", "job ended"] {
        assert_eq!(about(&gate.stderr, words), 1, "{words}: {gate}");
    }
    for words in ["part accepted", "attempt lost", "part ended"] {
        assert_eq!(about(&manager.stderr, words), 1, "{words}: {manager}");
    }
}

#[test]
fn obs_01_a_log_that_ends_says_what_was_active() {
    let world = World::new();
    let target = world.target();
    let control = world.control();
    let worker = world.worker(&control);
    control.until_free(1);
    let test = format!(
        "target: {}\nworkflows:\n  main:\n    load: {{ rate: 20/s, duration: 1m, max_vus: 20 }}\n    \
         steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    let job = world.submit(&control, &world.write("long.yaml", test));
    target.until_counted(20);

    worker.signal(Signal::TERM);
    worker.stderr.wait_for("again to leave at once", &worker.stdout);
    worker.signal(Signal::TERM);
    let ended = worker.end(WITHIN);

    ended.expect(0);
    let active = |line: &&str| line.contains(ACTIVE) && line.contains(&job);
    assert_eq!(ended.stderr.lines().filter(active).count(), 1, "{ended}");
}
