//! What gates are told: statistics, how parts stand, and how they ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{AttemptId, DeltaSeq, NodeId, PartId, Pressure, Time, WorkflowIndex};
use hyperscale_plan::Context;
use hyperscale_stats::{Arrival, Delta};
use hyperscale_wire::{Message, PartReport, PartResult, WorkflowReport, WorkflowState};

use super::workflows::{Subject, is_ready};
use super::{Live, TELLINGS_MAX};
use crate::forecast::{Ahead, Stage, waits};
use crate::gap::gaps;
use crate::relay::Relay;
use crate::rows::rows_used;
use crate::state::{Part, shard_id};
use crate::{Event, Leadership, Manager, Output};

impl Manager {
    pub(crate) fn on_delta(&mut self, now: Time, delta: Delta) {
        let attempt = delta.attempt;
        let Some(part) = self.state.parts.get(&attempt.shard.part_id()) else { return };
        let (gate, window) = (part.gate, part.window);
        let Some(known) = self.state.attempt(attempt) else { return };
        let last = known.closed.as_ref().map(|closed| closed.last_delta);
        let worker = known.worker;
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        if last.is_some_and(|last| delta.seq > last) {
            let requests = delta.figures.figures.requests();
            let (seen, late) = leading.late.entry(attempt).or_default();
            if seen.arrive(delta.seq) == Arrival::New {
                *late += requests;
                self.event(Event::LateDelta { attempt, requests });
            }
            return;
        }
        if last.is_none() && leading.is_closing(attempt) {
            return; // The entry does not count it. If it is not decided, the worker says it again.
        }
        let live = leading.live.entry(attempt).or_insert_with(|| Live::new(Relay::inherited()));
        if live.relay.is_based && delta.seq <= live.relay.acknowledged {
            // Counted for good: the worker has missed its acknowledgement.
            let (through, until) = (live.relay.acknowledged, live.relay.until);
            let (iterations, pressure) = (live.relay.iterations, Pressure::None);
            let ack = Message::DeltaAck { attempt, through, iterations, until, pressure };
            self.send(worker, ack);
            return;
        }
        live.relay.on_delta(delta, window);
        self.relay(now, attempt, gate);
    }

    fn relay(&mut self, now: Time, attempt: AttemptId, gate: NodeId) {
        let Some(gate) = self.gate_for(gate) else { return };
        let resend = self.config.resend * 2;
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        if now >= leading.confirmed_until {
            return; // Another may have said already what of it counts.
        }
        let Some(live) = leading.live.get_mut(&attempt) else { return };
        for delta in live.relay.due(now, resend) {
            let message = Message::Delta(Box::new(delta));
            self.outputs.push(Output::Send { to: gate, message });
        }
    }

    /// The gate to talk to about a job: its owner, or any other that may know the owner.
    fn gate_for(&self, owner: NodeId) -> Option<NodeId> {
        if self.gates.contains(&owner) { Some(owner) } else { self.gates.first().copied() }
    }

    /// Returns the worker that should hear of the acknowledgement.
    pub(crate) fn on_delta_ack(
        &mut self,
        attempt: AttemptId,
        through: DeltaSeq,
        iterations: u64,
        until: Duration,
    ) -> Option<NodeId> {
        let window = self.state.parts.get(&attempt.shard.part_id())?.window;
        let worker = self.state.attempt(attempt)?.worker;
        let Leadership::Leading(leading) = &mut self.leadership else { return None };
        let live = leading.live.entry(attempt).or_insert_with(|| Live::new(Relay::inherited()));
        live.relay.on_ack(through, iterations, until, window);
        self.workers.get(&worker).filter(|view| view.is_connected).map(|_| worker)
    }

