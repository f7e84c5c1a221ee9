//! Loads: when tasks come and how long they run, drawn from a seed.

use std::time::Duration;

use scheduler::scaling::Policy;
use scheduler::scaling::world::{Curve, Task};

use crate::secs;

/// The policy of these pools: the defaults, with room to grow.
pub(crate) fn policy() -> Policy {
    Policy { max_agents: 200, ..Policy::default() }
}

/// From 20 busy slots to 200, at this moment.
pub(crate) fn step(at: Duration, seed: u64) -> Curve {
    let end = secs(4 * 3600);
    let tasks = Draw::new(seed).tasks(end, secs(2), 0.0, |t| if t < at { 20.0 } else { 200.0 });
    Curve { name: "step".to_owned(), tasks, end, policy: policy(), agents: 6 }
}

/// 100 busy slots, 20 % more or fewer from one look to the next.
pub(crate) fn steady(runs: Duration, seed: u64) -> Curve {
    let end = secs(3600);
    let tasks = Draw::new(seed).tasks(end, runs, 0.2, |_| 100.0);
    Curve { name: "steady".to_owned(), tasks, end, policy: policy(), agents: 28 }
}

/// From 20 busy slots to 200 within half an hour, and back an hour later.
pub(crate) fn ramp(seed: u64) -> Curve {
    let end = secs(10_800);
    let tasks = Draw::new(seed).tasks(end, secs(2), 0.1, |t| {
        let up = (t.as_secs_f64() / 1800.0).min(1.0);
        let down = (t.saturating_sub(secs(5400)).as_secs_f64() / 1800.0).min(1.0);
        20.0 + 180.0 * (up - down)
    });
    Curve { name: "ramp".to_owned(), tasks, end, policy: policy(), agents: 6 }
}

/// A day: 40 busy slots at night, 200 at noon.
pub(crate) fn day(seed: u64) -> Curve {
    let end = secs(86_400);
    let tasks = Draw::new(seed).tasks(end, secs(4), 0.1, |t| {
        let angle = t.as_secs_f64() / 86_400.0 * std::f64::consts::TAU;
        120.0 - 80.0 * angle.cos()
    });
    Curve { name: "day".to_owned(), tasks, end, policy: policy(), agents: 12 }
}

/// 150 busy slots, and three times as many for two minutes. Its agents start quickly, so it gives them up quickly.
pub(crate) fn spike(seed: u64) -> Curve {
    let end = secs(4 * 3600);
    let during = secs(3600)..secs(3720);
    let tasks = Draw::new(seed).tasks(end, secs(2), 0.1, |t| if during.contains(&t) { 450.0 } else { 150.0 });
    Curve { name: "spike".to_owned(), tasks, end, policy: Policy { down_cooldown: secs(60), ..policy() }, agents: 42 }
}

/// 200 busy slots, and after an hour 100 tasks at once of one to three minutes.
pub(crate) fn burst(seed: u64) -> Curve {
    let end = secs(4 * 3600);
    let mut draw = Draw::new(seed);
    let mut tasks = draw.tasks(end, secs(4), 0.1, |_| 200.0);
    let comes = secs(3600);
    tasks.extend((0..100).map(|_| Task { comes, runs: secs(60) + secs(120).mul_f64(draw.0.f64()), kind: 1 }));
    tasks.sort_by_key(|task| task.comes);
    Curve { name: "burst".to_owned(), tasks, end, policy: Policy { down_cooldown: secs(60), ..policy() }, agents: 56 }
}

/// 40 busy slots, for a pool of two agents that may be 30.
pub(crate) fn too_much(seed: u64) -> Curve {
    let end = secs(7200);
    let tasks = Draw::new(seed).tasks(end, secs(2), 0.1, |_| 40.0);
    Curve { name: "too-much".to_owned(), tasks, end, policy: Policy { max_agents: 30, ..policy() }, agents: 2 }
}

/// Nothing, 500 tasks of 2 s at once, and nothing again: for a pool that may be empty.
pub(crate) fn seldom(seed: u64) -> Curve {
    let mut draw = Draw::new(seed);
    let tasks = (0..500).map(|_| Task { comes: secs(600), runs: draw.exponential(secs(2)), kind: 0 }).collect();
    Curve { name: "seldom".to_owned(), tasks, end: secs(3600), policy: Policy { min_agents: 0, ..policy() }, agents: 0 }
}

/// Draws what is by chance.
struct Draw(fastrand::Rng);

impl Draw {
    fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Tasks that come at random (a Poisson process) and run for `runs` in the mean (exponentially), so that `busy` slots
    /// are taken in the mean. Every five seconds the rate is another by so much noise.
    fn tasks(&mut self, end: Duration, runs: Duration, noise: f64, busy: impl Fn(Duration) -> f64) -> Vec<Task> {
        const PACE: Duration = Duration::from_millis(500);
        const PACES_OF_ONE_NOISE: u32 = 10;
        let mut tasks = Vec::new();
        let (mut now, mut pace, mut factor) = (Duration::ZERO, 0_u32, 1.0);
        while now < end {
            if pace.is_multiple_of(PACES_OF_ONE_NOISE) {
                factor = 1.0 + noise * (2.0 * self.0.f64() - 1.0);
            }
            let mean = busy(now) * factor / runs.as_secs_f64() * PACE.as_secs_f64();
            let mut within = self.unit() / mean;
            while within < 1.0 {
                tasks.push(Task { comes: now + PACE.mul_f64(within), runs: self.exponential(runs), kind: 0 });
                within += self.unit() / mean;
            }
            now += PACE;
            pace += 1;
        }
        tasks
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(self.unit())
    }

    /// From an exponential distribution of mean 1.
    fn unit(&mut self) -> f64 {
        -(1.0 - self.0.f64()).ln()
    }
}
