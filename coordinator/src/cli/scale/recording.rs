//! A load that was recorded: which tasks came when, how long each waited and ran, and how many agents there were.
//!
//! It is made of lines of events. Those of agents say who came and went; those of settled tasks say the rest, and are not
//! events that the mesh tells (that would be one message more for each task), but are made of the results: see
//! [`super::record`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use shared::Kind;

/// What an event of a settled task is called.
pub(super) const SETTLED: (&str, &str) = ("task", "settled");
/// What events of agents say that they are there from then on, and that they are not.
const COME: [&str; 3] = ["joined", "returned", "recovered"];
const GONE: [&str; 2] = ["left", "lost"];

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be read.
    #[error("failed to read the recording")]
    Read(#[from] io::Error),
    /// A line is no event.
    #[error("line {number} of the recording is no event: write it by `coordinator scale record`")]
    Line {
        /// Which one.
        number: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A line has no time.
    #[error("line {number} of the recording says the time as `{said}`, and not as 2026-12-01T12:00:00.000Z")]
    Time {
        /// Which one.
        number: usize,
        /// What it says.
        said: String,
    },
    /// There is no load in it.
    #[error(
        "none of the {lines} lines tells how long a task waited and ran{}: `coordinator scale record` writes such lines, \
         where `coordinator events` does not", of_kinds(.kinds)
    )]
    NoTasks {
        /// How many there are.
        lines: usize,
        /// Which kinds were looked for; all if none is named.
        kinds: Vec<Kind>,
    },
}

fn of_kinds(kinds: &[Kind]) -> String {
    let names: Vec<&str> = kinds.iter().map(Kind::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" (of {})", names.join(", ")) }
}

/// How long a settled task waited and ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Times {
    /// From its acceptance to its last start.
    pub(super) queued_ms: u64,
    /// From there to its end.
    pub(super) run_ms: u64,
}

/// What is read of a line; it may say more.
#[derive(Debug, Deserialize)]
struct Line {
    time: String,
    topic: String,
    what: String,
    agent: Option<String>,
    kind: Option<String>,
    data: Option<serde_json::Value>,
}

/// A task that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) comes: Duration,
    pub(super) waited: Duration,
    pub(super) runs: Duration,
    /// Its place in the list of kinds.
    pub(super) kind: usize,
}

/// A load that was recorded. Moments are since the first task came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recording {
    /// When it begins.
    pub(super) origin: SystemTime,
    /// When the last task was settled.
    pub(super) end: Duration,
    /// In the order in which they came.
    pub(super) tasks: Vec<Task>,
    pub(super) kinds: Vec<String>,
    /// How many agents there were from each of these moments on; the first is the beginning.
    pub(super) agents: Vec<(Duration, u32)>,
}

impl Recording {
    /// Reads lines of events, and takes of them what is about these kinds; about all if none is named.
    pub(super) fn read(lines: impl BufRead, kinds: &[Kind]) -> Result<Self, Error> {
        let mut told = Told::default();
        let mut number = 0;
        for line in lines.lines() {
            let line = line?;
            number += 1;
            if !line.trim().is_empty() {
                let line = serde_json::from_str(&line).map_err(|source| Error::Line { number, source })?;
                told.take(line, number, kinds)?;
            }
        }
        told.recording(!kinds.is_empty()).ok_or_else(|| Error::NoTasks { lines: number, kinds: kinds.to_vec() })
    }

    /// Seconds that agents were there, put together.
    pub(super) fn agent_seconds(&self) -> f64 {
        let ends = self.agents.iter().skip(1).map(|(at, _)| *at).chain([self.end]);
        let spans = self.agents.iter().zip(ends).map(|((at, agents), until)| (until.saturating_sub(*at), *agents));
        spans.map(|(span, agents)| span.as_secs_f64() * f64::from(agents)).sum()
    }

    /// Seconds that tasks ran, put together.
    pub(super) fn slot_seconds(&self) -> f64 {
        self.tasks.iter().map(|task| task.runs.as_secs_f64()).sum()
    }

    /// How many agents there were at a moment.
    pub(super) fn agents_at(&self, moment: Duration) -> u32 {
        let next = self.agents.partition_point(|(at, _)| *at <= moment);
        next.checked_sub(1).map_or(0, |last| self.agents[last].1)
    }
}

