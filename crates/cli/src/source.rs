//! From what stands on the command line to a compiled test.

use std::io::Read as _;
use std::path::Path;

use hyperscale_plan::{CompileOptions, Compiled, Load, Plan, compile};
use serde_json::{Map, Value, json};
use url::Url;

use crate::args::LoadArgs;
use crate::exit::{Exit, Failure};

/// Larger test files are refused by the compiler with a message; nothing larger is even read.
const FILE_BYTES_READ: u64 = 2 << 20;

/// Whether the argument is a URL and not a file.
fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// The test that a URL with flags stands for.
pub(crate) fn of_url(source: &str, args: &LoadArgs) -> Result<Compiled, Failure> {
    let url = Url::parse(source).map_err(|error| {
        Failure::caused(Exit::Invalid, &format!("`{source}` is no URL"), &error)
    })?;
    let host = url.host_str().unwrap_or("target").to_owned();
    let vus = args.vus;
    let duration = args.duration.as_deref();
    let load = match (args.iterations, &args.rate) {
        (Some(_), Some(_)) => {
            let message = "--iterations and --rate exclude each other: one says how much, the \
                           other how fast";
            return Err(Failure::new(Exit::Invalid, message));
        }
        (Some(total), None) => {
            let users = u64::from(vus.unwrap_or(10)).min(total.max(1));
            let mut load = json!({ "executor": "shared-iterations", "vus": users, "total": total });
            if let Some(duration) = duration {
                load["max_duration"] = json!(duration);
            }
            load
        }
        (None, Some(rate)) => {
            let rate = if rate.contains('/') { rate.clone() } else { format!("{rate}/s") };
            let mut load = json!({
                "executor": "constant-arrival-rate",
                "rate": rate,
                "duration": duration.unwrap_or("10s"),
            });
            if let Some(vus) = vus {
                load["max_vus"] = json!(vus);
            }
            load
        }
        (None, None) => {
            json!({ "vus": vus.unwrap_or(10), "duration": duration.unwrap_or("10s") })
        }
    };
    let headers: Map<String, Value> = headers(&args.headers)?
        .into_iter()
        .map(|(name, value)| (name, Value::String(value)))
        .collect();
    let method = args.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
    let mut step = json!({ "http": { "method": method, "url": source } });
    if !source.contains("${") {
        // There is one target: its host stands in the test's name already.
        step["name"] = json!(format!("{method} {}", url.path()));
    }
    if !headers.is_empty() {
        step["headers"] = Value::Object(headers);
    }
    if let Some(body) = &args.body {
        step["text"] = json!(body);
    }
    let mut test = json!({
        "name": host,
        "workflows": { "main": { "load": load, "steps": [step] } },
    });
    if args.insecure {
        test["defaults"] = json!({ "tls": { "insecure": true } });
    }
    // JSON is YAML: the test goes the way of every other.
    let mut compiled = compiled(test.to_string().as_bytes(), source, Path::new("."), &args.sets)?;
    compiled.plan.source = None;
    Ok(compiled)
}

/// The headers of flags, with lower-case names.
pub(crate) fn headers(texts: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let split = |text: &String| match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
        None => {
            let message = format!("--header `{text}` has no colon; write 'name: value'");
            Err(Failure::new(Exit::Invalid, message))
        }
    };
    texts.iter().map(split).collect()
}

/// The test that a command names.
pub(crate) fn of(source: &str, args: &LoadArgs) -> Result<Compiled, Failure> {
    if is_url(source) {
        return of_url(source, args);
    }
    let of_urls = [("--method", args.method.is_some()), ("--body", args.body.is_some())];
    if let Some((flag, _)) = of_urls.iter().find(|(_, is_given)| *is_given) {
        let message = format!(
            "{flag} is for a URL; {source} is a file, whose steps have their own, to be overridden \
             by --set workflows.NAME.steps.0.…=VALUE"
        );
        return Err(Failure::new(Exit::Invalid, message));
    }
    let mut sets = args.sets.clone();
    if args.insecure {
        sets.push("defaults.tls.insecure=true".to_owned());
    }
    for (name, value) in headers(&args.headers)? {
        sets.push(format!("defaults.headers.{name}={}", Value::String(value)));
    }
    let has_load = args.vus.is_some()
        || args.duration.is_some()
        || args.rate.is_some()
        || args.iterations.is_some();
    if has_load {
        // What the file says is the rest of what the flags leave open.
        let plan = of_file(source, &sets)?.plan;
        sets.extend(load_sets(&plan, args)?);
    }
    of_file(source, &sets)
}