    pub(super) fn send_upward(&mut self, now: Time) {
        let parts: Vec<(PartId, NodeId, bool)> =
            self.state.parts.iter().map(|(&id, p)| (id, p.gate, p.ended.is_some())).collect();
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let attempts: Vec<AttemptId> = leading.live.keys().copied().collect();
        let is_report_due = now >= leading.next_report;
        if is_report_due {
            leading.next_report = now + self.config.report;
        }
        if is_report_due {
            // First: a gate takes figures only from whom it knows to lead.
            let status = self.datacenter_status(now);
            for gate in self.gates.clone() {
                self.send(gate, Message::DatacenterStatus(status.clone()));
            }
        }
        for attempt in attempts {
            let gate = self.state.parts.get(&attempt.shard.part_id()).map(|part| part.gate);
            if let Some(gate) = gate {
                self.relay(now, attempt, gate);
            }
        }
        let waits = if is_report_due { self.waits(now) } else { BTreeMap::new() };
        for (part, owner, is_ended) in parts {
            let Some(gate) = self.gate_for(owner) else { continue };
            if is_ended {
                self.tell_end(now, part, gate);
            } else if is_report_due
                && let Some(report) = self.part_report(now, part, waits.get(&part).copied())
            {
                self.send(gate, Message::PartReport(Box::new(report)));
            }
        }
    }

    /// Tells a part's end until it is acknowledged, at growing distances.
    fn tell_end(&mut self, now: Time, part: PartId, gate: NodeId) {
        let Leadership::Leading(leading) = &mut self.leadership else { return };
        let (next, times) = leading.told.get(&part).copied().unwrap_or((now, 0));
        if now < next {
            return;
        }
        let pause = (self.config.resend * (1 << times.min(5))).min(Duration::from_secs(30));
        leading.told.insert(part, (now + pause, times + 1));
        if times + 1 == TELLINGS_MAX {
            self.event(Event::EndUnheard { part, times: TELLINGS_MAX });
        }
        let Some(report) = self.part_report(now, part, None) else { return };
        let Some(state) = self.state.parts.get(&part) else { return };
        let Some(status) = state.ended.clone() else { return };
        let attempts = (state.workflows.iter().zip(0..))
            .flat_map(|(workflow, index)| {
                let workflow_index = WorkflowIndex(index);
                workflow.shards().flat_map(move |(shard_index, shard)| {
                    let id = shard_id(part, workflow_index, shard_index);
                    shard.attempts.iter().zip(1..).filter_map(move |(attempt, number)| {
                        let number = hyperscale_model::AttemptNumber(number);
                        let last = attempt.closed.as_ref()?.last_delta;
                        Some((AttemptId { shard: id, number }, last))
                    })
                })
            })
            .collect();
        let result = PartResult { report, status, attempts };
        self.send(gate, Message::PartEnded(Box::new(result)));
    }

