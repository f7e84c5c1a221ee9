//! What has been counted since the coordinator began, under whichever leaders: plain numbers, as cheap as counting can be.

use shared::task::AttemptOutcome;

use crate::liveness::Loss;
use crate::placement::Strategy;

/// Everything that is counted and not tied to a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub(crate) placements: [u64; Strategy::ALL.len()],
    pub(crate) ended: [u64; AttemptOutcome::ALL.len()],
    pub(crate) losses: [u64; Loss::ALL.len()],
    /// Attempts that were placed into an agent's queue, and not into a free slot.
    pub in_advance: u64,
    /// Beats that said something new.
    pub beats: u64,
    /// How often an agent came under suspicion.
    pub suspicions: u64,
    /// Orders that were sent again, because their agents did not list them.
    pub repeats: u64,
}

impl Tally {
    /// How often each strategy has chosen an agent.
    pub fn placements(&self) -> impl Iterator<Item = (Strategy, u64)> {
        Strategy::ALL.into_iter().map(|strategy| (strategy, self.placements[strategy as usize]))
    }

    /// How the attempts ended that were still their tasks' when they did.
    pub fn ended(&self) -> impl Iterator<Item = (AttemptOutcome, u64)> {
        AttemptOutcome::ALL.into_iter().map(|outcome| (outcome, self.ended[outcome as usize]))
    }

    /// How often agents were lost, in a word why: `gone` (nobody listens on its inbox), `silent`, `restarted` or `left`.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Loss::ALL.into_iter().map(|loss| (loss.word(), self.losses[loss as usize]))
    }
}
