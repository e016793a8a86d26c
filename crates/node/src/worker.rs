//! A worker on this machine: its rules, and the engine that they steer.

use std::sync::Arc;
use std::time::Duration;

use hyperscale_engine::{AttemptNews, CoreEvent, Engine, RunEnd, Stop, Work};
use hyperscale_model::{AttemptId, JobId, Time};
use hyperscale_wire::{AttemptEnd, StopMode};
use hyperscale_worker::{
    EngineCommand, EngineEvent, Event, Input, Output, Preparation, Worker, WorkerConfig,
};

use crate::drive::{Host, NodeError, Progress};
use crate::link::LinkEvent;
use crate::links::{Change, Links};
use crate::observe::{Count, Observer, Part};
use crate::traces::{Traces, trace_of};

/// How often dead threads are looked for.
const CHECK: Duration = Duration::from_secs(1);

/// What comes from outside the cluster.
#[derive(Debug)]
pub(crate) enum Ask {
    Core(CoreEvent),
    /// Finish what runs within the limit, then leave.
    Drain,
    /// Leave now.
    Leave,
}

pub(crate) struct WorkerHost {
    worker: Worker,
    engine: Engine,
    links: Links,
    observer: Arc<Observer>,
    next_check: Time,
    has_left: bool,
    pub(crate) traces: Traces,
}

impl WorkerHost {
    pub(crate) fn new(config: WorkerConfig, engine: Engine, observer: Arc<Observer>) -> Self {
        let (worker, links) = (Worker::new(config), Links::new(Arc::clone(&observer)));
        let (next_check, traces) = (Time::ZERO, Traces::default());
        Self { worker, engine, links, observer, next_check, has_left: false, traces }
    }

    fn tell(&mut self, now: Time, event: EngineEvent) {
        self.worker.handle(now, Input::Engine(event));
    }

    fn on_news(&mut self, now: Time, attempt: AttemptId, news: AttemptNews) {
        let event = match news {
            AttemptNews::Prepared => EngineEvent::Prepared { attempt },
            AttemptNews::Unprepared(message) => EngineEvent::Unprepared { attempt, message },
            AttemptNews::Window(window, figures) => {
                let draws_made = self.engine.draws_made(attempt);
                EngineEvent::Window { attempt, window, figures, draws_made }
            }
            AttemptNews::RowsWanted => EngineEvent::RowsWanted { attempt },
            AttemptNews::Ended { end, published, draws_made } => {
                let end = match end {
                    RunEnd::Finished => AttemptEnd::Finished,
                    RunEnd::Stopped => AttemptEnd::Stopped,
                    RunEnd::Aborted(message) => AttemptEnd::Aborted { message },
                    RunEnd::Lost(message) => AttemptEnd::CoreLost { message },
                };
                EngineEvent::Ended { attempt, end, published, draws_made: Some(draws_made) }
            }
        };
        self.tell(now, event);
    }

    fn command(&mut self, now: Time, command: EngineCommand) {
        let (attempt, is_told) = match command {
            EngineCommand::Prepare(preparation) => {
                let attempt = preparation.assignment.attempt;
                if !self.engine.prepare(work(*preparation)) {
                    self.engine.stop(attempt, Stop::Silent);
                    let message = "a core of this worker takes no work".to_owned();
                    self.tell(now, EngineEvent::Unprepared { attempt, message });
                }
                return;
            }
            EngineCommand::Start { attempt, start_in, job_elapsed, load_elapsed, late } => {
                (attempt, self.engine.run(attempt, start_in, job_elapsed, load_elapsed, late))
            }
            EngineCommand::Lease { until } => {
                self.engine.lease(self.observer.clock().instant(until));
                return;
            }
            EngineCommand::Steer { attempt, steering } => {
                (attempt, self.engine.steer(attempt, steering))
            }
            EngineCommand::LeaseRows { attempt, until } => {
                (attempt, self.engine.lease_rows(attempt, until))
            }
            EngineCommand::Stop { attempt, mode } => {
                let stop = match mode {
                    StopMode::Graceful => Stop::Graceful,
                    StopMode::Now => Stop::Now,
                };
                (attempt, self.engine.stop(attempt, stop))
            }
            EngineCommand::Discard { attempt } => {
                self.engine.stop(attempt, Stop::Silent);
                return;
            }
        };
        if !is_told {
            self.engine.stop(attempt, Stop::Silent);
            self.lost(now, attempt);
        }
    }

    fn lost(&mut self, now: Time, attempt: AttemptId) {
        if let Some(held_back) = self.observer.trouble(Part::Worker, "core gone", attempt) {
            let (job, trace_id) = (attempt.shard.job, trace_of(&attempt));
            tracing::error!(%job, %trace_id, %attempt, held_back, "a core that ran this attempt is gone");
        }
        let end = AttemptEnd::CoreLost { message: "a core of the worker is gone".to_owned() };
        // Its other cores may not have heard that it is over: who knows what they still draw.
        let (published, draws_made) = (Default::default(), None);
        self.tell(now, EngineEvent::Ended { attempt, end, published, draws_made });
    }
}

