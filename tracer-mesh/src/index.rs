//! The heads of a dump's entries: the few fields that the index needs, read in one pass over the text without building
//! a tree. A field of an unexpected type reads as absent.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

/// The elements of `configs`, or of a bare list.
pub(crate) struct Sections<'a>(pub(crate) Vec<&'a RawValue>);

/// One element of `configs`; which fields are there depends on its type.
#[derive(Deserialize)]
pub(crate) struct Section<'a> {
    #[serde(rename = "@type", borrow, default)]
    pub(crate) kind: Option<Cow<'a, str>>,
    #[serde(alias = "staticListeners", borrow, default)]
    pub(crate) static_listeners: Items<'a>,
    #[serde(alias = "dynamicListeners", borrow, default)]
    pub(crate) dynamic_listeners: Items<'a>,
    // Envoy before 1.12 (Istio before 1.5).
    #[serde(alias = "dynamicActiveListeners", borrow, default)]
    pub(crate) dynamic_active_listeners: Items<'a>,
    #[serde(alias = "staticRouteConfigs", borrow, default)]
    pub(crate) static_route_configs: Items<'a>,
    #[serde(alias = "dynamicRouteConfigs", borrow, default)]
    pub(crate) dynamic_route_configs: Items<'a>,
    #[serde(alias = "staticClusters", borrow, default)]
    pub(crate) static_clusters: Items<'a>,
    #[serde(alias = "dynamicActiveClusters", borrow, default)]
    pub(crate) dynamic_active_clusters: Items<'a>,
    #[serde(alias = "staticEndpointConfigs", borrow, default)]
    pub(crate) static_endpoint_configs: Items<'a>,
    #[serde(alias = "dynamicEndpointConfigs", borrow, default)]
    pub(crate) dynamic_endpoint_configs: Items<'a>,
    #[serde(alias = "dynamicWarmingClusters", borrow, default)]
    pub(crate) dynamic_warming_clusters: Items<'a>,
    #[serde(alias = "ecdsFilters", borrow, default)]
    pub(crate) ecds_filters: Items<'a>,
    #[serde(alias = "filterChains", default)]
    pub(crate) filter_chains: Option<IgnoredAny>,
}

/// A listener filter, network filter or HTTP filter that came by extension discovery.
#[derive(Deserialize)]
pub(crate) struct DiscoveredFilter<'a> {
    #[serde(alias = "ecdsFilter", borrow, default)]
    pub(crate) ecds_filter: Part<'a>,
}

/// One entry of a section, with the resource inside it.
#[derive(Deserialize)]
pub(crate) struct Entry<'a> {
    #[serde(alias = "activeState", borrow, default)]
    active_state: Part<'a>,
    #[serde(alias = "warmingState", borrow, default)]
    pub(crate) warming_state: Part<'a>,
    #[serde(alias = "drainingState", default)]
    draining_state: Option<IgnoredAny>,
    #[serde(alias = "errorState", borrow, default)]
    pub(crate) error_state: Part<'a>,
    #[serde(alias = "lastUpdated", default)]
    last_updated: Lenient<String>,
    #[serde(default)]
    name: Lenient<String>,
    #[serde(borrow, default)]
    listener: Part<'a>,
    #[serde(borrow, default)]
    address: Part<'a>,
    #[serde(alias = "routeConfig", borrow, default)]
    pub(crate) route_config: Part<'a>,
    #[serde(borrow, default)]
    pub(crate) cluster: Part<'a>,
    #[serde(alias = "endpointConfig", borrow, default)]
    pub(crate) endpoint_config: Part<'a>,
    #[serde(skip)]
    whole: &'a str,
}

/// envoy.admin.v3.UpdateFailureState.
#[derive(Deserialize)]
pub(crate) struct ErrorState<'a> {
    #[serde(alias = "failedConfiguration", borrow, default)]
    pub(crate) failed_configuration: Part<'a>,
    #[serde(alias = "lastUpdateAttempt", default)]
    pub(crate) last_update_attempt: Lenient<String>,
    #[serde(default)]
    pub(crate) details: Lenient<String>,
}

/// What tells listeners apart, and which of them accepts.
#[derive(Debug, Deserialize)]
pub(crate) struct ListenerHead {
    #[serde(default)]
    name: Lenient<String>,
    #[serde(default)]
    address: Lenient<AddressHead>,
    #[serde(alias = "additionalAddresses", default)]
    additional_addresses: Lenient<Vec<Lenient<AdditionalHead>>>,
    // The second name is what Envoy 1.13 to 1.17 wrote for the field while it was deprecated.
    #[serde(alias = "useOriginalDst", alias = "hidden_envoy_deprecated_use_original_dst", default)]
    use_original_dst: Lenient<bool>,
    #[serde(alias = "trafficDirection", default)]
    traffic_direction: Lenient<String>,
    #[serde(alias = "bindToPort", default)]
    bind_to_port: Lenient<bool>,
    #[serde(alias = "deprecatedV1", default)]
    deprecated_v1: Lenient<DeprecatedHead>,
}

#[derive(Debug, Deserialize)]
struct AddressHead {
    #[serde(alias = "socketAddress", default)]
    socket_address: Lenient<SocketHead>,
}

#[derive(Debug, Deserialize)]
struct AdditionalHead {
    #[serde(default)]
    address: Lenient<AddressHead>,
}

#[derive(Debug, Deserialize)]
struct SocketHead {
    #[serde(default)]
    protocol: Lenient<String>,
    #[serde(default)]
    address: Lenient<String>,
    #[serde(alias = "portValue", default)]
    port_value: Lenient<u16>,
    #[serde(alias = "ipv4Compat", default)]
    ipv4_compat: Lenient<bool>,
}

