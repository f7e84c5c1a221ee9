//! What can be asked about pools, and be done to them: the operations `scale.…`.

use serde_json::{Value, json};
use shared::api::scale::{Change, Detail, Explanation, HistoryOf, Pool, Said, Set};
use shared::api::{ById, List, Refusal};

use super::{Pools, shown};
use crate::node::Handle;
use crate::settings::{self, Scope};
use crate::store::Store;

/// Most changes that one list holds.
const LIST_LIMIT: usize = 500;

/// All pools.
pub(crate) async fn status(handle: &Handle) -> Result<List<Pool>, Refusal> {
    let look =
        |pools: &mut Pools| -> Result<Vec<Pool>, Refusal> { Ok(pools.all_led()?.values().map(shown::pool).collect()) };
    Ok(List { items: handle.scale(look).await?? })
}

/// One pool, with everything that is known of it.
pub(crate) async fn get(handle: &Handle, asked: ById) -> Result<Detail, Refusal> {
    handle.scale(move |pools| pools.find(&asked.id).map(shown::detail)).await?
}

/// What was done about a pool in this leader's reign, the oldest first.
pub(crate) async fn history(handle: &Handle, asked: HistoryOf) -> Result<List<Change>, Refusal> {
    let limit = asked.limit.unwrap_or(LIST_LIMIT).min(LIST_LIMIT);
    let look = move |pools: &mut Pools| pools.find(&asked.id).map(|led| shown::history(led, limit));
    Ok(List { items: handle.scale(look).await?? })
}

/// Why a pool has as many agents as it has, by the last look at it.
pub(crate) async fn explain(handle: &Handle, asked: ById) -> Result<Explanation, Refusal> {
    let explain = move |pools: &mut Pools| {
        let not_yet = || Refusal { error: format!("pool `{}` has not been looked at yet", asked.id), code: 503 };
        shown::explanation(pools.find(&asked.id)?).ok_or_else(not_yet)
    };
    handle.scale(explain).await?
}

/// Changes settings of a pool, or says how many agents there shall be.
pub(crate) async fn set(handle: &Handle, store: &Store, asked: Set) -> Result<Said, Refusal> {
    let Set { id, settings, agents } = asked;
    match (settings, agents) {
        (Some(patch), None) => change(handle, store, id, patch).await,
        (None, Some(agents)) => {
            let name = id.clone();
            handle.scale(move |pools| pools.ask(&name, agents)).await??;
            let settings = settings::said(store, Scope::Pool, &id).await?;
            Ok(Said { id, settings, agents: Some(agents) })
        }
        _ => Err(settings::bad("say either `settings` or `agents`: {\"id\": \"workers\", \"agents\": 4}")),
    }
}

/// Lets a pool be as it is until it is resumed. It is kept, and so holds for the next leader too.
pub(crate) async fn pause(handle: &Handle, store: &Store, asked: ById) -> Result<Said, Refusal> {
    change_known(handle, store, asked.id, json!({ "paused": true })).await
}

/// Lets a pool go on.
pub(crate) async fn resume(handle: &Handle, store: &Store, asked: ById) -> Result<Said, Refusal> {
    change_known(handle, store, asked.id, json!({ "paused": false })).await
}

/// Changes a pool that there is.
async fn change_known(handle: &Handle, store: &Store, id: String, patch: Value) -> Result<Said, Refusal> {
    let name = id.clone();
    handle.scale(move |pools| pools.find(&name).map(drop)).await??;
    change(handle, store, id, patch).await
}

/// Changes what is said of a pool, if that goes with what this coordinator's file says of it.
async fn change(handle: &Handle, store: &Store, id: String, patch: Value) -> Result<Said, Refusal> {
    let name = id.clone();
    let file = handle.scale(move |pools| pools.in_file(&name)).await?;
    let check = |said: &serde_json::Map<String, Value>| file.with_said(&id, said).map(drop).map_err(settings::bad);
    let settings = settings::change_checked(store, Scope::Pool, &id, patch, check).await?;
    Ok(Said { id, settings, agents: None })
}
