//! The OpenAPI 3.1 document, made from the table of operations.

use std::sync::LazyLock;

use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::api::list::Span;
use shared::api::submit::Accepted;
use shared::{Priority, TaskId};

use super::operation::{Body, Operation, Route};
use super::role::Role;
use super::schema::Schemas;
use super::table::table;

/// Refusals that any operation may answer with.
const ALWAYS: [u16; 7] = [400, 401, 403, 405, 421, 429, 503];

/// Those that a body may lead to besides.
const FOR_A_BODY: [u16; 2] = [413, 415];

/// What each refusal means.
const REFUSALS: [(u16, &str); 11] = [
    (400, "Something in the request is not as it should be"),
    (401, "There is no token, or none that is known"),
    (403, "The token's role may not do this, or another site asks for it"),
    (404, "There is no such thing"),
    (405, "That cannot be done with it"),
    (409, "It cannot be done as things are"),
    (413, "It is too large"),
    (415, "The body is not of a kind that is read here"),
    (421, "The name that it was asked by is not one of the coordinator's"),
    (429, "Too much was asked in a short time"),
    (503, "The mesh cannot answer now"),
];

/// The document.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    &DOCUMENT
}

fn make() -> Value {
    let mut schemas = Schemas::at("/components/schemas");
    let mut paths = Map::new();
    for operation in table() {
        for (number, route) in operation.routes.iter().enumerate() {
            let described = describe(operation, route, number, &mut schemas);
            put(&mut paths, route.path, &route.method, described);
        }
    }
    add_raw(&mut paths, &mut schemas);
    add_health(&mut paths);
    let mut definitions = schemas.into_definitions();
    definitions.insert("Problem".to_owned(), problem());
    let refusals = REFUSALS.iter().map(|(code, means)| (response_name(*code), refusal(*code, means)));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hivemesh",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tasks, agents, queues and dead letters of a mesh. The same operations are there over NATS, \
                            under `<mesh>.api.<noun>.<verb>`.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": refusals.collect::<Map<String, Value>>(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "`coordinator auth token` makes one" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": crate::http::COOKIE },
            },
        },
    })
}

fn put(paths: &mut Map<String, Value>, path: &str, method: &Method, described: Value) {
    let item = paths.entry(path).or_insert_with(|| Value::Object(Map::new()));
    item[method.as_str().to_ascii_lowercase()] = described;
}

fn describe(operation: &Operation, route: &Route, number: usize, schemas: &mut Schemas) -> Value {
    let request = Request::of(operation, route);
    let has_body = route.body != Body::None;
    let has_path = route.path_fields().next().is_some();
    let codes = ALWAYS.iter().chain(operation.refusals).chain(if has_body { &FOR_A_BODY[..] } else { &[] });
    // What is named in a path may be nothing that can be named there.
    let codes = codes.chain(if has_path { &[404][..] } else { &[] });
    let mut responses: Map<String, Value> = codes.map(|code| (code.to_string(), refer(*code))).collect();
    let content = json!({ "application/json": { "schema": schemas.add_answer(operation) } });
    responses.insert(route.status.to_string(), json!({ "description": operation.summary, "content": content }));
    let id = if number == 0 { operation.name() } else { format!("{}.{}", operation.name(), number + 1) };
    let mut described = json!({
        "operationId": id,
        "tags": [operation.noun],
        "summary": operation.summary,
        "x-role": operation.role.as_str(),
        "security": security(),
        "parameters": request.parameters(route),
        "responses": responses,
    });
    if let Some(body) = request.body(route) {
        described["requestBody"] = body;
    }
    described
}

/// On loopback nothing is asked for, unless the coordinator has tokens.
fn security() -> Value {
    json!([{}, { "token": [] }, { "cookie": [] }])
}

/// A request's fields, each with its schema.
struct Request {
    fields: Map<String, Value>,
    required: Vec<String>,
}

