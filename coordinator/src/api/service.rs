//! The operations as a NATS micro service on `<mesh>.api.<noun>.<verb>`, which the leader answers: `nats micro info`
//! shows what each takes and gives.

use std::collections::HashMap;

use async_nats::service::{Service, ServiceExt as _, endpoint::Endpoint, error::Error as ServiceError};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use shared::api::Refusal;

use super::operation::Operation;
use super::schema::Schemas;
use super::services::Services;
use super::table::table;

/// Starts the service; it ends when what is returned is dropped.
pub(crate) async fn start(services: Services) -> anyhow::Result<Service> {
    let failed = |error: async_nats::Error| anyhow::anyhow!(error).context("failed to start the control service");
    let (nats, subjects) = (services.client.nats(), services.subjects());
    let service = nats
        .service_builder()
        .description("Hivemesh: tasks, agents, queues, tenants, resources, dead letters, events")
        .start(format!("{}-api", subjects.mesh()), env!("CARGO_PKG_VERSION"))
        .await
        .map_err(failed)?;
    let mut described = describe(nats.max_payload());
    for operation in table() {
        let endpoint = service
            .endpoint_builder()
            .name(format!("{}-{}", operation.noun, operation.verb))
            .metadata(described.remove(&operation.name()).unwrap_or_default())
            .add(subjects.api(operation.noun, operation.verb))
            .await
            .map_err(failed)?;
        tokio::spawn(answer_all(services.clone(), operation, endpoint));
    }
    Ok(service)
}

/// What is said of each operation. All of it is one answer, so schemas are left out where the server takes no message as
/// large as that.
fn describe(max_payload: usize) -> HashMap<String, HashMap<String, String>> {
    let with_schemas =
        |are_told| table().iter().map(move |operation| (operation.name(), metadata(operation, are_told)));
    let described: HashMap<_, _> = with_schemas(true).collect();
    let size: usize = described.values().flatten().map(|(name, value)| name.len() + value.len() * 5 / 4).sum();
    if max_payload == 0 || size < max_payload / 2 { described } else { with_schemas(false).collect() }
}

fn metadata(operation: &Operation, with_schemas: bool) -> HashMap<String, String> {
    let places = operation.routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect::<Vec<_>>();
    let mut said = vec![
        ("summary", operation.summary.to_owned()),
        ("role", operation.role.to_string()),
        ("rest", places.join(", ")),
    ];
    if with_schemas {
        said.push(("request_schema", Schemas::request(operation).to_string()));
        said.push(("response_schema", Schemas::answer(operation).to_string()));
    }
    said.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn answer_all(services: Services, operation: &'static Operation, mut endpoint: Endpoint) {
    while let Some(request) = endpoint.next().await {
        let services = services.clone();
        // One slow look into a stream does not hold up the next request.
        tokio::spawn(async move {
            let limit = services.client.nats().max_payload();
            let answer = answer(services, operation, &request.message.payload).await;
            let answer = answer.and_then(|answer| fits(answer, limit)).map_err(|refusal| ServiceError {
                status: shared::header::clean(&refusal.error, shared::header::MAX_ERROR_BYTES),
                code: usize::from(refusal.code),
            });
            let _ = request.respond(answer).await;
        });
    }
}

async fn answer(services: Services, operation: &Operation, body: &[u8]) -> Result<Bytes, Refusal> {
    let asked = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .map_err(|error| super::bad_request(format!("the request is not JSON: {error}")))?,
    };
    operation.run(services, asked).await
}

/// What the server does not take would never come.
fn fits(answer: Bytes, limit: usize) -> Result<Bytes, Refusal> {
    if limit == 0 || answer.len() <= limit {
        return Ok(answer);
    }
    let error = format!(
        "the answer is {} bytes, but the NATS server takes {limit} in a message: ask for less with `limit`, or over HTTP",
        answer.len()
    );
    Err(Refusal { error, code: 413 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_said_of_the_operations_fits_into_a_message_of_the_usual_size() {
        let described = describe(1 << 20);

        assert!(described["task.get"].contains_key("request_schema"));
        assert!(!describe(64 << 10)["task.get"].contains_key("request_schema"));
        for (name, said) in &described {
            assert!(!said["summary"].is_empty() && !said["rest"].is_empty(), "{name} is not described");
        }
    }

    #[test]
    fn an_answer_that_would_not_come_is_refused() {
        assert!(fits(Bytes::from_static(b"{}"), 2).is_ok());
        assert_eq!(fits(Bytes::from_static(b"{} "), 2).unwrap_err().code, 413);
    }
}
