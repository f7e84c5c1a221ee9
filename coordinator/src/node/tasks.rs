//! Tasks on their way from the stream to an agent.

use std::time::{Duration, Instant};

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, Message};
use scheduler::{Delivery, Dispatch, Event, Sequence, Timestamp, Unreadable};
use shared::subject::{InboxVerb, TaskSubject};
use shared::{Kind, Priority, TaskId, TaskOptions, header};
use tracing::{debug, warn};

use super::answers::Topic;
use super::envelope::{Envelope, Stage};
use super::lanes::{Moved, PULL_EXPIRES};
use super::{Clock, Command, Node};
use crate::store::{Call, Metadata, Stored};

/// Room that the headers of `run`, or of a dead letter, take beside the task's own, at most.
const HEADER_ROOM: usize = 1024 + header::MAX_ERROR_BYTES;

/// How often kinds that nobody serves are looked for in the stream.
const SURVEY: Duration = Duration::from_secs(5);

/// A message of the task stream, however it was come by.
struct Arrival {
    sequence: Sequence,
    accepted: Duration,
    ack: async_nats::Subject,
    lane: Option<super::lanes::LaneKey>,
    message: (async_nats::Subject, Option<HeaderMap>, bytes::Bytes),
    /// Whether somebody wants the task to end.
    cancel_wanted: bool,
}

impl Node {
    pub(super) async fn on_delivery(&mut self, message: Message) {
        let Some(reign) = &mut self.reign else { return };
        let Some(ack) = message.reply.clone() else { return };
        let Some(metadata) = Metadata::parse(&ack) else {
            return warn!(subject = %message.subject, %ack, "a message came that is no task");
        };
        let Some(lane) = reign.lanes.find(metadata.consumer) else { return };
        let sequence = Sequence(metadata.sequence);
        let accepted = metadata.stored;
        let held = reign.envelopes.get_mut(&sequence);
        reign.lanes.delivered(lane, held.is_none(), Instant::now());
        if let Some(envelope) = held {
            // Delivered again, by another lane or because we were slow to say that we have it: it is acknowledged
            // where it was delivered last. But not at a lane that the kind was moved from, which delivers again what it
            // had out: an acknowledgement there would be answered, and remove nothing.
            let priority =
                TaskSubject::parse(&self.subjects, &envelope.subject).map_or(Priority::Normal, |s| s.priority);
            if reign.lanes.own_lane(&envelope.kind, priority).is_none_or(|own| own == lane) {
                envelope.ack = ack;
            }
            return;
        }
        let message = (message.subject, message.headers, message.payload);
        self.arrive(Arrival { sequence, accepted, ack, lane: Some(lane), message, cancel_wanted: false }).await;
    }

    /// Takes a message in that was read from the stream by its sequence.
    pub(super) async fn on_fetched(&mut self, stored: Stored, cancel_wanted: bool) {
        let sequence = Sequence(stored.sequence);
        let Some(reign) = &self.reign else { return };
        if reign.envelopes.contains_key(&sequence) {
            return;
        }
        let headers = (!stored.headers.is_empty()).then_some(stored.headers);
        let message = (stored.subject.into(), headers, stored.body);
        let ack = async_nats::Subject::from_static("");
        self.arrive(Arrival { sequence, accepted: stored.stored, ack, lane: None, message, cancel_wanted }).await;
    }

