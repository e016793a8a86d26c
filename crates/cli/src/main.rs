//! `hyperscale`: the command line.
//!
//! A command parses its flags, does its work over a gate's HTTP API, and ends with an exit code
//! ([`exit::Exit`]). `run` starts the gate that it talks to within its own process.

mod api;
mod args;
mod cluster;
mod completions;
mod config;
mod demo;
mod exit;
mod follow;
mod jobs;
mod keys;
mod logging;
mod new;
mod output;
mod ping;
mod plan;
mod playground;
mod run;
mod serve;
mod source;
mod target;
mod terminal;
mod test_files;

use std::process::ExitCode;

use hyperscale_model::Role;

use crate::args::{ClusterCommand, Command};
use crate::config::ParseError;
use crate::exit::{Exit, Failure};

fn main() -> ExitCode {
    let parsed = config::parse(std::env::args_os(), &|name| std::env::var_os(name));
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(ParseError::Usage(error)) => return exit::usage(&error),
        Err(ParseError::File(failure)) => return exit::report(&failure),
    };
    if parsed.args.config.print_config {
        return match jobs::print(parsed.shown().trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => exit::report(&failure),
        };
    }
    let args = parsed.args;
    let result = logging::start(&args.log).and_then(|()| match args.command {
        Command::Run(run) => block_on(run::run(run)),
        Command::Demo(demo) => block_on(demo::demo(demo)),
        Command::Serve(args) => block_on(serve::serve(args)),
        Command::Gate(args) => block_on(serve::node(&args, &[Role::Gate])),
        Command::Manager(args) => block_on(serve::node(&args, &[Role::Manager])),
        Command::Worker(args) => block_on(serve::node(&args, &[Role::Worker])),
        Command::Cert(args) => serve::cert(args),
        Command::Submit(args) => block_on(jobs::submit(args)),
        Command::Jobs(args) => block_on(jobs::jobs(args)),
        Command::Status(args) => block_on(jobs::status(args)),
        Command::Watch(args) => block_on(jobs::watch(args)),
        Command::Cluster(ClusterCommand::Status(args)) => block_on(cluster::status(args)),
        Command::Cluster(ClusterCommand::Remove(args)) => block_on(cluster::remove(args)),
        Command::Cluster(ClusterCommand::Drain(args)) => block_on(cluster::drain(args)),
        Command::Cluster(ClusterCommand::Keys(command)) => keys::keys(command),
        Command::Nodes(args) => block_on(jobs::nodes(args)),
        Command::Cancel(args) => block_on(jobs::cancel(args)),
        Command::Results(args) => block_on(jobs::results(args)),
        Command::Target(target) => target::serve(target),
        Command::Validate(validate) => test_files::validate(&validate),
        Command::Schema => test_files::schema(),
        Command::New(args) => new::new(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Ping(args) => block_on(ping::ping(args)),
        Command::Playground(args) => block_on(playground::playground(*args)),
        Command::Completions(args) => completions::completions(&args),
    });
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => exit::report(&failure),
    }
}

fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal("no runtime starts", &error))?;
    runtime.block_on(work)
}
