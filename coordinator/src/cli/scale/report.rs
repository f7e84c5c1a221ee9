//! What came of a simulation, beside what really happened.

use std::time::Duration;

use scheduler::scaling::world::{Curve, Run, percentile};
use scheduler::scaling::{Event, Rule};
use serde::Serialize;

use super::super::output;
use super::recording::Recording;

/// So many moments are told of the number of agents, and shown in a line.
const MOMENTS: u32 = 60;
/// How high a number is, in a line of text.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pool: String,
    seed: u64,
    /// When the first task came.
    begins: String,
    lasts_s: f64,
    tasks: usize,
    kinds: Vec<String>,
    /// Slots that an agent is taken to have.
    slots: u32,
    recorded: Side,
    simulated: Side,
    /// Tasks that would still have waited at the end.
    left_waiting: usize,
    /// How often the direction would have changed.
    reversals: usize,
    /// What somebody would have paid who knew what was to come.
    fewest_agent_hours: f64,
    changes: Vec<Change>,
    moments: Vec<Moment>,
}

/// What is told of a pool, as it was or as it would have been.
#[derive(Debug, Serialize)]
struct Side {
    wait_p50_s: f64,
    wait_p95_s: f64,
    wait_longest_s: f64,
    agents_least: u32,
    agents_most: u32,
    agent_hours: f64,
    /// Share of the slots that was taken.
    utilisation: f64,
}

/// A change that the arbiter would have made.
#[derive(Debug, Serialize)]
struct Change {
    at_s: f64,
    before: u32,
    wished: u32,
    rule: Rule,
    metric: &'static str,
    value: f64,
    threshold: f64,
}

/// How many agents there were at a moment, and would have been.
#[derive(Debug, Serialize)]
struct Moment {
    at_s: f64,
    recorded: u32,
    simulated: u32,
    wished: u32,
}

impl Report {
    pub(super) fn new(curve: &Curve, run: &Run, recording: &Recording, seed: u64) -> Self {
        let slots = curve.policy.slots;
        Self {
            pool: curve.name.clone(),
            seed,
            begins: humantime::format_rfc3339_seconds(recording.origin).to_string(),
            lasts_s: recording.end.as_secs_f64(),
            tasks: recording.tasks.len(),
            kinds: recording.kinds.clone(),
            slots,
            recorded: Side::recorded(recording, slots),
            simulated: Side::simulated(run, slots),
            left_waiting: run.left,
            reversals: run.reversals(),
            fewest_agent_hours: curve.fewest_agent_hours(),
            changes: run.events.iter().map(Change::new).collect(),
            moments: moments(run, recording),
        }
    }

    /// For people.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let Self { pool, tasks, slots, recorded, simulated, .. } = self;
        let (span, kinds) = (span(self.lasts_s), self.kinds.join(", "));
        let head =
            format!("{tasks} tasks ({kinds}) within {span} from {}; pool {pool}, {slots} slots an agent", self.begins);
        output::line(&format!("{}\n", output::escape(&head)))?;
        output::table(["", "RECORDED", "SIMULATED"], rows(recorded, simulated))?;
        let most = recorded.agents_most.max(simulated.agents_most);
        let line = |agents: fn(&Moment) -> u32| bars(self.moments.iter().map(agents), most);
        output::line(&format!("\nAgents, from 0 to {most}:"))?;
        output::facts(&[("recorded", line(|moment| moment.recorded)), ("simulated", line(|moment| moment.simulated))])?;
        output::line(&format!(
            "\n{} changes, {} of them in the other direction; {} tasks would still wait at the end. Who knew the future would \
             have paid for {:.2} agent-hours.",
            self.changes.len(),
            self.reversals,
            self.left_waiting,
            self.fewest_agent_hours
        ))?;
        Ok(())
    }
}

impl Side {
    fn recorded(recording: &Recording, slots: u32) -> Self {
        let waits = recording.tasks.iter().map(|task| task.waited).collect();
        let agents: Vec<u32> = recording.agents.iter().map(|(_, agents)| *agents).collect();
        Self::new(waits, &agents, recording.agent_seconds(), recording.slot_seconds() / f64::from(slots))
    }

    fn simulated(run: &Run, slots: u32) -> Self {
        let waits = run.started.iter().map(|started| started.waited).collect();
        let agents: Vec<u32> = run.looks.iter().map(|look| look.present).collect();
        Self::new(waits, &agents, run.agent_seconds, run.slot_seconds / f64::from(slots))
    }

    fn new(waits: Vec<Duration>, agents: &[u32], agent_seconds: f64, busy_agent_seconds: f64) -> Self {
        let (least, most) = (agents.iter().min(), agents.iter().max());
        Self {
            wait_longest_s: waits.iter().max().copied().unwrap_or_default().as_secs_f64(),
            wait_p50_s: percentile(50, waits.clone()).as_secs_f64(),
            wait_p95_s: percentile(95, waits).as_secs_f64(),
            agents_least: least.copied().unwrap_or_default(),
            agents_most: most.copied().unwrap_or_default(),
            agent_hours: agent_seconds / 3600.0,
            utilisation: if agent_seconds > 0.0 { busy_agent_seconds / agent_seconds } else { 0.0 },
        }
    }
}

impl Change {
    fn new(event: &Event) -> Self {
        let cause = event.cause;
        Self {
            at_s: event.at.since_origin().as_secs_f64(),
            before: event.before,
            wished: event.wished,
            rule: cause.rule,
            metric: cause.metric.as_str(),
            value: cause.value,
            threshold: cause.threshold,
        }
    }
}

/// Of moments that follow each other evenly, each as it was at the look before it.
fn moments(run: &Run, recording: &Recording) -> Vec<Moment> {
    let moment = |number: u32| {
        let at = recording.end * number / MOMENTS;
        let look = run.looks.partition_point(|look| look.at <= at).checked_sub(1).map(|last| run.looks[last]);
        // Before the first look it is as it was.
        let recorded = recording.agents_at(at);
        let (simulated, wished) = look.map_or((recorded, recorded), |look| (look.present, look.wished));
        Moment { at_s: at.as_secs_f64(), recorded, simulated, wished }
    };
    (0..=MOMENTS).map(moment).collect()
}

fn rows(recorded: &Side, simulated: &Side) -> [[String; 3]; 6] {
    let row = |name: &str, value: fn(&Side) -> String| [name.to_owned(), value(recorded), value(simulated)];
    [
        row("half of the tasks waited up to", |side| span(side.wait_p50_s)),
        row("95 of 100 up to", |side| span(side.wait_p95_s)),
        row("the longest", |side| span(side.wait_longest_s)),
        row("agents", |side| format!("{} to {}", side.agents_least, side.agents_most)),
        row("agent-hours", |side| format!("{:.2}", side.agent_hours)),
        row("slots taken", |side| format!("{:.0} %", side.utilisation * 100.0)),
    ]
}

fn span(seconds: f64) -> String {
    output::span(Duration::from_secs_f64(seconds))
}

/// Numbers from 0 to `most` as bars of different heights.
fn bars(numbers: impl Iterator<Item = u32>, most: u32) -> String {
    let highest = BARS.len() - 1;
    let bar = |number: u32| (number as usize * highest).div_ceil(most.max(1) as usize).min(highest);
    numbers.map(|number| BARS[bar(number)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_rise_with_their_numbers() {
        assert_eq!(bars([0, 1, 4, 8].into_iter(), 8), "▁▂▅█");
        assert_eq!(bars([0, 0].into_iter(), 0), "▁▁");
    }
}
