//! Parts of jobs: they are offered, started, stopped, moved and given up, and what their datacenters say
//! of them is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{
    AttemptId, BlobHash, DatacenterId, DeltaSeq, EndStatus, FailureCause, Fence, JobId, NodeId,
    PartId, PartIndex, Pressure, Time, WorkflowIndex,
};
use hyperscale_plan::{DataIndex, Datacenters, Plan, Slice, UniqueRows};
use hyperscale_stats::Delta;
use hyperscale_wire::{
    Message, PartOffer, PartReport, PartResult, RefusePart, RowsUsed, StopMode, StopReason,
    WorkflowState,
};

use super::{Live, START_AHEAD, WORKFLOW_ENDED};
use crate::copies::Change;
use crate::settle::Settled;
use crate::state::{Entry, PartEnd};
use crate::{About, Event, Gate, Step};

impl Gate {
    pub(crate) fn on_part_accepted(&mut self, now: Time, part: PartId, fence: Fence) {
        let Some(state) = self.state.jobs.get(&part.job) else { return };
        if state.fence != fence {
            return; // The answer to an offer of an earlier owner.
        }
        let name = state.parts.get(usize::from(part.part.0)).map(|(t, _)| t.datacenter.clone());
        let Some(live) = self.live_part(part) else { return };
        if live.needs_offer {
            (live.needs_offer, live.commanded_at) = (false, None);
        }
        if !live.is_accepted {
            (live.is_accepted, live.commanded_at) = (true, None);
            let took = live.asked_since.map(|since| now.since(since));
            if let Some((name, took)) = name.zip(took) {
                self.on_dispatched(now, &name, took);
                let text = format!("{name} accepted its part");
                self.note(now, part.job, "part_accepted", text);
            }
        }
    }

    pub(crate) fn on_part_refused(
        &mut self,
        now: Time,
        part: PartId,
        fence: Fence,
        why: RefusePart,
    ) {
        let Some(state) = self.state.jobs.get(&part.job).filter(|job| job.fence == fence) else {
            return;
        };
        let attempts = Vec::new();
        let message = match why {
            RefusePart::BadPlan { message } => message,
            // Offered again after a while, to whoever leads by then.
            RefusePart::NotLeader { .. } | RefusePart::NotReady { .. } => return,
        };
        if state.ended.is_none() {
            let cause = FailureCause::Placement { reasons: vec![message] };
            let end = PartEnd {
                status: EndStatus::Failed { cause },
                is_missing: false,
                was_returned: false,
                gaps: Vec::new(),
                rows: Vec::new(),
                late_requests: 0,
                attempts,
            };
            self.end_part(now, part, end);
        }
    }

    /// A datacenter fetches what the plan of an offered part names.
    pub(crate) fn note_fetch(&mut self, now: Time, from: NodeId, hash: BlobHash, offset: u64) {
        for (job, live) in &mut self.live {
            let Some(state) = self.state.jobs.get(job) else { continue };
            let waiting =
                live.parts.iter_mut().zip(&state.parts).filter(|(known, (target, end))| {
                    let leader = self.federation.get(&target.datacenter).and_then(|w| w.leader());
                    !known.is_accepted && end.is_none() && leader.is_some_and(|l| l.node == from)
                });
            for (known, _) in waiting {
                if hash != state.plan && !live.plan.blobs().contains(&hash) {
                    continue;
                }
                // One that asks for the same again and again does not hear the answers.
                let furthest = known.fetched.get(&hash);
                if furthest.is_none_or(|furthest| offset > *furthest) {
                    known.fetched.insert(hash, offset);
                    known.fetched_at = Some(now);
                }
            }
        }
    }

    fn end_part(&mut self, now: Time, part: PartId, end: PartEnd) {
        let (job, index) = (part.job, part.part);
        let Some(fence) = self.live.get(&job).map(Live::fence) else { return };
        let about = About::Job(Step::EndPart, job, u64::from(index.0));
        self.propose(now, about, &Entry::PartEnded { job, fence, part: index, end });
    }

