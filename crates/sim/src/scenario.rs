//! What a seed draws: the nodes, the tests, the client's wishes, and which kinds of fault are on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_blobs::hash_of;
use hyperscale_model::{NodeId, SplitMix, Time, WorkflowIndex};
use hyperscale_plan::expr::{Expr, Var};
use hyperscale_plan::{
    Action, After, Aggregate, Comparison, DataIndex, DataSource, Datacenters, Distribution,
    HttpSettings, Load, LoadKind, LocalIndex, OnEnd, PLAN_FORMAT, Pause, Pick, Plan, Priority,
    Publish, RunSettings, Split, Stage, Step, StepName, Threshold, ThresholdMetric, Workflow,
};
use hyperscale_wire::StopMode;

use crate::engine::Habits;
use crate::{Kind, Options};

/// A world as drawn from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) gates: usize,
    pub(crate) datacenters: Vec<Datacenter>,
    pub(crate) tests: Vec<Test>,
    pub(crate) habits: Habits,
    pub(crate) faults: Faults,
    /// When all faults end.
    pub(crate) calm: Time,
    /// How long the world lives at least.
    pub(crate) life: Time,
    pub(crate) window: Duration,
    pub(crate) checkpoint: Duration,
    pub(crate) retention: Duration,
    pub(crate) snapshot_after: u64,
    /// Clocks run fast or slow by up to so many millionths.
    pub(crate) drift: u64,
    /// What frames take longer, up to twice that, between gates and to other datacenters.
    pub(crate) distance: Duration,
    /// By how many milliseconds the wall clocks of some nodes are ahead.
    pub(crate) ahead: BTreeMap<NodeId, i64>,
}

/// The nodes of a datacenter.
#[derive(Debug, Clone)]
pub(crate) struct Datacenter {
    pub(crate) managers: usize,
    /// The cores of each worker.
    pub(crate) workers: Vec<u32>,
}

/// A test that the client submits.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    pub(crate) plan: Plan,
    /// The rows of its data.
    pub(crate) blobs: Vec<Arc<[u8]>>,
    pub(crate) submit_at: Time,
    pub(crate) cancel: Option<Cancel>,
    /// How the client steers it, in order.
    pub(crate) steers: Vec<SteerWish>,
    pub(crate) secret: bool,
}

/// A change of a job's steering that the client asks for.
#[derive(Debug, Clone)]
pub(crate) struct SteerWish {
    /// How long after its submission.
    pub(crate) after: Duration,
    pub(crate) pause: Option<bool>,
    pub(crate) scale: Vec<(String, String)>,
}

/// A stop that the client asks for.
#[derive(Debug, Clone)]
pub(crate) struct Cancel {
    /// How long after its submission.
    pub(crate) after: Duration,
    pub(crate) workflows: Vec<String>,
    pub(crate) mode: StopMode,
}

/// Which kinds of fault happen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub(crate) crash_gate: bool,
    pub(crate) crash_manager: bool,
    pub(crate) crash_worker: bool,
    /// Nodes stop in the middle of what they do.
    pub(crate) crash_between: bool,
    /// Workers come back as new ones.
    pub(crate) lose_disk: bool,
    pub(crate) freeze: bool,
    pub(crate) cut: bool,
    pub(crate) cut_one_way: bool,
    pub(crate) slow: bool,
    pub(crate) lossy: bool,
    pub(crate) flap: bool,
    pub(crate) fade: bool,
    /// Messages of a broken link arrive after all, late.
    pub(crate) stragglers: bool,
    /// Messages arrive again after a reconnect.
    pub(crate) copies: bool,
    pub(crate) drain: bool,
    /// All gates lose a datacenter.
    pub(crate) cut_datacenter: bool,
    /// Gossip says that somebody is dead who is not, or has been for a while.
    pub(crate) false_death: bool,
    /// Gates and managers lose their disks: new ones come in their place.
    pub(crate) replace: bool,
    /// The mean time from one fault to the next, in milliseconds.
    pub(crate) pause: u64,
}

