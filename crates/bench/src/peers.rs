//! CPU of a request, beside peers: rounds of all generators in turn, the best and the mean of each.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

use crate::Effort;
use crate::process::{Core, Target, Used, hyperscale, run};

/// Connections, as in `PEERS` of every tool.
const CONNECTIONS: u32 = 64;

/// A generator that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Hyperscale,
    Wrk,
    Oha,
    Hey,
    Ab,
}

impl Tool {
    const ALL: [Self; 5] = [Self::Hyperscale, Self::Wrk, Self::Oha, Self::Hey, Self::Ab];

    const fn name(self) -> &'static str {
        match self {
            Self::Hyperscale => "hyperscale",
            Self::Wrk => "wrk",
            Self::Oha => "oha",
            Self::Hey => "hey",
            Self::Ab => "ab",
        }
    }

    fn is_installed(self) -> bool {
        let Some(path) = std::env::var_os("PATH") else { return self == Self::Hyperscale };
        self == Self::Hyperscale
            || std::env::split_paths(&path).any(|directory| directory.join(self.name()).is_file())
    }

    fn command(self, url: &str, seconds: u32, json: &Path) -> anyhow::Result<Command> {
        let (time, connections) = (seconds.to_string(), CONNECTIONS.to_string());
        if self == Self::Hyperscale {
            let mut command = hyperscale()?;
            command.args(["run", url, "--vus", &connections, "--cores", "1", "--quiet"]);
            command.args(["--insecure", "--duration", &format!("{time}s"), "--out"]);
            command.arg(format!("json={}", json.display()));
            return Ok(command);
        }
        let mut command = Command::new(self.name());
        match self {
            Self::Hyperscale => {}
            Self::Wrk => {
                command.args(["-t1", "-c", &connections, "-d", &time]);
            }
            Self::Oha => {
                command.args(["--no-tui", "--insecure", "--output-format", "json"]);
                command.args(["-z", &format!("{time}s"), "-c", &connections]);
            }
            Self::Hey => {
                command.args(["-z", &format!("{time}s"), "-c", &connections]);
            }
            Self::Ab => {
                command.args(["-q", "-k", "-t", &time, "-n", "3000000", "-c", &connections]);
            }
        }
        command.arg(url);
        Ok(command)
    }

    /// Requests by its own count, for targets whose counters are not read.
    fn requests(self, text: &str, json: &Path) -> anyhow::Result<u64> {
        let number = |text: &str| text.trim().split(' ').next().and_then(|text| text.parse().ok());
        match self {
            Self::Hyperscale => read(json)?.pointer("/totals/requests").and_then(Value::as_u64),
            Self::Wrk => text.lines().find(|line| line.contains(" requests in ")).and_then(number),
            Self::Oha => {
                let value: Value = serde_json::from_str(text).context("oha's output")?;
                let by_status = value.pointer("/statusCodeDistribution").and_then(Value::as_object);
                by_status.map(|by_status| by_status.values().filter_map(Value::as_u64).sum())
            }
            Self::Hey => (text.lines())
                .find_map(|line| line.trim().strip_prefix("[200]"))
                .and_then(|line| number(line.trim().trim_end_matches("responses"))),
            Self::Ab => text
                .lines()
                .find_map(|line| line.strip_prefix("Complete requests:"))
                .and_then(number),
        }
        .with_context(|| format!("{} told no number of requests:\n{text}", self.name()))
    }
}

pub(crate) fn read(json: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read(json).with_context(|| json.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| json.display().to_string())
}

/// CPU-seconds per million requests of one round.
#[derive(Debug, Clone, Copy)]
struct Cost {
    total: f64,
    user: f64,
    requests: u64,
}

impl Cost {
    fn new(used: Used, requests: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let millions = requests as f64 / 1e6;
        Self {
            total: used.total().as_secs_f64() / millions,
            user: used.user.as_secs_f64() / millions,
            requests,
        }
    }
}

fn best(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    costs.iter().map(of).fold(f64::INFINITY, f64::min)
}

fn mean(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few rounds")]
    let count = costs.len() as f64;
    costs.iter().map(of).sum::<f64>() / count
}

