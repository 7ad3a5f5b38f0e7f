//! `tests/faults`: one small configuration for each kind that the evaluator once answered wrongly, with what a real
//! Envoy did. `tests/faults/WRONG` lists the folders that are still wrong; a folder that is right must come off it.
#![expect(clippy::disallowed_methods, reason = "the crate is pure, its tests read files")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracer_mesh::{CURL_CONNECT, ConnectionOutcome, Decision, Dump, explain, render};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/faults")
}

/// What the text of the answer has (`must` of `expected.json`) and lacks (`must_not`).
const TEXTS: &[(&str, &[&str], &[&str])] = &[
    ("annotation_exclude_ports", &["excludeOutboundPorts"], &[]),
    (
        "auto_allocated_vip",
        &["ServiceEntry for proxy.corp.example: declare port 3128 as TCP"],
        &["resolution: NONE", "leave the proxy's addresses out"],
    ),
    (
        "destinationrule_overwritten",
        &["kind: DestinationRule", "host: proxy.corp.example"],
        &["name: default"],
    ),
    (
        "domain_without_port",
        &["no virtual host has the domain example.com:443"],
        &["it has no route for a CONNECT"],
    ),
    ("egress_proxy_policy", &["10.7.7.7:8443"], &["any answer is the proxy's own"]),
    ("entry_with_original_dst_filter", &[], &["not a whole"]),
    ("fix_names_collide", &["forward-proxy-10-0-0-1-3128"], &[]),
    ("gateway_dump", &["gateway"], &["Proven", "kind: ServiceEntry"]),
    (
        "headless_pod_dialed",
        &["Fix: Service infra/squid: declare port 3128 as TCP"],
        &["kind: ServiceEntry", "unrelated"],
    ),
    ("inbound_side", &["inbound"], &["any answer is the proxy's own"]),
    ("interception_mode_none", &["INTERCEPTION_MODE"], &["not a whole"]),
    ("limit_of_one_connection", &["limit of 1 connection"], &[]),
    (
        "mesh_proxy_http_port",
        &["Fix: Service infra/proxy: declare port 3128 as TCP"],
        &["leave the proxy's addresses out"],
    ),
    ("mesh_proxy_tcp_port", &["the mesh's own mTLS"], &["DestinationRule", "At fault"]),
    ("no_endpoints", &["no endpoint"], &["Proven"]),
    (
        "other_host_takes_the_port",
        &["db.other.example", "ServiceEntry: send 10.0.0.1:3128"],
        &["any answer is the proxy's own"],
    ),
    ("port_overridden", &["10.0.0.1:4000"], &[]),
    ("proxy_protocol_upstream", &["PROXY protocol"], &[]),
    ("routes_missing", &["as HTTP"], &[]),
    ("service_without_an_address", &["Fix 1: ServiceEntry: send 10.0.0.1:3128"], &["old/legacy: declare"]),
    ("tls_off_for_a_stranger", &["Fix 1: ServiceEntry: send 10.0.0.1:3128"], &["kind: DestinationRule"]),
    ("wildcard_host_in_a_name", &["kind: DestinationRule"], &["name: \"-", "name: -"]),
];

/// The `effect` of `expected.json`.
fn effect(decision: &Decision) -> &'static str {
    let is_direct = decision.verdict.is_some_and(|verdict| verdict.name() == "direct");
    match decision.outcome {
        ConnectionOutcome::LocalReply => "local_reply",
        ConnectionOutcome::Tunnel if is_direct => "direct",
        ConnectionOutcome::Tunnel => "tunnel",
        ConnectionOutcome::Elsewhere => "elsewhere",
        ConnectionOutcome::Answered => "answered",
        ConnectionOutcome::Forward => "forward",
        ConnectionOutcome::Terminate => "terminate",
        ConnectionOutcome::Close => "close",
        ConnectionOutcome::Pending => "pending",
    }
}

/// What is wrong with the answer for one folder.
fn faults_of(case: &Path) -> Vec<String> {
    let name = case.file_name().unwrap().to_str().unwrap();
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(case.join("expected.json")).unwrap()).unwrap();
    let head = std::fs::read(case.join("head.bin")).unwrap_or_else(|_| CURL_CONNECT.to_vec());
    let to: SocketAddr = expected["to"].as_str().unwrap().parse().unwrap();
    let dump = Dump::from_bytes(std::fs::read(case.join("config_dump.json")).unwrap()).unwrap();
    let answer = match explain(&dump, &[to], &head) {
        Ok(mut answers) => answers.remove(0),
        Err(error) => return vec![error.to_string()],
    };
    let decision = &answer.decision;
    let mut wrong = Vec::new();
    let expect = &expected["expect"];
    let effect = effect(decision);
    let effects = expect["effect"].as_array().cloned().unwrap_or_else(|| vec![expect["effect"].clone()]);
    if !effects.contains(&effect.into()) {
        wrong.push(format!("{effect} in place of {}", expect["effect"]));
    }
    let verdict = decision.verdict.map(tracer_core::verdict::Verdict::name);
    let mut same = |what: &str, found: Option<&str>| {
        if let Some(wanted) = expect[what].as_str()
            && !found.is_some_and(|found| found.starts_with(wanted))
        {
            wrong.push(format!("{what} {found:?} in place of {wanted}"));
        }
    };
    same("details", decision.details.as_deref());
    same("cluster", decision.cluster.as_deref());
    same("route_config", decision.route_config.as_deref());
    same("verdict", verdict);
    if expect["verdict_not"].as_str().is_some_and(|not| verdict == Some(not)) {
        wrong.push(format!("verdict {verdict:?}"));
    }
    if let Some(status) = expect["status"].as_u64()
        && decision.status.map(u64::from) != Some(status)
    {
        wrong.push(format!("status {:?} in place of {status}", decision.status));
    }
    if let Some(upstream) = expect["upstream"].as_str()
        && !decision.sent_to.as_deref().is_some_and(|to| to.contains(upstream))
    {
        wrong.push(format!("sent to {:?} in place of {upstream}", decision.sent_to));
    }
    if expected["certain"] == Value::Bool(false) && decision.certain {
        wrong.push("certain".to_owned());
    }
    // A share of requests that is drawn by lot is never certain, nor what came by discovery and is not in the dump.
    let may_doubt = effects.len() > 1 || ["runtime_fraction", "ecds_listener_filter"].contains(&name);
    if expected["certain"].is_null() && !decision.certain && !may_doubt {
        wrong.push(format!("not certain: {:?} {:?}", decision.caveats, decision.early_filters));
    }
    let text = render::text(std::slice::from_ref(&answer), dump.unreadable);
    for (_, has, lacks) in TEXTS.iter().filter(|(known, ..)| *known == name) {
        wrong.extend(has.iter().filter(|part| !text.contains(**part)).map(|part| format!("lacks {part:?}")));
        wrong.extend(lacks.iter().filter(|part| text.contains(**part)).map(|part| format!("has {part:?}")));
    }
    wrong
}

#[test]
fn every_folder_that_is_not_listed_as_wrong_is_answered_as_envoy_did() {
    let listed = std::fs::read_to_string(folder().join("WRONG")).unwrap();
    let listed: BTreeSet<&str> =
        listed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() > 50, "{} folders only", cases.len());
    let mut problems = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let wrong = faults_of(case);
        match (wrong.is_empty(), listed.contains(name)) {
            (false, false) => problems.push(format!("{name}: {}", wrong.join("; "))),
            (true, true) => problems.push(format!("{name} is right: take it off WRONG")),
            (true, false) | (false, true) => {}
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
