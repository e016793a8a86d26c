//! Resident memory: of users with a connection each, and of a test that goes on.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::process::{Core, Target, hyperscale, resident_kib, spawn};
use crate::{Effort, clock};

/// Runs a generator to its end; returns the most memory that was seen.
fn most_kib(command: &mut Command, core: Core) -> anyhow::Result<u64> {
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    let mut child = spawn(command, core)?;
    let mut most = 0;
    loop {
        // Its last moments have no status any more; what was seen before counts.
        most = most.max(resident_kib(&child).unwrap_or(0));
        if let Some(status) = child.try_wait().context("waiting for a generator")? {
            anyhow::ensure!(status.success(), "the generator ended with {status}");
            return Ok(most);
        }
        clock::sleep(Duration::from_millis(20));
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn users(effort: Effort) -> anyhow::Result<()> {
    let time = if effort == Effort::Quick { "3s" } else { "10s" };
    for users in [1_u32, 1_000, 10_000] {
        let target = Target::start(false)?;
        let url = format!("{}/delay/1000", target.url);
        let mut command = hyperscale()?;
        command.args(["run", &url, "--vus", &users.to_string(), "--duration", time, "--quiet"]);
        let most = most_kib(&mut command, Core::Last)?;
        let stats = target.stats()?;
        println!("figure memory.{users}_users {:.1} MiB", most as f64 / 1024.0);
        println!("figure memory.{users}_users.connections {} connections", stats.connections);
        println!("figure memory.{users}_users.served {} requests", stats.requests);
        if users > 1 {
            println!("figure memory.{users}_users.each {:.1} KiB", most as f64 / f64::from(users));
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn growth(effort: Effort) -> anyhow::Result<()> {
    let few: u64 = if effort == Effort::Quick { 50_000 } else { 1_000_000 };
    let target = Target::start(false)?;
    let mut most = Vec::new();
    for requests in [few, few * 10] {
        let mut command = hyperscale()?;
        command.args(["run", &target.url, "--vus", "64", "--cores", "1", "--quiet"]);
        command.args(["--iterations", &requests.to_string(), "--duration", "10m"]);
        most.push(most_kib(&mut command, Core::Last)?);
    }
    println!("figure growth.{few}_requests {:.1} MiB", most[0] as f64 / 1024.0);
    println!("figure growth.{}_requests {:.1} MiB", few * 10, most[1] as f64 / 1024.0);
    println!("ratio growth {:.2}", most[0] as f64 / most[1] as f64);
    Ok(())
}
