//! Whole loads against a real server on the loopback: what the engine counts is what the server
//! counted.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_engine::{AttemptNews, Engine, RunEnd, Stop, Work};
use hyperscale_model::{
    AttemptId, AttemptNumber, DatacenterId, JobId, Outcome, PartIndex, ShardId, ShardIndex,
    WorkflowIndex,
};
use hyperscale_plan::expr::{Template, Value};
use hyperscale_plan::{
    Action, Amount, Body, Choice, CompileOptions, Context, Distribution, HttpSettings, Load,
    LoadSteering, PLAN_FORMAT, Pause, Pauses, Plan, RequestStep, RowLease, RunSettings, Secrets,
    Slice, Stage, Step, StepIndex, StepName, Workflow, compile,
};
use hyperscale_stats::{Figures, Histogram, WindowFigures};
use hyperscale_target::{Handle, Stats, Target};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    url: String,
    target: Handle,
    runtime: tokio::runtime::Runtime,
}

/// What an attempt did, over all its windows.
struct Seen {
    figures: Figures<Histogram>,
    windows: Vec<(u64, WindowFigures)>,
    end: RunEnd,
    draws_made: u64,
    /// How often more unique rows were asked for.
    rows_wanted: u32,
    published: BTreeMap<String, Value>,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let target = runtime.block_on(Target::bind(address, None)).unwrap();
        let url = format!("http://{}", target.address().unwrap());
        let handle = target.handle();
        runtime.spawn(target.serve());
        Self { url, target: handle, runtime }
    }

    fn get(&self, step: u16, path: &str) -> Step {
        let request = RequestStep {
            step: StepIndex(step),
            method: "GET".to_owned(),
            url: Template::literal(&format!("{}{path}", self.url)),
            headers: Vec::new(),
            query: Vec::new(),
            body: Body::Empty,
            auth: None,
            checks: Vec::new(),
            captures: Vec::new(),
            timeout: Duration::from_secs(5),
            redirects: 3,
            retry: None,
        };
        Step { when: None, action: Action::Request(Box::new(request)) }
    }

    fn run(&self, load: Load, steps: Vec<Step>, cores: u32) -> Seen {
        self.run_with(work(plan(load, steps), cores), |_| {})
    }

    fn run_with(&self, work: Work, then: impl FnOnce(&mut Engine)) -> Seen {
        self.run_late(work, Duration::ZERO, then)
    }

    /// Runs it as one whose start came so much later than it was decided.
    fn run_late(&self, work: Work, late: Duration, then: impl FnOnce(&mut Engine)) -> Seen {
        let attempt = work.attempt;
        let cores = u32::try_from(work.cores.len()).unwrap();
        let (mut engine, mut events) = Engine::start(cores).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a lease that outlasts the test")]
        engine.lease(std::time::Instant::now() + Duration::from_secs(3_600));
        assert!(engine.prepare(work));
        let mut then = Some(then);
        let mut seen = Seen {
            figures: Figures::default(),
            windows: Vec::new(),
            end: RunEnd::Finished,
            draws_made: 0,
            rows_wanted: 0,
            published: BTreeMap::new(),
        };
        self.runtime.block_on(async {
            while let Some(event) = events.recv().await {
                for news in engine.join(event) {
                    match news {
                        AttemptNews::Prepared => {
                            assert!(engine.run(attempt, Duration::ZERO, late, late, late));
                            then.take().unwrap()(&mut engine);
                        }
                        AttemptNews::Unprepared(message) => panic!("{message}"),
                        AttemptNews::Window(window, figures) => {
                            seen.figures.merge(&figures.figures);
                            seen.windows.push((window, *figures));
                        }
                        AttemptNews::RowsWanted => {
                            seen.rows_wanted += 1;
                            let leased = engine.draws_made(attempt) + 50;
                            assert!(engine.lease_rows(attempt, leased));
                        }
                        AttemptNews::Ended { end, published, draws_made } => {
                            (seen.end, seen.draws_made) = (end, draws_made);
                            seen.published = published;
                            return;
                        }
                    }
                }
            }
        });
        assert!(seen.windows.is_sorted_by_key(|(window, _)| *window), "windows come in order");
        seen
    }

    /// Asserts that both sides counted the same, and returns it.
    fn agreed(&self, seen: &Seen) -> Stats {
        let stats = self.target.stats();
        let sum = |of: fn(&hyperscale_stats::StepFigures<Histogram>) -> u64| {
            seen.figures.steps.iter().map(|(_, step)| of(step)).sum::<u64>()
        };
        assert_eq!(seen.figures.requests(), stats.requests, "requests");
        assert_eq!(sum(|step| step.bytes_out), stats.bytes_in, "bytes sent");
        assert_eq!(sum(|step| step.bytes_in), stats.bytes_out, "bytes received");
        stats
    }
}