impl Request {
    fn of(operation: &Operation, route: &Route) -> Self {
        let mut schema = Schemas::request(operation);
        let required = schema["required"].as_array().into_iter().flatten();
        let required = required.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        let mut fields = schema["properties"].as_object_mut().map(std::mem::take).unwrap_or_default();
        if route.place.is_some() {
            // What the path names is taken apart; the rest of the request is for another route.
            fields.retain(|name, _| route.path_fields().any(|field| field == name));
            for field in fields.values_mut() {
                *field = Schemas::at("/$defs").add::<TaskId>();
            }
        }
        Self { fields, required }
    }

    fn parameters(&self, route: &Route) -> Vec<Value> {
        let in_path = route.path_fields().filter_map(|name| Some((name, self.fields.get(name)?)));
        let mut parameters: Vec<Value> =
            in_path.map(|(name, schema)| parameter("path", name, true, without_null(schema))).collect();
        if route.body == Body::None {
            let in_query = self.fields.iter().filter(|(name, _)| !route.path_fields().any(|field| field == *name));
            let query = in_query
                .map(|(name, schema)| parameter("query", name, self.required.contains(name), without_null(schema)));
            parameters.extend(query);
        }
        if let Some(field) = route.key {
            let schema = self.fields.get(field).map(without_null).unwrap_or_default();
            parameters.push(parameter("header", "Idempotency-Key", false, schema));
        }
        parameters
    }

    fn body(&self, route: &Route) -> Option<Value> {
        match route.body {
            Body::None => None,
            Body::Whole(field) => {
                let schema = self.fields.get(field)?;
                let content = json!({ "schema": schema });
                let types = ["application/json", "application/merge-patch+json"];
                let content: Map<String, Value> =
                    types.map(|name| (name.to_owned(), content.clone())).into_iter().collect();
                Some(json!({ "required": true, "content": content }))
            }
            Body::Fields => {
                let is_in_body = |name: &str| !route.path_fields().any(|field| field == name);
                let fields = self.fields.iter().filter(|(name, _)| is_in_body(name));
                let fields: Map<String, Value> = fields.map(|(name, schema)| (name.clone(), schema.clone())).collect();
                let required: Vec<&String> = self.required.iter().filter(|name| is_in_body(name)).collect();
                let schema = json!({
                    "type": "object", "properties": fields, "required": required, "additionalProperties": false,
                });
                Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }))
            }
        }
    }
}

fn parameter(place: &str, name: &str, required: bool, mut schema: Value) -> Value {
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let mut described = json!({ "in": place, "name": name, "required": required, "schema": schema });
    if let Some(description) = description {
        described["description"] = description;
    }
    described
}

/// In a path or a query nothing is null.
fn without_null(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("default");
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = &mut choices[..] {
            let only = only.as_object_mut().map(std::mem::take).unwrap_or_default();
            object.remove("anyOf");
            object.extend(only);
        }
    }
    schema
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "Why something was not done (RFC 9457)",
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "description": "What, where, and what to do instead" },
        },
        "required": ["title", "status", "detail"],
    })
}

fn refusal(code: u16, means: &str) -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    let mut response = json!({ "description": means, "content": { "application/problem+json": { "schema": schema } } });
    if code == 429 {
        let header = json!({ "description": "Seconds to wait", "required": true, "schema": { "type": "integer" } });
        response["headers"] = json!({ "Retry-After": header });
    }
    response
}

fn refer(code: u16) -> Value {
    json!({ "$ref": format!("#/components/responses/{}", response_name(code)) })
}

fn response_name(code: u16) -> String {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    status.canonical_reason().unwrap_or("Problem").replace(' ', "")
}