impl Faults {
    /// Each kind, in a fixed order.
    pub(crate) const NAMES: [&str; 18] = [
        "crash-gate",
        "crash-manager",
        "crash-worker",
        "crash-between",
        "lose-disk",
        "freeze",
        "cut",
        "cut-one-way",
        "slow",
        "lossy",
        "flap",
        "fade",
        "stragglers",
        "copies",
        "drain",
        "cut-datacenter",
        "false-death",
        "replace",
    ];

    fn all(&mut self) -> [&mut bool; 18] {
        [
            &mut self.crash_gate,
            &mut self.crash_manager,
            &mut self.crash_worker,
            &mut self.crash_between,
            &mut self.lose_disk,
            &mut self.freeze,
            &mut self.cut,
            &mut self.cut_one_way,
            &mut self.slow,
            &mut self.lossy,
            &mut self.flap,
            &mut self.fade,
            &mut self.stragglers,
            &mut self.copies,
            &mut self.drain,
            &mut self.cut_datacenter,
            &mut self.false_death,
            &mut self.replace,
        ]
    }

    pub(crate) fn draw(random: &mut SplitMix) -> Self {
        let mut on = |share| random.chance(share);
        let mut faults = Self {
            crash_gate: on(0.35),
            crash_manager: on(0.35),
            crash_worker: on(0.4),
            crash_between: on(0.4),
            lose_disk: on(0.3),
            freeze: on(0.3),
            cut: on(0.3),
            cut_one_way: on(0.25),
            slow: on(0.3),
            lossy: on(0.3),
            flap: on(0.35),
            fade: on(0.35),
            stragglers: on(0.4),
            copies: on(0.3),
            drain: on(0.2),
            cut_datacenter: on(0.25),
            false_death: on(0.3),
            replace: false,
            pause: 0,
        };
        faults.pause = [3_000, 8_000, 20_000][pick(random, 3)];
        faults
    }
}

fn pick(random: &mut SplitMix, of: usize) -> usize {
    usize::try_from(random.below(of as u64)).unwrap_or(0)
}

fn between(random: &mut SplitMix, low: u64, high: u64) -> u64 {
    low + random.below(high - low + 1)
}

fn small(random: &mut SplitMix, low: u64, high: u64) -> u32 {
    u32::try_from(between(random, low, high)).unwrap_or(1)
}

impl Scenario {
    pub(crate) fn draw(seed: u64, kind: Kind, with_faults: bool) -> Self {
        let mut random = SplitMix::new(seed);
        let (gates, datacenters) = match kind {
            Kind::Local => (1, vec![Datacenter::draw(&mut random, 1, 8)]),
            Kind::Cluster => draw_cluster(&mut random),
            Kind::Reference => {
                let datacenter = Datacenter { managers: 3, workers: vec![2; 4] };
                (3, vec![datacenter; 2])
            }
        };
        let habits = Habits {
            pace: 0.5 + random.unit() * 3.0,
            failures: if random.chance(0.4) { 0.2 } else { 0.01 },
            core_loss: if with_faults && random.chance(0.2) { 0.002 } else { 0.0 },
            abort: if with_faults && random.chance(0.1) { 0.002 } else { 0.0 },
            unprepared: if with_faults && random.chance(0.1) { 0.1 } else { 0.0 },
            ignores_lease: false,
            ignores_pauses: false,
        };
        let mut faults = if with_faults { Faults::draw(&mut random) } else { Faults::default() };
        // By itself, so that the worlds without it stay what they were.
        faults.replace = with_faults && SplitMix::new(seed.rotate_left(32)).chance(0.3);
        let tests = between(&mut random, 1, if kind == Kind::Local { 4 } else { 7 });
        let places = datacenters.len();
        let mut tests: Vec<Test> =
            (0..tests).map(|number| Test::draw(&mut random, number, places, kind)).collect();
        let mut crowd = SplitMix::new(seed.rotate_left(16));
        if kind == Kind::Cluster && places > 1 && crowd.chance(0.3) {
            tests.iter_mut().for_each(|test| test.crowd(&mut crowd));
        }
        Self {
            gates,
            datacenters,
            tests,
            habits,
            faults,
            calm: Time::from_secs(if kind == Kind::Local { 180 } else { 420 }),
            life: Time::from_secs(if kind == Kind::Local { 300 } else { 600 }),
            window: Duration::from_millis([250, 1_000, 1_000][pick(&mut random, 3)]),
            checkpoint: Duration::from_millis([250, 1_000, 3_000][pick(&mut random, 3)]),
            retention: Duration::from_secs([20, 60, 300][pick(&mut random, 3)]),
            snapshot_after: [20, 200, 10_000][pick(&mut random, 3)],
            drift: if random.chance(0.5) { 300 } else { 0 },
            distance: draw_distance(seed, kind),
            ahead: BTreeMap::new(),
        }
    }
}

