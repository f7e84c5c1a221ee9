//! Operations about dead letters.

use serde_json::{Map, Value};
use shared::api::{DeadFilter, DeadLetterContent, DeadPage, DeadSelection, Discarded, Refusal, Replays};

use super::services::Services;

pub(super) async fn list(services: Services, asked: DeadFilter) -> Result<DeadPage, Refusal> {
    services.dead.list(&asked).await
}

pub(super) async fn get(services: Services, asked: DeadSelection) -> Result<DeadLetterContent, Refusal> {
    services.dead.get(&asked).await
}

pub(super) async fn replay(services: Services, asked: DeadSelection) -> Result<Replays, Refusal> {
    services.dead.replay(&asked).await
}

pub(super) async fn discard(services: Services, asked: DeadSelection) -> Result<Discarded, Refusal> {
    services.dead.discard(&asked).await
}

/// What a path names is a number, or the id of a task.
pub(super) fn named(asked: &mut Map<String, Value>) -> Result<(), Refusal> {
    let Some(Value::String(id)) = asked.get("id").cloned() else { return Ok(()) };
    let named = crate::dead::named(&id).map_err(super::bad_request)?;
    if let (None, Some(task)) = (named.id, named.task) {
        asked.remove("id");
        asked.insert("task".to_owned(), task.as_str().into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_dead_letter_by_its_number_or_by_its_task() {
        let place = |id: &str| {
            let mut asked = Map::from_iter([("id".to_owned(), Value::from(id))]);
            named(&mut asked).map(|()| Value::Object(asked).to_string()).map_err(|refusal| refusal.code)
        };

        assert_eq!(place("17"), Ok(r#"{"id":"17"}"#.to_owned()));
        assert_eq!(place("order-1"), Ok(r#"{"task":"order-1"}"#.to_owned()));
        assert_eq!(place("a b"), Err(400));
    }
}
