//! The picture: a pure function of the state and the size of the terminal.
//!
//! 80 columns and 24 rows show everything that matters; more room shows more, never less. A colour
//! only repeats what a sign or a word says.

use std::time::Duration;

use hyperscale_model::JobState;
use hyperscale_report::{
    Latency, LiveStep, LiveView, ThresholdView, aligned_duration, count, duration, job_time, plain,
    rate, share, shortened, threshold_value,
};
use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::state::{Panel, State, Stopping};

/// A lag above this, at the 99th percentile, or a busier core limit the generator; the summary
/// judges by the same.
const LAG_LIMIT_US: f64 = 20_000.0;
const BUSY_LIMIT: f64 = 0.95;

/// From this width on there is room for all percentiles and for what failed beside each step.
const WIDE: usize = 120;

const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const WARN: Style = Style::new().fg(Color::Yellow);
const SOFT: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const PLAIN: Style = Style::new();

/// Draws the state.
pub(crate) fn draw(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let lines = match &state.view {
        Some(view) => lines(view, state, width, height),
        None => waiting(state, height),
    };
    for (row, line) in (area.y..area.bottom()).zip(&lines) {
        frame.buffer_mut().set_line(area.x, row, line, area.width);
    }
}

fn waiting(state: &State, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![text(" the job is being placed", STRONG), Line::default()];
    lines.extend(latest_events(state, height.saturating_sub(4)));
    lines.resize(height.saturating_sub(1), Line::default());
    lines.push(keys(state));
    lines
}

fn lines(view: &LiveView, state: &State, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![headline(view, state, width), load(view, width), latency(view, width)];
    let bottom = bottom(view, state, width);
    let room = height.saturating_sub(lines.len() + bottom.len());
    match state.panel {
        Panel::Steps => {
            // Half of the room at most, lest many thresholds hide all steps.
            lines.extend(thresholds(&view.thresholds, width, (room / 2).max(1)));
            let room = height.saturating_sub(lines.len() + bottom.len());
            lines.extend(steps(&view.steps, width, room));
            let room = height.saturating_sub(lines.len() + bottom.len());
            lines.extend(causes(view, width, room));
            let room = height.saturating_sub(lines.len() + bottom.len());
            if room > 1 {
                lines.push(Line::default());
                lines.extend(latest_events(state, room - 1));
            }
        }
        Panel::Details => {
            lines.push(Line::default());
            lines.extend(details(view, room.saturating_sub(1)));
            let room = height.saturating_sub(lines.len() + bottom.len());
            if room > 1 {
                lines.push(text(" events", STRONG));
                lines.extend(latest_events(state, room - 1));
            }
        }
        Panel::Errors => {
            lines.push(Line::default());
            lines.extend(errors(view, width, room.saturating_sub(1)));
        }
        Panel::Help => {
            lines.push(Line::default());
            lines.extend(help());
        }
    }
    lines.truncate(height.saturating_sub(bottom.len()));
    lines.resize(height.saturating_sub(bottom.len()), Line::default());
    lines.extend(bottom);
    lines
}

fn headline(view: &LiveView, state: &State, width: usize) -> Line<'static> {
    let (word, style) = match &view.state {
        JobState::Accepted => ("accepted".to_owned(), WARN),
        JobState::Queued => ("waits for cores".to_owned(), WARN),
        JobState::Running if view.paused => ("load paused".to_owned(), WARN),
        JobState::Running => ("running".to_owned(), GOOD),
        JobState::Stopping { why } => (format!("stopping: {}", plain(why)), WARN),
        JobState::Ended(status) => (status.as_str().to_owned(), STRONG),
    };
    let time = match view.planned_ms {
        Some(planned) => format!("{} of {}", job_time(view.elapsed_ms), &job_time(planned)[1..]),
        None => job_time(view.elapsed_ms),
    };
    let word = shortened(&word, width / 3);
    let mut spans = vec![
        Span::styled(format!(" {}", shortened(&plain(&view.name), width / 3)), STRONG),
        Span::styled(format!("  ● {word}  "), style),
        Span::raw(time),
    ];
    if state.is_paused {
        spans.push(Span::styled("  display paused", WARN));
    }
    let used = |spans: &[Span<'_>]| spans.iter().map(Span::width).sum::<usize>();
    let stage = stage(view);
    let room = width.saturating_sub(used(&spans) + 4);
    let stage = shortened(&stage, room.saturating_sub(10));
    let bar = room.saturating_sub(stage.chars().count()).min(60);
    if bar >= 8
        && let Some(progress) = progress(view, bar - 2)
    {
        spans.push(Span::raw(format!("  {progress}")));
    }
    spans.push(Span::raw(stage));
    Line::from(spans)
}

