//! Counts what was promised, from what the mesh cannot influence: what its broker accepted, what its handlers did, what
//! was done to its processes, and what its streams hold in the end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::client::Client;
use crate::figures::Row;
use crate::task::POISON;
use crate::witness::{Deed, Note, Reader};
use crate::world::{Fault, World};

/// How long a stream may stay silent while it is read.
const SILENCE: Duration = Duration::from_secs(10);
/// Most cases of a kind that are told.
const TOLD: usize = 5;

/// What became of everything.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Tasks that the broker accepted.
    pub accepted: u64,
    /// Of them, those that succeeded with the right output.
    pub succeeded: u64,
    /// Of them, those that are dead, with what their results say.
    pub dead: Vec<(String, String)>,
    /// Accepted, and without a result.
    pub lost: Vec<String>,
    /// With more than one record, or with another body than their own, or of an outcome that nothing calls for.
    pub overwritten: Vec<String>,
    /// Results of tasks that nobody sent.
    pub phantoms: Vec<String>,
    /// Starts after a task's first.
    pub extra_starts: u64,
    /// Of them, those without a cause.
    pub unexplained: Vec<String>,
    /// Of them, those whose cause only we know: the mesh's event was lost.
    pub explained_by_us_only: u64,
    /// Of them, those of tasks whose attempt was running in a process that nothing was done to.
    pub restarted_alive: Vec<String>,
    /// Of them, those of tasks whose attempt had ended in such a process, and was not settled yet.
    pub redone: Vec<String>,
    /// Events of the mesh, by topic and what happened.
    pub events: BTreeMap<String, u64>,
    /// Dead letters, by task.
    pub dead_letters: BTreeMap<String, Vec<Message>>,
    /// Whether everything was settled when this was written.
    pub settled: bool,
}

/// Waits until everything is settled, and counts.
pub async fn judge(world: &mut World, patience: Duration) -> anyhow::Result<Verdict> {
    let settled = world.settle(patience).await;
    let evidence = Evidence { client: &world.client, witness: &mut world.witness, faults: &world.faults };
    let (mut verdict, told) = evidence.count().await?;
    verdict.settled = settled;
    let restarted = world.none_may_restart && verdict.extra_starts > 0;
    if !verdict.is_clean() || !verdict.settled || restarted {
        std::fs::write(world.dir().join("events.jsonl"), told)?;
        world.keep();
    }
    world.is_judged = true;
    Ok(verdict)
}

/// What is known of a mesh from outside, wherever it runs.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What was accepted; and by its connection, what the streams hold.
    pub client: &'a Client,
    /// What handlers did.
    pub witness: &'a mut Reader,
    /// What was done to agents.
    pub faults: &'a [Fault],
}

impl Evidence<'_> {
    /// Counts, and gives the events of the mesh, a line each, for whoever looks into a failure.
    pub async fn count(self) -> anyhow::Result<(Verdict, Vec<u8>)> {
        let Self { client, witness, faults } = self;
        witness.read()?;
        let mut verdict = Verdict::default();
        let results = read_all(client, "RESULTS").await?;
        verdict.count_results(client, &results);
        for message in read_all(client, "DEAD").await? {
            verdict.dead_letters.entry(message.get("Hive-Task")).or_default().push(message);
        }
        let told = read_all(client, "EVENTS").await?;
        let events = Events::read(&told);
        verdict.count_starts(witness.notes(), &events, faults);
        verdict.events = events.counts;
        let lines: Vec<&[u8]> = told.iter().map(|message| message.body.as_ref()).collect();
        Ok((verdict, lines.join(&b'\n')))
    }
}

impl Verdict {
    /// Whether nothing is lost, overwritten or unexplained.
    pub fn is_clean(&self) -> bool {
        [&self.lost, &self.overwritten, &self.phantoms, &self.unexplained].iter().all(|cases| cases.is_empty())
    }

    /// How often something happened, by topic and what.
    pub fn event(&self, name: &str) -> u64 {
        self.events.get(name).copied().unwrap_or(0)
    }