    pub(crate) fn on_report(&mut self, now: Time, from: NodeId, report: PartReport) {
        let (part, fence) = (report.part, report.fence);
        self.stop_what_was_given_up(now, from, part);
        let Some(live) = self.live.get_mut(&part.job) else { return };
        let uncounted: Vec<AttemptId> = (report.inquire.iter().copied())
            .filter(|&attempt| live.statistics.inquire(attempt))
            .collect();
        for attempt in uncounted {
            let (through, iterations, until) = (DeltaSeq::NONE, 0, Duration::ZERO);
            let pressure = Pressure::None;
            self.send(from, Message::DeltaAck { attempt, through, iterations, until, pressure });
        }
        let elapsed = self.elapsed(now, part.job);
        // Where there are several, each tells of its own share.
        let Some(state) = self.state.jobs.get(&part.job) else { return };
        if state.is_moved(part.part) {
            return;
        }
        let target = state.parts.get(usize::from(part.part.0)).map(|(target, _)| target);
        let is_one_of_several = state.parts_kept().count() > 1;
        let place = target.filter(|_| is_one_of_several).map(|target| target.datacenter.clone());
        let Some(live) = self.live.get_mut(&part.job) else { return };
        let Some(known) = live.parts.get_mut(usize::from(part.part.0)) else { return };
        if (fence, report.seq) <= known.mark {
            if fence < known.mark.0 {
                let held = known.mark.0;
                self.event(Event::StaleFence { from, fence, held });
            }
            return;
        }
        known.mark = (fence, report.seq);
        known.is_accepted = true;
        let before = known.report.replace(report.clone());
        if before.as_ref().map(|before| before.steered) != Some(report.steered) {
            known.commanded_at = None; // There may be something newer.
        }
        if let Some(job) = report.job_time {
            // Each report is a little late, and none is early: the furthest is nearest.
            let known = live.job_time.map(|(at, known)| known + now.since(at));
            if known.is_none_or(|known| job > known) {
                live.job_time = Some((now, job));
            }
        }
        live.change_report(&report);
        let news = changes(&live.plan, before.as_ref(), &report);
        if news.iter().any(|(kind, _)| *kind == WORKFLOW_ENDED) {
            live.resend_all(); // Others may wait for it.
        }
        for (kind, text) in news {
            let text = match &place {
                Some(place) => format!("{place}: {text}"),
                None => text,
            };
            live.note(elapsed, kind, text);
        }
        if let Some(at) = report.started
            && self.state.jobs.get(&part.job).is_some_and(|job| job.started.is_none())
        {
            let (job, fence) = (part.job, live.fence);
            self.propose(
                now,
                About::Job(Step::Start, job, 0),
                &Entry::JobStarted { job, fence, part: part.part, at },
            );
        }
    }

    /// A datacenter that was out of reach may still run a part whose end is decided without it.
    fn stop_what_was_given_up(&mut self, now: Time, leader: NodeId, part: PartId) {
        if !self.takes_part() {
            return;
        }
        let Some(state) = self.state.jobs.get(&part.job) else {
            return self.seek(now, part, leader, Message::OrphanPart { part });
        };
        let end = state.parts.get(usize::from(part.part.0)).and_then(|(_, end)| end.as_ref());
        // Or holds a part that was moved before it answered.
        let is_given_up = end.is_some_and(|end| end.is_missing) || state.is_moved(part.part);
        if is_given_up {
            let (fence, reason, mode) = (state.fence, StopReason::TimedOut, StopMode::Now);
            self.send(leader, Message::StopPart { part, fence, reason, mode });
        }
    }

    /// A manager speaks of a part whose job this gate does not know. It may have been forgotten long
    /// ago; or this gate is new, or was away, and has not heard of it yet: then the answer, after
    /// which the manager forgets the part too, would lose a result. The ledger settles it.
    fn seek(&mut self, now: Time, part: PartId, manager: NodeId, answer: Message) {
        if self.takes_part() {
            self.sought.insert((part, manager), answer);
            let about = About::Sought(part.job);
            self.propose(now, about, &Entry::JobSought { job: part.job });
        }
    }

    /// This gate's own question about a job was decided.
    pub(crate) fn on_sought(&mut self, job: JobId) {
        let is_known = self.state.jobs.contains_key(&job);
        let answers: Vec<((PartId, NodeId), Message)> =
            self.sought.extract_if(.., |(part, _), _| part.job == job).collect();
        for ((_, manager), answer) in answers {
            if !is_known {
                self.send(manager, answer);
            }
        }
    }

