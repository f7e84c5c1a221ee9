//! What can be asked of webhooks: `hook.list`, `get`, `set`, `delete`, `test`, `redeliver`, `enable`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderName, HeaderValue};
use shared::HookName;
use shared::api::filter::EventFilter;
use shared::api::hooks::{
    Hook, HookAttempt, HookChange, HookDeleted, HookEnable, HookRedelivered, HookRedelivery, HookRef, HookSaved,
    HookState,
};
use shared::api::{Event, List, Refusal};

use super::book::{self, Definition, hook_key, next_generation, state_key};
use super::record::Record;
use super::secret::{self, Secrets};
use super::sender::Letter;
use super::{Hooks, bad, no_such_hook};

/// How long an attempt by hand may take: whoever asks waits 5 s for the answer.
const BY_HAND: Duration = Duration::from_secs(4);

/// The most headers that are sent along.
const MOST_HEADERS: usize = 32;

/// Lists webhooks, without their attempts.
pub(crate) async fn list(hooks: &Hooks) -> Result<List<Hook>, Refusal> {
    let mut items = Vec::new();
    for name in book::names(hooks.bucket().await?, "out.").await? {
        // One that was removed meanwhile is left out.
        if let Some(definition) = book::read(hooks.bucket().await?, &hook_key(&name)).await? {
            items.push(Hook { attempts: Vec::new(), ..show(hooks, name, &definition).await? });
        }
    }
    Ok(List { items })
}

/// Shows one webhook with its last attempts.
pub(crate) async fn get(hooks: &Hooks, asked: HookRef) -> Result<Hook, Refusal> {
    let definition = find(hooks, &asked.id).await?;
    show(hooks, asked.id, &definition).await
}

/// Makes a webhook, which sends what happens from then on, or changes one.
pub(crate) async fn set(hooks: &Hooks, asked: HookChange) -> Result<HookSaved, Refusal> {
    check(hooks, &asked)?;
    let now = SystemTime::now();
    let until = secret::overlap_until(asked.overlap.as_deref(), now)?;
    let from = hooks.store.events_extent().await.map_err(|error| crate::node::unavailable(&error))?.last + 1;
    let made = if asked.secret.is_none() { Some(secret::generate()?) } else { None };
    let brought = asked.secret.as_ref();
    let bucket = hooks.bucket().await?;
    let is_new = AtomicBool::new(false);
    let kept = book::change(bucket, hook_key(&asked.id), |kept: Option<Definition>| {
        is_new.store(kept.is_none(), Ordering::Relaxed);
        let secret = brought.or(made.as_ref()).cloned().unwrap_or_default();
        let mut definition = match kept {
            Some(mut kept) => {
                if asked.rotate || brought.is_some() {
                    kept.secrets.rotate(secret, until);
                }
                kept
            }
            None => new_definition(&asked, secret, from)?,
        };
        if let Some(url) = &asked.url {
            definition.url.clone_from(url);
        }
        if let Some(filter) = &asked.filter {
            definition.filter.clone_from(filter);
        }
        if let Some(headers) = &asked.headers {
            definition.headers.clone_from(headers);
        }
        Ok(definition)
    });
    let kept = kept.await?;
    let is_new = is_new.into_inner();
    if is_new {
        // One of this name that was removed may have left how it was doing.
        book::remove(bucket, &state_key(&asked.id)).await?;
    }
    let secret = made.filter(|_| is_new || asked.rotate);
    Ok(HookSaved { hook: show(hooks, asked.id, &kept).await?, secret })
}

/// Removes a webhook, and what waits for it.
pub(crate) async fn delete(hooks: &Hooks, asked: HookRef) -> Result<HookDeleted, Refusal> {
    let bucket = hooks.bucket().await?;
    if !book::remove(bucket, &hook_key(&asked.id)).await? {
        return Err(no_such_hook(&asked.id));
    }
    book::remove(bucket, &state_key(&asked.id)).await?;
    let removed = hooks.store.remove_hook_consumers(&asked.id, None).await;
    removed.map_err(|error| crate::node::unavailable(&error))?;
    Ok(HookDeleted { deleted: asked.id })
}

