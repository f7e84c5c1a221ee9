//! What comes back to the coordinator's own inbox.
//!
//! The reply subject of each question says what it was about, so no table of open questions is needed:
//! `<inbox>.<topic>.<what>`. Tasks that were pulled come here too, under their own subjects.

use std::fmt::Write as _;

use async_nats::{Message, StatusCode};
use scheduler::{Event, Sequence};
use shared::AgentId;
use shared::message::Pong;
use tracing::{debug, warn};

use super::Node;
use super::envelope::{Stage, is_dead};
use crate::store::{Call, Recorded};

/// What a question was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// A pull on a lane.
    Pull,
    /// Whether a task is settled already.
    LookUp,
    /// Whether it is really not, asked of the server that leads the results.
    Confirm,
    /// The record of a result.
    Record,
    /// The record of several results at once.
    Batch,
    /// The record of a dead letter.
    Bury,
    /// The acknowledgement of a task.
    Ack,
    /// The removal of a task by its sequence.
    Remove,
    /// The record of how attempts ended.
    Remember,
    /// The removal of such a record.
    Forget,
    /// An order to an agent.
    Run,
    /// Whether an agent is there.
    Probe,
    /// Whether our own link is well.
    Canary,
}

impl Topic {
    const ALL: [Topic; 13] = [
        Topic::Pull,
        Topic::LookUp,
        Topic::Confirm,
        Topic::Record,
        Topic::Batch,
        Topic::Bury,
        Topic::Ack,
        Topic::Remove,
        Topic::Remember,
        Topic::Forget,
        Topic::Run,
        Topic::Probe,
        Topic::Canary,
    ];

    const fn token(self) -> &'static str {
        match self {
            Topic::Pull => "pull",
            Topic::LookUp => "look",
            Topic::Confirm => "conf",
            Topic::Record => "rec",
            Topic::Batch => "batch",
            Topic::Bury => "bury",
            Topic::Ack => "ack",
            Topic::Remove => "rm",
            Topic::Remember => "hist",
            Topic::Forget => "forget",
            Topic::Run => "run",
            Topic::Probe => "probe",
            Topic::Canary => "canary",
        }
    }

    /// What JetStream was asked for, if it was JetStream.
    const fn call(self) -> Option<Call> {
        match self {
            Topic::LookUp | Topic::Confirm => Some(Call::LookUp),
            Topic::Record | Topic::Batch => Some(Call::Record),
            Topic::Bury => Some(Call::Bury),
            Topic::Ack => Some(Call::Acknowledge),
            Topic::Remove => Some(Call::Remove),
            Topic::Remember => Some(Call::Remember),
            Topic::Forget => Some(Call::Forget),
            // A pull is counted when it is sent: it ends by being served, or when its time is over.
            Topic::Pull | Topic::Run | Topic::Probe | Topic::Canary => None,
        }
    }

    /// Whether an answer of this status is none that helps. What was to be stored says so in its body.
    fn has_failed(self, status: Option<StatusCode>) -> bool {
        match self {
            Topic::Record | Topic::Batch | Topic::Bury | Topic::Remember => false,
            Topic::LookUp => status.is_some_and(|status| status != StatusCode::NOT_FOUND),
            _ => status.is_some(),
        }
    }
}

impl Node {
    /// Where the answer to a question shall go.
    pub(super) fn reply_to(&self, topic: Topic, about: impl std::fmt::Display) -> String {
        let mut subject = String::with_capacity(self.inbox.len() + 48);
        subject.push_str(&self.inbox);
        subject.push('.');
        subject.push_str(topic.token());
        subject.push('.');
        write!(subject, "{about}").expect("writing to a text cannot fail");
        subject
    }

