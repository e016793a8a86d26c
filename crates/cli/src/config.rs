//! Settings: from a file, from variables, from flags; the later wins.
//!
//! [`SETTINGS`] is the one table. A setting is a flag of some command: its help, variable, default
//! and check are the flag's. What a file or a variable says becomes the flag's default, so that all
//! three ways end in the same place.

mod file;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use crate::args::Args;
use crate::config::file::{File, Place};
use crate::exit::{Exit, Failure};

/// What a setting holds, as a file writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Count,
    List,
    /// Shown as asterisks.
    Secret,
    /// `NAME:ROLE:TOKEN`, with the token shown as asterisks.
    Tokens,
}

/// A setting: the key of a file, which is the flag with `_` for `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setting {
    key: &'static str,
    kind: Kind,
}

const fn setting(key: &'static str, kind: Kind) -> Setting {
    Setting { key, kind }
}

/// All settings, in the order of the documentation.
const SETTINGS: &[Setting] = &[
    setting("roles", Kind::List),
    setting("listen", Kind::Text),
    setting("advertise", Kind::Text),
    setting("join", Kind::List),
    setting("gates", Kind::List),
    setting("peers", Kind::List),
    setting("api", Kind::Text),
    setting("metrics", Kind::Text),
    setting("otlp_endpoint", Kind::Text),
    setting("tokens", Kind::Tokens),
    setting("certs", Kind::Text),
    setting("data_dir", Kind::Text),
    setting("cluster", Kind::Text),
    setting("environment", Kind::Text),
    setting("datacenter", Kind::Text),
    setting("cores", Kind::Count),
    setting("window", Kind::Text),
    setting("execution_lease", Kind::Text),
    setting("renewal", Kind::Text),
    setting("leader_lease", Kind::Text),
    setting("election", Kind::Text),
    setting("retention", Kind::Text),
    setting("drain", Kind::Text),
    setting("reap_voters_after", Kind::Text),
    setting("api_rate", Kind::Count),
    setting("api_burst", Kind::Count),
    setting("api_connections", Kind::Count),
    setting("gate", Kind::List),
    setting("api_token", Kind::Secret),
    setting("log", Kind::Text),
    setting("log_format", Kind::Text),
];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Default,
    File(Place),
    Variable(String),
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "{place}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// A setting as it holds for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Effective {
    setting: Setting,
    /// None if it is not set.
    values: Vec<String>,
    origin: Origin,
}

/// A command line with everything that settings add to it.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) args: Args,
    /// The command's name, and its settings.
    command: String,
    effective: Vec<Effective>,
}

/// Why there is nothing to do.
#[derive(Debug)]
pub(crate) enum ParseError {
    /// The flags are wrong, or help was asked for.
    Usage(clap::Error),
    /// The file is wrong.
    File(Failure),
}

type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Reads the command line, and the variables and the file beside it.
pub(crate) fn parse(
    line: impl IntoIterator<Item = OsString>,
    variables: Variables<'_>,
) -> Result<Parsed, ParseError> {
    let line: Vec<OsString> = line.into_iter().collect();
    let plain = with_defaults(Args::command(), None, variables);
    let first = plain.try_get_matches_from(&line).map_err(ParseError::Usage)?;
    // What the file is called must be known before it can be read.
    let path = first.get_one::<PathBuf>("config").cloned();
    let path = path.or_else(|| variables("HYPERSCALE_CONFIG").map(PathBuf::from));
    let file = path.map(|path| File::read(&path)).transpose().map_err(ParseError::File)?;
    let command = with_defaults(Args::command(), file.as_ref(), variables);
    let matches = command.clone().try_get_matches_from(&line);
    let matches = matches.map_err(|error| match at_place(&error, &command, file.as_ref()) {
        Some(failure) => ParseError::File(failure),
        None => ParseError::Usage(error),
    })?;
    let args = Args::from_arg_matches(&matches).map_err(ParseError::Usage)?;
    let (path, command, matches) = innermost(&command, &matches);
    let effective = effective(command, matches, file.as_ref(), variables);
    Ok(Parsed { args, command: path, effective })
}

