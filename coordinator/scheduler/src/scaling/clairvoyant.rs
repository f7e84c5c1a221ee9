//! What somebody would pay who knew the future: a bound from below that no policy gets under.
//!
//! Agents come and go at once, at the end of each step; tasks can be divided. Under these assumptions the fewest agents
//! that leave nothing waiting longer than the target are also the fewest altogether: who puts work off as long as
//! allowed has, at every moment, paid for the least.

use std::time::Duration;

/// What was asked of a pool, and what it may have.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a number of agents stays as it is.
    pub step: Duration,
    /// How long work may wait.
    pub target_wait: Duration,
    /// Slots of an agent.
    pub slots: u32,
    /// How many agents there are at least.
    pub min_agents: u32,
    /// How many there are at most.
    pub max_agents: u32,
}

/// The fewest agents in each step until `end`, for work that comes in so long after the beginning and takes so long.
pub fn fewest_agents(work: &[(Duration, Duration)], end: Duration, terms: &Terms) -> Vec<u32> {
    let step = terms.step.as_secs_f64();
    let steps = (end.as_secs_f64() / step).floor() as usize;
    let mut comes = vec![0.0; steps];
    for (at, takes) in work {
        let number = (at.as_secs_f64() / step) as usize;
        if let Some(comes) = comes.get_mut(number) {
            *comes += takes.as_secs_f64();
        }
    }
    // Of what came within the target nothing need be done yet.
    let young = (terms.target_wait.as_secs_f64() / step).floor() as usize;
    let each = f64::from(terms.slots) * step;
    let (mut queued, mut fewest) = (0.0, Vec::with_capacity(steps));
    for (number, new) in comes.iter().enumerate() {
        queued += new;
        let may_wait: f64 = comes[(number + 1).saturating_sub(young)..=number].iter().sum();
        let needed = ((queued - may_wait) / each - 1e-9).ceil().max(0.0) as u32;
        let agents = needed.max(terms.min_agents).min(terms.max_agents);
        queued = f64::max(queued - f64::from(agents) * each, 0.0);
        fewest.push(agents);
    }
    fewest
}

/// How long agents were there, put together, in hours.
pub fn agent_hours(agents: &[u32], step: Duration) -> f64 {
    agents.iter().map(|agents| f64::from(*agents)).sum::<f64>() * step.as_secs_f64() / 3600.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        step: Duration::from_secs(10),
        target_wait: Duration::from_secs(20),
        slots: 1,
        min_agents: 0,
        max_agents: 100,
    };

    #[test]
    fn even_work_takes_as_many_agents_as_it_is() {
        let work: Vec<_> = (0..100).map(|n| (Duration::from_secs(n), Duration::from_secs(3))).collect();

        let fewest = fewest_agents(&work, Duration::from_secs(200), &TERMS);

        assert_eq!(fewest[..4], [0, 0, 3, 3], "it waits as long as it may first");
        assert!((agent_hours(&fewest, TERMS.step) - 300.0 / 3600.0).abs() < 1e-9, "{fewest:?}");
    }

    #[test]
    fn nobody_waits_longer_than_the_target() {
        let work = [(Duration::from_secs(5), Duration::from_secs(70))];

        let fewest = fewest_agents(&work, Duration::from_secs(60), &TERMS);

        assert_eq!(fewest, [0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn there_are_never_more_nor_fewer_than_may_be() {
        let work = [(Duration::ZERO, Duration::from_secs(70))];

        let fewest = fewest_agents(&work, Duration::from_secs(50), &Terms { min_agents: 1, max_agents: 3, ..TERMS });

        assert_eq!(fewest, [1, 1, 3, 2, 1], "70 s of work, 10 s of it done in each of the first two steps");
    }
}