    /// Adds what another mesh of the same scenario came to.
    pub fn add(&mut self, other: Self) {
        self.settled &= other.settled;
        self.accepted += other.accepted;
        self.succeeded += other.succeeded;
        self.extra_starts += other.extra_starts;
        self.explained_by_us_only += other.explained_by_us_only;
        self.dead.extend(other.dead);
        self.lost.extend(other.lost);
        self.overwritten.extend(other.overwritten);
        self.phantoms.extend(other.phantoms);
        self.unexplained.extend(other.unexplained);
        self.restarted_alive.extend(other.restarted_alive);
        self.redone.extend(other.redone);
        other.events.into_iter().for_each(|(event, count)| *self.events.entry(event).or_default() += count);
    }

    /// Puts the counts into a row, which holds only if they are clean and everything came to its end.
    pub fn put_into(&self, row: Row) -> Row {
        let mut row = row.must(self.settled, "not everything was settled in the end");
        row.tasks = Some(self.accepted);
        row.lost = Some(self.lost.len() as u64);
        row.overwritten = Some(self.overwritten.len() as u64);
        row.unexplained = Some(self.unexplained.len() as u64);
        let cases = [
            ("lost", &self.lost),
            ("overwritten", &self.overwritten),
            ("never sent", &self.phantoms),
            ("unexplained", &self.unexplained),
        ];
        for (what, cases) in cases.into_iter().filter(|(_, cases)| !cases.is_empty()) {
            row.broken.push(format!("{} {what}: {}", cases.len(), some(cases)));
        }
        for (what, cases) in [("restarted while running", &self.restarted_alive), ("done again", &self.redone)] {
            if !cases.is_empty() {
                row.notes.push(format!("{} {what}: {}", cases.len(), some(cases)));
            }
        }
        let doubts = ["mesh.link-restored", "mesh.storm-began", "agent.lost", "agent.quarantined", "mesh.led"];
        let told: Vec<String> = doubts.iter().map(|event| format!("{} {event}", self.event(event))).collect();
        row.notes.push(told.join(", "));
        let dead = if self.dead.is_empty() { String::new() } else { format!(", {} dead", self.dead.len()) };
        row.note(format!(
            "{} accepted, {} succeeded{dead}, {} starts after a first ({} of running tasks and \
             {} of ended ones whose agent nothing was done to; {} explained by our own log only)",
            self.accepted,
            self.succeeded,
            self.extra_starts,
            self.restarted_alive.len(),
            self.redone.len(),
            self.explained_by_us_only
        ))
    }

    fn count_results(&mut self, client: &Client, results: &[Message]) {
        let mut by_task: HashMap<String, Vec<&Message>> = HashMap::new();
        for result in results {
            by_task.entry(result.subject.trim_start_matches("hive.result.").to_owned()).or_default().push(result);
        }
        let ledger = client.ledger();
        self.accepted = ledger.len() as u64;
        for (id, job) in ledger.iter() {
            let Some(records) = by_task.remove(id) else {
                self.lost.push(id.clone());
                continue;
            };
            let (outcome, error) = (records[0].get("Hive-Outcome"), records[0].get("Hive-Error"));
            if records.len() > 1 {
                self.overwritten.push(format!("{id} has {} records", records.len()));
            } else if outcome == "dead" {
                self.dead.push((id.clone(), error));
            } else if outcome != "succeeded" || job.kind == POISON || records[0].body != job.output() {
                self.overwritten.push(format!("{id} is {outcome} ({error}) with {:?}", records[0].body));
            } else {
                self.succeeded += 1;
            }
        }
        drop(ledger);
        self.phantoms.extend(by_task.into_keys().filter(|id| !client.has_tried(id)));
    }

    fn count_starts(&mut self, notes: &[Note], events: &Events, faults: &[Fault]) {
        self.unexplained.extend(out_of_date(notes));
        let mut starts_of: BTreeMap<&str, Vec<&Note>> = BTreeMap::new();
        let mut ends = HashMap::new();
        for note in notes {
            match note.deed {
                Deed::Start => starts_of.entry(&note.task).or_default().push(note),
                Deed::End => _ = ends.insert((&note.task, note.attempt, note.epoch, &note.by), note.at),
            }
        }
        for (task, mut starts) in starts_of {
            starts.sort_by_key(|note| note.at);
            for (index, pair) in starts.windows(2).enumerate() {
                let [before, after] = [pair[0], pair[1]];
                let ended = ends.get(&(&before.task, before.attempt, before.epoch, &before.by));
                let had_ended = ended.is_some_and(|ended| *ended < after.at);
                self.count_extra(&Extra { task, number: index + 1, before, after, had_ended }, events, faults);
            }
            let mut names: Vec<(u32, u64)> = starts.iter().map(|note| (note.attempt, note.epoch)).collect();
            names.sort_unstable();
            // The handler of poison is not told the epoch.
            if names.windows(2).any(|pair| pair[0] == pair[1] && pair[0].1 > 0) {
                self.unexplained.push(format!("{task}: an attempt was started twice: {names:?}"));
            }
        }
    }