    /// How long each part that has no cores yet, and could use some now, will wait for them.
    fn waits(&self, now: Time) -> BTreeMap<PartId, Duration> {
        let open = || self.state.parts.iter().filter(|(_, part)| part.ended.is_none());
        let started = || open().filter(|(_, part)| part.started.is_some());
        let has_begun = |part: &Part| part.workflows.iter().any(|w| !w.shards.is_empty());
        if started().all(|(_, part)| has_begun(part)) {
            return BTreeMap::new();
        }
        let ahead = started().filter_map(|(&id, part)| {
            let plan = self.plans.get(&part.plan)?;
            let elapsed = self.elapsed(now, id)?;
            let subjects = (part.workflows.iter().zip(&plan.workflows).zip(0..))
                .map(|((workflow, planned), index)| Subject {
                    part_id: id,
                    part,
                    index: WorkflowIndex(index),
                    workflow,
                    planned,
                    elapsed,
                })
                .collect::<Vec<_>>();
            let is_ready = |subject: &Subject<'_>| {
                subject.workflow.ended.is_none() && subject.stop().is_none() && is_ready(subject)
            };
            Some(Ahead {
                part: id,
                plan,
                slice: &part.slice,
                elapsed,
                is_asked: !has_begun(part) && subjects.iter().any(is_ready),
                stages: subjects.iter().map(|subject| self.stage(subject)).collect(),
            })
        });
        waits(&self.candidates(now), ahead.collect(), self.config.start_margin)
    }

    /// Where a workflow stands, for those that wait for its cores.
    fn stage(&self, subject: &Subject<'_>) -> Stage {
        let Subject { part, index, workflow, planned, elapsed, .. } = *subject;
        if let Some((_, at)) = part.end_of(index).or(workflow.ended.as_ref()) {
            return Stage::Over(*at);
        }
        if workflow.shards.is_empty() {
            return if subject.stop().is_some() { Stage::Over(elapsed) } else { Stage::Waits };
        }
        let open = workflow.shards.iter().filter_map(|shard| Some(shard.open()?.1));
        let seats: BTreeMap<AttemptId, (NodeId, u32)> =
            open.map(|attempt| (attempt.seat, (attempt.worker, attempt.cores))).collect();
        let length = planned.load.duration();
        let until = match (subject.stop(), workflow.started) {
            (Some(_), _) => Some(elapsed),
            (None, Some(started)) => part.pauses.job_time(started, length),
            (None, None) => Some(elapsed + self.config.start_margin + length),
        };
        Stage::Holds { cores: seats.into_values().collect(), until }
    }

    fn part_report(&mut self, now: Time, id: PartId, wait: Option<Duration>) -> Option<PartReport> {
        let plan = self.plan(self.state.parts.get(&id)?.plan)?;
        let part = self.state.parts.get(&id)?;
        let elapsed = self.elapsed(now, id).unwrap_or_default();
        let job_time = self.job_time(now, id);
        let workflows = (part.workflows.iter().zip(&plan.workflows).zip(0..))
            .map(|((workflow, planned), index)| {
                let index = WorkflowIndex(index);
                let subject = Subject { part_id: id, part, index, workflow, planned, elapsed };
                let state = match (&workflow.ended, workflow.started) {
                    (Some((status, _)), _) => WorkflowState::Ended(status.clone()),
                    (None, Some(_)) => WorkflowState::Running,
                    (None, None) if !workflow.shards.is_empty() => WorkflowState::Placed,
                    (None, None) if part.started.is_some() && is_ready(&subject) => {
                        WorkflowState::Ready
                    }
                    (None, None) => WorkflowState::Waiting,
                };
                let ended = workflow.ended.as_ref().map(|(_, at)| *at);
                WorkflowReport { state, started: workflow.started, ended }
            })
            .collect();
        let open =
            || self.state.open_attempts().filter(|(attempt, _)| attempt.shard.part_id() == id);
        let workers: BTreeSet<NodeId> = open().map(|(_, attempt)| attempt.worker).collect();
        let seats: BTreeMap<AttemptId, u32> =
            open().map(|(_, attempt)| (attempt.seat, attempt.cores)).collect();
        let cores = seats.values().sum();
        let gaps = gaps(id, part, &plan, elapsed);
        let Leadership::Leading(leading) = &self.leadership else { return None };
        let rows = rows_used(leading, (id, part), &plan);
        let started = part.started;
        let indexed = || (0..).map(WorkflowIndex).zip(&part.workflows);
        let of_shared = indexed().filter(|(_, workflow)| !workflow.published.is_empty());
        let published =
            Context { layers: of_shared.map(|(index, w)| (index, w.published.clone())).collect() };
        let settled = indexed().filter(|(_, workflow)| workflow.settled.is_some());
        let settled = settled.map(|(index, _)| index).collect();
        let (steered, pauses) = (part.steering.version, part.pauses.clone());
        let Leadership::Leading(leading) = &mut self.leadership else { return None };
        leading.report_seq = leading.report_seq.next();
        let of_part = |attempt: &AttemptId| attempt.shard.part_id() == id;
        let late = leading.late.iter().filter(|(attempt, _)| of_part(attempt));
        let inquire = (leading.live.iter())
            .filter(|(attempt, live)| of_part(attempt) && !live.relay.is_based)
            .map(|(&attempt, _)| attempt)
            .collect();
        Some(PartReport {
            part: id,
            fence: leading.fence,
            seq: leading.report_seq,
            workflows,
            gaps,
            rows,
            workers: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            cores,
            late_requests: late.map(|(_, (_, requests))| *requests).sum(),
            started,
            inquire,
            published,
            settled,
            steered,
            pauses,
            job_time,
            wait,
        })
    }
}
