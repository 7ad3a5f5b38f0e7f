//! Filters that came by extension discovery (ECDS).

use serde_json::Value;

use super::Dump;
use crate::json::Node;

impl Dump {
    /// Puts the filters that came by extension discovery in their places; where none came, the default, which Envoy uses
    /// until then. Without the section of discovered filters, `config_discovery` stays, and is named as not understood.
    ///
    /// Source: envoy `source/common/filter/config_discovery_impl.h`; the section is `EcdsConfigDump`, which a whole dump has
    /// as soon as a filter is to be discovered.
    pub(super) fn put_discovered_filters(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.put_discovered_filters(item)),
            Value::Object(members) => {
                let key = ["config_discovery", "configDiscovery"]
                    .into_iter()
                    .find(|key| members.contains_key(*key));
                if let Some(key) = key {
                    let name = members.get("name").and_then(Value::as_str).unwrap_or_default();
                    let came = self.filters.get(name).and_then(|span| self.parse(span, String::new).ok());
                    let came = came.as_ref().map(|filter| Node::of(filter).field("typed_config"));
                    let default = members.get(key).map(|source| Node::of(source).field("default_config"));
                    let filter = came.or(default).and_then(Node::value).cloned();
                    if self.has.filters && filter.is_some() {
                        members.remove(key);
                    }
                    if let Some(filter) = filter {
                        members.insert("typed_config".to_owned(), filter);
                    }
                }
                members.values_mut().for_each(|item| self.put_discovered_filters(item));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
