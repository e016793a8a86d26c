//! Figures and the summary as text.

use std::fmt::Write;
use std::time::Duration;

use hyperscale_model::{Outcome, Verdict};

use hyperscale_wire::GapCause;

use crate::{GapView, JobResult, Latency, RowsView, Summary, ThresholdView};

/// A duration in the unit that gives three digits: `812 µs`, `43.1 ms`, `1.24 s`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let (number, unit) = parts(duration);
    format!("{number} {unit}")
}

/// The same in nine columns, so that decimal points stand below each other.
#[must_use]
pub fn aligned_duration(duration: Duration) -> String {
    let (number, unit) = parts(duration);
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) => (whole, format!(".{decimals}")),
        None => (number.as_str(), String::new()),
    };
    format!("{whole:>3}{decimals:<3} {unit:<2}")
}

fn parts(duration: Duration) -> (String, &'static str) {
    let us = duration.as_secs_f64() * 1e6;
    if us <= 0.0 {
        return ("0".to_owned(), "µs");
    }
    // Halves round up: 999.7 µs are 1.00 ms, not 1000 µs.
    let (value, unit) = if us < 999.5 {
        (us, "µs")
    } else if us < 999.5e3 {
        (us / 1e3, "ms")
    } else {
        (us / 1e6, "s")
    };
    (digits(value), unit)
}

