//! Whom work is for: what a tenant's share weighs, and what it may have at once.

use compact_str::CompactString;
use rustc_hash::FxHashMap;

use crate::config::{Config, TenantSettings};
use crate::pace::Pace;

/// Short name of a tenant within the scheduler; the first is for tasks that name none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TenantKey(u32);

/// Somebody whom work is for.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: CompactString,
    pub(crate) settings: TenantSettings,
    pub(crate) running: usize,
    pub(crate) pace: Pace,
}

/// Everybody whom a task has named.
#[derive(Debug)]
pub(crate) struct Tenants {
    entries: Vec<Tenant>,
    by_name: FxHashMap<CompactString, TenantKey>,
}

impl Tenants {
    /// Nobody but those who are not named.
    pub(crate) fn new(config: &Config) -> Self {
        let mut tenants = Self { entries: Vec::new(), by_name: FxHashMap::default() };
        tenants.find_or_add("", config);
        tenants
    }

    pub(crate) fn find(&self, name: &str) -> Option<TenantKey> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn find_or_add(&mut self, name: &str, config: &Config) -> TenantKey {
        if let Some(key) = self.find(name) {
            return key;
        }
        let key = TenantKey(u32::try_from(self.entries.len()).expect("fewer than four billion tenants"));
        let settings = TenantSettings::of(name, config);
        self.entries.push(Tenant { name: name.into(), settings, running: 0, pace: Pace::default() });
        self.by_name.insert(name.into(), key);
        key
    }

    pub(crate) fn get(&self, key: TenantKey) -> &Tenant {
        &self.entries[key.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, key: TenantKey) -> &mut Tenant {
        &mut self.entries[key.0 as usize]
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = TenantKey> + use<> {
        (0..self.entries.len() as u32).map(TenantKey)
    }
}
