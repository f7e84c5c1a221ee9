//! What agents say, and what they are told.

use std::time::Duration;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Message};
use scheduler::{Action, Dispatch, Done, Event, Sequence};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::codec::{DecodeError, Format};
use shared::header::name;
use shared::message::{AttemptRef, Beat, Bye, Hello, Report, Settled, Welcome};
use shared::subject::{AgentSubject, AgentVerb, InboxVerb};
use shared::{AgentId, TaskId, Used};
use tracing::warn;

use super::Node;
use super::answers::Topic;

/// The format that a message's `Content-Type` names, if it has one that is known.
pub(super) fn format_of(message: &Message) -> Option<Format> {
    let named = message.headers.as_ref()?.get(name::CONTENT_TYPE)?.as_str();
    Format::from_content_type(Some(named)).ok()
}

impl Node {
    pub(super) fn on_agent(&mut self, message: Message) {
        let Some(AgentSubject { agent, verb }) = AgentSubject::parse(&self.subjects, &message.subject) else { return };
        if let Some(format) = format_of(&message) {
            self.formats.insert(agent.clone(), format);
        }
        self.counts.heard(verb);
        let told = match verb {
            AgentVerb::Done => return self.on_done(agent, message),
            AgentVerb::Beat => self.decode::<Beat>(&agent, &message).map(|beat| Event::AgentBeat(agent.clone(), beat)),
            AgentVerb::Hello => {
                self.decode::<Hello>(&agent, &message).map(|hello| Event::AgentHello(agent.clone(), hello))
            }
            AgentVerb::Report => self.decode::<Report>(&agent, &message).map(|r| Event::AgentReport(agent.clone(), r)),
            AgentVerb::Bye => self.decode::<Bye>(&agent, &message).map(|bye| Event::AgentBye(agent.clone(), bye)),
            AgentVerb::Progress => return self.on_progress(&agent, &message),
        };
        match told {
            Ok(event) => self.tell_scheduler(event),
            Err(error) => warn!(%agent, %verb, error = %crate::chain(&error), "a message of an agent cannot be read"),
        }
    }

    /// The broker has seen a connection close; if it was an agent's, that is looked into.
    pub(super) fn on_disconnect(&mut self, advisory: &Message) {
        #[derive(Deserialize)]
        struct Advisory {
            client: Client,
        }
        #[derive(Deserialize)]
        struct Client {
            #[serde(default)]
            name: String,
        }
        let Ok(Advisory { client }) = serde_json::from_slice(&advisory.payload) else { return };
        if let Some(Ok(agent)) = client.name.strip_prefix("agent-").map(AgentId::new) {
            self.tell_scheduler(Event::AgentDisconnected(agent));
        }
    }

    /// Reads a message in the format it names, or else the one that the agent's hello had.
    fn decode<T: DeserializeOwned>(&self, agent: &AgentId, message: &Message) -> Result<T, DecodeError> {
        let format = match message.headers.as_ref().and_then(|headers| headers.get(name::CONTENT_TYPE)) {
            Some(named) => Format::from_content_type(Some(named.as_str()))?,
            None => self.formats.get(agent).copied().unwrap_or_default(),
        };
        format.decode(&message.payload)
    }

    fn on_done(&mut self, agent: AgentId, message: Message) {
        if self.reign.is_none() {
            return;
        }
        match message.headers.as_ref().ok_or("it has no headers".to_owned()).and_then(parse_done) {
            Ok(done) => {
                let (sequence, by) = (done.sequence, (agent.clone(), done.attempt.clone()));
                self.tell_scheduler(Event::AttemptDone(agent, done));
                self.keep_output(sequence, &by, message.payload);
            }
            Err(problem) => warn!(%agent, problem, "a `done` of an agent cannot be read"),
        }
    }

    /// The output belongs to the record that the `done` led to, if it led to one. That is among the last orders.
    /// (Another attempt of the task may have said its `done` in the same turn.)
    fn keep_output(&mut self, sequence: Sequence, by: &(AgentId, AttemptRef), output: bytes::Bytes) {
        let led_to_record = self.actions.iter().rev().any(|action| {
            matches!(action, Action::Record(settlement) if settlement.sequence == sequence && settlement.by.as_ref() == Some(by))
        });
        if led_to_record
            && let Some(envelope) = self.reign.as_mut().and_then(|reign| reign.envelopes.get_mut(&sequence))
        {
            envelope.output = output;
        }
    }

