//! The modelled engine: what a worker's cores would have sent.
//!
//! It follows the plan's own functions of time and draws only what a target would decide: how long
//! iterations take and how requests end. Whatever it counts as sent is the truth that the world
//! holds all figures against.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{AttemptId, Outcome, SplitMix, Time};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{
    Arrivals, LoadKind, LoadSteering, RowLease, StepIndex, UniqueRows, Workflow,
};
use hyperscale_stats::{Recorder, Sample, WindowFigures};
use hyperscale_wire::{AttemptEnd, StopMode};
use hyperscale_worker::{EngineCommand, EngineEvent, Preparation};

/// How often a running attempt is looked at.
const STEP: Duration = Duration::from_millis(250);

/// How targets and cores behave; drawn from the seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// Iterations of one user per second.
    pub(crate) pace: f64,
    /// Share of requests that fail.
    pub(crate) failures: f64,
    /// Chance per step of time that the cores of an attempt give up.
    pub(crate) core_loss: f64,
    /// Chance per step of time that the test asks to stop.
    pub(crate) abort: f64,
    /// Chance that an attempt cannot be prepared.
    pub(crate) unprepared: f64,
    /// Whether cores send load without a lease, which they must not.
    pub(crate) ignores_lease: bool,
    /// Whether cores go on with what they began with, however they are steered, which they must not.
    pub(crate) ignores_pauses: bool,
}

/// Load that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) attempt: AttemptId,
    /// The first and last instant, by the worker's clock.
    pub(crate) between: (Time, Time),
    /// The time of the load that this covers.
    pub(crate) load: (Duration, Duration),
    pub(crate) users: u64,
    pub(crate) requests: u64,
    pub(crate) iterations: u64,
    /// Starts that were made or dropped, under an arrival rate.
    pub(crate) starts: u64,
    /// The version of its steering that it obeyed.
    pub(crate) steered: u64,
    /// The draws of unique rows that it made, by their numbers over the whole run.
    pub(crate) draws: Vec<u64>,
}

#[derive(Debug)]
enum Phase {
    Preparing { until: Time },
    Prepared,
    Waiting { until: Time },
    Running,
    Stopping { until: Time },
}

#[derive(Debug)]
struct Run {
    preparation: Box<Preparation>,
    steps: Vec<StepIndex>,
    arrivals: Option<Arrivals>,
    phase: Phase,
    /// Its place in the job's and in the load's time when it started, by the worker's clock.
    started: Time,
    job_at_start: Duration,
    load_at_start: Duration,
    steering: LoadSteering,
    /// The load's time up to which everything was sent.
    load_done: Duration,
    last_step: Time,
    next_step: Time,
    window: u64,
    recorder: Recorder,
    carry: f64,
    iterations: u64,
    has_published: bool,
    draws: Option<Draws>,
}

/// The draws of unique rows that an attempt makes.
#[derive(Debug)]
struct Draws {
    lease: RowLease,
    /// The next, by its number within the slice, and the first that finds no row.
    next: u64,
    end: u64,
}

impl Draws {
    fn make(&mut self, count: u64) -> Vec<u64> {
        let last = self.next.saturating_add(count).min(self.lease.until.min(self.end));
        let made = (self.next..last).filter_map(|local| self.lease.slice.global(local)).collect();
        self.next = self.next.max(last);
        made
    }

    const fn waits(&self) -> bool {
        self.next >= self.lease.until && self.next < self.end
    }
}

impl Run {
    fn draws_made(&self) -> u64 {
        self.draws.as_ref().map_or(0, |draws| draws.next - draws.lease.from)
    }

    /// How many of so many iterations find their rows, with the draws that they make.
    fn draw(&mut self, iterations: u64) -> (u64, Vec<u64>) {
        let Some(draws) = &mut self.draws else { return (iterations, Vec::new()) };
        let made = draws.make(iterations);
        (made.len() as u64, made)
    }

    fn workflow(&self) -> Option<&Workflow> {
        self.preparation.plan.workflow(self.preparation.assignment.attempt.shard.workflow)
    }

    fn job_time(&self, now: Time) -> Duration {
        self.job_at_start + (now - self.started)
    }

    fn load_time(&self, now: Time) -> Duration {
        let zero = self.job_at_start - self.load_at_start;
        self.steering.pauses.load_time(zero, self.job_time(now))
    }

    fn window_at(&self, now: Time) -> u64 {
        let window = self.preparation.assignment.window.as_nanos().max(1);
        u64::try_from(self.job_time(now).as_nanos() / window).unwrap_or(u64::MAX)
    }
}

/// All attempts of one worker.
#[derive(Debug)]
pub(crate) struct Engine {
    habits: Habits,
    random: SplitMix,
    runs: BTreeMap<AttemptId, Run>,
    /// Load may be sent before this.
    lease_until: Time,
    events: Vec<EngineEvent>,
    sent: Vec<Sent>,
}