    fn count_extra(&mut self, extra: &Extra<'_>, events: &Events, faults: &[Fault]) {
        self.extra_starts += 1;
        let Extra { task, number, before, after, had_ended } = extra;
        let ours = faults.iter().find(|fault| fault.to == *before.by && fault.at <= after.at);
        let told = events.causes.get(*task).is_some_and(|causes| causes.len() >= *number);
        if ours.is_none() && before.epoch > 0 {
            let cases = if *had_ended { &mut self.redone } else { &mut self.restarted_alive };
            cases.push(extra.to_string());
        }
        let another_leader = after.epoch != before.epoch && before.epoch > 0;
        match (told || another_leader, ours) {
            (true, _) => {}
            (false, Some(_)) => self.explained_by_us_only += 1,
            (false, None) => self.unexplained.push(extra.to_string()),
        }
    }
}

/// Starts by the order of an older leader than the process had obeyed before. (Until it has heard of a newer one, it
/// rightly obeys the one that it knows, though that may be an old one by then.)
fn out_of_date(notes: &[Note]) -> Vec<String> {
    let mut newest: HashMap<&crate::witness::Doer, u64> = HashMap::new();
    let mut cases = Vec::new();
    for note in notes.iter().filter(|note| note.deed == Deed::Start && note.epoch > 0) {
        let known = newest.entry(&note.by).or_default();
        if note.epoch < *known {
            cases.push(format!("{}: epoch {} at {}, which knew of {known}", note.task, note.epoch, note.by));
        }
        *known = note.epoch.max(*known);
    }
    cases
}

/// A start of a task after another one.
struct Extra<'a> {
    task: &'a str,
    number: usize,
    before: &'a Note,
    after: &'a Note,
    had_ended: bool,
}

impl std::fmt::Display for Extra<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Extra { task, before, after, had_ended, .. } = self;
        let state = if *had_ended { "ended" } else { "running" };
        write!(
            f,
            "{task}: attempt {} of epoch {} by {} was {state} when {} ms later attempt {} of epoch {} started at {}",
            before.attempt,
            before.epoch,
            before.by,
            after.at.since(before.at).as_millis(),
            after.attempt,
            after.epoch,
            after.by
        )
    }
}

/// The first few of many.
pub fn some(cases: &[String]) -> String {
    let told = cases[..cases.len().min(TOLD)].join("; ");
    if cases.len() > TOLD { format!("{told}; …") } else { told }
}

/// What the mesh told of itself.
struct Events {
    counts: BTreeMap<String, u64>,
    /// What calls for another start, by task.
    causes: HashMap<String, Vec<String>>,
}

impl Events {
    fn read(messages: &[Message]) -> Self {
        let mut events = Self { counts: BTreeMap::new(), causes: HashMap::new() };
        for message in messages {
            let Ok(event) = serde_json::from_slice::<shared::api::Event>(&message.body) else { continue };
            *events.counts.entry(format!("{}.{}", event.topic, event.what)).or_default() += 1;
            let calls_for_start = ["reassigned", "redispatched", "failed"].contains(&event.what.as_str());
            if let Some(task) = event.task.filter(|_| event.topic == "task" && calls_for_start) {
                events.causes.entry(task).or_default().push(event.what);
            }
        }
        events
    }
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub body: Bytes,
}

impl Message {
    /// A header; empty if it is not there.
    pub fn get(&self, name: &str) -> String {
        self.headers.as_ref().and_then(|h| h.get(name)).map(|value| value.as_str().to_owned()).unwrap_or_default()
    }
}