    /// Tells an agent something, in the format it speaks.
    pub(super) async fn tell_agent<T: Serialize>(&self, agent: &AgentId, verb: InboxVerb, message: &T) {
        let format = self.formats.get(agent).copied().unwrap_or_default();
        let headers = (format != Format::default()).then(|| content_type(format));
        self.publish(self.subjects.inbox(agent, verb), None, headers, format.encode(message)).await;
    }

    pub(super) async fn welcome(&self, agent: &AgentId, hello_wanted: bool) {
        let liveness = &self.scheduler.config().liveness;
        let welcome = Welcome {
            epoch: self.scheduler.epoch().unwrap_or_default(),
            beat_interval: liveness.beat_interval,
            report_interval: liveness.report_interval,
            hello_wanted,
            hold: Some(liveness.hold),
        };
        self.tell_agent(agent, InboxVerb::Welcome, &welcome).await;
    }

    pub(super) async fn probe(&self, agent: &AgentId) {
        let (subject, reply) = (self.subjects.inbox(agent, InboxVerb::Ping), self.reply_to(Topic::Probe, agent));
        self.publish(subject, Some(reply), None, bytes::Bytes::new()).await;
    }

    /// Confirms the end of the attempt before this one, if that is still to be confirmed: an agent ignores the order
    /// for a task of which it holds an attempt.
    pub(super) async fn confirm_before(&mut self, dispatch: &Dispatch) {
        let earlier = |attempt: &AttemptRef| attempt.task == dispatch.attempt.task;
        if dispatch.attempt.attempt > 1
            && self.settled.get(&dispatch.agent).is_some_and(|attempts| attempts.iter().any(earlier))
            && let Some(attempts) = self.settled.remove(&dispatch.agent)
        {
            self.tell_agent(&dispatch.agent, InboxVerb::Settled, &Settled { attempts }).await;
        }
    }

    /// Confirms the attempts that were recorded in this turn, one message an agent.
    pub(super) async fn confirm_settled(&mut self) {
        if self.settled.is_empty() {
            return;
        }
        for (agent, attempts) in std::mem::take(&mut self.settled) {
            self.tell_agent(&agent, InboxVerb::Settled, &Settled { attempts }).await;
        }
    }
}

fn content_type(format: Format) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name::CONTENT_TYPE, format.content_type());
    headers
}

fn parse_done(headers: &HeaderMap) -> Result<Done, String> {
    fn read<T>(headers: &HeaderMap, name: &HeaderName) -> Result<T, String>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let value = headers.get(name.clone()).ok_or_else(|| format!("header `{name}` is missing"))?;
        value.as_str().parse().map_err(|e| format!("header `{name}`: {e}"))
    }
    let run_ms: f64 = headers.get(name::RUN_MS).and_then(|v| v.as_str().parse().ok()).unwrap_or(0.0);
    let run = Duration::try_from_secs_f64(run_ms / 1000.0).unwrap_or_default();
    Ok(Done {
        sequence: Sequence(read(headers, &name::SEQUENCE)?),
        attempt: AttemptRef {
            task: read::<TaskId>(headers, &name::TASK)?,
            attempt: read(headers, &name::ATTEMPT)?,
            epoch: read(headers, &name::EPOCH)?,
        },
        incarnation: read(headers, &name::INCARNATION)?,
        outcome: read(headers, &name::OUTCOME)?,
        error: headers.get(name::ERROR).map(HeaderValue::as_str).map(Into::into),
        run,
        used: parse_used(headers),
    })
}

/// What an attempt used. It is only evidence: what cannot be read counts as not measured.
fn parse_used(headers: &HeaderMap) -> Used {
    let number = |name: &HeaderName| headers.get(name.clone())?.as_str().parse::<u64>().ok();
    Used {
        cpu: number(&name::CPU_MS).map(Duration::from_millis),
        memory_peak: number(&name::MEMORY_PEAK),
        io_bytes: number(&name::IO_BYTES),
    }
}