impl Engine {
    pub(crate) fn new(habits: Habits, random: SplitMix) -> Self {
        let (runs, lease_until) = (BTreeMap::new(), Time::ZERO);
        Self { habits, random, runs, lease_until, events: Vec::new(), sent: Vec::new() }
    }

    /// Takes what it has to tell: what was sent first, then events.
    pub(crate) fn drain(&mut self) -> (Vec<Sent>, Vec<EngineEvent>) {
        (std::mem::take(&mut self.sent), std::mem::take(&mut self.events))
    }

    /// What each attempt that it knows was prepared with.
    pub(crate) fn prepared(&self) -> impl Iterator<Item = &Preparation> {
        self.runs.values().map(|run| &*run.preparation)
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let of = |run: &Run| match run.phase {
            Phase::Preparing { until } | Phase::Waiting { until } => Some(until),
            Phase::Prepared => None,
            Phase::Running => Some(run.next_step),
            Phase::Stopping { until } => Some(until.min(run.next_step)),
        };
        self.runs.values().filter_map(of).min()
    }

    pub(crate) fn command(&mut self, now: Time, command: EngineCommand) {
        match command {
            EngineCommand::Prepare(preparation) => self.prepare(now, preparation),
            EngineCommand::Start { attempt, start_in, job_elapsed, load_elapsed, late: _ } => {
                if let Some(run) = self.runs.get_mut(&attempt) {
                    run.phase = Phase::Waiting { until: now + start_in };
                    run.started = now + start_in;
                    (run.job_at_start, run.load_at_start) = (job_elapsed, load_elapsed);
                    run.window = run.window_at(run.started);
                }
            }
            EngineCommand::Lease { until } => {
                // What was sent under the old lease, before there is a longer one.
                let ids: Vec<AttemptId> = self.runs.keys().copied().collect();
                ids.into_iter().for_each(|id| self.step(now, id));
                self.lease_until =
                    if self.habits.ignores_lease { Time::from_nanos(u64::MAX) } else { until };
            }
            EngineCommand::Steer { attempt, steering } => {
                self.step(now, attempt);
                let obeys = !self.habits.ignores_pauses;
                if let Some(run) = self.runs.get_mut(&attempt).filter(|_| obeys) {
                    run.steering = steering;
                }
            }
            EngineCommand::LeaseRows { attempt, until } => {
                self.step(now, attempt);
                let run = self.runs.get_mut(&attempt);
                if let Some(draws) = run.and_then(|run| run.draws.as_mut()) {
                    draws.lease.until = draws.lease.until.max(until);
                }
            }
            EngineCommand::Stop { attempt, mode } => self.stop(now, attempt, mode),
            EngineCommand::Discard { attempt } => {
                self.step(now, attempt);
                self.events.retain(|event| attempt_of(event) != attempt);
                self.runs.remove(&attempt);
            }
        }
    }

    fn prepare(&mut self, now: Time, preparation: Box<Preparation>) {
        let attempt = preparation.assignment.attempt;
        if self.random.chance(self.habits.unprepared) {
            let message = "the core threads do not come up".to_owned();
            self.events.push(EngineEvent::Unprepared { attempt, message });
            return;
        }
        let plan = Arc::clone(&preparation.plan);
        let steps = plan.steps.iter().zip(0..);
        let steps = steps.filter(|(step, _)| step.workflow == attempt.shard.workflow);
        let unique = UniqueRows::of(&plan, attempt.shard.workflow);
        let run = Run {
            steps: steps.map(|(_, index)| StepIndex(index)).collect(),
            arrivals: plan.workflow(attempt.shard.workflow).and_then(|w| w.load.arrivals()),
            phase: Phase::Preparing {
                until: now + Duration::from_millis(1 + self.random.below(300)),
            },
            started: now,
            job_at_start: Duration::ZERO,
            load_at_start: Duration::ZERO,
            steering: preparation.assignment.steering.clone(),
            load_done: preparation.assignment.load_sent,
            last_step: now,
            next_step: now,
            window: 0,
            recorder: Recorder::new(plan.steps.len(), 0, 0),
            carry: 0.0,
            iterations: 0,
            has_published: false,
            draws: (!unique.is_empty()).then(|| {
                let lease = preparation.assignment.rows.clone();
                Draws { next: lease.from, end: unique.draws(&lease.slice), lease }
            }),
            preparation,
        };
        self.runs.insert(attempt, run);
    }

