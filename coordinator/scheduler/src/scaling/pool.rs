//! A pool of agents: what is decided about it, done about it, and told of it.

use super::arbiter::{Arbiter, Decision};
use super::history::{Event, History, Outcome, Phase};
use super::policy::Policy;
use super::rule::{Cause, Rule};
use super::signals::{Agent, Signals};
use super::wish::{Order, Scene, Standing, Wish};
use crate::Timestamp;

/// A pool of agents.
///
/// Every `interval`, whoever drives it measures, calls [`Pool::evaluate`], stores [`Pool::wish`], and only then carries the
/// orders out. A refusal is told by [`Pool::refused`]; that something was done need not be told, since it is seen.
#[derive(Debug)]
pub struct Pool {
    name: String,
    policy: Policy,
    arbiter: Arbiter,
    wish: Wish,
    history: History,
    chance: fastrand::Rng,
    is_paused: bool,
    /// What somebody has said there shall be.
    asked: Option<u32>,
    /// The number of the last change that was only told.
    planned: Option<u32>,
    latest: Option<Decision>,
}

impl Pool {
    /// A pool with what another leader wished for, or with nothing: then it takes over who is there.
    pub fn new(name: &str, policy: Policy, wish: Wish, seed: u64) -> Self {
        let history = History::with_underway(wish.underway());
        Self {
            name: name.to_owned(),
            policy,
            arbiter: Arbiter::default(),
            wish,
            history,
            chance: fastrand::Rng::with_seed(seed),
            is_paused: false,
            asked: None,
            planned: None,
            latest: None,
        }
    }

    /// Looks, decides, and says what is to be done.
    pub fn evaluate(&mut self, signals: &Signals, now: Timestamp) -> Vec<Order> {
        let mut orders = Vec::new();
        let chance = self.chance.f64();
        let agents = signals.agents.as_ref().and_then(|agents| agents.fresh(&self.policy, now));
        let agents: Option<&[Agent]> = agents.filter(|_| !signals.in_doubt).map(Vec::as_slice);
        let acts = self.policy.enabled && !self.is_paused;
        let Some(agents) = agents else {
            self.decide(signals, 0, now);
            self.history.enter(if acts { Phase::Blind } else { Phase::Paused }, now);
            return orders;
        };
        let policy = self.policy.clone();
        let scene = Scene { policy: &policy, agents, now, chance };
        self.wish.look(&scene, &mut self.history, &mut orders);
        if !acts {
            self.wish.follow(&scene);
        }
        let present = self.wish.present(&scene).len() as u32;
        let (wished, cause) = self.decide(signals, present, now);
        if acts {
            if let Some(cause) = cause {
                self.wish.change(wished, cause, &mut self.history, now);
            }
            self.wish.act(&scene, &mut self.history, &mut orders);
        } else {
            self.tell_only(present, wished, cause, now);
        }
        let phase = self.phase(acts, &scene);
        self.history.enter(phase, now);
        orders
    }

    /// Whoever was to carry out an order says that it could not.
    pub fn refused(&mut self, order: u64, error: String, signals: &Signals, now: Timestamp) {
        let agents = signals.agents.as_ref().map(|agents| agents.value.as_slice()).unwrap_or_default();
        let scene = Scene { policy: &self.policy, agents, now, chance: self.chance.f64() };
        self.wish.refused(order, error, &scene, &mut self.history);
    }

    /// There shall be so many agents, within the bounds, until a rule finds otherwise.
    pub fn ask(&mut self, agents: u32) {
        self.asked = Some(self.policy.bounded(agents));
    }

    /// Nothing is done until it is resumed; what would be is told.
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// What is decided is done again.
    pub fn resume(&mut self) {
        self.is_paused = false;
        self.planned = None;
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Other settings hold from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.planned = None;
    }

    /// The settings.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the pool is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the next leader must know.
    pub fn wish(&self) -> &Wish {
        &self.wish
    }

    /// How things stand, as far as these signals tell.
    pub fn standing(&self, signals: &Signals, now: Timestamp) -> Standing {
        let agents = signals.agents.as_ref().map(|agents| agents.value.as_slice()).unwrap_or_default();
        let present = self.wish.present(&Scene { policy: &self.policy, agents, now, chance: 0.0 }).len() as u32;
        self.wish.standing(&self.policy, present, now)
    }

    /// The last decision, with what every rule said: why nothing changes, too.
    pub fn latest(&self) -> Option<&Decision> {
        self.latest.as_ref()
    }

    /// What was done.
    pub fn history(&self) -> &History {
        &self.history
    }

    fn decide(&mut self, signals: &Signals, present: u32, now: Timestamp) -> (u32, Option<Cause>) {
        let standing = self.wish.standing(&self.policy, present, now);
        let decision = self.arbiter.evaluate(&self.policy, signals, &standing, now);
        let mut chosen = (decision.wished, decision.cause);
        // Without a look at the agents nothing is done, so what was asked for waits.
        if let Some(asked) = self.asked.filter(|_| self.wish.agents().is_some() && !signals.in_doubt) {
            chosen = (asked, Some(Cause::new(Rule::Asked, standing.wished.into(), asked.into())));
            if signals.agents.as_ref().is_some_and(|agents| agents.fresh(&self.policy, now).is_some()) {
                self.asked = None;
            }
        }
        self.latest = Some(decision);
        chosen
    }

    /// What would be done goes into the history, once.
    fn tell_only(&mut self, present: u32, wished: u32, cause: Option<Cause>, now: Timestamp) {
        let Some(cause) = cause.filter(|_| wished != present && self.planned != Some(wished)) else { return };
        self.planned = Some(wished);
        let (outcome, after) = (Outcome::Planned, None);
        let event =
            Event { order: None, at: now, cause, before: present, wished, after, outcome, took: None, error: None };
        self.history.note(event);
    }

    fn phase(&self, acts: bool, scene: &Scene<'_>) -> Phase {
        let present = self.wish.present(scene).len() as u32;
        let standing = self.wish.standing(&self.policy, present, scene.now);
        let backs_off = standing.missing > 0 && self.wish.is_backing_off(&self.policy, scene.now);
        if !acts {
            Phase::Paused
        } else if standing.starting > 0 {
            Phase::Growing
        } else if backs_off {
            Phase::BackingOff
        } else if !standing.leaving.is_empty() {
            Phase::Shrinking
        } else {
            Phase::Steady
        }
    }
}
