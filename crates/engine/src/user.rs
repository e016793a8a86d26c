//! A virtual user: a task that runs iterations, one after the other, over its own connections.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyperscale_model::{Outcome, SplitMix};
use hyperscale_plan::{OnError, Pause, StepIndex, StopScope};
use hyperscale_stats::{Exchange, Sample};
use tokio::time::Sleep;

use crate::clock;
use crate::connection::{Answer, Connection, Failure, Keep, Kept, Trace};
use crate::program::Op;
use crate::request::{Origin, Ready};
use crate::run::Run;

/// Which iterations a user runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Quota {
    /// One after the other until it is told to leave.
    Unlimited,
    /// So many.
    Each(u64),
    /// As long as there are some among those that the users of the core share.
    Shared,
    /// Those that it is given.
    Assigned,
}

/// The start of an iteration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// When it should happen.
    pub(crate) intended: Instant,
    /// Its number over the whole load.
    pub(crate) number: u64,
}

/// What a user is told.
#[derive(Debug, Default)]
pub(crate) struct Control {
    leave: Cell<Leave>,
    start: Cell<Option<Start>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Leave {
    #[default]
    No,
    AfterIteration,
    Now,
}

impl Control {
    /// No further iteration.
    pub(crate) fn leave(&self) {
        if self.leave.get() == Leave::No {
            self.leave.set(Leave::AfterIteration);
            self.wake();
        }
    }

    /// Takes [`Self::leave`] back; false if it is too late.
    pub(crate) fn keep(&self) -> bool {
        let is_cut = self.leave.get() == Leave::Now;
        if !is_cut {
            self.leave.set(Leave::No);
        }
        !is_cut
    }

    /// Whatever the user is doing is dropped.
    pub(crate) fn cut(&self) {
        self.leave.set(Leave::Now);
        self.wake();
    }

    pub(crate) fn assign(&self, start: Start) {
        self.start.set(Some(start));
        self.wake();
    }

    fn is_leaving(&self) -> bool {
        self.leave.get() != Leave::No
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    async fn next_start(&self) -> Option<Start> {
        poll_fn(|cx| {
            if let Some(start) = self.start.take() {
                return Poll::Ready(Some(start));
            }
            if self.is_leaving() {
                return Poll::Ready(None);
            }
            self.remember(cx);
            Poll::Pending
        })
        .await
    }

    /// Runs a future unless it is cut.
    async fn until_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.leave.get() == Leave::Now {
                return Poll::Ready(None);
            }
            self.remember(cx);
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    EndIteration,
    EndVu,
}

/// A user's own state.
pub(crate) struct User {
    run: Rc<Run>,
    control: Rc<Control>,
    /// Its number within the slice.
    number: u64,
    /// Its number over the whole load, from 0.
    id: u64,
    connections: Vec<Connection>,
    watchdog: Watchdog,
    kept: Kept,
    random: SplitMix,
    /// The next request counts from here instead of from its own start.
    intended: Option<Instant>,
}

impl User {
    pub(crate) fn new(run: Rc<Run>, control: Rc<Control>, number: u64) -> Self {
        let id = run.slice.global(number).unwrap_or(number);
        let random = SplitMix::new(run.seed_of(id, 0));
        Self {
            run,
            control,
            number,
            id,
            connections: Vec::new(),
            watchdog: Watchdog::default(),
            kept: Kept::default(),
            random,
            intended: None,
        }
    }