/// Measures all tools in turn against a target.
fn compare(bench: &str, target: &Target, path: &str, effort: Effort) -> anyhow::Result<()> {
    let (rounds, seconds) = match effort {
        Effort::Quick => (1, 1),
        Effort::Full => (5, 3),
    };
    let directory = tempfile::tempdir().context("a directory for results")?;
    let json = directory.path().join("summary.json");
    let url = format!("{}{path}", target.url);
    let (tools, missing): (Vec<_>, Vec<_>) =
        Tool::ALL.into_iter().partition(|tool| tool.is_installed());
    for tool in missing {
        println!("# {} is not installed", tool.name());
    }
    let mut costs: Vec<(Tool, Vec<Cost>)> = tools.iter().map(|&tool| (tool, vec![])).collect();
    for _ in 0..rounds {
        for (tool, costs) in &mut costs {
            let round = || -> anyhow::Result<Cost> {
                let (text, used) = run(&mut tool.command(&url, seconds, &json)?, Core::Last)?;
                Ok(Cost::new(used, tool.requests(&text, &json)?))
            };
            match round() {
                Ok(cost) => costs.push(cost),
                // A peer that cannot do this is none here.
                Err(error) if *tool != Tool::Hyperscale => println!("# {error:#}"),
                Err(error) => return Err(error),
            }
        }
    }
    costs.retain(|(_, costs)| !costs.is_empty());
    let ours = costs.first().map(|(_, costs)| costs.clone()).unwrap_or_default();
    for (tool, costs) in &costs {
        let name = tool.name();
        let most = costs.iter().map(|cost| cost.requests).max().unwrap_or(0) / u64::from(seconds);
        println!("figure {bench}.{name}.cpu {:.2} s/M", best(costs, |cost| cost.total));
        println!("figure {bench}.{name}.user {:.2} s/M", best(costs, |cost| cost.user));
        println!("figure {bench}.{name}.rate {most} requests/s");
        if *tool != Tool::Hyperscale {
            let by_best = best(costs, |cost| cost.total) / best(&ours, |cost| cost.total);
            let by_mean = mean(costs, |cost| cost.total) / mean(&ours, |cost| cost.total);
            let by_user = best(costs, |cost| cost.user) / best(&ours, |cost| cost.user);
            println!("ratio {bench}.cpu_{name} {by_best:.2}");
            println!("ratio {bench}.cpu_mean_{name} {by_mean:.2}");
            println!("ratio {bench}.user_{name} {by_user:.2}");
        }
    }
    Ok(())
}

pub(crate) fn tiny(effort: Effort) -> anyhow::Result<()> {
    compare("tiny", &Target::start(false)?, "/", effort)
}

pub(crate) fn tls(effort: Effort) -> anyhow::Result<()> {
    compare("tls", &Target::start(true)?, "/", effort)
}

pub(crate) fn body(effort: Effort) -> anyhow::Result<()> {
    compare("body", &Target::start(false)?, "/bytes/102400", effort)
}

/// A test as people write them, beside the bare request in the same run.
const SCENARIO: &str = r#"
target: TARGET
data: { rows: { values: [ { id: 1, name: a }, { id: 2, name: b }, { id: 3, name: c } ] } }
workflows:
  main:
    load: { vus: 64, duration: SECONDSs }
    steps:
      - name: list
        get: "/json?user=${rows.id}"
        headers: { accept: application/json, x-request: "${vu.id}-${vu.iteration}" }
        check: [ status == 200, 'body.contains("seven")' ]
        capture: { item: { json: "$.items[0].id" } }
      - name: post
        post: /echo
        json: { item: "${item}", name: "${rows.name}", count: "${random_int(1, 9)}" }
        check: [ status == 200 ]
thresholds: [ latency.p99 < 10s ]
"#;

pub(crate) fn scenario(effort: Effort) -> anyhow::Result<()> {
    let seconds = if effort == Effort::Quick { 1 } else { 3 };
    let target = Target::start(false)?;
    let directory = tempfile::tempdir().context("a directory for results")?;
    let (json, file) = (directory.path().join("summary.json"), directory.path().join("test.yaml"));
    let text = SCENARIO.replace("TARGET", &target.url).replace("SECONDS", &seconds.to_string());
    std::fs::write(&file, text).context("writing the test")?;
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..if effort == Effort::Quick { 1 } else { 5 } {
        let url = format!("{}/json", target.url);
        let (text, used) = run(&mut Tool::Hyperscale.command(&url, seconds, &json)?, Core::Last)?;
        bare.push(Cost::new(used, Tool::Hyperscale.requests(&text, &json)?));
        let mut command = hyperscale()?;
        command.arg("run").arg(&file).args(["--cores", "1", "--quiet", "--out"]);
        command.arg(format!("json={}", json.display()));
        let (text, used) = run(&mut command, Core::Last)?;
        whole.push(Cost::new(used, Tool::Hyperscale.requests(&text, &json)?));
    }
    println!("figure scenario.cpu {:.2} s/M", best(&whole, |cost| cost.total));
    println!("figure scenario.user {:.2} s/M", best(&whole, |cost| cost.user));
    let ratio = best(&bare, |cost| cost.total) / best(&whole, |cost| cost.total);
    println!("ratio scenario.cpu_bare {ratio:.2}");
    Ok(())
}