/// Sends an event that did not happen, at once, and says what came of it.
pub(crate) async fn test(hooks: &Hooks, asked: HookRef) -> Result<HookAttempt, Refusal> {
    let definition = find(hooks, &asked.id).await?;
    let event = Event {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        topic: "mesh".to_owned(),
        what: "hook-tested".to_owned(),
        epoch: hooks.handle.status().epoch,
        agent: None,
        task: None,
        kind: None,
        attempt: None,
        detail: Some(format!("a test of webhook {}: nothing has happened", asked.id)),
        data: None,
    };
    let body = serde_json::to_vec(&event).map_err(|error| Refusal { error: error.to_string(), code: 500 })?;
    let id = format!("test_{}", uuid::Uuid::new_v4().simple());
    let letter = Letter { id, event: None, body: body.into() };
    Ok(hooks.sender.attempt_within(&definition, &letter, BY_HAND).await.told)
}

/// Sends one event once more, at once, or lets a webhook begin again at a moment.
pub(crate) async fn redeliver(hooks: &Hooks, asked: HookRedelivery) -> Result<HookRedelivered, Refusal> {
    let unavailable = |error| crate::node::unavailable(&error);
    let from = match (asked.event, asked.from, &asked.since) {
        (Some(event), None, None) => {
            let attempt = Some(redeliver_one(hooks, &asked.id, event).await?);
            return Ok(HookRedelivered { attempt, from: None });
        }
        (None, Some(from), None) => from.max(1),
        (None, None, Some(since)) => {
            let since = moment(since, SystemTime::now())?;
            hooks.store.event_since(since).await.map_err(unavailable)?
        }
        _ => return Err(bad("say which events: one of `event`, `from` (a sequence) and `since` (a time, or `2h`)")),
    };
    find(hooks, &asked.id).await?;
    let extent = hooks.store.events_extent().await.map_err(unavailable)?;
    let from = from.clamp(extent.first, extent.last + 1);
    change(hooks, &asked.id, |definition| definition.begin_at(from)).await?;
    Ok(HookRedelivered { attempt: None, from: Some(from) })
}

async fn redeliver_one(hooks: &Hooks, hook: &HookName, event: u64) -> Result<HookAttempt, Refusal> {
    let definition = find(hooks, hook).await?;
    let stored = hooks.store.event(event).await.map_err(|error| crate::node::unavailable(&error))?;
    let Some(stored) = stored else {
        return Err(Refusal {
            error: format!("event {event} is not kept: it is too old, or has not happened"),
            code: 404,
        });
    };
    Ok(hooks.sender.attempt_within(&definition, &stored.into(), BY_HAND).await.told)
}

/// Lets a webhook send, or not. One that is enabled again gets as long as a new one before it is disabled for failures.
pub(crate) async fn enable(hooks: &Hooks, asked: HookEnable) -> Result<Hook, Refusal> {
    let HookEnable { id, enabled, skip } = asked;
    let before = find(hooks, &id).await?;
    let next = hooks.store.events_extent().await.map_err(|error| crate::node::unavailable(&error))?.last + 1;
    if enabled && !before.enabled {
        let bucket = hooks.bucket().await?;
        let mut record: Record = book::read(bucket, &state_key(&id)).await?.unwrap_or_default();
        record.forgive();
        book::keep_record(bucket, &id, &record).await?;
    }
    let changed = change(hooks, &id, |definition| {
        if enabled {
            definition.reason = None;
        } else if definition.enabled {
            definition.reason = Some("it was disabled by hand".to_owned());
        }
        definition.enabled = enabled;
        if skip {
            definition.begin_at(next);
        }
    });
    show(hooks, id.clone(), &changed.await?).await
}

fn new_definition(asked: &HookChange, secret: String, from: u64) -> Result<Definition, Refusal> {
    let url = asked.url.clone().ok_or_else(|| bad("a new webhook needs a `url`: where its events are sent"))?;
    Ok(Definition {
        url,
        filter: EventFilter::default(),
        headers: BTreeMap::new(),
        secrets: Secrets::new(secret),
        enabled: true,
        reason: None,
        generation: next_generation(0),
        from,
    })
}

