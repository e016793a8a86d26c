//! From what stands on the command line to a compiled test.

use std::io::Read as _;
use std::path::Path;

use hyperscale_plan::{CompileOptions, Compiled, compile};
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
    let mut headers = Map::new();
    for header in &args.headers {
        let Some((name, value)) = header.split_once(':') else {
            let message = format!("--header `{header}` has no colon; write 'name: value'");
            return Err(Failure::new(Exit::Invalid, message));
        };
        headers.insert(name.trim().to_ascii_lowercase(), json!(value.trim()));
    }
    let mut step = json!({ "http": { "method": args.method.to_ascii_uppercase(), "url": source } });
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

/// The test that a command names.
pub(crate) fn of(source: &str, args: &LoadArgs) -> Result<Compiled, Failure> {
    if is_url(source) {
        return of_url(source, args);
    }
    let given = [
        ("--vus", args.vus.is_some()),
        ("--duration", args.duration.is_some()),
        ("--rate", args.rate.is_some()),
        ("--iterations", args.iterations.is_some()),
        ("--header", !args.headers.is_empty()),
        ("--body", args.body.is_some()),
        ("--insecure", args.insecure),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
        let message = format!(
            "{flag} is for a URL; {source} is a file, whose values are overridden by \
             --set PATH=VALUE, such as --set workflows.NAME.load.vus=50"
        );
        return Err(Failure::new(Exit::Invalid, message));
    }
    of_file(source, &args.sets)
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