    fn stop(&mut self, now: Time, attempt: AttemptId, mode: StopMode) {
        self.step(now, attempt);
        let spread = self.random.below(2_000);
        let Some(run) = self.runs.get_mut(&attempt) else { return };
        match (&run.phase, mode) {
            (Phase::Running, StopMode::Graceful) => {
                let limit = run.workflow().map_or(Duration::ZERO, |w| w.graceful_stop);
                let until = now + Duration::from_millis(spread).min(limit);
                run.phase = Phase::Stopping { until };
            }
            (Phase::Stopping { .. }, StopMode::Graceful) => {}
            _ => self.end(now, attempt, AttemptEnd::Stopped, mode == StopMode::Now),
        }
    }

    /// Lets everything happen that is due.
    pub(crate) fn tick(&mut self, now: Time) {
        let ids: Vec<AttemptId> = self.runs.keys().copied().collect();
        for id in ids {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            match run.phase {
                Phase::Preparing { until } if now >= until => {
                    run.phase = Phase::Prepared;
                    self.events.push(EngineEvent::Prepared { attempt: id });
                }
                Phase::Waiting { until } if now >= until => {
                    run.phase = Phase::Running;
                    (run.last_step, run.next_step) = (until, now + STEP);
                    self.step(now, id);
                }
                Phase::Running | Phase::Stopping { .. } => self.step(now, id),
                Phase::Preparing { .. } | Phase::Waiting { .. } | Phase::Prepared => {}
            }
        }
    }

    /// Sends what is due since the last step, and tells windows and ends.
    fn step(&mut self, now: Time, id: AttemptId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if now - run.last_step > STEP * 2 {
            run.last_step = now; // The node was frozen: nothing was sent.
        }
        let is_stopping = match run.phase {
            Phase::Running => None,
            Phase::Stopping { until } => Some(until),
            Phase::Preparing { .. } | Phase::Waiting { .. } | Phase::Prepared => return,
        };
        let Some(workflow) = run.workflow() else { return };
        let (load, duration) = (workflow.load.clone(), workflow.load.duration());
        // Without a lease nothing is sent, whoever has or has not noticed that it is over.
        let sent_until = now.min(self.lease_until).max(run.last_step);
        // A pause that was heard of late lies behind: what was sent since is not sent again.
        let from = run.load_time(run.last_step).max(run.load_done);
        let to = run.load_time(sent_until).min(duration);
        run.load_done = run.load_done.max(to);
        let (amount, steered) = (run.steering.amount, run.steering.version);
        let assignment = &run.preparation.assignment;
        let slice = &assignment.slice;
        let total = load.iterations().map(|total| slice.count(total));
        let left = total.map(|total| {
            total.saturating_sub(assignment.iterations_done.saturating_add(run.iterations))
        });
        let mut users = 0;
        let mut count = 0;
        let is_active = is_stopping.is_none() && to > from;
        if is_active {
            match (&run.arrivals, load.kind()) {
                (Some(arrivals), _) => {
                    let due = |at| {
                        let local = slice.count(arrivals.due_before(at));
                        amount.map_or(local, |amount| amount.of_starts(slice, local))
                    };
                    count = due(to).saturating_sub(due(from));
                    users = slice.count(u64::from(load.vus_max())).min(count);
                }
                (None, LoadKind::Iterations | LoadKind::Looping | LoadKind::Arrivals) => {
                    // Users start nothing any more, although the pause may only be about to begin.
                    let is_open = run.steering.pauses.is_open();
                    let planned = load.scaled_vus_at(from, amount).filter(|_| !is_open);
                    let planned = planned.unwrap_or(0);
                    users = slice.count(u64::from(planned));
                    let (wanted, rest) =
                        whole(users, self.habits.pace * (to - from).as_secs_f64(), run.carry);
                    run.carry = rest;
                    count = wanted.min(left.unwrap_or(u64::MAX));
                }
            }
        }
        let dropped =
            if run.arrivals.is_some() && self.random.chance(0.1) { count / 10 } else { 0 };
        let (iterations, draws) = run.draw(count - dropped);
        // Starts without rows are dropped; users without rows wait.
        run.recorder.drop_starts(if run.arrivals.is_some() { count - iterations } else { 0 });
        let is_short = is_active && run.draws.as_ref().is_some_and(Draws::waits);
        let between = (run.last_step, sent_until);
        record(&mut self.random, self.habits.failures, run, iterations, false);
        let requests = iterations * run.steps.len() as u64;
        if users > 0 || requests > 0 {
            let load = (from, to);
            self.sent.push(Sent {
                attempt: id,
                between,
                load,
                users,
                requests,
                iterations,
                starts: if run.arrivals.is_some() { count } else { 0 },
                steered,
                draws,
            });
        }
        if is_short {
            self.events.push(EngineEvent::RowsWanted { attempt: id });
        }
        run.last_step = now;
        run.next_step = now + STEP;
        let at = run.window_at(now);
        if at > run.window {
            let figures = figures(run, users);
            let window = run.window;
            run.window = at;
            // Users that are suspended have nothing to tell.
            if !figures.is_empty() {
                let figures = Box::new(figures);
                let draws_made = run.draws_made();
                let event = EngineEvent::Window { attempt: id, window, figures, draws_made };
                self.events.push(event);
            }
        }
        let has_rows = run.draws.as_ref().is_none_or(|draws| draws.next < draws.end);
        let is_done = left.is_some_and(|left| left == iterations || !has_rows)
            || run.load_time(now) >= duration;
        if let Some(until) = is_stopping {
            if now >= until {
                self.end(now, id, AttemptEnd::Stopped, false);
            }
        } else if is_done {
            self.end(now, id, AttemptEnd::Finished, false);
        } else if self.random.chance(self.habits.core_loss) {
            let message = "a core panicked".to_owned();
            self.end(now, id, AttemptEnd::CoreLost { message }, true);
        } else if self.random.chance(self.habits.abort) {
            let message = "the test asks to stop".to_owned();
            self.end(now, id, AttemptEnd::Aborted { message }, false);
        }
    }

