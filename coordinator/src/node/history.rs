//! How attempts ended, kept for the next leader.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use scheduler::{History, Sequence};
use tracing::warn;

use super::answers::Topic;
use super::{Command, Node, PATIENCE};
use crate::store::Recorded;

/// How often it is tried to read what leaders before have kept.
const TRIES: u32 = 20;

/// Histories that were sent to the broker and not confirmed yet.
#[derive(Debug, Default)]
pub(super) struct Unremembered(FxHashMap<Sequence, Pending>);

#[derive(Debug)]
struct Pending {
    sent: Instant,
    /// The number of its last attempt, which tells it from the one before.
    attempts: u32,
    body: Bytes,
}

impl Node {
    /// Keeps how the attempts of a task ended. It is not waited for: it counts only once this leader is gone.
    pub(super) async fn remember(&mut self, sequence: Sequence, history: &History) {
        let body = Bytes::from(serde_json::to_vec(history).expect("a history is JSON"));
        let pending = Pending { sent: Instant::now(), attempts: history.attempts, body };
        if let Some(reign) = &mut self.reign {
            reign.unremembered.0.insert(sequence, pending);
        }
        self.send_history(sequence).await;
    }

    async fn send_history(&self, sequence: Sequence) {
        let Some(epoch) = self.scheduler.epoch() else { return };
        let Some(pending) = self.reign.as_ref().and_then(|reign| reign.unremembered.0.get(&sequence)) else { return };
        let reply = self.reply_to(Topic::Remember, format_args!("{sequence}.{}", pending.attempts));
        self.publish(self.subjects.history(sequence.0, epoch), Some(reply), None, pending.body.clone()).await;
    }

    pub(super) fn on_remembered(&mut self, about: &str, recorded: Recorded) {
        let Some(reign) = self.reign.as_mut().filter(|_| recorded == Recorded::Stored) else { return };
        let Some((sequence, attempts)) = about.split_once('.') else { return };
        let (Ok(sequence), Ok(attempts)) = (sequence.parse().map(Sequence), attempts.parse::<u32>()) else { return };
        if reign.unremembered.0.get(&sequence).is_some_and(|pending| pending.attempts == attempts) {
            reign.unremembered.0.remove(&sequence);
        }
    }

    /// Sends again what was not confirmed in time.
    pub(super) async fn remember_again(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        let mut late = Vec::new();
        for (sequence, pending) in &mut reign.unremembered.0 {
            if pending.sent.elapsed() >= PATIENCE {
                pending.sent = Instant::now();
                late.push(*sequence);
            }
        }
        for sequence in late {
            self.send_history(sequence).await;
        }
    }

    /// The task is settled.
    pub(super) async fn forget_history(&mut self, sequence: Sequence) {
        if let Some(reign) = &mut self.reign {
            reign.unremembered.0.remove(&sequence);
        }
        let (subject, body) = self.store.history_removal(sequence.0);
        let reply = self.reply_to(Topic::Forget, sequence);
        self.publish(subject, Some(reply), None, body).await;
    }

    /// Reads what leaders before have kept.
    pub(super) fn learn_histories(&self) {
        let Some(epoch) = self.scheduler.epoch() else { return };
        let (store, commands) = (self.store.clone(), self.own_commands.clone());
        tokio::spawn(async move {
            for _ in 0..TRIES {
                let kept = match store.histories().await {
                    Ok(kept) => kept,
                    Err(error) => {
                        warn!(error = %crate::chain(&error), "how attempts ended cannot be read, trying again");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        continue;
                    }
                };
                let read =
                    |(sequence, body): (u64, Bytes)| Some((Sequence(sequence), serde_json::from_slice(&body).ok()?));
                let histories = kept.into_iter().filter_map(read).collect();
                let _ = commands.send(Command::HistoriesKnown(epoch, histories)).await;
                return;
            }
        });
    }
}