    pub(super) async fn on_answer(&mut self, message: Message) {
        let Some(rest) = message.subject.strip_prefix(self.inbox.as_str()).and_then(|rest| rest.strip_prefix('.'))
        else {
            return self.on_delivery(message).await;
        };
        let Some((token, about)) = rest.split_once('.') else { return };
        let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.token() == token) else { return };
        let sequence = || about.parse().map(Sequence);
        if let Some(call) = topic.call() {
            self.store.calls().ended(call);
            if topic.has_failed(message.status) {
                self.store.calls().failed(call);
            }
        }
        match topic {
            Topic::Pull => self.on_pull_ended(about, message.status),
            Topic::Run => self.on_agent_unreachable(about, message.status),
            Topic::Probe => self.on_probe_answer(about, &message),
            Topic::Canary => self.tell_scheduler(Event::CanaryHeard),
            Topic::Remember => {
                let recorded = self.stored(Call::Remember, &message);
                self.on_remembered(about, recorded);
            }
            // What stays because this failed is removed by its age.
            Topic::Forget => {}
            Topic::LookUp => {
                if let Ok(sequence) = sequence() {
                    self.on_looked_up(sequence, message).await;
                }
            }
            Topic::Confirm => {
                if let Ok(sequence) = sequence() {
                    self.on_confirmed(sequence, &message).await;
                }
            }
            Topic::Record => {
                if let Ok(sequence) = sequence() {
                    let recorded = self.stored(Call::Record, &message);
                    self.on_recorded(sequence, recorded).await;
                }
            }
            Topic::Batch => {
                if let Ok(number) = about.parse() {
                    self.on_batch_recorded(number, Recorded::parse(message.status, &message.payload)).await;
                }
            }
            Topic::Bury => {
                if let Ok(sequence) = sequence() {
                    let recorded = self.stored(Call::Bury, &message);
                    self.on_buried(sequence, recorded).await;
                }
            }
            Topic::Ack => {
                if let Ok(sequence) = sequence() {
                    self.on_ack_answered(sequence, message.status).await;
                }
            }
            Topic::Remove => {
                if let Ok(sequence) = sequence() {
                    self.on_removed(sequence, &message);
                }
            }
        }
    }

    /// What the broker said to something that was to be stored.
    fn stored(&self, call: Call, message: &Message) -> Recorded {
        let recorded = Recorded::parse(message.status, &message.payload);
        if recorded == Recorded::Unknown {
            self.store.calls().failed(call);
        }
        recorded
    }

    fn on_pull_ended(&mut self, about: &str, status: Option<StatusCode>) {
        let Some(reign) = &mut self.reign else { return };
        let Some((lane, id)) = about.rsplit_once('.') else { return };
        if let Ok(id) = id.parse() {
            reign.lanes.pull_ended(lane, id);
        }
        if status == Some(StatusCode::NO_RESPONDERS) {
            self.store.calls().failed(Call::Pull);
            reign.lanes.vanished(lane);
        }
    }

    fn on_agent_unreachable(&mut self, agent: &str, status: Option<StatusCode>) {
        if status == Some(StatusCode::NO_RESPONDERS)
            && let Ok(agent) = AgentId::new(agent)
        {
            debug!(%agent, "nobody listens on the agent's inbox");
            self.tell_scheduler(Event::AgentUnreachable(agent));
        }
    }

    fn on_probe_answer(&mut self, agent: &str, message: &Message) {
        if message.status.is_some() {
            return self.on_agent_unreachable(agent, message.status);
        }
        let Ok(agent) = AgentId::new(agent) else { return };
        let format = self.formats.get(&agent).copied().unwrap_or_default();
        // Whatever the agent sends, its header says what it is; without one it is as in its hello.
        let format = super::agents::format_of(message).unwrap_or(format);
        match format.decode::<Pong>(&message.payload) {
            Ok(pong) if pong.agent == agent => {
                // An answer to a probe is not counted among the beats.
                let beat = shared::message::Beat { sequence: 0, ..pong.beat };
                self.tell_scheduler(Event::AgentBeat(agent, beat));
            }
            Ok(pong) => warn!(%agent, claims = %pong.agent, "an agent answered a probe in another's name"),
            Err(error) => warn!(%agent, error = %crate::chain(&error), "an agent's answer to a probe cannot be read"),
        }
    }

    async fn on_confirmed(&mut self, sequence: Sequence, message: &Message) {
        // That there is one is looked up again, which is soon enough for a copy that lags behind.
        if message.status.is_none() && crate::store::says_not_found(&message.payload) {
            self.on_none_found(sequence).await;
        }
    }

    /// There is no result of the task.
    async fn on_none_found(&mut self, sequence: Sequence) {
        let Some(envelope) = self.reign.as_ref().and_then(|reign| reign.envelopes.get(&sequence)) else { return };
        match (envelope.stage, &envelope.settlement) {
            // What was there when ours was refused is gone again, by its age: it was recorded all the same.
            (Stage::LookingUp, Some(_)) => self.remove(sequence).await,
            (Stage::LookingUp, None) => self.admit(sequence).await,
            _ => {}
        }
    }

    async fn on_looked_up(&mut self, sequence: Sequence, message: Message) {
        let Some(reign) = &mut self.reign else { return };
        let may_have_been_tried = reign.may_have_been_tried(sequence);
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        if envelope.stage != Stage::LookingUp {
            return;
        }
        match message.status {
            None => {}
            // Any server that has a copy answers, and the copy may lag behind.
            Some(StatusCode::NOT_FOUND) if reign.results_are_replicated => return self.confirm(sequence).await,
            Some(StatusCode::NOT_FOUND) => return self.on_none_found(sequence).await,
            // Put again when the answer has been out too long.
            Some(_) => return,
        }
        let headers = message.headers.unwrap_or_default();
        debug!(task = %envelope.id, "the task is settled already");
        // A coordinator may have gone between the record and the dead letter, or two led at once.
        let has_settled = envelope.settlement.is_some();
        let bury = (may_have_been_tried || has_settled) && is_dead(&headers);
        // Who has settled it has sent what was recorded.
        let reply_to = envelope.reply_to.clone().filter(|_| !has_settled);
        if let Some(reply_to) = reply_to {
            self.publish(reply_to.to_string(), None, Some(headers.clone()), message.payload).await;
        }
        if bury { self.bury_settled(sequence, headers).await } else { self.remove(sequence).await }
    }
}
