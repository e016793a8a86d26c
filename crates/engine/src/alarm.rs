//! A timer that is as exact as the system's, for starts: the runtime's own goes by milliseconds, and
//! what a start is late counts as latency.

#[cfg(target_os = "linux")]
pub(crate) use exact::Alarm;
#[cfg(not(target_os = "linux"))]
pub(crate) use plain::Alarm;

#[cfg(target_os = "linux")]
mod exact {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use rustix::io::Errno;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use crate::clock;

    /// A timer of its own.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        timer: AsyncFd<OwnedFd>,
        /// What it is set to.
        set: Option<Instant>,
    }

    impl Alarm {
        pub(crate) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(
                unsafe_code,
                reason = "how the runtime watches a descriptor that it did not make"
            )]
            // SAFETY: an `OwnedFd` names one open descriptor from here to its drop, and `AsyncFd`
            // owns it that long, as nothing here takes it out.
            let timer = unsafe { AsyncFd::register(timer) }?;
            Ok(Self { timer, set: None })
        }

        /// Waits until an instant. May be dropped and called again.
        pub(crate) async fn at(&mut self, at: Instant) {
            while clock::now() < at {
                let fired = match self.set(at) {
                    Ok(()) => self.fired().await,
                    Err(error) => Err(error),
                };
                if let Err(error) = fired {
                    tracing::error!(%error, "a timer fails; starts go by milliseconds now");
                    return clock::sleep_until(at).await;
                }
            }
        }

        fn set(&mut self, at: Instant) -> io::Result<()> {
            if self.set == Some(at) {
                return Ok(());
            }
            let left = at.saturating_duration_since(clock::now());
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                // Zero would mean never.
                tv_nsec: i64::from(left.subsec_nanos().max(1)),
            };
            let spec = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
            self.set = Some(at);
            Ok(())
        }

        async fn fired(&mut self) -> io::Result<()> {
            let mut ready = self.timer.readable().await?;
            let read = rustix::io::read(ready.get_inner(), &mut [0; 8]);
            ready.clear_ready();
            match read {
                // It has fired, or it is the readiness of an earlier instant that is left over.
                Ok(_) => self.set = None,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod plain {
    use std::io;
    use std::time::Instant;

    use crate::clock;

    /// The runtime's timer.
    #[derive(Debug)]
    pub(crate) struct Alarm;

    impl Alarm {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) async fn at(&mut self, at: Instant) {
            clock::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn an_alarm_that_was_given_up_rings_at_its_next_time_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        let far = clock::now() + Duration::from_secs(3_600);
        let given_up = tokio::time::timeout(Duration::from_millis(5), alarm.at(far)).await;
        assert!(given_up.is_err(), "an hour has not passed");

        for micros in [10_000, 300, 2_000, 1] {
            let at = clock::now() + Duration::from_micros(micros);
            alarm.at(at).await;
            assert!(clock::now() >= at, "rang before {micros} us had passed");
        }
    }
}
