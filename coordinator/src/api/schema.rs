//! JSON Schemas of requests and answers, made from their types.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::operation::Operation;

/// Makes schemas whose types are kept in one place, and are referred to.
pub(crate) struct Schemas(SchemaGenerator);

impl Schemas {
    /// No schema yet; what is referred to is going to be at this place in the document.
    pub(crate) fn at(definitions: &'static str) -> Self {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        Self(settings.with(|settings| settings.definitions_path = definitions.into()).into_generator())
    }

    /// The schema of an operation's answer.
    pub(crate) fn add_answer(&mut self, operation: &Operation) -> Value {
        (operation.answer)(&mut self.0).to_value()
    }

    /// The schema of a type.
    pub(crate) fn add<T: schemars::JsonSchema>(&mut self) -> Value {
        self.0.subschema_for::<T>().to_value()
    }

    /// All that was referred to.
    pub(crate) fn into_definitions(mut self) -> Map<String, Value> {
        self.0.take_definitions(true)
    }

    /// The schema of an operation's request, with everything in it.
    pub(crate) fn request(operation: &Operation) -> Value {
        let settings = SchemaSettings::draft2020_12().for_deserialize();
        let mut generator = settings.with(|settings| settings.inline_subschemas = true).into_generator();
        (operation.request)(&mut generator).to_value()
    }

    /// The schema of an operation's answer, with everything in it.
    pub(crate) fn answer(operation: &Operation) -> Value {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let mut generator = settings.with(|settings| settings.inline_subschemas = true).into_generator();
        (operation.answer)(&mut generator).to_value()
    }
}

/// How the fields of a request are written where there are only texts: in a path, or in a query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(BTreeMap<String, Kind>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Truth,
}

impl Written {
    /// The fields of an operation's request.
    pub(crate) fn of(operation: &Operation) -> Self {
        let schema = Schemas::request(operation);
        let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        Self(fields.map(|(name, field)| (name.clone(), kind(field))).collect())
    }

    /// A field's value as it is in JSON. One that is not known stays a text, and is refused with the names of those that
    /// are.
    pub(crate) fn read(&self, name: &str, text: &str) -> Result<Value, String> {
        let problem = |what: &str| format!("`{name}`: `{}` is not {what}", text.escape_debug());
        match self.0.get(name).copied().unwrap_or(Kind::Text) {
            Kind::Text => Ok(text.into()),
            Kind::Number => text.parse::<u64>().map(Value::from).map_err(|_| problem("a whole number")),
            Kind::Truth => text.parse::<bool>().map(Value::from).map_err(|_| problem("`true` or `false`")),
        }
    }
}

fn kind(schema: &Value) -> Kind {
    let is = |wanted: &str| match schema.get("type") {
        Some(Value::String(named)) => named == wanted,
        Some(Value::Array(named)) => named.iter().any(|named| named == wanted),
        _ => false,
    };
    if is("integer") {
        Kind::Number
    } else if is("boolean") {
        Kind::Truth
    } else {
        Kind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_query_is_read_as_what_the_field_is() {
        let written = Written::of(crate::api::operation("task", "list"));

        assert_eq!(written.read("limit", "5"), Ok(Value::from(5)));
        assert_eq!(written.read("cursor", "5"), Ok(Value::from("5")));
        assert_eq!(written.read("limit", "many").unwrap_err(), "`limit`: `many` is not a whole number");
        assert_eq!(written.read("limt", "5"), Ok(Value::from("5")));
    }

    #[test]
    fn whether_something_is_so_is_written_in_words() {
        let written = Written::of(crate::api::operation("resource", "apply"));

        assert_eq!(written.read("dry_run", "true"), Ok(Value::from(true)));
        assert!(written.read("dry_run", "1").is_err());
    }
}
