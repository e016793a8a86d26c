//! What the screen shows, and what keys do to it.

use std::collections::VecDeque;

use hyperscale_report::LiveView;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Events that are kept to be shown.
const EVENTS_MAX: usize = 200;

/// What is shown below the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Panel {
    /// The steps.
    #[default]
    Steps,
    /// Datacenters, workflows, gaps, generator.
    Details,
    /// What failed, with examples.
    Errors,
    /// The keys.
    Help,
}

/// What a person wants of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Stop: gracefully, or at once.
    Stop { now: bool },
    /// Let the load stand still, or go on.
    Pause(bool),
    /// Send another amount of workflows' load.
    Scale(Vec<(String, String)>),
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stopping {
    #[default]
    No,
    /// It was asked whether to.
    Asked,
    /// Running iterations may end.
    Gracefully,
    AtOnce,
}

/// Everything that is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// The newest view, or the one at which the display was paused.
    pub(crate) view: Option<LiveView>,
    /// The newest view while the display is paused.
    pub(super) held: Option<LiveView>,
    pub(crate) is_paused: bool,
    /// Job time and text, the latest last.
    pub(crate) events: VecDeque<(u64, String)>,
    pub(crate) panel: Panel,
    pub(crate) stopping: Stopping,
    /// What went wrong with the connection to the gate.
    pub(crate) trouble: Option<String>,
}

impl State {
    pub(crate) fn on_view(&mut self, view: LiveView) {
        self.trouble = None;
        let shown = if self.is_paused { &mut self.held } else { &mut self.view };
        *shown = Some(view);
    }

