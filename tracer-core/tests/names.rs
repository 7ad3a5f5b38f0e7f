//! Attribution: owners' names come as facts between the events, and a report waits for them for a bounded time.

mod scene;

use std::sync::Arc;

use jiff::tz::TimeZone;
use scene::{APP_CGROUP, Scene};
use tracer_core::{
    pod::{Container, Fact, Owner, OwnerKey, Pod},
    report::{Colors, Compact, LineLayout, SourceKind},
    selector::Labels,
};

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\n\r\n";

fn cart() -> Pod {
    Pod {
        uid: "1".to_owned(),
        namespace: "shop".to_owned(),
        name: "cart-7d9".to_owned(),
        labels: Labels::from([("app".to_owned(), "a".repeat(63))]),
        workload: "cart".to_owned(),
        injected: true,
        host_network: false,
        ignored: false,
    }
}

fn owner(pod: Pod) -> Fact {
    let container = Container { name: "app".to_owned(), pod: Arc::new(pod) };
    Fact::Owner(OwnerKey::Cgroup(APP_CGROUP), Owner::Container(container))
}

#[test]
fn known_pod_is_named_at_once() {
    let reports = Scene::outbound().with_names().learns(owner(cart())).asks().answers(NOT_FOUND).reports();
    let source = &reports[0].source;
    assert_eq!(source.namespace.as_deref(), Some("shop"));
    assert_eq!(source.pod.as_deref(), Some("cart-7d9"));
    assert_eq!(source.container.as_deref(), Some("app"));
    assert_eq!(source.workload.as_deref(), Some("cart"));
    assert_eq!((source.kind, source.injected), (Some(SourceKind::Pod), Some(true)));
    assert_eq!(source.owner.as_ref().map(|pod| pod.labels["app"].len()), Some(63));
}

/// The API server refuses these characters, but a container runtime may not.
#[test]
fn label_of_63_special_characters_is_escaped() {
    let odd: String = "\"\\\n{}=,~\u{1b}[2J\u{202e}é/'`$".chars().cycle().take(63).collect();
    let labels = Labels::from([("service.istio.io/canonical-name".to_owned(), odd.clone())]);
    let workload = tracer_core::pod::workload("cart-7d9", &labels);
    assert_eq!(workload, odd);
    let pod = Pod { name: odd.clone(), workload, labels, ..cart() };
    let report =
        Scene::outbound().with_names().learns(owner(pod)).asks().answers(NOT_FOUND).reports().remove(0);
    let value: serde_json::Value = serde_json::from_str(&report.to_json()).expect("one object");
    assert_eq!((&value["source"]["workload"], &value["source"]["pod"]), (&odd.clone().into(), &odd.into()));
    let layout = LineLayout {
        colors: Colors::Off,
        width: None,
        marks: true,
        explain: false,
        node: false,
        zone: TimeZone::UTC,
    };
    let text = Compact::new(layout).show(&report);
    let line = text.lines().nth(1).expect("a line below the headings");
    assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
}

#[test]
fn report_waits_for_its_name_for_at_most_a_second() {
    let waiting = || Scene::outbound().with_names().asks().answers(NOT_FOUND);
    assert!(waiting().reports().is_empty());
    assert_eq!(waiting().learns(owner(cart())).reports()[0].source.workload.as_deref(), Some("cart"));
    let unknown = Fact::Owner(OwnerKey::Cgroup(APP_CGROUP), Owner::Unknown);
    assert_eq!(waiting().learns(unknown).reports()[0].source.kind, None);
    assert!(waiting().passes(900).reports().is_empty());
    assert_eq!(waiting().passes(1_100).reports()[0].source.namespace, None);
    // A fact about another owner does not release it.
    let other = Fact::Owner(OwnerKey::Cgroup(APP_CGROUP + 1), Owner::Host);
    assert!(waiting().learns(other).reports().is_empty());
}

#[test]
fn owner_is_asked_for_before_the_report_is_due() {
    let mut scene = Scene::outbound().with_names().asks();
    assert_eq!(scene.wanted(), [OwnerKey::Cgroup(APP_CGROUP)]);
    scene = scene.answers(NOT_FOUND);
    assert!(scene.wanted().is_empty());
}

#[test]
fn host_processes_and_host_network_pods_are_named_as_such() {
    let host = Fact::Owner(OwnerKey::Cgroup(APP_CGROUP), Owner::Host);
    let reports = Scene::outbound().with_names().learns(host).asks().answers(NOT_FOUND).reports();
    assert_eq!((reports[0].source.kind, &reports[0].source.pod), (Some(SourceKind::Host), &None));
    let pod = Pod { host_network: true, ..cart() };
    let reports = Scene::outbound().with_names().learns(owner(pod)).asks().answers(NOT_FOUND).reports();
    assert_eq!(reports[0].source.kind, Some(SourceKind::HostNetworkPod));
}

#[test]
fn pod_with_the_ignore_annotation_is_not_reported() {
    let ignored = || owner(Pod { ignored: true, ..cart() });
    assert!(Scene::outbound().with_names().learns(ignored()).asks().answers(NOT_FOUND).reports().is_empty());
    assert!(Scene::outbound().with_names().asks().answers(NOT_FOUND).learns(ignored()).reports().is_empty());
}

#[test]
fn reports_do_not_wait_without_a_container_runtime() {
    assert_eq!(Scene::outbound().asks().answers(NOT_FOUND).reports().len(), 1);
}
