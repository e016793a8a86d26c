//! From exec to the first request, and a whole test of one second.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;

use crate::process::{Core, Target, hyperscale, run, spawn};
use crate::{Effort, clock};

pub(crate) fn start(effort: Effort) -> anyhow::Result<()> {
    let rounds = if effort == Effort::Quick { 1 } else { 5 };
    let listener = TcpListener::bind("127.0.0.1:0").context("a listener")?;
    let url = format!("http://{}/", listener.local_addr().context("its address")?);
    let mut first = Vec::new();
    for _ in 0..rounds {
        let mut command = hyperscale()?;
        command.args(["run", &url, "--vus", "1", "--duration", "1s", "--quiet"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        let start = clock::now();
        let mut child = spawn(&mut command, Core::Any)?;
        let (mut stream, _) = listener.accept().context("the first connection")?;
        stream.read_exact(&mut [0; 16]).context("the first request")?;
        first.push(start.elapsed());
        child.kill().and_then(|()| child.wait()).context("ending a generator")?;
    }
    say("start.first_request", &first);
    let target = Target::start(false)?;
    let mut whole = Vec::new();
    for _ in 0..rounds {
        let mut command = hyperscale()?;
        command.args(["run", &target.url, "--vus", "1", "--duration", "1s", "--quiet"]);
        let start = clock::now();
        run(&mut command, Core::Any)?;
        whole.push(start.elapsed());
    }
    say("start.one_second_test", &whole);
    Ok(())
}

fn say(name: &str, times: &[Duration]) {
    let best = times.iter().min().copied().unwrap_or_default().as_secs_f64() * 1e3;
    let worst = times.iter().max().copied().unwrap_or_default().as_secs_f64() * 1e3;
    println!("figure {name} {best:.1} ms");
    println!("figure {name}.worst {worst:.1} ms");
}
