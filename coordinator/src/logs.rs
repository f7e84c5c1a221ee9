//! What tasks write while they run: asked of the agent that has it, for those who want to see it.
//!
//! The mesh keeps no logs. Who wants one has the agent told so (`follow`), and hears what the agent says then on its own
//! subject (`progress`). A request gets what there is, or waits for something new; who asks again with what the answer says
//! goes on from there, whichever coordinator answers.

pub(crate) mod stream;

use std::time::{Duration, Instant};

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use shared::api::logs::{LogsRequest, TaskLog};
use shared::api::{self, AgentState, Refusal, TaskState};
use shared::header::name;
use shared::message::Follow;
use shared::subject::AgentVerb;
use shared::{AgentId, Client, TaskId};

use crate::node::Handle;
use crate::store::Store;

/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_millis(1500);
/// How long it may take to tell all that it has.
const GATHER: Duration = Duration::from_millis(2500);
/// The longest wait for something new, so that whoever asks is answered in time.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How long an agent tells what is new, if it is not asked again.
const FOLLOWED: Duration = Duration::from_secs(15);
/// How much one answer holds, at most about.
const ANSWER_BYTES: usize = 96 << 10;

/// What a task's last attempt has written, as far as its agent has it.
pub(crate) async fn read(
    handle: &Handle,
    store: &Store,
    client: &Client,
    asked: LogsRequest,
) -> Result<TaskLog, Refusal> {
    let bad = |error: String| Refusal { error, code: 400 };
    let id = TaskId::new(asked.id.as_str()).map_err(|error| bad(error.to_string()))?;
    let wait = asked.wait.as_deref().map_or(Ok(Duration::ZERO), humantime::parse_duration);
    let wait = wait.map_err(|error| bad(format!("wait: {error}: write `2s`")))?.min(LONGEST_WAIT);
    let task = handle.task(store, id.clone()).await?;
    let Some(agent) = task.agent.as_deref().and_then(|agent| AgentId::new(agent).ok()) else {
        return Ok(without_text(&asked, task, "no attempt of it has begun".to_owned()));
    };
    let is_there = handle.agent(agent.clone()).await.is_ok_and(|agent| agent.state != AgentState::Offline);
    if !is_there {
        let note = format!("agent `{agent}` is gone, and what its attempts wrote with it");
        return Ok(without_text(&asked, task, note));
    }
    let subject = client.subjects().agent(&agent, AgentVerb::Progress);
    let said = client.nats().subscribe(subject).await;
    let said = said.map_err(|error| Refusal { error: format!("failed to listen to `{agent}`: {error}"), code: 503 })?;
    let after = if asked.attempt.is_none_or(|attempt| attempt == task.attempts) { asked.after } else { 0 };
    handle.follow(agent, Follow { task: id, attempt: task.attempts, after, lasting: FOLLOWED }).await?;
    let heard = Reading::new(&asked).hear(said, wait).await;
    Ok(answer(&asked, task, heard))
}

fn answer(asked: &LogsRequest, task: api::Task, heard: Heard) -> TaskLog {
    match heard {
        Heard::Log(reading) => TaskLog {
            attempt: reading.attempt.unwrap_or_default(),
            text: String::from_utf8_lossy(&reading.text).into_owned(),
            next: reading.next,
            dropped: reading.dropped,
            ended: task.state == TaskState::Settled && reading.has_ended,
            note: None,
            ..without_text(asked, task, String::new())
        },
        Heard::Gone if task.state == TaskState::Settled => {
            without_text(asked, task, "what it wrote is not kept any more".to_owned())
        }
        Heard::Gone => without_text(asked, task, "it waits for a slot of its agent".to_owned()),
        Heard::Nothing => without_text(asked, task, "its agent does not tell what attempts write".to_owned()),
    }
}

/// How far the task is, and why there is no text.
fn without_text(asked: &LogsRequest, task: api::Task, note: String) -> TaskLog {
    TaskLog {
        task: task.id,
        state: task.state,
        outcome: task.outcome,
        agent: task.agent,
        attempt: asked.attempt.unwrap_or_default(),
        text: String::new(),
        next: asked.after,
        dropped: 0,
        ended: task.state == TaskState::Settled,
        progress: task.progress,
        note: Some(note),
    }
}

/// What was heard of an attempt's log.
#[derive(Debug)]
enum Heard {
    Log(Reading),
    /// The agent has none.
    Gone,
    /// The agent says nothing.
    Nothing,
}

/// A log on its way.
#[derive(Debug)]
struct Reading {
    task: String,
    /// The attempt that is known in part, and how much of it.
    known: (Option<u32>, u64),
    /// The attempt that is told.
    attempt: Option<u32>,
    text: Vec<u8>,
    next: u64,
    dropped: u64,
    /// How much there is.
    end: u64,
    has_ended: bool,
}

/// A piece of a log, as an agent tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    attempt: u32,
    offset: u64,
    end: u64,
    has_ended: bool,
}

impl Reading {
    fn new(asked: &LogsRequest) -> Self {
        Self {
            task: asked.id.clone(),
            known: (asked.attempt, asked.after),
            attempt: None,
            text: Vec::new(),
            next: 0,
            dropped: 0,
            end: 0,
            has_ended: false,
        }
    }

