//! The kinds that agents can do or tasks have named, and what a task asks of its agent.

use rustc_hash::FxHashMap;
use shared::message::Needed;
use shared::needs::Needs;
use shared::{Kind, Resources, TaskOptions, quantity};

use crate::config::KindSettings;
use crate::load::KindCounts;
use crate::pace::Pace;
use crate::performance::RunTime;
use crate::placement::{Standards, StrategyState};
use crate::registry::AgentKey;
use crate::retries::Retries;
use crate::tenants::TenantKey;
use crate::usage::Usage;

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
    /// What its agents' own settings say that an attempt needs; the most that any of them says.
    pub(crate) declared: Needed,
    /// What its attempts have used.
    pub(crate) usage: Usage,
    /// Agents that can do it, whether or not they are there; in the order they came.
    pub(crate) agents: Vec<AgentKey>,
    pub(crate) run_time: RunTime,
    /// What has started and ended of it: for those who compare two looks.
    pub(crate) counts: KindCounts,
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
    /// Its tasks that this leader has settled, by outcome.
    pub(crate) settled: [u64; 5],
}

/// All kinds that an agent can do or a task has named.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    entries: Vec<KindEntry>,
    by_name: FxHashMap<Kind, KindKey>,
}

impl KindEntry {
    /// What a task of the kind reserves: what its headers say, or else the settings of the kind, or else those of its
    /// agents.
    pub(crate) fn reserved_by(&self, options: &TaskOptions) -> Needed {
        let said = [options.cpu_millis, options.memory_bytes, options.disk_bytes, options.network_bps];
        let otherwise = self.settings.reserved.or(&self.declared);
        let dimensions = otherwise.resources.dimensions();
        Needed {
            resources: Resources::from_dimensions(std::array::from_fn(|i| said[i].unwrap_or(dimensions[i]))),
            countable: options.countables.clone().unwrap_or(otherwise.countable),
        }
    }
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
            declared: Needed::default(),
            usage: Usage::default(),
            agents: Vec::new(),
            run_time: RunTime::default(),
            counts: KindCounts::default(),
            strategy: StrategyState::default(),
            standards: Standards::default(),
            waiting: [0; 4],
            running: 0,
            pace: Pace::default(),
            retries: Retries::default(),
            ejections: 0,
            settled: [0; 5],
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
    /// What is reserved for it.
    pub(crate) reserved: Needed,
    /// Whether its agent may have nothing else meanwhile.
    pub(crate) alone: bool,
}

impl Demand {
    /// A task that asks for nothing but its kind, and is for nobody in particular.
    pub(crate) fn plain(kind: KindKey) -> Self {
        let (tenant, needs) = (TenantKey::default(), Needs::default());
        Self { tenant, kind, needs, reserved: Needed::default(), alone: false }
    }

    /// Whether another asks the same of its agent, whoever it is for.
    pub(crate) fn is_like(&self, other: &Demand) -> bool {
        self.kind == other.kind
            && self.reserved == other.reserved
            && self.alone == other.alone
            && self.needs == other.needs
    }

    /// What it asks for beside its kind, in words.
    pub(crate) fn words(&self) -> String {
        let needs = (!self.needs.is_empty()).then(|| format!("with `{}`", self.needs));
        let amounts = self.reserved.resources.dimensions().into_iter().zip(Resources::NAMES);
        let amounts = amounts.filter(|(amount, _)| *amount > 0);
        let amounts = amounts.map(|(amount, name)| format!("{name} {}", quantity::show(name, amount)));
        let countable = (!self.reserved.countable.is_empty()).then(|| self.reserved.countable.to_string());
        let parts: Vec<String> = needs.into_iter().chain(amounts).chain(countable).collect();
        if parts.is_empty() { "at all".to_owned() } else { parts.join(", ") }
    }
}
