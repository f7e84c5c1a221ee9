//! How many tasks of each kind the stream holds, whoever has them.
//!
//! While the stream has few subjects they are listed, and the counts are exact. A task with an id has a subject of its
//! own, so a million of them would make a list of a million: then the broker counts kind by kind, which it is asked for
//! twice a minute, and in between only how many there are altogether, of which each kind has the share it had then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shared::Kind;
use shared::subject::{Subjects, TaskSubject};
use tracing::warn;

use crate::store::{Store, StoreError};

/// So many subjects are listed.
const LISTED: u64 = 20_000;
/// How long the shares of the kinds are taken for what they were.
const SHARES_LAST: Duration = Duration::from_secs(30);
/// So many kinds are counted one by one.
const KINDS: usize = 256;

/// How many tasks of each kind the stream holds.
#[derive(Debug, Default)]
pub(crate) struct Census {
    latest: Option<Counts>,
    shares: Option<Counts>,
}

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// When the count began.
    pub(crate) taken: Instant,
    /// How many messages the stream held altogether.
    total: u64,
    by_kind: BTreeMap<Kind, u64>,
}

impl Counts {
    /// How many tasks of a kind there are.
    pub(crate) fn of(&self, kind: &Kind) -> u64 {
        self.by_kind.get(kind).copied().unwrap_or(0)
    }

    /// The same shares of another total.
    fn scaled(&self, total: u64, taken: Instant) -> Self {
        let factor = if self.total == 0 { 0.0 } else { total as f64 / self.total as f64 };
        let scale = |(kind, count): (&Kind, &u64)| (kind.clone(), (*count as f64 * factor).round() as u64);
        Self { taken, total, by_kind: self.by_kind.iter().map(scale).collect() }
    }

    #[cfg(test)]
    pub(crate) fn now(total: u64, by_kind: &[(&str, u64)]) -> Self {
        let by_kind = by_kind.iter().map(|(kind, count)| (Kind::new(kind).expect("a good name"), *count));
        Self { taken: Instant::now(), total, by_kind: by_kind.collect() }
    }
}

impl Census {
    /// What was counted last.
    pub(crate) fn latest(&self) -> Option<&Counts> {
        self.latest.as_ref()
    }

    /// Counts the tasks of these kinds, and of others where that costs nothing. If it cannot be done, what was counted
    /// last stays, and gets old.
    pub(crate) async fn take(&mut self, store: &Store, subjects: &Subjects, kinds: &BTreeSet<Kind>) {
        match self.count(store, subjects, kinds).await {
            Ok(counts) => self.latest = Some(counts),
            Err(error) => warn!(error = crate::chain(&error), "the tasks in the stream cannot be counted"),
        }
    }

    async fn count(
        &mut self,
        store: &Store,
        subjects: &Subjects,
        kinds: &BTreeSet<Kind>,
    ) -> Result<Counts, StoreError> {
        let taken = Instant::now();
        let (total, subject_count) = store.task_stream_size().await?;
        if total == 0 {
            return Ok(Counts { taken, total, by_kind: BTreeMap::new() });
        }
        if subject_count <= LISTED {
            let by_kind = list(store, subjects).await?;
            return Ok(Counts { taken, total, by_kind });
        }
        let known = self.shares.as_ref().filter(|shares| {
            shares.taken.elapsed() < SHARES_LAST && kinds.iter().all(|kind| shares.by_kind.contains_key(kind))
        });
        if let Some(shares) = known {
            return Ok(shares.scaled(total, taken));
        }
        let mut by_kind = BTreeMap::new();
        for kind in kinds.iter().take(KINDS) {
            by_kind.insert(kind.clone(), store.queued_of_kind(kind).await?);
        }
        let counts = Counts { taken, total, by_kind };
        self.shares = Some(counts.clone());
        Ok(counts)
    }
}

async fn list(store: &Store, subjects: &Subjects) -> Result<BTreeMap<Kind, u64>, StoreError> {
    let mut by_kind = BTreeMap::new();
    // More may have come since they were counted.
    let most = 2 * LISTED as usize;
    for (subject, count) in store.subject_counts(subjects.tasks_stream(), subjects.all_tasks(), most).await? {
        if let Ok(TaskSubject { kind, .. }) = TaskSubject::parse(subjects, &subject) {
            *by_kind.entry(kind).or_default() += count as u64;
        }
    }
    Ok(by_kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_shares_of_another_total() {
        let counts = Counts::now(100_000, &[("resize", 75_000), ("encode", 25_000)]);

        let later = counts.scaled(40_000, Instant::now());

        let of = |kind| later.of(&Kind::new(kind).unwrap());
        assert_eq!((of("resize"), of("encode"), of("count")), (30_000, 10_000, 0));
    }
}
