//! What a node does not take on: by its overload, and by what it has in flight.
//!
//! Control is never shed, and counts against nobody: a node that is full must still hear that it
//! shall stop.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{Class, OverloadState};

/// Settings of a shedder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShedderConfig {
    /// In flight of all classes together, control apart.
    pub all_max: u32,
    /// In flight of dispatch.
    pub dispatch_max: u32,
    /// In flight of progress.
    pub progress_max: u32,
    /// In flight of bulk.
    pub bulk_max: u32,
    /// When whoever was refused may come back; twice and five times that if the node is stressed or
    /// overloaded.
    pub retry_after: Duration,
}

impl ShedderConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        all_max: 1_000,
        dispatch_max: 500,
        progress_max: 300,
        bulk_max: 200,
        retry_after: Duration::from_secs(1),
    };

    const fn max_of(&self, class: Class) -> Option<u32> {
        match class {
            Class::Control => None,
            Class::Dispatch => Some(self.dispatch_max),
            Class::Progress => Some(self.progress_max),
            Class::Bulk => Some(self.bulk_max),
        }
    }
}

/// Work that was not taken on; whoever asked is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// Why.
    pub reason: ShedReason,
    /// When to come back.
    pub retry_after: Duration,
}

/// Why work was not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShedReason {
    /// The node is too loaded for this class.
    Overload(OverloadState),
    /// Too much of this class is in flight.
    ClassFull,
    /// Too much is in flight.
    AllFull,
}

/// What a node has in flight.
#[derive(Debug, Clone)]
pub struct Shedder {
    config: ShedderConfig,
    in_flight: BTreeMap<Class, u32>,
}

impl Shedder {
    /// Nothing in flight.
    #[must_use]
    pub const fn new(config: ShedderConfig) -> Self {
        Self { config, in_flight: BTreeMap::new() }
    }

    /// Takes work on, until [`Shedder::finish`].
    ///
    /// # Errors
    ///
    /// If it is shed; then nothing has to be finished.
    pub fn admit(&mut self, state: OverloadState, class: Class) -> Result<(), Shed> {
        if let Some(reason) = self.refusal(state, class) {
            return Err(Shed { reason, retry_after: self.retry_after(state) });
        }
        *self.in_flight.entry(class).or_default() += 1;
        Ok(())
    }

    /// Work that was admitted is done, whatever came of it.
    ///
    /// # Panics
    ///
    /// If more is finished than was admitted: the limits would grow with each such call.
    pub fn finish(&mut self, class: Class) {
        let left = self.in_flight(class).checked_sub(1);
        assert!(left.is_some(), "work of {class:?} finished that was never admitted");
        self.in_flight.insert(class, left.unwrap_or(0));
    }

    /// Work of a class that is not done yet.
    #[must_use]
    pub fn in_flight(&self, class: Class) -> u32 {
        self.in_flight.get(&class).copied().unwrap_or(0)
    }

    /// Whether a limit of the class is used to four fifths: time to warn.
    #[must_use]
    pub fn is_nearly_full(&self, class: Class) -> bool {
        let nearly = |used: u32, max: u32| u64::from(used) * 5 >= u64::from(max) * 4;
        self.config.max_of(class).is_some_and(|max| {
            nearly(self.in_flight(class), max) || nearly(self.all_in_flight(), self.config.all_max)
        })
    }

    fn refusal(&self, state: OverloadState, class: Class) -> Option<ShedReason> {
        let max = self.config.max_of(class)?;
        if shed_from(state).is_some_and(|shed| class >= shed) {
            return Some(ShedReason::Overload(state));
        }
        if self.in_flight(class) >= max {
            return Some(ShedReason::ClassFull);
        }
        (self.all_in_flight() >= self.config.all_max).then_some(ShedReason::AllFull)
    }

    fn all_in_flight(&self) -> u32 {
        [Class::Dispatch, Class::Progress, Class::Bulk]
            .map(|class| self.in_flight(class))
            .iter()
            .sum()
    }

