//! Steering a job as it runs: pausing it, resuming it, scaling its workflows.
//!
//! Any gate may propose a change, made of the newest version that it knows. The entry fits only onto
//! that version: of two changes that cross one is decided, and the other is proposed again on top of
//! it, so that each takes effect once and the newest decided value is the same for all. The job's
//! owner tells each datacenter all of it until the datacenter's reports have the version.

use hyperscale_model::{JobId, Time, WallTime, WorkflowIndex};
use hyperscale_plan::{Amount, Plan};
use serde::{Deserialize, Serialize};

use crate::request::{RequestErrorKind, RequestId};
use crate::state::{Applied, Entry, Job};
use crate::{About, Gate, Step};

/// How often a job may be steered: its changes are kept, and travel as a whole.
pub(crate) const STEERS_MAX: usize = 1_000;

/// A change of how a job is steered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steer {
    /// Who asked for it.
    pub by: String,
    /// When.
    pub at: WallTime,
    /// Whether its loads stand still from now on; as before if absent.
    pub pause: Option<bool>,
    /// Workflows of which another amount is sent from now on.
    pub amounts: Vec<(WorkflowIndex, Amount)>,
}

impl Steer {
    /// What it does, in words.
    pub(crate) fn in_words(&self, plan: &Plan) -> String {
        let pause =
            self.pause.map(|pause| if pause { "paused the load" } else { "resumed the load" });
        let scaled = self.amounts.iter().map(|(workflow, amount)| {
            let name = plan.workflow(*workflow).map_or("?", |workflow| workflow.name.as_str());
            format!("scaled {name} to {amount}")
        });
        let all: Vec<String> = pause.map(str::to_owned).into_iter().chain(scaled).collect();
        format!("{} {}", self.by, all.join(", "))
    }

    /// The kind of the event that tells of it.
    pub(crate) const fn kind(&self) -> &'static str {
        match self.pause {
            Some(true) => "paused",
            Some(false) => "resumed",
            None => "scaled",
        }
    }
}

/// Someone waits for a change to be decided.
#[derive(Debug)]
pub(crate) struct WaitingSteer {
    pub(crate) id: RequestId,
    job: JobId,
    steer: Steer,
    /// The version onto which it was proposed last.
    base: Option<u64>,
    since: Time,
}

impl Gate {
    /// Has a change decided, if it makes sense.
    pub(crate) fn steer(
        &mut self,
        now: Time,
        id: RequestId,
        by: &str,
        job: JobId,
        pause: Option<bool>,
        scale: &[(String, String)],
    ) {
        let Some(state) = self.state.jobs.get(&job) else {
            self.reply_error(id, RequestErrorKind::NotFound, "there is no such job here");
            return;
        };
        if let Err((kind, message)) = why_not(state) {
            return self.reply_error(id, kind, &message);
        }
        if let Some(message) = self.why_not_ready() {
            return self.reply_error(id, RequestErrorKind::NotReady, &message);
        }
        let plan = self.blobs.get(state.plan).and_then(|bytes| Plan::from_bytes(bytes).ok());
        let Some(plan) = plan else {
            let message = "the test is still on its way to this gate; try again";
            return self.reply_error(id, RequestErrorKind::NotReady, message);
        };
        let mut amounts = Vec::new();
        for (name, text) in scale {
            match amount(&plan, name, text) {
                Ok(amount) => amounts.push(amount),
                Err((kind, message)) => return self.reply_error(id, kind, &message),
            }
        }
        let steer = Steer { by: by.to_owned(), at: self.wall(now), pause, amounts };
        self.steers.push(WaitingSteer { id, job, steer, base: None, since: now });
        self.review_steers(now);
    }

    /// Proposes changes that wait for it, and gives up what has waited too long.
    pub(crate) fn review_steers(&mut self, now: Time) {
        let mut waiting = std::mem::take(&mut self.steers);
        for asked in &mut waiting {
            let Some(state) = self.state.jobs.get(&asked.job) else { continue };
            let (job, base, steer) = (asked.job, state.steering_version(), asked.steer.clone());
            asked.base = Some(base);
            let about = About::Job(Step::Steer, job, base);
            self.propose(now, about, &Entry::Steered { job, base, steer });
        }
        let wait = self.config.decision_wait;
        for asked in waiting {
            if now >= asked.since + wait {
                let why = "the gates have not decided in time; try again";
                self.reply_error(asked.id, RequestErrorKind::NotReady, why);
            } else {
                self.steers.push(asked);
            }
        }
    }

    /// A change was decided: whoever asked for it is told how the job is.
    pub(crate) fn on_steered(&mut self, now: Time, entry: &Entry, applied: Applied) {
        let Entry::Steered { job, base, steer } = entry else { return };
        if applied == Applied::Changed {
            self.steer_parts(now, *job);
            let (done, waiting) = std::mem::take(&mut self.steers).into_iter().partition(|asked| {
                asked.job == *job && asked.base == Some(*base) && asked.steer == *steer
            });
            self.steers = waiting;
            let done: Vec<WaitingSteer> = done;
            done.into_iter().for_each(|asked| self.reply_job(asked.id, *job));
        }
    }

    /// A snapshot does not tell which of the changes that wait were decided; another try could bring
    /// one back that was overruled since.
    pub(crate) fn forget_steers(&mut self) {
        for asked in std::mem::take(&mut self.steers) {
            let why =
                "this gate was behind, and does not know what was decided; look and try again";
            self.reply_error(asked.id, RequestErrorKind::NotReady, why);
        }
    }

    /// The job is over or stops: nobody shall wait for a change of it.
    pub(crate) fn fail_steers(&mut self, job: JobId) {
        let why = match self.state.jobs.get(&job).map(why_not) {
            Some(Ok(())) => return,
            Some(Err(why)) => why,
            None => (RequestErrorKind::NotFound, "there is no such job here".to_owned()),
        };
        let (failed, waiting) =
            std::mem::take(&mut self.steers).into_iter().partition(|asked| asked.job == job);
        self.steers = waiting;
        let failed: Vec<WaitingSteer> = failed;
        failed.into_iter().for_each(|asked| self.reply_error(asked.id, why.0, &why.1));
    }
}

/// Why a job takes no steering, if so.
fn why_not(job: &Job) -> Result<(), (RequestErrorKind, String)> {
    let message = if let Some(end) = &job.ended {
        format!("the job has ended: {}", end.status.as_str())
    } else if job.is_stopping() {
        "the job is stopping".to_owned()
    } else if job.steers.len() >= STEERS_MAX {
        format!("the job was steered {STEERS_MAX} times, which is as often as one may be")
    } else {
        return Ok(());
    };
    Err((RequestErrorKind::CannotSteer, message))
}

/// What is asked of a workflow, by name.
fn amount(
    plan: &Plan,
    name: &str,
    text: &str,
) -> Result<(WorkflowIndex, Amount), (RequestErrorKind, String)> {
    let known = plan.workflows.iter().zip(0..).find(|(workflow, _)| workflow.name == name);
    let Some((workflow, index)) = known else {
        let names: Vec<&str> = plan.workflows.iter().map(|w| w.name.as_str()).collect();
        let message = format!("the job has no workflow `{name}`; it has {}", names.join(", "));
        return Err((RequestErrorKind::NotFound, message));
    };
    match Amount::parse(text, &workflow.load) {
        Ok(amount) => Ok((WorkflowIndex(index), amount)),
        Err(error) => {
            let message = format!("workflow `{name}` cannot be scaled so: {error}");
            Err((RequestErrorKind::CannotSteer, message))
        }
    }
}
