//! The HTTP filters before the router: which of them answer a request by themselves, with the configuration that a
//! route or virtual host puts in the place of the listener's.
//!
//! Source: envoy `source/common/http/utility.h` `resolveMostSpecificPerFilterConfig`,
//! `source/extensions/filters/http/fault/fault_filter.cc` `FaultFilter::decodeHeaders`,
//! `source/extensions/filters/http/rbac/rbac_filter.cc` `RoleBasedAccessControlFilter::decodeHeaders`.

use serde_json::Value;

use super::json::{Extension, Node};

/// A filter of the chain.
#[derive(Clone, Debug)]
pub(crate) struct HttpFilter {
    pub name: String,
    /// The whole entry.
    entry: Value,
    disabled: bool,
}

/// What a filter does with a CONNECT or a proxy request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Passes,
    /// It answers by itself.
    Answers {
        status: u16,
        details: String,
    },
    /// It may answer: that depends on the request, the peer or chance.
    MayAnswer,
}

impl HttpFilter {
    /// The filters before the router, and whether there is a router.
    pub(crate) fn read_all(list: Node<'_>) -> (Vec<Self>, bool) {
        let mut filters = Vec::new();
        for node in list.items() {
            let extension = node.extension();
            if extension.message == "Router" || extension.name == "envoy.filters.http.router" {
                return (filters, true);
            }
            filters.push(Self {
                name: extension.name.to_owned(),
                entry: node.value().cloned().unwrap_or_default(),
                disabled: node.field("disabled").is_true(),
            });
        }
        (filters, false)
    }

    /// What it does, with the configuration of the route where there is one.
    pub(crate) fn effect(&self, route_config: Option<&Value>) -> Effect {
        let extension = Node::of(&self.entry).extension();
        let Some(own) = route_config.map(Node::of) else {
            return if self.disabled { Effect::Passes } else { effect_of(&extension, extension.config) };
        };
        let (message, config) = match own.message() {
            // envoy.config.route.v3.FilterConfig wraps the filter's own.
            Some("FilterConfig") => {
                if own.field("disabled").is_true() {
                    return Effect::Passes;
                }
                let inner = own.field("config");
                if !inner.exists() {
                    return effect_of(&extension, extension.config);
                }
                (inner.message(), inner)
            }
            message => (message, own),
        };
        match message {
            Some("HTTPFault") => fault(config),
            Some("RBACPerRoute") => rbac(config.field("rbac")),
            _ => match effect_of(&extension, extension.config) {
                Effect::Passes if is_passive(&extension) => Effect::Passes,
                _ => Effect::MayAnswer,
            },
        }
    }
}

fn effect_of(extension: &Extension<'_>, config: Node<'_>) -> Effect {
    if is_passive(extension) {
        return Effect::Passes;
    }
    match extension.message {
        "HTTPFault" => fault(config),
        "RBAC" => rbac(config),
        _ if extension.name == "envoy.fault" && !config.field("abort").exists() => Effect::Passes,
        _ => Effect::MayAnswer,
    }
}

/// Whether a filter never answers a CONNECT: it counts, adds headers, or answers only requests of another method (CORS
/// preflight). A filter that is not known may answer, so that nothing is promised that a filter can break.
fn is_passive(filter: &Extension<'_>) -> bool {
    matches!(
        filter.message,
        "FilterConfig" if filter.name.contains("grpc_stats") || filter.name.contains("istio.alpn")
    ) || matches!(
        filter.message,
        "Cors"
            | "GrpcWeb"
            | "Compressor"
            | "Decompressor"
            | "HeaderToMetadata"
            | "PeerMetadataConfig"
            | "AlpnFilter"
    ) || matches!(
        filter.name,
        "istio.stats"
            | "istio.alpn"
            | "istio.metadata_exchange"
            | "istio_authn"
            | "waypoint_downstream_peer_metadata"
            | "envoy.filters.http.grpc_stats"
            | "envoy.filters.http.cors"
            | "envoy.cors"
            | "envoy.filters.http.grpc_web"
            | "envoy.grpc_web"
            | "mixer_alpn"
            | "envoy.filters.http.header_to_metadata"
    )
}

/// A fault filter without an abort only delays; without either it waits to be told by a header.
fn fault(config: Node<'_>) -> Effect {
    let abort = config.field("abort");
    if !abort.exists() {
        return Effect::Passes;
    }
    let percentage = abort.field("percentage");
    let share = share(percentage).unwrap_or(0.0);
    let is_conditional = ["headers", "upstream_cluster", "downstream_nodes", "max_active_faults"]
        .iter()
        .any(|name| config.field(name).exists());
    match abort.field("http_status").integer().and_then(|status| u16::try_from(status).ok()) {
        _ if share <= 0.0 => Effect::Passes,
        Some(status) if share >= 1.0 && !is_conditional => {
            Effect::Answers { status, details: "fault_filter_abort".to_owned() }
        }
        _ => Effect::MayAnswer,
    }
}

/// envoy.type.v3.FractionalPercent as a share of one.
pub(crate) fn share(percentage: Node<'_>) -> Option<f64> {
    let denominator = match percentage.field("denominator").str() {
        Some("TEN_THOUSAND") => 10_000.0,
        Some("MILLION") => 1_000_000.0,
        _ => 100.0,
    };
    percentage.exists().then(|| percentage.field("numerator").number().unwrap_or(0.0) / denominator)
}

/// RBAC without rules and matcher lets everything pass (`RoleBasedAccessControlEngineImpl` is not made).
pub(crate) fn rbac(config: Node<'_>) -> Effect {
    let rules = config.field("rules");
    if config.field("matcher").exists() {
        return Effect::MayAnswer;
    }
    if !rules.exists() {
        return Effect::Passes;
    }
    let is_any = |policy: &Node<'_>| {
        let any = |list: &str| policy.field(list).items().any(|rule| rule.field("any").is_true());
        any("permissions") && any("principals") && !policy.field("condition").exists()
    };
    let policies = rules.field("policies");
    let names: Vec<&String> = policies.members().into_iter().flat_map(|members| members.keys()).collect();
    let any = names.iter().find(|name| is_any(&policies.key(name)));
    let denied = |by: &str| Effect::Answers {
        status: 403,
        details: format!("rbac_access_denied_matched_policy[{by}]"),
    };
    match (rules.field("action").str().unwrap_or("ALLOW"), any, names.is_empty()) {
        ("DENY", Some(name), _) if names.len() == 1 => denied(name),
        ("DENY", _, true) | ("ALLOW", Some(_), _) | ("LOG", _, _) => Effect::Passes,
        ("ALLOW", None, true) => denied("none"),
        _ => Effect::MayAnswer,
    }
}