/// The workflows that run; the first one if none does.
fn stage(view: &LiveView) -> String {
    let running = view.workflows.iter().filter(|(_, state)| state == "running");
    let running: Vec<String> = running.map(|(name, _)| plain(name)).collect();
    match (running.is_empty(), view.workflows.first()) {
        (false, _) => format!("   {} ▸ running", running.join(", ")),
        (true, Some((name, state))) => format!("   {} ▸ {state}", plain(name)),
        (true, None) => String::new(),
    }
}

/// A bar by time, or by iterations if their number is what is planned.
fn progress(view: &LiveView, width: usize) -> Option<String> {
    let (now, end) = match (view.planned_ms, view.planned_iterations) {
        (Some(planned), _) => (view.elapsed_ms, planned),
        (None, Some(planned)) => (view.iterations, planned),
        (None, None) => return None,
    };
    let end = usize::try_from(end.max(1)).unwrap_or(usize::MAX);
    let now = usize::try_from(now).unwrap_or(usize::MAX).min(end);
    let done = width.saturating_mul(now) / end;
    Some(format!("▕{}{}▏", "█".repeat(done), "░".repeat(width - done)))
}

fn load(view: &LiveView, width: usize) -> Line<'static> {
    let starts = if view.planned_rate > 0.0 {
        format!("starts {} (plan {})", rate(view.iteration_rate), rate(view.planned_rate))
    } else {
        format!("iterations {}", rate(view.iteration_rate))
    };
    let starts = match view.planned_iterations {
        Some(planned) => {
            format!("{starts} ({} of {})", count(view.iterations), count(planned))
        }
        None => starts,
    };
    let apart = if width < WIDE { "  " } else { "   " };
    let mut spans = vec![
        Span::raw(format!(" users {}/{}{apart}", view.vus, view.vus_max)),
        Span::raw(format!("{starts}{apart}requests {}{apart}", rate(view.request_rate))),
        failed(view.failed, view.requests),
    ];
    if view.dropped > 0 {
        let dropped = Span::styled(format!("{apart}! dropped {}", count(view.dropped)), WARN);
        // Where it would be cut, the share of failures gives way: the table below has it by step.
        if spans.iter().map(Span::width).sum::<usize>() + dropped.width() > width {
            spans.pop();
        }
        spans.push(dropped);
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let recent = last(&view.recent, width.saturating_sub(used + 2).min(60));
    if recent.iter().any(|(_, failed, _)| *failed > 0) {
        #[expect(clippy::cast_precision_loss, reason = "a picture of eight heights")]
        let values: Vec<f64> =
            (recent.iter()).map(|(all, failed, _)| *failed as f64 / (*all).max(1) as f64).collect();
        spans.push(Span::styled(format!(" {}", sparkline(&values)), BAD));
    }
    Line::from(spans)
}

fn failed(failed: u64, all: u64) -> Span<'static> {
    let style = if failed > 0 { BAD } else { PLAIN };
    let sign = if failed > 0 { "✗ " } else { "" };
    Span::styled(format!("{sign}failed {}", share(failed, all)), style)
}

fn latency(view: &LiveView, width: usize) -> Line<'static> {
    let Latency { count: samples, p50, p90, p95, p99, p99_9, max, .. } = view.latency_us;
    if samples == 0 {
        return text(" latency   no answers yet", SOFT);
    }
    let mut line = format!(" latency   p50 {}   ", us(p50));
    if width >= WIDE {
        line.push_str(&format!("p90 {}   ", us(p90)));
    }
    line.push_str(&format!("p95 {}   p99 {}   ", us(p95), us(p99)));
    if width >= WIDE {
        line.push_str(&format!("p99.9 {}   ", us(p99_9)));
    }
    line.push_str(&format!("max {}", us(max)));
    if samples < 100 {
        line.push_str(&format!(" (of {samples})"));
    }
    let room = width.saturating_sub(line.chars().count() + 3).min(60);
    let values: Vec<f64> = last(&view.recent, room).iter().map(|(_, _, p95)| *p95).collect();
    Line::from(vec![
        Span::raw(line),
        Span::styled(format!("  {}", sparkline(&values)), Style::new().fg(Color::Cyan)),
    ])
}

