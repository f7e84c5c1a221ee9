//! Doubt in ourselves: when the silence of agents says more about the link than about them.
//!
//! A broker that restarts, a cut cable and a coordinator that was paused all look like the death of everybody. So
//! no agent is declared lost while a message of ours to ourselves does not come back, or for a while after many
//! fell silent together (the same idea as the zone guard of Kubernetes' node controller, and as Lifeguard,
//! Dadgar et al., 2017: the detector doubts itself first).

use std::time::Duration;

use crate::Timestamp;

/// Our own message must come back within this, or the link is suspected.
const CANARY_LIMIT: Duration = Duration::from_millis(300);

/// After the link was interrupted, agents are given this long to come back to the broker.
pub(crate) const RETURN: Duration = Duration::from_secs(5);

/// Fewer suspects than this are no storm, whatever their share.
const FEWEST: usize = 3;

/// How long a storm holds verdicts up, and how long after it the next one can.
const STORM: Duration = Duration::from_millis(1500);
const AFTER_STORM: Duration = Duration::from_secs(15);

/// Holds verdicts up.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    canary: Option<Timestamp>,
    not_before: Timestamp,
    storm_until: Option<Timestamp>,
    next_storm: Timestamp,
}

/// What the brake has noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdicts {
    /// They may be given.
    Free,
    /// They may not.
    Held,
    /// Many fell silent together: they may not, from now on.
    StormBegan,
    /// They may again, after everybody has had a fresh timeout.
    StormEnded,
}

impl Brake {
    /// No verdict is given before this moment.
    pub(crate) fn hold_until(&mut self, moment: Timestamp) {
        self.not_before = self.not_before.max(moment);
    }

    /// A reign begins, which may have held our own loop up.
    pub(crate) fn begin(&mut self) {
        self.canary = None;
    }

    /// Our own message came back. Whether the link had been interrupted is returned.
    pub(crate) fn canary_heard(&mut self, now: Timestamp) -> bool {
        let before = self.canary.replace(now);
        before.is_some_and(|before| now.since(before) > CANARY_LIMIT)
    }

    /// Whether verdicts may be given now that so many of the agents present are suspect.
    pub(crate) fn check(&mut self, suspects: usize, present: usize, share: f64, now: Timestamp) -> Verdicts {
        if let Some(until) = self.storm_until {
            if now < until {
                return Verdicts::Held;
            }
            self.storm_until = None;
            return Verdicts::StormEnded;
        }
        let enough = FEWEST.max((present as f64 * share).ceil() as usize);
        if suspects >= enough && now >= self.next_storm {
            self.storm_until = Some(now + STORM);
            self.next_storm = now + STORM + AFTER_STORM;
            return Verdicts::StormBegan;
        }
        if self.is_free(now) { Verdicts::Free } else { Verdicts::Held }
    }

    /// Whether nothing speaks against believing what is heard, and what is not.
    pub(crate) fn is_free(&self, now: Timestamp) -> bool {
        let link_is_well = self.canary.is_none_or(|heard| now.since(heard) <= CANARY_LIMIT);
        link_is_well && now >= self.not_before && self.storm_until.is_none()
    }
}
