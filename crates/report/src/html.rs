//! A job as one page that needs no network.
//!
//! The windows lie in the page as JSON with sparse histograms; its script merges those of a chosen
//! time and computes percentiles as [`hyperscale_stats::Histogram`] does, bucket for bucket.
//! Whatever comes from the test or its target is text: in HTML it is escaped, in the JSON no `<`
//! stands, and the script makes text nodes only.

use std::time::Duration;

use hyperscale_model::{Outcome, Verdict};
use hyperscale_plan::{Load, Plan, Split, Workflow};
use hyperscale_stats::SparseHistogram;
use serde_json::{Value, json};

use crate::summary::millis;
use crate::terminal::{gap_text, headline, rows_text};
use crate::{JobResult, SeriesPoint, job_time, summary_text, threshold_value};

const STYLE: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");

/// The report of a job as one HTML file.
#[must_use]
pub fn html(result: &JobResult) -> String {
    let summary = &result.summary;
    let class = match (summary.status.as_str(), summary.verdict) {
        ("completed", Verdict::Passed) => "good",
        ("completed", Verdict::NotJudged) => "",
        _ => "bad",
    };
    // `<` never stands in the data: no text in it can end its element or open a comment.
    let data = data(result).to_string().replace('<', "\\u003c");
    let mut page = String::with_capacity(data.len() + STYLE.len() + SCRIPT.len() + 16_384);
    let mut put = |text: &str| page.push_str(text);
    put("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    put("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    // Should a text ever become markup in spite of all, it still cannot load or send anything.
    put(concat!(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ",
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">",
    ));
    put(&format!("<title>{}: {}</title>", escape(&summary.name), escape(&headline(summary))));
    put(&format!("<style>{STYLE}</style></head><body>"));
    put(&format!(
        "<header class=\"{class}\"><h1>{}</h1><p class=\"verdict\">{}</p>",
        escape(&summary.name),
        escape(&headline(summary))
    ));
    put(&format!("<p class=\"soft\">{}</p></header>", escape(&origin(result))));
    put("<ul class=\"notes\" id=\"notes\">");
    for note in notes(result) {
        put(&format!("<li>{}</li>", escape(&note)));
    }
    put("</ul>");
    put(&thresholds(result));
    put(concat!(
        "<form class=\"bar\" id=\"range\"><b>Time</b>",
        "<label>from <input type=\"text\" id=\"from\" inputmode=\"text\"></label>",
        "<label>to <input type=\"text\" id=\"to\" inputmode=\"text\"></label>",
        "<button>Show</button><button type=\"button\" id=\"whole\">Whole test</button>",
        "<label>charts of <select id=\"only\"></select></label>",
        "<label><input type=\"checkbox\" id=\"log\"> log scale of latency</label>",
        "<span class=\"soft\" id=\"said\" role=\"status\"></span></form>",
        "<noscript><p>The charts need JavaScript. The figures without it:</p><pre>",
    ));
    put(&escape(&summary_text(result)));
    put(concat!(
        "</pre></noscript><main>",
        "<h2>Key figures</h2><dl class=\"keys\" id=\"keys\"></dl>",
        "<h2>Over time</h2><div class=\"charts\" id=\"charts\"></div>",
        "<h2>Distribution of latency</h2><div class=\"charts\">",
        "<div class=\"chart\"><h3>Percentiles</h3><svg id=\"distribution\" role=\"img\" ",
        "aria-label=\"Latency by percentile\"></svg></div>",
        "<div class=\"chart\"><h3>Over time: a stronger colour is more requests</h3><canvas id=\"heat\" ",
        "role=\"img\" aria-label=\"Heat map of latency over time\"></canvas></div></div>",
        "<h2>Steps</h2><div id=\"steps\"></div>",
        "<h2>Outcomes</h2><div id=\"outcomes\"></div>",
        "<h2>Checks</h2><div id=\"checks\"></div>",
        "<h2>Gaps</h2><div id=\"gaps\"></div>",
        "<h2>Events</h2><div id=\"events\"></div>",
    ));
    put(&rows(result));
    put(&repeat(result));
    put(&format!(
        "</main><footer>hyperscale {} &middot; job {} &middot; this file needs no network</footer>",
        env!("CARGO_PKG_VERSION"),
        summary.job
    ));
    put(&format!("<script type=\"application/json\" id=\"data\">{data}</script>"));
    put(&format!("<script>{SCRIPT}</script></body></html>\n"));
    page
}

/// What became of unique rows, if there are any.
fn rows(result: &JobResult) -> String {
    if result.summary.rows.is_empty() {
        return String::new();
    }
    let line = |rows| format!("<li>{}</li>", escape(&rows_text(rows)));
    let lines: String = result.summary.rows.iter().map(line).collect();
    format!("<h2>Rows</h2><ul>{lines}</ul>")
}

/// Text as it may stand in HTML, in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[expect(clippy::cast_precision_loss, reason = "seconds are shown with one decimal")]
fn origin(result: &JobResult) -> String {
    let summary = &result.summary;
    let mut text = format!("{} · {:.1} s", summary.job, summary.duration_ms as f64 / 1e3);
    if let Some(started) = result.started {
        text.push_str(&format!(" · started {}", utc(started.as_millis())));
    }
    for (name, value) in &summary.labels {
        text.push_str(&format!(" · {name}={value}"));
    }
    if let Some(description) = &result.plan.description {
        text.push_str(&format!(" · {description}"));
    }
    text
}

/// A wall time as `2026-11-24 02:09:45 UTC`. Civil dates by Howard Hinnant's `civil_from_days`.
fn utc(millis: u64) -> String {
    let (days, seconds) = (millis / 86_400_000, millis / 1_000 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// What limits how far the figures can be trusted.
fn notes(result: &JobResult) -> Vec<String> {
    let summary = &result.summary;
    let mut notes = Vec::new();
    if let Some(reason) = &summary.generator.reason {
        notes.push(format!(
            "The generator, not the target, was the bottleneck: {reason}. Latencies include its \
             delays; repeat the test with more cores or workers."
        ));
    }
    if summary.partial {
        notes.push(
            "The result is partial: planned load or statistics are missing; see Gaps.".to_owned(),
        );
    }
    if summary.late_requests > 0 {
        let late = crate::count(summary.late_requests);
        notes.push(format!("{late} requests were reported too late to be counted."));
    }
    if summary.totals.dropped_late > 0 {
        let late = crate::count(summary.totals.dropped_late);
        notes.push(format!(
            "{late} planned starts were dropped because the generator came to them too late: its \
             machine was busy or stood still."
        ));
    }
    let no_user = summary.totals.dropped.saturating_sub(summary.totals.dropped_late);
    if no_user > 0 {
        let dropped = crate::count(no_user);
        notes.push(format!(
            "{dropped} planned starts found no free user and were dropped: raise max_vus, or the \
             target is slower than the plan assumes."
        ));
    }
    if summary.totals.requests == 0 {
        notes.push("No request was sent.".to_owned());
    } else if summary.latency_us.count < 100 {
        notes.push("Fewer than 100 requests: percentiles say little.".to_owned());
    }
    notes
}

fn thresholds(result: &JobResult) -> String {
    if result.summary.thresholds.is_empty() {
        return "<p class=\"soft\">The test has no thresholds: nothing was judged.</p>".to_owned();
    }
    let mut text = "<h2>Thresholds, over the whole test</h2><div class=\"scroll\"><table \
                    class=\"thresholds\"><thead><tr><th>must hold</th><th class=\"n\">was</th>\
                    <th>verdict</th></tr></thead><tbody>"
        .to_owned();
    for threshold in &result.summary.thresholds {
        let (class, word) =
            if threshold.passed { ("good", "✓ held") } else { ("bad", "✗ broken") };
        let since = match threshold.broken_since_ms {
            Some(at) if !threshold.passed => format!(" since {}", job_time(at)),
            _ => String::new(),
        };
        text.push_str(&format!(
            "<tr><td class=\"wrap\">{}</td><td class=\"n\">{}</td>\
             <td class=\"{class} wrap\">{word}{since}</td></tr>",
            escape(&threshold.expression),
            escape(&threshold_value(threshold)),
        ));
    }
    text.push_str("</tbody></table></div>");
    text
}

fn repeat(result: &JobResult) -> String {
    let seed = result.plan.run.seed;
    let mut text = "<h2>How to repeat it</h2>".to_owned();
    match &result.plan.source {
        Some(source) => text.push_str(&format!(
            "<p>Save the test file below as <code>test.yaml</code> beside its data files and run \
             <code>hyperscale run test.yaml --set run.seed={seed}</code>. Values that were given \
             with <code>--set</code> or by the environment are not in the file: they stand in the \
             plan.</p><details><summary>Test file</summary><pre tabindex=\"0\">{}</pre></details>",
            escape(source)
        )),
        None => text.push_str(&format!(
            "<p>The test was made from a URL and flags: run <code>hyperscale run URL</code> with \
             the load of the plan below. All random choices follow from seed {seed}.</p>"
        )),
    }
    let plan = serde_json::to_string_pretty(&result.plan.workflows).unwrap_or_else(|error| {
        // Cannot happen: workflows have string keys only. The rest of the report is still good.
        format!("the plan cannot be shown: {error}")
    });
    text.push_str(&format!(
        "<details><summary>Plan of the workflows</summary><pre tabindex=\"0\">{}</pre></details>\
         <p class=\"soft\">Seed {seed}, plan format {}, hyperscale {}.</p>",
        escape(&plan),
        result.plan.format,
        env!("CARGO_PKG_VERSION")
    ));
    text
}

/// The page's data. What the page need not merge is left out.
fn data(result: &JobResult) -> Value {
    let (summary, plan) = (&result.summary, &result.plan);
    let planned = Planned::of(plan, &result.workflow_starts_ms);
    let windows: Vec<Value> =
        result.series.iter().map(|point| window(point, planned.as_ref())).collect();
    let step_name = |step: usize| plan.steps.get(step).map_or("", |step| step.name.as_str());
    let gaps = summary
        .gaps
        .iter()
        .map(|gap| json!({ "from": gap.from_ms, "to": gap.to_ms, "text": gap_text(gap) }));
    json!({
        "summary": {
            "duration_ms": summary.duration_ms,
            "totals": { "requests": summary.totals.requests, "dropped": summary.totals.dropped },
            "generator": { "limited": summary.generator.limited },
        },
        "started": result.started.map(|started| started.as_millis()),
        "outcomes": Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect::<Vec<_>>(),
        "steps": plan.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(),
        "checks": (plan.checks.iter())
            .map(|check| json!({ "step": step_name(check.step.get()), "name": check.name }))
            .collect::<Vec<_>>(),
        "windows": windows,
        "gaps": gaps.collect::<Vec<_>>(),
        "marks": marks(result, planned.as_ref()),
        "events": result.events,
        "exchanges": (result.exchanges.iter())
            .map(|exchange| json!({
                "step": exchange.step.get(),
                "outcome": exchange.outcome.as_str(),
                "at": millis(exchange.at),
                "latency": nanos(exchange.latency),
                "request": exchange.request,
                "answer": exchange.answer,
                "error": exchange.error,
            }))
            .collect::<Vec<_>>(),
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn window(point: &SeriesPoint, planned: Option<&Planned<'_>>) -> Value {
    let (from, length) =
        (Duration::from_millis(point.at_ms), Duration::from_millis(point.length_ms));
    let steps = point.figures.steps.iter().map(|(index, step)| {
        json!({
            "step": index.get(),
            "outcomes": step.outcomes.iter().map(|(_, count)| count).collect::<Vec<_>>(),
            "statuses": step.statuses,
            "retries": step.retries,
            "in": step.bytes_in,
            "out": step.bytes_out,
            "latency": histogram(&step.latency),
        })
    });
    let checks = (point.figures.checks.iter())
        .map(|(index, counts)| json!([index.get(), counts.passed, counts.failed]));
    json!({
        "at": point.at_ms,
        "len": point.length_ms,
        "vus": point.vus,
        "busy": point.busiest_core,
        "iterations": point.figures.iterations,
        "cut": point.figures.iterations_cut,
        "dropped": point.figures.dropped,
        "planned": planned.and_then(|planned| planned.starts(from, from + length)),
        "planned_vus": planned.and_then(|planned| planned.vus(from)),
        "lag": histogram(&point.figures.lag),
        "steps": steps.collect::<Vec<_>>(),
        "checks": checks.collect::<Vec<_>>(),
    })
}

/// Sum, smallest and largest in ns, then buckets as distances with their counts.
fn histogram(histogram: &SparseHistogram) -> Vec<u64> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let (sum, min, max) = histogram.extremes();
    let mut numbers = Vec::with_capacity(3 + 2 * histogram.buckets().len());
    numbers.extend([sum, min, max]);
    let mut last = 0;
    for &(bucket, count) in histogram.buckets() {
        numbers.extend([u64::from(bucket - last), count]);
        last = bucket;
    }
    numbers
}

/// The load as planned of the workflows that go by the clock: each with when it started.
struct Planned<'a> {
    workflows: Vec<(Duration, &'a Workflow)>,
}

impl<'a> Planned<'a> {
    /// `None` where the plan alone does not tell how much load there is in all.
    fn of(plan: &'a Plan, starts_ms: &[Option<u64>]) -> Option<Self> {
        if plan.run.split == Split::Each {
            return None;
        }
        let workflows = (starts_ms.iter().zip(&plan.workflows))
            .filter(|(_, workflow)| workflow.load.iterations().is_none())
            .filter_map(|(start, workflow)| Some((Duration::from_millis((*start)?), workflow)));
        Some(Self { workflows: workflows.collect() })
    }

    /// How many iterations should start between two times, if all start by the clock.
    fn starts(&self, from: Duration, to: Duration) -> Option<f64> {
        let counts = self.workflows.iter().map(|(start, workflow)| {
            let arrivals = workflow.load.arrivals()?;
            let at = |time: Duration| arrivals.area_at(time.saturating_sub(*start));
            Some((at(to) - at(from)).max(0.0))
        });
        let counts: Option<Vec<f64>> = counts.collect();
        counts.filter(|counts| !counts.is_empty()).map(|counts| counts.iter().sum())
    }

    /// How many users should be active, if that is planned for all workflows.
    fn vus(&self, at: Duration) -> Option<u32> {
        let counts = self.workflows.iter().map(|(start, workflow)| {
            let Some(since) = at.checked_sub(*start) else { return Some(0) };
            workflow.load.vus_at(since)
        });
        let counts: Option<Vec<u32>> = counts.collect();
        counts.filter(|counts| !counts.is_empty()).map(|counts| counts.iter().sum())
    }
}

/// What is marked on every chart: changes of stage as planned, thresholds from when they broke.
fn marks(result: &JobResult, planned: Option<&Planned<'_>>) -> Vec<Value> {
    let mut marks = Vec::new();
    for (start, workflow) in planned.iter().flat_map(|planned| &planned.workflows) {
        let lengths: Vec<Duration> = match &workflow.load {
            Load::RampingVus { stages, .. } => stages.iter().map(|stage| stage.over).collect(),
            Load::RampingArrivalRate { stages, .. } => {
                stages.iter().map(|stage| stage.over).collect()
            }
            Load::ConstantVus { .. }
            | Load::PerVuIterations { .. }
            | Load::SharedIterations { .. }
            | Load::ConstantArrivalRate { .. }
            | Load::ExternallyControlled { .. }
            | Load::Once { .. } => Vec::new(),
        };
        let mut at = *start;
        for (number, length) in lengths.iter().enumerate() {
            let text = format!("{}: stage {} begins, as planned", workflow.name, number + 1);
            marks.push(json!({ "at": millis(at), "text": text, "bad": false }));
            at += *length;
        }
    }
    for threshold in &result.summary.thresholds {
        if let Some(at) = threshold.broken_since_ms {
            let text = format!("broken since then: {}", threshold.expression);
            marks.push(json!({ "at": at, "text": text, "bad": true }));
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use hyperscale_stats::Histogram;

    use super::*;
    use crate::sample;

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "</script><img src=x onerror=alert(1)>";
        let mut result = sample::result();
        result.summary.name = hostile.to_owned();
        result.plan.name = hostile.to_owned();
        result.plan.steps[0].name = hostile.to_owned();
        result.plan.source = Some(hostile.to_owned());
        result.exchanges[0].answer = format!("<!--<script>{hostile}");
        result.events[0].text = hostile.to_owned();
        result.summary.thresholds[0].expression = hostile.to_owned();
        result.summary.labels.insert(hostile.to_owned(), hostile.to_owned());

        let page = html(&result);

        assert!(!page.contains("<img"), "no text may become an element");
        assert!(!page.contains("<!--"), "no text may open a comment");
        assert_eq!(page.matches("</script>").count(), 2, "only our own scripts end");
    }

    #[test]
    fn dat_01_rows_are_told_in_the_page_and_the_text() {
        let mut result = sample::result();
        assert!(!html(&result).contains("<h2>Rows</h2>"), "without unique data there are none");
        result.summary.rows = vec![crate::RowsView {
            source: "users".to_owned(),
            rows: 1_000,
            sent: 640,
            left: 348,
            possibly_sent: 12,
        }];

        let line = "rows of users: 640 of 1,000 sent, 348 left, 12 possibly sent";
        assert!(summary_text(&result).contains(line), "{}", summary_text(&result));
        assert!(html(&result).contains(&format!("<li>{line}")));
    }

    #[test]
    fn the_page_refers_to_nothing_outside() {
        let page = html(&sample::result());

        let shell = page.replace("http://www.w3.org/2000/svg", "");
        for reference in ["src=", "href=", "@import", "url(http", "fetch(", "//cdn"] {
            assert!(!shell.contains(reference), "the page must not refer to {reference}");
        }
        assert!(STYLE.len() + SCRIPT.len() < 1 << 20);
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(1_709_210_096_000), "2024-02-29 12:34:56 UTC");
        assert_eq!(utc(1_795_486_185_000), "2026-11-24 02:09:45 UTC");
    }

    /// Runs the page's histogram in node; a machine without node cannot tell and passes.
    #[test]
    fn the_script_computes_percentiles_as_the_histogram_does() {
        let histograms = sample::histograms();
        let percents = [0.0, 1.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0];
        let mut all = Histogram::new();
        histograms.iter().for_each(|histogram| all.merge_dense(histogram));
        let expected: Vec<Vec<u64>> = (histograms.iter().chain([&all]))
            .map(|histogram| percents.iter().map(|p| nanos(histogram.percentile(*p))).collect())
            .collect();
        let input: Vec<Vec<u64>> =
            histograms.iter().map(|dense| histogram(&dense.to_sparse())).collect();
        let program = format!(
            "{SCRIPT}
            const percents = {}, each = {}.map(one => new Histogram().merge(one));
            each.push(each.reduce((all, one) => all.add(one), new Histogram()));
            const found = each.map(one => percents.map(p => one.percentile(p)));
            console.log(JSON.stringify(found));",
            json!(percents),
            json!(input),
        );
        let Ok(output) = std::process::Command::new("node").arg("-e").arg(program).output() else {
            return; // No node here.
        };

        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Vec<Vec<u64>> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found, expected);
    }
}