fn last<T>(values: &[T], most: usize) -> &[T] {
    &values[values.len().saturating_sub(most)..]
}

/// Heights from 1 to 8, from zero to the largest; nothing at all is an empty place.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
fn sparkline(values: &[f64]) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = values.iter().copied().fold(0.0, f64::max);
    (values.iter())
        .map(|&value| match value {
            value if value > 0.0 => HEIGHTS[((value / top * 7.0).round() as usize).min(7)],
            _ => '▁',
        })
        .collect()
}

/// Broken ones first; two stand in a line where they fit.
fn thresholds(views: &[ThresholdView], width: usize, room: usize) -> Vec<Line<'static>> {
    let mut ordered: Vec<&ThresholdView> = views.iter().collect();
    ordered.sort_by_key(|view| view.passed);
    let cell = |view: &ThresholdView| {
        let (sign, style) = match (view.passed, view.value) {
            (false, _) => ("✗", BAD),
            (true, None) => ("·", SOFT),
            (true, Some(_)) => ("✓", GOOD),
        };
        let since = match view.broken_since_ms {
            Some(at) if !view.passed => format!("  since {}", job_time(at)),
            _ => String::new(),
        };
        let expression = plain(&view.expression);
        (format!(" {sign} {expression}   {}{since}", threshold_value(view)), style)
    };
    let cells: Vec<(String, Style)> = ordered.into_iter().map(cell).collect();
    let widest = cells.iter().map(|(cell, _)| cell.chars().count() + 2).max().unwrap_or(0);
    let columns = (width / widest.max(1)).clamp(1, 4);
    let column = width / columns;
    let mut lines: Vec<Line<'static>> = (cells.chunks(columns))
        .map(|row| {
            Line::from_iter(row.iter().map(|(cell, style)| {
                Span::styled(format!("{:column$}", shortened(cell, column)), *style)
            }))
        })
        .collect();
    if lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        let shown = lines.len() * columns;
        lines.push(text(&format!("   {} more thresholds", cells.len() - shown), SOFT));
    }
    lines
}

fn steps(steps: &[LiveStep], width: usize, room: usize) -> Vec<Line<'static>> {
    if steps.is_empty() || room < 2 {
        return Vec::new();
    }
    let is_wide = width >= WIDE;
    // One column is left for the mark of few samples.
    let figures = if is_wide { 12 + 12 + 9 + 6 * 10 + 1 } else { 12 + 9 + 3 * 10 + 1 };
    let longest = steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(4).max(4);
    // The rest of a line is for what failed.
    let name = longest.min(width.saturating_sub(figures + 1).min(60)).max(12);
    let mut heads = format!(" {:name$} {:>11}", "step", "requests/s");
    if is_wide {
        heads.push_str(&format!(" {:>11}", "requests"));
    }
    heads.push_str(&format!(" {:>8}", "failed"));
    let percentiles: &[&str] = if is_wide {
        &["p50   ", "p90   ", "p95   ", "p99   ", "p99.9  ", "max   "]
    } else {
        &["p50   ", "p95   ", "p99   "]
    };
    for percentile in percentiles {
        heads.push_str(&format!(" {percentile:>9}"));
    }
    let mut lines = vec![text(&heads, SOFT)];
    let shown = if steps.len() < room { steps.len() } else { room - 2 };
    for step in &steps[..shown] {
        let mut row =
            format!(" {:name$} {:>11}", shortened(&plain(&step.name), name), bare_rate(step.rate));
        if is_wide {
            row.push_str(&format!(" {:>11}", count(step.requests)));
        }
        let style = if step.failed > 0 { BAD } else { PLAIN };
        let failed = Span::styled(format!(" {:>8}", share(step.failed, step.requests)), style);
        let Latency { p50, p90, p95, p99, p99_9, max, count: samples, .. } = step.latency_us;
        let all = [p50, p90, p95, p99, p99_9, max];
        let values: &[f64] = if is_wide { &all } else { &[p50, p95, p99] };
        // As many blanks where there is nothing to show.
        let time =
            |us: &f64| if samples == 0 { " ".repeat(10) } else { format!(" {}", aligned(*us)) };
        let mut times: String = values.iter().map(time).collect();
        if (1..100).contains(&samples) {
            times.push('*');
        }
        let used = row.chars().count() + failed.width() + times.chars().count() + 2;
        let causes = if is_wide {
            shortened(&causes_of(step), width.saturating_sub(used))
        } else {
            String::new()
        };
        lines.push(Line::from(vec![
            Span::raw(row),
            failed,
            Span::raw(times),
            Span::styled(format!("  {causes}"), BAD),
        ]));
    }
    if shown < steps.len() {
        let hidden = steps.len() - shown;
        lines.push(text(&format!("   {hidden} more steps: a higher terminal shows them"), SOFT));
    }
    lines
}