    /// Runs iterations until there are none left for it; returns its number within the slice.
    pub(crate) async fn work(mut self, quota: Quota) -> u64 {
        let (run, control) = (Rc::clone(&self.run), Rc::clone(&self.control));
        let mut flow = Flow::Next;
        if !run.program.setup.is_empty() {
            let setup = control.until_cut(self.steps(&run.program.setup)).await;
            flow = setup.unwrap_or(Flow::EndVu);
        }
        let mut done = 0;
        while flow != Flow::EndVu {
            let Some(number) = self.next_iteration(quota, done).await else { break };
            done += 1;
            run.busy.set(run.busy.get() + 1);
            let ended = control.until_cut(self.iteration(&run)).await;
            run.busy.set(run.busy.get() - 1);
            run.recorder.borrow_mut().iteration(ended.is_none());
            if ended != Some(Flow::Next) && !run.program.finally.is_empty() {
                // It was cut or failed; the executor limits how long this may take.
                self.intended = None;
                self.steps(&run.program.finally).await;
            }
            let Some(ended) = ended else { return self.number };
            flow = ended;
            if matches!(quota, Quota::Assigned) && flow != Flow::EndVu {
                run.idle.borrow_mut().push(Rc::clone(&control));
            }
            let _ = number;
        }
        if !run.program.teardown.is_empty() {
            self.intended = None;
            control.until_cut(self.steps(&run.program.teardown)).await;
        }
        self.number
    }

    /// Waits for the next iteration; its number decides all choices that are made in it.
    async fn next_iteration(&mut self, quota: Quota, done: u64) -> Option<u64> {
        let run = &self.run;
        if let Quota::Assigned = quota {
            let start = self.control.next_start().await?;
            let lag = clock::now().saturating_duration_since(start.intended);
            run.recorder.borrow_mut().start(lag);
            self.intended = Some(start.intended);
            self.random = SplitMix::new(run.seed_of(start.number, 1));
            return Some(start.number);
        }
        if self.control.is_leaving() {
            return None;
        }
        match quota {
            Quota::Each(times) if done >= times => return None,
            Quota::Shared => {
                let left = run.shared.get().checked_sub(1)?;
                run.shared.set(left);
            }
            Quota::Each(_) | Quota::Unlimited | Quota::Assigned => {}
        }
        self.random = SplitMix::new(run.seed_of(self.id, 2 + done));
        Some(done)
    }

    async fn iteration(&mut self, run: &Run) -> Flow {
        let flow = self.steps(&run.program.steps).await;
        if flow == Flow::EndIteration { Flow::Next } else { flow }
    }

    async fn steps(&mut self, ops: &[Op]) -> Flow {
        for op in ops {
            let flow = match op {
                Op::Request(ready) => {
                    if self.request(ready).await {
                        Flow::Next
                    } else {
                        self.on_failed(ready.step)
                    }
                }
                Op::Pause(pause) => {
                    let pause = drawn(*pause, &mut self.random);
                    clock::sleep_until(clock::now() + pause).await;
                    Flow::Next
                }
                Op::Group(ops) => Box::pin(self.steps(ops)).await,
                Op::Repeat { times, ops } => {
                    let mut flow = Flow::Next;
                    for _ in 0..*times {
                        flow = Box::pin(self.steps(ops)).await;
                        if flow != Flow::Next {
                            break;
                        }
                    }
                    flow
                }
                Op::Choose { total, choices } => {
                    let mut drawn = self.random.below(*total);
                    let chosen = choices.iter().find(|(weight, _)| {
                        let is_it = drawn < *weight;
                        drawn = drawn.saturating_sub(*weight);
                        is_it
                    });
                    match chosen {
                        Some((_, ops)) => Box::pin(self.steps(ops)).await,
                        None => Flow::Next,
                    }
                }
                Op::Stop(StopScope::Iteration) => Flow::EndIteration,
                Op::Stop(StopScope::Vu) => Flow::EndVu,
            };
            if flow != Flow::Next {
                return flow;
            }
        }
        Flow::Next
    }

    fn on_failed(&self, step: StepIndex) -> Flow {
        match self.run.workflow().on_error {
            OnError::Continue => Flow::Next,
            OnError::EndIteration => Flow::EndIteration,
            OnError::EndVu => Flow::EndVu,
            OnError::Abort => {
                let name = self.run.plan().steps.get(step.get()).map(|step| step.name.as_str());
                self.run.abort(format!("step `{}` failed", name.unwrap_or("?")));
                Flow::EndVu
            }
        }
    }

