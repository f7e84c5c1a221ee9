//! What is said of intakes, and what can be asked of them: `intake.list`, `get`, `set`, `delete`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::http::HeaderName;
use serde::{Deserialize, Serialize};
use shared::api::hooks::HookDeleted;
use shared::api::intakes::{Intake, IntakeChange, IntakeRef, IntakeSaved, IntakeScheme};
use shared::api::{List, Refusal};
use shared::client::NewTask;
use shared::{HookName, Kind, Priority, TaskOptions};

use super::book::{self, intake_key};
use super::scheme::{Verifier, usual_header, usual_pass};
use super::secret::{self, Secrets};
use super::{Hooks, bad, no_such_intake, template};

/// How far the time in a request may be from now, unless something else is said.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The largest body, unless something else is said, and the most that can be said. The broker's limit holds as well.
const MAX_BYTES: u64 = 1 << 20;
const MOST_BYTES: u64 = 64 << 20;

/// The most headers that are passed on, or given to each task.
const MOST_HEADERS: usize = 32;

/// An intake, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IntakeDefinition {
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) scheme: IntakeScheme,
    pub(crate) signature_header: String,
    #[serde(with = "humantime_serde")]
    pub(crate) tolerance: Duration,
    pub(crate) task_id: String,
    pub(crate) pass: Vec<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) max_bytes: u64,
    pub(crate) enabled: bool,
    pub(crate) secrets: Secrets,
}

impl IntakeDefinition {
    /// How its requests are verified.
    pub(crate) fn verifier(&self) -> Verifier<'_> {
        Verifier {
            scheme: self.scheme,
            header: &self.signature_header,
            secrets: &self.secrets,
            tolerance: self.tolerance,
        }
    }

    /// Takes over what is said; only the secret is not among it.
    fn apply(&mut self, asked: &IntakeChange) -> Result<(), Refusal> {
        if let Some(scheme) = asked.scheme.filter(|scheme| *scheme != self.scheme) {
            self.scheme = scheme;
            self.signature_header = usual_header(scheme).to_owned();
            self.pass = usual_pass(scheme);
        }
        if let Some(tolerance) = &asked.tolerance {
            let tolerance = humantime::parse_duration(tolerance);
            self.tolerance = tolerance.map_err(|error| bad(format!("tolerance: {error}: write `5m`")))?;
        }
        fn take<T: Clone>(place: &mut T, said: Option<&T>) {
            if let Some(said) = said {
                place.clone_from(said);
            }
        }
        take(&mut self.kind, asked.kind.as_ref());
        take(&mut self.priority, asked.priority.as_ref());
        take(&mut self.signature_header, asked.signature_header.as_ref());
        take(&mut self.task_id, asked.task_id.as_ref());
        take(&mut self.pass, asked.pass.as_ref());
        take(&mut self.headers, asked.headers.as_ref());
        take(&mut self.max_bytes, asked.max_bytes.as_ref());
        take(&mut self.enabled, asked.enabled.as_ref());
        Ok(())
    }

    /// Whether it can be used.
    fn check(&self, id: &HookName) -> Result<(), Refusal> {
        template::check(&self.task_id, id).map_err(|error| bad(format!("task_id: {error}")))?;
        if !(1..=MOST_BYTES).contains(&self.max_bytes) {
            return Err(bad(format!("max_bytes: write 1 to {MOST_BYTES}")));
        }
        if HeaderName::try_from(&self.signature_header).is_err() {
            return Err(bad("signature_header: it is not the name of a header"));
        }
        if self.pass.len() + self.headers.len() > MOST_HEADERS {
            return Err(bad(format!("pass and headers: write {MOST_HEADERS} at most, together")));
        }
        for name in &self.pass {
            check_passed(name)?;
        }
        let mut task = NewTask::new(self.kind.clone(), "");
        for (name, value) in &self.headers {
            if name.starts_with("Nats-") {
                return Err(bad(format!("headers: `{name}` speaks to the broker: leave it out")));
            }
            task = task.header(name, value).map_err(|error| bad(format!("headers: {error}")))?;
        }
        TaskOptions::parse(|name| task.headers.get(name).map(async_nats::HeaderValue::as_str))
            .map(drop)
            .map_err(|error| bad(format!("headers: {error}")))
    }
}

