//! Logs go to standard error, so that standard output stays for results; while a screen is up, they
//! wait until it is gone.

use tracing_subscriber::EnvFilter;

use crate::args::LogArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::Log;

pub(crate) fn start(args: &LogArgs) -> Result<(), Failure> {
    // What consensus says of itself is for its own developers, unless asked for: it warns several
    // times a second of each peer that is gone, of which links tell once.
    let filter = EnvFilter::try_new(format!("openraft=error,{}", args.log)).map_err(|error| {
        Failure::caused(Exit::Invalid, &format!("--log `{}` is no filter", args.log), &error)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log);
    let started = match args.log_format.as_str() {
        "json" => builder.json().try_init(),
        _ => builder.try_init(),
    };
    started.map_err(|error| Failure::internal("logging does not start", error.as_ref()))
}
