//! Commands about jobs of a gate that runs elsewhere.

use std::io::Write as _;
use std::time::Duration;

use hyperscale_gate::{JobView, NodeView};
use hyperscale_model::{JobId, JobState, WallTime};
use hyperscale_report::JobResult;
use hyperscale_web::{Cancellation, Steering};
use hyperscale_wire::NodeState;
use serde::Serialize;

use crate::api::{Api, ApiError};
use crate::args::{
    CancelArgs, GateArgs, JobArgs, JobsArgs, JobsCommand, ListArgs, OutputArgs, ScaleArgs,
    SubmitArgs, WatchArgs,
};
use crate::exit::{Exit, Failure};
use crate::run::refused;
use crate::{follow, output, run, source};

/// How long gates may take to hear of what others have decided: one that comes back at that moment
/// takes seconds.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// So many jobs that have ended are listed.
const ENDED_SHOWN: usize = 20;

pub(crate) fn api(args: &GateArgs) -> Api {
    let plain = |gate: &String| gate.trim_start_matches("http://").trim_end_matches('/').to_owned();
    Api::new(args.gate.iter().map(plain).collect(), args.api_token.clone())
}

fn parse(job: &str) -> Result<JobId, Failure> {
    job.parse()
        .map_err(|error| Failure::caused(Exit::Invalid, &format!("`{job}` is no job id"), &error))
}

/// Writes a line to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::caused(Exit::Io, "cannot write", &error)),
        Ok(()) => Ok(()),
    }
}

/// Writes a value to standard output, for programs.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::internal("the answer cannot be written", &error))?;
    print(&text)
}

pub(crate) async fn submit(args: Box<SubmitArgs>) -> Result<Exit, Failure> {
    let compiled = source::of(&args.source, &args.load)?;
    let outs = output::parse_with(&args.outputs.outs, &compiled.outputs)?;
    for warning in &compiled.warnings {
        follow::say(&format!("{warning}\n"));
    }
    let api = api(&args.gate);
    let job = run::submit(&api, compiled).await?;
    if !args.watch {
        print(&job.to_string())?;
        return Ok(Exit::Passed);
    }
    follow::say(&job.to_string());
    finish(&api, job, HEARD_WITHIN, &args.outputs, outs).await
}

pub(crate) async fn watch(args: WatchArgs) -> Result<Exit, Failure> {
    let outs = output::parse(&args.outputs.outs)?;
    let job = parse(&args.job)?;
    finish(&api(&args.gate), job, Duration::ZERO, &args.outputs, outs).await
}

async fn finish(
    api: &Api,
    job: JobId,
    unheard: Duration,
    outputs: &OutputArgs,
    outs: Vec<output::Out>,
) -> Result<Exit, Failure> {
    follow::follow(api, job, outputs.display(), unheard).await?;
    let result = results_of_ended(api, job).await.map_err(|error| refused(&error))?;
    show(&result, outputs, outs)
}

/// The results of a job that has ended, as one gate has said: another may hear of it a little later.
async fn results_of_ended(api: &Api, job: JobId) -> Result<JobResult, ApiError> {
    let limit = tokio::time::Instant::now() + HEARD_WITHIN;
    loop {
        match api.results(job).await {
            Err(error) if error.is_unheard() && tokio::time::Instant::now() < limit => {
                tokio::time::sleep(HEARD_WITHIN / 40).await;
            }
            answered => return answered,
        }
    }
}

pub(crate) async fn results(args: WatchArgs) -> Result<Exit, Failure> {
    let outs = output::parse(&args.outputs.outs)?;
    let result = api(&args.gate).results(parse(&args.job)?).await;
    show(&result.map_err(|error| refused(&error))?, &args.outputs, outs)
}

fn show(result: &JobResult, outputs: &OutputArgs, outs: Vec<output::Out>) -> Result<Exit, Failure> {
    // Whatever becomes of the files, the figures are shown.
    let written = output::write(&outs, result);
    let outs = if written.is_ok() { outs } else { Vec::new() };
    let exit = output::show(&outs, result, outputs.is_colourless());
    written?;
    exit
}

pub(crate) async fn jobs(args: JobsArgs) -> Result<Exit, Failure> {
    let paused = |pause| Steering { pause: Some(pause), ..Steering::default() };
    match args.command {
        None => list(args.list, args.all).await,
        Some(JobsCommand::Pause(JobArgs { job, list })) => steer(&list, &job, paused(true)).await,
        Some(JobsCommand::Resume(JobArgs { job, list })) => steer(&list, &job, paused(false)).await,
        Some(JobsCommand::Scale(ScaleArgs { job, scales, list })) => {
            let scale = scales.iter().map(|scale| {
                let pair = scale.rsplit_once('=').filter(|(workflow, _)| !workflow.is_empty());
                let (workflow, amount) = pair.ok_or_else(|| {
                    let message = format!("`{scale}` is not of the form WORKFLOW=AMOUNT");
                    Failure::new(Exit::Invalid, &message)
                })?;
                Ok((workflow.to_owned(), amount.to_owned()))
            });
            let scale = scale.collect::<Result<_, Failure>>()?;
            steer(&list, &job, Steering { scale, ..Steering::default() }).await
        }
    }
}