    fn retry_after(&self, state: OverloadState) -> Duration {
        match state {
            OverloadState::Healthy | OverloadState::Busy => self.config.retry_after,
            OverloadState::Stressed => self.config.retry_after * 2,
            OverloadState::Overloaded => self.config.retry_after * 5,
        }
    }
}

/// The most important class that is shed in a state.
const fn shed_from(state: OverloadState) -> Option<Class> {
    match state {
        OverloadState::Healthy => None,
        OverloadState::Busy => Some(Class::Bulk),
        OverloadState::Stressed => Some(Class::Progress),
        OverloadState::Overloaded => Some(Class::Dispatch),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLASSES: [Class; 4] = [Class::Control, Class::Dispatch, Class::Progress, Class::Bulk];

    fn shedder() -> Shedder {
        Shedder::new(ShedderConfig::DEFAULT)
    }

    #[test]
    fn bpr_01_each_state_sheds_one_class_more() {
        for (state, passing) in OverloadState::ALL.into_iter().zip([4, 3, 2, 1]) {
            let passed: Vec<Class> = CLASSES
                .into_iter()
                .filter(|&class| shedder().admit(state, class).is_ok())
                .collect();
            assert_eq!(passed, CLASSES[..passing], "while {state:?}");
        }
    }

    #[test]
    fn bpr_01_a_refusal_says_why_and_when_to_come_back() {
        let shed = shedder().admit(OverloadState::Stressed, Class::Bulk).unwrap_err();

        assert_eq!(shed.reason, ShedReason::Overload(OverloadState::Stressed));
        assert_eq!(shed.retry_after, Duration::from_secs(2));
    }

    #[test]
    fn bpr_03_each_class_has_its_limit_and_control_none() {
        let rows = [(Class::Dispatch, 500), (Class::Progress, 300), (Class::Bulk, 200)];
        for (class, max) in rows {
            let mut shedder = shedder();
            for n in 0..max {
                assert_eq!(shedder.is_nearly_full(class), n * 5 >= max * 4, "{n} of {class:?}");
                assert_eq!(
                    shedder.admit(OverloadState::Healthy, class),
                    Ok(()),
                    "{n} of {class:?}"
                );
            }
            let shed = shedder.admit(OverloadState::Healthy, class).unwrap_err();
            assert_eq!(shed.reason, ShedReason::ClassFull);
            for _ in 0..10_000 {
                assert_eq!(shedder.admit(OverloadState::Overloaded, Class::Control), Ok(()));
            }
            shedder.finish(class);
            assert_eq!(shedder.admit(OverloadState::Healthy, class), Ok(()));
        }
    }

    #[test]
    fn bpr_03_all_classes_together_have_a_limit_too() {
        let config = ShedderConfig { all_max: 600, ..ShedderConfig::DEFAULT };
        let mut shedder = Shedder::new(config);
        (0..1_000).for_each(|_| shedder.admit(OverloadState::Healthy, Class::Control).unwrap());
        (0..500).for_each(|_| shedder.admit(OverloadState::Healthy, Class::Dispatch).unwrap());
        (0..100).for_each(|_| shedder.admit(OverloadState::Healthy, Class::Progress).unwrap());

        let shed = shedder.admit(OverloadState::Healthy, Class::Progress).unwrap_err();

        assert_eq!(shed.reason, ShedReason::AllFull);
    }

    proptest! {
        #[test]
        fn bpr_03_counts_return_to_zero(
            steps in proptest::collection::vec((0usize..4, 0usize..4, any::<bool>()), 0..2_000),
        ) {
            let (mut shedder, mut running) = (shedder(), Vec::new());
            for (state, class, finishes) in steps {
                let (state, class) = (OverloadState::ALL[state], CLASSES[class]);
                if finishes {
                    running.pop().into_iter().for_each(|class| shedder.finish(class));
                } else if shedder.admit(state, class).is_ok() {
                    running.push(class);
                } else {
                    prop_assert_ne!(class, Class::Control, "control was shed while {:?}", state);
                }
            }
            running.into_iter().for_each(|class| shedder.finish(class));
            prop_assert!(CLASSES.iter().all(|&class| shedder.in_flight(class) == 0));
        }
    }
}