    pub(crate) fn on_part_ended(&mut self, now: Time, from: NodeId, result: PartResult) {
        let part = result.report.part;
        let Some(state) = self.state.jobs.get(&part.job) else {
            return self.seek(now, part, from, Message::PartEndedAck { part });
        };
        if state.ended.is_some() {
            self.send(from, Message::PartEndedAck { part });
            return;
        }
        self.on_report(now, from, result.report.clone());
        let Some(live) = self.live_part(part) else { return };
        let since = live.told_end.as_ref().map_or(now, |(since, ..)| *since);
        live.told_end = Some((since, result, from));
    }

    pub(crate) fn on_delta(&mut self, from: NodeId, delta: Box<Delta>) {
        let id = delta.attempt.shard;
        if !self.may_tell_of(from, id.part_id()) {
            return;
        }
        let ended = (self.state.jobs.get(&id.job))
            .and_then(|job| job.parts.get(usize::from(id.part.0))?.1.as_ref());
        let is_beyond_end = ended.is_some_and(|end| {
            let last = end.attempts.iter().find(|(attempt, _)| *attempt == delta.attempt);
            last.is_none_or(|(_, last)| delta.seq > *last)
        });
        if let Some(live) = self.live.get_mut(&id.job)
            && !is_beyond_end
            && live.statistics.add(&delta)
        {
            live.changes.push(Change::Delta(delta));
        }
    }

    /// Whether a manager's figures of a part count. Those of a deposed leader do not: the next one
    /// says in an entry what of an attempt counts, from what it has asked of this gate.
    fn may_tell_of(&self, from: NodeId, part: PartId) -> bool {
        let index = usize::from(part.part.0);
        let target = self.state.jobs.get(&part.job).and_then(|job| job.parts.get(index));
        let known = target.and_then(|(target, _)| self.federation.get(&target.datacenter));
        let live = self.live.get(&part.job).and_then(|live| live.parts.get(index));
        match (known.and_then(|known| known.leader()), live) {
            (Some(leader), Some(live)) => leader.node == from && leader.fence >= live.mark.0,
            (Some(_) | None, _) => false,
        }
    }

