//! Publishes what there is to tell of attempts. It sleeps while there is nothing.

use std::sync::Arc;
use std::time::Instant;

use async_nats::connection::State;
use async_nats::{Client, Subject};
use tokio::task::AbortHandle;
use tracing::warn;

use super::{Logs, PIECE_BYTES, TICK};

/// Tells of attempts until it is dropped.
#[derive(Debug)]
pub(crate) struct Teller(AbortHandle);

impl Teller {
    /// Begins, on the given subject. A message has no more than so many bytes.
    pub(crate) fn start(logs: Arc<Logs>, client: Client, subject: Subject, limit: usize) -> Self {
        Self(tokio::spawn(tell(logs, client, subject, limit.min(PIECE_BYTES))).abort_handle())
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn tell(logs: Arc<Logs>, client: Client, subject: Subject, limit: usize) {
    loop {
        logs.rung().await;
        loop {
            let (all_said, is_more) = logs.say(Instant::now(), limit);
            if all_said.is_empty() && !is_more {
                break;
            }
            // What cannot be said now is asked for again by those who follow.
            if client.connection_state() == State::Connected {
                for (headers, body) in all_said {
                    if let Err(error) = client.publish_with_headers(subject.clone(), headers, body).await {
                        warn!(%subject, %error, "a message could not be sent");
                    }
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }
}
