//! Following a job as it runs.

use std::io::Write as _;
use std::time::Duration;

use hyperscale_gate::JobView;
use hyperscale_model::JobId;
use hyperscale_report::{LiveView, count, duration, job_time, plain, rate, share};
use hyperscale_web::{Cancellation, Steering};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{Api, ApiError, Events, News};
use crate::exit::Failure;
use crate::run::refused;
use crate::terminal::{Act, Command, Screen, State};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often gates are tried again when none serves the job, and for how long: another gate takes a
/// job over within seconds.
const RETRY_EVERY: Duration = Duration::from_millis(500);
const RETRIES: u32 = 60;

/// Says something to people, beside the results.
pub(crate) fn say(text: &str) {
    // If standard error is closed, nobody wants to hear it.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// How often the screen is drawn at most, and the connection to a terminal is looked at.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// How a job is shown as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Display {
    /// Not at all.
    Quiet,
    /// A line every few seconds, and one for every event.
    Lines,
    /// A screen, for a person before a terminal.
    Screen,
}

/// Follows a job to its end. The first interrupt stops it gracefully, the second at once. For
/// `unheard` the job may be one that the gate has not heard of yet.
pub(crate) async fn follow(
    api: &Api,
    job: JobId,
    display: Display,
    unheard: Duration,
) -> Result<(), Failure> {
    let heard_by = tokio::time::Instant::now() + unheard;
    let mut signals = Signals::new()?;
    let mut shown = Shown::open(display);
    let mut redraw = tokio::time::interval(DRAW_EVERY);
    redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut last_event, mut failures) = (0, 0);
    let mut events: Option<Events> = None;
    loop {
        let stream = match &mut events {
            Some(stream) => stream,
            None => match api.events(job, last_event).await {
                Ok(stream) => events.insert(stream),
                Err(error) if error.is_transient() && failures < RETRIES => {
                    failures += 1;
                    shown.trouble(&error.to_string());
                    shown.redraw();
                    tokio::time::sleep(RETRY_EVERY).await;
                    continue;
                }
                Err(error) if error.is_unheard() && tokio::time::Instant::now() < heard_by => {
                    tokio::time::sleep(RETRY_EVERY).await;
                    continue;
                }
                Err(error) => return Err(refused(&error)),
            },
        };
        let command = tokio::select! {
            news = stream.next() => {
                match news {
                    Ok(Some(News::Event(event))) => {
                        failures = 0;
                        last_event = event.id;
                        shown.event(&event.text, event.at_ms);
                    }
                    Ok(Some(News::View(view))) => shown.view(*view),
                    Ok(Some(News::End)) => return Ok(()),
                    // The gate went away: another stream goes on after the last event.
                    Ok(None) => events = None,
                    Err(error) if error.is_transient() && failures < RETRIES => {
                        failures += 1;
                        events = None;
                        tokio::time::sleep(RETRY_EVERY / 5).await;
                    }
                    Err(error) => return Err(refused(&error)),
                }
                None
            }
            () = signals.next() => Some(shown.stop()),
            act = shown.act() => shown.on_act(act),
            _ = redraw.tick() => {
                shown.redraw();
                None
            }
        };
        let told = match command {
            None => Ok(()),
            Some(Command::Stop { now }) => cancel(api, job, now).await?,
            Some(Command::Pause(pause)) => {
                steer(api, job, Steering { pause: Some(pause), ..Steering::default() }).await
            }
            Some(Command::Scale(scale)) => {
                let scale = scale.into_iter().collect();
                steer(api, job, Steering { scale, ..Steering::default() }).await
            }
        };
        if let Err(text) = told {
            shown.trouble(&text);
        }
    }
}

/// Asks for a stop. What went wrong on the way is told, not fatal: the stream of events will find
/// out what became of the gate.
async fn cancel(api: &Api, job: JobId, now: bool) -> Result<Result<(), String>, Failure> {
    let cancellation = Cancellation { workflow: None, now };
    match api.post::<JobView>(&format!("/jobs/{job}/cancel"), &cancellation).await {
        Ok(_) => Ok(Ok(())),
        Err(error @ ApiError::Refused(_)) => Err(refused(&error)),
        Err(error) => Ok(Err(format!("the job could not be stopped: {error}"))),
    }
}

/// Steers the job's load; what went wrong is told, the test goes on as it was.
async fn steer(api: &Api, job: JobId, steering: Steering) -> Result<(), String> {
    let answer = api.post::<JobView>(&format!("/jobs/{job}/steer"), &steering).await;
    answer.map(drop).map_err(|error| format!("the load was not changed: {error}"))
}

