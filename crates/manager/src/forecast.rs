//! When parts that wait for cores will get some: by the plans' durations, played over the cores that
//! come free.
//!
//! Nothing is promised: a load may end earlier, a worker may come or be lost. What is known now is
//! played forward with the very rule that gives cores away ([`place`]), so that a part which is told
//! its wait gets its cores then unless something happens in between.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{NodeId, PartId};
use hyperscale_plan::{Plan, Slice};

use crate::placement::{Candidate, Wish, has_work, place};

/// A part that is not over.
#[derive(Debug, Clone)]
pub(crate) struct Ahead<'a> {
    pub(crate) part: PartId,
    pub(crate) plan: &'a Plan,
    pub(crate) slice: &'a Slice,
    /// The job's time now.
    pub(crate) elapsed: Duration,
    /// Its workflows, in the plan's order.
    pub(crate) stages: Vec<Stage>,
    /// Whether it is asked how long it waits.
    pub(crate) is_asked: bool,
}

/// Where a workflow stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for others, or for cores.
    Waits,
    /// It has cores of these workers.
    Holds {
        cores: Vec<(NodeId, u32)>,
        /// The job's time at which it gives them back; `None` if nobody knows.
        until: Option<Duration>,
    },
    /// It is over since that time of the job.
    Over(Duration),
}

/// So many times at which something ends are looked at.
const STEPS_MAX: usize = 64;

/// How long each part that is asked for will wait until something of it gets cores: at least so long,
/// if that is very far ahead; nothing is said of those for which nobody knows. From the start of a
/// workflow's placement to that of its load `margin` goes by.
pub(crate) fn waits(
    candidates: &[Candidate],
    mut parts: Vec<Ahead<'_>>,
    margin: Duration,
) -> BTreeMap<PartId, Duration> {
    // In the order in which cores are given away.
    parts.sort_by_key(|part| (Reverse(part.plan.run.priority), part.part));
    let mut free = candidates.to_vec();
    free.sort_by_key(|candidate| candidate.worker);
    let mut waits = BTreeMap::new();
    let mut at = Duration::ZERO;
    for _ in 0..STEPS_MAX {
        for part in &mut parts {
            part.release(at, &mut free);
            part.skip_idle(at);
        }
        for Given { part, workflow, cores } in placed(&parts, at, &free) {
            for &(worker, taken) in &cores {
                if let Some(known) = find(&mut free, worker) {
                    known.free = known.free.saturating_sub(taken);
                }
            }
            let part = &mut parts[part];
            if part.is_asked {
                waits.entry(part.part).or_insert(at);
            }
            let load = &part.plan.workflows[workflow].load;
            let until = Some(part.elapsed + at + margin + load.duration());
            part.stages[workflow] = Stage::Holds { cores, until };
        }
        let is_answered = |part: &Ahead<'_>| waits.contains_key(&part.part) || !part.waits(at);
        if parts.iter().filter(|part| part.is_asked).all(is_answered) {
            return waits;
        }
        match parts.iter().filter_map(|part| part.next_event(at)).min() {
            Some(next) => at = next,
            None => return waits,
        }
    }
    for part in parts.iter().filter(|part| part.is_asked && part.waits(at)) {
        waits.entry(part.part).or_insert(at);
    }
    waits
}

/// The worker among those that are there, which are sorted.
fn find(free: &mut [Candidate], worker: NodeId) -> Option<&mut Candidate> {
    let place = free.binary_search_by_key(&worker, |candidate| candidate.worker).ok()?;
    free.get_mut(place)
}

/// Cores that a workflow gets.
#[derive(Debug)]
struct Given {
    /// The place of its part among the parts.
    part: usize,
    /// Its place in the plan.
    workflow: usize,
    cores: Vec<(NodeId, u32)>,
}

/// What gets cores now.
fn placed(parts: &[Ahead<'_>], at: Duration, free: &[Candidate]) -> Vec<Given> {
    if free.iter().all(|candidate| candidate.free == 0) {
        return Vec::new();
    }
    let of_part = |(index, part): (usize, &Ahead<'_>)| {
        (0..part.stages.len())
            .filter(|&workflow| part.ready_at(workflow).is_some_and(|ready| ready <= at))
            .map(|workflow| (index, workflow))
            .collect::<Vec<_>>()
    };
    let open = parts.iter().enumerate().filter(|(_, part)| part.waits(at));
    let ready: Vec<(usize, usize)> = open.flat_map(of_part).collect();
    let wishes: Vec<Wish<'_>> = (ready.iter())
        .map(|&(part, workflow)| {
            let planned = &parts[part].plan.workflows[workflow];
            Wish { load: &planned.load, cores: planned.cores, slice: parts[part].slice }
        })
        .collect();
    (ready.into_iter().zip(place(&wishes, free)))
        .filter_map(|((part, workflow), placed)| {
            let cores = placed?.iter().map(|shard| (shard.worker, shard.cores)).collect();
            Some(Given { part, workflow, cores })
        })
        .collect()
}

impl Ahead<'_> {
    /// Whether it is still there at a time from now: at its deadline it stops.
    fn waits(&self, at: Duration) -> bool {
        self.elapsed + at < self.plan.run.deadline
    }

    /// The cores of what is over by then come free.
    fn release(&mut self, at: Duration, free: &mut [Candidate]) {
        let time = self.elapsed + at;
        let deadline = self.plan.run.deadline;
        for stage in &mut self.stages {
            let Stage::Holds { cores, until } = stage else { continue };
            let until = until.unwrap_or(deadline).min(deadline);
            if until > time {
                continue;
            }
            for (worker, cores) in std::mem::take(cores) {
                if let Some(known) = find(free, worker) {
                    known.free += cores;
                }
            }
            *stage = Stage::Over(time);
        }
    }

    /// What has nothing to do in this datacenter is over without cores.
    fn skip_idle(&mut self, at: Duration) {
        for workflow in 0..self.stages.len() {
            let is_idle = !has_work(&self.plan.workflows[workflow].load, self.slice);
            if is_idle && self.ready_at(workflow).is_some_and(|ready| ready <= at) {
                self.stages[workflow] = Stage::Over(self.elapsed + at);
            }
        }
    }

    /// From when on, counted from now, a workflow that waits needs nothing but cores; `None` if it
    /// does not wait, or waits for one that is not over.
    fn ready_at(&self, workflow: usize) -> Option<Duration> {
        if self.stages.get(workflow) != Some(&Stage::Waits) {
            return None;
        }
        let planned = self.plan.workflows.get(workflow)?;
        let mut ready = Duration::ZERO;
        for needed in &planned.after.workflows {
            match self.stages.get(usize::from(needed.0))? {
                Stage::Over(at) => ready = ready.max(*at),
                Stage::Waits | Stage::Holds { .. } => return None,
            }
        }
        Some((ready + planned.start_after).saturating_sub(self.elapsed))
    }

    /// When something of it ends or becomes ready next.
    fn next_event(&self, at: Duration) -> Option<Duration> {
        let deadline = self.plan.run.deadline.saturating_sub(self.elapsed);
        let of_stage = |(workflow, stage): (usize, &Stage)| match stage {
            Stage::Holds { until, .. } => {
                let until = until.map(|until| until.saturating_sub(self.elapsed));
                Some(until.unwrap_or(deadline).min(deadline))
            }
            Stage::Waits => self.ready_at(workflow),
            Stage::Over(_) => None,
        };
        let events = self.stages.iter().enumerate().filter_map(of_stage);
        events.filter(|&event| event > at).min()
    }
}

#[cfg(test)]
mod tests;
