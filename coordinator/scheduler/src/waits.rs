//! How long tasks waited for their first start, counted in buckets: to add one costs an addition.

use std::time::Duration;

/// The width of the first buckets, in microseconds.
const UNIT: u64 = 64;
/// Four buckets to a doubling: a quantile is at most a quarter too large.
const BUCKETS: usize = 160;

/// How many tasks waited how long for their first start, since this coordinator leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits([u64; BUCKETS]);

impl Default for Waits {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Waits {
    /// One more has waited so long.
    pub(crate) fn add(&mut self, waited: Duration) {
        self.0[bucket(waited)] += 1;
    }

    /// Those that were counted since `earlier` was taken. If another reign has begun meanwhile, it is all of them.
    #[must_use]
    pub fn since(&self, earlier: &Waits) -> Waits {
        let began_anew = self.0.iter().zip(&earlier.0).any(|(now, before)| now < before);
        if began_anew {
            return self.clone();
        }
        Waits(std::array::from_fn(|i| self.0[i] - earlier.0[i]))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// This share of them, 0.0 to 1.0, waited no longer; nothing if there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut counted = 0;
        let reaches = |count: &u64| {
            counted += count;
            counted >= wanted
        };
        self.0.iter().position(reaches).map(upper_bound)
    }
}

fn bucket(waited: Duration) -> usize {
    let units = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX) / UNIT;
    if units < 4 {
        return units as usize;
    }
    let exponent = units.ilog2();
    let quarter = (units >> (exponent - 2)) & 3;
    ((exponent as usize - 1) * 4 + quarter as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let units = match bucket {
        0..4 => bucket as u64 + 1,
        _ => (bucket as u64 % 4 + 5) << (bucket / 4 - 1),
    };
    Duration::from_micros(units * UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(millis: impl IntoIterator<Item = u64>) -> Waits {
        let mut waits = Waits::default();
        millis.into_iter().for_each(|ms| waits.add(Duration::from_millis(ms)));
        waits
    }

    #[test]
    fn a_quantile_is_never_too_small_and_at_most_a_quarter_too_large() {
        for ms in [0, 1, 3, 40, 999, 61_000, 86_400_000] {
            let (waited, told) = (Duration::from_millis(ms), waits([ms]).quantile(0.5).unwrap());
            assert!(told > waited, "{told:?} for {waited:?}");
            assert!(told <= waited.mul_f64(1.26) + Duration::from_micros(UNIT), "{told:?} for {waited:?}");
        }
    }

    #[test]
    fn half_and_nearly_all_are_told_apart() {
        let waits = waits((1..=100).map(|n| if n <= 90 { 10 } else { 5_000 }));

        assert!(waits.quantile(0.5).unwrap() < Duration::from_millis(13));
        assert!(waits.quantile(0.95).unwrap() >= Duration::from_secs(5));
        assert_eq!(Waits::default().quantile(0.5), None);
    }

    #[test]
    fn what_was_counted_since_then_is_told_over_a_change_of_reign_too() {
        let (earlier, later) = (waits([1, 10]), waits([1, 10, 10, 300]));

        assert_eq!(later.since(&earlier), waits([10, 300]));
        assert_eq!(waits([300]).since(&later), waits([300]), "it counts from zero again");
    }
}
