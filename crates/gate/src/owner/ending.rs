//! How a job ends: thresholds, the limit of its time, completion, and how long its result is kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{EndStatus, JobId, PartId, PartIndex, Time, Verdict};
use hyperscale_report::{JobResult, SeriesPoint, Summary, SummaryInput};
use hyperscale_wire::{Gap, Message, RowsUsed, decode_value};

use super::{Ending, Live, millis};
use crate::copies::as_blob;
use crate::peers::Spread;
use crate::state::{Entry, Job, PartEnd};
use crate::statistics::threshold_view;
use crate::{About, Gate, Output, Step};

impl Gate {
    /// The leader of the ledger has jobs forgotten whose retention is over.
    pub(super) fn forget_old_jobs(&mut self, now: Time) {
        if !self.leads {
            return;
        }
        let is_old = |job: &Job| {
            let end = job.ended.as_ref();
            end.is_some_and(|end| self.since(now, end.at) >= self.config.retention)
        };
        let old: Vec<JobId> =
            self.state.jobs.iter().filter(|(_, job)| is_old(job)).map(|(&job, _)| job).collect();
        for job in old {
            self.propose(now, About::Job(Step::Forget, job, 0), &Entry::JobForgotten { job });
        }
    }

    /// Results of ended jobs go where the driver keeps them.
    pub(crate) fn keep_results(&mut self) {
        let ended = self.state.jobs.iter().filter(|(job, _)| !self.stored.contains(job));
        let ended = ended.filter_map(|(&job, state)| Some((job, state.ended.as_ref()?.result)));
        let due: Vec<(JobId, Arc<[u8]>)> = ended
            .filter_map(|(job, result)| Some((job, Arc::clone(self.blobs.get(result)?))))
            .collect();
        for (job, bytes) in due {
            self.stored.insert(job);
            match decode_value::<JobResult>(&bytes) {
                Ok(result) => {
                    let result = Arc::new(result);
                    self.results.insert(job, Arc::clone(&result));
                    self.outputs.push(Output::StoreResult { result });
                }
                Err(error) => self.malformed("result", &error),
            }
        }
    }

    pub(super) fn judge(&mut self, now: Time, job: JobId) {
        let elapsed = self.elapsed(now, job);
        let Some(state) = self.state.jobs.get(&job).filter(|job| job.started.is_some()) else {
            return;
        };
        let names: Vec<String> =
            state.parts.iter().map(|(target, _)| target.datacenter.to_string()).collect();
        let is_stopping = state.is_stopping();
        let every = self.config.judge;
        let Some(live) = self.live.get_mut(&job) else { return };
        if now < live.next_judge || live.plan.thresholds.is_empty() {
            return;
        }
        live.next_judge = now + every;
        let broken = live.judge(&names, elapsed, false);
        if let Some(expression) = broken.filter(|_| !is_stopping) {
            let fence = live.fence;
            let entry = Entry::ThresholdBroken { job, fence, expression };
            self.propose(now, About::Job(Step::Break, job, 0), &entry);
        }
    }

    /// Stops what still runs once the job's time is over in one of its datacenters. Each leader
    /// watches over its own part, so one alone needs no gate; of several, one may have started
    /// late, or be stuck.
    pub(super) fn watch_limit(&mut self, now: Time, job: JobId) {
        let Some(state) = self.state.jobs.get(&job).filter(|job| job.started.is_some()) else {
            return;
        };
        let Some(live) = self.live.get(&job) else { return };
        let is_open = |end: &&Option<PartEnd>| end.is_none();
        let ends = || state.parts.iter().map(|(_, end)| end);
        if state.is_stopping() || state.parts_kept().count() < 2 || !ends().any(|end| is_open(&end))
        {
            return;
        }
        let told = live.parts.iter().filter_map(|part| part.told_end.as_ref());
        let has_timed_out = told.into_iter().any(|(_, end, _)| end.status == EndStatus::TimedOut)
            || ends().flatten().any(|end| !end.is_missing && end.status == EndStatus::TimedOut);
        let limit = live.plan.run.deadline + self.config.limit_grace;
        if has_timed_out || self.elapsed(now, job) >= limit {
            let fence = live.fence;
            let entry = Entry::LimitReached { job, fence };
            self.propose(now, About::Job(Step::Limit, job, 0), &entry);
        }
    }

