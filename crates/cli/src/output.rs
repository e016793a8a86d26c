//! What a finished job leaves behind.

use std::io::Write as _;
use std::path::PathBuf;

use hyperscale_model::Verdict;
use hyperscale_report::{JobResult, summary_text};

use crate::exit::{Exit, Failure};

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Out {
    kind: Kind,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
}

pub(crate) fn parse(outs: &[String]) -> Result<Vec<Out>, Failure> {
    (outs.iter())
        .map(|out| {
            let (kind, path) = out.split_once('=').unwrap_or((out, ""));
            let kind = match kind {
                "json" => Kind::Json,
                _ => {
                    let message = format!(
                        "--out `{out}`: expected json=PATH, csv=PATH, html=PATH or junit=PATH"
                    );
                    return Err(Failure::new(Exit::Invalid, message));
                }
            };
            if path.is_empty() {
                let message = format!("--out `{out}` has no path");
                return Err(Failure::new(Exit::Invalid, message));
            }
            Ok(Out { kind, path: PathBuf::from(path) })
        })
        .collect()
}

pub(crate) fn write(outs: &[Out], result: &JobResult) -> Result<(), Failure> {
    for out in outs {
        let text = match out.kind {
            Kind::Json => serde_json::to_string_pretty(&result.summary)
                .map_err(|error| Failure::internal("the summary cannot be written", &error))?,
        };
        std::fs::write(&out.path, text).map_err(|error| {
            Failure::caused(Exit::Io, &format!("cannot write {}", out.path.display()), &error)
        })?;
    }
    Ok(())
}

/// Shows the summary; says how the command ends.
pub(crate) fn show(result: &JobResult) -> Result<Exit, Failure> {
    let summary = &result.summary;
    writeln!(std::io::stdout(), "{}", summary_text(summary))
        .map_err(|error| Failure::caused(Exit::Io, "cannot write", &error))?;
    Ok(match (summary.status.as_str(), summary.verdict) {
        (_, Verdict::Broken) => Exit::Broken,
        ("completed", _) => Exit::Passed,
        ("cancelled", _) => Exit::Interrupted,
        ("timed_out", _) => Exit::TimedOut,
        ("failed", _) if summary.cause.as_deref().is_some_and(|cause| cause.contains("abort")) => {
            Exit::Aborted
        }
        _ => Exit::Failed,
    })
}