/// Where a job is shown.
enum Shown {
    Lines(Lines),
    Screen { screen: Box<Screen>, state: Box<State>, is_dirty: bool },
}

impl Shown {
    fn open(display: Display) -> Self {
        let is_quiet = display == Display::Quiet;
        let lines = Self::Lines(Lines { is_quiet, last_ms: 0, interrupts: 0 });
        if display != Display::Screen {
            return lines;
        }
        match Screen::open() {
            Ok(screen) => {
                Self::Screen { screen: Box::new(screen), state: Box::default(), is_dirty: true }
            }
            Err(error) => {
                say(&format!("the terminal takes no screen, lines follow: {error}"));
                lines
            }
        }
    }

    fn event(&mut self, text: &str, at_ms: u64) {
        match self {
            Self::Lines(lines) => lines.event(text, at_ms),
            Self::Screen { state, is_dirty, .. } => {
                state.on_event(at_ms, text.to_owned());
                *is_dirty = true;
            }
        }
    }

    fn view(&mut self, view: LiveView) {
        match self {
            Self::Lines(lines) => lines.view(&view),
            Self::Screen { state, is_dirty, .. } => {
                state.on_view(view);
                *is_dirty = true;
            }
        }
    }

    fn trouble(&mut self, text: &str) {
        match self {
            Self::Lines(lines) if lines.is_quiet => {}
            Self::Lines(_) => say(text),
            Self::Screen { state, is_dirty, .. } => {
                state.trouble = Some(text.to_owned());
                *is_dirty = true;
            }
        }
    }

    /// An interrupt: asks for a stop, or for a faster one.
    fn stop(&mut self) -> Command {
        match self {
            Self::Lines(lines) => lines.stop(),
            Self::Screen { state, is_dirty, .. } => {
                *is_dirty = true;
                state.stop()
            }
        }
    }

    /// What a person does; never, where there is no screen.
    async fn act(&mut self) -> Act {
        match self {
            Self::Lines(_) => std::future::pending().await,
            Self::Screen { screen, .. } => screen.act().await,
        }
    }

    fn on_act(&mut self, act: Act) -> Option<Command> {
        let Self::Screen { state, is_dirty, .. } = self else { return None };
        *is_dirty = true;
        match act {
            Act::Resized => None,
            Act::Key(key) => state.on_key(key),
        }
    }

    /// Draws what has changed. A terminal that is gone is given up: the test goes on without it.
    fn redraw(&mut self) {
        let Self::Screen { screen, state, is_dirty } = self else { return };
        if std::mem::take(is_dirty) && screen.show(state).is_err() {
            *self = Self::Lines(Lines { is_quiet: true, last_ms: 0, interrupts: 0 });
        }
    }
}

pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::internal("signals cannot be heard", &error))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that asks to stop.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// What is shown where there is no terminal: a line every few seconds, and one for every event.
struct Lines {
    is_quiet: bool,
    last_ms: u64,
    interrupts: u32,
}

impl Lines {
    fn stop(&mut self) -> Command {
        self.interrupts += 1;
        let now = self.interrupts > 1;
        say(if now { "stopping at once" } else { "stopping; interrupt again to stop at once" });
        Command::Stop { now }
    }

    fn event(&self, text: &str, at_ms: u64) {
        if !self.is_quiet {
            say(&format!("{} {}", job_time(at_ms), plain(text)));
        }
    }

    fn view(&mut self, view: &LiveView) {
        let every = u64::try_from(LINE_EVERY.as_millis()).unwrap_or(u64::MAX);
        if self.is_quiet || view.elapsed_ms < self.last_ms + every {
            return;
        }
        self.last_ms = view.elapsed_ms;
        let us = |us: f64| duration(Duration::from_secs_f64(us / 1e6));
        let planned = view
            .planned_ms
            .map_or_else(String::new, |planned| format!(" of {}", &job_time(planned)[1..]));
        say(&format!(
            "{}{planned}  users {}/{}  requests {} ({})  failed {}  p50 {}  p95 {}  p99 {}",
            job_time(view.elapsed_ms),
            view.vus,
            view.vus_max,
            count(view.requests),
            rate(view.request_rate),
            share(view.failed, view.requests),
            us(view.latency_us.p50),
            us(view.latency_us.p95),
            us(view.latency_us.p99),
        ));
    }
}