    fn end(&mut self, now: Time, id: AttemptId, end: AttemptEnd, is_cut: bool) {
        let Some(mut run) = self.runs.remove(&id) else { return };
        let has_run = matches!(run.phase, Phase::Running | Phase::Stopping { .. });
        if has_run && is_cut && now < self.lease_until {
            // A request that was on its way, cut: counted, neither good nor bad.
            let cut = self.random.below(3).min(u64::from(run.arrivals.is_none()));
            let (cut, draws) = run.draw(cut);
            record(&mut self.random, 0.0, &mut run, cut, true);
            let (between, load) = ((now, now), (run.load_time(now), run.load_time(now)));
            let requests = cut * run.steps.len() as u64;
            let (users, iterations, starts) = (0, 0, 0);
            self.sent.push(Sent {
                attempt: id,
                between,
                load,
                users,
                requests,
                iterations,
                starts,
                steered: run.steering.version,
                draws,
            });
        }
        let figures = figures(&mut run, 0);
        if !figures.is_empty() {
            let figures = Box::new(figures);
            let (window, draws_made) = (run.window, run.draws_made());
            let event = EngineEvent::Window { attempt: id, window, figures, draws_made };
            self.events.push(event);
        }
        let mut published = BTreeMap::new();
        if run.has_published
            && let Some(workflow) = run.workflow()
        {
            for publish in &workflow.publish {
                published.insert(publish.name.clone(), Value::Int(7));
            }
        }
        // A core that is gone may not have said how far it was.
        let is_known = !matches!(end, AttemptEnd::CoreLost { .. }) || self.random.chance(0.5);
        let draws_made = is_known.then(|| run.draws_made());
        self.events.push(EngineEvent::Ended { attempt: id, end, published, draws_made });
    }
}

fn attempt_of(event: &EngineEvent) -> AttemptId {
    match event {
        EngineEvent::Prepared { attempt }
        | EngineEvent::Unprepared { attempt, .. }
        | EngineEvent::Window { attempt, .. }
        | EngineEvent::RowsWanted { attempt }
        | EngineEvent::Ended { attempt, .. } => *attempt,
    }
}

/// Whole iterations of so many users, and the rest that is carried on.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
#[expect(clippy::cast_precision_loss, reason = "users are few")]
fn whole(users: u64, each: f64, carry: f64) -> (u64, f64) {
    let wanted = users as f64 * each + carry;
    (wanted as u64, wanted.fract())
}

fn figures(run: &mut Run, users: u64) -> WindowFigures {
    let vus = u32::try_from(users).unwrap_or(u32::MAX);
    WindowFigures { figures: run.recorder.take(), vus, busiest_core: 100, exchanges: Vec::new() }
}

fn record(random: &mut SplitMix, failures: f64, run: &mut Run, iterations: u64, is_cut: bool) {
    for _ in 0..iterations {
        for &step in &run.steps {
            let latency = Duration::from_micros(500 + random.below(40_000));
            let (outcome, status) = if is_cut {
                (Outcome::Cancelled, None)
            } else if random.chance(failures) {
                (Outcome::Http5xx, Some(503))
            } else {
                (Outcome::Ok, Some(200))
            };
            let sample = Sample {
                outcome,
                status,
                latency,
                service_time: latency,
                first_byte: None,
                connect: None,
                tls: None,
                bytes_in: 10,
                bytes_out: 20,
            };
            run.recorder.request(step, &sample);
        }
        run.recorder.iteration(is_cut);
    }
    if !is_cut && iterations > 0 {
        run.iterations += iterations;
        run.has_published = true;
    }
}