fn causes_of(step: &LiveStep) -> String {
    let causes = step.failures.iter().map(|(name, number)| format!("{name} {}", count(*number)));
    causes.collect::<Vec<_>>().join(", ")
}

/// What failed, below the steps, where it does not fit beside them.
fn causes(view: &LiveView, width: usize, room: usize) -> Vec<Line<'static>> {
    if width >= WIDE {
        return Vec::new();
    }
    (view.steps.iter())
        .filter(|step| !step.failures.is_empty())
        .map(|step| format!(" ✗ {}: {}", plain(&step.name), causes_of(step)))
        .map(|line| text(&shortened(&line, width), BAD))
        .take(room)
        .collect()
}

/// A rate below a head that names the unit.
fn bare_rate(per_second: f64) -> String {
    rate(per_second).trim_end_matches("/s").to_owned()
}

fn bottom(view: &LiveView, state: &State, width: usize) -> Vec<Line<'static>> {
    let datacenters: Vec<String> = (view.datacenters.iter())
        .map(|(name, workers, cores)| {
            let plural = if *workers == 1 { "" } else { "s" };
            let cores = if width < WIDE { String::new() } else { format!(", {cores} cores") };
            format!("{} {workers} worker{plural}{cores}", plain(name))
        })
        .collect();
    let mut spans = vec![Span::raw(format!(" {}", datacenters.join("   ")))];
    if let Some(gap) = view.gaps.last() {
        let length = Duration::from_millis(gap.to_ms.saturating_sub(gap.from_ms));
        let (number, at) = (view.gaps.len(), job_time(gap.from_ms));
        let gaps = if number == 1 { "1 gap".to_owned() } else { format!("{number} gaps") };
        let last = format!("   ! {gaps}, last at {at} for {}", duration(length));
        spans.push(Span::styled(last, WARN));
    }
    if let Some(trouble) = &state.trouble {
        spans.push(Span::styled(format!("   ! {}", plain(trouble)), WARN));
    }
    let generator = generator(view);
    let keys = if width < WIDE || state.stopping != Stopping::No {
        keys(state)
    } else {
        text("q stop  d details  e errors  p pause  ? help ", SOFT)
    };
    let gap = width.saturating_sub(generator.width() + keys.width());
    let last = if gap == 0 && state.stopping != Stopping::No {
        keys
    } else {
        let mut last = generator;
        last.push_span(Span::raw(" ".repeat(gap)));
        last.spans.extend(keys.spans);
        last
    };
    vec![Line::from(spans), last]
}

fn generator(view: &LiveView) -> Line<'static> {
    let figures =
        format!("lag p99 {}, busiest core {:.0} %", us(view.lag_p99_us), view.busy_share * 100.0);
    if view.lag_p99_us > LAG_LIMIT_US || view.busy_share >= BUSY_LIMIT {
        text(&format!(" ! generator is at its limit: {figures}"), BAD)
    } else {
        text(&format!(" generator ok: {figures}"), PLAIN)
    }
}

