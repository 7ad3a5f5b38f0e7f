//! IPv4 and IPv6 in one mesh: the proxy is dialed by either, and other teams' Services have one or both.

use serde_json::{Value, json};

use super::objects::{Kind, entry, other, service};
use super::{Addresses, Client, Request, Situation, To, VIP, VIP_V6, add_with};

pub(super) fn all(table: &mut Vec<Situation>, addresses: &Addresses) {
    let http = || other(Kind::ClusterIp, "http", None);
    let ip = |address: [u8; 4]| json!(address.map(|byte| byte.to_string()).join("."));
    let both = |mut object: Value, addresses: [Value; 2]| {
        object["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
        object["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
        object["spec"]["clusterIP"] = addresses[0].clone();
        object["spec"]["clusterIPs"] = json!(addresses);
        object
    };
    let only_v6 = |mut object: Value, address: &str| {
        object["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        object["spec"]["ipFamilies"] = json!(["IPv6"]);
        object["spec"]["clusterIP"] = json!(address);
        object
    };
    let dual_http = || both(http(), [ip([10, 96, 20, 2]), json!("fd00:96::2002")]);
    let squid = |protocol| {
        let service = service("egress", "squid", Kind::ClusterIp, protocol, None, Some("squid"));
        both(service, [ip(VIP), json!(VIP_V6)])
    };
    let own: Vec<&str> = [Some(&addresses.squid), addresses.squid_v6.as_ref()]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let mut at = |name: &str, to, request, objects: Vec<Value>| {
        add_with(table, &format!("dual_stack_{name}"), Client::DualStack, to, request, objects);
    };
    for (title, to, vip) in [("v4", To::Squid, To::Address(VIP)), ("v6", To::SquidV6, To::VipV6)] {
        at(&format!("{title}_undeclared"), to, Request::Connect, vec![]);
        at(&format!("{title}_undeclared_denied"), to, Request::ConnectDenied, vec![]);
        at(&format!("{title}_beside_http"), to, Request::Connect, vec![http()]);
        at(&format!("{title}_beside_http_both"), to, Request::Connect, vec![dual_http()]);
        at(&format!("{title}_beside_http_v6"), to, Request::Connect, vec![only_v6(http(), "fd00:96::2002")]);
        at(&format!("{title}_beside_http_both_http10"), to, Request::Connect10, vec![dual_http()]);
        let entry = entry("shop", "proxy", "TCP", "NONE", &own, &[], &["*"]);
        at(&format!("{title}_entry_tcp_beside_http"), to, Request::Connect, vec![entry, dual_http()]);
        for protocol in ["tcp", "http", "web"] {
            at(&format!("{title}_vip_{protocol}"), vip, Request::Connect, vec![squid(protocol)]);
        }
    }
}
