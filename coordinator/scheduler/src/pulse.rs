//! The mesh from second to second: what charts are drawn from, so cheap to take that it is taken all the time.

use shared::Epoch;
use shared::api::SlotUse;

use crate::Scheduler;
use crate::waits::Waits;

/// What changes from second to second.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    /// The epoch it leads in, if it leads.
    pub epoch: Option<Epoch>,
    /// Tasks settled since it leads, in the order of [`shared::Outcome::ALL`].
    pub settled: [u64; 5],
    /// How long tasks waited for their first start.
    pub waits: Waits,
    /// Slots of the agents that get work.
    pub slots: SlotUse,
    /// How busy the hosts of these agents are by CPU, 0.0 to 1.0, in the mean; absent before any has reported.
    pub cpu: Option<f64>,
    /// The same by memory.
    pub memory: Option<f64>,
    /// Tasks fetched and not placed.
    pub waiting: u64,
    /// Attempts that agents have.
    pub running: u64,
    /// Demands that no present agent could ever meet.
    pub unmet: usize,
}

impl Scheduler {
    /// Takes it.
    pub fn pulse(&self) -> Pulse {
        let reports = || self.registry.iter().filter(|(_, a)| a.takes_work()).filter_map(|(_, a)| a.report.as_ref());
        let reporting = reports().count();
        let mean = |sum: f64| (reporting > 0).then(|| sum / reporting as f64);
        Pulse {
            epoch: self.epoch(),
            settled: self.counters.settled,
            waits: self.waits.clone(),
            slots: self.slot_use(),
            cpu: mean(reports().map(|report| report.cpu).sum()),
            memory: mean(reports().map(|report| report.memory).sum()),
            waiting: self.kinds.iter().flat_map(|kind| kind.waiting).map(|count| count as u64).sum(),
            running: self.kinds.iter().map(|kind| kind.running as u64).sum(),
            unmet: self.unmet.demands().count(),
        }
    }
}
