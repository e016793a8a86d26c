//! A virtual user: a task that runs iterations, one after the other, over its own connections.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cookie_store::CookieStore;
use hyperscale_model::{Outcome, SplitMix};
use hyperscale_plan::expr::{EvalError, Scope, Value};
use hyperscale_plan::{Connections, LocalIndex, OnError, Pause, StepIndex, StopScope};
use hyperscale_stats::{Exchange, Sample};
use tokio::task::coop::{consume_budget, has_budget_remaining};
use tokio::task::yield_now;
use tokio::time::Sleep;
use url::Url;

use crate::clock;
use crate::connection::{Answer, Connection, Failure, Keep, Kept, Trace, Way};
use crate::draws::NoRows;
use crate::pool::Permit;
use crate::program::{Op, OpKind, Request};
use crate::request::{Origin, Ready};
use crate::run::Run;
use crate::scope::{Looked, Place, UserScope};

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
    /// Its draw of unique rows, if it needs one.
    pub(crate) draw: Option<u64>,
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

    /// Waits until nothing holds it up any more, or the user shall leave.
    async fn until_free(&self, is_held: impl Fn() -> bool) {
        poll_fn(|cx| {
            if self.is_leaving() || !is_held() {
                return Poll::Ready(());
            }
            self.remember(cx);
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn wake(&self) {
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

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Well,
    Failed,
    /// The iteration cannot go on: a value that it needs is missing.
    Stuck,
}

/// What a user has on the network.
#[derive(Debug, Default)]
struct Net {
    connections: Vec<Connection>,
    cookies: Option<Box<CookieStore>>,
    kept: Kept,
}

/// A user's own state.
pub(crate) struct User {
    run: Rc<Run>,
    control: Rc<Control>,
    /// Its number within the slice.
    number: u64,
    place: Place,
    locals: Vec<Value>,
    net: Net,
    watchdog: Watchdog,
    random: SplitMix,
    /// The next request counts from here instead of from its own start.
    intended: Option<Instant>,
    /// Those who run the branches of `parallel` for it.
    helpers: Vec<User>,
}

impl User {
    pub(crate) fn new(run: Rc<Run>, control: Rc<Control>, number: u64) -> Self {
        let user = run.slice.global(number).unwrap_or(number);
        let random = SplitMix::new(run.seed_of(user, 0));
        let locals = vec![Value::Null; run.workflow().locals.len()];
        Self {
            run,
            control,
            number,
            place: Place { user, ..Place::default() },
            locals,
            net: Net::default(),
            watchdog: Watchdog::default(),
            random,
            intended: None,
            helpers: Vec::new(),
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
        while flow != Flow::EndVu && self.next_iteration(quota, done).await {
            done += 1;
            run.busy.set(run.busy.get() + 1);
            let ended = control.until_cut(self.steps(&run.program.steps)).await;
            run.busy.set(run.busy.get() - 1);
            run.recorder.borrow_mut().iteration(ended.is_none());
            if ended == Some(Flow::Next) {
                run.publish(&self.locals);
            } else if !run.program.finally.is_empty() {
                // It was cut or failed; the executor limits how long this may take.
                self.intended = None;
                self.steps(&run.program.finally).await;
            }
            let Some(ended) = ended else { return self.number };
            flow = ended;
            if matches!(quota, Quota::Assigned) && flow != Flow::EndVu {
                run.idle.borrow_mut().push(Rc::clone(&control));
            }
        }
        if !run.program.teardown.is_empty() {
            self.intended = None;
            control.until_cut(self.steps(&run.program.teardown)).await;
        }
        self.number
    }

    /// Waits for the next iteration; false if there is none. Its number decides its rows and all
    /// choices that are made in it; unique rows follow from its draw.
    async fn next_iteration(&mut self, quota: Quota, done: u64) -> bool {
        let run = Rc::clone(&self.run);
        let (row, draw) = match quota {
            Quota::Assigned => {
                let Some(start) = self.control.next_start().await else { return false };
                let lag = clock::now().saturating_duration_since(start.intended);
                run.recorder.borrow_mut().start(lag);
                self.intended = Some(start.intended);
                (start.number, start.draw)
            }
            Quota::Unlimited | Quota::Each(_) | Quota::Shared => {
                let Some(draw) = self.next_turn(&run, quota, done).await else { return false };
                (self.take_number(&run, quota, done), draw)
            }
        };
        self.place.iteration = done;
        self.place.row = row;
        self.place.draw = draw;
        self.random = SplitMix::new(run.seed_of(row, 1));
        self.locals.fill(Value::Null);
        true
    }

    /// Waits until the load goes on and there are rows; gives the draw, if one is needed. `None` if
    /// there is no other iteration.
    async fn next_turn(&self, run: &Run, quota: Quota, done: u64) -> Option<Option<u64>> {
        let mut waits_since = None;
        loop {
            self.control.until_free(|| run.is_paused.get()).await;
            let has_more = match quota {
                Quota::Each(times) => done < times,
                Quota::Shared => run.iterations_left.get() > 0,
                Quota::Unlimited | Quota::Assigned => true,
            };
            if self.control.is_leaving() || !has_more {
                return None;
            }
            match run.draw() {
                Ok(draw) => {
                    if run.draws_rows() {
                        // It might have started when it began to wait for its rows.
                        let waited =
                            waits_since.map_or(Duration::ZERO, |since| clock::now() - since);
                        run.recorder.borrow_mut().start(waited);
                    }
                    return Some(draw);
                }
                Err(NoRows::Left) => return None,
                Err(NoRows::Yet) => {
                    waits_since.get_or_insert_with(clock::now);
                    self.control.until_free(|| run.waits_for_rows()).await;
                }
            }
        }
    }

    /// The number over the whole load of an iteration that begins now.
    fn take_number(&self, run: &Run, quota: Quota, done: u64) -> u64 {
        match quota {
            Quota::Shared => {
                let left = run.iterations_left.get().saturating_sub(1);
                run.iterations_left.set(left);
                let total = run.workflow().load.iterations().unwrap_or(0);
                let local = run.slice.count(total).saturating_sub(left + 1);
                run.slice.global(local).unwrap_or(local)
            }
            Quota::Each(_) | Quota::Unlimited | Quota::Assigned => {
                // Users take turns: each number belongs to one iteration of one user.
                let users = u64::from(run.workflow().load.vus_max().max(1));
                done.saturating_mul(users).saturating_add(self.place.user)
            }
        }
    }

    fn evaluate<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Scope) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let Self { run, place, locals, random, .. } = self;
        work(&mut UserScope { run, place: *place, locals, random, answer: None })
    }

    async fn steps(&mut self, ops: &[Op]) -> Flow {
        for op in ops {
            // Steps that wait for nothing must not keep the core from everything else.
            consume_budget().await;
            if let Some(when) = &op.when {
                match self.evaluate(|scope| when.is_true(scope)) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        self.run.log(&format!("`when` has no value: {error}"));
                        return Flow::EndIteration;
                    }
                }
            }
            let flow = match &op.kind {
                OpKind::Request(request) => match self.request(request).await {
                    Sent::Well => Flow::Next,
                    Sent::Failed => self.on_failed(request.step.step),
                    Sent::Stuck => Flow::EndIteration,
                },
                OpKind::Pause(pause) => {
                    let pause = drawn(*pause, &mut self.random);
                    clock::sleep_until(clock::now() + pause).await;
                    Flow::Next
                }
                // What is rare lives on the heap: it must not make every user's task larger.
                other => Box::pin(self.rare(other)).await,
            };
            if flow != Flow::Next {
                return flow;
            }
        }
        Flow::Next
    }

    async fn rare(&mut self, op: &OpKind) -> Flow {
        match self.try_rare(op).await {
            Ok(flow) => flow,
            Err(error) => {
                self.run.log(&format!("a step has no value: {error}"));
                Flow::EndIteration
            }
        }
    }

    async fn try_rare(&mut self, op: &OpKind) -> Result<Flow, EvalError> {
        Ok(match op {
            // Handled where they are hot.
            OpKind::Request(_) | OpKind::Pause(_) => Flow::Next,
            OpKind::Log(text) => {
                let mut line = String::new();
                self.evaluate(|scope| text.render(scope, &mut line))?;
                self.run.log(&line);
                Flow::Next
            }
            OpKind::Set { local, value } => {
                let value = self.evaluate(|scope| value.eval(scope))?;
                self.set(*local, value);
                Flow::Next
            }
            OpKind::Group(ops) => self.steps(ops).await,
            OpKind::Repeat { times, ops } => {
                let times = match self.evaluate(|scope| times.eval(scope))? {
                    Value::Int(times) => times,
                    other => return Err(EvalError(format!("`{other}` is no number of times"))),
                };
                for _ in 0..times {
                    let flow = self.steps(ops).await;
                    if flow != Flow::Next {
                        return Ok(flow);
                    }
                }
                Flow::Next
            }
            OpKind::While { condition, max, ops } => {
                for _ in 0..*max {
                    if !self.evaluate(|scope| condition.is_true(scope))? {
                        break;
                    }
                    let flow = self.steps(ops).await;
                    if flow != Flow::Next {
                        return Ok(flow);
                    }
                }
                Flow::Next
            }
            OpKind::If { condition, then, otherwise } => {
                let is_true = self.evaluate(|scope| condition.is_true(scope))?;
                self.steps(if is_true { then } else { otherwise }).await
            }
            OpKind::Choose { total, choices } => {
                let mut drawn = self.random.below(*total);
                let chosen = choices.iter().find(|(weight, _)| {
                    let is_it = drawn < *weight;
                    drawn = drawn.saturating_sub(*weight);
                    is_it
                });
                match chosen {
                    Some((_, ops)) => self.steps(ops).await,
                    None => Flow::Next,
                }
            }
            OpKind::Parallel(ops) => self.parallel(ops).await,
            OpKind::Stop(StopScope::Iteration) => Flow::EndIteration,
            OpKind::Stop(StopScope::Vu) => Flow::EndVu,
            OpKind::Record { metric, value } => {
                let value = match self.evaluate(|scope| value.eval(scope))? {
                    Value::Bool(value) => f64::from(u8::from(value)),
                    #[expect(clippy::cast_precision_loss, reason = "metrics are floating")]
                    Value::Int(value) => value as f64,
                    Value::Float(value) => value,
                    other => return Err(EvalError(format!("`{other}` is no figure"))),
                };
                self.run.recorder.borrow_mut().metric(*metric, value);
                Flow::Next
            }
        })
    }

    /// Runs steps at once, each over connections of its own. What they set is seen after all have
    /// ended; of two that set the same, the later step in the file wins.
    async fn parallel(&mut self, ops: &[Op]) -> Flow {
        while self.helpers.len() < ops.len() {
            let helper = Self::new(Rc::clone(&self.run), Rc::clone(&self.control), self.number);
            self.helpers.push(helper);
        }
        let before = self.locals.clone();
        let mut helpers = std::mem::take(&mut self.helpers);
        for helper in &mut helpers {
            helper.place = self.place;
            helper.locals.clone_from(&before);
            helper.random = self.random.fork();
            helper.net.cookies.clone_from(&self.net.cookies);
        }
        let branches = helpers.iter_mut().zip(ops).map(|(helper, op)| {
            let op = std::slice::from_ref(op);
            Box::pin(helper.steps(op))
        });
        let flows = futures_util::future::join_all(branches).await;
        for helper in &mut helpers[..ops.len()] {
            for (at, value) in helper.locals.iter().enumerate() {
                if *value != before[at] {
                    self.locals[at] = value.clone();
                }
            }
            if helper.net.cookies.is_some() {
                self.net.cookies = helper.net.cookies.take();
            }
        }
        self.helpers = helpers;
        let worst = |flow: &Flow| match flow {
            Flow::Next => 0,
            Flow::EndIteration => 1,
            Flow::EndVu => 2,
        };
        flows.into_iter().max_by_key(worst).unwrap_or(Flow::Next)
    }

    fn set(&mut self, local: LocalIndex, value: Value) {
        if let Some(slot) = self.locals.get_mut(local.get()) {
            *slot = value;
        }
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

    /// Sends a request and counts what came of it.
    async fn request(&mut self, request: &Request) -> Sent {
        let run = Rc::clone(&self.run);
        let step = request.step.step;
        let made;
        let ready = match &request.constant {
            Some(ready) => ready,
            None => match self.evaluate(|scope| Ready::render(&request.step, run.make(), scope)) {
                Ok(ready) => {
                    made = ready;
                    &made
                }
                Err(error) => {
                    run.log(&format!("a request cannot be made: {error}"));
                    return Sent::Stuck;
                }
            },
        };
        let mut start = clock::now();
        if !run.lease.holds(start) {
            start = run.lease.held().await;
        }
        let from = self.intended.take().unwrap_or(start);
        let flight = Flight { run: &run, step, from, start, trace: Trace::default() };
        let retries = request.step.retry.as_ref().map_or(0, |retry| retry.times);
        let mut tries = 0;
        loop {
            let Self { net, watchdog, .. } = self;
            // An example of a request that gets no answer must not show that of an earlier one.
            net.kept.clear();
            let exchange = follow(&run, net, ready, &flight.trace, request.keep);
            let early = run.plan().http.first_byte_timeout.map(|limit| (limit, &flight.trace));
            let result = watchdog.limit(start, ready.timeout, early, exchange).await;
            let (mut outcome, mut message) = match result {
                Some(Ok(answer)) if request.step.checks.is_empty() => {
                    (outcome_of(answer.status), String::new())
                }
                Some(Ok(answer)) if answer.status >= 200 => (Outcome::Ok, String::new()),
                Some(Ok(_)) => (Outcome::HttpOther, String::new()),
                Some(Err(failure)) => (failure.outcome, failure.message),
                None => (Outcome::Timeout, format!("no answer within {:?}", ready.timeout)),
            };
            let end = clock::now();
            let mut sent = if outcome == Outcome::Ok { Sent::Well } else { Sent::Failed };
            if sent == Sent::Well
                && (!request.step.checks.is_empty() || !request.captures.is_empty())
            {
                let (looked, why) = self.look(request, &flight, end);
                if looked != Sent::Well {
                    (sent, outcome, message) = (looked, Outcome::CheckFailed, why);
                }
            }
            if sent != Sent::Well {
                self.net.connections.retain(Connection::is_reusable);
                let retry = request.step.retry.as_ref();
                if tries < retries
                    && retry.is_some_and(|retry| is_retried(retry, outcome, &flight.trace))
                {
                    run.recorder.borrow_mut().retry(step);
                    let backoff = retry.map_or(Duration::ZERO, |retry| retry.backoff);
                    tries += 1;
                    flight.trace.first_byte.set(None);
                    clock::sleep_until(end + backoff * 2u32.saturating_pow(tries - 1)).await;
                    continue;
                }
                if run.wants_sample(step, outcome) {
                    let example = example(&run, ready, outcome, &message, &self.net.kept, start);
                    run.keep_sample(example, start);
                }
            }
            flight.land(outcome, end);
            if sent != Sent::Well {
                // Requests that fail before they wait for anything, such as without a descriptor
                // for a connection, must not keep the core from everything else.
                yield_now().await;
            }
            return sent;
        }
    }

    /// Runs checks and captures over the answer.
    fn look(&mut self, request: &Request, flight: &Flight<'_>, end: Instant) -> (Sent, String) {
        let Self { run, place, locals, random, net, .. } = self;
        let status = flight.trace.status.get().unwrap_or(0);
        let first_byte = flight.trace.first_byte.get().unwrap_or(end);
        let looked = Looked::new(
            &net.kept,
            status,
            end.saturating_duration_since(flight.from),
            first_byte.saturating_duration_since(flight.start),
        );
        let (mut sent, mut why) = (Sent::Well, String::new());
        for check in &request.step.checks {
            let answer: Option<&dyn hyperscale_plan::expr::Answer> = Some(&looked);
            let mut scope = UserScope { run, place: *place, locals, random, answer };
            let passed = check.condition.is_true(&mut scope).unwrap_or(false);
            run.recorder.borrow_mut().check(check.check, passed);
            if !passed && !check.warn {
                let name = run.plan().checks.get(check.check.get());
                why = format!("check failed: {}", name.map_or("?", |check| check.name.as_str()));
                sent = Sent::Failed;
            }
        }
        for (capture, compiled) in request.step.captures.iter().zip(&request.captures) {
            let found = compiled.extract(&looked, capture.index, random);
            let Some(value) = found.or_else(|| capture.default.clone()) else {
                let name = run.workflow().locals.get(capture.local.get());
                why = format!("capture `{}` found nothing", name.map_or("?", String::as_str));
                sent = Sent::Stuck;
                continue;
            };
            if let Some(slot) = locals.get_mut(capture.local.get()) {
                *slot = value;
            }
        }
        (sent, why)
    }
}

/// Whether a failure is one of those after which the step is tried again.
fn is_retried(retry: &hyperscale_plan::Retry, outcome: Outcome, trace: &Trace) -> bool {
    let status = trace.status.get().map(|status| status.to_string());
    retry.on.is_empty()
        || retry.on.iter().any(|on| on == outcome.as_str() || Some(on) == status.as_ref())
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
    fn land(self, outcome: Outcome, end: Instant) {
        self.count(outcome, end);
        std::mem::forget(self);
    }

    fn count(&self, outcome: Outcome, end: Instant) {
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
        self.count(Outcome::Cancelled, clock::now());
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
    net: &mut Net,
    ready: &Ready,
    trace: &Trace,
    keep: Keep,
) -> Result<Answer, Failure> {
    let mut answer = exchange(run, net, ready, trace, keep).await?;
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
        answer = Box::pin(exchange(run, net, &at, trace, keep)).await?;
    }
    Ok(answer)
}

const fn is_redirect(answer: &Answer) -> bool {
    matches!(answer.status, 301 | 302 | 303 | 307 | 308) && answer.location.is_some()
}

/// One request over a connection of the user or of the core's pool, with the user's cookies.
async fn exchange(
    run: &Run,
    net: &mut Net,
    ready: &Ready,
    trace: &Trace,
    keep: Keep,
) -> Result<Answer, Failure> {
    let settings = &run.plan().http;
    let cookies = match &net.cookies {
        Some(jar) => Some(cookie_header(jar, &ready.url)).filter(|cookies| !cookies.is_empty()),
        None => None,
    };
    let with_cookies = cookies.map(|cookies| ready.bytes_with_cookies(&cookies));
    let bytes = with_cookies.as_deref().unwrap_or(&ready.bytes);
    let answer = match settings.connections {
        Connections::PerVu => exchange_kept(run, net, ready, bytes, trace, keep).await?,
        Connections::Pool { .. } => {
            let permit = run.pools.permit(&ready.origin).await;
            net.connections.clear();
            net.connections.extend(permit.as_ref().and_then(Permit::take));
            let result = exchange_kept(run, net, ready, bytes, trace, keep).await;
            if let Some(permit) = permit {
                net.connections.drain(..).for_each(|connection| permit.give(connection));
            }
            result?
        }
    };
    if settings.cookies && !answer.cookies.is_empty() {
        let jar = net.cookies.get_or_insert_with(Box::default);
        for cookie in &answer.cookies {
            // A cookie that the rules forbid is not kept, as in a browser.
            if let Err(error) = jar.parse(cookie, &ready.url) {
                tracing::debug!(%error, "a cookie was refused");
            }
        }
    }
    Ok(answer)
}

fn cookie_header(jar: &CookieStore, url: &Url) -> String {
    let mut header = String::new();
    for (name, value) in jar.get_request_values(url) {
        if !header.is_empty() {
            header.push_str("; ");
        }
        header.push_str(name);
        header.push('=');
        header.push_str(value);
    }
    header
}

/// One request over a kept connection or a new one. A kept one that the server has closed while it
/// was idle is no failure of the target: the request goes out again, once, over a new one.
async fn exchange_kept(
    run: &Run,
    net: &mut Net,
    ready: &Ready,
    bytes: &[u8],
    trace: &Trace,
    keep: Keep,
) -> Result<Answer, Failure> {
    let settings = &run.plan().http;
    let Net { connections, kept, .. } = net;
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
        let is_head = ready.is_head();
        let result = connection.exchange(bytes, is_head, &run.scratch, trace, (keep, kept)).await;
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
    let proxy = settings.proxy.as_ref().map(|proxy| Origin {
        is_tls: false,
        host: proxy.host.clone(),
        port: proxy.port,
    });
    let mut failure = None;
    for address in run.resolver.resolve(proxy.as_ref().unwrap_or(origin)).await? {
        let way = Way {
            server_name: settings.tls.server_name.as_deref(),
            source: run.resolver.source(address),
            is_proxied: proxy.is_some(),
        };
        let opened = Connection::open(origin, address, connector.as_ref(), way, timeouts);
        match opened.await {
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
    /// Runs a future until `limit` after `start`, or until the earlier limit for the first byte;
    /// `None` if it takes longer.
    async fn limit<T>(
        &mut self,
        start: Instant,
        limit: Duration,
        early: Option<(Duration, &Trace)>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let deadline = || match early {
            Some((early, trace)) if trace.first_byte.get().is_none() => start + limit.min(early),
            Some(_) | None => start + limit,
        };
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            let due = deadline();
            // Work that always has more to do (an answer without end) spends all that its task may
            // do at once, and then timers do not answer it either.
            if !has_budget_remaining() && clock::now() >= due {
                return Poll::Ready(None);
            }
            let sleep =
                self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
            if self.armed.is_none_or(|armed| armed > due) {
                sleep.as_mut().reset(due.into());
                self.armed = Some(due);
            }
            while sleep.as_mut().poll(cx).is_ready() {
                if self.armed.is_some_and(|armed| armed >= due) {
                    self.armed = None;
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(due.into());
                self.armed = Some(due);
            }
            Poll::Pending
        })
        .await
    }
}
