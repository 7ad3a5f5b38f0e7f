//! The closed world: a field that is set on the way of a connection and that the evaluator does not understand makes the
//! answer uncertain, and is named. `known_fields` lists the understood fields of each message.

use serde_json::Value;

use super::json::{Node, snake_case};
use super::known_fields;

/// One message type of Envoy's API.
pub(crate) struct Message {
    /// What a caveat calls it.
    pub name: &'static str,
    /// Its full name.
    pub proto: &'static str,
    /// Fields that the evaluator reads.
    pub read: &'static [&'static str],
    /// Fields that cannot change what becomes of a first request.
    pub inert: &'static [&'static str],
    /// Fields with a message (or a list or map of messages) whose own fields are looked at too.
    pub parts: &'static [(&'static str, &'static Message)],
    /// Where it is used, it is the value of a map.
    pub is_map: bool,
}

impl Message {
    /// A message without fields of any kind, to be filled in.
    pub(crate) const EMPTY: Self =
        Self { name: "", proto: "", read: &[], inert: &[], parts: &[], is_map: false };

    /// A caveat for each field of `node`, and of the messages in it, that is set and not understood.
    pub(crate) fn unread(&self, node: Node<'_>) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(node, &mut found);
        found.sort();
        found.dedup();
        found
    }

    fn collect(&self, node: Node<'_>, found: &mut Vec<String>) {
        for (key, value) in node.members().into_iter().flatten().filter(|(_, value)| is_set(value)) {
            let field = snake_case(key.strip_prefix("hidden_envoy_deprecated_").unwrap_or(key));
            let is_in = |list: &[&str]| list.contains(&field.as_str());
            if let Some((_, part)) = self.parts.iter().find(|(name, _)| *name == field) {
                part.collect_all(value, found);
            } else if field == "config_discovery" {
                found.push(format!(
                    "the {} {} comes by extension discovery (config_discovery), and the dump does not show what came",
                    self.name,
                    node.field("name").str().unwrap_or("without a name")
                ));
            } else if field == "config" && is_in(self.read) && value.get("@type").is_some() {
                of_any(Node::of(value), found);
            } else if matches!(field.as_str(), "typed_config" | "config") && is_in(self.read) {
                let extension = node.extension();
                if let Some(message) = known_fields::of_extension(extension.type_url) {
                    message.collect(extension.config, found);
                }
            } else if field == "typed_per_filter_config" && is_in(self.read) {
                value.as_object().into_iter().flatten().for_each(|(_, own)| of_any(Node::of(own), found));
            } else if field != "@type" && !is_in(self.read) && !is_in(self.inert) {
                found.push(format!("the {} sets {field}, which is not evaluated here", self.name));
            }
        }
    }

    fn collect_all(&self, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.collect(Node::of(item), found)),
            // The values of a map are messages, its keys are data.
            Value::Object(members) if self.is_map => {
                members.values().for_each(|item| self.collect(Node::of(item), found));
            }
            _ => self.collect(Node::of(value), found),
        }
    }
}

/// The fields of a message that stands on its own, as a `google.protobuf.Any`.
fn of_any(node: Node<'_>, found: &mut Vec<String>) {
    let type_url = node.key("@type").str().unwrap_or_default();
    if let Some(message) = known_fields::of_extension(type_url) {
        message.collect(node, found);
    }
}

/// Whether a field is there. A wrapper's `false` and an empty message count: their presence can mean something.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => true,
    }
}