fn plan(load: Load, steps: Vec<Step>) -> Plan {
    Plan {
        format: PLAN_FORMAT,
        name: "test".to_owned(),
        description: None,
        labels: BTreeMap::new(),
        vars: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        http: HttpSettings::default(),
        data: Vec::new(),
        workflows: vec![Workflow {
            name: "main".to_owned(),
            after: hyperscale_plan::After::default(),
            load,
            steps,
            locals: Vec::new(),
            publish: Vec::new(),
            start_after: Duration::ZERO,
            graceful_stop: SECOND,
            cores: None,
            on_error: hyperscale_plan::OnError::Continue,
            vu_setup: Vec::new(),
            vu_teardown: Vec::new(),
            finally: Vec::new(),
        }],
        steps: (0..4)
            .map(|step| StepName { workflow: WorkflowIndex(0), name: format!("main/{step}") })
            .collect(),
        checks: Vec::new(),
        metrics: Vec::new(),
        thresholds: Vec::new(),
        run: RunSettings::default(),
        source: None,
    }
}

fn work(plan: Plan, cores: u32) -> Work {
    let (job, part) = (JobId::from_u128(1), PartIndex(0));
    let shard = ShardId { job, part, workflow: WorkflowIndex(0), shard: ShardIndex(0) };
    Work {
        attempt: AttemptId { shard, number: AttemptNumber(1) },
        plan: Arc::new(plan),
        blobs: BTreeMap::new(),
        slice: Slice::whole(),
        cores: (0..cores).collect(),
        iterations_done: 0,
        load_sent: Duration::ZERO,
        rows: RowLease { slice: Slice::whole(), from: 0, until: u64::MAX },
        steering: LoadSteering::default(),
        context: Context::default(),
        secrets: Secrets::default(),
        window: Duration::from_millis(100),
        datacenter: DatacenterId::from("local"),
    }
}

#[test]
fn shared_iterations_are_run_exactly_over_several_cores() {
    let world = World::new();
    let load = Load::SharedIterations { vus: 7, total: 10_003, max_duration: 60 * SECOND };

    let seen = world.run(load, vec![world.get(0, "/")], 2);

    assert_eq!(seen.end, RunEnd::Finished);
    assert_eq!(seen.figures.iterations, 10_003);
    assert_eq!(seen.figures.outcomes()[Outcome::Ok], 10_003);
    let stats = world.agreed(&seen);
    assert_eq!(stats.connections, 7, "each user has its own connection");
}

#[test]
fn an_attempt_that_goes_on_runs_only_what_is_left() {
    let world = World::new();
    let load = Load::PerVuIterations { vus: 5, iterations: 20, max_duration: 60 * SECOND };
    let mut work = work(plan(load, vec![world.get(0, "/")]), 2);
    work.iterations_done = 37;

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.figures.iterations, 100 - 37);
    world.agreed(&seen);
}