/// What the flags of a load mean for a file, as overrides of its one workflow with a load.
fn load_sets(plan: &Plan, args: &LoadArgs) -> Result<Vec<String>, Failure> {
    let invalid = |message: String| Err(Failure::new(Exit::Invalid, message));
    let loaded: Vec<_> = (plan.workflows.iter())
        .filter(|workflow| !matches!(workflow.load, Load::Once { .. }))
        .collect();
    let [workflow] = loaded.as_slice() else {
        let names: Vec<&str> = loaded.iter().map(|workflow| workflow.name.as_str()).collect();
        let (first, names) = (names.first().copied().unwrap_or("NAME"), names.join(", "));
        return invalid(if loaded.is_empty() {
            "--vus, --duration, --rate and --iterations change a load, and all workflows of this \
             test run once"
                .to_owned()
        } else {
            format!(
                "--vus, --duration, --rate and --iterations change the load of a test's only \
                 workflow, and this one has {names}; say which one, such as --set \
                 workflows.{first}.load.vus=50"
            )
        });
    };
    let place = format!("workflows.{}.load", workflow.name);
    let load_of_file = &workflow.load;
    let duration = match &args.duration {
        Some(duration) => duration.clone(),
        None => format!("{}ms", load_of_file.duration().as_millis()),
    };
    let vus = args.vus.unwrap_or_else(|| load_of_file.vus_max().max(1));
    let replaced = match (args.iterations, &args.rate, args.vus) {
        (Some(_), Some(_), _) => {
            return invalid(
                "--iterations and --rate exclude each other: one says how much, the other how fast"
                    .to_owned(),
            );
        }
        (Some(total), None, _) => json!({
            "executor": "shared-iterations",
            "vus": u64::from(vus).min(total.max(1)),
            "total": total,
            "max_duration": duration,
        }),
        (None, Some(rate), _) => {
            let mut load = json!({
                "executor": "constant-arrival-rate",
                "rate": if rate.contains('/') { rate.clone() } else { format!("{rate}/s") },
                "duration": duration,
            });
            // Users who loop say nothing of how many a rate needs: then the default holds.
            if args.vus.is_some() || load_of_file.arrivals().is_some() {
                load["max_vus"] = json!(vus);
            }
            load
        }
        (None, None, Some(vus)) => {
            json!({ "executor": "constant-vus", "vus": vus, "duration": duration })
        }
        // The same load for another time.
        (None, None, None) => {
            let key = match load_of_file {
                Load::ConstantVus { .. }
                | Load::ConstantArrivalRate { .. }
                | Load::ExternallyControlled { .. } => "duration",
                Load::PerVuIterations { .. }
                | Load::SharedIterations { .. }
                | Load::Once { .. } => "max_duration",
                Load::RampingVus { .. } | Load::RampingArrivalRate { .. } => {
                    return invalid(format!(
                        "--duration alone says nothing of the stages of `{}`; give --vus or --rate \
                         beside it, or override {place}.stages",
                        workflow.name
                    ));
                }
            };
            return Ok(vec![format!("{place}.{key}={duration}")]);
        }
    };
    // JSON is YAML.
    Ok(vec![format!("{place}={replaced}")])
}

/// The test in a file.
pub(crate) fn of_file(source: &str, sets: &[String]) -> Result<Compiled, Failure> {
    let cannot = |error: &std::io::Error| {
        Failure::caused(Exit::Invalid, &format!("cannot read the test file {source}"), error)
    };
    let mut text = Vec::new();
    let file = std::fs::File::open(source).map_err(|error| cannot(&error))?;
    file.take(FILE_BYTES_READ).read_to_end(&mut text).map_err(|error| cannot(&error))?;
    let directory = Path::new(source).parent().unwrap_or(Path::new("."));
    compiled(&text, source, directory, sets)
}

