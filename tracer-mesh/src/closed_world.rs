//! The closed world: a field that is set on the way of a connection and that the evaluator does not understand makes the
//! answer uncertain, and is named. `known_fields` lists the understood fields of each message.

use serde_json::Value;

use super::json::{Node, snake_case};

/// One message type.
pub(crate) struct Message {
    /// What a caveat calls it.
    pub name: &'static str,
    /// Fields that the evaluator reads.
    pub read: &'static [&'static str],
    /// Fields that cannot change what becomes of a first request.
    pub inert: &'static [&'static str],
}

impl Message {
    /// A caveat for each field of `node` that is set and not understood.
    pub(crate) fn unread(&self, node: Node<'_>) -> Vec<String> {
        let members = node.members().into_iter().flatten();
        let mut fields: Vec<String> = members
            .filter(|(_, value)| is_set(value))
            .map(|(key, _)| snake_case(key.strip_prefix("hidden_envoy_deprecated_").unwrap_or(key)))
            .filter(|field| {
                field != "@type"
                    && !self.read.contains(&field.as_str())
                    && !self.inert.contains(&field.as_str())
            })
            .map(|field| format!("the {} sets {field}, which is not evaluated here", self.name))
            .collect();
        fields.sort();
        fields
    }
}

/// Whether a value differs from protobuf's default. An empty message counts: its presence can mean something.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Object(_) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
    }
}