fn work(preparation: Preparation) -> Work {
    let Preparation { assignment, plan, blobs, cores } = preparation;
    Work {
        attempt: assignment.attempt,
        plan,
        blobs,
        slice: assignment.slice,
        cores,
        iterations_done: assignment.iterations_done,
        load_sent: assignment.load_sent,
        rows: assignment.rows,
        steering: assignment.steering,
        context: assignment.context,
        secrets: assignment.secrets,
        window: assignment.window,
        datacenter: assignment.datacenter,
    }
}

fn log(observer: &Observer, event: &Event) {
    match event {
        Event::LeaderChanged { leader, fence } => tracing::info!(%leader, %fence, "new leader"),
        Event::LeaseLost => {
            observer.count(Count::LeaseLost);
            if let Some(held_back) = observer.trouble(Part::Worker, "lease lost", "") {
                tracing::warn!(held_back, "no leader answers: load stops");
            }
        }
        Event::LeaseRegained => tracing::info!("a leader answers again: load goes on"),
        Event::AttemptRefused { attempt, why } => {
            observer.count(Count::AttemptRefused);
            if let Some(held_back) = observer.trouble(Part::Worker, "attempt refused", attempt) {
                let (job, trace_id) = (attempt.shard.job, trace_of(attempt));
                tracing::warn!(%job, %trace_id, %attempt, ?why, held_back, "attempt refused");
            }
        }
        Event::AttemptReceived { attempt } => {
            let (job, trace_id) = (attempt.shard.job, trace_of(attempt));
            tracing::info!(%job, %trace_id, %attempt, "attempt received");
        }
        Event::AttemptStarted { attempt, .. } => {
            observer.count(Count::AttemptStarted);
            tracing::info!(job = %attempt.shard.job, trace_id = %trace_of(attempt), %attempt, "attempt started");
        }
        Event::AttemptEnded { attempt, end } => {
            observer.count(Count::AttemptEnded);
            tracing::info!(job = %attempt.shard.job, trace_id = %trace_of(attempt), %attempt, ?end, "attempt ended");
        }
        Event::AttemptEndAcknowledged { attempt, .. } => {
            let (job, trace_id) = (attempt.shard.job, trace_of(attempt));
            tracing::debug!(%job, %trace_id, %attempt, "the attempt's end is decided");
        }
        Event::StaleFence { from, fence, held } => {
            observer.count(Count::StaleFence);
            if let Some(held_back) = observer.trouble(Part::Worker, "stale fence", from) {
                tracing::warn!(%from, %fence, %held, held_back, "a deposed sender was refused");
            }
        }
        Event::AttemptForgotten { attempt, uncounted_requests } => {
            observer.count(Count::AttemptForgotten);
            if let Some(held_back) = observer.trouble(Part::Worker, "attempt forgotten", attempt) {
                tracing::warn!(
                    job = %attempt.shard.job, trace_id = %trace_of(attempt), %attempt, uncounted_requests, held_back,
                    "the leader does not know this attempt"
                );
            }
        }
        // A stop and what the engine says cross now and then.
        Event::OutOfTurn { attempt, what } => {
            tracing::info!(job = %attempt.shard.job, trace_id = %trace_of(attempt), %attempt, what, "the engine spoke out of turn");
        }
    }
}

impl Host for WorkerHost {
    type Ask = Ask;

    fn on_link(&mut self, now: Time, event: LinkEvent) {
        let input = match self.links.on(event) {
            Change::Up(peer) => Input::Connected { manager: peer.node },
            Change::Message(from, message) => Input::Message { from, message: *message },
            Change::Down(manager) => Input::Disconnected { manager },
            Change::Nothing => return,
        };
        self.worker.handle(now, input);
    }

    fn on_ask(&mut self, now: Time, ask: Ask) {
        match ask {
            Ask::Core(event) => {
                let attempt = event.attempt();
                for news in self.engine.join(event) {
                    self.on_news(now, attempt, news);
                }
            }
            Ask::Drain => self.worker.handle(now, Input::Drain),
            Ask::Leave => self.has_left = true,
        }
    }

    fn tick(&mut self, now: Time) {
        if now >= self.next_check {
            self.next_check = now + CHECK;
            for attempt in self.engine.lost() {
                self.lost(now, attempt);
            }
        }
        self.worker.handle(now, Input::Tick);
    }

    fn next_deadline(&self) -> Option<Time> {
        [self.worker.next_deadline(), Some(self.next_check)].into_iter().flatten().min()
    }

    fn active(&self) -> Vec<(JobId, String)> {
        self.worker.active().map(|attempt| (attempt.shard.job, attempt.to_string())).collect()
    }

    fn flush(&mut self, now: Time) -> Result<Progress, NodeError> {
        loop {
            let wanted: Vec<Output> = self.worker.drain().collect();
            if wanted.is_empty() {
                break;
            }
            for output in wanted {
                match output {
                    Output::Send { to, message } => self.links.send(to, &message),
                    Output::Engine(command) => self.command(now, command),
                    Output::Event(event) => {
                        self.traces.on_worker(now, &event);
                        log(&self.observer, &event);
                    }
                    Output::Drained => self.has_left = true,
                }
            }
        }
        if self.has_left {
            self.links.close();
            return Ok(Progress::Left);
        }
        Ok(Progress::GoOn)
    }
}