    async fn arrive(&mut self, arrival: Arrival) {
        let Arrival { sequence, accepted, ack, lane, message: (subject, headers, body), cancel_wanted } = arrival;
        let accepted = Timestamp::from_origin(accepted);
        let delivery = self.read_task(sequence, accepted, &subject, headers.as_ref(), body.len());
        let priority = delivery.as_ref().map_or(Priority::Normal, |delivery| delivery.priority);
        let (id, kind, options, delivery) = match delivery {
            Ok(delivery) => {
                let (id, kind) = (delivery.id.clone(), delivery.kind.clone());
                (id, kind, delivery.options.clone(), Ok(delivery))
            }
            Err(unreadable) => {
                // Whoever waits for the result hears of it, if at least that can be read.
                let reply_to = headers.as_ref().and_then(|headers| headers.get(header::name::REPLY_TO));
                let only = |name| reply_to.map(HeaderValue::as_str).filter(|_| name == header::REPLY_TO);
                let options = TaskOptions::parse(only).unwrap_or_default();
                (unreadable.id.clone(), unreadable.kind.clone(), options, Err(unreadable))
            }
        };
        let reply_to = options.reply_to.filter(|reply_to| self.may_be_sent_to(reply_to));
        let Some(reign) = &mut self.reign else { return };
        let (lane, ack) = reign.lanes.belongs_to(&kind, priority, lane, ack);
        let id_is_own = id.as_str().parse() == Ok(sequence.0);
        let may_be_settled =
            reign.may_have_been_tried(sequence) || (!id_is_own && reign.known.may_contain(id.as_str()));
        let (stage, unreadable) = match &delivery {
            Ok(_) if may_be_settled => (Stage::LookingUp, None),
            Ok(_) => (Stage::Held, None),
            Err(unreadable) => (Stage::Held, Some(unreadable.clone())),
        };
        self.counts.delivered(&kind);
        let envelope = Envelope {
            id,
            kind,
            subject,
            headers,
            body,
            accepted,
            arrived: Some(Instant::now()),
            ack,
            reply_to,
            discard_result: options.discard_result,
            lane,
            stage,
            settlement: None,
            recording: None,
            output: bytes::Bytes::new(),
            cancel_wanted,
            delivery: delivery.ok().map(Box::new),
            traced: None,
        };
        reign.envelopes.insert(sequence, envelope);
        match (stage, unreadable) {
            (_, Some(unreadable)) => self.tell_scheduler(Event::TaskUnreadable(unreadable)),
            (Stage::LookingUp, None) => self.look_up(sequence).await,
            (_, None) => self.admit(sequence).await,
        }
    }

    /// Whether a result may go where its submitter wants it. What others only hear from a coordinator, or it from them,
    /// could be forged by it: results, orders, what agents say, the answers to our own questions.
    fn may_be_sent_to(&self, reply_to: &str) -> bool {
        let within = |subject: &str, root: &str| subject.strip_prefix(root).is_some_and(|rest| rest.starts_with('.'));
        let is_ours = match reply_to.strip_prefix(self.subjects.mesh().as_str()) {
            Some(rest) if rest.starts_with('.') => !within(rest, ".task"),
            _ => within(reply_to, &self.inbox),
        };
        if is_ours {
            warn!(reply_to, "a result is not sent to a subject of the mesh's own");
        }
        !is_ours
    }

