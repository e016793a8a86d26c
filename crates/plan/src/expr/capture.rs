//! Taking values from answers.

use hyperscale_model::SplitMix;
use regex::Regex;

use super::pattern::{Path, compile_path, compile_regex};
use super::{Answer, EvalError, Value};
use crate::ir::{CaptureFrom, CaptureIndex};

/// A capture ready for use: patterns are compiled.
pub struct CompiledCapture(From);

enum From {
    Json(Path),
    Regex(Regex),
    Header(String),
    Cookie(String),
    Body,
}

impl std::fmt::Debug for CompiledCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledCapture").finish_non_exhaustive()
    }
}

impl CompiledCapture {
    /// Compiles what a plan says.
    ///
    /// # Errors
    ///
    /// If a pattern is malformed, which no plan of our compiler has.
    pub fn new(from: &CaptureFrom) -> Result<Self, EvalError> {
        Ok(Self(match from {
            CaptureFrom::Json(path) => From::Json(compile_path(path).map_err(EvalError)?),
            CaptureFrom::Regex(pattern) => From::Regex(compile_regex(pattern).map_err(EvalError)?),
            CaptureFrom::Header(name) => From::Header(name.clone()),
            CaptureFrom::Cookie(name) => From::Cookie(name.clone()),
            CaptureFrom::Body => From::Body,
        }))
    }

    /// The value in `answer`; `None` if there is none. `random` chooses for
    /// [`CaptureIndex::Random`].
    #[must_use]
    pub fn extract(
        &self,
        answer: &dyn Answer,
        index: CaptureIndex,
        random: &mut SplitMix,
    ) -> Option<Value> {
        match &self.0 {
            From::Json(path) => {
                let parsed;
                let json = match answer.json() {
                    Some(json) => json,
                    None => {
                        parsed = serde_json::from_slice(answer.body()).ok()?;
                        &parsed
                    }
                };
                choose(path.all(json).into_iter().map(Value::from_json), index, random)
            }
            From::Regex(regex) => {
                let body = String::from_utf8_lossy(answer.body());
                let found = regex.captures_iter(&body).filter_map(|groups| {
                    Some(Value::text(groups.get(1).or_else(|| groups.get(0))?.as_str()))
                });
                choose(found, index, random)
            }
            From::Header(name) => {
                choose(answer.header(name).map(Value::text).into_iter(), index, random)
            }
            From::Cookie(name) => {
                choose(answer.cookie(name).map(Value::text).into_iter(), index, random)
            }
            From::Body => {
                let body = String::from_utf8_lossy(answer.body());
                choose(std::iter::once(Value::text(&body)), index, random)
            }
        }
    }
}

fn choose(
    mut found: impl Iterator<Item = Value>,
    index: CaptureIndex,
    random: &mut SplitMix,
) -> Option<Value> {
    match index {
        CaptureIndex::First => found.next(),
        CaptureIndex::All => {
            let all: Vec<Value> = found.collect();
            (!all.is_empty()).then(|| Value::List(all.into()))
        }
        CaptureIndex::Random => {
            let mut all: Vec<Value> = found.collect();
            let at = usize::try_from(random.below(all.len() as u64)).ok()?;
            (at < all.len()).then(|| all.swap_remove(at))
        }
    }
}