    pub(super) fn review_part(&mut self, now: Time, part: PartId) {
        let Some(state) = self.state.jobs.get(&part.job) else { return };
        let Some((target, ended)) = state.parts.get(usize::from(part.part.0)) else { return };
        let is_ended = ended.is_some();
        let (fence, datacenter, slice) =
            (state.fence, target.datacenter.clone(), target.slice.clone());
        let rows = target.rows.clone();
        let end = state.parts.get(usize::from(part.part.0)).and_then(|(_, end)| end.as_ref());
        let lacks_statistics = end
            .zip(self.live.get(&part.job))
            .is_some_and(|(end, live)| !live.statistics.is_complete(&end.attempts));
        let (plan, window) = (state.plan, self.config.window);
        let stop = match (&state.cancel, &state.broken) {
            (Some((by, mode)), _) => Some((StopReason::Cancelled { by: by.clone() }, *mode)),
            (None, Some(expression)) => {
                let expression = expression.clone();
                Some((StopReason::Threshold { expression }, StopMode::Graceful))
            }
            (None, None) => {
                state.is_over_limit.then_some((StopReason::TimedOut, StopMode::Graceful))
            }
        };
        let stopped_workflows = state.stopped_workflows.clone();
        let steering = state.steering();
        let leader = self.leader_of(&datacenter);
        // Whoever is farther away hears of it later, and all are to start at once.
        let places = || state.parts.iter().filter(|(_, end)| end.is_none());
        let farthest = places().map(|(target, _)| self.way_to(&target.datacenter)).max();
        let way = self.way_to(&datacenter);
        let start_margin =
            self.config.start_margin + farthest.unwrap_or_default().saturating_sub(way);
        // There, to fetch the plan, and back again.
        let resend = self.config.resend + way * 4;
        let waits_from = state.waits_from;
        let since_accepted = self.since(now, waits_from);
        let (wait, dispatch_wait) = (self.config.part_wait, self.config.dispatch_wait);
        let is_starting = state.is_starting;
        let open: Vec<bool> = state.parts.iter().map(|(_, end)| end.is_none()).collect();
        let has_reported =
            |(_, end): &(_, Option<PartEnd>)| end.as_ref().is_some_and(PartEnd::has_reported);
        // What an earlier owner was told is in the ledger, and nowhere else.
        let reported: Vec<bool> = state.parts.iter().map(has_reported).collect();
        let moved: Vec<bool> =
            state.parts.iter().map(|(_, end)| end.as_ref().is_some_and(PartEnd::is_move)).collect();
        let elapsed = state.started.map(|_| self.elapsed(now, part.job));
        let wall = self.wall(now);
        let is_lost = self.is_lost(now, &datacenter);
        let is_shared = self.is_shared(part.job);
        let settled = self.settled(part);
        let sooner = self.sooner_elsewhere(now, part);
        let Some(live) = self.live.get_mut(&part.job) else { return };
        let run = live.plan.run.clone();
        let all_accepted =
            live.parts.iter().zip(&open).all(|(part, is_open)| part.is_accepted || !is_open);
        let secrets = live.secrets.clone();
        // A start that was asked for later moves everything with it.
        let ahead = Duration::from_millis(run.start_at.unwrap_or(0).saturating_sub(waits_from.0));
        let deadline = run.deadline + wait + ahead;
        let has_best_effort = run.best_effort.is_some_and(|effort| {
            let told = live.parts.iter().map(|part| part.told_end.is_some()).zip(&moved);
            let told = told.map(|(told, was_moved)| told && !was_moved);
            let reported = told.zip(&reported).filter(|(told, decided)| *told || **decided).count();
            let waited = elapsed.unwrap_or(since_accepted.saturating_sub(ahead));
            waited >= effort.deadline && reported >= usize::from(effort.min_datacenters)
        });
        let Some(known) = live.parts.get_mut(usize::from(part.part.0)) else { return };
        known.lost_since = known.lost_since.filter(|_| is_lost).or(is_lost.then_some(now));
        let is_lost_for_good = known.lost_since.is_some_and(|since| now >= since + wait);
        if let Some((_, result, _)) = &known.told_end {
            if !is_ended {
                let was_returned = matches!(result.status, EndStatus::Skipped { .. });
                let status = match &stop {
                    _ if !was_returned => result.status.clone(),
                    Some((reason, _)) => reason.end_status(),
                    None if since_accepted >= deadline => EndStatus::TimedOut,
                    None => return self.place_returned(now, part.job, part.part),
                };
                let end = PartEnd {
                    status,
                    is_missing: false,
                    was_returned: false,
                    gaps: result.report.gaps.clone(),
                    rows: result.report.rows.clone(),
                    late_requests: result.report.late_requests,
                    attempts: result.attempts.clone(),
                };
                self.end_part(now, part, end);
            }
            return;
        }
        if is_ended {
            // It ended while another gate owned the job, and that is where its datacenter sends what
            // is not counted yet.
            let is_due = known.commanded_at.is_none_or(|sent| now >= sent + resend);
            if let Some(leader) = leader.filter(|_| lacks_statistics && known.needs_offer && is_due)
            {
                known.commanded_at = Some(now);
                let offer =
                    PartOffer { part, fence, plan, slice, rows, is_shared, window, secrets };
                self.send(leader, Message::OfferPart(Box::new(offer)));
            }
            return;
        }
        if since_accepted >= deadline || is_lost_for_good || has_best_effort {
            let report = known.report.as_ref();
            let gaps = report.map(|report| report.gaps.clone()).unwrap_or_default();
            let reported = report.map(|report| report.rows.as_slice()).unwrap_or_default();
            let rows = if is_starting {
                rows_of_missing(&live.plan, &slice.within(&rows), reported)
            } else {
                Vec::new() // No part was told to start.
            };
            let end = PartEnd {
                status: EndStatus::TimedOut,
                is_missing: true,
                was_returned: false,
                gaps,
                rows,
                late_requests: 0,
                attempts: Vec::new(),
            };
            self.end_part(now, part, end);
            return;
        }
        let asked_since = *known.asked_since.get_or_insert(now);
        let is_promised = matches!(run.datacenters, Datacenters::Named(_));
        // Whoever is fetching what the plan names is not late, however far away it is.
        let heard_at = known.fetched_at.map_or(asked_since, |at| at.max(asked_since));
        if !known.is_accepted && !is_starting && !is_promised && now >= heard_at + dispatch_wait {
            known.asked_since = Some(now); // If there is no other, this one is asked on.
            self.move_part(now, part.job, part.part, &run);
            return;
        }
        if known.commanded_at.is_some_and(|sent| now < sent + resend) {
            return;
        }
        let Some(leader) = leader else { return };
        let has_started = known.report.as_ref().is_some_and(|report| report.started.is_some());
        let is_live = |workflow: &WorkflowIndex| {
            let report = known.report.as_ref();
            let state = report.and_then(|report| report.workflows.get(usize::from(workflow.0)));
            state.is_none_or(|workflow| !matches!(workflow.state, WorkflowState::Ended(_)))
        };
        let steered = known.report.as_ref().map_or(0, |report| report.steered);
        let mut messages = Vec::new();
        let mut spilled_to = None;
        if known.is_accepted && stop.is_none() && steered < steering.version {
            messages.push(Message::SteerPart { part, fence, steering });
        }
        messages.extend(settled.into_iter().map(|Settled { workflow, status, published }| {
            Message::SettleWorkflow { part, fence, workflow, status, published }
        }));
        if !known.is_accepted || known.needs_offer {
            let offer = PartOffer { part, fence, plan, slice, rows, is_shared, window, secrets };
            messages.push(Message::OfferPart(Box::new(offer)));
        }
        if !known.is_accepted {
            // Everything else needs a part that is there.
        } else if let Some((reason, mode)) = stop {
            messages.push(Message::StopPart { part, fence, reason, mode });
        } else if !has_started && all_accepted && !is_starting {
            let job = part.job;
            let entry = Entry::StartAsked { job, fence };
            if messages.is_empty() {
                self.propose(now, About::Job(Step::AskStart, job, 0), &entry);
                return;
            }
        } else if !has_started && all_accepted {
            let until = Duration::from_millis(run.start_at.unwrap_or(0).saturating_sub(wall.0));
            if until <= START_AHEAD {
                let start_in = start_margin.max(until);
                messages.push(Message::StartPart { part, fence, start_in });
            }
        } else if let Some(to) = sooner.filter(|_| messages.is_empty()) {
            let (reason, mode) = (StopReason::Returned, StopMode::Now);
            messages.push(Message::StopPart { part, fence, reason, mode });
            spilled_to = Some(to);
        } else {
            let stops = (stopped_workflows.into_iter())
                .filter(|(workflow, _)| is_live(workflow))
                .map(|(workflow, by)| Message::StopWorkflow { part, fence, workflow, by });
            messages.extend(stops);
        }
        if messages.is_empty() {
            return;
        }
        known.commanded_at = Some(now);
        if let Some(to) = spilled_to {
            self.on_spill(now, &to);
        }
        messages.into_iter().for_each(|message| self.send(leader, message));
    }

