//! Thresholds: `metric[.aggregate] op value` and what narrows them.

use std::time::Duration;

use super::{Compiler, Fields, items};
use crate::diagnostics::{Draft, Span, nearest, one_of};
use crate::ir::{Datacenters, MetricKind, Plan};
use crate::shape::Consts;
use crate::threshold::{
    Aggregate, Comparison, DatacenterFilter, Filter, Threshold, ThresholdMetric,
};
use crate::units::{self, UnitError};
use crate::yaml::{Kind, Node, Scalar, shorten};

const THRESHOLDS_MAX: usize = 500;

/// What the figures of a metric are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Time,
    Count,
    Bytes,
    Share,
    /// Users: one figure, without aggregates.
    Users,
    /// Percentiles of an own metric.
    Values,
    /// The last value of an own metric, with the smallest and the largest.
    Gauge,
    /// A sum of an own metric.
    Sum,
}

/// Our metrics, in the order of the reference.
const METRICS: [(&str, ThresholdMetric, Nature); 14] = [
    ("latency", ThresholdMetric::Latency, Nature::Time),
    ("service_time", ThresholdMetric::ServiceTime, Nature::Time),
    ("connect", ThresholdMetric::Connect, Nature::Time),
    ("tls", ThresholdMetric::Tls, Nature::Time),
    ("first_byte", ThresholdMetric::FirstByte, Nature::Time),
    ("lag", ThresholdMetric::Lag, Nature::Time),
    ("requests", ThresholdMetric::Requests, Nature::Count),
    ("iterations", ThresholdMetric::Iterations, Nature::Count),
    ("bytes_in", ThresholdMetric::BytesIn, Nature::Bytes),
    ("bytes_out", ThresholdMetric::BytesOut, Nature::Bytes),
    ("dropped", ThresholdMetric::Dropped, Nature::Count),
    ("failed", ThresholdMetric::Failed, Nature::Share),
    ("checks", ThresholdMetric::Checks, Nature::Share),
    ("vus", ThresholdMetric::Vus, Nature::Users),
];

