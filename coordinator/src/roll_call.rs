//! Which coordinators there are: each answers when it is asked, and says whether it leads.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use shared::Epoch;
use shared::subject::Subjects;

use crate::node::Handle;

/// How long the coordinators may take to answer.
const ANSWERS: Duration = Duration::from_millis(400);

/// What a coordinator says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Coordinator {
    /// Its name.
    pub(crate) instance: String,
    /// Whether it leads.
    pub(crate) leading: bool,
    /// The epoch it leads in; zero if it does not.
    pub(crate) epoch: Epoch,
    /// Version of its program.
    pub(crate) version: String,
    /// Where its API listens, as it sees that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<SocketAddr>,
}

/// Answers for this coordinator, for as long as there is a connection.
pub(crate) async fn answer(nats: async_nats::Client, subjects: Subjects, handle: Handle, http: Option<SocketAddr>) {
    let Ok(mut calls) = nats.subscribe(subjects.roll_call()).await else { return };
    while let Some(call) = calls.next().await {
        let Some(reply) = call.reply else { continue };
        let status = handle.status();
        let present = Coordinator {
            instance: status.instance,
            leading: status.leading,
            epoch: status.epoch,
            version: status.version,
            http,
        };
        if let Ok(body) = serde_json::to_vec(&present) {
            let _ = nats.publish(reply, body.into()).await;
        }
    }
}

/// Asks who is there; the leader comes first, and then they stand in the order of their names.
pub(crate) async fn call(nats: &async_nats::Client, subjects: &Subjects) -> Vec<Coordinator> {
    let inbox = nats.new_inbox();
    let Ok(mut answers) = nats.subscribe(inbox.clone()).await else { return Vec::new() };
    if nats.publish_with_reply(subjects.roll_call(), inbox, Bytes::new()).await.is_err() {
        return Vec::new();
    }
    let mut present: Vec<Coordinator> = Vec::new();
    let until = tokio::time::Instant::now() + ANSWERS;
    while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
        present.extend(serde_json::from_slice::<Coordinator>(&answer.payload).ok());
    }
    present.sort_by(|a, b| b.leading.cmp(&a.leading).then_with(|| a.instance.cmp(&b.instance)));
    present
}