/// A header of a request that may become the task's: none by which the sender would speak to the mesh or to the broker.
fn check_passed(name: &str) -> Result<(), Refusal> {
    let parsed =
        HeaderName::try_from(name).map_err(|_| bad(format!("pass: `{}` is no header", name.escape_debug())))?;
    let speaks_to_us = ["hive-", "nats-"].iter().any(|prefix| parsed.as_str().starts_with(prefix));
    let is_secret = ["authorization", "cookie"].contains(&parsed.as_str());
    if speaks_to_us || is_secret {
        return Err(bad(format!(
            "pass: `{parsed}` is not taken over from a request: leave it out, or set it by `headers`"
        )));
    }
    Ok(())
}

/// Lists intakes.
pub(crate) async fn list_intakes(hooks: &Hooks) -> Result<List<Intake>, Refusal> {
    let bucket = hooks.bucket().await?;
    let mut items = Vec::new();
    for name in book::names(bucket, "in.").await? {
        // One that was removed meanwhile is left out.
        let definition: Option<IntakeDefinition> = book::read(bucket, &intake_key(&name)).await?;
        items.extend(definition.map(|definition| show(name, definition)));
    }
    Ok(List { items })
}

/// Shows one intake.
pub(crate) async fn get_intake(hooks: &Hooks, asked: IntakeRef) -> Result<Intake, Refusal> {
    let definition = book::read(hooks.bucket().await?, &intake_key(&asked.id)).await?;
    let definition = definition.ok_or_else(|| no_such_intake(&asked.id))?;
    Ok(show(asked.id, definition))
}

/// Makes an intake, or changes one.
pub(crate) async fn set_intake(hooks: &Hooks, asked: IntakeChange) -> Result<IntakeSaved, Refusal> {
    let until = secret::overlap_until(asked.overlap.as_deref(), SystemTime::now())?;
    let made = secret::generate()?;
    let bucket = hooks.bucket().await?;
    let kept = book::change(bucket, intake_key(&asked.id), |kept: Option<IntakeDefinition>| {
        let secret = asked.secret.as_ref().unwrap_or(&made);
        let mut definition = match kept {
            Some(mut kept) => {
                if asked.rotate || asked.secret.is_some() {
                    kept.secrets.rotate(secret.clone(), until);
                }
                kept
            }
            None => new_definition(&asked, secret.clone())?,
        };
        definition.apply(&asked)?;
        definition.check(&asked.id)?;
        check_secret(definition.scheme, asked.secret.as_deref())?;
        Ok(definition)
    });
    let kept = kept.await?;
    let is_used = kept.secrets.valid(SystemTime::now()).next() == Some(made.as_str());
    Ok(IntakeSaved { intake: show(asked.id, kept), secret: is_used.then_some(made) })
}

/// Removes an intake: its requests are refused from then on.
pub(crate) async fn delete_intake(hooks: &Hooks, asked: IntakeRef) -> Result<HookDeleted, Refusal> {
    if !book::remove(hooks.bucket().await?, &intake_key(&asked.id)).await? {
        return Err(no_such_intake(&asked.id));
    }
    Ok(HookDeleted { deleted: asked.id })
}

fn new_definition(asked: &IntakeChange, secret: String) -> Result<IntakeDefinition, Refusal> {
    let kind = asked.kind.clone().ok_or_else(|| bad("a new intake needs a `kind`: that of its tasks"))?;
    let scheme = asked.scheme.unwrap_or_default();
    Ok(IntakeDefinition {
        kind,
        priority: Priority::Normal,
        scheme,
        signature_header: usual_header(scheme).to_owned(),
        tolerance: TOLERANCE,
        task_id: template::DEFAULT.to_owned(),
        pass: usual_pass(scheme),
        headers: BTreeMap::new(),
        max_bytes: MAX_BYTES,
        enabled: true,
        secrets: Secrets::new(secret),
    })
}