fn check(hooks: &Hooks, asked: &HookChange) -> Result<(), Refusal> {
    if let Some(url) = &asked.url {
        hooks.sender.check_url(url).map_err(bad)?;
    }
    if let Some(filter) = &asked.filter {
        filter.check().map_err(|error| bad(format!("filter: {error}")))?;
    }
    if let Some(secret) = &asked.secret {
        secret::check(secret)?;
    }
    asked.headers.as_ref().map_or(Ok(()), check_headers)
}

/// Headers that a webhook may send along: not those by which it is signed, or that belong to the connection.
fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if headers.len() > MOST_HEADERS {
        return Err(bad(format!("a webhook sends {MOST_HEADERS} headers of its own at most")));
    }
    for (name, value) in headers {
        let parsed =
            HeaderName::try_from(name).map_err(|_| bad(format!("`{}` is not a header", name.escape_debug())))?;
        let is_ours = parsed.as_str().starts_with("webhook-")
            || ["host", "content-length", "content-type", "transfer-encoding", "connection"].contains(&parsed.as_str());
        if is_ours {
            return Err(bad(format!("the header `{parsed}` is not a webhook's own: leave it out")));
        }
        HeaderValue::try_from(value).map_err(|_| bad(format!("the value of header `{parsed}` cannot be sent")))?;
    }
    Ok(())
}

/// A moment, since 1970: a time, or so long ago.
fn moment(text: &str, now: SystemTime) -> Result<Duration, Refusal> {
    let at = match humantime::parse_duration(text) {
        Ok(ago) => now.checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).ok_or_else(|| {
        bad(format!("since: `{}` is no moment: write `2h`, or `2026-12-01T12:00:00Z`", text.escape_debug()))
    })
}

async fn find(hooks: &Hooks, hook: &HookName) -> Result<Definition, Refusal> {
    book::read(hooks.bucket().await?, &hook_key(hook)).await?.ok_or_else(|| no_such_hook(hook))
}

async fn change(hooks: &Hooks, hook: &HookName, change: impl Fn(&mut Definition)) -> Result<Definition, Refusal> {
    let changed = book::change(hooks.bucket().await?, hook_key(hook), |kept: Option<Definition>| {
        let mut definition = kept.ok_or_else(|| no_such_hook(hook))?;
        change(&mut definition);
        Ok(definition)
    });
    changed.await
}

/// A webhook as it is shown: without its secrets and the values of its headers.
async fn show(hooks: &Hooks, id: HookName, definition: &Definition) -> Result<Hook, Refusal> {
    let record: Record = book::read(hooks.bucket().await?, &state_key(&id)).await?.unwrap_or_default();
    let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    let state = match (definition.enabled, record.failures) {
        (false, _) => HookState::Disabled,
        (true, 0) => HookState::Healthy,
        (true, _) => HookState::Failing,
    };
    Ok(Hook {
        url: definition.url.clone(),
        filter: definition.filter.clone(),
        headers: definition.headers.keys().cloned().collect(),
        state,
        reason: definition.reason.clone(),
        failing_since: record.failing_since.map(time),
        failures: record.failures,
        delivered: record.delivered,
        pending: hooks.store.hook_pending(&id, definition.generation).await,
        old_secret_until: definition.secrets.old_until(SystemTime::now()).map(time),
        attempts: record.attempts.into(),
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);

        assert_eq!(moment("1h", now), Ok(Duration::from_secs(6400)));
        assert_eq!(moment("1970-01-01T00:01:00Z", now), Ok(Duration::from_secs(60)));
        assert!(moment("yesterday", now).unwrap_err().error.contains("write `2h`"));
        assert!(moment("1000d", now).is_err());
    }

    #[test]
    fn a_webhook_may_not_send_headers_that_are_not_its_own() {
        let check = |name: &str, value: &str| check_headers(&BTreeMap::from([(name.to_owned(), value.to_owned())]));

        assert!(check("Authorization", "Bearer x").is_ok());
        for (name, value) in
            [("Webhook-Id", "x"), ("Host", "x"), ("Content-Length", "1"), ("a b", "x"), ("A", "x\r\ny")]
        {
            assert!(check(name, value).is_err(), "{name}: {value}");
        }
    }
}
