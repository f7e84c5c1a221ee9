//! What a coordinator that stands by is asked, it asks the leader: the same operation, over NATS.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, Message, Request};
use bytes::Bytes;
use serde_json::Value;
use shared::api::Refusal;

use super::operation::Operation;
use super::services::Services;

/// How long the leader may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Services {
    /// Asks the leader for an operation.
    pub(super) async fn ask_leader(&self, operation: &Operation, asked: &Value) -> Result<Bytes, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(shared::header::CONTENT_TYPE, "application/json");
        let request = Request::new().headers(headers).payload(asked.to_string().into()).timeout(Some(PATIENCE));
        let subject = self.subjects().api(operation.noun, operation.verb);
        let answer = self.client.nats().send_request(subject, request).await.map_err(|error| unanswered(&error))?;
        match refusal_in(&answer) {
            Some(refusal) => Err(refusal),
            None => Ok(answer.payload),
        }
    }
}

fn unanswered(error: &async_nats::client::RequestError) -> Refusal {
    let error = match error.kind() {
        RequestErrorKind::NoResponders => "no coordinator leads now: ask again in a moment".to_owned(),
        RequestErrorKind::TimedOut => "the leader did not answer in time: ask again".to_owned(),
        _ => format!("the leader cannot be asked: {}", crate::chain(error)),
    };
    Refusal { error, code: 503 }
}

/// The error in an answer of a NATS micro service, if it is one.
pub(crate) fn refusal_in(message: &Message) -> Option<Refusal> {
    let get = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
    let code = get("Nats-Service-Error-Code")?;
    let said = serde_json::from_slice::<Refusal>(&message.payload).ok();
    let error = said.map(|refusal| refusal.error).or_else(|| get("Nats-Service-Error")).unwrap_or_default();
    Some(Refusal { error, code: code.trim().parse().unwrap_or(500) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&str, &str)], payload: &'static str) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "a".into(),
            reply: None,
            payload: payload.into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_refusal_is_read_from_the_headers_of_a_micro_service() {
        let headers = [("Nats-Service-Error-Code", "404"), ("Nats-Service-Error", "no such task")];

        assert_eq!(refusal_in(&answer(&headers, "")), Some(Refusal { error: "no such task".into(), code: 404 }));
        let body = r#"{"error": "no task `x` is known", "code": 404}"#;
        assert_eq!(refusal_in(&answer(&headers, body)).unwrap().error, "no task `x` is known");
        assert_eq!(refusal_in(&answer(&[], "{}")), None);
    }
}