#[derive(Debug, Deserialize)]
struct DeprecatedHead {
    #[serde(alias = "bindToPort", default)]
    bind_to_port: Lenient<bool>,
}

/// The name of a route configuration, a cluster, or the cluster of an endpoint list.
#[derive(Deserialize)]
pub(crate) struct NameHead {
    #[serde(default)]
    pub(crate) name: Lenient<String>,
    #[serde(alias = "clusterName", default)]
    pub(crate) cluster_name: Lenient<String>,
}

/// `BootstrapConfigDump`, reduced to the sidecar's identity.
#[derive(Deserialize)]
struct BootstrapSection<'a> {
    #[serde(borrow)]
    bootstrap: BootstrapBody<'a>,
}

#[derive(Deserialize)]
struct BootstrapBody<'a> {
    #[serde(borrow)]
    node: Option<&'a RawValue>,
}

pub(crate) struct Bootstrap<'a> {
    pub(crate) node: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Bootstrap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BootstrapSection::deserialize(deserializer).map(|section| Self { node: section.bootstrap.node })
    }
}

/// A socket address of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub ip: IpAddr,
    pub port: u16,
    /// `ipv4_compat`: an IPv6 wildcard that serves IPv4 too.
    pub serves_ipv4: bool,
}

impl ListenerHead {
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.0.as_deref().filter(|name| !name.is_empty())
    }

    /// The name, or what stands for it in a message.
    pub(crate) fn label(&self) -> String {
        match (self.name(), self.binds().next()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(bind)) => format!("(nameless, on {}:{})", bind.ip, bind.port),
            (None, None) => "(nameless)".to_owned(),
        }
    }

    pub(crate) fn use_original_dst(&self) -> bool {
        self.use_original_dst.0 == Some(true)
    }

    pub(crate) fn is_inbound(&self) -> bool {
        self.traffic_direction.0.as_deref() == Some("INBOUND")
    }

    /// Whether the kernel listens on the address too, which makes it reachable without a redirect.
    pub(crate) fn binds_to_port(&self) -> bool {
        let old = self.deprecated_v1.0.as_ref().and_then(|old| old.bind_to_port.0);
        self.bind_to_port.0.or(old) != Some(false)
    }

    /// All TCP addresses, the main one first; pipes and internal listeners have none.
    pub(crate) fn binds(&self) -> impl Iterator<Item = Bind> {
        let more = self.additional_addresses.0.iter().flatten();
        let more = more.filter_map(|more| more.0.as_ref()).filter_map(|more| more.address.0.as_ref());
        self.address.0.iter().chain(more).filter_map(AddressHead::bind)
    }
}

impl AddressHead {
    fn bind(&self) -> Option<Bind> {
        let socket = self.socket_address.0.as_ref()?;
        if socket.protocol.0.as_deref() == Some("UDP") {
            return None;
        }
        let ip = socket.address.0.as_deref()?.parse().ok()?;
        Some(Bind { ip, port: socket.port_value.0?, serves_ipv4: socket.ipv4_compat.0 == Some(true) })
    }
}

impl<'a> Entry<'a> {
    /// The listener in use, as text, and when it was last changed: of a dynamic one its active state, of a static one
    /// itself.
    pub(crate) fn listener(&self) -> Option<(&'a str, Option<String>)> {
        if let Some(state) = self.active_state.0 {
            let state: Entry<'a> = serde_json::from_str(state).ok()?;
            return state.listener.0.map(|listener| (listener, state.last_updated.0));
        }
        let is_dynamic = self.warming_state.0.is_some() || self.error_state.0.is_some();
        if is_dynamic || self.draining_state.is_some() {
            return None;
        }
        let listener = self.listener.0.or(self.address.0.map(|_| self.whole))?;
        Some((listener, self.last_updated.0.clone()))
    }

    /// The listener that is warming, as text.
    pub(crate) fn warming_listener(&self) -> Option<&'a str> {
        let state: Entry<'a> = serde_json::from_str(self.warming_state.0?).ok()?;
        state.listener.0
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active_state.0.is_some()
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.0.as_deref().filter(|name| !name.is_empty())
    }

    /// The entry whose text is `raw`.
    pub(crate) fn read(raw: &'a RawValue) -> Option<Self> {
        let entry: Self = serde_json::from_str(raw.get()).ok()?;
        Some(Self { whole: raw.get(), ..entry })
    }
}

/// A list's elements, unparsed; of anything but a list, none.
#[derive(Default)]
pub(crate) struct Items<'a>(pub(crate) Vec<&'a RawValue>);

/// A member that is an object, unparsed; anything else is absent.
#[derive(Default)]
pub(crate) struct Part<'a>(pub(crate) Option<&'a str>);

/// A value of the expected type, or nothing.
#[derive(Debug)]
pub(crate) struct Lenient<T>(pub(crate) Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(raw.get()).ok()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        Ok(Self(raw.starts_with('{').then_some(raw)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut items = Vec::new();
        deserializer.deserialize_any(Collect { into: &mut items, member: None })?;
        Ok(Self(items))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Sections<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut items = Vec::new();
        deserializer.deserialize_any(Collect { into: &mut items, member: Some("configs") })?;
        Ok(Self(items))
    }
}

/// Collects a list's elements, and of an object those of the one member that is named.
struct Collect<'v, 'de> {
    into: &'v mut Vec<&'de RawValue>,
    member: Option<&'static str>,
}

impl<'de> Visitor<'de> for Collect<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            self.into.push(item);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            if self.member == Some(&*name) {
                let Items(mut items) = members.next_value()?;
                self.into.append(&mut items);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}
