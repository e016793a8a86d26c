//! How overloaded this process is.
//!
//! All roles of a process share a thread, so how late that thread comes is what everybody waits who
//! talks to it. How busy the processor is says nothing of the kind: a worker is meant to keep it
//! busy.

use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::OverloadState;
use hyperscale_resilience::{OverloadConfig, OverloadDetector, OverloadSample};

use crate::observe::{Count, Observer};

/// How often the thread is to be there.
const BEAT: Duration = Duration::from_millis(100);
/// Beats of one sample.
const BEATS: u32 = 10;

/// What counts as late: what people would notice, however punctual it was before.
const CONFIG: OverloadConfig =
    OverloadConfig { baseline_min: Duration::from_millis(500), ..OverloadConfig::DEFAULT };

/// Watches the thread that it runs on, and tells whenever its state has changed.
pub(crate) async fn watch(observer: Arc<Observer>, tell: impl AsyncFn(OverloadState)) {
    let clock = observer.clock();
    let mut detector = OverloadDetector::new(CONFIG);
    loop {
        let mut latest = Duration::ZERO;
        for _ in 0..BEATS {
            let due = clock.now() + BEAT;
            clock.sleep_until(Some(due)).await;
            latest = latest.max(clock.now().since(due));
        }
        // The processor is not read, see above.
        let sample = OverloadSample { latency: Some(latest), cpu: 0.0, memory: memory_used() };
        if let Some(state) = detector.sample(clock.now(), sample) {
            observer.set_overload(state);
            if state > OverloadState::Healthy {
                observer.count(Count::Overloaded);
                let late = latest.as_millis();
                tracing::warn!(?state, late_ms = late, "this node is slow");
            } else {
                tracing::info!("this node is as fast as it should be again");
            }
            tell(state).await;
        }
    }
}

/// The share of the machine's memory that this process has; 0 where it cannot be read.
fn memory_used() -> f64 {
    let read = |path: &str, name: &str| -> Option<f64> {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (own, all) = (read("/proc/self/status", "VmRSS:"), read("/proc/meminfo", "MemTotal:"));
    match (own, all) {
        (Some(own), Some(all)) if all > 0.0 => own / all,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::Time;

    use super::*;

    /// The state of a node whose thread was so late each second, for ten seconds.
    fn after(late: Duration) -> OverloadState {
        let mut detector = OverloadDetector::new(CONFIG);
        let sample = OverloadSample { latency: Some(late), cpu: 0.0, memory: 0.0 };
        (0..10)
            .filter_map(|second| detector.sample(Time::from_secs(second), sample))
            .last()
            .unwrap_or_default()
    }

    #[test]
    fn lateness_that_nobody_notices_is_no_load() {
        assert_eq!(after(Duration::from_millis(150)), OverloadState::Healthy);
        assert_eq!(after(Duration::from_millis(300)), OverloadState::Busy);
        assert_eq!(after(Duration::from_millis(600)), OverloadState::Stressed);
        assert_eq!(after(Duration::from_secs(3)), OverloadState::Overloaded);
    }

    #[test]
    fn this_process_has_a_part_of_the_memory() {
        assert!((0.0..1.0).contains(&memory_used()));
    }
}
