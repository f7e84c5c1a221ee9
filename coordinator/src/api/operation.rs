//! What an operation is: its names, its types, who may ask for it and how, and what it does.

use std::sync::Arc;

use axum::http::Method;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shared::api::Refusal;

use super::role::Role;
use super::services::Services;

/// What it does: reads the request, and gives the answer as JSON.
type Run = Arc<dyn Fn(Services, Value) -> BoxFuture<'static, Result<Bytes, Refusal>> + Send + Sync>;

/// Takes what is in the path apart that is not a field by itself.
type Place = fn(&mut Map<String, Value>) -> Result<(), Refusal>;

/// Which coordinator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnsweredBy {
    /// The leader; one that stands by asks it.
    Leader,
    /// The leader, or if there is none one that stands by, for itself.
    LeaderElseSelf,
    /// Any: all that it takes is in the streams.
    Anyone,
}

/// Something that the mesh can be asked for.
pub(crate) struct Operation {
    pub(crate) noun: &'static str,
    pub(crate) verb: &'static str,
    /// What it does, in a sentence without its stop.
    pub(crate) summary: &'static str,
    pub(crate) role: Role,
    pub(crate) answered_by: AnsweredBy,
    /// Where it is over HTTP; the first is the one that is named first.
    pub(crate) routes: Vec<Route>,
    /// Why it may be refused besides what holds for all, as in HTTP.
    pub(crate) refusals: &'static [u16],
    /// Describes the request.
    pub(crate) request: fn(&mut SchemaGenerator) -> Schema,
    /// Describes the answer.
    pub(crate) answer: fn(&mut SchemaGenerator) -> Schema,
    run: Run,
}

impl Operation {
    /// An operation that this function carries out.
    pub(crate) fn new<T, U, F, A>(noun: &'static str, verb: &'static str, function: F) -> Self
    where
        T: DeserializeOwned + JsonSchema + 'static,
        U: Serialize + JsonSchema + 'static,
        F: Fn(Services, T) -> A + Send + Sync + 'static,
        A: Future<Output = Result<U, Refusal>> + Send + 'static,
    {
        let run = move |services: Services, asked: Value| -> BoxFuture<'static, Result<Bytes, Refusal>> {
            match read::<T>(asked) {
                Ok(asked) => {
                    let answer = function(services, asked);
                    Box::pin(async move { write(&answer.await?) })
                }
                Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
            }
        };
        Self {
            noun,
            verb,
            summary: "",
            role: Role::Admin,
            answered_by: AnsweredBy::Leader,
            routes: Vec::new(),
            refusals: &[],
            request: |generator| generator.subschema_for::<T>(),
            answer: |generator| generator.subschema_for::<U>(),
            run: Arc::new(run),
        }
    }

    /// What it does, in a sentence without its stop.
    pub(crate) fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// Who may ask for it over HTTP, at least.
    pub(crate) fn for_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Any coordinator answers, since all that it takes is in the streams.
    pub(crate) fn by_anyone(mut self) -> Self {
        self.answered_by = AnsweredBy::Anyone;
        self
    }

    /// One that stands by answers for itself where there is no leader.
    pub(crate) fn by_leader_else_self(mut self) -> Self {
        self.answered_by = AnsweredBy::LeaderElseSelf;
        self
    }

    /// Where it is over HTTP.
    pub(crate) fn at(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Why it may be refused, besides what holds for all: 404 not found, 409 not as things are, 413 too large.
    pub(crate) fn refuses(mut self, codes: &'static [u16]) -> Self {
        self.refusals = codes;
        self
    }

    /// Carries it out here.
    pub(crate) fn run(&self, services: Services, asked: Value) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        (self.run)(services, asked)
    }

    /// `noun.verb`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.noun, self.verb)
    }
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What the body of an HTTP request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing: what is not in the path is in the query.
    None,
    /// The fields that are not in the path, as JSON.
    Fields,
    /// The field of this name, as JSON.
    Whole(&'static str),
}

/// Where an operation is over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) body: Body,
    /// The status of an answer.
    pub(crate) status: u16,
    pub(crate) place: Option<Place>,
    /// The field that the header `Idempotency-Key` is.
    pub(crate) key: Option<&'static str>,
}

impl Route {
    fn new(method: Method, path: &'static str) -> Self {
        Self { method, path, body: Body::None, status: 200, place: None, key: None }
    }

    /// Something is looked at.
    pub(crate) fn get(path: &'static str) -> Self {
        Self::new(Method::GET, path)
    }

    /// Something is done.
    pub(crate) fn post(path: &'static str) -> Self {
        Self::new(Method::POST, path)
    }

    /// Something is changed; the field of this name is the body, a JSON merge patch.
    pub(crate) fn patch(path: &'static str, field: &'static str) -> Self {
        Self { body: Body::Whole(field), ..Self::new(Method::PATCH, path) }
    }

    /// Something is taken away.
    pub(crate) fn delete(path: &'static str) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// What is not in the path is in the body, as JSON.
    pub(crate) fn reads_json(mut self) -> Self {
        self.body = Body::Fields;
        self
    }

    /// It is accepted, and done later: 202.
    pub(crate) fn accepts(mut self) -> Self {
        self.status = 202;
        self
    }

    /// What is in the path is taken apart by this function.
    pub(crate) fn placed_by(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The header `Idempotency-Key` is the field of this name.
    pub(crate) fn keyed_by(mut self, field: &'static str) -> Self {
        self.key = Some(field);
        self
    }

    /// The fields that the path names, in its order.
    pub(crate) fn path_fields(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// Reads a request. One that says nothing is an empty object.
fn read<T: DeserializeOwned>(asked: Value) -> Result<T, Refusal> {
    let asked = if asked.is_null() { Value::Object(Map::new()) } else { asked };
    serde_json::from_value(asked)
        .map_err(|error| super::bad_request(format!("the request is not what the operation takes: {error}")))
}

fn write<U: Serialize>(answer: &U) -> Result<Bytes, Refusal> {
    serde_json::to_vec(answer).map(Into::into).map_err(|error| Refusal { error: error.to_string(), code: 500 })
}
