//! Which fields of Envoy's messages the evaluator understands.
//!
//! `read` fields take part in the decision; `inert` fields cannot change what becomes of a first request (statistics,
//! logs, timeouts, headers of answers). The field names are those of the v3 API, read at Envoy 1.40
//! (`api/envoy/config/{listener,route,cluster}/v3`, `api/envoy/extensions`).

mod connection;
mod http;

#[cfg(test)]
use crate::closed_world::Message;

pub(crate) use self::connection::*;
pub(crate) use self::http::*;

/// All of them, for documentation.
#[cfg(test)]
const ALL: [&Message; 16] = [
    &LISTENER,
    &LISTENER_FILTER,
    &FILTER_CHAIN,
    &CHAIN_MATCH,
    &NETWORK_FILTER,
    &TCP_PROXY,
    &HCM,
    &HTTP1_OPTIONS,
    &COMMON_HTTP_OPTIONS,
    &HTTP_FILTER,
    &ROUTE_CONFIG,
    &VIRTUAL_HOST,
    &ROUTE,
    &ROUTE_MATCH,
    &ROUTE_ACTION,
    &CLUSTER,
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::Node;

    #[test]
    fn a_field_that_no_table_has_is_named() {
        let listener = json!({"@type": "x", "name": "a", "statPrefix": "s", "udpListenerConfig": {}, "apiListener": null,
            "socket_options": [], "new_field": 1, "other_field": 0});
        let unread = LISTENER.unread(Node::of(&listener));
        assert_eq!(
            unread,
            [
                "the listener sets new_field, which is not evaluated here",
                "the listener sets udp_listener_config, which is not evaluated here",
            ]
        );
    }

    #[test]
    fn no_field_is_both_read_and_inert() {
        for message in ALL {
            for field in message.read {
                assert!(!message.inert.contains(field), "{} {field}", message.name);
            }
        }
    }
}
