//! The verdict of a job as JUnit XML, for CI systems.

use std::fmt::Write as _;

use crate::{JobResult, ThresholdView, count, share, threshold_value};

/// Thresholds and checks as test cases: a broken threshold and a check that did not always hold
/// are failures, a threshold without data is skipped, a job that did not complete is an error.
#[must_use]
pub fn junit(result: &JobResult) -> String {
    let mut text = String::new();
    match write_junit(&mut text, result) {
        Ok(()) => text,
        Err(_) => unreachable!("text takes whatever is written to it"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds")]
fn write_junit(text: &mut String, result: &JobResult) -> std::fmt::Result {
    let summary = &result.summary;
    let seconds = summary.duration_ms as f64 / 1e3;
    let is_completed = summary.status == "completed";
    let is_broken = |threshold: &&ThresholdView| !threshold.passed;
    let is_skipped = |threshold: &&ThresholdView| threshold.passed && threshold.value.is_none();
    let broken = summary.thresholds.iter().filter(is_broken).count();
    let skipped = summary.thresholds.iter().filter(is_skipped).count();
    let failed_checks = summary.checks.iter().filter(|check| check.failed > 0).count();
    let (tests, failures) =
        (1 + summary.thresholds.len() + summary.checks.len(), broken + failed_checks);
    let errors = usize::from(!is_completed);
    let name = escape(&summary.name);
    writeln!(text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(
        text,
        "<testsuites tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" time=\"{seconds}\">"
    )?;
    writeln!(
        text,
        "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" \
         errors=\"{errors}\" skipped=\"{skipped}\" time=\"{seconds}\">"
    )?;
    writeln!(text, "    <properties>")?;
    writeln!(text, "      <property name=\"job\" value=\"{}\"/>", summary.job)?;
    for (label, value) in &summary.labels {
        let (label, value) = (escape(label), escape(value));
        writeln!(text, "      <property name=\"label.{label}\" value=\"{value}\"/>")?;
    }
    writeln!(text, "    </properties>")?;
    write!(text, "    <testcase classname=\"{name}\" name=\"job\" time=\"{seconds}\"")?;
    if is_completed {
        writeln!(text, "/>")?;
    } else {
        let cause = escape(summary.cause.as_deref().unwrap_or_default());
        let status = escape(&summary.status);
        writeln!(text, "><error type=\"{status}\" message=\"{cause}\"/></testcase>")?;
    }
    for threshold in &summary.thresholds {
        let expression = escape(&threshold.expression);
        let value = escape(&threshold_value(threshold));
        write!(text, "    <testcase classname=\"{name}.thresholds\" name=\"{expression}\"")?;
        match (threshold.passed, threshold.value) {
            (true, Some(_)) => writeln!(text, "/>")?,
            (true, None) => writeln!(text, "><skipped message=\"no data\"/></testcase>")?,
            (false, _) => writeln!(
                text,
                "><failure type=\"threshold\" message=\"{expression} is broken: {value}\"/>\
                 </testcase>"
            )?,
        }
    }
    for check in &summary.checks {
        let (step, check_name) = (escape(&check.step), escape(&check.name));
        write!(text, "    <testcase classname=\"{name}.{step}\" name=\"{check_name}\"")?;
        if check.failed == 0 {
            writeln!(text, "/>")?;
        } else {
            let all = check.passed + check.failed;
            writeln!(
                text,
                "><failure type=\"check\" message=\"failed {} of {} times ({})\"/></testcase>",
                count(check.failed),
                count(all),
                escape(&share(check.failed, all))
            )?;
        }
    }
    writeln!(text, "  </testsuite>\n</testsuites>")
}

/// Text as it may stand in an attribute of XML 1.0, which has no place for most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            '\t' => escaped.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn broken_thresholds_and_failed_checks_are_failures() {
        let text = junit(&sample::result());

        assert!(text.contains("failures=\"2\""), "{text}");
        assert!(text.contains("name=\"latency.p95 &lt; 300ms\"/>"), "{text}");
        assert!(text.contains("failed &lt; 1% is broken: 10.0 %"), "{text}");
    }

    #[test]
    fn a_job_that_did_not_complete_is_an_error() {
        let mut result = sample::result();
        result.summary.status = "timed_out".to_owned();
        result.summary.cause = Some("its \"time\" <was> over\u{0}".to_owned());

        let text = junit(&result);

        assert!(text.contains("errors=\"1\""), "{text}");
        assert!(text.contains("its &quot;time&quot; &lt;was&gt; over\u{fffd}"), "{text}");
    }
}