    /// Sends a request and counts what came of it; returns whether it was all right.
    async fn request(&mut self, ready: &Ready) -> bool {
        let run = Rc::clone(&self.run);
        if run.is_suspended() {
            run.until_resumed().await;
        }
        let start = clock::now();
        let from = self.intended.take().unwrap_or(start);
        let flight = Flight { run: &run, step: ready.step, from, start, trace: Trace::default() };
        let Self { connections, watchdog, kept, .. } = self;
        let exchange = follow(&run, connections, ready, &flight.trace, kept);
        let result = watchdog.limit(start, ready.timeout, exchange).await;
        let (outcome, message) = match result {
            Some(Ok(answer)) => (outcome_of(answer.status), String::new()),
            Some(Err(failure)) => (failure.outcome, failure.message),
            None => (Outcome::Timeout, format!("no answer within {:?}", ready.timeout)),
        };
        if outcome != Outcome::Ok {
            self.connections.retain(Connection::is_reusable);
            if run.wants_sample(ready.step, outcome) {
                let exchange = example(&run, ready, outcome, &message, &self.kept, start);
                run.keep_sample(exchange, start);
            }
        }
        flight.land(outcome);
        outcome == Outcome::Ok
    }
}

/// A request on its way. If its user is cut, it is counted as cancelled.
struct Flight<'a> {
    run: &'a Run,
    step: StepIndex,
    from: Instant,
    start: Instant,
    trace: Trace,
}

impl Flight<'_> {
    fn land(self, outcome: Outcome) {
        self.count(outcome);
        std::mem::forget(self);
    }

    fn count(&self, outcome: Outcome) {
        let end = clock::now();
        let trace = &self.trace;
        let sample = Sample {
            outcome,
            status: trace.status.get(),
            latency: end.saturating_duration_since(self.from),
            service_time: end.saturating_duration_since(self.start),
            first_byte: trace.first_byte.get().map(|at| at.saturating_duration_since(self.start)),
            connect: trace.connect.get(),
            tls: trace.tls.get(),
            bytes_in: trace.bytes_in.get(),
            bytes_out: trace.bytes_out.get(),
        };
        self.run.recorder.borrow_mut().request(self.step, &sample);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.count(Outcome::Cancelled);
    }
}

const fn outcome_of(status: u16) -> Outcome {
    match status {
        200..=399 => Outcome::Ok,
        400..=499 => Outcome::Http4xx,
        500..=599 => Outcome::Http5xx,
        _ => Outcome::HttpOther,
    }
}

/// Exchanges a request, and follows where it is sent to.
async fn follow(
    run: &Run,
    connections: &mut Vec<Connection>,
    ready: &Ready,
    trace: &Trace,
    kept: &mut Kept,
) -> Result<Answer, Failure> {
    let mut answer = exchange(run, connections, ready, trace, kept).await?;
    if !is_redirect(&answer) || ready.redirects == 0 {
        return Ok(answer);
    }
    let mut at = ready.clone();
    while is_redirect(&answer) && at.redirects > 0 {
        let location = answer.location.as_deref().unwrap_or_default();
        let Some(next) = at.redirected(answer.status, location) else {
            let message = format!("a redirect leads to `{location}`, which is no URL");
            return Err(Failure::new(Outcome::Protocol, message));
        };
        at = next;
        answer = Box::pin(exchange(run, connections, &at, trace, kept)).await?;
    }
    Ok(answer)
}

const fn is_redirect(answer: &Answer) -> bool {
    matches!(answer.status, 301 | 302 | 303 | 307 | 308) && answer.location.is_some()
}

/// One request over a kept connection or a new one. A kept one that the server has closed while it
/// was idle is no failure of the target: the request goes out again, once, over a new one.
async fn exchange(
    run: &Run,
    connections: &mut Vec<Connection>,
    ready: &Ready,
    trace: &Trace,
    kept: &mut Kept,
) -> Result<Answer, Failure> {
    let settings = &run.plan().http;
    let keep =
        if settings.samples > 0 { Keep::Failed(Exchange::TEXT_BYTES_MAX) } else { Keep::Nothing };
    let is_head = ready.method == "HEAD";
    let mut is_retried = false;
    loop {
        let same = |connection: &Connection| {
            Rc::ptr_eq(&connection.origin, &ready.origin) || connection.origin == ready.origin
        };
        let found = match connections.iter().position(same) {
            Some(found) if connections[found].is_usable(settings) => Some(found),
            Some(found) => {
                connections.swap_remove(found);
                None
            }
            None => None,
        };
        let found = match found {
            Some(found) => found,
            None => {
                // Opening is rare and large: it must not make every user's task larger.
                connections.push(Box::pin(open(run, &ready.origin, trace)).await?);
                connections.len() - 1
            }
        };
        let connection = &mut connections[found];
        let result =
            connection.exchange(&ready.bytes, is_head, &run.scratch, trace, (keep, kept)).await;
        match result {
            Err(failure) if failure.is_stale && !is_retried => {
                is_retried = true;
                run.recorder.borrow_mut().retry(ready.step);
            }
            other => return other,
        }
    }
}

