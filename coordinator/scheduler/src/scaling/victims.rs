//! Who goes when a pool shrinks.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use shared::api::AgentState;
use shared::{AgentId, Kind};

use super::signals::Agent;

/// Names whom to drain so that `excess` fewer are there: fewer, if not so many may go.
///
/// First goes who is no use (in quarantine), then who has the least left to do, then whose kinds most others can do, then
/// who came last. Not named is who
///
/// - is pinned by something that it runs, or that only it can run;
/// - is the last that can do a kind, unless nobody is to be left;
/// - would leave fewer slots behind than attempts run;
/// - is silent, leaves already, or has not begun.
pub fn choose(agents: &[&Agent], excess: usize) -> Vec<AgentId> {
    let working: Vec<&Agent> = agents.iter().copied().filter(|agent| takes_orders(agent)).collect();
    let stays = |agent: &Agent| agent.pinned || !takes_orders(agent);
    let all_are_free = working.iter().all(|agent| agent.running == 0);
    let somebody_stays = agents.iter().any(|agent| agent.is_present() && stays(agent));
    let leaves_nobody = excess >= working.len() && all_are_free && !somebody_stays;
    let mut remains = Remains::new(&working);
    let mut candidates: Vec<&Agent> = working.into_iter().filter(|agent| !agent.pinned).collect();
    let mut chosen = Vec::new();
    while chosen.len() < excess {
        let rank = |agent: &Agent| {
            let no_use = agent.state == AgentState::Degraded;
            (!no_use, agent.remaining, Reverse(remains.others(agent)), Reverse(agent.registered), agent.id.clone())
        };
        let may_go = |agent: &Agent| remains.hold_without(agent, leaves_nobody);
        let best =
            candidates.iter().enumerate().filter(|(_, agent)| may_go(agent)).min_by_key(|(_, agent)| rank(agent));
        let Some((position, _)) = best else { break };
        let agent = candidates.swap_remove(position);
        remains.remove(agent);
        chosen.push(agent.id.clone());
    }
    chosen
}

fn takes_orders(agent: &Agent) -> bool {
    matches!(agent.state, AgentState::Healthy | AgentState::Degraded)
}

/// What those who stay have.
struct Remains<'a> {
    able: BTreeMap<&'a Kind, usize>,
    slots: u64,
    running: u64,
}

impl<'a> Remains<'a> {
    fn new(agents: &[&'a Agent]) -> Self {
        let mut able: BTreeMap<&Kind, usize> = BTreeMap::new();
        let healthy = agents.iter().copied().filter(|agent| agent.state == AgentState::Healthy);
        for kind in healthy.flat_map(|agent| &agent.kinds) {
            *able.entry(kind).or_default() += 1;
        }
        let slots = agents.iter().map(|agent| slots_for_work(agent)).sum();
        let running = agents.iter().map(|agent| u64::from(agent.running)).sum();
        Self { able, slots, running }
    }

    /// How many others can do the rarest of its kinds.
    fn others(&self, agent: &Agent) -> usize {
        let own = usize::from(agent.state == AgentState::Healthy);
        let able = |kind: &Kind| self.able.get(kind).map_or(0, |able| able.saturating_sub(own));
        agent.kinds.iter().map(able).min().unwrap_or(usize::MAX)
    }

    fn hold_without(&self, agent: &Agent, leaves_nobody: bool) -> bool {
        if agent.state == AgentState::Degraded {
            return true;
        }
        let left = self.slots.saturating_sub(slots_for_work(agent));
        // What runs on those who go ends there; but as much comes after it.
        left >= self.running && (leaves_nobody || self.others(agent) > 0)
    }

    fn remove(&mut self, agent: &Agent) {
        self.slots = self.slots.saturating_sub(slots_for_work(agent));
        if agent.state == AgentState::Healthy {
            for kind in &agent.kinds {
                if let Some(able) = self.able.get_mut(kind) {
                    *able = able.saturating_sub(1);
                }
            }
        }
    }
}

fn slots_for_work(agent: &Agent) -> u64 {
    if agent.state == AgentState::Healthy { u64::from(agent.slots) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Timestamp;

    #[test]
    fn who_has_the_least_left_to_do_goes_first() {
        let agents = [busy("ada", 2, 30), busy("bob", 1, 3), busy("cyd", 1, 10)];

        assert_eq!(chosen(&agents, 2), ["bob", "cyd"]);
    }

    #[test]
    fn of_those_who_do_nothing_goes_whose_kinds_most_others_can_do() {
        let agents = [idle("ada", &["resize", "paint"]), idle("bob", &["paint"]), idle("cyd", &["resize", "paint"])];

        assert_eq!(chosen(&agents, 1), ["bob"]);
    }

    #[test]
    fn the_last_that_can_do_a_kind_stays() {
        let agents = [idle("ada", &["resize"]), idle("bob", &["paint"]), idle("cyd", &["paint"])];

        assert_eq!(chosen(&agents, 2), ["bob"]);
    }

    #[test]
    fn all_may_go_if_nobody_is_to_be_left() {
        let agents = [idle("ada", &["resize"]), idle("bob", &["paint"])];

        assert_eq!(chosen(&agents, 2).len(), 2);
    }

    #[test]
    fn whoever_is_pinned_stays() {
        let pinned = Agent { pinned: true, ..idle("ada", &["paint"]) };

        assert_eq!(chosen(&[pinned, busy("bob", 1, 60)], 2), ["bob"]);
    }

    #[test]
    fn what_runs_keeps_as_many_slots() {
        let agents = [busy("ada", 4, 9), busy("bob", 4, 9), busy("cyd", 0, 0)];

        assert_eq!(chosen(&agents, 2), ["cyd"]);
    }

    #[test]
    fn who_is_in_quarantine_goes_before_who_works() {
        let quarantined = Agent { state: AgentState::Degraded, ..busy("ada", 1, 60) };

        assert_eq!(chosen(&[quarantined, busy("bob", 0, 0), busy("cyd", 0, 0)], 1), ["ada"]);
    }

    fn chosen(agents: &[Agent], excess: usize) -> Vec<String> {
        choose(&agents.iter().collect::<Vec<_>>(), excess).iter().map(ToString::to_string).collect()
    }

    fn busy(id: &str, running: u32, remaining: u64) -> Agent {
        Agent { running, remaining: Duration::from_secs(remaining), ..idle(id, &["paint"]) }
    }

    fn idle(id: &str, kinds: &[&str]) -> Agent {
        Agent {
            id: AgentId::new(id).unwrap(),
            state: AgentState::Healthy,
            registered: Timestamp::default(),
            slots: 4,
            running: 0,
            remaining: Duration::ZERO,
            kinds: kinds.iter().map(|kind| Kind::new(kind).unwrap()).collect(),
            pinned: false,
        }
    }
}
