//! Commands about test files.

use std::io::Write as _;

use hyperscale_plan::json_schema;

use crate::args::ValidateArgs;
use crate::exit::{Exit, Failure};
use crate::source;

pub(crate) fn validate(args: &ValidateArgs) -> Result<Exit, Failure> {
    let compiled = source::of_file(&args.file.to_string_lossy(), &args.sets)?;
    let mut out = std::io::stdout();
    let written = (|| {
        for warning in &compiled.warnings {
            writeln!(out, "{warning}\n")?;
        }
        let plan = &compiled.plan;
        writeln!(
            out,
            "{}: {}, {}, {}; nothing is wrong",
            args.file.display(),
            counted(plan.workflows.len(), "workflow"),
            counted(plan.steps.len(), "step"),
            counted(plan.thresholds.len(), "threshold")
        )
    })();
    written.map_err(|error| Failure::caused(Exit::Io, "cannot write", &error))?;
    Ok(Exit::Passed)
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(crate) fn schema() -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(&json_schema())
        .map_err(|error| Failure::internal("the schema cannot be written", &error))?;
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure::caused(Exit::Io, "cannot write", &error))?;
    Ok(Exit::Passed)
}
