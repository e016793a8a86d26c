//! Pieces that keep a node useful when others are slow, full or gone.
//!
//! Each is a value that its owner feeds with what happened and when; none has a clock, a thread or
//! randomness of its own, and none grows without a limit. They know nothing of roles, messages or
//! links.
//!
//! ```
//! use hyperscale_model::Time;
//! use hyperscale_resilience::{Breakers, BreakerConfig};
//!
//! let mut breakers = Breakers::new(BreakerConfig::DEFAULT);
//! for second in 0..3 {
//!     let now = Time::from_secs(second);
//!     let call = breakers.try_call(now, &"dc-1").unwrap();
//!     breakers.on_failure(now, &"dc-1", call);
//! }
//! assert_eq!(breakers.try_call(Time::from_secs(3), &"dc-1"), Err(Time::from_secs(12)));
//! assert!(breakers.try_call(Time::from_secs(3), &"dc-2").is_ok());
//! ```

#![warn(clippy::wildcard_enum_match_arm)]

mod alarm;
mod backoff;
mod breaker;
mod bucket;
mod overload;
mod patience;
mod pressure;
mod retry;
mod rtt;
mod shed;

pub use alarm::{Alarm, Crossing, Managers, ManagersTrouble};
pub use backoff::Backoff;
pub use breaker::{Breaker, BreakerConfig, Breakers, Call};
pub use bucket::{Buckets, Rate};
pub use overload::{OverloadConfig, OverloadDetector, OverloadSample};
pub use patience::Patience;
pub use pressure::{PressureConfig, PressureGauge, strictest};
pub use retry::{ErrorClass, GiveUp, Retry, RetryDecision};
pub use rtt::Rtt;
pub use shed::{Shed, ShedReason, Shedder, ShedderConfig};
