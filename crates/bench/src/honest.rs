//! Whether a rate is met, and whether the figures tell the truth when it cannot be.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::peers::read;
use crate::process::{Core, Target, hyperscale, run, spawn};
use crate::{Effort, clock};

fn figure(summary: &Value, pointer: &str) -> anyhow::Result<f64> {
    let found = summary.pointer(pointer).and_then(Value::as_f64);
    found.with_context(|| format!("the summary has no {pointer}"))
}

/// Runs a load against a target; `meanwhile` happens beside it.
fn measured(
    target: &Target,
    load: &[&str],
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let directory = tempfile::tempdir().context("a directory for results")?;
    let json = directory.path().join("summary.json");
    let mut command = hyperscale()?;
    command.args(["run", &target.url, "--cores", "1", "--quiet", "--out"]);
    command.arg(format!("json={}", json.display())).args(load);
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    let mut child = spawn(&mut command, Core::Last)?;
    let done = meanwhile();
    let status = child.wait().context("waiting for the generator")?;
    done?;
    anyhow::ensure!(status.success(), "the generator ended with {status}");
    read(&json)
}

fn nothing() -> anyhow::Result<()> {
    Ok(())
}

/// Requests per second that one core gives in a closed loop.
fn capacity(target: &Target, effort: Effort) -> anyhow::Result<f64> {
    let (time, seconds) = if effort == Effort::Quick { ("1s", 1.0) } else { ("3s", 3.0) };
    let summary = measured(target, &["--vus", "64", "--duration", time], nothing)?;
    Ok(figure(&summary, "/totals/requests")? / seconds)
}

pub(crate) fn rate(effort: Effort) -> anyhow::Result<()> {
    let target = Target::start(false)?;
    let capacity = capacity(&target, effort)?;
    println!("figure rate.capacity {capacity:.0} requests/s");
    let seconds = if effort == Effort::Quick { 2.0 } else { 30.0 };
    for percent in [20.0, 50.0, 80.0] {
        let rate = (capacity * percent / 100.0).round();
        let seconds = if percent > 20.0 { f64::min(seconds, 5.0) } else { seconds };
        let (rate_text, time) = (format!("{rate}/s"), format!("{seconds}s"));
        let before = target.stats()?.requests;
        let load = ["--rate", &rate_text, "--duration", &time];
        let summary = measured(&target, &load, nothing)?;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let counted = (target.stats()?.requests - before) as f64;
        let name = format!("rate.{percent}_percent");
        println!("figure {name}.planned {:.0} requests", rate * seconds);
        println!("figure {name}.at_target {counted:.0} requests");
        println!("figure {name}.dropped {:.0} starts", figure(&summary, "/totals/dropped")?);
        println!("ratio {name}.met {:.5}", counted / (rate * seconds));
        for what in ["lag", "latency", "service_time"] {
            for at in ["p50", "p99", "max"] {
                let value = figure(&summary, &format!("/{what}_us/{at}"))?;
                println!("figure {name}.{what}.{at} {value:.0} us");
            }
        }
    }
    // A rate at which a peer that is known to be honest can be compared.
    let url = format!("{}/", target.url);
    for (tool, args) in [
        ("oha", vec!["--no-tui", "--output-format", "json", "-q", "2000", "--latency-correction"]),
        ("hyperscale", vec!["run", "--rate", "2000/s", "--quiet", "--cores", "1"]),
    ] {
        let is_ours = tool == "hyperscale";
        let mut command = if is_ours { hyperscale()? } else { std::process::Command::new(tool) };
        command.args(args);
        let time = if effort == Effort::Quick { "1s" } else { "5s" };
        command.args(if is_ours { ["--duration", time] } else { ["-z", time] }).arg(&url);
        if !is_ours {
            command.args(["-c", "64"]);
        }
        match run(&mut command, Core::Last) {
            Ok((_, used)) => {
                let seconds = used.total().as_secs_f64();
                println!("figure rate.2000_per_second.{tool}.cpu {seconds:.2} s");
            }
            Err(error) => println!("# {error:#}"),
        }
    }
    Ok(())
}

pub(crate) fn stall(effort: Effort) -> anyhow::Result<()> {
    let target = Target::start(false)?;
    let (seconds, at) = if effort == Effort::Quick { (5, 2) } else { (10, 4) };
    let freeze = Duration::from_secs(1);
    let summary =
        measured(&target, &["--rate", "2000/s", "--duration", &format!("{seconds}s")], || {
            clock::sleep(Duration::from_secs(at));
            target.freeze(freeze)
        })?;
    let planned = 2_000.0 * f64::from(seconds);
    let (requests, dropped) =
        (figure(&summary, "/totals/requests")?, figure(&summary, "/totals/dropped")?);
    let (p99, max) = (figure(&summary, "/latency_us/p99")?, figure(&summary, "/latency_us/max")?);
    // Starts come evenly, so those of the stall wait between all of it and nothing.
    let true_p99 = 1e6 * (1.0 - planned * 0.01 / 2_000.0);
    println!("figure stall.planned {planned:.0} requests");
    println!("figure stall.reported {:.0} requests", requests + dropped);
    println!("figure stall.dropped {dropped:.0} starts");
    println!("figure stall.p50 {:.0} us", figure(&summary, "/latency_us/p50")?);
    println!("figure stall.p99 {p99:.0} us");
    println!("figure stall.max {max:.0} us");
    println!("ratio stall.p99_true {:.3}", p99 / true_p99);
    Ok(())
}

pub(crate) fn overload(effort: Effort) -> anyhow::Result<()> {
    let target = Target::start(false)?;
    let time = if effort == Effort::Quick { "2s" } else { "5s" };
    let summary = measured(&target, &["--rate", "1000000/s", "--duration", time], nothing)?;
    let is_limited = summary.pointer("/generator/limited").and_then(Value::as_bool);
    let reason = summary.pointer("/generator/reason").and_then(Value::as_str);
    println!("figure overload.requests {:.0} requests", figure(&summary, "/totals/requests")?);
    println!("figure overload.dropped {:.0} starts", figure(&summary, "/totals/dropped")?);
    println!("figure overload.limited {} true", u8::from(is_limited.unwrap_or(false)));
    println!("# {}", reason.unwrap_or("no reason was told"));
    anyhow::ensure!(is_limited == Some(true), "a rate beyond the machine was not told");
    Ok(())
}
