//! What can be asked of alerts: the operations of the control service.

use shared::api::alerts::{Acknowledge, Alert, AlertFilter, NewSilence, Rule, Silence};
use shared::api::{ById, List, Refusal};

use super::quiet::no_alert;
use crate::node::Handle;

/// Lists what fires or may do so soon, the gravest first.
pub async fn list(handle: &Handle, asked: AlertFilter) -> Result<List<Alert>, Refusal> {
    let items = handle.alerts(move |book, now| Ok(book.alerts(now))).await?;
    let is_asked_for = |alert: &Alert| {
        asked.state.is_none_or(|state| state == alert.state)
            && asked.rule.as_ref().is_none_or(|rule| *rule == alert.rule)
            && (!asked.open || (alert.acknowledged.is_none() && alert.silenced_by.is_empty()))
    };
    Ok(List { items: items.into_iter().filter(is_asked_for).collect() })
}

/// Shows one alert.
pub async fn get(handle: &Handle, asked: ById) -> Result<Alert, Refusal> {
    let find = move |alerts: Vec<Alert>| alerts.into_iter().find(|alert| alert.id == asked.id).ok_or(asked.id);
    handle.alerts(move |book, now| find(book.alerts(now)).map_err(|id| no_alert(&id))).await
}

/// Says that somebody knows of an alert.
pub async fn acknowledge(handle: &Handle, asked: Acknowledge) -> Result<Alert, Refusal> {
    handle.alerts(move |book, now| book.acknowledge(&asked, now)).await
}

/// Keeps alerts quiet for a while.
pub async fn silence(handle: &Handle, asked: NewSilence) -> Result<Silence, Refusal> {
    handle.alerts(move |book, now| book.silence(&asked, now)).await
}

/// Ends a silence.
pub async fn unsilence(handle: &Handle, asked: ById) -> Result<Silence, Refusal> {
    handle.alerts(move |book, now| book.unsilence(&asked.id, now)).await
}

/// Lists the silences there are.
pub async fn silences(handle: &Handle) -> Result<List<Silence>, Refusal> {
    Ok(List { items: handle.alerts(|book, now| Ok(book.silences(now))).await? })
}

/// Lists the rules, with how they are.
pub async fn rules(handle: &Handle) -> Result<List<Rule>, Refusal> {
    Ok(List { items: handle.alerts(|book, _| Ok(book.rules())).await? })
}