    /// Gives the task to the scheduler.
    pub(super) async fn admit(&mut self, sequence: Sequence) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        envelope.stage = Stage::Held;
        let cancel_wanted = envelope.cancel_wanted;
        // One that waited for a task of the same id has been with the scheduler before.
        let delivery = match envelope.delivery.take() {
            Some(delivery) => delivery,
            None => match self.read_again(sequence) {
                Some(Ok(delivery)) => Box::new(delivery),
                Some(Err(unreadable)) => return self.tell_scheduler(Event::TaskUnreadable(unreadable)),
                None => return,
            },
        };
        let (kind, priority) = (delivery.kind.clone(), delivery.priority);
        self.tell_scheduler(Event::TaskDelivered(Delivery { cancelled: cancel_wanted, ..*delivery }));
        let waiting = self.scheduler.waiting(&kind)[priority as usize];
        if let Some(reign) = &mut self.reign {
            let moved = reign.lanes.note_waiting(&kind, priority, waiting, Instant::now());
            self.move_held(moved).await;
        }
    }

    /// What is held of a kind that got a lane of its own belongs to that lane: it takes up its window, and only an
    /// acknowledgement there takes a message out of the stream. Until the lane has delivered it again, a message is
    /// removed by its sequence.
    pub(super) async fn move_held(&mut self, moved: Option<Moved>) {
        let (Some(moved), Some(reign)) = (moved, &mut self.reign) else { return };
        let mut leaving = Vec::new();
        for (sequence, envelope) in &mut reign.envelopes {
            let priority = TaskSubject::parse(&self.subjects, &envelope.subject).map(|subject| subject.priority);
            if envelope.kind != moved.kind || priority.unwrap_or_default() != moved.priority {
                continue;
            }
            if envelope.lane.is_some() {
                envelope.lane.replace(moved.to).into_iter().for_each(|from| reign.lanes.hand_over(from, moved.to));
            }
            envelope.ack = async_nats::Subject::from_static("");
            if envelope.stage == Stage::Removing {
                leaving.push(*sequence);
            }
        }
        for sequence in leaving {
            self.remove(sequence).await;
        }
    }

    fn read_again(&self, sequence: Sequence) -> Option<Result<Delivery, Unreadable>> {
        let envelope = self.reign.as_ref()?.envelopes.get(&sequence)?;
        let (headers, size) = (envelope.headers.as_ref(), envelope.body.len());
        Some(self.read_task(sequence, envelope.accepted, &envelope.subject, headers, size))
    }

    /// What the subject and the headers say, or why they cannot be read.
    fn read_task(
        &self,
        sequence: Sequence,
        accepted: Timestamp,
        subject: &str,
        headers: Option<&HeaderMap>,
        body_len: usize,
    ) -> Result<Delivery, Unreadable> {
        let unreadable = |id: Option<TaskId>, kind: Option<Kind>, reason: String| Unreadable {
            sequence,
            id: id.unwrap_or_else(|| TaskId::from_sequence(sequence.0)),
            kind: kind.unwrap_or_else(|| Kind::new("unreadable").expect("it is a good name")),
            accepted,
            reason,
        };
        let header_size = headers.map_or(0, size_of_headers);
        // Most tasks say nothing: a look at the names they have is cheaper than one for each they could have.
        let headers = headers.filter(|headers| headers.iter().any(|(name, _)| header::concerns_task(name.as_ref())));
        let get = |name: &'static str| headers.and_then(|h| h.get(name)).map(HeaderValue::as_str);
        let named = || get(header::MSG_ID).and_then(|id| TaskId::new(id).ok());
        let TaskSubject { kind, priority, id } = TaskSubject::parse(&self.subjects, subject)
            .map_err(|error| unreadable(named(), None, format!("subject `{}`: {error}", subject.escape_debug())))?;
        let id = id.or_else(named);
        let options =
            TaskOptions::parse(get).map_err(|error| unreadable(id.clone(), Some(kind.clone()), error.to_string()))?;
        let limit = self.nats.max_payload();
        let size = body_len + header_size + HEADER_ROOM;
        if limit > 0 && size > limit {
            let reason = format!("{size} bytes with the headers of an attempt, but the NATS server takes {limit}");
            return Err(unreadable(id, Some(kind), reason));
        }
        let wall = std::time::SystemTime::UNIX_EPOCH + accepted.since_origin();
        let deadline = options.deadline.map(|deadline| Clock::from_wall(deadline.resolve(wall)));
        let id = id.unwrap_or_else(|| TaskId::from_sequence(sequence.0));
        Ok(Delivery { sequence, id, kind, priority, accepted, deadline, options, cancelled: false })
    }

    /// An attempt is given to an agent, and not only once more.
    pub(super) fn count_start(&mut self, dispatch: &Dispatch) {
        let envelope = self.reign.as_mut().and_then(|reign| reign.envelopes.get_mut(&dispatch.sequence));
        if let Some(envelope) = envelope {
            let waited = envelope.arrived.take().map(|arrived| arrived.elapsed());
            self.counts.started(&envelope.kind, waited);
        }
    }

    pub(super) async fn dispatch(&mut self, dispatch: Dispatch) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&dispatch.sequence) else { return };
        if let Some(lane) = envelope.lane.take() {
            reign.lanes.placed(lane);
        }
        let (mut headers, body) = (envelope.run_headers(&dispatch), envelope.body.clone());
        self.trace_order(&dispatch, &mut headers);
        let subject = self.subjects.inbox(&dispatch.agent, InboxVerb::Run);
        let reply = self.reply_to(Topic::Run, &dispatch.agent);
        self.publish(subject, Some(reply), Some(headers), body).await;
    }

    /// Sends a task back to the stream, which delivers it again after the delay.
    pub(super) async fn release(&mut self, sequence: Sequence, delay: Duration) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.remove(&sequence) else { return };
        if let Some(lane) = envelope.lane {
            reign.lanes.placed(lane);
        }
        if !envelope.ack.is_empty() {
            let later = format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos());
            self.publish(envelope.ack.to_string(), None, None, later.into()).await;
        }
    }

    /// Fetches what there is room for.
    pub(super) async fn pull(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        for order in reign.lanes.pulls(Instant::now()) {
            self.store.calls().ended(Call::Pull);
            let (subject, body) = self.store.pull(&order.lane, order.batch, PULL_EXPIRES);
            let reply = self.reply_to(Topic::Pull, format_args!("{}.{}", order.lane, order.id));
            self.publish(subject, Some(reply), None, body).await;
        }
    }

    /// Tells the broker that what is held is still being worked on.
    pub(super) async fn extend_held(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        if Instant::now() < reign.next_extension {
            return;
        }
        reign.next_extension = Instant::now() + super::EXTENSION;
        let acks: Vec<_> = reign.envelopes.values().map(|e| e.ack.clone()).filter(|ack| !ack.is_empty()).collect();
        for ack in acks {
            self.publish(ack.to_string(), None, None, bytes::Bytes::from_static(b"+WPI")).await;
        }
    }

    /// Looks for messages that no lane delivers because what they ask for is no kind: they are settled as dead.
    /// (Of a kind that only nobody can do now, they stay.)
    pub(super) fn survey(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        if Instant::now() < reign.next_survey {
            return;
        }
        reign.next_survey = Instant::now() + SURVEY;
        let (store, subjects, commands) = (self.store.clone(), self.subjects.clone(), self.own_commands.clone());
        tokio::spawn(async move {
            let queued = store.queued_subjects().await.unwrap_or_default();
            for subject in queued.iter().filter(|subject| TaskSubject::parse(&subjects, subject).is_err()) {
                if let Ok(Some(stored)) = store.queued_by_subject(subject).await {
                    debug!(subject, "a message was found that is no task");
                    let _ = commands.send(Command::TakeIn(stored)).await;
                }
            }
        });
    }

    /// Submits what was asked for by a request; the result is its reply.
    pub(super) async fn on_call(&mut self, call: Message) {
        let Some(reply) = call.reply else { return };
        let kind = match self.subjects.call_kind(&call.subject) {
            Some(Ok(kind)) => kind,
            Some(Err(error)) => return self.refuse_call(&reply, &error.to_string()).await,
            None => return,
        };
        let submitted = call.headers.unwrap_or_default();
        let id = submitted.get(header::MSG_ID).map(HeaderValue::as_str);
        let id = match id.map_or_else(|| Ok(TaskId::generate()), TaskId::new) {
            Ok(id) => id,
            Err(error) => return self.refuse_call(&reply, &format!("header `Nats-Msg-Id`: {error}")).await,
        };
        let mut headers = HeaderMap::new();
        for (name, values) in submitted.iter().filter(|(name, _)| **name != header::name::MSG_ID) {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
        // The id stands in the subject. The broker's own window would swallow a repeated call, and nobody would
        // answer it; so it becomes a task that is recognised as settled.
        headers.insert(header::name::REPLY_TO, reply.as_str());
        let subject = self.subjects.task(&kind, Priority::Normal, &id);
        let stored = self.store.jetstream().publish_with_headers(subject, headers, call.payload).await;
        let node = self.nats.clone();
        // Only a failure is told: the result speaks for itself.
        tokio::spawn(async move {
            let failed = match stored {
                Ok(ack) => ack.await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                let headers = refusal(&format!("the task could not be stored: {error}"), "503");
                let _ = node.publish_with_headers(reply, headers, bytes::Bytes::new()).await;
            }
        });
    }

    async fn refuse_call(&self, reply: &str, problem: &str) {
        self.publish(reply.to_owned(), None, Some(refusal(problem, "400")), bytes::Bytes::new()).await;
    }
}

/// The headers by which NATS micro services tell an error.
fn refusal(problem: &str, code: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Service-Error", header::clean(problem, header::MAX_ERROR_BYTES).as_str());
    headers.insert("Nats-Service-Error-Code", code);
    headers
}

pub(super) fn size_of_headers(headers: &HeaderMap) -> usize {
    let line = |name: &str, value: &HeaderValue| name.len() + value.as_str().len() + 4;
    headers.iter().flat_map(|(name, values)| values.iter().map(move |v| line(name.as_ref(), v))).sum()
}
