//! Operations about queues, the tasks of a kind, and about tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::Kind;
use shared::api::ask::{Purge, Purged, QueueChange, QueueRef, TenantChange};
use shared::api::list::{Listing, Page};
use shared::api::{Queue, QueueSettings, Refusal, Tenant};
use shared::subject::TaskSubject;

use super::agents::{KNOWN_WITHIN, LOOK};
use super::services::Services;
use crate::node::unavailable;
use crate::settings::{self, Scope};

/// How long one request goes on purging: whoever asks waits 5 s for the answer.
const PURGE_TIME: Duration = Duration::from_secs(2);

/// Tasks that may be at hand while others are read to be purged.
const AT_HAND: usize = 4096;

/// What the scheduler knows of each kind, and what the stream holds of it, known or not.
pub(super) async fn list(services: Services, asked: Listing) -> Result<Page<Queue>, Refusal> {
    let known = services.handle.look(|scheduler, _| scheduler.queues()).await?;
    let mut queues: BTreeMap<Kind, Queue> = known.into_iter().map(|queue| (queue.kind.clone(), queue)).collect();
    let subjects = services.subjects();
    let counts = services.store.subject_counts(subjects.tasks_stream(), subjects.all_tasks(), usize::MAX).await;
    for (subject, count) in counts.map_err(|error| unavailable(&error))? {
        let Ok(TaskSubject { kind, .. }) = TaskSubject::parse(subjects, &subject) else { continue };
        queues.entry(kind.clone()).or_insert_with(|| unknown(kind)).stored += count as u64;
    }
    Ok(Page::of(queues.into_values().collect(), &asked, |queue| queue.kind.to_string()))
}

/// A kind of which nothing is known but what the stream holds.
fn unknown(kind: Kind) -> Queue {
    Queue { kind, stored: 0, waiting: 0, running: 0, agents: 0, strategy: String::new(), paused: false }
}

pub(super) async fn get(services: Services, asked: QueueRef) -> Result<QueueSettings, Refusal> {
    let view = services.handle.look(move |scheduler, _| scheduler.queue(&asked.id)).await?;
    let settings = serde_json::to_value(view.settings);
    let settings = settings.map_err(|error| Refusal { error: error.to_string(), code: 500 })?;
    Ok(QueueSettings { queue: view.queue, settings })
}

pub(super) async fn set(services: Services, asked: QueueChange) -> Result<Value, Refusal> {
    settings::change(&services.store, Scope::Kind, asked.id.as_str(), asked.settings).await
}

pub(super) async fn pause(services: Services, asked: QueueRef) -> Result<QueueSettings, Refusal> {
    say(services, asked, true).await
}

pub(super) async fn resume(services: Services, asked: QueueRef) -> Result<QueueSettings, Refusal> {
    say(services, asked, false).await
}

/// Keeps whether a kind is paused, and waits until that is so. Where the configuration pauses it, `false` is kept: taken
/// back it would be paused still.
async fn say(services: Services, asked: QueueRef, paused: bool) -> Result<QueueSettings, Refusal> {
    let kind = asked.id.clone();
    let change = |said: Value| settings::change(&services.store, Scope::Kind, kind.as_str(), json!({ "paused": said }));
    change(if paused { true.into() } else { Value::Null }).await?;
    if !paused && !is_known(&services, &kind, paused).await? {
        change(false.into()).await?;
    }
    is_known(&services, &kind, paused).await?;
    get(services, asked).await
}

/// Waits until the leader's loop knows whether a kind is paused; whether it does in time.
async fn is_known(services: &Services, kind: &Kind, paused: bool) -> Result<bool, Refusal> {
    let started = Instant::now();
    while started.elapsed() < KNOWN_WITHIN {
        let wanted = kind.clone();
        if services.handle.look(move |scheduler, _| scheduler.is_paused(&wanted)).await? == paused {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

/// Ends first what the coordinator has at hand, and then what it reads from the stream, as far as one request goes.
pub(super) async fn purge(services: Services, asked: Purge) -> Result<Purged, Refusal> {
    let Purge { id: kind, after, until } = asked;
    if services.handle.look(|scheduler, _| scheduler.is_adopting()).await? {
        let error = "the coordinator has just begun to lead, and finds out first what runs: ask again in a moment";
        return Err(Refusal { error: error.to_owned(), code: 503 });
    }
    let until = match until {
        Some(until) => until,
        None => services.store.task_count().await.map_err(|error| unavailable(&error))?.1,
    };
    let (started, at_hand) = (Instant::now(), services.handle.purge(kind.clone()).await?);
    // They may be in the stream still when it is read.
    let at_hand: BTreeSet<u64> = at_hand.into_iter().map(|sequence| sequence.0).collect();
    let mut purged = at_hand.len() as u64;
    let mut after = after.unwrap_or(0);
    while started.elapsed() < PURGE_TIME {
        let (tasks, horizon) =
            services.store.queued_after(Some(&kind), after).await.map_err(|error| unavailable(&error))?;
        for task in tasks.into_iter().filter(|task| task.sequence <= until && !at_hand.contains(&task.sequence)) {
            purged += u64::from(services.handle.purge_stored(task).await?);
        }
        match horizon {
            Some(horizon) if horizon < until => after = horizon,
            _ => return Ok(Purged { purged, next: None }),
        }
        until_settled(&services).await?;
    }
    Ok(Purged { purged, next: Some(Purge { id: kind, after: Some(after), until: Some(until) }) })
}

/// What was read is in memory until its end is recorded: no more is read before there is room for it.
async fn until_settled(services: &Services) -> Result<(), Refusal> {
    let started = Instant::now();
    while started.elapsed() < KNOWN_WITHIN
        && services.handle.look(|scheduler, _| scheduler.task_count()).await? > AT_HAND
    {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

pub(super) async fn tenants(services: Services, asked: Listing) -> Result<Page<Tenant>, Refusal> {
    let tenants = services.handle.look(|scheduler, _| scheduler.tenants()).await?;
    Ok(Page::of(tenants, &asked, |tenant| tenant.name.clone()))
}

pub(super) async fn set_tenant(services: Services, asked: TenantChange) -> Result<Value, Refusal> {
    settings::change(&services.store, Scope::Tenant, &asked.id, asked.settings).await
}
