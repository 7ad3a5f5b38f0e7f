//! Compact lines and tables as a terminal gets them: plain, colored, explained. Text from the wire, or from a report of
//! another program, is always escaped.

mod scene;

use jiff::tz::TimeZone;
use scene::{CURL, GRANTED, Scene};
use tracer_core::report::{Colors, Compact, Gap, Listener, LossSource, Message, Report, Table};

const ENVOY_404: &str = "HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n";

fn line(report: &Report, colors: Colors, explain: bool) -> String {
    Compact::new(colors, TimeZone::UTC, explain).show(report)
}

/// One report of each form.
fn reports() -> Vec<Report> {
    let mut named = Scene::outbound().asks().answers(ENVOY_404).report();
    named.source.namespace = Some("shop".to_owned());
    named.source.pod = Some("cart-7d9".to_owned());
    named.listener = Some(Listener {
        name: "0.0.0.0_3128".to_owned(),
        because: Some("Service default/legacy port 3128 (HTTP)".to_owned()),
    });
    named.fix = Some(
        "ServiceEntry: send 10.0.0.1:3128 as TCP: egress-tracer explain --pod shop/cart-7d9 --to 10.0.0.1:3128 -o yaml"
            .to_owned(),
    );
    named.manifest = Some(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: forward-proxy-3128\n\
         \x20 namespace: shop\nspec:\n  hosts:\n  - forward-proxy-3128.external\n"
            .to_owned(),
    );
    let mut unnamed = Scene::outbound().asks().answers(ENVOY_404).report();
    (unnamed.source.pid, unnamed.source.comm) = (None, None);
    let passed = || Scene::outbound().asks().dials().sends_upstream(CURL);
    vec![
        named,
        unnamed,
        Scene::joined_late().asks().answers(ENVOY_404).report(),
        passed().answers(GRANTED).report(),
        passed().answers("HTTP/1.1 407 X\r\n\r\n").report(),
        passed().answers("SSH-2.0-OpenSSH_9.2\r\n").report(),
        passed().proxy_closes().sidecar_closes().report(),
        passed().waits().report(),
        Scene::outbound().asks().sidecar_closes().report(),
        Scene::direct().to("[fd00:1::1]:3128").asks().report(),
        Scene::outbound().app_sends("GET http://example.com/p HTTP/1.1\r\n\r\n").answers(ENVOY_404).report(),
    ]
}

fn lines(colors: Colors, explain: bool) -> String {
    let mut compact = Compact::new(colors, TimeZone::UTC, explain);
    reports().iter().map(|report| compact.show(report)).collect()
}

#[test]
fn plain_lines() {
    insta::assert_snapshot!(lines(Colors::Off, false));
}

#[test]
fn explained_lines() {
    insta::assert_snapshot!(lines(Colors::Off, true));
}

#[test]
fn colored_lines() {
    insta::assert_snapshot!(lines(Colors::On, true).replace('\u{1b}', "<ESC>"));
}

fn table(explain: bool) -> String {
    let mut table = Table::new(Colors::Off, TimeZone::UTC, explain);
    reports().iter().map(|report| table.show(report)).collect()
}

#[test]
fn table_of_reports() {
    insta::assert_snapshot!(table(false));
}

#[test]
fn table_with_explanations() {
    insta::assert_snapshot!(table(true));
}

#[test]
fn gaps_are_lines_of_their_own() {
    let time = "2026-11-20T11:45:15.123456Z";
    let mut text = String::new();
    for (source, reason) in [
        (LossSource::Kernel, "ring_full"),
        (LossSource::Userspace, "malformed"),
        (LossSource::Reader, "slow"),
    ] {
        let gap = Gap::new(time.to_owned(), source, reason, 12);
        let compact = Compact::new(Colors::Off, TimeZone::UTC, true);
        text.push_str(&compact.show_gap(&gap));
        let mut json = Vec::new();
        gap.write_line(&mut json);
        let json = String::from_utf8(json).expect("UTF-8");
        text.push_str(&json);
        assert_eq!(serde_json::from_str::<Message>(&json).expect("JSON"), Message::Gap(gap.clone()));
        assert_eq!(Table::new(Colors::Off, TimeZone::UTC, true).show_gap(&gap), compact.show_gap(&gap));
    }
    insta::assert_snapshot!(text);
    for report in reports() {
        let message: Message = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(message, Message::Report(Box::new(report)));
    }
}

