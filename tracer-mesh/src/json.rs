//! Tolerant reading of Envoy's JSON: a member that is absent, `null` or of another type reads as "not there".
//! It knows both spellings of a field (`filter_chains`, `filterChains`) and the two ways in which an extension
//! is written (`typed_config`, the old `config`). It never fails and never copies.

use serde_json::{Map, Value};

/// One place in a document, present or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a>(Option<&'a Value>);

/// An extension of Envoy: a filter, a transport socket, a matcher.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    /// The `name` given in the configuration, or an empty string.
    pub name: &'a str,
    /// The message's own name, e.g. `HttpConnectionManager`; of old configurations, what the name says.
    pub message: &'a str,
    /// The message's whole type, where it says one.
    pub type_url: &'a str,
    /// The message itself.
    pub config: Node<'a>,
}

impl<'a> Node<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        Self((!value.is_null()).then_some(value))
    }

    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The member `snake_name`, under that name or its camelCase form.
    ///
    /// Protobuf's JSON mapping allows both; Envoy's admin port writes snake case, istioctl camel case.
    pub(crate) fn field(self, snake_name: &str) -> Self {
        let Some(members) = self.0.and_then(Value::as_object) else { return Self(None) };
        let value = members.get(snake_name).or_else(|| {
            snake_name.contains('_').then(|| camel_case(snake_name)).and_then(|name| members.get(&name))
        });
        Self(value.filter(|value| !value.is_null()))
    }

    /// A member whose name is data (a metadata key), which has one spelling only.
    pub(crate) fn key(self, name: &str) -> Self {
        Self(self.0.and_then(|value| value.get(name)).filter(|value| !value.is_null()))
    }

    pub(crate) fn exists(self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn str(self) -> Option<&'a str> {
        self.0.and_then(Value::as_str)
    }

    /// A non-empty string; protobuf makes no difference between an empty and an absent one.
    pub(crate) fn text(self) -> Option<&'a str> {
        self.str().filter(|text| !text.is_empty())
    }

    pub(crate) fn bool(self) -> Option<bool> {
        self.0.and_then(Value::as_bool)
    }

    pub(crate) fn is_true(self) -> bool {
        self.bool() == Some(true)
    }

    /// An integer; protobuf's JSON writes 64-bit ones as strings.
    pub(crate) fn integer(self) -> Option<i64> {
        self.0.and_then(|value| value.as_i64().or_else(|| value.as_str()?.parse().ok()))
    }

    pub(crate) fn port(self) -> Option<u16> {
        self.integer().and_then(|number| u16::try_from(number).ok())
    }

    pub(crate) fn number(self) -> Option<f64> {
        self.0.and_then(Value::as_f64)
    }

    /// The elements of a list; of anything else, none.
    pub(crate) fn items(self) -> impl DoubleEndedIterator<Item = Node<'a>> + Clone {
        self.0.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter().map(Node::of)
    }

    /// The strings of a list, others left out.
    pub(crate) fn texts(self) -> Vec<String> {
        self.items().filter_map(Node::str).map(str::to_owned).collect()
    }

    pub(crate) fn members(self) -> Option<&'a Map<String, Value>> {
        self.0.and_then(Value::as_object)
    }

    pub(crate) fn value(self) -> Option<&'a Value> {
        self.0
    }

    /// The last part of `@type`: `…/envoy.config.listener.v3.Listener` is `Listener`.
    pub(crate) fn message(self) -> Option<&'a str> {
        self.key("@type").str().map(message_name)
    }

    /// This node as an extension: its `typed_config`, unwrapped from a `TypedStruct`, or its old `config`.
    pub(crate) fn extension(self) -> Extension<'a> {
        let name = self.field("name").str().unwrap_or_default();
        let typed = self.field("typed_config");
        if !typed.exists() {
            let message = old_message(name);
            return Extension { name, message, type_url: message, config: self.field("config") };
        }
        let (type_url, config) = match typed.message() {
            Some("TypedStruct") => (typed.field("type_url").str(), typed.field("value")),
            _ => (typed.key("@type").str(), typed),
        };
        let type_url = type_url.unwrap_or_default();
        Extension { name, message: message_name(type_url), type_url, config }
    }
}

/// `type.googleapis.com/a.b.C` is `C`.
pub(crate) fn message_name(type_url: &str) -> &str {
    type_url.rsplit(['.', '/']).next().unwrap_or(type_url)
}

/// What an extension's name meant before `typed_config` (Envoy up to 1.10, Istio up to 1.1).
fn old_message(name: &str) -> &'static str {
    match name {
        "envoy.http_connection_manager" | "envoy.filters.network.http_connection_manager" => {
            "HttpConnectionManager"
        }
        "envoy.tcp_proxy" | "envoy.filters.network.tcp_proxy" => "TcpProxy",
        "envoy.listener.tls_inspector" | "envoy.filters.listener.tls_inspector" => "TlsInspector",
        "envoy.listener.http_inspector" | "envoy.filters.listener.http_inspector" => "HttpInspector",
        "envoy.router" | "envoy.filters.http.router" => "Router",
        _ => "",
    }
}

fn camel_case(snake_name: &str) -> String {
    let mut camel = String::with_capacity(snake_name.len());
    let mut upper = false;
    for character in snake_name.chars() {
        if character == '_' {
            upper = true;
        } else if upper {
            camel.push(character.to_ascii_uppercase());
            upper = false;
        } else {
            camel.push(character);
        }
    }
    camel
}

/// The proto name of a field: `filterChains` is `filter_chains`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_are_one_field() {
        for document in [json!({"filter_chains": [1]}), json!({"filterChains": [1]})] {
            assert_eq!(Node::of(&document).field("filter_chains").items().count(), 1);
        }
    }

    #[test]
    fn a_wrong_type_reads_as_absent() {
        let document = json!({"name": 7, "routes": "x", "port_value": "80", "bind": null});
        let node = Node::of(&document);
        assert_eq!(node.field("name").str(), None);
        assert_eq!(node.field("routes").items().count(), 0);
        assert_eq!(node.field("port_value").port(), Some(80));
        assert!(!node.field("bind").exists());
    }

    #[test]
    fn an_extension_is_read_from_each_of_its_forms() {
        let typed = json!({"name": "n", "typed_config": {"@type": "t/a.b.TcpProxy", "cluster": "c"}});
        let old = json!({"name": "envoy.tcp_proxy", "config": {"cluster": "c"}});
        let wrapped = json!({"name": "n", "typed_config": {"@type": "t/udpa.type.v1.TypedStruct",
            "type_url": "t/a.TcpProxy", "value": {"cluster": "c"}}});
        for document in [typed, old, wrapped] {
            let extension = Node::of(&document).extension();
            assert_eq!(extension.message, "TcpProxy");
            assert_eq!(extension.config.field("cluster").str(), Some("c"));
        }
    }
}
