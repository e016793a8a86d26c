//! How a command ends. The numbers are k6's where the cause is the same.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All well.
    Passed = 0,
    /// A threshold is broken.
    Broken = 99,
    /// The job's time was over.
    TimedOut = 102,
    /// The test or a setting is invalid.
    Invalid = 104,
    /// Somebody stopped it.
    Interrupted = 105,
    /// An address cannot be listened on.
    ApiFailed = 106,
    /// The test asked to stop.
    Aborted = 108,
    /// The job failed.
    Failed = 111,
    /// The gate cannot be reached, or refuses.
    Refused = 112,
    /// A file or directory cannot be used.
    Io = 113,
    /// Nothing answered, of what was pinged.
    Unanswered = 114,
    /// Something that should not happen.
    Internal = 120,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, in words for people.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A failure with the chain of its causes, each told once.
    pub(crate) fn caused(exit: Exit, what: &str, error: &dyn Error) -> Self {
        let mut message = what.to_owned();
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { exit, message }
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn internal(what: &str, error: &dyn Error) -> Self {
        Self::caused(Exit::Internal, what, error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// Says what went wrong.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    // If even standard error is closed, the exit code has to say it all.
    drop(writeln!(std::io::stderr(), "hyperscale: {}", failure.message));
    failure.exit.into()
}

/// Says what is wrong with the flags, or shows the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    if error.use_stderr() { Exit::Invalid.into() } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_in_the_page_and_in_the_help() {
        let all = [
            Exit::Passed,
            Exit::Broken,
            Exit::TimedOut,
            Exit::Invalid,
            Exit::Interrupted,
            Exit::ApiFailed,
            Exit::Aborted,
            Exit::Failed,
            Exit::Refused,
            Exit::Io,
            Exit::Unanswered,
            Exit::Internal,
        ];
        let page = include_str!("../../../docs/exit-codes.md");

        for exit in all {
            let code = exit as u8;
            assert!(page.contains(&format!("| {code} |")), "docs/exit-codes.md lacks {code}");
            let help = crate::args::EXIT_CODES;
            let mut words = help.split(|c: char| !c.is_ascii_digit());
            assert!(words.any(|word| word == code.to_string()), "the help lacks {code}");
        }
    }
}