#[test]
fn an_arrival_rate_starts_as_often_as_planned_and_drops_what_finds_no_user() {
    let world = World::new();
    let load = Load::ConstantArrivalRate {
        rate: 500.0,
        duration: SECOND,
        max_vus: 20,
        distribution: Distribution::Even,
    };

    let seen = world.run(load.clone(), vec![world.get(0, "/")], 2);

    assert_eq!(seen.figures.iterations + seen.figures.dropped, 500);
    world.agreed(&seen);

    // 4 users that are busy for 10 s each: 4 starts, the rest is dropped, and said to be.
    let slow = Load::ConstantArrivalRate {
        rate: 500.0,
        duration: SECOND,
        max_vus: 4,
        distribution: Distribution::Even,
    };
    let world = World::new();
    let seen = world.run(slow, vec![world.get(0, "/delay/10000")], 2);

    assert_eq!(seen.figures.dropped, 496);
    assert_eq!(seen.figures.iterations_cut, 4, "cut after the graceful stop");
    assert_eq!(seen.figures.outcomes()[Outcome::Cancelled], 4);
}

#[test]
fn dsp_13_starts_that_were_due_before_a_late_beginning_are_dropped_and_counted() {
    let target = World::new();
    let load = Load::ConstantArrivalRate {
        rate: 20.0,
        duration: Duration::from_secs(1),
        max_vus: 20,
        distribution: Distribution::Even,
    };

    let late = Duration::from_millis(490);
    let seen = target.run_late(work(plan(load, vec![target.get(0, "/")]), 2), late, |_| {});

    // Those of the first 465 ms: what is late by no more than 25 ms is made.
    assert!((9..=10).contains(&seen.figures.dropped), "{:?}", seen.figures.dropped);
    assert_eq!(seen.figures.iterations + seen.figures.dropped, 20, "each start is accounted for");
    assert_eq!(seen.figures.dropped_late, 0, "that was not this core's fault");
}

#[test]
fn poisson_arrivals_keep_the_rate() {
    let world = World::new();
    let load = Load::RampingArrivalRate {
        start_rate: 1_000.0,
        stages: vec![Stage { to: 1_000.0, over: SECOND }],
        max_vus: 100,
        distribution: Distribution::Poisson,
    };

    let seen = world.run(load, vec![world.get(0, "/")], 2);

    let starts = seen.figures.iterations + seen.figures.dropped;
    // The standard deviation is √1000; this fails by chance once in 10⁹ seeds, and the seed is set.
    assert!(starts.abs_diff(1_000) < 190, "{starts} starts instead of about 1,000");
    world.agreed(&seen);
}

#[test]
fn each_way_to_fail_is_an_outcome_of_its_own() {
    let world = World::new();
    let load = Load::PerVuIterations { vus: 2, iterations: 1, max_duration: 60 * SECOND };
    let mut refused = world.get(3, "/");
    if let Action::Request(request) = &mut refused.action {
        // Nobody listens on port 1.
        request.url = Template::literal("http://127.0.0.1:1/");
    }
    let mut stalled = world.get(2, "/stall");
    if let Action::Request(request) = &mut stalled.action {
        request.timeout = Duration::from_millis(100);
    }
    let steps = vec![world.get(0, "/status/404"), world.get(1, "/reset"), stalled, refused];

    let seen = world.run(load, steps, 1);

    let outcomes = seen.figures.outcomes();
    for outcome in [Outcome::Http4xx, Outcome::Reset, Outcome::Timeout, Outcome::Connect] {
        assert_eq!(outcomes[outcome], 2, "{outcome:?} of {outcomes:?}");
    }
    assert_eq!(outcomes.total(), 8);
    let examples: usize = seen.windows.iter().map(|(_, window)| window.exchanges.len()).sum();
    assert_eq!(examples, 8, "each failure is kept as an example");
}

#[test]
fn redirects_are_followed_within_one_request() {
    let world = World::new();
    let load = Load::PerVuIterations { vus: 1, iterations: 2, max_duration: 60 * SECOND };

    let seen = world.run(load, vec![world.get(0, "/redirect/2"), world.get(1, "/redirect/9")], 1);

    assert_eq!(seen.figures.requests(), 4);
    assert_eq!(world.target.stats().requests, 2 * 3 + 2 * 4);
}

