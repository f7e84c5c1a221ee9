//! What has been measured of attempts: how long they run and how often they succeed.

use std::time::Duration;

/// Weight of the newest sample in the decaying means: the last ten or so attempts count.
const NEWEST: f64 = 0.1;

/// A decaying mean of how long attempts run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunTime(Option<f64>);

impl RunTime {
    pub(crate) fn observe(&mut self, run: Duration) {
        let sample = run.as_secs_f64();
        self.0 = Some(self.0.map_or(sample, |mean| mean + NEWEST * (sample - mean)));
    }

    /// The mean in seconds, once there is one.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.0
    }
}

/// How well one agent does with one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Performance {
    success_rate: f64,
    run_time: RunTime,
    samples: u32,
    failures_in_a_row: u32,
    /// Whether it gets none of the kind for now, and how often that was so.
    pub(crate) ejected: bool,
    ejections: u32,
}

/// Failures in a row that make an agent a black hole. (Envoy's outlier detection has the same number.)
pub(crate) const BLACK_HOLE: u32 = 5;

/// How long it is ejected the first time; as much longer each further time, up to ten times.
const EJECTION: Duration = Duration::from_secs(30);

impl Default for Performance {
    fn default() -> Self {
        Self {
            success_rate: 1.0,
            run_time: RunTime::default(),
            samples: 0,
            failures_in_a_row: 0,
            ejected: false,
            ejections: 0,
        }
    }
}

impl Performance {
    pub(crate) fn observe(&mut self, succeeded: bool, run: Duration) {
        self.samples += 1;
        self.failures_in_a_row = if succeeded { 0 } else { self.failures_in_a_row + 1 };
        self.success_rate += NEWEST * (f64::from(u8::from(succeeded)) - self.success_rate);
        // An attempt that fails at once says nothing about how fast the work gets done.
        if succeeded {
            self.run_time.observe(run);
        }
    }

    /// Whether it has shown that it can do the kind.
    pub(crate) fn does_well(&self) -> bool {
        self.samples >= 3 && self.failures_in_a_row == 0 && self.success_rate > 0.5
    }

    pub(crate) fn is_black_hole(&self) -> bool {
        !self.ejected && self.failures_in_a_row >= BLACK_HOLE
    }

    /// Ejects it; the answer is for how long.
    pub(crate) fn eject(&mut self) -> Duration {
        self.ejected = true;
        self.ejections += 1;
        EJECTION * self.ejections.min(10)
    }

    /// Lets it try again: a few more failures and it is out for longer.
    pub(crate) fn readmit(&mut self) {
        self.ejected = false;
        self.failures_in_a_row = BLACK_HOLE - 2;
    }

    /// Share of the attempts that succeed, of late; at least 0.05, so that a recovery is noticed.
    pub(crate) fn success_rate(&self) -> f64 {
        self.success_rate.max(0.05)
    }

    /// Work done well per second, compared with the kind's mean: the success rate times how much faster than the
    /// mean the agent is. Between 0.05, so that a recovery is noticed, and 4.
    pub(crate) fn weight(&self, kind_mean: &RunTime) -> f64 {
        let speed = match (kind_mean.seconds(), self.run_time.seconds()) {
            // Below a millisecond it is the network that is measured.
            (Some(mean), Some(own)) => mean.max(0.001) / own.max(0.001),
            _ => 1.0,
        };
        (self.success_rate * speed).clamp(0.05, 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_fails_half_weighs_half() {
        let (mut kind, mut good, mut bad) = (RunTime::default(), Performance::default(), Performance::default());
        let run = Duration::from_millis(10);
        for i in 0..200 {
            kind.observe(run);
            good.observe(true, run);
            bad.observe(i % 2 == 0, run);
        }

        assert!((0.35..0.65).contains(&(bad.weight(&kind) / good.weight(&kind))));
    }
}
