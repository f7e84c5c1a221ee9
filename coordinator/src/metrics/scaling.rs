//! What the scaling manager tells of its pools. It is told when something changes, and kept until then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::metrics::Exposition;

use super::families;

/// Takes what is said of pools; clones say it to the same metrics.
#[derive(Clone, Debug, Default)]
pub struct Scaling(Arc<Mutex<Pools>>);

#[derive(Debug, Default)]
struct Pools {
    sizes: BTreeMap<String, Size>,
    changes: BTreeMap<(String, Direction, Effect), u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    wished: u64,
    present: u64,
    starting: u64,
}

/// Which way a pool changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It gets more agents.
    Up,
    /// It gets fewer.
    Down,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The agents came, or went, in time.
    Succeeded,
    /// They did not.
    Failed,
    /// Another wish took its place before it showed.
    Replaced,
}

impl Direction {
    const fn as_str(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

impl Effect {
    const fn as_str(self) -> &'static str {
        match self {
            Effect::Succeeded => "succeeded",
            Effect::Failed => "failed",
            Effect::Replaced => "replaced",
        }
    }
}

impl Scaling {
    /// How many agents a pool is to have, has, and waits for.
    pub fn sizes(&self, pool: &str, wished: u32, present: u32, starting: u32) {
        let size = Size { wished: wished.into(), present: present.into(), starting: starting.into() };
        self.pools().sizes.insert(pool.to_owned(), size);
    }

    /// A change has come to its end.
    pub fn changed(&self, pool: &str, direction: Direction, effect: Effect) {
        *self.pools().changes.entry((pool.to_owned(), direction, effect)).or_default() += 1;
    }

    /// There is no such pool any more, or this coordinator does not lead any more. What was counted stays.
    pub fn forget(&self, pool: &str) {
        self.pools().sizes.remove(pool);
    }

    pub(super) fn add(&self, samples: &mut Exposition) {
        let pools = self.pools();
        for (pool, size) in &pools.sizes {
            samples.add(&families::SCALING_WISHED, &[pool], size.wished);
            samples.add(&families::SCALING_PRESENT, &[pool], size.present);
            samples.add(&families::SCALING_STARTING, &[pool], size.starting);
        }
        for ((pool, direction, effect), count) in &pools.changes {
            samples.add(&families::SCALING_CHANGES, &[pool, direction.as_str(), effect.as_str()], *count);
        }
    }

    /// Whoever panicked while it had them has left them whole: each change is one.
    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shared::metrics::Format;

    use super::*;

    #[test]
    fn a_pool_is_told_of_until_it_is_forgotten_and_its_changes_are_kept() {
        let scaling = Scaling::default();
        let text = || {
            let mut samples = Exposition::default();
            scaling.add(&mut samples);
            samples.write(Format::Text)
        };

        scaling.clone().sizes("web", 3, 2, 1);
        scaling.changed("web", Direction::Up, Effect::Failed);
        scaling.changed("web", Direction::Up, Effect::Failed);

        assert!(text().contains("hive_scaling_wished_agents{pool=\"web\"} 3\n"), "{}", text());
        let changes = "hive_scaling_changes_total{pool=\"web\",direction=\"up\",outcome=\"failed\"} 2\n";
        assert!(text().contains(changes), "{}", text());
        scaling.forget("web");
        assert!(!text().contains("wished") && text().contains(changes), "{}", text());
    }
}
