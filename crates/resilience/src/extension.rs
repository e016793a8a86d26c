//! More time for work that is late but moves.
//!
//! Each grant is half of the last, so that all of them together stay below twice the first.

use std::time::Duration;

use hyperscale_model::OverloadState;

/// Settings of extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtensionConfig {
    /// The first grant.
    pub first: Duration,
    /// So many grants.
    pub grants: u32,
}

impl ExtensionConfig {
    /// The defaults: 58.125 s in all.
    pub const DEFAULT: Self = Self { first: Duration::from_secs(30), grants: 5 };
}

/// What is known when more time is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtensionRequest {
    /// Work done since the start, in any unit that only grows.
    pub progress: u64,
    /// How the asking node is.
    pub overload: OverloadState,
    /// Whether it may be dead, or is silent for this work.
    pub is_suspect: bool,
}

/// Why there is no more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotExtended {
    /// All grants are spent.
    Spent,
    /// Nothing was done since the last grant.
    NoProgress,
    /// More time would keep an overloaded node so.
    Overloaded,
    /// Whoever asks may be gone.
    Suspect,
}

/// The extensions of one piece of work.
#[derive(Debug, Clone)]
pub struct Extensions {
    config: ExtensionConfig,
    granted: u32,
    total: Duration,
    progress: u64,
}

impl Extensions {
    /// None granted yet, nothing done yet.
    #[must_use]
    pub const fn new(config: ExtensionConfig) -> Self {
        Self { config, granted: 0, total: Duration::ZERO, progress: 0 }
    }

    /// Grants more time.
    ///
    /// # Errors
    ///
    /// With the reason if it does not; the state is then as before.
    pub fn extend(&mut self, request: ExtensionRequest) -> Result<Duration, NotExtended> {
        if self.granted >= self.config.grants {
            return Err(NotExtended::Spent);
        }
        if request.is_suspect {
            return Err(NotExtended::Suspect);
        }
        if request.overload == OverloadState::Overloaded {
            return Err(NotExtended::Overloaded);
        }
        if request.progress <= self.progress {
            return Err(NotExtended::NoProgress);
        }
        let grant = self.config.first / (1 << self.granted.min(31));
        self.granted += 1;
        self.total += grant;
        self.progress = request.progress;
        Ok(grant)
    }

    /// All that was granted: what the deadline moves by.
    #[must_use]
    pub const fn total(&self) -> Duration {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(progress: u64) -> ExtensionRequest {
        ExtensionRequest { progress, overload: OverloadState::Stressed, is_suspect: false }
    }

    #[test]
    fn tmo_06_grants_halve_and_end() {
        let mut extensions = Extensions::new(ExtensionConfig::DEFAULT);

        let grants: Vec<Duration> = (1..=5).map(|n| extensions.extend(moved(n)).unwrap()).collect();

        assert_eq!(grants, [30.0, 15.0, 7.5, 3.75, 1.875].map(Duration::from_secs_f64));
        assert_eq!(extensions.extend(moved(6)), Err(NotExtended::Spent));
        assert_eq!(extensions.total(), Duration::from_millis(58_125));
    }

    #[test]
    fn tmo_06_only_with_progress_and_not_while_overloaded_or_suspect() {
        let mut extensions = Extensions::new(ExtensionConfig::DEFAULT);
        let overloaded = ExtensionRequest { overload: OverloadState::Overloaded, ..moved(7) };
        let suspect = ExtensionRequest { is_suspect: true, ..moved(7) };

        assert_eq!(extensions.extend(moved(0)), Err(NotExtended::NoProgress));
        assert_eq!(extensions.extend(overloaded), Err(NotExtended::Overloaded));
        assert_eq!(extensions.extend(suspect), Err(NotExtended::Suspect));
        assert_eq!(extensions.extend(moved(7)), Ok(Duration::from_secs(30)), "no grant was lost");
        assert_eq!(extensions.extend(moved(7)), Err(NotExtended::NoProgress));
    }
}
