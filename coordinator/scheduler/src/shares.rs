//! What each tenant has had of a kind, for its weight: who has had the least goes next.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, 1996), counted in slot-seconds of the dominant resource (Ghodsi et
//! al., "Dominant Resource Fairness", 2011): an attempt is charged for what it is expected to take when it starts, and
//! for the rest when it ends; one that runs longer than expected is charged as it goes. A tenant that had nothing to do
//! is not owed what it missed. What was charged before a weight changed stays as it was charged, and everything from then
//! on counts by the new weight, for what waits already too.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Timestamp;
use crate::kinds::KindKey;
use crate::lines::LineKey;
use crate::performance::RunTime;
use crate::tenants::TenantKey;

/// What an attempt is expected to take of which nothing is known, in slot-seconds.
const UNKNOWN: f64 = 1.0;
/// How long it is remembered what a tenant has had that has nothing to do.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What tenants have had of each kind.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    kinds: Vec<KindShares>,
}

#[derive(Debug, Default)]
struct KindShares {
    accounts: BTreeMap<TenantKey, Account>,
    /// What the tenant had had that was served last: nobody begins with less.
    floor: f64,
}

/// What a tenant has had of a kind.
#[derive(Debug)]
struct Account {
    /// Slot-seconds charged for each unit of its weight.
    had: f64,
    run_time: RunTime,
    /// Of what runs: how much it takes a second, that times when it began, and how much of it is charged.
    rate: f64,
    rate_times_start: f64,
    charged: f64,
    /// Charged beyond what was expected.
    beyond: f64,
    running: usize,
    /// Where its tasks wait.
    lines: Vec<LineKey>,
    idle_since: Timestamp,
}

/// What an attempt was charged when it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Charge {
    /// How much it takes a second: 1.0 for a slot, more where it reserves more than a slot's share of something.
    pub(crate) rate: f64,
    /// How much it was expected to take.
    pub(crate) expected: f64,
    /// What its tenant weighed.
    pub(crate) weight: f64,
}

impl Charge {
    /// Nothing yet: what was not started by us is charged when it has ended.
    pub(crate) fn later(weight: f64) -> Self {
        Self { rate: 1.0, expected: 0.0, weight }
    }
}

impl Shares {
    /// Whether more than one tenant has a part in the kind.
    pub(crate) fn are_shared(&self, kind: KindKey) -> bool {
        self.kinds.get(kind.index()).is_some_and(|shares| shares.accounts.len() > 1)
    }

    /// Where the tenant's tasks of the kind wait.
    pub(crate) fn lines(&self, kind: KindKey, tenant: TenantKey) -> &[LineKey] {
        self.kinds[kind.index()].accounts.get(&tenant).map_or(&[], |account| &account.lines)
    }

    /// Tasks of the tenant wait in a new line. Whether the kind is shared only since then is returned.
    pub(crate) fn enter(&mut self, kind: KindKey, tenant: TenantKey, line: LineKey) -> bool {
        let was_shared = self.are_shared(kind);
        self.account(kind, tenant).lines.push(line);
        !was_shared && self.are_shared(kind)
    }

    /// The line is empty.
    pub(crate) fn leave(&mut self, kind: KindKey, tenant: TenantKey, line: LineKey) {
        self.account(kind, tenant).lines.retain(|other| *other != line);
    }

    /// The tenant's account, in which nothing is owed to it for a time in which it had nothing to do.
    fn account(&mut self, kind: KindKey, tenant: TenantKey) -> &mut Account {
        if self.kinds.len() <= kind.index() {
            self.kinds.resize_with(kind.index() + 1, KindShares::default);
        }
        let KindShares { accounts, floor } = &mut self.kinds[kind.index()];
        let account = accounts.entry(tenant).or_default();
        if account.is_idle() {
            account.had = account.had.max(*floor);
        }
        account
    }

