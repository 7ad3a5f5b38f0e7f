//! Each filter on real reports, alone and together, and after it was written as a query and read again.

mod scene;

use std::sync::Arc;

use clap::{Args as _, FromArgMatches as _};
use scene::{CURL, GRANTED, Scene};
use tracer_core::{filter::Filter, pod::Pod, report::Report};

fn filter(args: &[&str]) -> Filter {
    let command = Filter::augment_args(clap::Command::new("observe"));
    let matches = command.try_get_matches_from(["observe"].iter().chain(args)).expect("a filter");
    Filter::from_arg_matches(&matches).expect("a filter")
}

fn reports() -> [(&'static str, Report); 5] {
    const ENVOY_404: &str = "HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n";
    let passed = || Scene::outbound().asks().dials().sends_upstream(CURL);
    let mut named = Scene::outbound().asks().answers(ENVOY_404).report();
    (named.source.namespace, named.source.pod) = (Some("shop".to_owned()), Some("cart-7d9-x2".to_owned()));
    named.source.workload = Some("cart".to_owned());
    named.source.owner = Some(Arc::new(Pod {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        name: "cart-7d9-x2".to_owned(),
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        workload: "cart".to_owned(),
        injected: true,
        host_network: false,
        ignored: false,
    }));
    let other =
        Scene::outbound().to("[fd00:1::1]:8080").app_sends("CONNECT api.example.com:8443 HTTP/1.1\r\n\r\n");
    [
        ("named", named),
        ("unnamed", Scene::outbound().asks().answers(ENVOY_404).report()),
        ("granted", passed().answers(GRANTED).report()),
        ("refused", passed().answers("HTTP/1.1 407 X\r\n\r\n").report()),
        ("closed", other.sidecar_closes().report()),
    ]
}

#[test]
fn each_filter_matches_its_reports() {
    let all = ["named", "unnamed", "granted", "refused", "closed"];
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &all),
        (&["-n", "shop"], &["named"]),
        (&["-n", "!shop"], &all[1..]),
        (&["-p", "cart"], &["named"]),
        (&["-p", "shop/cart-7d9"], &["named"]),
        (&["-p", "bank/cart", "-p", "cart-8"], &[]),
        (&["-p", "bank/,shop/cart"], &["named"]),
        (&["-w", "cart"], &["named"]),
        (&["-w", "shop/cart,bank/bill"], &["named"]),
        (&["-w", "shop/car"], &[]),
        (&["-l", "app=cart"], &["named"]),
        (&["-l", "app in (cart, bill),!legacy"], &["named"]),
        (&["-l", "app=cart", "-l", "tier"], &[]),
        (&["--to", "10.0.0.1"], &all[..4]),
        (&["--to", "10.0.0.1:3129"], &[]),
        (&["--to", "!10.0.0.1:3128"], &["closed"]),
        (&["--to", "10.0.0.0/8"], &all[..4]),
        (&["--to", "10.0.0.0/8:3129,11.0.0.0/8"], &[]),
        (&["--to", ":8080"], &["closed"]),
        (&["--to", "fd00::/16,:1"], &["closed"]),
        (&["--to", "[fd00::/16]:3128"], &[]),
        (&["--to", "[fd00:1::1]:8080", "--to", "fd00:1::2"], &["closed"]),
        (&["--authority", "EN.wikipedia.org"], &all[..4]),
        (&["--authority", "*.example.com:8443"], &["closed"]),
        (&["--authority", "*.example.com:443"], &[]),
        (&["--verdict", "tunneled", "--verdict", "blackholed"], &["granted", "closed"]),
        (&["--verdict", "tunneled,blackholed"], &["granted", "closed"]),
        (&["--verdict", "!handled_as_http"], &["granted", "refused", "closed"]),
        (&["--verdict", "!handled_as_http", "--verdict", "!tunneled"], &["refused", "closed"]),
        (&["--flagged"], &["named", "unnamed", "closed"]),
        (&["--http-status", "404"], &["named", "unnamed"]),
        (&["--http-status", "404,407"], &["named", "unnamed", "refused"]),
        (&["--http-status", "4+"], &["named", "unnamed", "refused"]),
        (&["--http-status", "4+", "--http-status", "!407"], &["named", "unnamed"]),
        (&["--flagged", "--http-status", "!404"], &["closed"]),
    ];
    for (args, expected) in cases {
        let filter = filter(args);
        let passed: Vec<_> =
            reports().iter().filter(|(_, report)| filter.matches(report)).map(|(name, _)| *name).collect();
        assert_eq!(&passed, expected, "{args:?}");

        let mut sent = Filter::default();
        for (name, value) in filter.pairs() {
            sent.add(name, &value).expect("what was written can be read");
        }
        assert_eq!(sent, filter, "{args:?}");
    }
}

#[test]
fn malformed_filter_in_a_query_is_refused_with_the_reason() {
    let mut filter = Filter::default();
    let mut refused = |name, value| filter.add(name, value).unwrap_err().to_string();
    let error = refused("color", "red");
    assert!(error.starts_with("there is no filter `color`; there are namespace, pod, "), "{error}");
    let error = refused("selector", "app=\u{1b}");
    assert!(error.starts_with("selector: "), "{error}");
    let error = refused("flagged", "maybe");
    assert!(error.starts_with("flagged: want true or false"), "{error}");
    let error = refused("verdict", "handled");
    assert!(
        error.starts_with(
            "verdict: there is no verdict `handled`; did you mean `handled_as_http`? there are "
        ),
        "{error}"
    );
}

#[test]
fn filter_that_leaves_nothing_says_what_there_is() {
    let all: Vec<Box<Report>> = reports().into_iter().map(|(_, report)| Box::new(report)).collect();
    for (args, sentence) in [
        (
            &["-n", "shpo"][..],
            "none of the 5 sessions passes --namespace shpo: did you mean shop? there are shop (1)",
        ),
        (
            &["-p", "bank/cart"],
            "none of the 5 sessions passes --pod bank/cart: there are shop/cart-7d9-x2 (1)",
        ),
        (
            &["--to", ":1"],
            "none of the 5 sessions passes --to :1: there are 10.0.0.1:3128 (4), [fd00:1::1]:8080 (1)",
        ),
        (
            &["--http-status", "5+"],
            "none of the 5 sessions passes --http-status 5+: there are 404 (2), 200 (1), 407 (1)",
        ),
        (&["-l", "app=bank"], "none of the 5 sessions passes --selector app in (bank)"),
        (
            &["--verdict", "tunneled", "--flagged"],
            "each filter alone passes some of the 5 sessions, and all together pass none",
        ),
    ] {
        assert_eq!(filter(args).nothing_because(&all).as_deref(), Some(sentence), "{args:?}");
    }
    assert_eq!(filter(&["-n", "shop"]).nothing_because(&all), None, "one passes");
    assert_eq!(filter(&["-n", "shop"]).nothing_because(&[]), None);
    let unnamed = filter(&["-n", "shop"]).nothing_because(&all[1..]).expect("a sentence");
    assert!(unnamed.contains("no container runtime told the names"), "{unnamed}");
    let fine = filter(&["--flagged"]).nothing_because(&all[2..4]).expect("a sentence");
    assert_eq!(fine, "none of the 2 sessions is flagged");
    let mut hostile = all;
    hostile[0].source.namespace = Some("\u{1b}[31m".repeat(100));
    let said = filter(&["-n", "shop"]).nothing_because(&hostile).expect("a sentence");
    assert!(said.chars().all(|letter| matches!(letter, ' '..='~' | '…')) && said.len() < 800, "{said}");
}