    /// Ends the job once every part has ended and all statistics are in, or their wait is over.
    pub(super) fn complete(&mut self, now: Time, job: JobId) {
        let Some(state) = self.state.jobs.get(&job) else { return };
        if state.parts.iter().any(|(_, end)| end.is_none()) {
            return;
        }
        if self.live.get(&job).is_some_and(|live| live.ending.is_some()) {
            return self.propose_end(now, job);
        }
        let elapsed = self.elapsed(now, job);
        let Some(live) = self.live.get(&job) else { return };
        let mut is_incomplete = false;
        for (known, (_, end)) in live.parts.iter().zip(&state.parts) {
            let Some(end) = end else { return };
            if live.statistics.is_complete(&end.attempts) {
                continue;
            }
            // After a restart the end is known from the ledger, and the wait starts anew.
            let since = known.told_end.as_ref().map(|(since, ..)| *since);
            let waited = now - since.unwrap_or(live.owned_since);
            if waited < self.config.statistics_wait {
                return;
            }
            is_incomplete = true;
        }
        let ends = || state.parts.iter().filter_map(|(_, end)| end.as_ref());
        // Best effort: those that have reported decide, if they are enough.
        let reported = ends().filter(|end| end.has_reported()).count();
        let is_enough = (live.plan.run.best_effort)
            .is_some_and(|effort| reported >= usize::from(effort.min_datacenters.max(1)));
        let deciding = ends().filter(|end| !(is_enough && end.is_missing));
        let status = EndStatus::combine(deciding.map(|end| &end.status));
        let is_partial = is_incomplete || ends().any(|end| end.is_missing || !end.gaps.is_empty());
        let names: Vec<String> =
            state.parts.iter().map(|(target, _)| target.datacenter.to_string()).collect();
        let (started, at) = (state.started, self.wall(now));
        let late_requests = ends().map(|end| end.late_requests).sum();
        let gaps: Vec<Gap> = ends().flat_map(|end| end.gaps.clone()).collect();
        let rows: Vec<RowsUsed> = ends().flat_map(|end| end.rows.clone()).collect();
        let Some(live) = self.live.get_mut(&job) else { return };
        let length = live.load_time().unwrap_or(elapsed);
        live.judge(&names, length, true);
        let verdict = match live.thresholds.iter().all(|threshold| threshold.passed) {
            _ if live.thresholds.is_empty() || started.is_none() => Verdict::NotJudged,
            true => Verdict::Passed,
            false => Verdict::Broken,
        };
        live.note(elapsed, "ended", format!("the job ended: {}", status.as_str()));
        let input = SummaryInput {
            job,
            plan: &live.plan,
            status: &status,
            verdict,
            thresholds: &live.thresholds,
            gaps: &gaps,
            rows: &rows,
            late_requests,
            is_incomplete: is_partial,
            duration: length,
            figures: &live.statistics.merged(),
            busiest_core: live.statistics.busiest_core(),
            busy_time_share: live.statistics.busy_time_share(),
        };
        let workflow_starts_ms = (0..live.plan.workflows.len())
            .map(|index| {
                let reports = live.parts.iter().filter_map(|part| part.report.as_ref());
                let started = reports.filter_map(|report| report.workflows.get(index)?.started);
                started.min().map(millis)
            })
            .collect();
        let result = JobResult {
            workflow_starts_ms,
            summary: Summary::build(input),
            plan: live.plan.as_ref().clone(),
            started,
            series: SeriesPoint::all(live.statistics.series()),
            exchanges: live.statistics.exchanges().to_vec(),
            events: live.events.iter().cloned().collect(),
        };
        let (partial, fence) = (is_partial, live.fence);
        let (hash, bytes) = match as_blob(&result) {
            Ok(blob) => blob,
            Err(error) => return self.malformed("result", &error),
        };
        let entry = Entry::JobEnded { job, fence, result: hash, status, verdict, partial, at };
        live.ending = Some(Ending { entry, spread: Spread::new(BTreeSet::from([hash])) });
        self.blobs.insert(Arc::clone(&bytes));
        self.outputs.push(Output::StoreBlob { hash, bytes });
        self.propose_end(now, job);
    }

    /// Ends a job once a majority of gates holds its result.
    fn propose_end(&mut self, now: Time, job: JobId) {
        let ending = self.live.get_mut(&job).and_then(|live| live.ending.take());
        let Some(mut ending) = ending else { return };
        if self.is_spread(now, &mut ending.spread) {
            self.propose(now, About::Job(Step::End, job, 0), &ending.entry);
        }
        if let Some(live) = self.live.get_mut(&job) {
            live.ending = Some(ending);
        }
    }

    pub(crate) fn on_job_end_decided(&mut self, now: Time, job: JobId) {
        let mut told = Vec::new();
        if let Some(live) = self.live.get_mut(&job) {
            live.next_push = now;
            for (known, index) in live.parts.iter().zip(0..) {
                if let Some((.., manager)) = &known.told_end {
                    told.push((*manager, PartId { job, part: PartIndex(index) }));
                }
            }
        }
        for (manager, part) in told {
            self.send(manager, Message::PartEndedAck { part });
        }
        self.forget_copies(job);
        self.keep_results();
    }
}

impl Live {
    /// Judges all thresholds; returns one that must stop the job.
    fn judge(&mut self, names: &[String], elapsed: Duration, is_final: bool) -> Option<String> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut stops = None;
        let mut views = Vec::with_capacity(self.plan.thresholds.len());
        let mut news = Vec::new();
        for (threshold, broken_since) in self.plan.thresholds.iter().zip(&mut self.broken_since) {
            let judged = self.statistics.judge(threshold, &self.plan, &names, elapsed, is_final);
            let counts = is_final || (elapsed >= threshold.after && !judged.is_tentative);
            let is_broken = !judged.holds && counts;
            if is_broken && broken_since.is_none() {
                *broken_since = Some(elapsed);
                news.push(format!("threshold `{}` is broken", threshold.expression));
            } else if !is_broken {
                *broken_since = None;
            }
            // At the end the time is that of the load, which may lie before the last judgement.
            let lasts = broken_since.map_or(Duration::ZERO, |since| elapsed.saturating_sub(since));
            if is_broken && threshold.abort && lasts >= threshold.for_at_least {
                stops.get_or_insert_with(|| threshold.expression.clone());
            }
            let mut view = threshold_view(threshold, &judged, *broken_since);
            view.passed |= !counts;
            views.push(view);
        }
        self.thresholds = views;
        for text in news {
            self.note(elapsed, "threshold", text);
        }
        stops
    }

    /// From the job's start to the end of its last workflow, as the datacenters report it.
    fn load_time(&self) -> Option<Duration> {
        (self.parts.iter().filter_map(|part| part.report.as_ref()))
            .flat_map(|report| &report.workflows)
            .filter_map(|workflow| workflow.ended)
            .max()
    }
}