/// Most clusters are near together, some are spread over the world: up to 390 ms for a round trip in
/// the mean. By itself, so that the worlds without it stay what they were.
fn draw_distance(seed: u64, kind: Kind) -> Duration {
    let mut random = SplitMix::new(seed.rotate_left(8));
    let is_wide = kind == Kind::Cluster && random.chance(0.15);
    Duration::from_millis(if is_wide { between(&mut random, 20, 130) } else { 0 })
}

impl Datacenter {
    fn draw(random: &mut SplitMix, managers: usize, workers_max: u64) -> Self {
        let workers = between(random, 1, workers_max);
        Self { managers, workers: (0..workers).map(|_| small(random, 1, 4)).collect() }
    }
}

/// The name of a datacenter by its place.
pub(crate) fn datacenter_name(place: usize) -> String {
    format!("dc{place}")
}

/// Mostly small clusters, in which all that can go wrong does; now and then large ones.
fn draw_cluster(random: &mut SplitMix) -> (usize, Vec<Datacenter>) {
    let gates = [1, 1, 3, 3, 3, 5][pick(random, 6)];
    let count = [1, 1, 1, 2, 2, 3, 5][pick(random, 7)];
    let mut datacenter = || {
        let managers = [1, 1, 3, 3, 5][pick(random, 5)];
        let workers_max = if random.chance(0.1) { 20 } else { 6 };
        Datacenter::draw(random, managers, workers_max)
    };
    (gates, (0..count).map(|_| datacenter()).collect())
}

/// Where a test runs, and how its load is divided.
fn draw_run(random: &mut SplitMix, places: usize) -> (Datacenters, Split) {
    let datacenters = match random.below(3) {
        0 => Datacenters::All,
        1 => Datacenters::Choose(u16::try_from(1 + pick(random, places)).unwrap_or(1)),
        _ => {
            let named: Vec<String> =
                (0..places).filter(|_| random.chance(0.5)).map(datacenter_name).collect();
            if named.is_empty() { Datacenters::All } else { Datacenters::Named(named) }
        }
    };
    let split = [Split::Weighted, Split::Even, Split::Each][pick(random, 3)].clone();
    (datacenters, split)
}

impl Scenario {
    /// Leaves out what a shorter schedule does without.
    pub(crate) fn limit(&mut self, options: &Options) {
        if let Some(calm) = options.calm {
            self.calm = self.calm.min(Time::from_secs(calm));
        }
        for (kind, number) in self.faults.all().into_iter().zip(0..) {
            *kind &= options.without >> number & 1 == 0;
        }
    }
}