#[test]
fn users_follow_a_ramp_and_choices_follow_weights() {
    let world = World::new();
    let load = Load::RampingVus {
        start_vus: 0,
        stages: vec![Stage { to: 20, over: SECOND }],
        graceful_ramp_down: SECOND,
    };
    let pause =
        Step { when: None, action: Action::Pause(Pause::Constant(Duration::from_millis(5))) };
    let choices = Action::Choose(vec![
        Choice { weight: 3, steps: vec![world.get(0, "/")] },
        Choice { weight: 1, steps: vec![world.get(1, "/json")] },
    ]);

    let seen = world.run(load, vec![Step { when: None, action: choices }, pause], 2);

    let most = seen.windows.iter().map(|(_, window)| window.vus).max().unwrap();
    assert!((15..=20).contains(&most), "{most} users at most");
    assert!(seen.windows[2].1.vus < most);
    let requests = |step| seen.figures.step(StepIndex(step)).unwrap().outcomes.total() as f64;
    let share = requests(0) / (requests(0) + requests(1));
    assert!((0.6..0.9).contains(&share), "{share} instead of 0.75");
    world.agreed(&seen);
}

#[test]
fn a_stop_cuts_what_runs_and_counts_it() {
    let world = World::new();
    let load = Load::ConstantVus { vus: 3, duration: 60 * SECOND };
    let work = work(plan(load, vec![world.get(0, "/delay/30000")]), 1);
    let attempt = work.attempt;

    let seen = world.run_with(work, |engine| {
        assert!(engine.stop(attempt, Stop::Now));
    });

    assert_eq!(seen.end, RunEnd::Stopped);
    let outcomes = seen.figures.outcomes();
    assert_eq!(outcomes.total(), outcomes[Outcome::Cancelled]);
    assert_eq!(seen.figures.iterations, 0);
}

/// A test in the language that users write, against the world's target.
fn written(world: &World, text: &str) -> Work {
    let text = text.replace("TARGET", &world.url);
    let read_file = |path: &str, _: usize| match path {
        "users.csv" => Ok(b"name\nann\nbob\ncid\n".to_vec()),
        "many.csv" => Ok((0..500).fold("n\n".to_owned(), |rows, n| format!("{rows}{n}\n")).into()),
        _ => Err("there is no such file".to_owned()),
    };
    let options = CompileOptions {
        name: "test.yaml",
        sets: &[],
        environment: &|_| None,
        read_file: &read_file,
    };
    let compiled = compile(text.as_bytes(), &options).unwrap_or_else(|errors| panic!("{errors}"));
    let blobs = compiled.blobs.into_iter().map(|(hash, bytes)| (hash, bytes.into())).collect();
    Work { blobs, ..work(compiled.plan, 2) }
}

#[test]
fn values_are_captured_checked_and_sent_again() {
    let world = World::new();
    let work = written(
        &world,
        r#"
target: TARGET
workflows:
  main:
    load: { vus: 2, iterations: 3 }
    steps:
      - name: list
        get: /json
        check: [ status == 200, 'json("$.ok") == true', size > 10B ]
        capture: { id: { json: "$.id" }, price: { json: "$.items[1].price" } }
      - name: echo
        post: /echo
        json: { id: "${id}", user: "${vu.id}" }
        check: [ 'json("$.id") == 7', 'json("$.user") in 1..2' ]
      - set: { twice: "id * 2" }
      - if: { condition: twice == 14, then: [ { name: seen, get: "/bytes/${twice}", check: [ size == 14B ] } ] }
      - { name: wrong, get: /json, check: [ { name: is false, expect: 'json("$.ok") == false' } ] }
      - { name: warned, get: /json, check: [ { name: soft, expect: status == 201, warn: true } ] }
"#,
    );

    let plan = Arc::clone(&work.plan);
    let seen = world.run_with(work, |_| {});

    let outcome = |name: &str, outcome| {
        let step = plan.steps.iter().position(|step| step.name == format!("main/{name}")).unwrap();
        let step = StepIndex(u16::try_from(step).unwrap());
        seen.figures.step(step).unwrap().outcomes[outcome]
    };
    for name in ["list", "echo", "seen", "warned"] {
        assert_eq!(outcome(name, Outcome::Ok), 6, "{name}");
    }
    assert_eq!(outcome("wrong", Outcome::CheckFailed), 6);
    assert_eq!(seen.figures.iterations, 6);
    world.agreed(&seen);
}

