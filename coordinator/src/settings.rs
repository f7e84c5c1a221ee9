//! Settings of kinds, tenants and pools, and what is said of agents, while the mesh runs.
//!
//! They are kept in a key-value bucket, and every coordinator watches it: so they hold for whoever leads, and go before
//! what the configuration file says. A change is a JSON merge patch (RFC 7396): what it names is changed, `null` goes
//! back to the configuration.

use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use scheduler::{AgentConfig, Event, KindConfig, Said, TenantConfig};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shared::api::Refusal;
use shared::{AgentId, Kind};
use tracing::{info, warn};

use crate::alerts;
use crate::node::Handle;
use crate::scale;
use crate::store::{Store, StoreError};

/// How long to wait before the bucket is watched again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a change is tried that others come before, and how soon again.
const TRIES: usize = 40;
const NEXT_TRY: Duration = Duration::from_millis(50);

/// What settings are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A kind, or `default`.
    Kind,
    /// A tenant, or `default`.
    Tenant,
    /// An agent.
    Agent,
    /// A pool of agents.
    Pool,
}

impl Scope {
    fn prefix(self) -> &'static str {
        match self {
            Scope::Kind => "kinds.",
            Scope::Tenant => "tenants.",
            Scope::Agent => "agents.",
            Scope::Pool => "pools.",
        }
    }

    /// The key that keeps what is said of `name`; a tenant's name can be any text, so it is written in hexadecimal.
    fn key(self, name: &str) -> String {
        let name = match self {
            Scope::Kind | Scope::Agent | Scope::Pool => name.to_owned(),
            Scope::Tenant => name.bytes().map(|byte| format!("{byte:02x}")).collect(),
        };
        format!("{}{name}", self.prefix())
    }

    fn read_key(key: &str) -> Option<(Scope, String)> {
        for scope in [Scope::Kind, Scope::Agent, Scope::Pool] {
            if let Some(name) = key.strip_prefix(scope.prefix()) {
                return Some((scope, name.to_owned()));
            }
        }
        let hex = key.strip_prefix(Scope::Tenant.prefix())?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = hex.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        Some((Scope::Tenant, String::from_utf8(bytes).ok()?))
    }
}

/// All that is said of one of them.
pub(crate) async fn said(store: &Store, scope: Scope, name: &str) -> Result<Value, Refusal> {
    check_name(scope, name)?;
    let bucket = store.settings_bucket().await.map_err(|error| unavailable(&error))?;
    Ok(Value::Object(read_kept(&bucket, scope, name).await?.1))
}

/// Changes what is said of one of them; all that is said of it then is returned.
pub(crate) async fn change(store: &Store, scope: Scope, name: &str, patch: Value) -> Result<Value, Refusal> {
    change_checked(store, scope, name, patch, |said| check(scope, name, said)).await
}

/// The same, where whether it may be said so is for another to check.
pub(crate) async fn change_checked(
    store: &Store,
    scope: Scope,
    name: &str,
    patch: Value,
    check: impl Fn(&Map<String, Value>) -> Result<(), Refusal>,
) -> Result<Value, Refusal> {
    let Value::Object(patch) = patch else {
        return Err(bad("settings are changed by a JSON object, such as {\"strategy\": \"weighted\"}"));
    };
    check_name(scope, name)?;
    let bucket = store.settings_bucket().await.map_err(|error| unavailable(&error))?;
    for _ in 0..TRIES {
        let (revision, mut said) = read_kept(&bucket, scope, name).await?;
        merge(&mut said, patch.clone());
        check(&said)?;
        let body = serde_json::to_vec(&said).map_err(|error| bad(error.to_string()))?;
        match bucket.update(scope.key(name), body.into(), revision).await {
            Ok(_) => return Ok(Value::Object(said)),
            // Somebody else has changed it meanwhile, or a copy was read that lags behind.
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => tokio::time::sleep(NEXT_TRY).await,
            Err(error) => return Err(refused("keep", error)),
        }
    }
    Err(Refusal { error: "others change these settings all the time: try again".to_owned(), code: 409 })
}

/// What the bucket keeps of a kind or a tenant, and at which revision.
async fn read_kept(bucket: &kv::Store, scope: Scope, name: &str) -> Result<(u64, Map<String, Value>), Refusal> {
    let Some(entry) = bucket.entry(scope.key(name)).await.map_err(|error| refused("read", error))? else {
        return Ok((0, Map::new()));
    };
    let said = (entry.operation == Operation::Put).then(|| serde_json::from_slice(&entry.value).ok()).flatten();
    Ok((entry.revision, said.unwrap_or_default()))
}

/// RFC 7396, one level deep, which is all that settings have: a table in them is replaced as a whole.
fn merge(said: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        if value.is_null() {
            said.remove(&name);
        } else {
            said.insert(name, value);
        }
    }
}

fn check_name(scope: Scope, name: &str) -> Result<(), Refusal> {
    match scope {
        Scope::Kind => Kind::new(name).map(drop).map_err(|error| bad(error.to_string())),
        Scope::Agent => AgentId::new(name).map(drop).map_err(|error| bad(error.to_string())),
        Scope::Pool => AgentId::new(name).map(drop).map_err(|_| bad("a pool has a name of 1 to 64 of A-Z a-z 0-9 - _")),
        Scope::Tenant if (1..=64).contains(&name.len()) => Ok(()),
        Scope::Tenant => Err(bad("a tenant has a name of 1 to 64 characters")),
    }
}

