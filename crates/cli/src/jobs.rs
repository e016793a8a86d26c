//! Commands about jobs of a gate that runs elsewhere.

use std::io::Write as _;

use hyperscale_gate::JobView;
use hyperscale_model::{JobId, JobState};
use hyperscale_web::Cancellation;
use serde::Serialize;

use crate::api::Api;
use crate::args::{CancelArgs, GateArgs, JobArgs, ListArgs, OutputArgs, SubmitArgs, WatchArgs};
use crate::exit::{Exit, Failure};
use crate::run::refused;
use crate::{follow, output, run, source};

fn api(args: &GateArgs) -> Api {
    let address = args.gate.trim_start_matches("http://").trim_end_matches('/');
    Api::new(address.to_owned(), args.api_token.clone())
}

fn parse(job: &str) -> Result<JobId, Failure> {
    job.parse()
        .map_err(|error| Failure::caused(Exit::Invalid, &format!("`{job}` is no job id"), &error))
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure::caused(Exit::Io, "cannot write", &error))
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::internal("the answer cannot be written", &error))?;
    print(&text)
}

pub(crate) async fn submit(args: Box<SubmitArgs>) -> Result<Exit, Failure> {
    let outs = output::parse(&args.outputs.outs)?;
    let compiled = source::of(&args.source, &args.load)?;
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
    finish(&api, job, &args.outputs, outs).await
}

pub(crate) async fn watch(args: WatchArgs) -> Result<Exit, Failure> {
    let outs = output::parse(&args.outputs.outs)?;
    finish(&api(&args.gate), parse(&args.job)?, &args.outputs, outs).await
}

async fn finish(
    api: &Api,
    job: JobId,
    outputs: &OutputArgs,
    outs: Vec<output::Out>,
) -> Result<Exit, Failure> {
    follow::follow(api, job, outputs.display()).await?;
    show(api, job, outputs, outs).await
}

pub(crate) async fn results(args: WatchArgs) -> Result<Exit, Failure> {
    let outs = output::parse(&args.outputs.outs)?;
    show(&api(&args.gate), parse(&args.job)?, &args.outputs, outs).await
}

async fn show(
    api: &Api,
    job: JobId,
    outputs: &OutputArgs,
    outs: Vec<output::Out>,
) -> Result<Exit, Failure> {
    let result = api.results(job).await.map_err(|error| refused(&error))?;
    // Whatever becomes of the files, the figures are shown.
    let written = output::write(&outs, &result);
    let outs = if written.is_ok() { outs } else { Vec::new() };
    let exit = output::show(&outs, &result, outputs.is_colourless());
    written?;
    exit
}

pub(crate) async fn list(args: ListArgs) -> Result<Exit, Failure> {
    let jobs: Vec<JobView> = api(&args.gate).get("/jobs").await.map_err(|error| refused(&error))?;
    if args.output == "json" {
        print_json(&jobs)?;
    } else {
        for job in &jobs {
            print(&line(job))?;
        }
    }
    Ok(Exit::Passed)
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
        api(&args.gate).post(&path, &cancellation).await.map_err(|error| refused(&error))?;
    print(&line(&job))?;
    Ok(Exit::Passed)
}

fn line(job: &JobView) -> String {
    let state = match &job.state {
        JobState::Accepted => "accepted".to_owned(),
        JobState::Queued => "queued".to_owned(),
        JobState::Running => "running".to_owned(),
        JobState::Stopping { why } => format!("stopping: {why}"),
        JobState::Ended(status) => status.as_str().to_owned(),
    };
    let partial = if job.partial { " (partial)" } else { "" };
    format!("{}  {:<24} {state}{partial}", job.job, job.name)
}