/// Tasks and results as bytes, with what is known of them in headers.
fn add_raw(paths: &mut Map<String, Value>, schemas: &mut Schemas) {
    let wait = json!({
        "in": "query", "name": "wait", "required": false, "schema": schemas.add::<Span>(),
        "description": "How long to wait for the result, 60s at most",
    });
    let bytes = json!({ "application/octet-stream": {} });
    let task = &mut paths["/v1/tasks/{id}"];
    if let Some(parameters) = task["get"]["parameters"].as_array_mut() {
        parameters.push(wait.clone());
        parameters.push(json!({
            "in": "query", "name": "result", "required": false, "schema": { "type": "boolean" },
            "description": "Whether the result is wanted: its body, as it is, with `Hive-…` headers",
        }));
    }
    task["get"]["responses"]["200"]["content"]["application/octet-stream"] = json!({});
    task["get"]["responses"]["409"] = refer(409);
    let mut responses: Map<String, Value> =
        ALWAYS.iter().chain(&[404, 409, 413]).map(|code| (code.to_string(), refer(*code))).collect();
    let accepted = json!({ "application/json": { "schema": schemas.add::<Accepted>() } });
    responses.insert("202".to_owned(), json!({ "description": "It is stored", "content": accepted }));
    responses.insert("200".to_owned(), json!({ "description": "The result, which came in time", "content": bytes }));
    task["post"] = json!({
        "operationId": "task.submit.raw",
        "tags": ["task"],
        "summary": "Submits a task whose body is the request's, as it is",
        "description": "Request headers `Hive-…` and `traceparent` become the task's.",
        "x-role": Role::Submit.as_str(),
        "security": security(),
        "parameters": [
            { "in": "path", "name": "id", "required": true, "schema": schemas.add::<shared::Kind>(),
              "description": "The task's kind" },
            { "in": "query", "name": "id", "required": false, "schema": schemas.add::<TaskId>(),
              "description": "The task's id; a new one unless this says so" },
            { "in": "query", "name": "priority", "required": false, "schema": schemas.add::<Priority>() },
            wait,
            { "in": "header", "name": "Idempotency-Key", "required": false,
              "schema": { "type": "string", "minLength": 1, "maxLength": 255 } },
        ],
        "requestBody": {
            "required": false,
            "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
        },
        "responses": responses,
    });
}

fn add_health(paths: &mut Map<String, Value>) {
    let text = json!({ "text/plain": { "schema": { "type": "string" } } });
    let is_well = |id: &str, summary: &str, codes: &[u16]| {
        let mut responses: Map<String, Value> = codes.iter().map(|code| (code.to_string(), refer(*code))).collect();
        responses.insert("200".to_owned(), json!({ "description": "It does", "content": text.clone() }));
        json!({ "operationId": id, "tags": ["health"], "summary": summary, "responses": responses })
    };
    let healthz = is_well("health", "Tells whether the process runs", &[405, 429]);
    let readyz = is_well("ready", "Tells whether the coordinator leads or stands by", &[405, 429, 503]);
    put(paths, "/healthz", &Method::GET, healthz);
    put(paths, "/readyz", &Method::GET, readyz);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let (document, mut found) = (document(), Vec::new());
        references(document, &mut found);

        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} is not there");
        }
    }

    #[test]
    fn every_operation_is_described_with_its_role_and_what_it_refuses() {
        let paths = &document()["paths"];

        for operation in table() {
            for route in &operation.routes {
                let described = &paths[route.path][route.method.as_str().to_ascii_lowercase()];
                assert_eq!(described["x-role"], operation.role.as_str(), "{}", operation.name());
                for code in operation.refusals {
                    assert!(described["responses"].get(code.to_string()).is_some(), "{}: {code}", operation.name());
                }
            }
        }
    }

    #[test]
    fn what_is_in_a_query_is_never_null() {
        let list = &document()["paths"]["/v1/tasks"]["get"]["parameters"];
        let named = |name: &str| list.as_array().unwrap().iter().find(|p| p["name"] == name).unwrap().clone();

        assert_eq!(named("limit")["schema"]["type"], "integer");
        assert_eq!(named("kind")["schema"]["type"], "string");
        assert!(!named("state").to_string().contains("null"), "{}", named("state"));
    }

    #[test]
    fn a_dead_letter_is_named_by_its_path_and_by_nothing_else() {
        let parameters = &document()["paths"]["/v1/dead/{id}"]["get"]["parameters"];

        assert_eq!(parameters.as_array().unwrap().len(), 1, "{parameters}");
        assert_eq!(parameters[0]["schema"]["type"], "string");
    }
}