#[test]
fn a_missing_value_ends_the_iteration_and_is_counted() {
    let world = World::new();
    let work = written(
        &world,
        r#"
target: TARGET
workflows:
  main:
    load: { vus: 1, iterations: 2 }
    steps:
      - { name: list, get: /json, capture: { none: { json: "$.nothing" } } }
      - { name: never, get: "/bytes/${none}" }
"#,
    );

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.figures.outcomes()[Outcome::CheckFailed], 2);
    assert_eq!(seen.figures.requests(), 2, "the second step was never sent");
}

#[test]
fn cookies_come_back_and_rows_are_unique_over_cores() {
    let world = World::new();
    let work = written(
        &world,
        r#"
target: TARGET
data: { users: { csv: users.csv, pick: unique } }
workflows:
  main:
    load: { vus: 2, iterations: 5 }
    steps:
      - { name: login, get: "/cookie/${users.name}" }
      - { name: shown, get: /headers, check: [ 'body.contains("cookie: target=" + users.name)' ] }
      - { name: each, get: "/status/404", when: 'users.name == "bob"' }
"#,
    );

    let seen = world.run_with(work, |_| {});

    let outcomes = seen.figures.outcomes();
    assert_eq!(outcomes[Outcome::Ok], 6, "three rows, two requests each: {outcomes:?}");
    assert_eq!(outcomes[Outcome::Http4xx], 1, "one of the rows is bob's");
    world.agreed(&seen);
}

#[test]
fn data_that_a_workflow_does_not_read_does_not_end_its_users() {
    let world = World::new();
    let work = written(
        &world,
        r#"
target: TARGET
data: { users: { csv: users.csv, pick: unique } }
workflows:
  main: { load: { vus: 1, iterations: 10 }, steps: [ { get: / } ] }
  other: { load: once, steps: [ { get: "/cookie/${users.name}" } ] }
"#,
    );

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.figures.iterations, 10, "three rows of data that it never reads");
}

#[test]
fn a_pool_shares_few_connections_and_retries_are_counted_apart() {
    let world = World::new();
    let work = written(
        &world,
        r#"
target: TARGET
defaults: { http: { connections: pool, pool_size: 2 } }
workflows:
  main:
    load: { vus: 10, iterations: 5 }
    steps:
      - { name: fine, get: / }
      - parallel:
          - { name: one, get: /bytes/1 }
          - { name: two, get: /bytes/2 }
      - { name: broken, get: /status/503, retry: { times: 2, on: [ 503 ], backoff: 1ms } }
"#,
    );

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.figures.requests(), 200);
    assert_eq!(seen.figures.outcomes()[Outcome::Http5xx], 50);
    let retries: u64 = seen.figures.steps.iter().map(|(_, step)| step.retries).sum();
    assert_eq!(retries, 100);
    let stats = world.target.stats();
    assert_eq!(stats.requests, 300);
    assert!(stats.connections <= 4, "two for each core, not {}", stats.connections);
}

/// A proxy that passes one connection on, and what it was asked for.
async fn proxy(listener: tokio::net::TcpListener, target: String) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut client, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
    if head.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
    } else {
        // A server takes the whole URL as well (RFC 9112, section 3.2.2).
        server.write_all(head.as_bytes()).await.unwrap();
    }
    // Whoever leaves first ends it; that is no failure here.
    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    head
}