    /// Listens until there is something and all of it is told, or the time is over.
    async fn hear(mut self, mut said: Subscriber, wait: Duration) -> Heard {
        let began = Instant::now();
        loop {
            let limit = match self.attempt {
                None => ANSWER,
                Some(_) if self.next < self.end => GATHER,
                Some(_) => wait,
            };
            let is_full = self.text.len() >= ANSWER_BYTES;
            let is_all = self.attempt.is_some() && self.next >= self.end && !self.text.is_empty();
            let left = limit.saturating_sub(began.elapsed());
            if is_full || is_all || self.has_ended || left.is_zero() {
                break;
            }
            match tokio::time::timeout(left, said.next()).await {
                Ok(Some(message)) => {
                    if self.is_gone(&message) {
                        return Heard::Gone;
                    }
                    self.take(&message);
                }
                // The time is over, or the connection is.
                Ok(None) | Err(_) => break,
            }
        }
        if self.attempt.is_some() { Heard::Log(self) } else { Heard::Nothing }
    }

    fn is_about(&self, headers: &HeaderMap) -> bool {
        headers.get(name::TASK).is_some_and(|task| task.as_str() == self.task)
    }

    fn is_gone(&self, message: &Message) -> bool {
        let Some(headers) = message.headers.as_ref().filter(|headers| self.is_about(headers)) else { return false };
        self.attempt.is_none() && headers.get(name::LOG_STATE).is_some_and(|state| state.as_str() == "gone")
    }

    fn take(&mut self, message: &Message) {
        let headers = message.headers.as_ref().filter(|headers| self.is_about(headers));
        if let Some(piece) = headers.and_then(Piece::read) {
            self.add(piece, &message.payload);
        }
    }

    /// Adds what is new in a piece. Others may follow the same log, who know less of it, or more.
    fn add(&mut self, piece: Piece, bytes: &[u8]) {
        if self.attempt.is_none() {
            self.attempt = Some(piece.attempt);
            self.next = if self.known.0.is_none_or(|known| known == piece.attempt) { self.known.1 } else { 0 };
        }
        if self.attempt != Some(piece.attempt) {
            return;
        }
        self.end = self.end.max(piece.end);
        if piece.offset > self.next {
            self.dropped += piece.offset - self.next;
            self.next = piece.offset;
        }
        let known = usize::try_from(self.next - piece.offset).unwrap_or(usize::MAX);
        if let Some(new) = bytes.get(known..) {
            self.text.extend_from_slice(new);
            self.next += new.len() as u64;
        }
        self.has_ended = piece.has_ended && self.next >= self.end;
    }
}

impl Piece {
    fn read(headers: &HeaderMap) -> Option<Self> {
        fn number<T: std::str::FromStr>(value: Option<&HeaderValue>) -> Option<T> {
            value?.as_str().parse().ok()
        }
        Some(Self {
            attempt: number(headers.get(name::ATTEMPT))?,
            offset: number(headers.get(name::LOG_OFFSET))?,
            end: number(headers.get(name::LOG_END))?,
            has_ended: headers.get(name::LOG_STATE).is_some_and(|state| state.as_str() == "ended"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_told_again_and_what_is_missing_is_counted() {
        let mut reading = reading(Some(1), 4);

        reading.add(piece(1, 0, 8), b"one\ntwo\n");
        reading.add(piece(1, 0, 8), b"one\n");
        reading.add(piece(1, 20, 26), b"seven\n");

        assert_eq!(reading.text, b"two\nseven\n");
        assert_eq!((reading.next, reading.dropped, reading.attempt), (26, 12, Some(1)));
    }

    #[test]
    fn the_next_attempt_is_told_from_its_beginning() {
        let mut reading = reading(Some(1), 400);

        reading.add(piece(2, 0, 4), b"two\n");
        reading.add(piece(1, 400, 404), b"one\n");

        assert_eq!((&reading.text[..], reading.next, reading.attempt), (&b"two\n"[..], 4, Some(2)));
    }

    #[test]
    fn a_log_has_ended_when_all_of_it_is_told() {
        let mut reading = reading(None, 0);

        reading.add(Piece { has_ended: true, ..piece(1, 10, 14) }, b"end\n");

        assert!(reading.has_ended);
        assert_eq!(reading.dropped, 10);
    }

    #[test]
    fn what_is_no_piece_is_not_taken() {
        let mut headers = HeaderMap::new();
        headers.insert("Hive-Attempt", "1");
        headers.insert("Hive-Progress", "0.5");
        assert_eq!(Piece::read(&headers), None);

        headers.insert("Hive-Log-Offset", "8");
        headers.insert("Hive-Log-End", "many");
        assert_eq!(Piece::read(&headers), None);

        headers.insert("Hive-Log-End", "12");
        assert_eq!(Piece::read(&headers), Some(piece(1, 8, 12)));
    }

    fn reading(attempt: Option<u32>, after: u64) -> Reading {
        Reading::new(&LogsRequest { id: "t".to_owned(), attempt, after, wait: None })
    }

    fn piece(attempt: u32, offset: u64, end: u64) -> Piece {
        Piece { attempt, offset, end, has_ended: false }
    }
}
