//! What a finished job leaves behind.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use hyperscale_model::Verdict;
use hyperscale_report::{JobResult, csv, html, junit, summary_text};

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
    Csv,
    Html,
    Junit,
}

/// What the command line asks for, and what the test asks for besides.
pub(crate) fn parse_with(
    outs: &[String],
    of_test: &[(String, String)],
) -> Result<Vec<Out>, Failure> {
    let mut all = parse(outs)?;
    let of_test: Vec<String> =
        of_test.iter().map(|(kind, path)| format!("{kind}={path}")).collect();
    let given: Vec<Kind> = all.iter().map(|out| out.kind).collect();
    all.extend(parse(&of_test)?.into_iter().filter(|out| !given.contains(&out.kind)));
    Ok(all)
}

pub(crate) fn parse(outs: &[String]) -> Result<Vec<Out>, Failure> {
    (outs.iter())
        .map(|out| {
            let (kind, path) = out.split_once('=').unwrap_or((out, ""));
            let kind = match kind {
                "json" => Kind::Json,
                "csv" => Kind::Csv,
                "html" => Kind::Html,
                "junit" => Kind::Junit,
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
            let path = PathBuf::from(path);
            // Found out now, not after an hour of load.
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
                let message = format!(
                    "--out `{out}`: there is no directory {}; create it first",
                    directory.display()
                );
                return Err(Failure::new(Exit::Io, message));
            }
            if path.is_dir() {
                let message = format!("--out `{out}` names a directory; name a file in it");
                return Err(Failure::new(Exit::Io, message));
            }
            Ok(Out { kind, path })
        })
        .collect()
}

pub(crate) fn write(outs: &[Out], result: &JobResult) -> Result<(), Failure> {
    for out in outs {
        let text = match out.kind {
            Kind::Json => {
                let mut text = serde_json::to_string_pretty(&result.summary)
                    .map_err(|error| Failure::internal("the summary cannot be written", &error))?;
                text.push('\n');
                text
            }
            Kind::Csv => csv(result),
            Kind::Html => html(result),
            Kind::Junit => junit(result),
        };
        write_whole(&out.path, text.as_bytes()).map_err(|error| {
            Failure::caused(Exit::Io, &format!("cannot write {}", out.path.display()), &error)
        })?;
    }
    Ok(())
}

/// Writes a file beside its place and renames it: whoever reads it finds the old one or all of the
/// new one. What is no plain file (`/dev/stdout`, a pipe) is written as it is.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|known| !known.is_file()) {
        return std::fs::write(path, bytes);
    }
    // A link stays one: what it points to is replaced.
    let place = std::fs::canonicalize(path).unwrap_or_else(|_new| path.to_owned());
    let Some(name) = place.file_name() else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it names no file"));
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.part", std::process::id()));
    let beside = place.with_file_name(beside);
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, &place));
    if written.is_err() {
        // The first error counts; what is left of the part is only litter.
        drop(std::fs::remove_file(&beside));
    }
    written
}

/// Shows the summary and where the files lie; says how the command ends.
pub(crate) fn show(outs: &[Out], result: &JobResult, no_color: bool) -> Result<Exit, Failure> {
    let summary = &result.summary;
    let mut stdout = std::io::stdout();
    let mut text = summary_text(result);
    for out in outs {
        let kind = match out.kind {
            Kind::Html => "report",
            Kind::Json => "summary",
            Kind::Csv => "series",
            Kind::Junit => "junit",
        };
        let path = std::path::absolute(&out.path).unwrap_or_else(|_unknown| out.path.clone());
        text.push_str(&format!(" {kind}: {}\n", path.display()));
    }
    if !outs.iter().any(|out| out.kind == Kind::Html) && stdout.is_terminal() {
        text.push_str(" charts: run it with --out html=report.html\n");
    }
    if !no_color && stdout.is_terminal() {
        text = coloured(&text, summary.verdict, summary.status == "completed");
    }
    match stdout.write_all(text.as_bytes()) {
        // Nobody reads along any more; the code still says how the job ended.
        Err(error) if is_gone(&error) => {}
        written => written.map_err(|error| Failure::caused(Exit::Io, "cannot write", &error))?,
    }
    Ok(match (summary.status.as_str(), summary.verdict) {
        (_, Verdict::Broken) => Exit::Broken,
        ("completed", _) => Exit::Passed,
        ("cancelled", _) => Exit::Interrupted,
        ("timed_out", _) => Exit::TimedOut,
        ("failed", _) if summary.cause_kind.as_deref() == Some("test") => Exit::Aborted,
        _ => Exit::Failed,
    })
}

/// Whether there is nobody left at the other end: a closed pipe, or a terminal that hung up.
fn is_gone(error: &std::io::Error) -> bool {
    const EIO: i32 = 5;
    error.kind() == std::io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(EIO)
}

/// The verdict in bold, and signs in colours that the words beside them repeat.
fn coloured(text: &str, verdict: Verdict, is_completed: bool) -> String {
    let colour = match (is_completed, verdict) {
        (true, Verdict::Passed) => "32",
        (true, Verdict::NotJudged) => "1",
        (true, Verdict::Broken) | (false, _) => "31",
    };
    let mut coloured = String::with_capacity(text.len() + 64);
    for (number, line) in text.lines().enumerate() {
        let colour = match (number, line.trim_start().chars().next()) {
            (0, _) => format!("1;{colour}"),
            (_, Some('✓')) => "32".to_owned(),
            (_, Some('✗')) => "31".to_owned(),
            (_, Some('!')) => "33".to_owned(),
            _ => {
                coloured.push_str(line);
                coloured.push('\n');
                continue;
            }
        };
        coloured.push_str(&format!("\u{1b}[{colour}m{line}\u{1b}[0m\n"));
    }
    coloured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.html");
        std::fs::write(&path, "old").unwrap();

        write_whole(&path, b"new").unwrap();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_told() {
        let directory = tempfile::tempdir().unwrap();

        let error = write_whole(&directory.path().join("no").join("report.html"), b"").unwrap_err();

        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn an_unknown_kind_is_refused_with_what_there_is() {
        assert!(parse(&["html=a.html".to_owned(), "junit=b.xml".to_owned()]).is_ok());
        assert!(parse(&["pdf=a.pdf".to_owned()]).is_err());
        assert!(parse(&["html=".to_owned()]).is_err());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused_before_the_test() {
        assert!(parse(&["html=/no/such/directory/report.html".to_owned()]).is_err());
        assert!(parse(&["html=/".to_owned()]).is_err());
    }
}