async fn open(run: &Run, origin: &Rc<Origin>, trace: &Trace) -> Result<Connection, Failure> {
    let settings = &run.plan().http;
    let connector = if origin.is_tls {
        Some(run.tls().map_err(|message| Failure::new(Outcome::Tls, message))?)
    } else {
        None
    };
    let timeouts = (settings.connect_timeout, settings.tls_timeout);
    let name = settings.tls.server_name.as_deref();
    let mut failure = None;
    for address in run.resolver.resolve(origin).await? {
        match Connection::open(origin, address, connector.as_ref(), name, timeouts).await {
            Ok((connection, opened)) => {
                trace.connect.set(Some(opened.connect));
                trace.tls.set(opened.tls);
                return Ok(connection);
            }
            // Another address may answer; a bad certificate will not be better there.
            Err(this) if this.outcome == Outcome::Tls => return Err(this),
            Err(this) => failure = Some(this),
        }
    }
    Err(failure.unwrap_or_else(|| Failure::new(Outcome::Dns, "no address to connect to")))
}

fn example(
    run: &Run,
    ready: &Ready,
    outcome: Outcome,
    message: &str,
    kept: &Kept,
    start: Instant,
) -> Exchange {
    let text = |bytes: &[u8]| {
        let cut = &bytes[..bytes.len().min(Exchange::TEXT_BYTES_MAX)];
        run.work.secrets.mask(&String::from_utf8_lossy(cut))
    };
    let mut answer = text(&kept.head);
    answer.push_str(&text(&kept.body));
    Exchange {
        step: ready.step,
        outcome,
        at: Duration::ZERO,
        latency: clock::now().saturating_duration_since(start),
        request: text(&ready.bytes),
        answer,
        error: run.work.secrets.mask(message),
    }
}

fn drawn(pause: Pause, random: &mut SplitMix) -> Duration {
    let seconds = |seconds: f64| {
        Duration::try_from_secs_f64(seconds.clamp(0.0, 86_400.0)).unwrap_or_default()
    };
    match pause {
        Pause::Constant(pause) => pause,
        Pause::Uniform { min, max } => min + max.saturating_sub(min).mul_f64(random.unit()),
        Pause::Normal { mean, sd } => {
            // Box and Muller, 1958.
            let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * random.unit()).cos();
            seconds(mean.as_secs_f64() + sd.as_secs_f64() * normal)
        }
        Pause::Exponential { mean } => seconds(-mean.as_secs_f64() * (1.0 - random.unit()).ln()),
    }
}

/// The time limit of a user's requests. Its timer is set anew only when it fires too early or
/// would fire too late: thousands of requests that are answered in time cost it nothing.
#[derive(Debug, Default)]
struct Watchdog {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the timer fires.
    armed: Option<Instant>,
}

impl Watchdog {
    /// Runs a future until `limit` after `start`; `None` if it takes longer.
    async fn limit<T>(
        &mut self,
        start: Instant,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let deadline = start + limit;
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            if self.armed.is_none_or(|armed| armed > deadline) {
                sleep.as_mut().reset(deadline.into());
                self.armed = Some(deadline);
            }
            while sleep.as_mut().poll(cx).is_ready() {
                if self.armed == Some(deadline) {
                    self.armed = None;
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(deadline.into());
                self.armed = Some(deadline);
            }
            Poll::Pending
        })
        .await
    }
}
