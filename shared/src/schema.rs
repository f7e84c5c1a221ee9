//! JSON Schemas of the types whose text is checked when it is read.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::api::list::{Limit, Span};
use crate::names::{AgentId, HookName, Kind, TaskId, Word};
use crate::quantity::Countables;

macro_rules! inline {
    ($name:ident, $schema:expr) => {
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A text of `A-Z a-z 0-9 - _` of no more than so many characters.
fn name(limit: usize) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^[A-Za-z0-9_-]{{1,{limit}}}$"),
        "minLength": 1,
        "maxLength": limit
    })
}

inline!(Kind, name(Kind::MAX_LEN));
inline!(TaskId, name(TaskId::MAX_LEN));
inline!(AgentId, name(AgentId::MAX_LEN));
inline!(Word, name(Word::MAX_LEN));
inline!(HookName, name(HookName::MAX_LEN));
inline!(
    Countables,
    json_schema!({
        "type": "object",
        "description": "Amounts by name",
        "additionalProperties": { "type": "integer", "format": "uint64", "minimum": 0 }
    })
);
inline!(
    Limit,
    json_schema!({
        "type": "integer",
        "minimum": 1,
        "maximum": Limit::MOST
    })
);
inline!(
    Span,
    json_schema!({
        "type": "string",
        "pattern": "^[0-9]{1,6}(ms|s|m|h|d)$",
        "examples": ["30s"]
    })
);

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;
    use crate::api;

    fn schema<T: JsonSchema>() -> serde_json::Value {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        settings.into_generator().into_root_schema_for::<T>().to_value()
    }

    #[test]
    fn a_name_says_what_it_is_made_of() {
        let schema = schema::<api::ask::TaskRef>();

        assert_eq!(schema["properties"]["id"]["pattern"], "^[A-Za-z0-9_-]{1,128}$");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(["id"]));
    }

    #[test]
    fn a_page_of_dead_letters_is_asked_for_by_a_cursor() {
        let schema = schema::<api::DeadFilter>();

        let mut names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["cursor", "kind", "limit"]);
    }
}
