//! A load, and the pool that meets it.

use std::time::Duration;

use super::super::{Policy, clairvoyant};

/// A task of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// When it comes.
    pub comes: Duration,
    /// How long it runs.
    pub runs: Duration,
    /// Which kind it is of, from 0: tasks of different kinds run for different times.
    pub kind: usize,
}

/// A load, and the pool that meets it.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it is called.
    pub name: String,
    /// Its tasks, in the order in which they come.
    pub tasks: Vec<Task>,
    /// When it ends.
    pub end: Duration,
    /// The settings of the pool.
    pub policy: Policy,
    /// Agents at the beginning.
    pub agents: u32,
}

impl Curve {
    /// How many kinds its tasks are of.
    pub fn kinds(&self) -> usize {
        self.tasks.iter().map(|task| task.kind + 1).max().unwrap_or_default()
    }

    /// What somebody would pay who knew the future, in hours of agents.
    pub fn fewest_agent_hours(&self) -> f64 {
        let policy = &self.policy;
        let work: Vec<(Duration, Duration)> = self.tasks.iter().map(|task| (task.comes, task.runs)).collect();
        let terms = clairvoyant::Terms {
            step: policy.interval,
            target_wait: policy.target_wait,
            slots: policy.slots,
            min_agents: policy.min_agents,
            max_agents: policy.max_agents,
        };
        let fewest = clairvoyant::fewest_agents(&work, self.end, &terms);
        clairvoyant::agent_hours(&fewest, policy.interval)
    }
}