impl Test {
    fn draw(random: &mut SplitMix, number: u64, places: usize, kind: Kind) -> Self {
        let count = pick(random, 4) + 1;
        let mut steps = Vec::new();
        let workflows: Vec<Workflow> =
            (0..count).map(|index| workflow(random, index, &mut steps)).collect();
        let thresholds = if random.chance(0.6) { vec![threshold(random)] } else { Vec::new() };
        let priority = [Priority::Low, Priority::Normal, Priority::High][pick(random, 3)];
        let deadline =
            Duration::from_secs(if random.chance(0.3) { between(random, 5, 30) } else { 90 });
        let cancel = random.chance(0.35).then(|| {
            let all: Vec<String> = workflows.iter().map(|w| w.name.clone()).collect();
            let few = random.chance(0.5);
            Cancel {
                after: Duration::from_millis(between(random, 0, 40_000)),
                workflows: if few {
                    all.into_iter().filter(|_| random.chance(0.5)).collect()
                } else {
                    Vec::new()
                },
                mode: if random.chance(0.3) { StopMode::Now } else { StopMode::Graceful },
            }
        });
        let secret = random.chance(0.3);
        let (datacenters, split) = if places > 1 {
            draw_run(random, places)
        } else {
            let default = RunSettings::default();
            (default.datacenters, default.split)
        };
        let plan = Plan {
            format: PLAN_FORMAT,
            name: format!("test-{number}"),
            description: None,
            labels: BTreeMap::new(),
            vars: BTreeMap::new(),
            env: BTreeMap::new(),
            secrets: if secret { vec!["token".to_owned()] } else { Vec::new() },
            http: HttpSettings::default(),
            data: Vec::new(),
            workflows,
            steps,
            checks: Vec::new(),
            metrics: Vec::new(),
            thresholds,
            run: RunSettings { deadline, priority, datacenters, split, ..RunSettings::default() },
            source: None,
        };
        let latest = if kind == Kind::Local { 120_000 } else { 360_000 };
        let submit_at = Time::from_millis(between(random, 1_500, latest));
        let steers = draw_steers(random, &plan);
        let mut plan = plan;
        let blobs = draw_data(&mut random.fork(), &mut plan);
        Self { plan, blobs, submit_at, cancel, steers, secret }
    }
}

impl Test {
    /// Makes it one of many that come early, take all cores that they can get, and run in one
    /// datacenter for long: then some wait there while others have cores.
    fn crowd(&mut self, random: &mut SplitMix) {
        self.submit_at = Time::from_millis(between(random, 1_500, 40_000));
        let run = &mut self.plan.run;
        (run.datacenters, run.deadline) = (Datacenters::Choose(1), Duration::from_secs(200));
        let length = Duration::from_secs(between(random, 5, 120));
        let vus = small(random, 8, 40);
        if let Some(first) = self.plan.workflows.first_mut() {
            first.cores = None;
            first.load = Load::ConstantVus { vus, duration: length };
        }
        if let Some(cancel) = &mut self.cancel {
            cancel.after = Duration::from_millis(between(random, 0, 100_000));
        }
    }
}

/// Unique rows, few and many, which some of the workflows draw; gives their blobs.
fn draw_data(random: &mut SplitMix, plan: &mut Plan) -> Vec<Arc<[u8]>> {
    let sources = [0, 1, 1, 2][pick(random, 4)];
    let mut blobs = Vec::new();
    for index in 0..sources {
        let rows = [between(random, 0, 30), between(random, 30, 400)][pick(random, 2)];
        let lines: String = (0..rows).map(|row| format!("[{index},{row}]\n")).collect();
        let blob: Arc<[u8]> = lines.into_bytes().into();
        plan.data.push(DataSource {
            name: format!("d{index}"),
            blob: hash_of(&blob),
            rows,
            columns: None,
            pick: Pick::Unique,
            on_end: if random.chance(0.85) { OnEnd::Stop } else { OnEnd::Recycle },
        });
        blobs.push(blob);
        for workflow in &mut plan.workflows {
            if random.chance(0.6) {
                let reads = Some(Expr::Var(Var::Row(DataIndex(index))));
                let action = Action::Pause(Pause::Constant(Duration::ZERO));
                workflow.steps.push(Step { when: reads, action });
            }
        }
    }
    blobs
}

/// Pauses, which mostly end again, and amounts that each load takes.
fn draw_steers(random: &mut SplitMix, plan: &Plan) -> Vec<SteerWish> {
    if random.chance(0.4) {
        return Vec::new();
    }
    let mut after = Duration::ZERO;
    let mut is_paused = false;
    let mut steers = Vec::new();
    for _ in 0..between(random, 1, 6) {
        after += Duration::from_millis(between(random, 0, 9_000));
        let turns = random.chance(if is_paused { 0.7 } else { 0.4 });
        is_paused ^= turns;
        let mut scale = Vec::new();
        for workflow in &plan.workflows {
            if turns && random.chance(0.8) {
                continue;
            }
            let amount = match (&workflow.load, workflow.load.kind()) {
                (_, LoadKind::Iterations) => continue,
                (Load::ConstantArrivalRate { rate, .. }, _) if random.chance(0.5) => {
                    format!("{}/s", rate * random.unit())
                }
                (_, LoadKind::Arrivals) => format!("{}%", random.below(101)),
                (load, LoadKind::Looping) => {
                    random.below(u64::from(load.vus_max()) + 1).to_string()
                }
            };
            scale.push((workflow.name.clone(), amount));
        }
        if turns || !scale.is_empty() {
            steers.push(SteerWish { after, pause: turns.then_some(is_paused), scale });
        }
    }
    if is_paused && random.chance(0.8) {
        after += Duration::from_millis(between(random, 0, 9_000));
        steers.push(SteerWish { after, pause: Some(false), scale: Vec::new() });
    }
    steers
}

