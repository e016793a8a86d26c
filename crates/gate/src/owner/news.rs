//! What those hear who watch a job.

use std::time::Duration;

use hyperscale_model::{JobId, Time, WorkflowIndex};
use hyperscale_report::{Latency, LiveView, ScaleView};
use hyperscale_stats::Histogram;
use hyperscale_wire::WorkflowState;

use super::{RECENT_WINDOWS, millis};
use crate::Gate;
use crate::request::{Asker, News};

impl Gate {
    /// Answers with what happened to a job after an event, as soon as something did. False if this
    /// gate has not taken the job up.
    pub(crate) fn watch(&mut self, now: Time, asker: Asker, job: JobId, after: u64) -> bool {
        let is_over = self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some());
        let Some(live) = self.live.get_mut(&job) else { return false };
        live.watchers.push((asker, after));
        if live.last_event > after || is_over {
            live.next_push = now;
            self.push(now, job);
        }
        true
    }

    /// Tells watchers how the job is.
    pub(super) fn push(&mut self, now: Time, job: JobId) {
        let Some(live) = self.live.get_mut(&job) else { return };
        if now < live.next_push || live.watchers.is_empty() {
            return;
        }
        live.next_push = now + self.config.push;
        let watchers = std::mem::take(&mut live.watchers);
        if self.is_cut_off(now, job) {
            return watchers.into_iter().for_each(|(asker, _)| self.answer_cut_off(asker));
        }
        let view = self.live_view(now, job);
        let is_over = self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some());
        let Some(live) = self.live.get(&job) else { return };
        let told: Vec<(Asker, News)> = (watchers.into_iter())
            .map(|(asker, after)| {
                let events = live.events.iter().filter(|event| event.id > after).cloned();
                let view = view.clone().map(Box::new);
                (asker, News { events: events.collect(), view, is_over })
            })
            .collect();
        told.into_iter().for_each(|(asker, news)| self.tell(asker, Ok(news)));
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
    fn live_view(&self, now: Time, job: JobId) -> Option<LiveView> {
        let state = self.state.jobs.get(&job)?;
        let live = self.live.get(&job)?;
        let elapsed = self.elapsed(now, job);
        let (statistics, plan) = (&live.statistics, &live.plan);
        let merged = statistics.merged();
        let mut latency = Histogram::new();
        merged.steps.iter().for_each(|(_, step)| latency.merge_dense(&step.latency));
        let second = Duration::from_secs(1);
        let newest = statistics.series().newest();
        let last = statistics.series().between(newest.saturating_sub(second), newest);
        let seconds = second.min(newest).as_secs_f64().max(1e-3);
        let from = newest.saturating_sub(self.config.window * 60);
        let recent = statistics.series().recent(from, newest).map(|(_, point)| {
            let mut latency = Histogram::new();
            point.figures.steps.iter().for_each(|(_, step)| latency.merge(&step.latency));
            let outcomes = point.figures.outcomes();
            (outcomes.total(), outcomes.failed(), Latency::of(&latency).p95)
        });
        let mut recent: Vec<(u64, u64, f64)> = recent.rev().take(RECENT_WINDOWS).collect();
        recent.reverse();
        let busiest = statistics
            .series()
            .recent(newest.saturating_sub(second), newest)
            .map(|(_, point)| point.busiest_core)
            .max()
            .unwrap_or(0);
        let reports = || live.parts.iter().map(|part| part.report.as_ref());
        let steering = state.steering();
        // Datacenters pause a few milliseconds apart: for showing, any of them will do.
        let pauses = reports().flatten().next().map(|report| report.pauses.clone());
        let pauses = pauses.unwrap_or_default();
        let workflows = plan.workflows.iter().enumerate().map(|(index, workflow)| {
            let state = reports().flatten().find_map(|report| report.workflows.get(index));
            (
                workflow.name.clone(),
                state.map_or("waiting", |s| state_in_a_word(&s.state)).to_owned(),
            )
        });
        let planned_rate = plan.workflows.iter().enumerate().filter_map(|(index, workflow)| {
            let started =
                reports().flatten().find_map(|report| report.workflows.get(index)?.started)?;
            let index = WorkflowIndex(u16::try_from(index).unwrap_or(u16::MAX));
            let share = steering.amounts.get(&index).map_or(1.0, |amount| amount.share());
            let share = if steering.is_paused { 0.0 } else { share };
            Some(workflow.load.arrivals()?.rate_at(pauses.load_time(started, elapsed)) * share)
        });
        // Where a workflow runs in several datacenters, the last decides.
        let expected_end = plan.expected_end(|index| {
            let all = || reports().flatten().filter_map(|report| report.workflows.get(index));
            let is_over = all().all(|workflow| workflow.ended.is_some());
            let ended = all().filter_map(|workflow| workflow.ended).max();
            let started = all().filter_map(|workflow| workflow.started).max();
            let started = started.map(|started| started + pauses.between(started, elapsed));
            (started, ended.filter(|_| is_over))
        });
        let outcomes = merged.outcomes();
        Some(LiveView {
            job,
            name: state.name.clone(),
            state: self.job_state(job, state),
            elapsed_ms: millis(elapsed),
            planned_ms: expected_end.map(millis),
            planned_iterations: (plan.workflows.iter())
                .map(|workflow| workflow.load.iterations())
                .try_fold(0u64, |sum, iterations| sum.checked_add(iterations?)),
            workflows: workflows.collect(),
            vus: statistics.vus(elapsed),
            vus_max: plan.workflows.iter().map(|workflow| workflow.load.vus_max()).sum(),
            planned_rate: planned_rate.fold(0.0, |sum, rate| sum + rate), // The sum of nothing is -0.
            request_rate: last.requests() as f64 / seconds,
            iteration_rate: last.iterations as f64 / seconds,
            requests: outcomes.total(),
            failed: outcomes.failed(),
            iterations: merged.iterations,
            dropped: merged.dropped,
            latency_us: Latency::of(&latency),
            recent,
            steps: statistics.live_steps(plan, &merged),
            thresholds: live.thresholds.clone(),
            gaps: live
                .gaps(state)
                .iter()
                .map(|gap| hyperscale_report::gap_view(plan, gap))
                .collect(),
            rows: hyperscale_report::rows_views(plan, &live.rows(state)),
            datacenters: (state.parts_kept().map(|part| usize::from(part.0)))
                .filter_map(|part| Some((state.parts.get(part)?, live.report(part))))
                .map(|((target, _), report)| {
                    let (workers, cores) = report.map_or((0, 0), |r| (r.workers, r.cores));
                    (target.datacenter.to_string(), workers, cores)
                })
                .collect(),
            lag_p99_us: Latency::of(&merged.lag).p99,
            busy_share: f64::from(busiest) / 1e3,
            examples: statistics.live_examples(plan),
            paused: steering.is_paused,
            scales: (plan.workflows.iter().zip(0..))
                .map(|(workflow, index)| {
                    let amount = steering.amounts.get(&WorkflowIndex(index)).copied();
                    ScaleView::of(workflow, amount)
                })
                .collect(),
        })
    }
}

const fn state_in_a_word(state: &WorkflowState) -> &'static str {
    match state {
        WorkflowState::Waiting => "waiting",
        WorkflowState::Ready => "waits for cores",
        WorkflowState::Placed => "prepares",
        WorkflowState::Running => "running",
        WorkflowState::Ended(status) => status.as_str(),
    }
}
