//! What is kept of webhooks and intakes, and how it is changed.
//!
//! The bucket `HIVE_HOOKS` has a key for each webhook (`out.<name>`), for how it is doing (`state.<name>`), and for each
//! intake (`in.<name>`). A change is made by compare-and-set, so that of two at the same time none gets lost.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use futures_util::TryStreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::HookName;
use shared::api::Refusal;
use shared::api::filter::EventFilter;
use shared::subject::Subjects;

use super::record::Record;
use super::secret::Secrets;

/// How often a change is tried that others come before, and how soon again.
const TRIES: usize = 40;
const NEXT_TRY: Duration = Duration::from_millis(50);

/// A webhook, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) filter: EventFilter,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) secrets: Secrets,
    pub(crate) enabled: bool,
    /// Why it is not enabled.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// Which of its consumers is the one that counts: it gets another one when it is to begin elsewhere in the stream.
    pub(crate) generation: u64,
    /// The sequence at which that one begins.
    pub(crate) from: u64,
}

impl Definition {
    /// Lets it begin at this sequence.
    pub(crate) fn begin_at(&mut self, from: u64) {
        self.from = from;
        self.generation = next_generation(self.generation);
    }

    /// The subjects of the events that it may want; what else its filter says is looked at in each.
    pub(crate) fn subjects(&self, subjects: &Subjects) -> Vec<String> {
        let or_all = |words: &[String]| if words.is_empty() { vec!["*".to_owned()] } else { words.to_vec() };
        let (mut topics, mut whats) = (or_all(&self.filter.topic), or_all(&self.filter.what));
        // The broker refuses the same filter twice.
        for words in [&mut topics, &mut whats] {
            words.sort_unstable();
            words.dedup();
        }
        topics.iter().flat_map(|topic| whats.iter().map(move |what| subjects.event(topic, what))).collect()
    }
}

/// A number that no generation of a webhook of this name has had, even if it was removed and made again.
pub(crate) fn next_generation(before: u64) -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX).max(before + 1)
}

/// The key of a webhook.
pub(crate) fn hook_key(hook: &HookName) -> String {
    format!("out.{hook}")
}

/// The key of how it is doing.
pub(crate) fn state_key(hook: &HookName) -> String {
    format!("state.{hook}")
}

/// The key of an intake.
pub(crate) fn intake_key(intake: &HookName) -> String {
    format!("in.{intake}")
}

/// Every key of a webhook, for those who watch.
pub(crate) const HOOK_KEYS: &str = "out.*";

/// The webhook of a key.
pub(crate) fn hook_of(key: &str) -> Option<HookName> {
    HookName::new(key.strip_prefix("out.")?).ok()
}

/// What is kept under a key, if it is there and can be read.
pub(crate) async fn read<T: DeserializeOwned>(bucket: &kv::Store, key: &str) -> Result<Option<T>, Refusal> {
    Ok(read_kept(bucket, key).await?.1)
}

/// Changes what is kept under a key; what is kept then is returned.
pub(crate) async fn change<T: DeserializeOwned + Serialize>(
    bucket: &kv::Store,
    key: String,
    change: impl Fn(Option<T>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    for _ in 0..TRIES {
        let (revision, kept) = read_kept(bucket, &key).await?;
        let changed = change(kept)?;
        match bucket.update(&key, write(&changed)?.into(), revision).await {
            Ok(_) => return Ok(changed),
            // Somebody else has changed it meanwhile, or a copy was read that lags behind.
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => tokio::time::sleep(NEXT_TRY).await,
            Err(error) => return Err(refused("keep", &error)),
        }
    }
    Err(Refusal { error: "others change it all the time: try again".to_owned(), code: 409 })
}

/// Removes a key, and what it was of; whether it was there.
pub(crate) async fn remove(bucket: &kv::Store, key: &str) -> Result<bool, Refusal> {
    let entry = bucket.entry(key).await.map_err(|error| refused("read", &error))?;
    if entry.is_none_or(|entry| entry.operation != Operation::Put) {
        return Ok(false);
    }
    bucket.purge(key).await.map_err(|error| refused("remove", &error))?;
    Ok(true)
}

/// The names under a prefix, in their order.
pub(crate) async fn names(bucket: &kv::Store, prefix: &str) -> Result<Vec<HookName>, Refusal> {
    let keys = bucket.keys().await.map_err(|error| refused("list", &error))?;
    let keys: Vec<String> = keys.try_collect().await.map_err(|error| refused("list", &error))?;
    let mut names: Vec<_> = keys.iter().filter_map(|key| HookName::new(key.strip_prefix(prefix)?).ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Keeps how a webhook is doing. Only the leader does, so what was there before is of no matter.
pub(crate) async fn keep_record(bucket: &kv::Store, hook: &HookName, record: &Record) -> Result<(), Refusal> {
    let kept = bucket.put(state_key(hook), write(record)?.into()).await;
    kept.map(drop).map_err(|error| refused("keep", &error))
}

async fn read_kept<T: DeserializeOwned>(bucket: &kv::Store, key: &str) -> Result<(u64, Option<T>), Refusal> {
    let Some(entry) = bucket.entry(key).await.map_err(|error| refused("read", &error))? else { return Ok((0, None)) };
    if entry.operation != Operation::Put {
        return Ok((entry.revision, None));
    }
    let unreadable = |error| Refusal {
        error: format!("what is kept under `{key}` in bucket `{}` cannot be read: {error}", entry.bucket),
        code: 500,
    };
    Ok((entry.revision, Some(serde_json::from_slice(&entry.value).map_err(unreadable)?)))
}

fn write(kept: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(kept).map_err(|error| Refusal { error: error.to_string(), code: 500 })
}

fn refused(what: &str, error: &dyn std::error::Error) -> Refusal {
    Refusal { error: format!("failed to {what} webhooks: {}", crate::chain(error)), code: 503 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(filter: &str) -> Definition {
        Definition {
            url: "https://example.org/".into(),
            filter: serde_json::from_str(filter).unwrap(),
            headers: BTreeMap::new(),
            secrets: Secrets::new("whsec_".into()),
            enabled: true,
            reason: None,
            generation: 1,
            from: 1,
        }
    }

    #[test]
    fn the_broker_leaves_out_what_it_can_tell_by_the_subject() {
        let subjects = |filter| definition(filter).subjects(&Subjects::default());

        assert_eq!(subjects("{}"), ["hive.event.*.*"]);
        assert_eq!(subjects(r#"{"topic": "task", "kind": "resize"}"#), ["hive.event.task.*"]);
        assert_eq!(
            subjects(r#"{"topic": "task,agent,task", "what": "dead,lost"}"#),
            ["hive.event.agent.dead", "hive.event.agent.lost", "hive.event.task.dead", "hive.event.task.lost"]
        );
    }

    #[test]
    fn a_webhook_that_begins_elsewhere_gets_another_consumer() {
        let mut definition = definition("{}");
        definition.begin_at(7);
        let first = definition.generation;

        definition.begin_at(3);

        assert!(definition.generation > first && first > 1);
        assert_eq!(definition.from, 3);
    }

    #[test]
    fn a_key_says_which_webhook_it_is_of() {
        let hook = HookName::new("pager").unwrap();

        assert_eq!(hook_of(&hook_key(&hook)), Some(hook.clone()));
        assert_eq!(hook_of(&state_key(&hook)), None);
        assert_eq!(hook_of(&intake_key(&hook)), None);
    }
}
