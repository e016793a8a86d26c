//! Figures and the summary as text.

use std::fmt::Write;
use std::time::Duration;

use hyperscale_model::{Outcome, Verdict};

use crate::{Latency, Summary, Totals};

/// A duration in the unit that gives three digits: `812 µs`, `43.1 ms`, `1.24 s`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    let (value, unit) = if us < 1e3 {
        (us, "µs")
    } else if us < 1e6 {
        (us / 1e3, "ms")
    } else {
        (us / 1e6, "s")
    };
    if value < 10.0 {
        format!("{value:.2} {unit}")
    } else if value < 100.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
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
    if per_second < 100.0 {
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
    if percent < 0.1 { "<0.1 %".to_owned() } else { format!("{percent:.1} %") }
}

fn us(value: f64) -> String {
    duration(Duration::from_secs_f64(value.max(0.0) / 1e6))
}

/// The summary as a person reads it after a run: the verdict first.
#[must_use]
pub fn summary_text(summary: &Summary) -> String {
    let mut text = String::new();
    match write_summary(&mut text, summary) {
        Ok(()) => text,
        Err(_) => unreachable!("text takes whatever is written to it"),
    }
}

fn write_summary(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let broken = summary.thresholds.iter().filter(|threshold| !threshold.passed).count();
    let headline = match (summary.status.as_str(), summary.verdict) {
        ("completed", Verdict::Passed) => "PASSED: all thresholds held".to_owned(),
        ("completed", Verdict::NotJudged) => "DONE".to_owned(),
        ("completed", Verdict::Broken) => {
            format!("FAILED: {broken} of {} thresholds broken", summary.thresholds.len())
        }
        (status, _) => {
            let cause = summary.cause.clone().unwrap_or_default();
            format!("{}: {cause}", status.to_uppercase().replace('_', " "))
        }
    };
    let partial = if summary.partial { "  (partial: see gaps)" } else { "" };
    writeln!(text, "{headline}{partial}")?;
    writeln!(text, "{}  {}", summary.name, summary.job)?;
    for threshold in &summary.thresholds {
        let sign = if threshold.passed { "✓" } else { "✗" };
        let value = threshold.value.map_or_else(|| "no data".to_owned(), |v| format!("{v:.3}"));
        writeln!(text, "  {sign} {}   {value}", threshold.expression)?;
    }
    writeln!(text)?;
    write_totals(text, summary)?;
    writeln!(text)?;
    let width =
        summary.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(4).max(4);
    let (p50, p95, p99) = ("p50", "p95", "p99");
    writeln!(
        text,
        "  {:width$} {:>12} {:>8} {p50:>10} {p95:>10} {p99:>10} {:>10}",
        "step", "requests", "failed", "max"
    )?;
    for step in &summary.steps {
        let latency = &step.latency_us;
        writeln!(
            text,
            "  {:width$} {:>12} {:>8} {:>10} {:>10} {:>10} {:>10}{}",
            step.name,
            count(step.totals.requests),
            share(step.totals.failed(), step.totals.requests),
            us(latency.p50),
            us(latency.p95),
            us(latency.p99),
            us(latency.max),
            failures(&step.totals),
        )?;
    }
    for check in summary.checks.iter().filter(|check| check.failed > 0) {
        let all = check.passed + check.failed;
        let failed = share(check.failed, all);
        writeln!(text, "  ✗ check `{}` of {}: {failed} failed", check.name, check.step)?;
    }
    for gap in &summary.gaps {
        let amount = if gap.starts > 0 {
            format!("{} starts", count(gap.starts))
        } else {
            format!("{:.1} user-seconds", gap.vu_seconds)
        };
        writeln!(
            text,
            "  gap: {} shard {} from {} to {}: {amount} not sent ({})",
            gap.workflow,
            gap.shard,
            us(gap.from_ms as f64 * 1e3),
            us(gap.to_ms as f64 * 1e3),
            gap.worker,
        )?;
    }
    if summary.late_requests > 0 {
        let late = count(summary.late_requests);
        writeln!(
            text,
            "  {late} requests were reported after their attempt was closed: not counted"
        )?;
    }
    writeln!(text)?;
    let busy = format!("busiest core {:.0} %", summary.generator.busy_share * 100.0);
    let lag = us(summary.lag_us.p99);
    match &summary.generator.reason {
        None => writeln!(text, "  generator ok: lag p99 {lag}, {busy}"),
        Some(reason) => writeln!(
            text,
            "  THE GENERATOR WAS THE BOTTLENECK, not the target: {reason} (lag p99 {lag}, {busy})"
        ),
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
fn write_totals(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let totals = &summary.totals;
    let seconds = (summary.duration_ms as f64 / 1e3).max(1e-3);
    let Latency { p50, p90, p95, p99, p99_9, max, count: samples, .. } = summary.latency_us;
    let few = if samples < 100 { " (few samples)" } else { "" };
    writeln!(
        text,
        "  requests {} ({})   failed {}   iterations {}   dropped {}   in {:.1} s",
        count(totals.requests),
        rate(totals.requests as f64 / seconds),
        share(totals.failed(), totals.requests),
        count(totals.iterations),
        count(totals.dropped),
        seconds,
    )?;
    writeln!(
        text,
        "  latency  p50 {}   p90 {}   p95 {}   p99 {}   p99.9 {}   max {}   of {}{few}",
        us(p50),
        us(p90),
        us(p95),
        us(p99),
        us(p99_9),
        us(max),
        count(samples),
    )
}

fn failures(totals: &Totals) -> String {
    let mut text = String::new();
    let failed = totals
        .outcomes
        .iter()
        .filter(|(name, count)| **count > 0 && name.as_str() != Outcome::Ok.as_str());
    for (name, count) in failed {
        text.push_str(&format!("   {name} {count}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_never_hide_a_failure() {
        assert_eq!(duration(Duration::from_micros(812)), "812 µs");
        assert_eq!(duration(Duration::from_micros(43_100)), "43.1 ms");
        assert_eq!(duration(Duration::from_millis(1_240)), "1.24 s");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(share(1, 1_000_000), "<0.1 %");
        assert_eq!(share(0, 7), "0.0 %");
    }
}