    /// What the tenant has had, as it is compared; nothing where it is alone.
    pub(crate) fn had(&self, kind: KindKey, tenant: TenantKey) -> u64 {
        if !self.are_shared(kind) {
            return 0;
        }
        let account = self.kinds[kind.index()].accounts.get(&tenant);
        // Numbers that are not negative are in the order of their bits.
        account.map_or(0, |account| account.had.max(0.0).to_bits())
    }

    /// What an attempt will be charged when it starts that takes so much a second.
    pub(crate) fn charge(&mut self, kind: KindKey, tenant: TenantKey, rate: f64, weight: f64) -> Charge {
        let seconds = self.account(kind, tenant).run_time.seconds().unwrap_or(UNKNOWN);
        Charge { rate, expected: rate * seconds, weight }
    }

    /// An attempt starts.
    pub(crate) fn begin(&mut self, kind: KindKey, tenant: TenantKey, charge: Charge, now: Timestamp) {
        let account = self.account(kind, tenant);
        let had = account.had;
        account.begin(charge, now);
        if charge.expected > 0.0 {
            let shares = &mut self.kinds[kind.index()];
            shares.floor = shares.floor.max(had);
        }
    }

    /// An attempt has ended.
    pub(crate) fn end(&mut self, kind: KindKey, tenant: TenantKey, charge: Charge, began: Timestamp, now: Timestamp) {
        self.account(kind, tenant).end(charge, began, now);
    }

    /// Charges what runs longer than was expected, and says whom. Forgets who has had nothing to do for long.
    pub(crate) fn charge_as_it_goes(
        &mut self,
        weight: impl Fn(TenantKey) -> f64,
        now: Timestamp,
    ) -> Vec<(KindKey, TenantKey)> {
        let mut charged = Vec::new();
        for (number, shares) in self.kinds.iter_mut().enumerate().filter(|(_, shares)| shares.accounts.len() > 1) {
            for (tenant, account) in &mut shares.accounts {
                if account.charge_as_it_goes(weight(*tenant), now) {
                    charged.push((KindKey::from_index(number), *tenant));
                }
            }
            shares.accounts.retain(|_, account| !account.is_idle() || now.since(account.idle_since) < REMEMBERED);
        }
        charged
    }
}

impl Account {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.lines.is_empty()
    }

    fn begin(&mut self, charge: Charge, now: Timestamp) {
        self.had += charge.expected / charge.weight;
        self.running += 1;
        self.rate += charge.rate;
        self.rate_times_start += charge.rate * seconds(now);
        self.charged += charge.expected;
    }

    fn end(&mut self, charge: Charge, began: Timestamp, now: Timestamp) {
        let took = now.since(began);
        self.run_time.observe(took);
        self.running = self.running.saturating_sub(1);
        self.rate -= charge.rate;
        self.rate_times_start -= charge.rate * seconds(began);
        self.charged -= charge.expected;
        let owed = charge.rate * took.as_secs_f64() - charge.expected;
        let paid = owed.max(0.0).min(self.beyond);
        self.beyond -= paid;
        self.charged -= paid;
        self.had += (owed - paid) / charge.weight;
        if self.running == 0 {
            // What is left is what sums of many numbers are off by.
            (self.rate, self.rate_times_start, self.charged, self.beyond) = (0.0, 0.0, 0.0, 0.0);
            self.idle_since = now;
        }
    }

    fn charge_as_it_goes(&mut self, weight: f64, now: Timestamp) -> bool {
        let taken = self.rate * seconds(now) - self.rate_times_start;
        let beyond = taken - self.charged;
        if beyond <= 1e-6 {
            return false;
        }
        self.charged += beyond;
        self.beyond += beyond;
        self.had += beyond / weight;
        true
    }
}

impl Default for Account {
    fn default() -> Self {
        Self {
            had: 0.0,
            run_time: RunTime::default(),
            rate: 0.0,
            rate_times_start: 0.0,
            charged: 0.0,
            beyond: 0.0,
            running: 0,
            lines: Vec::new(),
            idle_since: Timestamp::default(),
        }
    }
}

fn seconds(moment: Timestamp) -> f64 {
    moment.since_origin().as_secs_f64()
}