    pub(crate) fn on_event(&mut self, at_ms: u64, text: String) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((at_ms, text));
    }

    pub(crate) fn on_key(&mut self, key: KeyEvent) -> Option<Command> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, self.stopping) {
            (KeyCode::Char('c'), _) if is_control => return Some(self.stop()),
            (KeyCode::Char('y' | 'Y' | 'q') | KeyCode::Enter, Stopping::Asked) => {
                return Some(self.stop());
            }
            (_, Stopping::Asked) => self.stopping = Stopping::No,
            (KeyCode::Char('q'), Stopping::No) => self.stopping = Stopping::Asked,
            (KeyCode::Char('d'), _) => self.toggle(Panel::Details),
            (KeyCode::Char('e'), _) => self.toggle(Panel::Errors),
            (KeyCode::Char('?' | 'h'), _) => self.toggle(Panel::Help),
            (KeyCode::Esc, _) => self.panel = Panel::Steps,
            // Shifted: whoever only wants to read does not stop the load by mistake.
            (KeyCode::Char('P'), Stopping::No) => {
                let view = self.held.as_ref().or(self.view.as_ref())?;
                return Some(Command::Pause(!view.paused));
            }
            (KeyCode::Char('+'), Stopping::No) => return self.scale(1),
            (KeyCode::Char('-'), Stopping::No) => return self.scale(-1),
            (KeyCode::Char('p'), _) => {
                self.is_paused = !self.is_paused;
                if let Some(held) = self.held.take() {
                    self.view = Some(held);
                }
            }
            _ => {}
        }
        None
    }

    /// Asks for a stop, or for a faster one.
    pub(crate) fn stop(&mut self) -> Command {
        let now = matches!(self.stopping, Stopping::Gracefully | Stopping::AtOnce);
        self.stopping = if now { Stopping::AtOnce } else { Stopping::Gracefully };
        Command::Stop { now }
    }

    /// A tenth more or less of the most of each load that can be scaled.
    fn scale(&self, tenths: i64) -> Option<Command> {
        let view = self.held.as_ref().or(self.view.as_ref())?;
        let scaled = view.scales.iter().filter_map(|scale| {
            let (amount, most) = (i64::from(scale.amount?), i64::from(scale.most));
            let step = (most / 10).max(1);
            let next = (amount + tenths * step).clamp(0, most);
            let unit = if scale.is_users { "" } else { "%" };
            (next != amount).then(|| (scale.workflow.clone(), format!("{next}{unit}")))
        });
        let scaled: Vec<(String, String)> = scaled.collect();
        (!scaled.is_empty()).then_some(Command::Scale(scaled))
    }

    fn toggle(&mut self, panel: Panel) {
        self.panel = if self.panel == panel { Panel::Steps } else { panel };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut State, code: KeyCode, modifiers: KeyModifiers) -> Option<Command> {
        state.on_key(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn q_asks_and_stops_only_after_a_yes() {
        let mut state = State::default();

        let first = press(&mut state, KeyCode::Char('q'), KeyModifiers::NONE);
        let no = press(&mut state, KeyCode::Char('n'), KeyModifiers::NONE);
        press(&mut state, KeyCode::Char('q'), KeyModifiers::NONE);
        let yes = press(&mut state, KeyCode::Char('y'), KeyModifiers::NONE);

        assert_eq!((first, no), (None, None));
        assert_eq!(yes, Some(Command::Stop { now: false }));
    }

    #[test]
    fn control_c_stops_gracefully_and_twice_at_once() {
        let mut state = State::default();

        let once = press(&mut state, KeyCode::Char('c'), KeyModifiers::CONTROL);
        let twice = press(&mut state, KeyCode::Char('c'), KeyModifiers::CONTROL);

        assert_eq!(once, Some(Command::Stop { now: false }));
        assert_eq!(twice, Some(Command::Stop { now: true }));
    }

    #[test]
    fn a_second_q_does_not_cut_a_graceful_stop() {
        let mut state = State { stopping: Stopping::Gracefully, ..State::default() };

        assert_eq!(press(&mut state, KeyCode::Char('q'), KeyModifiers::NONE), None);
        assert_eq!(state.stopping, Stopping::Gracefully);
    }

    fn watching(paused: bool, amount: u32) -> State {
        let mut view: LiveView = serde_json::from_value(serde_json::json!({
            "job": hyperscale_model::JobId::from_parts(1, 1), "name": "shop",
            "state": { "state": "running" }, "elapsed_ms": 0, "planned_ms": null, "workflows": [],
            "vus": 0, "vus_max": 0, "planned_rate": 0.0, "request_rate": 0.0,
            "iteration_rate": 0.0, "requests": 0, "failed": 0, "iterations": 0, "dropped": 0,
            "latency_us": hyperscale_report::Latency::default(), "recent": [], "steps": [],
            "thresholds": [], "gaps": [], "rows": [], "datacenters": [], "lag_p99_us": 0.0, "busy_share": 0.0,
        }))
        .unwrap();
        let scale = |workflow: &str, amount, most, is_users| hyperscale_report::ScaleView {
            workflow: workflow.to_owned(),
            amount,
            most,
            is_users,
        };
        view.paused = paused;
        view.scales = vec![
            scale("users", Some(amount), 40, true),
            scale("rate", Some(amount.min(100)), 100, false),
            scale("fixed", None, 100, false),
        ];
        State { view: Some(view), ..State::default() }
    }

    #[test]
    fn dat_02_a_capital_p_turns_the_load_off_and_on() {
        let pressed =
            |paused| press(&mut watching(paused, 0), KeyCode::Char('P'), KeyModifiers::SHIFT);

        assert_eq!(pressed(false), Some(Command::Pause(true)));
        assert_eq!(pressed(true), Some(Command::Pause(false)));
        assert_eq!(press(&mut State::default(), KeyCode::Char('P'), KeyModifiers::SHIFT), None);
    }

    #[test]
    fn dat_02_plus_and_minus_scale_by_a_tenth_within_the_plan() {
        let pressed = |key, amount| {
            press(&mut watching(false, amount), KeyCode::Char(key), KeyModifiers::NONE)
        };
        let scaled = |users: &str, rate: &str| {
            let pair = |name: &str, amount: &str| (name.to_owned(), amount.to_owned());
            Some(Command::Scale(vec![pair("users", users), pair("rate", rate)]))
        };

        assert_eq!(pressed('+', 20), scaled("24", "30%"));
        assert_eq!(pressed('-', 20), scaled("16", "10%"));
        assert_eq!(pressed('-', 0), None, "there is nothing less");
    }
}
