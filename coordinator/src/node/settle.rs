//! Tasks on their way out of the stream: looked up, recorded, buried, removed.
//!
//! The order matters: first the result is stored, then the dead letter, then the task's message goes. Whatever is
//! interrupted is found by the next leader, who looks among the results before it starts anything that may have
//! been started before.

use std::time::Instant;

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use scheduler::{Event, Sequence, Settlement};
use shared::AgentId;
use shared::message::AttemptRef;
use tracing::{debug, warn};

use super::answers::Topic;
use super::envelope::{Stage, result_headers};
use super::{Command, Node, PATIENCE};
use crate::store::Recorded;

impl Node {
    /// Finds out whether the task is settled already.
    pub(super) async fn look_up(&mut self, sequence: Sequence) {
        let Some(id) = self.enter(sequence, Stage::LookingUp) else { return };
        let (subject, reply) = (self.store.result_lookup(&id), self.reply_to(Topic::LookUp, sequence));
        self.publish(subject, Some(reply), None, Bytes::new()).await;
    }

    /// Makes sure that a result that was not found is not there.
    pub(super) async fn confirm(&mut self, sequence: Sequence) {
        let Some(envelope) = self.reign.as_ref().and_then(|reign| reign.envelopes.get(&sequence)) else { return };
        let (subject, body) = self.store.result_lookup_at_leader(&envelope.id);
        let reply = self.reply_to(Topic::Confirm, sequence);
        self.publish(subject, Some(reply), None, body).await;
    }

    pub(super) async fn record(&mut self, settlement: Settlement) {
        let Some(reign) = &mut self.reign else { return };
        let sequence = settlement.sequence;
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        self.counts.settled(&settlement, self.clock.now().since(envelope.accepted));
        let discard_result = envelope.discard_result;
        envelope.settlement = Some(Box::new(settlement));
        self.trace_settling(sequence);
        if discard_result {
            self.enter(sequence, Stage::Recording);
            return self.on_recorded(sequence, Recorded::Stored).await;
        }
        self.send_record(sequence).await;
    }

