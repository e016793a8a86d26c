//! One attempt on one core: what its users share, its windows, its end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyperscale_model::{Outcome, SplitMix};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{Amount, DataIndex, LoadSteering, Plan, Slice, StepIndex, Workflow};
use hyperscale_stats::{Exchange, Recorder, WindowFigures};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsConnector;

use crate::core::Common;
use crate::draws::NoRows;
use crate::executor;
use crate::lease::Lease;
use crate::pool::Pools;
use crate::program::Program;
use crate::request::Make;
use crate::resolve::Resolver;
use crate::scope::Rows;
use crate::user::Control;
use crate::{CoreEvent, CoreNews, RunEnd, Shared, Stop, Work, clock, tls};

/// Lines that a test may log in a second on a core.
const LOG_LINES_PER_SECOND: u32 = 10;

/// What the users of an attempt share on a core.
pub(crate) struct Run {
    core: u32,
    pub(crate) work: Arc<Work>,
    /// This core's share of the load.
    pub(crate) slice: Slice,
    shared: Shared,
    /// Iterations of this core's share that earlier attempts have done.
    pub(crate) iterations_done: u64,
    pub(crate) program: Program,
    pub(crate) recorder: RefCell<Recorder>,
    pub(crate) scratch: Rc<RefCell<Box<[u8]>>>,
    pub(crate) lease: Rc<Lease>,
    pub(crate) resolver: Resolver,
    tls: RefCell<Option<TlsConnector>>,
    /// Iterations that users may still take from what they share.
    pub(crate) iterations_left: Cell<u64>,
    /// Whether users wait for unique rows to be leased.
    rows_wanted: Cell<RowsWanted>,
    /// Whether that has happened since users were last woken.
    pub(crate) has_new_rows: Cell<bool>,
    /// Users that wait for a start.
    pub(crate) idle: RefCell<Vec<Rc<Control>>>,
    /// Users that are within an iteration.
    pub(crate) busy: Cell<u32>,
    pub(crate) published: RefCell<BTreeMap<String, Value>>,
    pub(crate) pools: Pools,
    log_budget: Cell<(Option<Instant>, u32)>,
    phase: Cell<Phase>,
    stopping: Cell<Option<Stop>>,
    aborted: RefCell<Option<String>>,
    steering: RefCell<LoadSteering>,
    /// Whether the load stands still: no iteration starts.
    pub(crate) is_paused: Cell<bool>,
    /// Something of the above has changed.
    pub(crate) changed: Notify,
    /// When the job's time was zero, and that of the load.
    zeros: Cell<Option<(Instant, Instant)>>,
    samples: RefCell<Samples>,
    events: mpsc::Sender<CoreEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum RowsWanted {
    #[default]
    No,
    Untold,
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prepared,
    Running,
    Over,
}

/// Examples of failed exchanges: the first few of each step and outcome.
#[derive(Debug, Default)]
struct Samples {
    kept: BTreeMap<(StepIndex, Outcome), u32>,
    waiting: Vec<Exchange>,
}

impl Run {
    pub(crate) fn new(
        core: u32,
        work: Arc<Work>,
        slice: Slice,
        shared: Shared,
        common: &Common,
        events: mpsc::Sender<CoreEvent>,
    ) -> Result<Self, String> {
        let plan = &work.plan;
        let workflow = plan.workflow(work.workflow()).ok_or("the plan has no such workflow")?;
        let make = make(&work);
        let sample_bytes = if plan.http.samples > 0 { Exchange::TEXT_BYTES_MAX } else { 0 };
        let program = Program::new(workflow, make, sample_bytes)?;
        if let Err(message) = shared.rows.get_or_init(|| Rows::read(plan, &work.blobs)) {
            return Err(message.clone());
        }
        let iterations_done = executor::done_before(&work, &slice, workflow);
        let recorder = Recorder::new(plan.steps.len(), plan.checks.len(), plan.metrics.len());
        let resolver = Resolver::new(&plan.http);
        Ok(Self {
            core,
            slice,
            shared,
            iterations_done,
            program,
            recorder: RefCell::new(recorder),
            scratch: Rc::clone(&common.scratch),
            lease: Rc::clone(&common.lease),
            resolver,
            tls: RefCell::default(),
            iterations_left: Cell::new(0),
            rows_wanted: Cell::default(),
            has_new_rows: Cell::new(false),
            idle: RefCell::default(),
            busy: Cell::new(0),
            published: RefCell::default(),
            pools: Pools::new(plan.http.connections),
            log_budget: Cell::new((None, 0)),
            phase: Cell::new(Phase::Prepared),
            stopping: Cell::new(None),
            aborted: RefCell::default(),
            steering: RefCell::new(work.steering.clone()),
            is_paused: Cell::new(false),
            changed: Notify::new(),
            zeros: Cell::new(None),
            samples: RefCell::default(),
            events,
            work,
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.work.plan
    }

    /// What requests are made with.
    pub(crate) fn make(&self) -> Make<'_> {
        make(&self.work)
    }

    /// The rows of the plan's data.
    #[expect(clippy::expect_used, reason = "`new` has read them, or there would be no run")]
    pub(crate) fn rows(&self) -> &Rows {
        let rows = self.shared.rows.get().and_then(|rows| rows.as_ref().ok());
        rows.expect("read when the run was made")
    }

    /// Whether iterations draw unique rows.
    pub(crate) const fn draws_rows(&self) -> bool {
        self.shared.draws.is_some()
    }

    /// Draws the unique rows of an iteration, if it needs any; gives the number of the draw.
    pub(crate) fn draw(&self) -> Result<Option<u64>, NoRows> {
        let drawn = self.shared.draws.as_ref().map(|draws| draws.draw()).transpose();
        if drawn == Err(NoRows::Yet) && self.rows_wanted.get() == RowsWanted::No {
            self.rows_wanted.set(RowsWanted::Untold);
            self.changed.notify_one();
        }
        drawn
    }

    /// The unique row of a source that a draw gave.
    pub(crate) fn unique_row(&self, source: DataIndex, draw: u64) -> Option<u64> {
        self.shared.draws.as_ref()?.row(source, draw)
    }

    /// Whether draws wait for a lease.
    pub(crate) fn waits_for_rows(&self) -> bool {
        self.rows_wanted.get() != RowsWanted::No
    }

    /// Tells that draws wait, unless that is told. Whoever takes news may have no room now: then
    /// again, later.
    pub(crate) fn tell_rows_wanted(&self) {
        if self.rows_wanted.get() == RowsWanted::Untold {
            let (attempt, what) = (self.work.attempt, CoreNews::RowsWanted);
            let is_told =
                self.events.try_send(CoreEvent { core: self.core, attempt, what }).is_ok();
            self.rows_wanted.set(if is_told { RowsWanted::Told } else { RowsWanted::Untold });
        }
    }

    /// More rows are leased.
    pub(crate) fn on_rows(&self) {
        self.rows_wanted.set(RowsWanted::No);
        self.has_new_rows.set(true);
        self.changed.notify_one();
    }

    /// The workflow that is run.
    #[expect(clippy::expect_used, reason = "`new` has looked it up, and plans do not change")]
    pub(crate) fn workflow(&self) -> &Workflow {
        self.work.plan.workflow(self.work.workflow()).expect("looked up when the run was made")
    }

    /// A seed that follows from the test's and from the numbers of what it is for, on whichever
    /// core that is.
    pub(crate) fn seed_of(&self, number: u64, kind: u64) -> u64 {
        let workflow = u64::from(self.work.workflow().0);
        [workflow, number, kind].into_iter().fold(self.plan().run.seed, |seed, part| {
            SplitMix::new(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64()
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase.get() == Phase::Over
    }

    pub(crate) fn stopping(&self) -> Option<Stop> {
        self.stopping.get()
    }

    /// How much of the load is sent.
    pub(crate) fn amount(&self) -> Option<Amount> {
        self.steering.borrow().amount
    }

    pub(crate) fn steer(&self, steering: LoadSteering) {
        if steering.version > self.steering.borrow().version {
            *self.steering.borrow_mut() = steering;
            if self.stands_still(clock::now()) {
                self.is_paused.set(true); // At once; going on is the executor's matter.
            }
            self.changed.notify_one();
        }
    }

    /// Whether the load stands still at an instant, or is about to.
    pub(crate) fn stands_still(&self, at: Instant) -> bool {
        let (job_time, steering) = (self.job_time(at), self.steering.borrow());
        steering.pauses.is_open() || job_time.is_some_and(|at| steering.pauses.is_paused(at))
    }

    /// The next instant at which the load stops or goes on.
    pub(crate) fn next_turn(&self, after: Instant) -> Option<Instant> {
        let (zero, _) = self.zeros.get()?;
        Some(zero + self.steering.borrow().pauses.next_turn(self.job_time(after)?)?)
    }

    fn job_time(&self, at: Instant) -> Option<Duration> {
        self.zeros.get().map(|(zero, _)| at.saturating_duration_since(zero))
    }

    /// The load's time at an instant.
    pub(crate) fn load_time(&self, at: Instant) -> Duration {
        let Some((job_zero, load_zero)) = self.zeros.get() else { return Duration::ZERO };
        let (started, at) = (load_zero - job_zero, at.saturating_duration_since(job_zero));
        self.steering.borrow().pauses.load_time(started, at)
    }

    /// When the load's time is so much; `None` while that waits for the end of a pause.
    pub(crate) fn instant_of(&self, load: Duration) -> Option<Instant> {
        let (job_zero, load_zero) = self.zeros.get()?;
        let started = load_zero - job_zero;
        self.steering.borrow().pauses.job_time(started, load).map(|at| job_zero + at)
    }

    /// A line of the test for the worker's log; a few a second, the rest is dropped.
    pub(crate) fn log(&self, line: &str) {
        let now = clock::now();
        let (since, count) = self.log_budget.get();
        let is_new = since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        let (since, count) = if is_new { (Some(now), 0) } else { (since, count) };
        if count < LOG_LINES_PER_SECOND {
            tracing::info!(attempt = %self.work.attempt, line = self.work.secrets.mask(line), "log");
        }
        self.log_budget.set((since, count + 1));
    }

    /// Keeps what an iteration that has ended publishes.
    pub(crate) fn publish(&self, locals: &[Value]) {
        let wanted = &self.workflow().publish;
        if wanted.is_empty() {
            return;
        }
        let mut published = self.published.borrow_mut();
        for publish in wanted {
            let Some(value) = locals.get(publish.local.get()).filter(|v| **v != Value::Null) else {
                continue;
            };
            match publish.collect {
                None => drop(published.insert(publish.name.clone(), value.clone())),
                Some(limit) => {
                    let list = published
                        .entry(publish.name.clone())
                        .or_insert_with(|| Value::List(Arc::default()));
                    if let Value::List(list) = list
                        && list.len() < usize::try_from(limit).unwrap_or(usize::MAX)
                    {
                        Arc::make_mut(list).push(value.clone());
                    }
                }
            }
        }
    }

    /// Ends the job, as the test asks for.
    pub(crate) fn abort(&self, message: String) {
        self.aborted.borrow_mut().get_or_insert(message);
        self.stopping.set(self.stopping.get().max(Some(Stop::Graceful)));
        self.changed.notify_one();
    }

    pub(crate) async fn stop(&self, stop: Stop) {
        self.stopping.set(self.stopping.get().max(Some(stop)));
        self.changed.notify_one();
        if self.phase.get() == Phase::Prepared {
            self.phase.set(Phase::Over);
            self.tell_end(RunEnd::Stopped).await;
        }
    }

    /// The connector for TLS; made when the first user needs it, as reading the system's
    /// certificates takes milliseconds.
    pub(crate) fn tls(&self) -> Result<TlsConnector, String> {
        let mut made = self.tls.borrow_mut();
        match &*made {
            Some(connector) => Ok(connector.clone()),
            None => {
                Ok(made.insert(tls::connector(&self.plan().http.tls, &self.work.secrets)?).clone())
            }
        }
    }

    /// Whether another example of this failure is wanted.
    pub(crate) fn wants_sample(&self, step: StepIndex, outcome: Outcome) -> bool {
        let samples = self.samples.borrow();
        outcome != Outcome::Ok
            && samples.waiting.len() < Exchange::PER_DELTA_MAX
            && samples.kept.get(&(step, outcome)).copied().unwrap_or(0) < self.plan().http.samples
    }

    pub(crate) fn keep_sample(&self, mut exchange: Exchange, start: Instant) {
        let zero = self.zeros.get().map_or(start, |(job_zero, _)| job_zero);
        exchange.at = start.duration_since(zero);
        let mut samples = self.samples.borrow_mut();
        *samples.kept.entry((exchange.step, exchange.outcome)).or_default() += 1;
        samples.waiting.push(exchange);
    }

    /// Runs the attempt to its end, telling each window.
    pub(crate) async fn drive(
        self: Rc<Self>,
        job_zero: Instant,
        load_zero: Instant,
        at: Instant,
        late: Duration,
    ) {
        if self.phase.get() != Phase::Prepared {
            return;
        }
        self.phase.set(Phase::Running);
        self.zeros.set(Some((job_zero, load_zero)));
        let windows = Windows::new(Rc::clone(&self), job_zero);
        let windows = tokio::task::spawn_local(windows.tell_each());
        while clock::now() < at && self.stopping().is_none() {
            tokio::select! {
                () = clock::sleep_until(at) => {}
                () = self.changed.notified() => {}
            }
        }
        let outcome = executor::execute(&self, at, late).await;
        self.phase.set(Phase::Over);
        self.changed.notify_waiters();
        windows.abort();
        let lost = match windows.await {
            Err(error) if error.is_panic() => Some("the windows of a core panicked".to_owned()),
            Ok(()) | Err(_) => None,
        };
        let mut last = Windows::new(Rc::clone(&self), job_zero);
        last.tell(clock::now(), true).await;
        let end = match (outcome.err().or(lost), self.aborted.take(), self.stopping()) {
            (Some(message), ..) => RunEnd::Lost(message),
            (None, Some(message), _) => RunEnd::Aborted(message),
            (None, None, Some(_)) => RunEnd::Stopped,
            (None, None, None) => RunEnd::Finished,
        };
        self.tell_end(end).await;
    }

    async fn tell_end(&self, end: RunEnd) {
        let published = self.published.take();
        self.tell(CoreNews::Ended { end, published }).await;
    }

    async fn tell(&self, what: CoreNews) {
        if self.stopping.get() == Some(Stop::Silent) {
            return;
        }
        let event = CoreEvent { core: self.core, attempt: self.work.attempt, what };
        if self.events.send(event).await.is_err() {
            // Nobody listens any more: the process is about to end.
            self.stopping.set(Some(Stop::Silent));
        }
    }
}

fn make(work: &Work) -> Make<'_> {
    let http = &work.plan.http;
    let is_proxied = http.proxy.is_some();
    Make { blobs: &work.blobs, compression: http.compression, is_proxied }
}

/// The clock of an attempt's windows on one core.
struct Windows {
    run: Rc<Run>,
    zero: Instant,
    length: Duration,
    busy: Duration,
    since: Instant,
}

impl Windows {
    fn new(run: Rc<Run>, zero: Instant) -> Self {
        let length = run.work.window.max(Duration::from_millis(10));
        Self { run, zero, length, busy: clock::thread_busy(), since: clock::now() }
    }

    fn number(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.zero).as_nanos();
        u64::try_from(elapsed / self.length.as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin(&self, window: u64) -> Instant {
        let nanos = self.length.as_nanos().saturating_mul(u128::from(window));
        self.zero + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    async fn tell_each(mut self) {
        let mut window = self.number(clock::now());
        loop {
            clock::sleep_until(self.begin(window + 1)).await;
            // What a late clock finds belongs to the window that has just ended.
            let ended = self.begin(self.number(clock::now())).checked_sub(Duration::from_nanos(1));
            self.tell(ended.unwrap_or(self.zero), false).await;
            window = self.number(clock::now());
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share in thousandths"
    )]
    async fn tell(&mut self, at: Instant, is_last: bool) {
        let run = &self.run;
        run.tell_rows_wanted();
        if !is_last && run.events.capacity() == 0 {
            return; // The window stays in the recorder and comes with the next one.
        }
        let (now, busy) = (clock::now(), clock::thread_busy());
        let wall = now.saturating_duration_since(self.since).as_secs_f64();
        let worked = busy.saturating_sub(self.busy).as_secs_f64();
        // The last stretch is too short to say how busy the core was.
        let share = if wall > 0.0 && !is_last { (worked / wall).min(1.0) * 1_000.0 } else { 0.0 };
        (self.busy, self.since) = (busy, now);
        let figures = WindowFigures {
            figures: run.recorder.borrow_mut().take(),
            vus: if is_last { 0 } else { run.busy.get() },
            busiest_core: share as u16,
            exchanges: std::mem::take(&mut run.samples.borrow_mut().waiting),
        };
        let window = self.number(at);
        run.tell(CoreNews::Window { window, figures: Box::new(figures) }).await;
    }
}
