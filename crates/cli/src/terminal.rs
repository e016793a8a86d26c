//! The screen on which a job is watched as it runs.
//!
//! What is shown is a pure function of a [`State`] ([`draw()`]); what a key means is one too
//! ([`State::on_key`]). This module owns the device: raw mode, the alternate screen, the keyboard.
//! It gives the terminal back on every way out: by `Drop`, and by a hook if something panics.

mod draw;
mod log;
mod state;

use std::io::{IsTerminal as _, Stderr};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

pub(crate) use draw::draw;
pub(crate) use log::Log;
pub(crate) use state::{Command, State};

/// How often the keyboard's thread looks whether it should end: the longest that leaving takes.
const POLL: Duration = Duration::from_millis(50);
/// Keys that wait to be handled; whoever types faster than that is holding a key down.
const KEYS_MAX: usize = 64;

/// Whether a person sits before a terminal that can show a screen.
pub(crate) fn is_there(is_colourless: bool) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    !is_colourless
        && !is_dumb
        && !is_set("CI")
        && std::io::stderr().is_terminal()
        && std::io::stdout().is_terminal()
}

/// What a person did.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
}

/// The device.
pub(crate) struct Screen {
    /// Never dropped: its `Drop` prints, and so panics if the terminal is gone. [`give_back`] shows
    /// the cursor again.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stderr>>>,
    keys: mpsc::Receiver<Act>,
    stop: Arc<AtomicBool>,
    /// Disconnects when the keyboard's thread ends; nothing is ever sent.
    ended: std::sync::mpsc::Receiver<()>,
}

impl Screen {
    pub(crate) fn open() -> std::io::Result<Self> {
        restore_on_panic();
        enable_raw_mode()?;
        // From here on the terminal must be given back, also if the rest fails.
        let opened = Self::on_raw_terminal();
        if opened.is_err() {
            give_back();
        }
        opened
    }

    fn on_raw_terminal() -> std::io::Result<Self> {
        // Not the backend's `clear`: it asks the terminal for its cursor, which not every one answers.
        log::hold();
        execute!(std::io::stderr(), EnterAlternateScreen, Clear(ClearType::All))?;
        let terminal = Terminal::new(CrosstermBackend::new(std::io::stderr()))?;
        let terminal = ManuallyDrop::new(terminal);
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let (alive, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || {
            read_keys(&sender, &until);
            drop(alive);
        })?;
        Ok(Self { terminal, keys, stop, ended })
    }

    /// The next act; never, once the keyboard is gone.
    pub(crate) async fn act(&mut self) -> Act {
        match self.keys.recv().await {
            Some(act) => act,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn show(&mut self, state: &State) -> std::io::Result<()> {
        self.terminal.draw(|frame| draw(frame, state)).map(|_completed| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Waited for with a limit: if the terminal is closed while crossterm polls it, the poll
        // never returns. Such a thread ends with the process.
        if self.ended.recv_timeout(2 * POLL) == Err(RecvTimeoutError::Timeout) {
            tracing::debug!("the keyboard's thread hangs: the terminal is gone");
        }
        give_back();
    }
}

fn read_keys(sender: &mpsc::Sender<Act>, until: &AtomicBool) {
    while !until.load(Ordering::Relaxed) {
        let act = match event::poll(POLL) {
            Ok(false) => continue,
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Act::Key(key),
                Ok(Event::Resize(..)) => Act::Resized,
                Ok(_) => continue,
                Err(_) => return,
            },
            // The terminal is closed: signals still stop the test.
            Err(_) => return,
        };
        // A full queue drops the key: blocking here would keep the thread from ending.
        if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(act) {
            return;
        }
    }
}

/// Best effort by nature: a terminal that is gone cannot be restored.
fn give_back() {
    drop(execute!(std::io::stderr(), LeaveAlternateScreen, Show));
    drop(disable_raw_mode());
    log::release();
}

fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}
