//! Operations about agents, the mesh as a whole, and resources.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use shared::AgentId;
use shared::api::ask::{AgentRef, Nothing};
use shared::api::list::{Listing, Page};
use shared::api::{Agent, AgentState, Mesh, Recommendation, Refusal, ResourceUse};

use super::services::Services;
use crate::settings::{self, Scope};

/// How long it may take until what is kept of an agent or a kind is known to the leader's loop, and how often it is looked.
pub(super) const KNOWN_WITHIN: Duration = Duration::from_secs(1);
pub(super) const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn status(services: Services, _: Nothing) -> Result<Mesh, Refusal> {
    let (mesh, instance) = (services.subjects().mesh().to_string(), services.instance.clone());
    let status = services.handle.look(move |scheduler, _| scheduler.status(&mesh, &instance)).await?;
    Ok(Mesh { refused: services.counters.violations.load(Ordering::Relaxed), ..status })
}

pub(super) async fn list(services: Services, asked: Listing) -> Result<Page<Agent>, Refusal> {
    let agents = services.handle.look(scheduler::Scheduler::agents).await?;
    Ok(Page::of(agents, &asked, |agent| agent.id.to_string()))
}

pub(super) async fn get(services: Services, asked: AgentRef) -> Result<Agent, Refusal> {
    services.handle.agent(asked.id).await
}

pub(super) async fn drain(services: Services, asked: AgentRef) -> Result<Agent, Refusal> {
    services.handle.agent(asked.id.clone()).await?;
    services.handle.drain(asked.id).await
}

pub(super) async fn quarantine(services: Services, asked: AgentRef) -> Result<Agent, Refusal> {
    say(services, asked.id, true).await
}

pub(super) async fn resume(services: Services, asked: AgentRef) -> Result<Agent, Refusal> {
    say(services, asked.id, false).await
}

/// Keeps whether an agent is to get no work, and waits until that is so.
async fn say(services: Services, id: AgentId, quarantined: bool) -> Result<Agent, Refusal> {
    services.handle.agent(id.clone()).await?;
    let patch = json!({ "quarantined": quarantined.then_some(true) });
    settings::change(&services.store, Scope::Agent, id.as_str(), patch).await?;
    let started = tokio::time::Instant::now();
    while started.elapsed() < KNOWN_WITHIN {
        let wanted = id.clone();
        let look = move |scheduler: &scheduler::Scheduler, now| {
            let is_degraded = scheduler.agent(&wanted, now).is_some_and(|agent| agent.state == AgentState::Degraded);
            (scheduler.is_set_aside(&wanted), is_degraded)
        };
        let (is_set_aside, is_degraded) = services.handle.look(look).await?;
        if is_set_aside == quarantined && (quarantined || !is_degraded) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    services.handle.agent(id).await
}

pub(super) async fn resources(services: Services, _: Nothing) -> Result<ResourceUse, Refusal> {
    services.handle.look(scheduler::Scheduler::resource_use).await
}

pub(super) async fn recommendations(services: Services, asked: Listing) -> Result<Page<Recommendation>, Refusal> {
    let all = services.handle.look(scheduler::Scheduler::recommendations).await?;
    Ok(Page::of(all, &asked, key))
}

/// Kinds before agents.
fn key(about: &Recommendation) -> String {
    let named = |name: &str| format!("{name}/{}", about.resource);
    let kind = about.kind.as_ref().map(|kind| format!("kind/{}", named(kind.as_str())));
    kind.or_else(|| about.agent.as_ref().map(|agent| format!("of-agent/{}", named(agent.as_str())))).unwrap_or_default()
}
