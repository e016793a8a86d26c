//! The OpenAPI document, from the table of operations.

use serde_json::{Map, Value, json};

use crate::operations::{Content, OPERATIONS, Operation};
use crate::schemas::schemas;
use crate::tokens::Access;

/// The OpenAPI 3.1 document of the API.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = of(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hyperscale",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The HTTP API of a gate. Errors are `application/problem+json` with a \
                            stable `type`. A gate without tokens serves the loopback only, and \
                            everybody there.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn of(operation: &Operation) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = match operation.answer.content {
        Content::Nothing => json!({}),
        Content::Json(name) => json!({ "application/json": { "schema": reference(name) } }),
        Content::List(name) => json!({
            "application/json": { "schema": { "type": "array", "items": reference(name) } },
        }),
        Content::Other(kind) => json!({ kind: {} }),
    };
    let mut good = json!({ "description": operation.answer.text });
    if content.as_object().is_some_and(|content| !content.is_empty()) {
        good["content"] = content;
    }
    let problem = json!({
        "description": "Why not.",
        "content": { "application/problem+json": { "schema": reference("Problem") } },
    });
    let mut responses = Map::from_iter([(operation.answer.status.to_string(), good)]);
    if operation.is_limited {
        let mut too_fast = problem.clone();
        too_fast["description"] = json!("Too many requests of this kind by this client.");
        too_fast["headers"] = json!({
            "retry-after": {
                "description": "In how many seconds the next may come.",
                "schema": { "type": "integer", "minimum": 1 },
            },
        });
        responses.insert("429".to_owned(), too_fast);
    }
    if operation.id != "health" {
        responses.insert("default".to_owned(), problem);
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses,
    });
    described["security"] = match operation.needs {
        None => json!([]),
        Some(access) => {
            let role = match access {
                Access::View => "view",
                Access::Run => "run",
                Access::Admin => "admin",
            };
            described["x-role"] = json!(role);
            json!([{ "token": [] }])
        }
    };
    let mut parameters = Vec::new();
    if operation.path.contains("{job}") {
        parameters.push(json!({
            "name": "job", "in": "path", "required": true, "schema": { "type": "string" },
        }));
    }
    if operation.id == "follow_events" {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": { "type": "integer" },
        }));
    }
    if !parameters.is_empty() {
        described["parameters"] = json!(parameters);
    }
    if let Some(name) = operation.body {
        described["requestBody"] = json!({
            // All that stops load may come without a body.
            "required": operation.id != "cancel_job",
            "content": { "application/json": { "schema": reference(name) } },
        });
    }
    described
}
