//! How the leader steers a part as it runs.
//!
//! A change is an entry, with the job's time at which loads stop or go on: every attempt, also one
//! that starts after a takeover, computes its load's time from the same entries. Workers are told at
//! once, and again in the answer to each renewal whose report does not have the version yet.

use std::time::Duration;

use hyperscale_model::{AttemptId, NodeId, PartId, Time};
use hyperscale_plan::{LoadSteering, Steering};
use hyperscale_wire::{Message, WorkerReport};

use crate::leader::Live;
use crate::state::Entry;
use crate::{Leadership, Manager};

impl Manager {
    pub(crate) fn on_steer_part(&mut self, now: Time, id: PartId, steering: Steering) {
        let Some(part) = self.state.parts.get(&id) else { return };
        if steering.version <= part.steering.version {
            return self.report_soon(now); // The owner has missed that it is decided.
        }
        if part.stop.is_some() {
            return; // Nothing of it is steered any more.
        }
        let elapsed = self.elapsed(now, id).unwrap_or_default();
        // Loads go on together, and so a little later; they stop as soon as each hears of it.
        let goes_on = part.steering.is_paused && !steering.is_paused;
        let at = if goes_on { elapsed + self.config.start_margin } else { elapsed };
        self.propose(Entry::PartSteered { part: id, steering, at });
    }

    /// Tells the workers of a part how it is steered.
    pub(crate) fn steer_attempts(&mut self, part: PartId) {
        let Some(fence) = self.leading() else { return };
        let told: Vec<(AttemptId, NodeId)> = (self.state.open_attempts())
            .filter(|(attempt, _)| attempt.shard.part_id() == part)
            .filter(|(_, known)| {
                let view = self.workers.get(&known.worker);
                view.is_some_and(|v| v.is_connected && v.incarnation == known.incarnation)
            })
            .map(|(attempt, known)| (attempt, known.worker))
            .collect();
        for (attempt, worker) in told {
            if let Some((_, steering)) = self.steering_beyond(attempt, 0) {
                self.send(worker, Message::SteerAttempt { attempt, fence, steering });
            }
        }
    }

    /// How an attempt is steered, if that is newer than what its worker has heard of.
    pub(crate) fn steering_beyond(
        &self,
        attempt: AttemptId,
        heard: u64,
    ) -> Option<(AttemptId, LoadSteering)> {
        let part = self.state.parts.get(&attempt.shard.part_id())?;
        (part.turn > heard).then(|| (attempt, part.load_steering(attempt.shard.workflow)))
    }

    /// Takes from a worker's report what it has heard of.
    pub(crate) fn note_steered(&mut self, now: Time, report: &WorkerReport) {
        for reported in &report.attempts {
            let elapsed = self.elapsed(now, reported.attempt.shard.part_id());
            let Leadership::Leading(leading) = &mut self.leadership else { return };
            let (Some(elapsed), Some(live)) = (elapsed, leading.live.get_mut(&reported.attempt))
            else {
                continue;
            };
            if reported.steered > live.steered.0 {
                live.steered = (reported.steered, elapsed);
            }
        }
    }

    /// The load's time up to which an attempt that is over may have sent starts, if that may be
    /// ahead of the load: from the beginning of a pause until its worker has certainly heard of it.
    pub(crate) fn load_sent(&self, now: Time, attempt: AttemptId, live: &Live) -> Duration {
        let id = attempt.shard;
        let ahead = || {
            let part = self.state.parts.get(&id.part_id())?;
            let started = part.workflows.get(usize::from(id.workflow.0))?.started?;
            let elapsed = self.elapsed(now, id.part_id())?;
            let (heard, at) = live.steered;
            let heard_at = if heard >= part.turn { at.min(elapsed) } else { elapsed };
            // It has no lease for longer; entries may be decided a while after they were made.
            let longest = self.config.execution_lease * 2;
            let (pauses, last) = (&part.pauses, part.pauses.iter().last());
            let ahead = |(from, to): (Duration, Option<Duration>)| {
                // Of the last pause it is known when the worker had heard of it.
                let until = if Some((from, to)) == last { heard_at } else { elapsed };
                // One that has not heard of it goes on as if it had never been, beyond its end too.
                let to = to.filter(|_| heard >= part.turn);
                let from = from.max(started);
                let over = to.map_or(until, |to| to.min(until)).saturating_sub(from).min(longest);
                pauses.load_time(started, from) + over
            };
            let concerned = pauses.iter().filter(|(from, to)| {
                *from < elapsed && to.is_none_or(|to| to > started) // It was running.
            });
            concerned.map(ahead).max()
        };
        ahead().unwrap_or_default()
    }
}