    pub(super) async fn on_recorded(&mut self, sequence: Sequence, recorded: Recorded) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&sequence).filter(|e| e.stage == Stage::Recording) else { return };
        if let Some((since, beside)) = envelope.recording.take() {
            let now = Instant::now();
            reign.records.came_alone(beside, now.duration_since(since), now);
        }
        match recorded {
            // It is put again when the answer has been out too long.
            Recorded::Unknown => return debug!(%sequence, "the broker did not take a result"),
            // A record of ours whose answer was lost, or somebody else's: the first one stays.
            Recorded::Already => debug!(task = %envelope.id, "a result is recorded already"),
            Recorded::Stored => {}
        }
        if !envelope.discard_result {
            reign.known.insert(envelope.id.as_str());
        }
        let copy = envelope.reply_to.clone();
        let dead = envelope.settlement.as_ref().is_some_and(|settlement| settlement.dead_letter);
        self.tell_scheduler(Event::TaskRecorded(sequence));
        match (copy, recorded) {
            (Some(reply_to), Recorded::Stored) => self.send_copy(sequence, &reply_to).await,
            (Some(reply_to), _) => self.send_kept_copy(sequence, reply_to.to_string()),
            (None, _) => {}
        }
        match (dead, recorded) {
            (true, _) => self.bury(sequence).await,
            // Somebody else's record stays, and it may be one that calls for a dead letter.
            (false, Recorded::Already) => self.look_up(sequence).await,
            (false, _) => self.remove(sequence).await,
        }
    }

    /// Sends the result to whoever asked for it.
    async fn send_copy(&self, sequence: Sequence, reply_to: &str) {
        let Some(envelope) = self.reign.as_ref().and_then(|reign| reign.envelopes.get(&sequence)) else { return };
        let Some(settlement) = &envelope.settlement else { return };
        let (headers, output) = (result_headers(settlement), envelope.output.clone());
        self.publish(reply_to.to_owned(), None, Some(headers), output).await;
    }

    /// Sends the result that was recorded before ours.
    fn send_kept_copy(&self, sequence: Sequence, reply_to: String) {
        let Some(envelope) = self.reign.as_ref().and_then(|reign| reign.envelopes.get(&sequence)) else { return };
        let (store, nats, id) = (self.store.clone(), self.nats.clone(), envelope.id.clone());
        tokio::spawn(async move {
            if let Ok(Some(kept)) = store.result(&id).await {
                let _ = nats.publish_with_headers(reply_to, kept.headers, kept.body).await;
            }
        });
    }

    async fn bury(&mut self, sequence: Sequence) {
        self.enter(sequence, Stage::Burying);
        let Some(envelope) = self.reign.as_ref().and_then(|reign| reign.envelopes.get(&sequence)) else { return };
        let Some(settlement) = &envelope.settlement else { return };
        let mut headers = envelope.dead_headers(settlement);
        let (kind, mut body) = (settlement.kind.clone(), envelope.body.clone());
        let limit = self.nats.max_payload();
        if limit > 0 && body.len() + super::tasks::size_of_headers(&headers) + 64 > limit {
            // It came so large that nothing can be said about it beside it. That it is dead must be kept.
            headers.insert("Hive-Body-Omitted", HeaderValue::from(body.len()));
            body = Bytes::new();
        }
        let (subject, reply) = (self.subjects.dead(&kind), self.reply_to(Topic::Bury, sequence));
        self.publish(subject, Some(reply), Some(headers), body).await;
    }

    /// Buries a task whose result was recorded by a leader that may have gone before it did so.
    pub(super) async fn bury_settled(&mut self, sequence: Sequence, result: HeaderMap) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        let get = |name: &str| result.get(name).map(|value| value.as_str().to_owned());
        envelope.settlement = Some(Box::new(Settlement {
            sequence,
            id: envelope.id.clone(),
            kind: envelope.kind.clone(),
            outcome: get(shared::header::OUTCOME).and_then(|o| o.parse().ok()).unwrap_or(shared::Outcome::Dead),
            attempts: get(shared::header::ATTEMPTS).and_then(|n| n.parse().ok()).unwrap_or(0),
            by: None,
            error: get(shared::header::ERROR).map(Into::into),
            queued: std::time::Duration::ZERO,
            run: std::time::Duration::ZERO,
            dead_letter: true,
            history: Vec::new(),
        }));
        self.bury(sequence).await;
    }

    pub(super) async fn on_buried(&mut self, sequence: Sequence, recorded: Recorded) {
        let burying = self
            .reign
            .as_ref()
            .and_then(|reign| reign.envelopes.get(&sequence))
            .is_some_and(|envelope| envelope.stage == Stage::Burying);
        if burying && recorded == Recorded::Stored {
            self.remove(sequence).await;
        }
    }

    /// Takes the message out of the stream: by an acknowledgement, or by its sequence where that is not answered.
    pub(super) async fn remove(&mut self, sequence: Sequence) {
        let repeated = self.stage_of(sequence) == Some(Stage::Removing);
        self.enter(sequence, Stage::Removing);
        let Some(envelope) = self.reign.as_ref().and_then(|reign| reign.envelopes.get(&sequence)) else { return };
        if repeated || envelope.ack.is_empty() {
            return self.remove_by_sequence(sequence).await;
        }
        let (ack, reply) = (envelope.ack.to_string(), self.reply_to(Topic::Ack, sequence));
        self.publish(ack, Some(reply), None, Bytes::from_static(b"+ACK")).await;
    }

    async fn remove_by_sequence(&self, sequence: Sequence) {
        let (subject, body) = self.store.removal(sequence.0);
        let reply = self.reply_to(Topic::Remove, sequence);
        self.publish(subject, Some(reply), None, body).await;
    }

    pub(super) async fn on_ack_answered(&mut self, sequence: Sequence, status: Option<StatusCode>) {
        if status.is_none() {
            self.forget(sequence);
        } else if self.stage_of(sequence) == Some(Stage::Removing) {
            // The consumer that delivered it is gone.
            self.remove_by_sequence(sequence).await;
        }
    }

    pub(super) fn on_removed(&mut self, sequence: Sequence, message: &Message) {
        // Either it was removed now, or it was not there any more; a stream that does not answer has a status.
        if message.status.is_none() {
            self.forget(sequence);
        }
    }

    fn forget(&mut self, sequence: Sequence) {
        let Some(reign) = &mut self.reign else { return };
        if reign.envelopes.get(&sequence).is_some_and(|envelope| envelope.stage == Stage::Removing) {
            let Some(envelope) = reign.envelopes.remove(&sequence) else { return };
            envelope.lane.into_iter().for_each(|lane| reign.lanes.placed(lane));
            reign.progress.forget(&envelope.id);
            self.trace_settled(&envelope);
            self.tell_scheduler(Event::TaskRemoved(sequence));
        }
    }

    pub(super) fn stage_of(&self, sequence: Sequence) -> Option<Stage> {
        Some(self.reign.as_ref()?.envelopes.get(&sequence)?.stage)
    }

    /// Notes that an answer is awaited now.
    pub(super) fn enter(&mut self, sequence: Sequence, stage: Stage) -> Option<shared::TaskId> {
        let reign = self.reign.as_mut()?;
        let envelope = reign.envelopes.get_mut(&sequence)?;
        envelope.stage = stage;
        reign.awaited.push_back((Instant::now(), sequence, stage));
        Some(envelope.id.clone())
    }

    /// Puts questions again whose answers have been out too long.
    pub(super) async fn ask_again(&mut self) {
        let mut late = Vec::new();
        if let Some(reign) = &mut self.reign {
            while let Some((asked, sequence, stage)) = reign.awaited.front().copied() {
                if asked.elapsed() < PATIENCE {
                    break;
                }
                reign.awaited.pop_front();
                if reign.envelopes.get(&sequence).is_some_and(|envelope| envelope.stage == stage) {
                    late.push((sequence, stage));
                }
            }
        }
        if !late.is_empty() {
            warn!(count = late.len(), "the broker has not answered in time, asking again");
        }
        for (sequence, stage) in late {
            if let Some(call) = stage.call() {
                self.store.calls().ended(call);
                self.store.calls().failed(call);
            }
            match stage {
                Stage::LookingUp => self.look_up(sequence).await,
                Stage::Recording => self.send_record_alone(sequence).await,
                Stage::Burying => self.bury(sequence).await,
                Stage::Removing => self.remove(sequence).await,
                Stage::Held => {}
            }
        }
    }

    /// An agent repeats the end of an attempt that nobody here knows: if the task is settled, it is told so.
    pub(super) fn check_settled(&self, agent: AgentId, attempt: AttemptRef, sequence: Sequence) {
        let (store, commands) = (self.store.clone(), self.own_commands.clone());
        tokio::spawn(async move {
            let recorded = matches!(store.result(&attempt.task).await, Ok(Some(_)));
            let answer = match (recorded, store.queued(sequence.0).await) {
                // A task whose result is discarded leaves nothing behind but the absence of its message.
                (true, _) | (false, Ok(None)) => Command::Confirm(agent, attempt),
                // Its lane may wait for the very slot that this attempt takes up.
                (false, Ok(Some(stored))) => Command::TakeIn(stored),
                (false, Err(_)) => return,
            };
            let _ = commands.send(answer).await;
        });
    }

    /// Reads which tasks have a result, so that a new task need not be looked up. A leader before us may not know that it
    /// is none, and still record: a list that is made before it has stepped down would not have that.
    pub(super) fn learn_results(&mut self) {
        let Some(epoch) = self.scheduler.epoch() else { return };
        let Some(reign) = &mut self.reign else { return };
        if reign.results_due.take_if(|due| *due <= Instant::now()).is_none() {
            return;
        }
        let (store, subjects, commands) = (self.store.clone(), self.subjects.clone(), self.own_commands.clone());
        tokio::spawn(async move {
            let (stream, filter) = (subjects.results_stream(), subjects.results());
            let list = || async {
                let counts = store.subject_counts(stream.clone(), filter.clone(), usize::MAX).await?;
                Ok::<_, crate::store::StoreError>((counts, store.task_count().await?.1))
            };
            while !commands.is_closed() {
                match list().await {
                    Ok((counts, last)) => {
                        let ids = counts.iter().filter_map(|(subject, _)| subjects.result_id(subject)).collect();
                        let _ = commands.send(Command::ResultsKnown(epoch, ids, last)).await;
                        return;
                    }
                    Err(error) => {
                        warn!(error = %crate::chain(&error), "the results cannot be listed: every task is looked up");
                    }
                }
                tokio::time::sleep(super::PATIENCE).await;
            }
        });
    }
}
