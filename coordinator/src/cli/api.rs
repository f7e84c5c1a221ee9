//! Asks the mesh's control service: one request, one answer, and errors that say what to do.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::api::Refusal;
use shared::connect::{ConnectError, Patience, Settings};
use shared::{Client, MeshName};

use super::output;
use crate::api::refusal_in;

/// How long a person at a prompt waits for a server that does not answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the coordinator may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many things of a list are asked for at a time: so many fit into a message.
const PAGE: usize = 250;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens for it.
    #[error("no coordinator answers on mesh `{mesh}` at {url}: start one with `coordinator serve`")]
    NoCoordinator {
        /// The mesh.
        mesh: MeshName,
        /// The server, without any password.
        url: String,
    },
    /// The stream of events is not there.
    #[error("mesh `{mesh}` at {url} has no stream of events: start a coordinator on it with `coordinator serve`")]
    NoEvents {
        /// The mesh.
        mesh: MeshName,
        /// The server, without any password.
        url: String,
    },
    /// Somebody listens, and is silent.
    #[error("the coordinator of mesh `{mesh}` did not answer `{operation}` within {}", output::span(ANSWER_TIMEOUT))]
    Silent {
        /// The mesh.
        mesh: MeshName,
        /// What was asked.
        operation: String,
    },
    /// The request did not get out.
    #[error("failed to ask for `{operation}`")]
    Request {
        /// What was asked.
        operation: String,
        /// What went wrong.
        source: async_nats::client::RequestError,
    },
    /// The coordinator says no.
    #[error("{}", output::escape(&.0.error))]
    Refused(Refusal),
    /// The answer is not what it should be.
    #[error("the answer to `{operation}` cannot be read: is the coordinator of another version?")]
    Unreadable {
        /// What was asked.
        operation: String,
        /// What went wrong.
        source: serde_json::Error,
    },
}

impl Error {
    /// The exit code that belongs to it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::NoCoordinator { .. } | Error::NoEvents { .. } | Error::Request { .. } => output::UNREACHABLE,
            Error::Silent { .. } => output::TIMED_OUT,
            Error::Refused(refusal) if refusal.code == 503 => output::UNREACHABLE,
            Error::Refused(_) | Error::Unreadable { .. } => output::FAILED,
        }
    }
}

/// Connects to the mesh as a command does.
pub async fn connect(connection: &Settings) -> Result<Client, ConnectError> {
    let nats = connection.connect("coordinator command", Patience::Limited(CONNECT_PATIENCE)).await?;
    Ok(Client::new(nats, connection.mesh.clone()))
}

/// The control service of one mesh.
pub struct Api {
    client: Client,
    url: String,
}

impl Api {
    /// Connects to it.
    pub async fn connect(connection: &Settings) -> Result<Self, ConnectError> {
        Ok(Self { client: connect(connection).await?, url: connection.url_without_secrets() })
    }

    /// The same over a connection that there is already; `url` is what errors call the server.
    pub fn over(client: Client, url: String) -> Self {
        Self { client, url }
    }

    /// Asks for an operation and reads its answer, as JSON that keeps what this version does not know.
    pub async fn ask(&self, noun: &str, verb: &str, request: &impl Serialize) -> Result<serde_json::Value, Error> {
        let operation = format!("{noun}.{verb}");
        let unreadable = |source| Error::Unreadable { operation: operation.clone(), source };
        let payload = serde_json::to_vec(request).map_err(unreadable)?;
        let mut headers = HeaderMap::new();
        headers.insert(shared::header::CONTENT_TYPE, "application/json");
        let request = Request::new().headers(headers).payload(payload.into()).timeout(Some(ANSWER_TIMEOUT));
        let subject = self.client.subjects().api(noun, verb);
        let answer = self.client.nats().send_request(subject, request).await;
        let message = answer.map_err(|source| self.unanswered(&operation, source))?;
        match refusal_in(&message) {
            Some(refusal) => Err(Error::Refused(refusal)),
            None => serde_json::from_slice(&message.payload).map_err(unreadable),
        }
    }

    /// Asks for a list page by page, until there are so many things or no more; the answer is one page with all of them.
    pub async fn list(&self, noun: &str, request: &impl Serialize, most: usize) -> Result<serde_json::Value, Error> {
        let unreadable = |source| Error::Unreadable { operation: format!("{noun}.list"), source };
        let mut request = serde_json::to_value(request).map_err(unreadable)?;
        let mut items = Vec::new();
        loop {
            request["limit"] = most.saturating_sub(items.len()).clamp(1, PAGE).into();
            let mut page = self.ask(noun, "list", &request).await?;
            items.extend(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
            match page["next"].take() {
                serde_json::Value::Null => return Ok(serde_json::json!({ "items": items })),
                next if items.len() >= most => return Ok(serde_json::json!({ "items": items, "next": next })),
                next => request["cursor"] = next,
            }
        }
    }

    fn unanswered(&self, operation: &str, source: async_nats::client::RequestError) -> Error {
        let mesh = self.client.subjects().mesh().clone();
        let operation = operation.to_owned();
        match source.kind() {
            RequestErrorKind::NoResponders => Error::NoCoordinator { mesh, url: self.url.clone() },
            RequestErrorKind::TimedOut => Error::Silent { mesh, operation },
            _ => Error::Request { operation, source },
        }
    }
}

/// Reads an answer as the type that the tables are made from.
pub fn read<T: DeserializeOwned>(operation: &str, answer: serde_json::Value) -> Result<T, Error> {
    serde_json::from_value(answer).map_err(|source| Error::Unreadable { operation: operation.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mesh_without_a_leader_is_unreachable() {
        let refused = |code| Error::Refused(Refusal { error: String::new(), code }).exit_code();

        assert_eq!(refused(503), output::UNREACHABLE);
        assert_eq!(refused(404), output::FAILED);
    }
}
