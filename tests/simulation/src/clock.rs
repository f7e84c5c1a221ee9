//! The clocks of processes: each runs at its own rate, and its wall clock is off by some amount.

use std::time::Duration;

use crate::event::Micros;

/// The clock of one process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Micros,
    /// How much faster than true time it runs, in millionths.
    drift: i64,
    /// How far its wall clock is ahead of true time.
    ahead: i64,
}

const MILLION: i64 = 1_000_000;

impl Clock {
    /// A clock that is started now.
    pub fn start(now: Micros, drift: i64, ahead: i64) -> Self {
        Self { began: now, drift, ahead }
    }

    /// Time since the process began, by its own clock.
    pub fn elapsed(&self, now: Micros) -> Duration {
        let elapsed = (now - self.began) as i128 * i128::from(MILLION + self.drift) / i128::from(MILLION);
        Duration::from_micros(elapsed as u64)
    }

    /// The true time at which so much will have elapsed by this clock.
    pub fn at(&self, elapsed: Duration) -> Micros {
        let micros = elapsed.as_micros().min(1 << 60) as i128;
        self.began + ((micros * i128::from(MILLION)) / i128::from(MILLION + self.drift)) as u64 + 1
    }

    /// What its wall clock said when it began.
    pub fn origin(&self) -> Duration {
        Duration::from_micros(self.began.saturating_add_signed(self.ahead))
    }
}

/// Milliseconds as virtual time.
pub const fn ms(millis: u64) -> Micros {
    millis * 1000
}

/// Seconds as virtual time.
pub const fn secs(secs: u64) -> Micros {
    secs * 1_000_000
}