/// Checks a secret that somebody brings along. Only Standard Webhooks says what one looks like.
fn check_secret(scheme: IntakeScheme, secret: Option<&str>) -> Result<(), Refusal> {
    match (scheme, secret) {
        (_, None) => Ok(()),
        (IntakeScheme::Standard, Some(secret)) => secret::check(secret),
        (_, Some(secret)) if secret.len() >= 16 => Ok(()),
        (_, Some(_)) => Err(bad("secret: write 16 characters or more, or none, and one is made")),
    }
}

/// An intake as it is shown: without its secrets.
fn show(id: HookName, definition: IntakeDefinition) -> Intake {
    let old_until = definition.secrets.old_until(SystemTime::now());
    Intake {
        path: format!("/v1/hooks/{id}"),
        id,
        kind: definition.kind,
        priority: definition.priority,
        scheme: definition.scheme,
        signature_header: definition.signature_header,
        tolerance: humantime::format_duration(definition.tolerance).to_string(),
        task_id: definition.task_id,
        pass: definition.pass,
        headers: definition.headers,
        max_bytes: definition.max_bytes,
        enabled: definition.enabled,
        old_secret_until: old_until.map(|until| humantime::format_rfc3339_millis(until).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> HookName {
        HookName::new("github").unwrap()
    }

    fn made(json: &serde_json::Value) -> Result<IntakeDefinition, String> {
        let mut whole = serde_json::json!({ "id": "github", "kind": "build" });
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        let asked: IntakeChange = serde_json::from_value(whole).map_err(|error| error.to_string())?;
        let mut definition = new_definition(&asked, "secret".to_owned()).map_err(|error| error.error)?;
        definition.apply(&asked).and_then(|()| definition.check(&name())).map_err(|error| error.error)?;
        Ok(definition)
    }

    #[test]
    fn a_scheme_brings_its_usual_headers_along() {
        let github = made(&serde_json::json!({ "scheme": "github" })).unwrap();
        let named =
            made(&serde_json::json!({ "scheme": "timestamped", "signature_header": "X-Acme-Signature" })).unwrap();

        assert_eq!(github.signature_header, "X-Hub-Signature-256");
        assert_eq!(github.pass, ["X-GitHub-Event", "X-GitHub-Delivery"]);
        assert_eq!(named.signature_header, "X-Acme-Signature");
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        for (json, why) in [
            (serde_json::json!({ "pass": ["Hive-Timeout"] }), "leave it out"),
            (serde_json::json!({ "pass": ["nats-msg-id"] }), "leave it out"),
            (serde_json::json!({ "pass": ["Authorization"] }), "leave it out"),
            (serde_json::json!({ "headers": { "Hive-Timeout": "soon" } }), "Hive-Timeout"),
            (serde_json::json!({ "headers": { "Nats-Expected-Last-Sequence": "1" } }), "speaks to the broker"),
            (serde_json::json!({ "headers": { "A": "b\r\nc" } }), "cannot be sent"),
            (serde_json::json!({ "task_id": "always-the-same" }), "tell deliveries apart"),
            (serde_json::json!({ "tolerance": "a while" }), "write `5m`"),
            (serde_json::json!({ "max_bytes": 0 }), "write 1 to"),
            (serde_json::json!({ "signature_header": "a b" }), "signature_header"),
            (serde_json::json!({ "scheme": "plain" }), "unknown variant"),
        ] {
            let refused = made(&json).unwrap_err();
            assert!(refused.contains(why), "{json}: {refused}");
        }
    }

    #[test]
    fn only_a_good_secret_is_taken() {
        assert!(check_secret(IntakeScheme::Standard, Some("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")).is_ok());
        assert!(check_secret(IntakeScheme::Standard, Some("It's a Secret to Everybody")).is_err());
        assert!(check_secret(IntakeScheme::Github, Some("It's a Secret to Everybody")).is_ok());
        assert!(check_secret(IntakeScheme::Github, Some("short")).is_err());
    }
}