/// What the lines tell.
#[derive(Default)]
struct Told {
    settled: Vec<Settled>,
    kinds: Vec<String>,
    /// By agent, whether it was there from then on.
    seen: BTreeMap<String, Vec<(SystemTime, bool)>>,
}

struct Settled {
    at: SystemTime,
    comes: SystemTime,
    times: Times,
    kind: usize,
    agent: Option<String>,
}

impl Told {
    fn take(&mut self, line: Line, number: usize, kinds: &[Kind]) -> Result<(), Error> {
        let at = humantime::parse_rfc3339(&line.time);
        let at = at.map_err(|_| Error::Time { number, said: line.time.clone() })?;
        if (line.topic.as_str(), line.what.as_str()) == SETTLED {
            self.take_settled(at, line, kinds);
        } else if let ("agent", Some(agent)) = (line.topic.as_str(), line.agent) {
            let what = line.what.as_str();
            if COME.contains(&what) || GONE.contains(&what) {
                self.seen.entry(agent).or_default().push((at, COME.contains(&what)));
            }
        }
        Ok(())
    }

    /// One that never ran is no load.
    fn take_settled(&mut self, at: SystemTime, line: Line, kinds: &[Kind]) {
        let times = line.data.and_then(|data| serde_json::from_value::<Times>(data).ok());
        let (Some(times), Some(kind)) = (times, line.kind) else { return };
        let is_wanted = kinds.is_empty() || kinds.iter().any(|wanted| wanted.as_str() == kind);
        if !is_wanted || line.agent.is_none() {
            return;
        }
        let took = Duration::from_millis(times.queued_ms.saturating_add(times.run_ms));
        let comes = at.checked_sub(took).unwrap_or(at);
        let known = self.kinds.iter().position(|known| *known == kind);
        let kind = known.unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        });
        self.settled.push(Settled { at, comes, times, kind, agent: line.agent });
    }

    /// What they tell together; nothing if that is no load.
    fn recording(self, of_some_kinds: bool) -> Option<Recording> {
        let origin = self.settled.iter().map(|settled| settled.comes).min()?;
        let since = |moment: SystemTime| moment.duration_since(origin).unwrap_or_default();
        let end = since(self.settled.iter().map(|settled| settled.at).max()?);
        let agents = self.agents(of_some_kinds, since);
        let task = |settled: &Settled| Task {
            comes: since(settled.comes),
            waited: Duration::from_millis(settled.times.queued_ms),
            runs: Duration::from_millis(settled.times.run_ms),
            kind: settled.kind,
        };
        let mut tasks: Vec<Task> = self.settled.iter().map(task).collect();
        tasks.sort_by_key(|task| task.comes);
        Some(Recording { origin, end, tasks, kinds: self.kinds, agents })
    }

    /// How many agents there were from when on. Of whom nothing is told but results, it was there all the time; if only some
    /// kinds are asked for, only those count that did something of these.
    fn agents(&self, of_some_kinds: bool, since: impl Fn(SystemTime) -> Duration) -> Vec<(Duration, u32)> {
        let mut first_work: BTreeMap<&str, SystemTime> = BTreeMap::new();
        for settled in &self.settled {
            let agent = settled.agent.as_deref().unwrap_or_default();
            let first = first_work.entry(agent).or_insert(settled.at);
            *first = settled.at.min(*first);
        }
        let known =
            self.seen.keys().map(String::as_str).filter(|agent| !of_some_kinds || first_work.contains_key(agent));
        let all: BTreeSet<&str> = known.chain(first_work.keys().copied()).collect();
        let mut changes: BTreeMap<Duration, i64> = BTreeMap::from([(Duration::ZERO, 0)]);
        for agent in all {
            let mut seen = self.seen.get(agent).cloned().unwrap_or_default();
            seen.sort_by_key(|(at, _)| *at);
            let first = seen.first();
            let worked_before = first.is_some_and(|(at, _)| first_work.get(agent).is_some_and(|work| work < at));
            let mut is_there = worked_before || first.is_none_or(|(_, comes)| !comes);
            *changes.entry(Duration::ZERO).or_default() += i64::from(is_there);
            for (at, comes) in seen {
                let change = i64::from(comes) - i64::from(is_there);
                *changes.entry(since(at)).or_default() += change;
                is_there = comes;
            }
        }
        let mut there = 0;
        let steps = changes.into_iter().map(|(at, change)| {
            there += change;
            (at, u32::try_from(there).unwrap_or_default())
        });
        steps.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(time: &str, agent: &str, kind: &str, queued_ms: u64, run_ms: u64) -> String {
        format!(
            r#"{{"time":"2026-12-01T12:{time}Z","topic":"task","what":"settled","task":"t","kind":"{kind}","agent":"{agent}",
            "data":{{"outcome":"succeeded","queued_ms":{queued_ms},"run_ms":{run_ms}}}}}"#
        )
        .replace('\n', "")
    }

    fn agent(time: &str, agent: &str, what: &str) -> String {
        format!(r#"{{"time":"2026-12-01T12:{time}Z","topic":"agent","what":"{what}","epoch":3,"agent":"{agent}"}}"#)
    }

    fn read(lines: &[String], kinds: &[&str]) -> Result<Recording, Error> {
        let kinds: Vec<Kind> = kinds.iter().map(|kind| Kind::new(kind).unwrap()).collect();
        Recording::read(lines.join("\n").as_bytes(), &kinds)
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_load_begins_with_its_first_task_and_ends_with_its_last() {
        let lines = [
            settled("00:10.000", "ada", "resize", 0, 4000),
            String::new(),
            settled("00:14.000", "ada", "count", 7000, 1000),
            settled("00:20.000", "ada", "resize", 0, 1000),
        ];

        let recording = read(&lines, &[]).unwrap();

        let task =
            |comes, waited, runs, kind| Task { comes: secs(comes), waited: secs(waited), runs: secs(runs), kind };
        assert_eq!(recording.tasks, [task(0, 0, 4, 0), task(0, 7, 1, 1), task(13, 0, 1, 0)]);
        assert_eq!((recording.end, recording.kinds.len()), (secs(14), 2));
        assert_eq!(read(&lines, &["count"]).unwrap().tasks.len(), 1);
    }

    #[test]
    fn agents_are_counted_by_what_is_told_of_them() {
        let lines = [
            settled("00:10.000", "ada", "resize", 0, 10_000),
            agent("00:20.000", "bob", "joined"),
            settled("00:30.000", "bob", "resize", 0, 1000),
            agent("00:40.000", "ada", "lost"),
            agent("00:45.000", "ada", "returned"),
            agent("00:45.000", "ada", "recovered"),
            agent("00:50.000", "cid", "left"),
            agent("00:55.000", "bob", "quarantined"),
            settled("01:00.000", "ada", "resize", 0, 1000),
        ];

        let recording = read(&lines, &[]).unwrap();

        let steps: Vec<(u64, u32)> = recording.agents.iter().map(|(at, count)| (at.as_secs(), *count)).collect();
        assert_eq!(steps, [(0, 2), (20, 3), (40, 2), (45, 3), (50, 2)]);
        assert_eq!((recording.agents_at(secs(19)), recording.agents_at(secs(20))), (2, 3));
        assert!((recording.agent_seconds() - (40.0 + 60.0 + 10.0 + 15.0 + 20.0)).abs() < 1e-9);
        // Of cid it is not known that it does any of these.
        assert_eq!(read(&lines, &["resize"]).unwrap().agents_at(Duration::ZERO), 1);
    }

    #[test]
    fn what_cannot_be_replayed_is_told() {
        let no_load = [agent("00:20.000", "bob", "joined"), agent("00:21.000", "bob", "left")];
        assert!(read(&no_load, &[]).unwrap_err().to_string().contains("none of the 2 lines"));
        let other = [settled("00:10.000", "ada", "resize", 0, 1000)];
        assert!(read(&other, &["count"]).unwrap_err().to_string().contains("(of count)"));
        assert!(matches!(read(&["time: now".to_owned()], &[]), Err(Error::Line { number: 1, .. })));
        let bad_time = agent("00:20.000", "bob", "joined").replace("2026-12-01T", "yesterday ");
        assert!(matches!(read(&[bad_time], &[]), Err(Error::Time { number: 1, .. })));
    }
}