/// Everything that a stream of the mesh holds, from the first message on.
pub async fn read_all(client: &Client, name: &str) -> anyhow::Result<Vec<Message>> {
    let mut tries = 0;
    loop {
        match try_read_all(client, name).await {
            Err(_) if tries < 5 => tries += 1,
            read => return read.with_context(|| format!("HIVE_{name} cannot be read")),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn try_read_all(client: &Client, name: &str) -> anyhow::Result<Vec<Message>> {
    let stream = client.jetstream().get_stream(format!("HIVE_{name}")).await?;
    let state = stream.cached_info().state.clone();
    // Results are for ever, as far as a scenario goes: one that was removed could have been replaced.
    anyhow::ensure!(
        state.messages == 0 || (state.first_sequence == 1 && state.last_sequence == state.messages),
        "messages were removed from HIVE_{name}: {state:?}"
    );
    let mut all = Vec::new();
    if state.messages == 0 {
        return Ok(all);
    }
    let consumer = stream.create_consumer(OrderedConfig::default()).await?;
    let mut messages = consumer.messages().await?;
    while (all.len() as u64) < state.messages {
        let next = tokio::time::timeout(SILENCE, messages.next()).await?;
        let message = next.context("the stream ended early")??.message;
        all.push(Message { subject: message.subject.to_string(), headers: message.headers, body: message.payload });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Moment;
    use crate::witness::Doer;

    fn note(deed: Deed, at: u64, agent: &str, attempt: u32, epoch: u64) -> Note {
        let by = Arc::new(Doer { agent: agent.to_owned(), pid: 1 });
        Note { deed, at: Moment(at), task: "t".to_owned(), attempt, epoch, by }
    }

    fn start(at: u64, agent: &str, attempt: u32, epoch: u64) -> Note {
        note(Deed::Start, at, agent, attempt, epoch)
    }

    fn count(notes: &[Note], causes: &[&str], faults: &[Fault]) -> Verdict {
        let causes = HashMap::from([("t".to_owned(), causes.iter().map(|cause| (*cause).to_owned()).collect())]);
        let mut verdict = Verdict::default();
        verdict.count_starts(notes, &Events { counts: BTreeMap::new(), causes }, faults);
        verdict
    }

    #[test]
    fn another_start_needs_a_cause() {
        let twice = [start(1, "ada", 1, 5), start(2, "bob", 2, 5)];
        let killed = Fault { at: Moment(1), deed: crate::world::Deed::Killed, to: (*twice[0].by).clone() };

        assert_eq!(count(&twice, &[], &[]).unexplained.len(), 1);
        assert_eq!(count(&twice, &["reassigned"], &[]).unexplained.len(), 0);
        assert_eq!(count(&twice, &[], &[killed]).explained_by_us_only, 1);
        assert_eq!(count(&[start(1, "ada", 1, 5), start(2, "bob", 1, 7)], &[], &[]).unexplained.len(), 0);
    }

    #[test]
    fn one_cause_explains_one_start() {
        let thrice = [start(1, "ada", 1, 5), start(2, "bob", 2, 5), start(3, "cid", 3, 5)];

        assert_eq!(count(&thrice, &["failed"], &[]).unexplained.len(), 1);
    }

    #[test]
    fn the_same_attempt_is_never_started_twice() {
        let again = [start(1, "ada", 1, 5), start(2, "bob", 1, 5)];

        assert_eq!(count(&again, &["reassigned"], &[]).unexplained.len(), 1);
    }

    #[test]
    fn a_process_obeys_no_older_leader_than_it_has_obeyed() {
        let newer = note(Deed::Start, 1, "ada", 1, 7);
        let other = Note { task: "u".to_owned(), ..start(2, "ada", 1, 5) };

        assert_eq!(count(&[newer, other], &[], &[]).unexplained.len(), 1);
    }

    #[test]
    fn what_had_ended_is_told_apart_from_what_was_running() {
        let ended = [start(1, "ada", 1, 5), note(Deed::End, 2, "ada", 1, 5), start(3, "bob", 1, 6)];

        let (redone, restarted) = (count(&ended, &[], &[]), count(&[ended[0].clone(), ended[2].clone()], &[], &[]));

        assert_eq!((redone.redone.len(), redone.restarted_alive.len()), (1, 0));
        assert_eq!((restarted.redone.len(), restarted.restarted_alive.len()), (0, 1));
    }
}
