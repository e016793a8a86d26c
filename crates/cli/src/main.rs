//! `hyperscale`: the command line.
//!
//! A command parses its flags, does its work over a gate's HTTP API, and ends with an exit code
//! ([`exit::Exit`]). `run` starts the gate that it talks to within its own process.

mod api;
mod args;
mod demo;
mod exit;
mod follow;
mod jobs;
mod logging;
mod output;
mod run;
mod serve;
mod source;
mod target;
mod terminal;
mod test_files;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::exit::{Exit, Failure};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    let result = logging::start(&args.log).and_then(|()| match args.command {
        Command::Run(run) => block_on(run::run(run)),
        Command::Demo(demo) => block_on(demo::demo(demo)),
        Command::Serve(args) => block_on(serve::serve(args, &["gate", "manager", "worker"])),
        Command::Gate(args) => block_on(serve::serve(args, &["gate"])),
        Command::Manager(args) => block_on(serve::serve(args, &["manager"])),
        Command::Worker(args) => block_on(serve::serve(args, &["worker"])),
        Command::Cert(args) => serve::cert(args),
        Command::Submit(args) => block_on(jobs::submit(args)),
        Command::Jobs(args) => block_on(jobs::list(args)),
        Command::Status(args) => block_on(jobs::status(args)),
        Command::Watch(args) => block_on(jobs::watch(args)),
        Command::Cancel(args) => block_on(jobs::cancel(args)),
        Command::Results(args) => block_on(jobs::results(args)),
        Command::Target(target) => target::serve(target),
        Command::Validate(validate) => test_files::validate(&validate),
        Command::Schema => test_files::schema(),
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
