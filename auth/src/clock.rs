//! Time as an argument: whoever checks an expiry or a delay is told what time it is.

#[cfg(test)]
use std::time::Duration;
use std::time::{Instant, SystemTime};

/// One moment on both clocks: tokens speak of wall time, delays are measured on the clock that nobody can set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub wall: SystemTime,
    pub steady: Instant,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// This moment moved on by `duration`, as a test's clock does.
    #[cfg(test)]
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self { wall: self.wall + duration, steady: self.steady + duration }
    }
}

/// Seconds since the epoch, 0 before it.
pub(crate) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
