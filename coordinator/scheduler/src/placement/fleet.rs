//! All agents, in cohorts: what placing looks at instead of at every agent.
//!
//! The registry tells which agents have changed, and what it tells is taken over before anything is sought. So there
//! is nothing to keep in step by hand.

use compact_str::CompactString;
use rustc_hash::FxHashMap;

use super::cohort::{Cohort, Load, Place, Search, Sort, Traits};
use crate::kinds::KindKey;
use crate::registry::{Agent, AgentKey};

/// The agents in cohorts.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    cohorts: Vec<Option<Cohort>>,
    free: Vec<u32>,
    by_traits: FxHashMap<Traits, u32>,
    /// The cohorts that can do each kind, in the order they came up.
    by_kind: Vec<Vec<u32>>,
    seated: Vec<Option<Seated>>,
    /// Labels that tasks of some kind are spread over.
    spread_over: Vec<String>,
    /// Changes whenever an agent comes or goes, begins or ceases to take work, or its host to be busy.
    version: u64,
}

/// What was known of an agent when it was looked at last.
#[derive(Clone, Copy, Debug)]
struct Seated {
    place: Place,
    description: u64,
    pressured: bool,
    takes_work: bool,
    is_present: bool,
    is_busy: bool,
}

impl Fleet {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes over how an agent is now.
    pub(crate) fn refresh(&mut self, key: AgentKey, agent: &Agent, rank: impl Fn(Sort, &Agent) -> u64) {
        let seated = self.seated.get(key.index()).copied().flatten();
        let pressured = agent.is_under_pressure();
        let fits = seated.filter(|seated| seated.description == agent.description && seated.pressured == pressured);
        let place = match fits {
            Some(seated) => seated.place,
            None => {
                self.remove(key);
                self.seat(key, agent, pressured)
            }
        };
        let (takes_work, is_present, is_busy) = (agent.takes_work(), agent.is_present(), agent.is_busy());
        let flags = (takes_work, is_present, is_busy);
        if fits.is_none_or(|seated| (seated.takes_work, seated.is_present, seated.is_busy) != flags) {
            self.version += 1;
        }
        if self.seated.len() <= key.index() {
            self.seated.resize(key.index() + 1, None);
        }
        let description = agent.description;
        self.seated[key.index()] = Some(Seated { place, description, pressured, takes_work, is_present, is_busy });
        self.cohort_mut(place.cohort).refresh(place.seat, agent, rank);
    }

    fn seat(&mut self, key: AgentKey, agent: &Agent, pressured: bool) -> Place {
        let mut kinds: Vec<KindKey> = agent.kinds.iter().copied().collect();
        kinds.sort_unstable();
        let value = |label: &String| agent.labels.get(label).map(CompactString::from);
        let values = self.spread_over.iter().map(value).collect();
        let countables = agent.countables.iter().map(|(name, _)| CompactString::from(name)).collect();
        let traits = Traits { kinds: kinds.into(), pressured, values, countables };
        let number = self.by_traits.get(&traits).copied().unwrap_or_else(|| self.found(traits));
        let cohort = self.cohort_mut(number);
        let seat = cohort.join(key);
        cohort.relabel(seat, agent);
        Place { cohort: number, seat }
    }

    fn found(&mut self, traits: Traits) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.cohorts.push(None);
            (self.cohorts.len() - 1) as u32
        });
        for kind in &traits.kinds {
            if self.by_kind.len() <= kind.index() {
                self.by_kind.resize_with(kind.index() + 1, Vec::new);
            }
            self.by_kind[kind.index()].push(number);
        }
        self.by_traits.insert(traits.clone(), number);
        self.cohorts[number as usize] = Some(Cohort::new(traits));
        number
    }

    /// The agent is not there any more.
    pub(crate) fn remove(&mut self, key: AgentKey) {
        let Some(seated) = self.seated.get_mut(key.index()).and_then(Option::take) else { return };
        self.version += 1;
        let number = seated.place.cohort;
        let cohort = self.cohort_mut(number);
        cohort.leave(seated.place.seat);
        if !cohort.is_empty() {
            return;
        }
        if let Some(cohort) = self.cohorts[number as usize].take() {
            self.by_traits.remove(&cohort.traits);
            for kind in &cohort.traits.kinds {
                self.by_kind[kind.index()].retain(|other| *other != number);
            }
            self.free.push(number);
        }
    }

    /// Tasks of some kind are spread over these labels: agents that differ in them are told apart. The answer is
    /// whether all must be seated anew.
    pub(crate) fn spread_over(&mut self, labels: Vec<String>) -> bool {
        let changed = self.spread_over != labels;
        self.spread_over = labels;
        changed
    }

    /// The value of a label that all in the cohort have, where tasks are spread over it.
    pub(crate) fn value(&self, number: u32, label: &str) -> Option<&CompactString> {
        let place = self.spread_over.iter().position(|spread| spread == label)?;
        self.cohort(number).traits.values[place].as_ref()
    }

    pub(crate) fn cohort(&self, number: u32) -> &Cohort {
        self.cohorts[number as usize].as_ref().expect("numbers of dissolved cohorts are not kept")
    }

    fn cohort_mut(&mut self, number: u32) -> &mut Cohort {
        self.cohorts[number as usize].as_mut().expect("numbers of dissolved cohorts are not kept")
    }

    /// The cohorts that can do the kind.
    pub(crate) fn able(&self, kind: KindKey) -> &[u32] {
        self.by_kind.get(kind.index()).map_or(&[], Vec::as_slice)
    }

    /// Whether a host is under pressure that can do the kind.
    pub(crate) fn any_pressured(&self, kind: KindKey) -> bool {
        self.able(kind).iter().any(|number| self.cohort(*number).traits.pressured)
    }

    /// Makes sure that the kind's cohorts can be searched so.
    pub(crate) fn prepare<'a>(
        &mut self,
        kind: KindKey,
        search: &Search<'_>,
        agent: impl Fn(AgentKey) -> &'a Agent,
        rank: impl Fn(Sort, &Agent) -> u64,
    ) {
        for number in self.by_kind.get(kind.index()).into_iter().flatten() {
            if let Some(cohort) = &mut self.cohorts[*number as usize] {
                cohort.prepare(search, &agent, &rank);
            }
        }
    }

    /// What the agents carry and have altogether that can do the kind and take work.
    pub(crate) fn load_of(&self, kind: KindKey) -> Load {
        self.able(kind).iter().fold(Load::default(), |sum, number| sum.plus(self.cohort(*number).load()))
    }

    /// What those agents offer of a countable resource.
    pub(crate) fn offered(&self, kind: KindKey, name: &str) -> u64 {
        self.able(kind).iter().map(|number| self.cohort(*number).offered(name)).sum()
    }

    /// An order is not wanted any more.
    pub(crate) fn drop_order(&mut self, sort: Sort) {
        self.cohorts.iter_mut().flatten().for_each(|cohort| cohort.drop_order(sort));
    }

    /// Moves an agent within an order that is kept.
    pub(crate) fn reorder(&mut self, place: Place, sort: Sort, key: u64) {
        self.cohort_mut(place.cohort).reorder(place.seat, sort, key);
    }

    /// Where the agent sits.
    pub(crate) fn place_of(&self, key: AgentKey) -> Option<Place> {
        self.seated.get(key.index()).copied().flatten().map(|seated| seated.place)
    }
}