/// Signs of comparison, longer ones first.
const SIGNS: [(&str, Comparison); 6] = [
    ("<=", Comparison::LessEqual),
    (">=", Comparison::GreaterEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// Whether a metric of ours has that name.
pub(super) fn is_builtin(name: &str) -> bool {
    METRICS.iter().any(|(known, ..)| *known == name)
}

/// A condition as read.
#[derive(Debug, Clone, PartialEq)]
struct Condition {
    metric: ThresholdMetric,
    aggregate: Aggregate,
    op: Comparison,
    value: f64,
}

/// What is wrong with a condition: which bytes of it, what, and hints.
#[derive(Debug)]
struct Wrong {
    start: usize,
    end: usize,
    message: String,
    notes: Vec<String>,
}

impl Wrong {
    fn new(part: (usize, &str), message: impl Into<String>) -> Self {
        let (start, text) = part;
        let end = start + text.len().max(1);
        Self { start, end, message: message.into(), notes: Vec::new() }
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// A part of `text` without the blanks around it, with its place.
fn trimmed(text: &str, start: usize, end: usize) -> (usize, &str) {
    let part = &text[start..end];
    (start + part.len() - part.trim_start().len(), part.trim())
}

/// Own metrics by name.
type Own<'a> = [(&'a str, MetricKind)];

fn parse(text: &str, own: &Own<'_>) -> Result<Condition, Wrong> {
    let Some(sign_at) = text.find(['<', '>', '=', '!']) else {
        return Err(Wrong::new((0, text), "this is no condition over a metric").note(
            "a threshold is like `latency.p95 < 300ms`, `failed < 1%` or `requests.rate > 900/s`",
        ));
    };
    let Some((sign, op)) = SIGNS.into_iter().find(|(sign, _)| text[sign_at..].starts_with(sign))
    else {
        let sign = &text[sign_at..=sign_at];
        return Err(Wrong::new((sign_at, sign), format!("`{sign}` does not compare"))
            .note("compare with one of: <, <=, >, >=, ==, !="));
    };
    let (left_at, left) = trimmed(text, 0, sign_at);
    let right = trimmed(text, sign_at + sign.len(), text.len());
    let (name, aggregate) = match left.split_once('.') {
        Some((name, aggregate)) => (name, Some((left_at + name.len() + 1, aggregate))),
        None => (left, None),
    };
    let own_metric = own.iter().find(|(known, _)| *known == name);
    let (metric, nature) = match METRICS.iter().find(|(known, ..)| *known == name) {
        Some((_, metric, nature)) => (metric.clone(), *nature),
        None => match own_metric {
            Some((_, kind)) => {
                let nature = match kind {
                    MetricKind::Counter => Nature::Sum,
                    MetricKind::Gauge => Nature::Gauge,
                    MetricKind::Rate => Nature::Share,
                    MetricKind::Distribution => Nature::Values,
                };
                (ThresholdMetric::Own(name.to_owned()), nature)
            }
            None => return Err(unknown_metric((left_at, name), own)),
        },
    };
    let whole = (left_at, left);
    let aggregate = aggregate_of(&metric, nature, name, whole, aggregate)?;
    let value = value_of(nature, aggregate, right)?;
    Ok(Condition { metric, aggregate, op, value })
}

fn unknown_metric((at, name): (usize, &str), own: &Own<'_>) -> Wrong {
    let known: Vec<&str> =
        METRICS.iter().map(|(known, ..)| *known).chain(own.iter().map(|(name, _)| *name)).collect();
    let wrong = Wrong::new((at, name), format!("unknown metric `{}`", shorten(name)));
    let synonym = match name {
        "http_req_duration" | "response_time" | "duration" => Some("latency"),
        "http_req_failed" | "errors" | "error_rate" => Some("failed"),
        "http_reqs" | "rps" | "throughput" => Some("requests.rate"),
        "dropped_iterations" => Some("dropped"),
        _ => None,
    };
    match synonym.or_else(|| nearest(name, known.iter().copied())) {
        Some(near) => wrong.note(format!("did you mean `{near}`?")),
        None => wrong.note(format!("known: {}", one_of(known))),
    }
}

fn aggregate_of(
    metric: &ThresholdMetric,
    nature: Nature,
    name: &str,
    whole: (usize, &str),
    given: Option<(usize, &str)>,
) -> Result<Aggregate, Wrong> {
    let is_own = matches!(metric, ThresholdMetric::Own(_));
    let (known, default): (&[&str], Option<Aggregate>) = match nature {
        Nature::Time | Nature::Values => {
            (&["min", "avg", "med", "max", "sd", "p50", "p90", "p95", "p99", "p99.9"], None)
        }
        Nature::Count | Nature::Bytes | Nature::Sum => (&["count", "rate"], Some(Aggregate::Count)),
        Nature::Share if is_own => (&[], Some(Aggregate::Share)),
        Nature::Share => (&["count"], Some(Aggregate::Share)),
        Nature::Users => (&[], Some(Aggregate::Count)),
        Nature::Gauge => (&["min", "avg", "max"], None),
    };
    let Some((at, text)) = given else {
        return default.ok_or_else(|| {
            let form = if nature == Nature::Gauge { "max" } else { "p95" };
            Wrong::new(whole, format!("`{name}` has many figures: say which")).note(format!(
                "for example `{name}.{form}`; known: {}",
                one_of(known.iter().copied())
            ))
        });
    };
    let parsed = match text {
        "min" => Some(Aggregate::Min),
        "avg" => Some(Aggregate::Mean),
        "med" => Some(Aggregate::Percentile(50.0)),
        "max" => Some(Aggregate::Max),
        "sd" => Some(Aggregate::Deviation),
        "count" => Some(Aggregate::Count),
        "rate" => Some(Aggregate::Rate),
        _ => percentile(text).map(Aggregate::Percentile),
    };
    let is_percentile = matches!(parsed, Some(Aggregate::Percentile(_)));
    let has_percentiles = matches!(nature, Nature::Time | Nature::Values);
    if let Some(aggregate) = parsed
        && (known.contains(&text) || (is_percentile && has_percentiles))
    {
        return Ok(aggregate);
    }
    if known.is_empty() {
        return Err(Wrong::new(
            (at, text),
            format!("`{name}` is one figure, without `.{}`", shorten(text)),
        )
        .note(format!("write `{name}`")));
    }
    let wrong = Wrong::new((at, text), format!("`{name}` has no `{}`", shorten(text)));
    let wrong = match text {
        "mean" | "average" => wrong.note("did you mean `avg`?"),
        "median" => wrong.note("did you mean `med`?"),
        "stddev" | "stdev" => wrong.note("did you mean `sd`?"),
        _ => wrong,
    };
    let percentiles = if has_percentiles { "; percentiles are p1 to p99.999" } else { "" };
    Err(wrong.note(format!("known: {}{percentiles}", one_of(known.iter().copied()))))
}

/// `p95`, `p99.9`.
fn percentile(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('p')?;
    let is_number = digits.len() <= 8
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let percent = digits.parse::<f64>().ok().filter(|_| is_number)?;
    (percent > 0.0 && percent <= 99.999).then_some(percent)
}

#[expect(clippy::cast_precision_loss, reason = "thresholds need 53 bits")]
fn value_of(nature: Nature, aggregate: Aggregate, part: (usize, &str)) -> Result<f64, Wrong> {
    let (_, text) = part;
    if text.is_empty() {
        return Err(Wrong::new(part, "the value is missing"));
    }
    let unit = |error: UnitError| {
        let wrong = Wrong::new(part, error.to_string());
        match error.hint() {
            Some(hint) => wrong.note(hint),
            None => wrong,
        }
    };
    let number = || {
        let digits = text.replace('_', "");
        let is_plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        digits.parse::<f64>().ok().filter(|number| number.is_finite() && is_plain).ok_or_else(
            || Wrong::new(part, format!("expected a number, found `{}`", shorten(text))),
        )
    };
    match (nature, aggregate) {
        (Nature::Time, _) => units::duration(text).map(|d| d.as_nanos() as f64).map_err(unit),
        (Nature::Share, Aggregate::Share) => units::share(text).map_err(unit),
        (Nature::Bytes, Aggregate::Rate) => match text.strip_suffix("/s") {
            Some(size) => units::size(size.trim_end()).map(|bytes| bytes as f64).map_err(unit),
            None => Err(Wrong::new(
                part,
                format!("expected a size a second such as `5MB/s`, found `{}`", shorten(text)),
            )),
        },
        (Nature::Bytes, _) => units::size(text).map(|bytes| bytes as f64).map_err(unit),
        (_, Aggregate::Rate) => units::rate(text).map_err(unit),
        _ => number(),
    }
}

impl<'n> Compiler<'n> {
    pub(super) fn thresholds(&mut self, file: Fields<'n>, plan: &Plan) -> Vec<Threshold> {
        let list = file.get("thresholds").map(items).unwrap_or_default();
        if let Some(node) = list.get(THRESHOLDS_MAX) {
            let message = format!("a test has at most {THRESHOLDS_MAX} thresholds");
            self.collector.push(Draft::error(node.span, message).link("limits"));
            return Vec::new();
        }
        list.iter().filter_map(|node| self.threshold(node, plan)).collect()
    }

    fn threshold(&mut self, node: &'n Node, plan: &Plan) -> Option<Threshold> {
        let fields = Fields::of(node);
        let expect = match &node.kind {
            Kind::Scalar(_) => node,
            Kind::Map(_) => fields.get("expect")?,
            Kind::List(_) => return None,
        };
        let expression = self.read(Some(expect), Consts::text)?;
        let own: Vec<(&str, MetricKind)> =
            plan.metrics.iter().map(|metric| (metric.name.as_str(), metric.kind)).collect();
        let condition = parse(&expression, &own).map_err(|wrong| point(expect, wrong));
        let filter = self.filter(fields, plan);
        let after = self.read(fields.get("after"), Consts::duration).unwrap_or_default();
        let during = fields.get("during").and_then(|node| self.during(node));
        let abort = self.read(fields.get("abort"), Consts::bool).unwrap_or(false);
        let for_at_least = self.read(fields.get("for"), Consts::duration).unwrap_or_default();
        if let (Some((key, _)), false) = (fields.entry("for"), abort) {
            self.collector.push(
                Draft::error(
                    key.span,
                    "`for` says how long a threshold must be broken before it stops the job",
                )
                .note("it needs `abort: true`")
                .link("thresholds"),
            );
        }
        let planned = plan.planned_duration();
        for (key, begin) in [
            (fields.entry("after"), after),
            (fields.entry("during"), during.map(|(from, _)| from).unwrap_or_default()),
        ] {
            if let Some((key, _)) = key
                && begin >= planned
            {
                let planned = units::show_duration(planned);
                self.collector.push(
                    Draft::warning(
                        key.span,
                        format!("the test is over by then: its loads take {planned}"),
                    )
                    .link("thresholds"),
                );
            }
        }
        let Condition { metric, aggregate, op, value } = self.ok(condition)?;
        self.narrowed(fields, &metric);
        Some(Threshold {
            expression: expression.trim().to_owned(),
            metric,
            aggregate,
            op,
            value,
            filter,
            abort,
            after,
            during,
            for_at_least,
        })
    }

    /// Refuses filters that the metric's figures are not kept by.
    fn narrowed(&mut self, fields: Fields<'n>, metric: &ThresholdMetric) {
        use ThresholdMetric as M;
        let is_by_step = matches!(
            metric,
            M::Latency
                | M::ServiceTime
                | M::Connect
                | M::Tls
                | M::FirstByte
                | M::Requests
                | M::BytesIn
                | M::BytesOut
                | M::Failed
                | M::Checks
        );
        let allowed = [
            ("workflow", is_by_step, "metrics of requests"),
            ("step", is_by_step, "metrics of requests"),
            ("status", *metric == M::Requests, "`requests`"),
            ("check", *metric == M::Checks, "`checks`"),
        ];
        for (name, is_allowed, what) in allowed {
            if let Some((key, _)) = fields.entry(name)
                && !is_allowed
            {
                let message = format!("`{name}` cannot narrow this metric");
                let draft = Draft::error(key.span, message).note(format!("it narrows {what}"));
                self.collector.push(draft.link("thresholds"));
            }
        }
    }

    fn during(&mut self, node: &Node) -> Option<(Duration, Duration)> {
        let text = self.read(Some(node), Consts::text)?;
        let parsed = text
            .split_once("..")
            .and_then(|(from, to)| Some((units::duration(from).ok()?, units::duration(to).ok()?)));
        let Some((from, to)) = parsed.filter(|(from, to)| from < to) else {
            self.collector.push_once(
                Draft::error(node.span, "expected a time of the job such as `3m..7m`")
                    .link("thresholds"),
            );
            return None;
        };
        Some((from, to))
    }

    fn filter(&mut self, fields: Fields<'n>, plan: &Plan) -> Filter {
        let workflows = plan.workflows.iter().map(|workflow| workflow.name.as_str()).collect();
        let steps = plan.steps.iter().map(|step| step.name.as_str()).collect();
        let checks = plan.checks.iter().map(|check| check.name.as_str()).collect();
        Filter {
            workflow: self.patterns(fields, "workflow", Some(workflows)),
            step: self.patterns(fields, "step", Some(steps)),
            check: self.patterns(fields, "check", Some(checks)),
            status: self.statuses(fields),
            datacenter: self.datacenter_filter(fields, plan),
        }
    }

    /// Patterns under a key. Warns of one that nothing known fits.
    fn patterns(
        &mut self,
        fields: Fields<'n>,
        what: &str,
        known: Option<Vec<&str>>,
    ) -> Vec<String> {
        let mut patterns = Vec::new();
        for (pattern, node) in self.read(fields.get(what), Consts::texts).unwrap_or_default() {
            let name = pattern.strip_prefix('!').unwrap_or(&pattern);
            if name.is_empty() {
                self.error(node.span, "a name or a pattern is missing");
                continue;
            }
            if let Some(known) = &known
                && !known.iter().any(|known| fits(name, known))
            {
                let message = format!("there is no {what} `{}`", shorten(name));
                let draft = Draft::warning(node.span, message).link("thresholds");
                let by_end = known.iter().find(|known| known.ends_with(&format!("/{name}")));
                let near = by_end.copied().or_else(|| nearest(name, known.iter().copied()));
                self.collector.push(match near {
                    Some(near) => draft.note(format!("did you mean `{near}`?")),
                    None => draft.note(format!("known: {}", one_of(known.iter().copied()))),
                });
            }
            patterns.push(pattern);
        }
        patterns
    }

    fn statuses(&mut self, fields: Fields<'n>) -> Vec<String> {
        let patterns = self.patterns(fields, "status", None);
        for pattern in &patterns {
            let name = pattern.strip_prefix('!').unwrap_or(pattern);
            let is_status = name.len() <= 3 && name.chars().all(|c| c.is_ascii_digit() || c == '*');
            if let (false, Some((key, _))) = (is_status, fields.entry("status")) {
                let message = format!("`{}` is no status", shorten(name));
                let draft = Draft::error(key.span, message);
                self.collector.push_once(
                    draft.note("a status is like 404, \"5*\" or \"!404\"").link("thresholds"),
                );
            }
        }
        patterns
    }

    fn datacenter_filter(&mut self, fields: Fields<'n>, plan: &Plan) -> DatacenterFilter {
        if self.word(fields.get("datacenter")).as_deref() == Some("each") {
            return DatacenterFilter::Each;
        }
        let known = match &plan.run.datacenters {
            Datacenters::Named(names) => Some(names.iter().map(String::as_str).collect()),
            Datacenters::All | Datacenters::Choose(_) => None,
        };
        let patterns = self.patterns(fields, "datacenter", known);
        if patterns.is_empty() { DatacenterFilter::All } else { DatacenterFilter::Named(patterns) }
    }
}

/// Where in the file a part of a condition stands.
fn point(node: &Node, wrong: Wrong) -> Draft {
    let span = match &node.kind {
        // With holes filled the places have moved.
        Kind::Scalar(Scalar { verbatim: Some(start), text, .. }) if !text.contains("${") => {
            let offset = |at: usize| start.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
            Span { start: offset(wrong.start), end: offset(wrong.end), ..node.span }
        }
        Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => node.span,
    };
    let draft = Draft::error(span, wrong.message).link("thresholds");
    wrong.notes.into_iter().fold(draft, Draft::note)
}

/// Whether a name fits a pattern, in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_metric_figure_and_value() {
        let own = [("cart", MetricKind::Distribution), ("sold", MetricKind::Counter)];
        let rows = [
            ("latency.p95 < 300ms", "Latency Percentile(95.0) Less 300000000"),
            ("latency.med<=1.5s", "Latency Percentile(50.0) LessEqual 1500000000"),
            ("lag.p99.999 < 5ms", "Lag Percentile(99.999) Less 5000000"),
            ("tls.sd != 0", "Tls Deviation NotEqual 0"),
            ("failed < 1%", "Failed Share Less 0.01"),
            ("failed.count == 0", "Failed Count Equal 0"),
            ("checks >= 99.5%", "Checks Share GreaterEqual 0.995"),
            ("requests.rate > 900/s", "Requests Rate Greater 900"),
            ("requests > 1_000", "Requests Count Greater 1000"),
            ("bytes_in.rate > 5MB/s", "BytesIn Rate Greater 5000000"),
            ("bytes_out < 1GiB", "BytesOut Count Less 1073741824"),
            ("dropped == 0", "Dropped Count Equal 0"),
            ("vus > 5", "Vus Count Greater 5"),
            ("cart.avg > 12.5", "Own(\"cart\") Mean Greater 12.5"),
            ("sold.rate > 30/m", "Own(\"sold\") Rate Greater 0.5"),
        ];
        for (text, wanted) in rows {
            let Condition { metric, aggregate, op, value } = parse(text, &own).unwrap();
            assert_eq!(format!("{metric:?} {aggregate:?} {op:?} {value}"), wanted, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            ("latency < 300ms", "say which"),
            ("latency.p95 < 300", "lacks a unit"),
            ("latency.mean < 1s", "did you mean `avg`?"),
            ("latency.p100 < 1s", "p99.999"),
            ("latncy.p95 < 1s", "did you mean `latency`?"),
            ("failed < 0.01", "lacks a unit"),
            ("failed.rate < 1/s", "known: count"),
            ("vus.max < 1", "one figure"),
            ("requests.rate > 900", "lacks a unit"),
            ("latency.p95 = 1s", "does not compare"),
            ("latency.p95 <", "missing"),
            ("latency.p95", "no condition"),
            ("http_req_duration < 1s", "did you mean `latency`?"),
            ("requests > many", "expected a number"),
            ("", "no condition"),
        ];
        for (text, wanted) in rows {
            let wrong = parse(text, &[]).unwrap_err();
            let all = [vec![wrong.message], wrong.notes].concat().join("; ");
            assert!(all.contains(wanted), "{text}: {all}");
        }
    }
}
