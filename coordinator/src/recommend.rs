//! Recommendations that somebody wants followed: what they advise is reserved for a kind from now on.
//!
//! What is advised, and how far one step goes, is the scheduler's to say; what is set is kept by [`settings`].

use serde_json::{Map, Value};
use shared::api::{Applied, Apply, Recommendation, Refusal};

use crate::node::Handle;
use crate::settings::{self, Scope};
use crate::store::Store;

/// What is recommended for kinds.
pub(crate) const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// So many attempts of a kind must have been measured before anything is recommended for it.
pub(crate) const EVIDENCE: u64 = scheduler::FEWEST_SAMPLES;

/// Follows what is recommended for a kind, or only tells what would be set.
pub(crate) async fn apply(handle: &Handle, store: &Store, asked: Apply) -> Result<Applied, Refusal> {
    if let Some(resource) = asked.resource.as_deref().filter(|resource| !RESOURCES.contains(resource)) {
        let error = format!("nothing is recommended about `{resource}` of a kind: write `cpu` or `memory`");
        return Err(Refusal { error, code: 400 });
    }
    if asked.id.as_str() == "default" {
        let error = "`default` is what other kinds fall back on: nothing is measured of it, so name a kind".to_owned();
        return Err(Refusal { error, code: 400 });
    }
    let recommendations = handle.look(scheduler::Scheduler::recommendations).await?;
    let followed = choose(recommendations, &asked)?;
    let Apply { id: kind, dry_run, .. } = asked;
    let settings = if dry_run {
        settings::said(store, Scope::Kind, kind.as_str()).await?
    } else {
        settings::change(store, Scope::Kind, kind.as_str(), patch(&followed)).await?
    };
    Ok(Applied { kind, followed, settings })
}

/// The recommendations that are followed: at least one, and all of them have a step.
fn choose(recommendations: Vec<Recommendation>, asked: &Apply) -> Result<Vec<Recommendation>, Refusal> {
    let is_asked_for = |about: &Recommendation| {
        let is_wanted = asked.resource.as_ref().is_none_or(|resource| *resource == about.resource);
        about.kind.as_ref() == Some(&asked.id) && is_wanted
    };
    let all = recommendations.into_iter().filter(is_asked_for);
    let (followed, held): (Vec<_>, Vec<_>) = all.partition(|about| about.step.is_some());
    if followed.is_empty() {
        return Err(Refusal { error: why_nothing(&held, asked), code: 409 });
    }
    Ok(followed)
}

/// Why nothing can be set; `held` is what is recommended and has no step.
fn why_nothing(held: &[Recommendation], asked: &Apply) -> String {
    let kind = &asked.id;
    if held.is_empty() {
        let about = asked.resource.as_ref().map(|resource| format!(" about its {resource}")).unwrap_or_default();
        return format!(
            "there is no recommendation for kind `{kind}`{about}: what is reserved suits what its attempts have used, \
             or fewer than {EVIDENCE} of them were measured"
        );
    }
    let why = |about: &Recommendation| {
        format!("{}: {}", about.resource, about.guard.as_deref().unwrap_or("there is no step that can be taken"))
    };
    format!("nothing is set for kind `{kind}`: {}", held.iter().map(why).collect::<Vec<_>>().join("; "))
}

/// The steps as settings of a kind. A plain number of CPU would be whole cores, so its thousandths say so.
fn patch(followed: &[Recommendation]) -> Value {
    let setting = |about: &Recommendation| {
        let step = about.step?;
        let value = if about.resource == "cpu" { Value::from(format!("{step}m")) } else { Value::from(step) };
        Some((about.resource.clone(), value))
    };
    Value::Object(followed.iter().filter_map(setting).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use scheduler::KindConfig;
    use shared::api::Finding;

    use super::*;

    #[test]
    fn what_is_recommended_for_the_kind_is_followed_and_nothing_else() {
        let wanted = [about("resize", "cpu", Some(250)), about("resize", "memory", Some(1 << 29))];
        let others = [about("encode", "memory", Some(1 << 30)), of_agent("ada")];
        let all = [wanted.clone(), others].concat();

        let followed = |resource| choose(all.clone(), &asked("resize", resource)).unwrap();

        assert_eq!(followed(None), wanted);
        assert_eq!(followed(Some("memory")), wanted[1..]);
    }

    #[test]
    fn one_without_a_step_is_left_while_another_is_followed() {
        let all = vec![about("resize", "cpu", None), about("resize", "memory", Some(1 << 29))];

        assert_eq!(choose(all.clone(), &asked("resize", None)).unwrap(), all[1..]);
    }

    #[test]
    fn a_refusal_says_that_there_is_nothing_or_what_holds_it() {
        let held = Recommendation { guard: Some("set 3m ago".to_owned()), ..about("resize", "memory", None) };

        let refuse = |kind, resource| choose(vec![held.clone(), of_agent("ada")], &asked(kind, resource)).unwrap_err();

        assert_eq!([refuse("resize", None).code, refuse("encode", None).code], [409, 409]);
        assert!(refuse("resize", None).error.ends_with("memory: set 3m ago"), "{}", refuse("resize", None));
        assert!(refuse("encode", None).error.starts_with("there is no recommendation for kind `encode`"));
        assert!(refuse("resize", Some("cpu")).error.contains("about its cpu"));
    }

    #[test]
    fn a_step_is_read_as_the_amount_that_it_is() {
        let patch = patch(&[about("resize", "cpu", Some(250)), about("resize", "memory", Some(1 << 29))]);

        let read: KindConfig = serde_json::from_value(patch).unwrap();

        assert_eq!(read, KindConfig { cpu: Some(250), memory: Some(1 << 29), ..KindConfig::default() });
    }

    fn asked(kind: &str, resource: Option<&str>) -> Apply {
        Apply { id: kind.parse().unwrap(), resource: resource.map(str::to_owned), dry_run: false }
    }

    fn about(kind: &str, resource: &str, step: Option<u64>) -> Recommendation {
        Recommendation {
            kind: Some(kind.parse().unwrap()),
            agent: None,
            resource: resource.to_owned(),
            finding: Finding::OverAllocated,
            now: 1 << 30,
            suggested: 1 << 28,
            p50: 0,
            p95: 0,
            peak: 0,
            samples: 20,
            since_ms: 0,
            effect: String::new(),
            step,
            guard: None,
        }
    }

    fn of_agent(agent: &str) -> Recommendation {
        Recommendation { kind: None, agent: Some(agent.parse().unwrap()), ..about("none", "slots", Some(8)) }
    }
}