fn through_a_proxy(target: &str, insecure: bool) -> (Seen, String) {
    let world = World::new();
    let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let at = listener.local_addr().unwrap();
    let authority = target.split("://").nth(1).unwrap().to_owned();
    let asked = world.runtime.spawn(proxy(listener, authority));
    let text = format!(
        "target: {target}\ndefaults: {{ net: {{ proxy: \"http://{at}\" }}, tls: {{ insecure: {insecure} }} }}\n\
         workflows: {{ main: {{ load: {{ vus: 1, iterations: 3 }}, steps: [ {{ get: /json }} ] }} }}\n"
    );
    let seen = world.run_with(written(&world, &text), |_| {});
    let head = world.runtime.block_on(asked).unwrap();
    (seen, head)
}

#[test]
fn requests_go_through_a_proxy_by_their_whole_url() {
    let world = World::new();

    let (seen, head) = through_a_proxy(&world.url, false);

    assert_eq!(seen.figures.outcomes()[Outcome::Ok], 3);
    assert!(head.starts_with(&format!("GET {}/json HTTP/1.1\r\n", world.url)), "{head}");
}

#[test]
fn https_goes_through_a_tunnel_of_a_proxy() {
    let world = World::new();
    let (acceptor, _) = hyperscale_target::acceptor(vec!["127.0.0.1".to_owned()]).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let target = world.runtime.block_on(Target::bind(address, Some(acceptor))).unwrap();
    let address = target.address().unwrap();
    world.runtime.spawn(target.serve());

    let (seen, head) = through_a_proxy(&format!("https://{address}"), true);

    assert_eq!(seen.figures.outcomes()[Outcome::Ok], 3);
    assert!(head.starts_with(&format!("CONNECT {address} HTTP/1.1\r\n")), "{head}");
}

/// Stands still from 300 ms to 900 ms of the job's time.
fn paused(version: u64) -> LoadSteering {
    let mut pauses = Pauses::default();
    pauses.pause(Duration::from_millis(300));
    pauses.resume(Duration::from_millis(900));
    LoadSteering { version, pauses, amount: None }
}

/// Iterations that ended within these windows, each 100 ms long.
fn iterations_in(seen: &Seen, windows: std::ops::Range<u64>) -> u64 {
    let within = seen.windows.iter().filter(|(window, _)| windows.contains(window));
    within.map(|(_, figures)| figures.figures.iterations).sum()
}

#[test]
fn dat_02_a_paused_arrival_rate_stands_still_and_then_makes_the_rest_of_its_starts() {
    let world = World::new();
    let load = Load::ConstantArrivalRate {
        rate: 500.0,
        duration: SECOND,
        max_vus: 20,
        distribution: Distribution::Even,
    };
    let work = work(plan(load, vec![world.get(0, "/")]), 2);
    let attempt = work.attempt;

    let seen = world.run_with(work, |engine| assert!(engine.steer(attempt, paused(1))));

    assert_eq!(seen.figures.iterations + seen.figures.dropped, 500, "each start, once");
    assert_eq!(iterations_in(&seen, 5..8), 0, "nothing starts while the load stands still");
    assert!(iterations_in(&seen, 9..17) > 250, "the load goes on where it was");
    world.agreed(&seen);
}

#[test]
fn dat_02_paused_users_end_their_iterations_and_start_no_other() {
    let world = World::new();
    let load = Load::ConstantVus { vus: 5, duration: Duration::from_millis(600) };
    let mut work = work(plan(load, vec![world.get(0, "/delay/10")]), 2);
    work.steering = paused(1);

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.figures.iterations_cut, 0);
    assert_eq!(iterations_in(&seen, 5..8), 0, "nothing starts while the load stands still");
    assert!(iterations_in(&seen, 9..13) > 0, "300 ms are left of its time");
    world.agreed(&seen);
}

#[test]
fn dat_02_paused_iterations_are_all_done_in_the_end() {
    let world = World::new();
    let load = Load::SharedIterations { vus: 4, total: 200, max_duration: 10 * SECOND };
    let mut work = work(plan(load, vec![world.get(0, "/delay/20")]), 2);
    work.steering = paused(1);

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.end, RunEnd::Finished);
    assert_eq!(seen.figures.iterations, 200);
    assert_eq!(iterations_in(&seen, 5..8), 0, "nothing starts while the load stands still");
}

