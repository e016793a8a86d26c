//! Joins what the cores of an attempt tell to what the attempt did.

use std::collections::BTreeMap;

use hyperscale_model::AttemptId;
use hyperscale_plan::expr::Value;
use hyperscale_stats::WindowFigures;

use crate::{CoreEvent, CoreNews, RunEnd};

/// Attempts whose cores have not all told everything.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    attempts: BTreeMap<AttemptId, Joining>,
}

#[derive(Debug)]
struct Joining {
    prepared: usize,
    is_refused: bool,
    ended: usize,
    end: RunEnd,
    published: BTreeMap<String, Value>,
    /// By core the first window that it may still add to.
    open: BTreeMap<u32, u64>,
    waiting: BTreeMap<u64, WindowFigures>,
}

/// What an attempt did, over all its cores.
#[derive(Debug)]
pub enum AttemptNews {
    /// All cores can start.
    Prepared,
    /// A core cannot.
    Unprepared(String),
    /// What it did in a window. Windows come in order.
    Window(u64, Box<WindowFigures>),
    /// Users wait for more unique rows to be leased.
    RowsWanted,
    /// All cores are done.
    Ended {
        /// Why.
        end: RunEnd,
        /// What its iterations published.
        published: BTreeMap<String, Value>,
        /// How many draws of unique rows it has made; there will be no other.
        draws_made: u64,
    },
}

impl Windows {
    /// Expects an attempt on these cores.
    pub(crate) fn expect(&mut self, attempt: AttemptId, cores: &[u32]) {
        let joining = Joining {
            prepared: 0,
            is_refused: false,
            ended: 0,
            end: RunEnd::Finished,
            published: BTreeMap::new(),
            open: cores.iter().map(|&core| (core, 0)).collect(),
            waiting: BTreeMap::new(),
        };
        self.attempts.insert(attempt, joining);
    }

    /// Expects nothing of an attempt any more.
    pub(crate) fn forget(&mut self, attempt: AttemptId) {
        self.attempts.remove(&attempt);
    }

    /// Takes what a core tells; returns what that says of the attempt.
    pub(crate) fn on(&mut self, event: CoreEvent) -> Vec<AttemptNews> {
        let Some(joining) = self.attempts.get_mut(&event.attempt) else { return Vec::new() };
        let mut news = Vec::new();
        match event.what {
            CoreNews::Prepared => {
                joining.prepared += 1;
                if joining.prepared == joining.open.len() && !joining.is_refused {
                    news.push(AttemptNews::Prepared);
                }
            }
            CoreNews::Unprepared(message) => {
                if !joining.is_refused {
                    joining.is_refused = true;
                    news.push(AttemptNews::Unprepared(message));
                }
            }
            CoreNews::Window { window, figures } => {
                joining.open.insert(event.core, window + 1);
                match joining.waiting.get_mut(&window) {
                    Some(joined) => joined.join(*figures, true),
                    None => drop(joining.waiting.insert(window, *figures)),
                }
                joining.release(&mut news);
            }
            CoreNews::RowsWanted => news.push(AttemptNews::RowsWanted),
            CoreNews::Ended { end, published } => {
                joining.open.insert(event.core, u64::MAX);
                joining.ended += 1;
                joining.end = worst(std::mem::replace(&mut joining.end, RunEnd::Finished), end);
                join_published(&mut joining.published, published);
                joining.release(&mut news);
                if joining.ended == joining.open.len() {
                    let end = std::mem::replace(&mut joining.end, RunEnd::Finished);
                    let published = std::mem::take(&mut joining.published);
                    news.push(AttemptNews::Ended { end, published, draws_made: 0 });
                    self.attempts.remove(&event.attempt);
                }
            }
        }
        news
    }
}

/// Lists grow, single values follow each other.
fn join_published(all: &mut BTreeMap<String, Value>, more: BTreeMap<String, Value>) {
    for (name, value) in more {
        match (all.get_mut(&name), &value) {
            (Some(Value::List(known)), Value::List(more)) => {
                std::sync::Arc::make_mut(known).extend(more.iter().cloned());
            }
            _ => drop(all.insert(name, value)),
        }
    }
}

impl Joining {
    /// Hands out the windows to which no core adds any more.
    fn release(&mut self, news: &mut Vec<AttemptNews>) {
        let open = self.open.values().min().copied().unwrap_or(u64::MAX);
        while let Some(first) = self.waiting.first_entry().filter(|first| *first.key() < open) {
            let (window, figures) = first.remove_entry();
            news.push(AttemptNews::Window(window, Box::new(figures)));
        }
    }
}

fn worst(one: RunEnd, other: RunEnd) -> RunEnd {
    let rank = |end: &RunEnd| match end {
        RunEnd::Finished => 0,
        RunEnd::Stopped => 1,
        RunEnd::Aborted(_) => 2,
        RunEnd::Lost(_) => 3,
    };
    if rank(&other) > rank(&one) { other } else { one }
}
