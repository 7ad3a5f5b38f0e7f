//! Compact lines and tables as terminals of several widths get them: plain, colored, explained, in ASCII. No line is longer than
//! its terminal. Text from the wire, or from a report of another program, is always escaped.

mod scene;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use scene::{CURL, GRANTED, Scene};
use tracer_core::report::{
    Colors, Compact, Gap, LineLayout, Listener, LossSource, Message, Report, Table, ascii_marks,
};

const ENVOY_404: &str = "HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n";

fn layout(width: Option<usize>, colors: Colors, explain: bool) -> LineLayout {
    LineLayout { colors, width, marks: true, explain, node: false, zone: TimeZone::UTC }
}

/// The lines for one report, without the headings.
fn line(report: &Report, colors: Colors, explain: bool) -> String {
    let text = Compact::new(layout(None, colors, explain)).show(report);
    text.split_once('\n').expect("headings").1.to_owned()
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

/// All reports in one format.
fn lines(layout: LineLayout) -> String {
    let mut compact = Compact::new(layout);
    reports().iter().map(|report| compact.show(report)).collect()
}

fn table(layout: LineLayout) -> String {
    let mut table = Table::new(layout);
    reports().iter().map(|report| table.show(report)).collect()
}

/// The widths of terminals, and a pipe.
const WIDTHS: [Option<usize>; 4] = [Some(80), Some(120), Some(200), None];

fn name(width: Option<usize>) -> String {
    width.map_or_else(|| "pipe".to_owned(), |width| width.to_string())
}

#[test]
fn lines_in_every_width() {
    for width in WIDTHS {
        let text = lines(layout(width, Colors::Off, true));
        insta::assert_snapshot!(format!("lines_{}", name(width)), text);
        let colored = lines(layout(width, Colors::On, true)).replace('\u{1b}', "<ESC>");
        insta::assert_snapshot!(format!("lines_{}_in_color", name(width)), colored);
    }
}

#[test]
fn table_in_every_width() {
    for width in WIDTHS {
        insta::assert_snapshot!(format!("table_{}", name(width)), table(layout(width, Colors::Off, false)));
        let colored = table(layout(width, Colors::On, true)).replace('\u{1b}', "<ESC>");
        insta::assert_snapshot!(format!("table_{}_in_color", name(width)), colored);
    }
}

#[test]
fn lines_name_their_node_where_asked_to() {
    let layout = LineLayout { node: true, ..layout(Some(120), Colors::Off, false) };
    let mut reports = reports();
    for report in &mut reports {
        report.node = Some("node-1".to_owned());
    }
    let mut compact = Compact::new(layout.clone());
    let text: String = reports.iter().map(|report| compact.show(report)).collect();
    assert!(text.lines().all(|line| line.contains("NODE") || line.contains("node-1")), "{text}");
    let row = Table::new(layout).show(&reports[0]);
    assert!(row.lines().nth(1).is_some_and(|line| line.contains("node-1")), "{row}");
}

#[test]
fn cause_is_explained_once_and_then_counted() {
    let reports = reports();
    let mut compact = Compact::new(layout(Some(120), Colors::Off, true));
    let first = compact.show(&reports[0]);
    assert!(first.contains("never dialed") && first.lines().count() > 5, "{first}");
    for again in ["+1", "+2"] {
        let line = compact.show(&reports[0]);
        assert!(line.lines().count() == 1 && line.contains(&format!("404 by sidecar {again}")), "{line}");
    }
    // Another cause is explained: another listener, proxy, workload or status.
    let mut others = [reports[0].clone(), reports[0].clone(), reports[0].clone(), reports[0].clone()];
    others[0].listener = None;
    others[1].proxy.port = 3129;
    others[2].source.namespace = Some("bank".to_owned());
    others[3].reply.as_mut().expect("a reply").status = Some(426);
    for other in others {
        assert!(compact.show(&other).lines().count() > 5);
    }
}

#[test]
fn terminal_that_is_resized_gets_new_headings() {
    let reports = reports();
    let mut compact = Compact::new(layout(Some(80), Colors::Off, false));
    assert!(compact.show(&reports[0]).starts_with("TIME UTC"));
    compact.resize(Some(80));
    assert!(!compact.show(&reports[0]).contains("TIME"));
    compact.resize(Some(200));
    let text = compact.show(&reports[0]);
    assert!(text.starts_with("TIME UTC") && text.contains("VERDICT"), "{text}");
}

#[test]
fn plain_ascii_where_the_terminal_takes_no_marks() {
    let layout = LineLayout { marks: false, ..layout(Some(80), Colors::Off, true) };
    for text in [lines(layout.clone()), table(layout)] {
        assert!(
            text.is_ascii() && text.contains("x 404 by sidecar") && text.contains("--x 10.0.0.1:3128"),
            "{text}"
        );
    }
    assert_eq!(ascii_marks("✗ a ──▶ b …").chars().count(), "✗ a ──▶ b …".chars().count());
}

/// Whether a line is as narrow as the terminal, unless a single word of it is wider.
fn fits(line: &str, width: usize) -> bool {
    line.chars().count() <= width || line.split_whitespace().any(|word| word.chars().count() + 6 > width)
}

proptest! {
    #[test]
    fn no_line_is_longer_than_the_terminal_unless_a_word_is(
        width in 40usize..250,
        pod in "[a-z0-9-]{1,63}",
        host in "[a-z0-9.-]{1,120}",
        which in 0usize..11,
        ip in any::<std::net::IpAddr>(),
        port in any::<u16>(),
        node in any::<bool>(),
    ) {
        let mut report = reports().swap_remove(which);
        report.source.namespace = Some("shop".to_owned());
        (report.source.pod, report.source.workload) = (Some(pod.clone()), Some(pod));
        report.connect.authority = format!("{host}:443").into();
        (report.proxy.ip, report.proxy.port) = (ip, port);
        report.node = Some("ip-10-0-12-34.eu-central-1.compute.internal".to_owned());
        let layout = LineLayout { node, ..layout(Some(width), Colors::Off, true) };
        let gap = Gap::new(report.time.clone(), LossSource::Kernel, "ring_full", u64::MAX);
        let mut compact = Compact::new(layout.clone());
        let compact_text = compact.show(&report) + &compact.show(&report);
        let mut text = compact_text.clone() + &compact.show_gap(&gap);
        text.push_str(&Table::new(layout).show(&report));
        for line in text.lines() {
            prop_assert!(fits(line, width), "{width}: {line}\n{text}");
            prop_assert!(line.trim_end() == line, "blanks at the end: {line:?}");
        }
        prop_assert!(width < 64 || compact_text.contains(report.result().trim()), "the result is cut: {text}");
    }
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
        let compact = Compact::new(layout(None, Colors::Off, true));
        text.push_str(&compact.show_gap(&gap));
        let mut json = Vec::new();
        gap.write_line(&mut json);
        let json = String::from_utf8(json).expect("UTF-8");
        text.push_str(&json);
        assert_eq!(serde_json::from_str::<Message>(&json).expect("JSON"), Message::Gap(gap.clone()));
        assert_eq!(Table::new(layout(None, Colors::Off, true)).show_gap(&gap), compact.show_gap(&gap));
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
    [line(report, Colors::Off, true), Table::new(layout(None, Colors::Off, true)).show(report)]
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
    let shown = Compact::new(layout(None, Colors::Off, true)).show_gap(&gap);
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
            [line(&report, Colors::Off, false), Table::new(layout(None, Colors::Off, false)).show(&report)]
        {
            assert!(shown.chars().count() < 1000 && shown.contains('…'), "{shown}");
        }
    }
}