#[test]
fn dat_02_a_paused_load_stops_when_it_is_told_to() {
    let world = World::new();
    let load = Load::ConstantVus { vus: 5, duration: 60 * SECOND };
    let mut work = work(plan(load, vec![world.get(0, "/")]), 2);
    let attempt = work.attempt;
    // Its clock may be a little behind that of whoever paused it.
    work.steering.pauses.pause(Duration::from_millis(50));

    let seen = world.run_with(work, |engine| {
        // Its cores could have sent much while another load goes from its start to its end.
        let other = || {
            let (load, other) = (
                Load::SharedIterations { vus: 1, total: 8, max_duration: 60 * SECOND },
                World::new(),
            );
            let step = other.get(0, "/delay/20");
            other.run(load, vec![step], 1).figures.iterations
        };
        let done = std::thread::scope(|scope| scope.spawn(other).join().unwrap());
        assert_eq!(done, 8);
        assert!(engine.stop(attempt, Stop::Graceful));
    });

    assert_eq!((seen.end, seen.figures.requests()), (RunEnd::Stopped, 0));
}

#[test]
fn dat_02_a_scaled_rate_makes_its_share_of_the_starts() {
    let world = World::new();
    let load = Load::ConstantArrivalRate {
        rate: 500.0,
        duration: SECOND,
        max_vus: 20,
        distribution: Distribution::Even,
    };
    let mut work = work(plan(load, vec![world.get(0, "/")]), 2);
    work.steering = LoadSteering {
        version: 1,
        amount: Some(Amount::Share(400_000)),
        ..LoadSteering::default()
    };

    let seen = world.run_with(work, |_| {});

    let starts = seen.figures.iterations + seen.figures.dropped;
    assert!(starts.abs_diff(200) <= 2, "{starts} starts instead of 200");
    world.agreed(&seen);
}

#[test]
fn dat_02_users_that_are_set_come_and_go_and_older_values_are_late() {
    let world = World::new();
    let load = Load::ExternallyControlled { vus: 2, max_vus: 6, duration: SECOND };
    let work = work(plan(load, vec![world.get(0, "/delay/10")]), 2);
    let attempt = work.attempt;
    let users = |version, users| {
        let amount = Some(Amount::Users(users));
        LoadSteering { version, amount, ..LoadSteering::default() }
    };

    let seen = world.run_with(work, |engine| {
        assert!(engine.steer(attempt, users(2, 6)));
        assert!(engine.steer(attempt, users(1, 0)));
    });

    let most = seen.windows.iter().map(|(_, figures)| figures.vus).max();
    assert_eq!(most, Some(6));
    assert_eq!(world.agreed(&seen).connections, 6);
}

#[test]
fn dat_02_a_takeover_leaves_out_what_may_have_been_sent() {
    let world = World::new();
    let load = Load::ConstantArrivalRate {
        rate: 200.0,
        duration: SECOND,
        max_vus: 20,
        distribution: Distribution::Even,
    };
    let mut work = work(plan(load, vec![world.get(0, "/")]), 1);
    work.load_sent = Duration::from_millis(750);

    let seen = world.run_with(work, |_| {});

    assert_eq!(seen.figures.iterations + seen.figures.dropped, 50);
}

/// Users that read unique rows, and publish each that they drew.
fn drawing(world: &World, load: &str, rows: RowLease) -> Work {
    let text = r#"
target: TARGET
data: { many: { csv: many.csv, pick: unique } }
workflows:
  main:
    load: LOAD
    steps: [ { get: / }, { set: { row: "many.n" } } ]
    publish: { rows: { collect: row, limit: 10000 } }
"#;
    Work { rows, ..written(world, &text.replace("LOAD", load)) }
}