async fn steer(args: &ListArgs, job: &str, steering: Steering) -> Result<Exit, Failure> {
    let path = format!("/jobs/{}/steer", parse(job)?);
    let job: JobView =
        api(&args.gate).post(&path, &steering).await.map_err(|error| refused(&error))?;
    if args.output == "json" {
        print_json(&job)?
    } else {
        print(&line(&job))?
    }
    Ok(Exit::Passed)
}

/// Those that live, and the newest of those that have ended.
fn without_old(mut jobs: Vec<JobView>) -> Vec<JobView> {
    let mut ended: Vec<WallTime> = jobs.iter().filter_map(|job| job.ended).collect();
    ended.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(&oldest) = ended.get(ENDED_SHOWN - 1) {
        jobs.retain(|job| job.ended.is_none_or(|ended| ended >= oldest));
    }
    jobs
}

async fn list(args: ListArgs, all: bool) -> Result<Exit, Failure> {
    let jobs: Vec<JobView> = api(&args.gate).get("/jobs").await.map_err(|error| refused(&error))?;
    if args.output == "json" {
        print_json(&jobs)?;
        return Ok(Exit::Passed);
    }
    let known = jobs.len();
    let shown = if all { jobs } else { without_old(jobs) };
    for job in &shown {
        print(&line(job))?;
    }
    if shown.len() < known {
        follow::say(&format!("and {} that ended before: --all", known - shown.len()));
    }
    Ok(Exit::Passed)
}

pub(crate) async fn nodes(args: ListArgs) -> Result<Exit, Failure> {
    let nodes: Vec<NodeView> =
        api(&args.gate).get("/nodes").await.map_err(|error| refused(&error))?;
    if args.output == "json" {
        print_json(&nodes)?;
        return Ok(Exit::Passed);
    }
    for view in &nodes {
        let place = view.datacenter.as_ref().map_or("-", |datacenter| datacenter.as_str());
        let cores = match view.cores {
            0 => String::new(),
            cores => format!("{} of {cores} cores free", view.free_cores),
        };
        let state = state_of(view.state);
        let stale = if view.is_fresh { "" } else { " (not heard of lately)" };
        let NodeView { node, role, software, .. } = view;
        let line = format!(
            "{node}  {role:<8} {place:<16} {state:<10} {cores:<20} {software}{stale}",
            role = role.as_str()
        );
        print(line.trim_end())?;
    }
    Ok(Exit::Passed)
}

const fn state_of(state: NodeState) -> &'static str {
    match state {
        NodeState::Leading => "leading",
        NodeState::Following => "following",
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
        NodeState::Silent => "silent",
    }
}

pub(crate) async fn status(args: JobArgs) -> Result<Exit, Failure> {
    let path = format!("/jobs/{}", parse(&args.job)?);
    let job: JobView = api(&args.list.gate).get(&path).await.map_err(|error| refused(&error))?;
    if args.list.output == "json" {
        print_json(&job)?
    } else {
        print(&line(&job))?
    }
    Ok(Exit::Passed)
}

pub(crate) async fn cancel(args: CancelArgs) -> Result<Exit, Failure> {
    let path = format!("/jobs/{}/cancel", parse(&args.job)?);
    let cancellation = Cancellation { workflow: args.workflow, now: args.now };
    let job: JobView =
        api(&args.list.gate).post(&path, &cancellation).await.map_err(|error| refused(&error))?;
    if args.list.output == "json" {
        print_json(&job)?
    } else {
        print(&line(&job))?
    }
    Ok(Exit::Passed)
}

fn line(job: &JobView) -> String {
    let state = match &job.state {
        JobState::Accepted => "accepted".to_owned(),
        JobState::Queued => "queued".to_owned(),
        JobState::Running if job.paused => "paused".to_owned(),
        JobState::Running => "running".to_owned(),
        JobState::Stopping { why } => format!("stopping: {why}"),
        JobState::Ended(status) => status.as_str().to_owned(),
    };
    let partial = if job.partial { " (partial)" } else { "" };
    format!("{}  {:<24} {state}{partial}", job.job, job.name)
}

#[cfg(test)]
mod tests {
    use hyperscale_model::ClientId;

    use super::*;

    fn job(number: u64, ended: Option<u64>) -> JobView {
        JobView {
            job: JobId::from_parts(number, 0),
            name: String::new(),
            client: ClientId::from("test"),
            state: JobState::Accepted,
            accepted: WallTime(number),
            started: None,
            ended: ended.map(WallTime),
            verdict: None,
            partial: false,
            datacenters: Vec::new(),
            paused: false,
        }
    }

    #[test]
    fn all_that_live_are_listed_and_the_last_that_ended() {
        // The oldest lives, the next one ended last.
        let mut jobs = vec![job(0, None), job(1, Some(900))];
        jobs.extend((2..40).map(|number| job(number, Some(100 + number))));

        let shown: Vec<u64> = without_old(jobs).iter().map(|job| job.accepted.0).collect();

        let expected: Vec<u64> = [0, 1].into_iter().chain(21..40).collect();
        assert_eq!(shown, expected);
        let few = vec![job(1, Some(3)), job(2, None)];
        assert_eq!(without_old(few.clone()), few);
    }
}