/// The command with what the file and the variables say as the defaults of its flags.
fn with_defaults(mut command: Command, file: Option<&File>, variables: Variables<'_>) -> Command {
    let settings: Vec<Setting> =
        SETTINGS.iter().filter(|setting| has(&command, setting.key)).copied().collect();
    for Setting { key, .. } in settings {
        command = command.mut_arg(key, |arg| {
            let variable = arg.get_env().and_then(|name| variables(&name.to_string_lossy()));
            let value = match (variable, file.and_then(|file| file.values(key))) {
                (Some(value), _) => vec![value],
                (None, Some(values)) => values.iter().map(OsString::from).collect(),
                (None, None) => return arg,
            };
            // A flag that must be given has no default: what asks for it means it.
            if arg.is_required_set() { arg } else { arg.default_values(value) }
        });
    }
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |command| with_defaults(command, file, variables));
    }
    command
}

fn has(command: &Command, key: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == key)
}

/// If a value of the file is what is wrong: where it stands.
fn at_place(error: &clap::Error, command: &Command, file: Option<&File>) -> Option<Failure> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = flag.trim_start_matches('-').split([' ', '=']).next()?;
    let arg = all_args(command).into_iter().find(|arg| arg.get_long() == Some(name))?;
    let file = file?;
    let place = file.place(arg.get_id().as_str())?;
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    file.values(arg.get_id().as_str())?.iter().find(|known| *known == value)?;
    let why = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(words))) => {
            format!("expected one of: {}", words.join(", "))
        }
        (None, _) => "it is not what this setting holds".to_owned(),
    };
    let key = arg.get_id();
    let message = format!(
        "the configuration is invalid\n\nerror: `{value}` is no value for `{key}`\n  --> {place}\n   \
         = {why}"
    );
    Some(Failure::new(Exit::Invalid, message))
}

fn all_args(command: &Command) -> Vec<&Arg> {
    let own = command.get_arguments();
    own.chain(command.get_subcommands().flat_map(all_args)).collect()
}

/// The command that was given, with what it was given.
fn innermost<'a>(
    command: &'a Command,
    matches: &'a ArgMatches,
) -> (String, &'a Command, &'a ArgMatches) {
    let (mut command, mut matches, mut path) = (command, matches, command.get_name().to_owned());
    while let Some((name, inner)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, matches) = (found, inner);
        path.push(' ');
        path.push_str(name);
    }
    (path, command, matches)
}

fn effective(
    command: &Command,
    matches: &ArgMatches,
    file: Option<&File>,
    variables: Variables<'_>,
) -> Vec<Effective> {
    let root = Args::command();
    let mut effective = Vec::new();
    for &setting in SETTINGS {
        let key = setting.key;
        // Flags of every command are known to the root only.
        let arg = command.get_arguments().chain(root.get_arguments());
        let Some(arg) = arg.into_iter().find(|arg| arg.get_id() == key) else { continue };
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
        let place = file.and_then(|file| file.place(key));
        let is_variable = variable.as_deref().is_some_and(|name| variables(name).is_some());
        let origin = match (matches.value_source(key), place) {
            (Some(ValueSource::CommandLine), _) => {
                Origin::Flag(arg.get_long().unwrap_or(key).to_owned())
            }
            (_, _) if is_variable => Origin::Variable(variable.unwrap_or_default()),
            (_, Some(place)) => Origin::File(place),
            (_, None) => Origin::Default,
        };
        let values = matches.get_raw(key).into_iter().flatten();
        let values = values.map(|value| value.to_string_lossy().into_owned()).collect();
        effective.push(Effective { setting, values, origin });
    }
    effective
}

impl Parsed {
    /// The effective settings as TOML, each with its origin.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("# Settings of `{}`, with the origin of each.\n", self.command);
        for Effective { setting, values, origin } in &self.effective {
            let key = setting.key;
            let value = match (setting.kind, values.as_slice()) {
                (_, []) => {
                    text.push_str(&format!("# {key} is not set\n"));
                    continue;
                }
                (Kind::Text, [first, ..]) => quoted(first),
                (Kind::Count, [first, ..]) => first.clone(),
                (Kind::Secret, _) => quoted("********"),
                (Kind::List, all) => list(all.iter().cloned()),
                (Kind::Tokens, all) => list(all.iter().map(|token| masked(token))),
            };
            text.push_str(&format!("{key} = {value} # {origin}\n"));
        }
        text
    }
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.map(|value| quoted(&value)).collect::<Vec<_>>().join(", "))
}

fn masked(token: &str) -> String {
    match token.rsplit_once(':') {
        Some((who, _)) => format!("{who}:********"),
        None => "********".to_owned(),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