fn workflow(random: &mut SplitMix, index: usize, steps: &mut Vec<StepName>) -> Workflow {
    let number = u16::try_from(index).unwrap_or(0);
    let name = format!("w{index}");
    for step in 0..between(random, 1, 2) {
        let (workflow, name) = (WorkflowIndex(number), format!("{name}/s{step}"));
        steps.push(StepName { workflow, name });
    }
    let after: Vec<WorkflowIndex> =
        (0..number).filter(|_| random.chance(0.5)).map(WorkflowIndex).collect();
    let publishes = random.chance(0.3);
    Workflow {
        name,
        after: After { workflows: after, any_end: random.chance(0.35) },
        load: load(random),
        steps: Vec::new(),
        locals: if publishes { vec!["value".to_owned()] } else { Vec::new() },
        publish: if publishes {
            vec![Publish {
                name: "value".to_owned(),
                local: LocalIndex(0),
                collect: if random.chance(0.5) { Some(4) } else { None },
            }]
        } else {
            Vec::new()
        },
        start_after: Duration::from_millis(if random.chance(0.3) {
            between(random, 0, 4_000)
        } else {
            0
        }),
        graceful_stop: Duration::from_millis(between(random, 0, 5_000)),
        cores: random.chance(0.4).then(|| small(random, 1, 6)),
        on_error: Default::default(),
        vu_setup: Vec::new(),
        vu_teardown: Vec::new(),
        finally: Vec::new(),
    }
}

fn load(random: &mut SplitMix) -> Load {
    let duration = Duration::from_millis(between(random, 1_000, 25_000));
    let vus = small(random, 1, 12);
    let distribution = Distribution::Even;
    let half = duration / 2;
    match random.below(8) {
        0 => Load::ConstantVus { vus, duration },
        1 => {
            let stages = [vus, small(random, 0, 12)];
            let stages = stages.map(|to| Stage { to, over: half }).to_vec();
            Load::RampingVus { start_vus: 1, stages, graceful_ramp_down: Duration::ZERO }
        }
        2 => {
            let iterations = between(random, 1, 10);
            Load::PerVuIterations { vus, iterations, max_duration: duration }
        }
        3 => {
            let total = between(random, 1, 200);
            Load::SharedIterations { vus, total, max_duration: duration }
        }
        4 => {
            let rate = 1.0 + random.unit() * 20.0;
            Load::ConstantArrivalRate { rate, duration, max_vus: vus, distribution }
        }
        5 => {
            let stages = [random.unit() * 20.0, random.unit() * 10.0];
            let stages = stages.map(|to| Stage { to, over: half }).to_vec();
            Load::RampingArrivalRate { start_rate: 1.0, stages, max_vus: vus, distribution }
        }
        6 => {
            let max_vus = vus + small(random, 0, 6);
            Load::ExternallyControlled { vus, max_vus, duration }
        }
        _ => Load::Once { max_duration: duration },
    }
}

fn threshold(random: &mut SplitMix) -> Threshold {
    Threshold {
        expression: "failed.share < 0.1".to_owned(),
        metric: ThresholdMetric::Failed,
        aggregate: Aggregate::Share,
        op: Comparison::Less,
        value: 0.1,
        filter: Default::default(),
        abort: random.chance(0.7),
        after: Duration::from_secs(between(random, 0, 3)),
        during: None,
        for_at_least: Duration::from_secs(between(random, 0, 2)),
    }
}