/// Authorities that a malicious app could send.
const WICKED: [&[u8]; 8] = [
    b"\x1b[2J\x1b[31mred.example:443",
    b"\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\:443",
    b"\x1b]52;c;cm0gLXJmIC8K\x07:443",
    b"nul\0nul\0:443",
    b"\xff\xfe\xc3\x28:443",
    b"\xe2\x80\xaegro.elpmaxe:443",
    b"\x9b31m.example:443",
    b"a\x08\x7f\x0b\x0c:443",
];

fn is_harmless(text: &str) -> bool {
    text.chars().all(|letter| matches!(letter, ' '..='~' | '✗' | '…' | '─' | '═' | '▶' | '\n'))
}

#[test]
fn text_from_the_wire_is_escaped() {
    let mut text = String::new();
    for authority in WICKED {
        let head = [b"CONNECT ", authority, b" HTTP/1.1\r\nUser-Agent: \x1b[31mx\r\n\r\n"].concat();
        let report = Scene::outbound()
            .app_sends(head)
            .answers(b"HTTP/1.1 404 X\r\nserver: \x1b]0;title\x07\r\ncontent-length: 0\r\n\r\n")
            .report();
        for shown in shown(&report) {
            assert!(is_harmless(&shown), "{shown:?}");
        }
        for json in [report.to_json(), serde_json::to_string_pretty(&report).expect("JSON")] {
            assert!(json.chars().all(|letter| matches!(letter, ' '..='~' | '\n')), "{json:?}");
        }
        text.push_str(&line(&report, Colors::Off, true));
    }
    insta::assert_snapshot!(text);
}

/// A report in each text format.
fn shown(report: &Report) -> [String; 2] {
    [line(report, Colors::Off, true), Table::new(Colors::Off, TimeZone::UTC, true).show(report)]
}

#[test]
fn text_of_a_report_from_a_file_is_escaped() {
    // Its JSON comes from a socket or a file, so it may not have been escaped.
    let wicked = "\u{1b}]52;c;x\u{7}\u{202e}\u{0}\n✗▶";
    let mut report = Scene::outbound().asks().answers(ENVOY_404).report();
    report.connect.authority = wicked.into();
    report.explanation = wicked.to_owned();
    report.time = wicked.to_owned();
    report.fix = Some(format!("{wicked}: egress-tracer explain {wicked}"));
    report.manifest = Some(wicked.repeat(20));
    report.listener = Some(Listener { name: wicked.to_owned(), because: Some(wicked.to_owned()) });
    report.source.comm = Some(wicked.into());
    for named in [false, true] {
        if named {
            report.source.namespace = Some(wicked.to_owned());
            report.source.pod = Some(wicked.to_owned());
        }
        for shown in shown(&report) {
            assert!(is_harmless(&shown), "{shown:?}");
            // The mark and the arrows are our own, here and in the diagram.
            assert_eq!((shown.matches('✗').count(), shown.matches('▶').count()), (2, 1), "{shown:?}");
        }
    }
    let gap = Gap::new(wicked.to_owned(), LossSource::Kernel, wicked, 1);
    let shown = Compact::new(Colors::Off, TimeZone::UTC, true).show_gap(&gap);
    assert!(is_harmless(&shown) && shown.lines().count() == 1, "{shown:?}");
}

#[test]
fn long_authority_is_cut_for_display_and_complete_in_json() {
    let authority = format!("begin{}.example.com:443", "x".repeat(440));
    let head = format!("CONNECT {authority} HTTP/1.1\r\n\r\n");
    let mut report = Scene::outbound().app_sends(head).answers(ENVOY_404).report();
    assert_eq!(report.connect.authority, authority);
    assert!(report.explanation.chars().count() < 250, "{}", report.explanation);
    insta::assert_snapshot!(line(&report, Colors::Off, true));

    for long in ["\u{1b}".repeat(4096), "x".repeat(4096)] {
        report.connect.authority = long.into();
        for shown in
            [line(&report, Colors::Off, false), Table::new(Colors::Off, TimeZone::UTC, false).show(&report)]
        {
            assert!(shown.chars().count() < 1000 && shown.contains('…'), "{shown}");
        }
    }
}
