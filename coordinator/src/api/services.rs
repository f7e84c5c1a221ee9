//! What operations work with.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use shared::api::Refusal;
use shared::connect::Counters;
use shared::subject::Subjects;
use shared::{Client, TaskId};

use super::operation::{AnsweredBy, Operation};
use crate::dead::DeadLetters;
use crate::hooks::Hooks;
use crate::node::Handle;
use crate::store::Store;

/// What operations work with: the coordinator's loop, the streams, and a client of the mesh.
#[derive(Clone, Debug)]
pub struct Services {
    /// The coordinator's loop.
    pub handle: Handle,
    /// The streams.
    pub store: Store,
    /// Submits tasks.
    pub client: Client,
    /// Dead letters.
    pub dead: DeadLetters,
    /// This process among the coordinators.
    pub instance: Arc<str>,
    /// What happens to the connection.
    pub counters: Arc<Counters>,
    /// Webhooks, out and in.
    pub hooks: Hooks,
}

impl Services {
    /// What a coordinator has.
    pub fn new(
        handle: Handle,
        store: Store,
        client: Client,
        instance: &str,
        counters: Arc<Counters>,
        hooks: Hooks,
    ) -> Self {
        let dead = DeadLetters::new(store.clone(), client.clone());
        Self { handle, store, client, dead, instance: instance.into(), counters, hooks }
    }

    /// The subjects of the mesh.
    pub(crate) fn subjects(&self) -> &Subjects {
        self.client.subjects()
    }

    /// Does what is asked for, or lets the leader do it.
    pub(crate) async fn call(&self, operation: &Operation, asked: Value) -> Result<Bytes, Refusal> {
        let is_here = self.handle.leads() || operation.answered_by == AnsweredBy::Anyone;
        if is_here {
            return operation.run(self.clone(), asked).await;
        }
        match self.ask_leader(operation, &asked).await {
            Err(refusal) if refusal.code == 503 && operation.answered_by == AnsweredBy::LeaderElseSelf => {
                operation.run(self.clone(), asked).await
            }
            answer => answer,
        }
    }

    /// How far a task is, as the leader knows it.
    pub(crate) async fn task(&self, id: &TaskId) -> Result<shared::api::Task, Refusal> {
        if self.handle.leads() {
            return self.handle.task(&self.store, id.clone()).await;
        }
        let operation = super::operation("task", "get");
        let answer = self.ask_leader(operation, &serde_json::json!({ "id": id })).await?;
        let unreadable = |error| Refusal { error: format!("the leader's answer cannot be read: {error}"), code: 503 };
        serde_json::from_slice(&answer).map_err(unreadable)
    }
}
