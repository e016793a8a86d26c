//! Following a job as it runs.

use std::io::Write as _;
use std::time::Duration;

use hyperscale_gate::JobView;
use hyperscale_model::JobId;
use hyperscale_report::{LiveView, count, duration, job_time, rate, share};
use hyperscale_web::Cancellation;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{Api, ApiError, Events, News};
use crate::exit::Failure;
use crate::run::refused;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often a gate that is gone is tried again, and for how long.
const RETRY_EVERY: Duration = Duration::from_secs(2);
const RETRIES: u32 = 8;

/// Says something to people, beside the results.
pub(crate) fn say(text: &str) {
    // If standard error is closed, nobody wants to hear it.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Follows a job to its end. The first interrupt stops it gracefully, the second at once.
pub(crate) async fn follow(api: &Api, job: JobId, is_quiet: bool) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut shown = Lines { is_quiet, last_ms: 0 };
    let (mut last_event, mut failures) = (0, 0);
    let mut events: Option<Events> = None;
    loop {
        let stream = match &mut events {
            Some(stream) => stream,
            None => match api.events(job, last_event).await {
                Ok(stream) => events.insert(stream),
                Err(error) if error.is_transient() && failures < RETRIES => {
                    failures += 1;
                    tokio::time::sleep(RETRY_EVERY).await;
                    continue;
                }
                Err(error) => return Err(refused(&error)),
            },
        };
        tokio::select! {
            news = stream.next() => match news {
                Ok(Some(News::Event(event))) => {
                    failures = 0;
                    last_event = event.id;
                    shown.event(&event.text, event.at_ms);
                }
                Ok(Some(News::View(view))) => shown.view(&view),
                Ok(Some(News::End)) => return Ok(()),
                // The gate went away: another stream goes on after the last event.
                Ok(None) => events = None,
                Err(error) if error.is_transient() => events = None,
                Err(error) => return Err(refused(&error)),
            },
            count = signals.next() => {
                let now = count > 1;
                say(if now { "stopping at once" } else { "stopping; interrupt again to stop at once" });
                cancel(api, job, now).await?;
            }
        }
    }
}

async fn cancel(api: &Api, job: JobId, now: bool) -> Result<(), Failure> {
    let cancellation = Cancellation { workflow: None, now };
    match api.post::<JobView>(&format!("/jobs/{job}/cancel"), &cancellation).await {
        Ok(_) => Ok(()),
        Err(error @ ApiError::Refused(_)) => Err(refused(&error)),
        // The stream will find out what became of the gate.
        Err(error) => {
            say(&format!("the job could not be stopped: {error}"));
            Ok(())
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    count: u32,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::internal("signals cannot be heard", &error))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            count: 0,
        })
    }

    /// Waits for a signal; returns how many there were.
    async fn next(&mut self) -> u32 {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
        self.count += 1;
        self.count
    }
}

/// What is shown where there is no terminal: a line every few seconds, and one for every event.
struct Lines {
    is_quiet: bool,
    last_ms: u64,
}

impl Lines {
    fn event(&self, text: &str, at_ms: u64) {
        if !self.is_quiet {
            say(&format!("{} {text}", job_time(at_ms)));
        }
    }

    fn view(&mut self, view: &LiveView) {
        let every = u64::try_from(LINE_EVERY.as_millis()).unwrap_or(u64::MAX);
        if self.is_quiet || view.elapsed_ms < self.last_ms + every {
            return;
        }
        self.last_ms = view.elapsed_ms;
        let us = |us: f64| duration(Duration::from_secs_f64(us / 1e6));
        say(&format!(
            "{} of {}  users {}/{}  requests {} ({})  failed {}  p50 {}  p95 {}  p99 {}",
            job_time(view.elapsed_ms),
            job_time(view.planned_ms),
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