fn compiled(
    text: &[u8],
    name: &str,
    directory: &Path,
    sets: &[String],
) -> Result<Compiled, Failure> {
    let sets = (sets.iter())
        .map(|set| match set.split_once('=') {
            Some((path, value)) => Ok((path.to_owned(), value.to_owned())),
            None => {
                let message = format!("--set `{set}` has no value; write path=value");
                Err(Failure::new(Exit::Invalid, message))
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let read_file = |path: &str, bytes_max: usize| -> Result<Vec<u8>, String> {
        let file = std::fs::File::open(directory.join(path)).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() > bytes_max {
            return Err(format!("it has more than {bytes_max} bytes"));
        }
        Ok(bytes)
    };
    let options = CompileOptions {
        name,
        sets: &sets,
        environment: &|name| std::env::var(name).ok(),
        read_file: &read_file,
    };
    compile(text, &options)
        .map_err(|errors| Failure::new(Exit::Invalid, format!("the test is invalid\n\n{errors}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    const TWO: &str = "target: http://127.0.0.1\nworkflows:\n  \
        login: { load: once, steps: [ { get: /a } ] }\n  \
        browse: { load: { vus: 50, duration: 30s }, steps: [ { get: /b } ] }\n";

    fn compiled(test: &str, flags: &[&str]) -> Result<Compiled, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.yaml");
        std::fs::write(&path, test).unwrap();
        let line = ["hyperscale", "run", path.to_str().unwrap()];
        let args = Args::try_parse_from(line.iter().chain(flags)).unwrap();
        let Command::Run(args) = args.command else { panic!("not run") };
        of(&args.source, &args.load).map_err(|failure| failure.message().to_owned())
    }

    fn load(test: &str, flags: &[&str]) -> Load {
        let compiled = compiled(test, flags).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        compiled.plan.workflows.into_iter().find(|w| w.name == "browse").unwrap().load
    }

    #[test]
    fn flags_replace_the_load_of_the_only_workflow_that_has_one() {
        use std::time::Duration;
        let (half, ten) = (Duration::from_secs(30), Duration::from_secs(10));

        let vus = |vus, duration| Load::ConstantVus { vus, duration };
        assert_eq!(load(TWO, &["--vus", "5"]), vus(5, half));
        assert_eq!(load(TWO, &["-d", "10s"]), vus(50, ten));
        assert_eq!(load(TWO, &["--vus", "5", "-d", "10s"]), vus(5, ten));
        assert_eq!(
            load(TWO, &["--iterations", "7"]),
            Load::SharedIterations { vus: 7, total: 7, max_duration: half }
        );
        let users = |load: &Load| match load {
            Load::ConstantArrivalRate { rate, duration, max_vus, .. } => {
                assert!((rate - 20.0).abs() < 1e-9 && *duration == ten, "{load:?}");
                *max_vus
            }
            other => panic!("no rate: {other:?}"),
        };
        let open = TWO.replace("vus: 50, duration", "rate: 5/s, max_vus: 70, duration");
        assert_eq!(users(&load(TWO, &["--rate", "20", "-d", "10s", "--vus", "30"])), 30);
        assert_eq!(users(&load(&open, &["--rate", "20", "-d", "10s"])), 70, "the file's");
        let default = users(&load(TWO, &["--rate", "20", "-d", "10s"]));
        assert!(default > 50, "users who loop say nothing of a rate: {default}");
    }

    #[test]
    fn several_loads_want_a_name() {
        let several = TWO.replace("login: { load: once", "login: { load: { vus: 1, duration: 1s }");

        let error = compiled(&several, &["--vus", "5"]).unwrap_err();

        assert!(error.contains("login, browse"), "{error}");
        assert!(error.contains("--set workflows.login.load.vus=50"), "{error}");
        let stages = TWO.replace(
            "{ vus: 50, duration: 30s }",
            "{ start_vus: 1, stages: [ { to: 5, over: 10s } ] }",
        );
        let error = compiled(&stages, &["-d", "5s"]).unwrap_err();
        assert!(error.contains("give --vus or --rate"), "{error}");
    }

    #[test]
    fn headers_and_insecure_go_into_the_defaults() {
        let flags = ["-H", "X-Team: a: \"b\"", "-H", "accept: text/html", "--insecure"];

        let plan = compiled(TWO, &flags).unwrap().plan;

        assert!(plan.http.tls.insecure);
        let text = serde_json::to_string(&plan.workflows).unwrap();
        assert!(text.contains("x-team") && text.contains("a: \\\"b\\\""), "{text}");
    }
}