/// The rows that were drawn, each with how often.
fn drawn(seen: &[&Seen]) -> BTreeMap<String, u32> {
    let mut drawn = BTreeMap::new();
    for published in seen.iter().filter_map(|seen| seen.published.get("rows")) {
        let Value::List(rows) = published else { panic!("{published} is no list") };
        for row in rows.iter() {
            *drawn.entry(row.to_string()).or_default() += 1;
        }
    }
    drawn
}

#[test]
fn dat_01_users_draw_each_row_once_and_wait_for_what_is_not_leased() {
    let world = World::new();
    let rows = RowLease { slice: Slice::whole(), from: 0, until: 20 };
    for load in ["{ vus: 5, duration: 1s }", "{ vus: 5, iterations: 1000, max_duration: 1s }"] {
        let seen = world.run_with(drawing(&world, load, rows.clone()), |_| {});

        let drawn = drawn(&[&seen]);
        assert_eq!(drawn.len(), 500, "{load}: users of all cores have used all rows up");
        assert!(drawn.values().all(|&times| times == 1), "{load}: {drawn:?}");
        assert_eq!((seen.draws_made, seen.figures.iterations), (500, 500), "{load}");
        assert!(seen.rows_wanted >= 9, "{load}: 20 rows, then 50 at a time");
    }
}

#[test]
fn dat_01_an_attempt_that_goes_on_draws_no_row_that_was_leased_before() {
    let world = World::new();
    let slices = Slice::whole().split_evenly(2);
    let mut lease = RowLease { slice: slices[1].clone(), from: 0, until: 0 };
    let loads = ["{ vus: 3, duration: 300ms }", "{ rate: 100/s, duration: 300ms, max_vus: 5 }"];
    let mut all = Vec::new();
    for load in loads {
        // It begins behind the one before, with ten draws, and is leased more when it asks.
        lease = RowLease { from: lease.until, until: lease.until + 10, ..lease };
        let work = drawing(&world, load, lease.clone());
        let seen = world.run_with(work, |_| {});
        lease.until = lease.from + seen.draws_made;
        all.push(seen);
    }

    let drawn = drawn(&all.iter().collect::<Vec<_>>());
    assert!(drawn.values().all(|&times| times == 1), "{drawn:?}");
    let made: u64 = all.iter().map(|seen| seen.draws_made).sum();
    assert_eq!(drawn.len() as u64, made);
    assert!(drawn.keys().all(|row| row.parse::<u64>().unwrap() % 2 == 1), "{drawn:?}");
}

#[test]
fn dat_01_starts_without_a_row_are_dropped_and_counted() {
    let world = World::new();
    let rows = RowLease { slice: Slice::whole(), from: 490, until: 500 };
    let load = "{ rate: 100/s, duration: 500ms, max_vus: 50 }";

    let seen = world.run_with(drawing(&world, load, rows), |_| {});

    assert_eq!(seen.draws_made, 10);
    assert_eq!((seen.figures.iterations, seen.figures.dropped), (10, 40));
    assert_eq!(seen.rows_wanted, 0, "nobody asks for what there is not");
}

#[test]
fn dat_01_a_user_that_comes_back_draws_on() {
    let world = World::new();
    let rows = RowLease { slice: Slice::whole(), from: 0, until: 500 };
    let load = "{ executor: externally-controlled, vus: 4, max_vus: 4, duration: 1s }";
    let mut work = drawing(&world, load, rows);
    Arc::make_mut(&mut work.plan).workflows[0].graceful_stop = Duration::ZERO;
    let attempt = work.attempt;
    let amount = |version, users| LoadSteering {
        version,
        amount: Some(Amount::Users(users)),
        ..LoadSteering::default()
    };

    let seen = world.run_with(work, |engine| {
        assert!(engine.steer(attempt, amount(1, 1)));
        assert!(engine.steer(attempt, amount(2, 4)));
    });

    let drawn = drawn(&[&seen]);
    assert_eq!(drawn.len(), 500);
    assert!(drawn.values().all(|&times| times == 1), "{drawn:?}");
}