fn keys(state: &State) -> Line<'static> {
    match state.stopping {
        Stopping::No => text("q stop  d details  ? help ", SOFT),
        Stopping::Asked => text("stop the test? y stops, n goes on ", STRONG),
        Stopping::Gracefully => text("stopping; Ctrl-C stops at once ", WARN),
        Stopping::AtOnce => text("stopping at once ", WARN),
    }
}

fn latest_events(state: &State, room: usize) -> Vec<Line<'static>> {
    let skipped = state.events.len().saturating_sub(room);
    (state.events.iter().skip(skipped))
        .map(|(at, event)| text(&format!(" {} {}", job_time(*at), plain(event)), SOFT))
        .collect()
}

fn details(view: &LiveView, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![text(" workflows", STRONG)];
    for (name, state) in &view.workflows {
        lines.push(text(&format!("   {:30} {state}", plain(name)), PLAIN));
    }
    lines.push(text(" datacenters", STRONG));
    for (name, workers, cores) in &view.datacenters {
        lines.push(text(&format!("   {:30} workers {workers}, cores {cores}", plain(name)), PLAIN));
    }
    let sums = format!(
        " requests {}   iterations {}   dropped {}",
        count(view.requests),
        count(view.iterations),
        count(view.dropped)
    );
    lines.push(text(&sums, PLAIN));
    if !view.gaps.is_empty() {
        lines.push(text(" gaps: load that was planned and not sent", STRONG));
    }
    for gap in &view.gaps {
        let amount = if gap.starts > 0 {
            format!("{} starts", count(gap.starts))
        } else {
            format!("{:.1} user-seconds", gap.vu_seconds)
        };
        let (from, to) = (job_time(gap.from_ms), job_time(gap.to_ms));
        let (workflow, shard, worker) = (plain(&gap.workflow), gap.shard, &gap.worker);
        lines.push(text(
            &format!("   {from} to {to} {workflow} shard {shard}: {amount} ({worker})"),
            WARN,
        ));
    }
    if lines.len() > room {
        let hidden = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(text(&format!("   {hidden} more lines: a higher terminal shows them"), SOFT));
    }
    lines
}

fn errors(view: &LiveView, width: usize, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![text(" what failed, with the latest example", STRONG)];
    for step in &view.steps {
        for (outcome, number) in &step.failures {
            let part = share(*number, step.requests);
            let name = plain(&step.name);
            lines.push(text(&format!(" ✗ {name}: {outcome} {} ({part})", count(*number)), BAD));
            let is_alike =
                |e: &&hyperscale_report::ExampleView| e.step == step.name && e.outcome == *outcome;
            if let Some(example) = view.examples.iter().rev().find(is_alike) {
                let line = format!("     {} {}", job_time(example.at_ms), plain(&example.error));
                lines.push(text(&shortened(&line, width), PLAIN));
            }
        }
    }
    if lines.len() == 1 {
        return vec![text(" nothing has failed", GOOD)];
    }
    if lines.len() > room {
        let hidden = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(text(&format!("   {hidden} more lines: a higher terminal shows them"), SOFT));
    }
    lines
}

fn help() -> Vec<Line<'static>> {
    [
        " q        stops the test gracefully, after asking",
        " Ctrl-C   stops gracefully; once more stops at once",
        " d        workflows, datacenters, gaps, events",
        " e        what failed, with an example each",
        " p        pauses the display; the test goes on",
        " P        pauses the load: nothing new starts; P again goes on",
        " + -      more or less load, by a tenth of what the test says at most",
        " ?        this; Esc goes back to the steps",
        "",
        " Latency counts from the planned start of a request, so waiting for a free",
        " user or a busy generator shows. * marks percentiles of fewer than 100.",
    ]
    .map(|line| text(line, PLAIN))
    .into()
}

fn text(text: &str, style: Style) -> Line<'static> {
    Line::from(Span::styled(text.to_owned(), style))
}

fn us(us: f64) -> String {
    duration(Duration::from_secs_f64(us.max(0.0) / 1e6))
}

fn aligned(us: f64) -> String {
    aligned_duration(Duration::from_secs_f64(us.max(0.0) / 1e6))
}

#[cfg(test)]
mod tests;
