//! The kinds that agents can do or tasks have named, and what a task asks of its agent.

use rustc_hash::FxHashMap;
use shared::needs::Needs;
use shared::{Kind, Resources};

use crate::config::KindSettings;
use crate::pace::Pace;
use crate::performance::RunTime;
use crate::placement::{Standards, StrategyState};
use crate::registry::AgentKey;
use crate::retries::Retries;
use crate::tenants::TenantKey;

/// Short name of a kind within the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindKey(u32);

impl KindKey {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn from_index(index: usize) -> Self {
        Self(index as u32)
    }
}

/// A kind as the scheduler knows it.
#[derive(Debug)]
pub(crate) struct KindEntry {
    pub(crate) key: KindKey,
    pub(crate) kind: Kind,
    pub(crate) settings: KindSettings,
    /// Agents that can do it, whether or not they are there; in the order they came.
    pub(crate) agents: Vec<AgentKey>,
    pub(crate) run_time: RunTime,
    pub(crate) strategy: StrategyState,
    /// How its agents are, for strategies that compare them.
    pub(crate) standards: Standards,
    /// Tasks fetched and not placed, by priority.
    pub(crate) waiting: [usize; 4],
    pub(crate) running: usize,
    /// When the next one may start, where its rate is limited.
    pub(crate) pace: Pace,
    /// Its tasks that have failed before and are on their way again.
    pub(crate) retries: Retries,
    /// How often an agent was ejected from it: where that never was, nobody has to look whether one is.
    pub(crate) ejections: u64,
}

/// All kinds that an agent can do or a task has named.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    entries: Vec<KindEntry>,
    by_name: FxHashMap<Kind, KindKey>,
}

impl Kinds {
    pub(crate) fn find(&self, kind: &Kind) -> Option<KindKey> {
        self.by_name.get(kind).copied()
    }

    pub(crate) fn add(&mut self, kind: &Kind, settings: KindSettings) -> KindKey {
        let key = KindKey(u32::try_from(self.entries.len()).expect("fewer than four billion kinds"));
        self.entries.push(KindEntry {
            key,
            kind: kind.clone(),
            settings,
            agents: Vec::new(),
            run_time: RunTime::default(),
            strategy: StrategyState::default(),
            standards: Standards::default(),
            waiting: [0; 4],
            running: 0,
            pace: Pace::default(),
            retries: Retries::default(),
            ejections: 0,
        });
        self.by_name.insert(kind.clone(), key);
        key
    }

    pub(crate) fn get(&self, key: KindKey) -> &KindEntry {
        &self.entries[key.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, key: KindKey) -> &mut KindEntry {
        &mut self.entries[key.0 as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &KindEntry> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut KindEntry> {
        self.entries.iter_mut()
    }
}

/// What a task asks of its agent, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Demand {
    pub(crate) tenant: TenantKey,
    pub(crate) kind: KindKey,
    pub(crate) needs: Needs,
    pub(crate) resources: [u64; 4],
    /// Whether its agent may have nothing else meanwhile.
    pub(crate) alone: bool,
}

impl Demand {
    /// A task that asks for nothing but its kind, and is for nobody in particular.
    pub(crate) fn plain(kind: KindKey) -> Self {
        let (tenant, needs) = (TenantKey::default(), Needs::default());
        Self { tenant, kind, needs, resources: [0; 4], alone: false }
    }

    /// Whether another asks the same of its agent, whoever it is for.
    pub(crate) fn is_like(&self, other: &Demand) -> bool {
        self.kind == other.kind
            && self.resources == other.resources
            && self.alone == other.alone
            && self.needs == other.needs
    }

    pub(crate) fn resources(&self) -> Resources {
        Resources::from_dimensions(self.resources)
    }
}