    /// A part has another datacenter, as a new part.
    pub(crate) fn on_part_moved(
        &mut self,
        now: Time,
        job: JobId,
        part: PartIndex,
        to: &DatacenterId,
        was_returned: bool,
    ) {
        let from = (self.state.jobs.get(&job))
            .and_then(|job| job.parts.get(usize::from(part.0)))
            .map_or_else(String::new, |(target, _)| target.datacenter.to_string());
        self.follow_parts(job);
        let text = match was_returned {
            true => format!("{from} has no cores for it yet, {to} is asked instead"),
            false => format!("{from} did not accept its part in time, {to} is asked instead"),
        };
        if self.live.contains_key(&job) {
            self.event(Event::PartMoved { job, to: to.clone() });
        }
        self.note(now, job, "part_moved", text);
    }

    pub(crate) fn on_part_end_decided(
        &mut self,
        now: Time,
        job: JobId,
        part: PartIndex,
        end: &PartEnd,
    ) {
        if let Some(live) = self.live.get_mut(&job) {
            live.statistics.close(&end.attempts);
        }
        let name = (self.state.jobs.get(&job))
            .and_then(|job| job.parts.get(usize::from(part.0)))
            .map_or_else(String::new, |(target, _)| target.datacenter.to_string());
        let text = format!("{name} ended its part: {}", end.status.as_str());
        self.note(now, job, "part_ended", text);
    }
}