fn digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Bytes in binary units: `512 B`, `1.50 MiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 1_023.5 {
            break;
        }
        value /= 1_024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{} {unit}", digits(value)) }
}

/// A number with thousands separators.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate per second with thousands separators.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive")]
pub fn rate(per_second: f64) -> String {
    if per_second < 99.95 {
        format!("{per_second:.1}/s")
    } else {
        format!("{}/s", count(per_second.round() as u64))
    }
}

/// A share with one decimal; what is not zero is never shown as zero.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub fn share(part: u64, all: u64) -> String {
    if part == 0 || all == 0 {
        return "0.0 %".to_owned();
    }
    let percent = part as f64 / all as f64 * 100.0;
    if percent < 0.1 {
        "<0.1 %".to_owned()
    } else if part < all && percent >= 99.95 {
        ">99.9 %".to_owned() // Not all.
    } else {
        format!("{percent:.1} %")
    }
}

/// A threshold's figure in the unit of its metric.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates")]
pub fn threshold_value(threshold: &ThresholdView) -> String {
    let Some(value) = threshold.value else { return "no data".to_owned() };
    let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '.');
    let name: String = threshold.expression.trim().chars().take_while(|&c| is_name(c)).collect();
    let (metric, aggregate) = name.split_once('.').unwrap_or((&name, ""));
    match (metric, aggregate) {
        (_, "rate") => rate(value.max(0.0)),
        (_, "count") => count(value.max(0.0).round() as u64),
        ("latency" | "service_time" | "connect" | "tls" | "first_byte" | "lag", aggregate)
            if aggregate != "share" =>
        {
            us(value * 1e3)
        }
        ("failed" | "checks", "" | "share") => {
            let parts_per_billion = (value * 1e9).round().max(0.0) as u64;
            // What is not zero is never shown as zero, however small.
            let part = if value > 0.0 { parts_per_billion.max(1) } else { 0 };
            share(part, 1_000_000_000)
        }
        ("bytes_in" | "bytes_out", _) => bytes(value.max(0.0) as u64),
        ("requests" | "iterations" | "dropped" | "vus" | "failed" | "checks", _) => {
            count(value.max(0.0).round() as u64)
        }
        _ => digits(value),
    }
}

fn us(value: f64) -> String {
    duration(Duration::from_secs_f64(value.max(0.0) / 1e6))
}

/// The verdict in a line.
pub(crate) fn headline(summary: &Summary) -> String {
    let broken = summary.thresholds.iter().filter(|threshold| !threshold.passed).count();
    let all = summary.thresholds.len();
    let thresholds = if all == 1 { "threshold" } else { "thresholds" };
    match (summary.status.as_str(), summary.verdict) {
        ("completed", Verdict::Passed) if all == 1 => "PASSED: the threshold held".to_owned(),
        ("completed", Verdict::Passed) => format!("PASSED: all {all} thresholds held"),
        ("completed", Verdict::NotJudged) => "DONE: no thresholds to judge".to_owned(),
        ("completed", Verdict::Broken) => format!("FAILED: {broken} of {all} {thresholds} broken"),
        (status, _) => {
            let status = status.to_uppercase().replace('_', " ");
            match &summary.cause {
                Some(cause) => format!("{status}: {cause}"),
                None => status,
            }
        }
    }
}

/// A gap in words, without its time.
pub(crate) fn gap_text(gap: &GapView) -> String {
    let amount = if gap.starts > 0 {
        format!("{} starts", count(gap.starts))
    } else {
        format!("{:.1} user-seconds", gap.vu_seconds)
    };
    let cause = match gap.cause {
        GapCause::WorkerLost => "was lost",
        GapCause::WorkerRestarted => "had started anew",
        GapCause::CoreLost => "lost a core",
        GapCause::WorkerDrained => "left",
    };
    format!("{} shard {}: {amount} not sent, {} {cause}", gap.workflow, gap.shard, gap.worker)
}

/// What became of a source's rows, in a line.
pub(crate) fn rows_text(rows: &RowsView) -> String {
    let possibly = match rows.possibly_sent {
        0 => String::new(),
        rows => format!(", {} possibly sent (their worker was lost)", count(rows)),
    };
    let (name, all) = (plain(&rows.source), count(rows.rows));
    let (sent, left) = (count(rows.sent), count(rows.left));
    format!("rows of {name}: {sent} of {all} sent, {left} left{possibly}")
}

/// The summary as a person reads it after a run: the verdict first, and ten steps on one screen.
#[must_use]
pub fn summary_text(result: &JobResult) -> String {
    let mut text = String::new();
    match write_summary(&mut text, result) {
        Ok(()) => text,
        Err(_) => unreachable!("text takes whatever is written to it"),
    }
}

fn write_summary(text: &mut String, result: &JobResult) -> std::fmt::Result {
    let summary = &result.summary;
    let partial = if summary.partial { "  (partial: see gaps)" } else { "" };
    writeln!(text, "{}{partial}", headline(summary))?;
    writeln!(text, " {}  {}", plain(&summary.name), summary.job)?;
    let width = summary.thresholds.iter().map(|t| t.expression.chars().count()).max().unwrap_or(0);
    for threshold in &summary.thresholds {
        let sign = if threshold.passed { "✓" } else { "✗" };
        let value = threshold_value(threshold);
        let since = match threshold.broken_since_ms {
            Some(at) if !threshold.passed => format!("  since {}", job_time(at)),
            _ => String::new(),
        };
        writeln!(text, " {sign} {:width$}   {value}{since}", plain(&threshold.expression))?;
    }
    write_totals(text, summary)?;
    write_steps(text, summary)?;
    write_failures(text, result)?;
    for check in summary.checks.iter().filter(|check| check.failed > 0) {
        let all = check.passed + check.failed;
        let failed = share(check.failed, all);
        let (name, step) = (plain(&check.name), plain(&check.step));
        writeln!(text, " ✗ check `{name}` of {step}: {failed} of {} failed", count(all))?;
    }
    for gap in &summary.gaps {
        let length = duration(Duration::from_millis(gap.to_ms.saturating_sub(gap.from_ms)));
        writeln!(text, " ! gap {} ({length}): {}", job_time(gap.from_ms), gap_text(gap))?;
    }
    for rows in &summary.rows {
        writeln!(text, " {}", rows_text(rows))?;
    }
    if summary.late_requests > 0 {
        let late = count(summary.late_requests);
        writeln!(text, " ! {late} requests were reported too late to be counted")?;
    }
    let busy = format!("busiest core {:.0} %", summary.generator.busy_share * 100.0);
    let lag = us(summary.lag_us.p99);
    match &summary.generator.reason {
        None => writeln!(text, " generator ok: lag p99 {lag}, {busy}"),
        Some(reason) => writeln!(
            text,
            " ! THE GENERATOR WAS THE BOTTLENECK, not the target: {reason} (lag p99 {lag}, {busy})"
        ),
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
fn write_totals(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let totals = &summary.totals;
    let seconds = (summary.duration_ms as f64 / 1e3).max(1e-3);
    let Latency { p50, p90, p95, p99, p99_9, max, count: samples, .. } = summary.latency_us;
    writeln!(
        text,
        " requests {} ({})   failed {}   in {seconds:.1} s",
        count(totals.requests),
        rate(totals.requests as f64 / seconds),
        share(totals.failed(), totals.requests),
    )?;
    let cut = if totals.iterations_cut > 0 {
        format!("   cut {}", count(totals.iterations_cut))
    } else {
        String::new()
    };
    let late = if totals.dropped_late > 0 {
        format!(" ({} by a late generator)", count(totals.dropped_late))
    } else {
        String::new()
    };
    writeln!(
        text,
        " iterations {}{cut}   dropped {}{late}   received {}   sent {}",
        count(totals.iterations),
        count(totals.dropped),
        bytes(totals.bytes_in),
        bytes(totals.bytes_out),
    )?;
    if samples == 0 {
        return writeln!(text, " latency none: no request ended by itself");
    }
    writeln!(
        text,
        " latency p50 {}   p90 {}   p95 {}\n         p99 {}   p99.9 {}   max {}{}",
        us(p50),
        us(p90),
        us(p95),
        us(p99),
        us(p99_9),
        us(max),
        if samples < 100 { " *" } else { "" },
    )
}

fn write_steps(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let names = summary.steps.iter().map(|step| step.name.chars().count());
    let width = names.max().unwrap_or(4).clamp(4, 40);
    let (p50, p95, p99) = ("p50   ", "p95   ", "p99   ");
    if summary.steps.is_empty() {
        return Ok(());
    }
    writeln!(text)?;
    writeln!(
        text,
        " {:width$} {:>10} {:>7} {p50:>9} {p95:>9} {p99:>9}    max",
        "step", "requests", "failed"
    )?;
    let aligned = |us: f64| aligned_duration(Duration::from_secs_f64(us.max(0.0) / 1e6));
    for step in &summary.steps {
        let latency = &step.latency_us;
        let few = if (1..100).contains(&latency.count) { "*" } else { "" };
        let aligned = |us: f64| if latency.count == 0 { String::new() } else { aligned(us) };
        let row = format!(
            " {:width$} {:>10} {:>7} {} {} {} {}{few}",
            shortened(&plain(&step.name), width),
            count(step.totals.requests),
            share(step.totals.failed(), step.totals.requests),
            aligned(latency.p50),
            aligned(latency.p95),
            aligned(latency.p99),
            aligned(latency.max),
        );
        writeln!(text, "{}", row.trim_end())?;
    }
    if summary.steps.iter().any(|step| (1..100).contains(&step.latency_us.count)) {
        writeln!(text, " * fewer than 100 requests: percentiles say little")?;
    }
    Ok(())
}

/// Outcomes by cause, with an example each.
fn write_failures(text: &mut String, result: &JobResult) -> std::fmt::Result {
    let totals = &result.summary.totals;
    for outcome in Outcome::ALL.into_iter().filter(|outcome| outcome.is_failure()) {
        let Some(&failed) = totals.outcomes.get(outcome.as_str()).filter(|&&count| count > 0)
        else {
            continue;
        };
        let part = share(failed, totals.requests);
        let example = result.exchanges.iter().find(|exchange| exchange.outcome == outcome);
        let example = example.map_or_else(String::new, |exchange| {
            let step = result.plan.steps.get(exchange.step.get());
            let step = step.map_or("", |step| step.name.as_str());
            // Without words of its own an exchange tells by the first line of its answer.
            let error = match exchange.error.as_str() {
                "" => exchange.answer.lines().next().unwrap_or_default(),
                error => error,
            };
            format!(": {} in {}", plain(error), plain(step))
        });
        let line = format!("{} {} ({part}){example}", outcome.as_str(), count(failed));
        writeln!(text, " ✗ {}", shortened(&line, 160))?;
    }
    Ok(())
}

/// Text of the test or the target on one line of a terminal: control characters cannot act.
#[must_use]
pub fn plain(text: &str) -> String {
    // Directions may be overridden by characters that aren't controls: those go too.
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|char| if acts(char) { ' ' } else { char }).collect()
}

/// Text cut to a number of characters; that something was cut shows.
#[must_use]
pub fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A time of the job, as `+02:14`.
#[must_use]
pub fn job_time(millis: u64) -> String {
    let seconds = millis / 1_000;
    if seconds >= 3_600 {
        format!("+{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
    } else {
        format!("+{:02}:{:02}", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn figures_have_three_digits_and_never_hide_a_failure() {
        assert_eq!(duration(Duration::from_micros(812)), "812 µs");
        assert_eq!(duration(Duration::from_micros(43_100)), "43.1 ms");
        assert_eq!(duration(Duration::from_millis(1_240)), "1.24 s");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(share(1, 1_000_000), "<0.1 %");
        assert_eq!(share(0, 7), "0.0 %");
        assert_eq!(share(9_999, 10_000), ">99.9 %");
        assert_eq!(duration(Duration::from_nanos(999_700)), "1.00 ms");
        assert_eq!(bytes(1_572_864), "1.50 MiB");
        assert_eq!(bytes(1_000), "1000 B");
    }

    #[test]
    fn durations_stand_with_their_points_below_each_other() {
        let aligned =
            [812, 43_100, 1_240_000].map(|us| aligned_duration(Duration::from_micros(us)));

        assert_eq!(aligned, ["812    µs", " 43.1  ms", "  1.24 s "]);
    }

    #[test]
    fn threshold_figures_have_the_unit_of_their_metric() {
        let shown = |expression: &str, value: f64| {
            let (expression, value) = (expression.to_owned(), Some(value));
            let view = ThresholdView { expression, passed: true, value, broken_since_ms: None };
            threshold_value(&view)
        };

        assert_eq!(shown("latency.p95{step=a} < 300ms", 88.04), "88.0 ms");
        assert_eq!(shown("failed < 0.3%", 0.004), "0.4 %");
        assert_eq!(shown("failed < 0.3%", 1e-12), "<0.1 %");
        assert_eq!(shown("requests.rate > 100/s", 2_231.4), "2,231/s");
        assert_eq!(shown("latency.count > 5", 12.0), "12");
        assert_eq!(shown("dropped == 0", 1_200.0), "1,200");
    }

    #[test]
    fn ten_steps_fit_on_one_screen() {
        let mut result = sample::result();
        let step = result.summary.steps[0].clone();
        result.summary.steps = vec![step; 10];

        let text = summary_text(&result);

        assert!(text.starts_with("FAILED: 1 of 2 thresholds broken"), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
        let mut rows = text.lines().filter(|line| !line.starts_with(" !"));
        assert!(rows.all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn what_a_target_answers_cannot_steer_the_terminal() {
        assert_eq!(plain("\u{1b}[2J\u{202e}x\n"), " [2J x ");
    }
}
