//! The series of a job as CSV, for spreadsheets and notebooks.

use std::fmt::Write as _;

use hyperscale_model::Outcome;
use hyperscale_stats::{Histogram, SparseHistogram};

use crate::{JobResult, Latency};

/// The figures over time: one row per window and step.
///
/// The header names the columns, units last: times in microseconds, percentiles of the row's
/// latencies (from the intended start), then one column per outcome. `at_ms` is the job's time at
/// which the window starts, `time_unix_ms` the same on the clock (empty if the job never started).
/// `vus` and `busiest_core_permille` are those of the whole window and repeat in each of its rows.
#[must_use]
pub fn csv(result: &JobResult) -> String {
    let mut text = String::from(
        "at_ms,length_ms,time_unix_ms,step,requests,failed,requests_per_second,retries,\
         bytes_in,bytes_out,latency_count,latency_us_min,latency_us_mean,latency_us_p50,\
         latency_us_p90,latency_us_p95,latency_us_p99,latency_us_p99_9,latency_us_max,\
         service_time_us_p50,service_time_us_p99,vus,busiest_core_permille",
    );
    for outcome in Outcome::ALL {
        text.push_str(",outcome_");
        text.push_str(outcome.as_str());
    }
    text.push('\n');
    for point in &result.series {
        let clock = result
            .started
            .map_or_else(String::new, |at| at.as_millis().saturating_add(point.at_ms).to_string());
        for (index, step) in &point.figures.steps {
            let name = result.plan.steps.get(index.get()).map_or("", |step| step.name.as_str());
            let latency = of(&step.latency);
            let service_time = of(&step.service_time);
            let requests = step.outcomes.total();
            let row = write!(
                text,
                "{},{},{clock},{},{requests},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                point.at_ms,
                point.length_ms,
                field(name),
                step.outcomes.failed(),
                per_second(requests, point.length_ms),
                step.retries,
                step.bytes_in,
                step.bytes_out,
                latency.count,
                latency.min,
                latency.mean,
                latency.p50,
                latency.p90,
                latency.p95,
                latency.p99,
                latency.p99_9,
                latency.max,
                service_time.p50,
                service_time.p99,
                point.vus,
                point.busiest_core,
            );
            debug_assert!(row.is_ok(), "text takes whatever is written to it");
            for (_, count) in step.outcomes.iter() {
                text.push(',');
                text.push_str(&count.to_string());
            }
            text.push('\n');
        }
    }
    text
}

fn of(histogram: &SparseHistogram) -> Latency {
    let dense: Histogram = histogram.to_dense();
    Latency::of(&dense)
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: u64, length_ms: u64) -> f64 {
    count as f64 * 1e3 / length_ms.max(1) as f64
}

/// A field by RFC 4180. Spreadsheets take what starts with one of `=+-@` for a formula: a quote
/// before it keeps it text.
fn field(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn every_row_has_as_many_fields_as_the_header_and_counts_add_up() {
        let result = sample::result();

        let text = csv(&result);

        let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = rows.next().unwrap();
        let requests = header.iter().position(|name| *name == "requests").unwrap();
        let mut total = 0;
        for row in rows {
            assert_eq!(row.len(), header.len(), "{row:?}");
            total += row[requests].parse::<u64>().unwrap();
        }
        assert_eq!(total, result.summary.totals.requests);
    }

    #[test]
    fn names_cannot_break_a_row_nor_become_a_formula() {
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(field("=cmd()"), "\"'=cmd()\"");
        assert_eq!(field("browse/list"), "browse/list");
    }
}
