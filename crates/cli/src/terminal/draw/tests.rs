//! The screen at two sizes, compared with what a person has looked at (`tests/data`).

use hyperscale_model::{JobId, Outcome};
use hyperscale_report::{ExampleView, GapView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn latency(count: u64, scale: f64) -> Latency {
    Latency {
        count,
        min: 100.0 * scale,
        mean: 900.0 * scale,
        p50: 812.0 * scale,
        p90: 2_000.0 * scale,
        p95: 4_310.0 * scale,
        p99: 12_000.0 * scale,
        p99_9: 60_200.0 * scale,
        max: 102_000.0 * scale,
    }
}

fn step(name: &str, requests: u64, failed: u64, scale: f64) -> LiveStep {
    LiveStep {
        name: name.to_owned(),
        requests,
        failed,
        rate: requests as f64 / 134.0,
        latency_us: latency(requests, scale),
        failures: if failed > 0 {
            vec![(Outcome::Http5xx.as_str().to_owned(), failed - 1), ("timeout".to_owned(), 1)]
        } else {
            Vec::new()
        },
    }
}

fn view() -> LiveView {
    let threshold = |expression: &str, passed, value, since| ThresholdView {
        expression: expression.to_owned(),
        passed,
        value: Some(value),
        broken_since_ms: since,
    };
    LiveView {
        job: JobId::from_parts(1, 1),
        name: "webshop".to_owned(),
        state: JobState::Running,
        elapsed_ms: 134_000,
        planned_ms: Some(450_000),
        planned_iterations: None,
        workflows: vec![("browse".to_owned(), "running".to_owned())],
        vus: 612,
        vus_max: 800,
        planned_rate: 744.0,
        request_rate: 2_231.0,
        iteration_rate: 743.0,
        requests: 298_954,
        failed: 1_196,
        iterations: 99_562,
        dropped: 0,
        latency_us: latency(298_954, 10.0),
        recent: (0..60).map(|n| (500, n % 7, 4_000.0 + (n * n % 11) as f64 * 3_000.0)).collect(),
        steps: vec![
            step("browse/list", 149_410, 0, 1.0),
            step("browse/pay", 29_882, 1_165, 20.0),
            step("browse/a step with quite a long name", 64, 31, 150.0),
        ],
        thresholds: vec![
            threshold("latency.p95 < 300ms", true, 88.0, None),
            threshold("failed < 0.3%", false, 0.004, Some(112_000)),
        ],
        rows: Vec::new(),
        gaps: vec![GapView {
            workflow: "browse".to_owned(),
            shard: 1,
            from_ms: 100_000,
            to_ms: 111_000,
            starts: 2_000,
            vu_seconds: 0.0,
            cause: serde_json::from_str("\"worker_lost\"").unwrap(),
            worker: "node_0000000000000007".to_owned(),
        }],
        datacenters: vec![("eu".to_owned(), 3, 12), ("us".to_owned(), 1, 4)],
        lag_p99_us: 300.0,
        busy_share: 0.41,
        examples: vec![ExampleView {
            step: "browse/pay".to_owned(),
            outcome: "http_5xx".to_owned(),
            at_ms: 133_000,
            error: "HTTP/1.1 503 Service Unavailable".to_owned(),
        }],
        paused: false,
        scales: Vec::new(),
    }
}

fn state() -> State {
    let mut state = State::default();
    state.on_view(view());
    state.on_event(0, "accepted for eu, us".to_owned());
    state.on_event(100_000, "a worker was lost".to_owned());
    state.on_event(112_000, "threshold `failed < 0.3%` is broken".to_owned());
    state
}

fn picture(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut picture = String::new();
    for row in 0..height {
        let cells = (0..width).map(|column| buffer[(column, row)].symbol());
        let line: String = cells.collect();
        picture.push_str(line.trim_end());
        picture.push('\n');
    }
    picture
}

/// Compares with a committed picture; `UPDATE_PICTURES=1` writes it anew.
#[track_caller]
fn expect(name: &str, picture: &str) {
    let path = format!("{}/tests/data/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        std::fs::write(&path, picture).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(picture, expected, "the screen differs from {path}:\n{picture}");
}

#[test]
fn steps_at_80_by_24() {
    expect("screen-80x24", &picture(&state(), 80, 24));
}

#[test]
fn steps_at_200_by_60() {
    expect("screen-200x60", &picture(&state(), 200, 60));
}

#[test]
fn details_errors_and_help_at_80_by_24() {
    let with = |panel| picture(&State { panel, ..state() }, 80, 24);

    expect("details-80x24", &with(Panel::Details));
    expect("errors-80x24", &with(Panel::Errors));
    expect("help-80x24", &with(Panel::Help));
}

#[test]
fn a_question_is_shown_also_where_there_is_little_room() {
    let state = State { stopping: Stopping::Asked, ..state() };

    assert!(picture(&state, 40, 8).contains("stop the test? y stops, n goes on"));
}

#[test]
fn no_size_breaks_the_picture() {
    for (width, height) in [(1, 1), (10, 3), (79, 5), (80, 1), (300, 100)] {
        for panel in [Panel::Steps, Panel::Details, Panel::Errors, Panel::Help] {
            picture(&State { panel, ..state() }, width, height);
        }
        picture(&State::default(), width, height);
    }
}

#[test]
fn names_of_a_test_cannot_steer_the_terminal() {
    let mut state = state();
    let view = state.view.as_mut().unwrap();
    view.name = "\u{1b}[2Jx".to_owned();
    view.steps[0].name = "\u{1b}]0;y\u{7}".to_owned();

    assert!(!picture(&state, 80, 24).contains('\u{1b}'));
}