fn check(scope: Scope, name: &str, said: &Map<String, Value>) -> Result<(), Refusal> {
    let mut config = scheduler::Config { said: Said::default(), ..scheduler::Config::default() };
    let value = Value::Object(said.clone());
    match scope {
        Scope::Kind => drop(config.said.kinds.insert(name.to_owned(), read(value)?)),
        Scope::Tenant => drop(config.said.tenants.insert(name.to_owned(), read(value)?)),
        Scope::Agent => drop(config.said.agents.insert(name.to_owned(), read(value)?)),
        Scope::Pool => return scale::Config::default().with_said(name, said).map(drop).map_err(bad),
    }
    match config.problems() {
        problems if problems.is_empty() => Ok(()),
        problems => Err(bad(problems.join("; "))),
    }
}

fn read<T: DeserializeOwned>(said: Value) -> Result<T, Refusal> {
    serde_json::from_value(said).map_err(|error| bad(error.to_string()))
}

pub(crate) fn bad(problem: impl Into<String>) -> Refusal {
    Refusal { error: problem.into(), code: 400 }
}

fn unavailable(error: &StoreError) -> Refusal {
    crate::node::unavailable(error)
}

fn refused(what: &str, error: impl std::error::Error) -> Refusal {
    Refusal { error: format!("failed to {what} the settings: {}", crate::chain(&error)), code: 503 }
}

/// Tells the coordinator's loop what is said, for as long as it runs.
pub(crate) async fn watch(store: Store, handle: Handle) {
    loop {
        match follow(&store, &handle).await {
            Ok(()) => return,
            Err(error) => warn!(error = %format!("{error:#}"), "the settings cannot be watched, trying again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(store: &Store, handle: &Handle) -> anyhow::Result<()> {
    let bucket = store.settings_bucket().await?;
    let mut changes = bucket.watch_with_history(">").await?;
    while let Some(change) = changes.next().await {
        let change = change?;
        if scale::wishes::is_key(&change.key) || alerts::keeping::is_key(&change.key) {
            continue;
        }
        let Some(said) = Change::read(&change) else {
            warn!(key = change.key, "a setting cannot be read: it is left as it was");
            continue;
        };
        info!(key = change.key, "settings changed");
        if said.tell(handle).await.is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("the watch has ended")
}

/// What is said from now on.
enum Change {
    /// Of a kind or a tenant: the scheduler goes by it.
    Scheduler(Box<Event>),
    /// Of a pool.
    Pool(String, Map<String, Value>),
}

impl Change {
    fn read(change: &kv::Entry) -> Option<Self> {
        let (scope, name) = Scope::read_key(&change.key)?;
        let said = match change.operation {
            Operation::Put => change.value.clone(),
            Operation::Delete | Operation::Purge => Bytes::from_static(b"{}"),
        };
        Some(match scope {
            Scope::Kind => {
                let said = serde_json::from_slice::<KindConfig>(&said).ok()?;
                Self::Scheduler(Box::new(Event::KindConfigured(name, said)))
            }
            Scope::Tenant => {
                let said = serde_json::from_slice::<TenantConfig>(&said).ok()?;
                Self::Scheduler(Box::new(Event::TenantConfigured(name, said)))
            }
            Scope::Agent => {
                let said = serde_json::from_slice::<AgentConfig>(&said).ok()?;
                Self::Scheduler(Box::new(Event::AgentConfigured(AgentId::new(name).ok()?, said)))
            }
            Scope::Pool => Self::Pool(name, serde_json::from_slice(&said).ok()?),
        })
    }

    async fn tell(self, handle: &Handle) -> Result<(), Refusal> {
        match self {
            Self::Scheduler(event) => handle.happen(*event).await,
            Self::Pool(name, said) => handle.scale(move |pools| pools.say(name, said)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is_of() {
        for (scope, name) in [
            (Scope::Kind, "resize"),
            (Scope::Tenant, "acme & söhne"),
            (Scope::Tenant, "default"),
            (Scope::Agent, "ada"),
            (Scope::Pool, "big"),
        ] {
            assert_eq!(Scope::read_key(&scope.key(name)), Some((scope, name.to_owned())));
        }
        assert_eq!(Scope::read_key("tenants.zz"), None);
    }

    #[test]
    fn what_is_wrong_is_told_before_it_is_kept() {
        let refuse = |scope, text: &str| {
            check(scope, "resize", serde_json::from_str::<Value>(text).unwrap().as_object().unwrap()).unwrap_err().error
        };

        assert!(refuse(Scope::Kind, r#"{"strategie": "weighted"}"#).contains("unknown field `strategie`"));
        assert!(refuse(Scope::Kind, r#"{"strategy": "best"}"#).contains("unknown variant `best`"));
        assert!(refuse(Scope::Kind, r#"{"max-running": 0}"#).contains("write 1 or more"));
        assert!(refuse(Scope::Kind, r#"{"rate": "fast"}"#).contains("write `100/s`"));
        assert!(refuse(Scope::Tenant, r#"{"weight": 0}"#).contains("weight"));
        assert!(refuse(Scope::Pool, r#"{"min-agents": 20}"#).contains("must not be more than max-agents"));
        assert!(refuse(Scope::Pool, r#"{"max-agent": 20}"#).contains("unknown field `max-agent`"));
    }

    #[test]
    fn null_takes_back_what_was_said() {
        let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let mut said = object(r#"{"strategy": "weighted", "rate": "1/s"}"#);

        merge(&mut said, object(r#"{"rate": null, "max-running": 3}"#));

        assert_eq!(said, object(r#"{"strategy": "weighted", "max-running": 3}"#));
    }
}