/// What became of the unique rows of a part that nobody hears of any more: whatever it has not
/// reported as sent it may have sent.
fn rows_of_missing(plan: &Plan, draws: &Slice, reported: &[RowsUsed]) -> Vec<RowsUsed> {
    let mut owned: BTreeMap<DataIndex, u64> = BTreeMap::new();
    for index in 0..plan.workflows.len() {
        let index = WorkflowIndex(u16::try_from(index).unwrap_or(u16::MAX));
        for (source, rows) in UniqueRows::of(plan, index).ending(draws) {
            *owned.entry(source).or_default() += rows;
        }
    }
    let of_source = |(source, rows): (DataIndex, u64)| {
        let known = reported.iter().find(|used| used.source == source);
        let sent = known.map_or(0, |used| used.sent);
        RowsUsed { source, sent, possibly_sent: rows.saturating_sub(sent) }
    };
    owned.into_iter().map(of_source).collect()
}

/// What a report says that the one before did not.
fn changes(
    plan: &Plan,
    before: Option<&PartReport>,
    report: &PartReport,
) -> Vec<(&'static str, String)> {
    let mut news = Vec::new();
    for (index, workflow) in report.workflows.iter().enumerate() {
        let known = before.and_then(|before| before.workflows.get(index)).map(|w| &w.state);
        if known == Some(&workflow.state) {
            continue;
        }
        let name = plan.workflows.get(index).map_or("", |workflow| workflow.name.as_str());
        match &workflow.state {
            WorkflowState::Waiting | WorkflowState::Placed => {}
            WorkflowState::Ready => {
                let wait = report.wait.map(|wait| format!(", for about {} s", wait.as_secs()));
                let wait = wait.unwrap_or_default();
                news.push(("workflow_queued", format!("{name} waits for cores{wait}")));
            }
            // What is told of it is that it moves.
            WorkflowState::Ended(status) if *status == StopReason::Returned.end_status() => {}
            WorkflowState::Running => news.push(("workflow_started", format!("{name} started"))),
            WorkflowState::Ended(status) => {
                let cause = match status {
                    EndStatus::Failed { cause } => format!(": {cause}"),
                    EndStatus::Skipped { because } => format!(" because of {because}"),
                    EndStatus::Completed | EndStatus::Cancelled { .. } | EndStatus::TimedOut => {
                        String::new()
                    }
                };
                news.push((WORKFLOW_ENDED, format!("{name} {}{cause}", status.as_str())));
            }
        }
    }
    let known_gaps = before.map_or(0, |before| before.gaps.len());
    for gap in report.gaps.iter().skip(known_gaps) {
        let from = gap.from.as_secs_f64();
        news.push(("gap", format!("{} was lost, load is missing from +{from:.1} s", gap.worker)));
    }
    news
}

#[cfg(test)]
mod tests {
    use hyperscale_plan::expr::{Expr, Var};
    use hyperscale_plan::{DataSource, OnEnd, Pick};

    use super::*;

    #[test]
    fn dat_01_whatever_a_missing_part_owned_it_may_have_sent() {
        let mut plan = crate::tests::plan(vec![crate::tests::workflow("a")]);
        plan.data = vec![DataSource {
            name: "users".to_owned(),
            blob: hyperscale_model::BlobHash([0; 32]),
            rows: 1_000,
            columns: None,
            pick: Pick::Unique,
            on_end: OnEnd::Stop,
        }];
        let source = DataIndex(0);
        plan.workflows[0].steps = vec![hyperscale_plan::Step {
            when: Some(Expr::Var(Var::Row(source))),
            action: hyperscale_plan::Action::Pause(hyperscale_plan::Pause::Constant(
                Duration::ZERO,
            )),
        }];
        let half = &Slice::whole().split_evenly(2)[1];

        let silent = rows_of_missing(&plan, half, &[]);
        let reported =
            rows_of_missing(&plan, half, &[RowsUsed { source, sent: 100, possibly_sent: 3 }]);

        assert_eq!(silent, [RowsUsed { source, sent: 0, possibly_sent: 500 }]);
        assert_eq!(reported, [RowsUsed { source, sent: 100, possibly_sent: 400 }]);
    }
}
