//! The board of `top` in terminals of several sizes, and what keys make of it; on reports that the core made.

#[path = "../../tracer-core/tests/scene/mod.rs"]
mod scene;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use scene::{CURL, GRANTED, Scene};
use tracer::top::{Board, Keys, Look, Mode, Outcome, draw};
use tracer_core::report::{Colors, Gap, Listener, Loser, Message, Report};

const ENVOY_404: &str = "HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n";
/// Three seconds after the reports' 2026-11-20T11:45:15Z.
const NOW: i64 = 1_795_175_118;

fn named(mut report: Report, workload: &str) -> Report {
    report.source.namespace = Some("shop".to_owned());
    report.source.workload = Some(workload.to_owned());
    report
}

fn flagged() -> Report {
    let mut report = named(Scene::outbound().asks().answers(ENVOY_404).report(), "cart");
    report.listener = Some(Listener {
        name: "0.0.0.0_3128".to_owned(),
        because: Some("Service default/legacy port 3128 (HTTP)".to_owned()),
    });
    report.fix = Some(
        "ServiceEntry: send 10.0.0.1:3128 as TCP: egress-tracer explain --pid 7 --to 10.0.0.1:3128 -o yaml"
            .to_owned(),
    );
    report.manifest = Some("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n".to_owned());
    report
}

fn at(mut report: Report, time: &str) -> Report {
    time.clone_into(&mut report.time);
    report
}

fn board() -> Board {
    let mut board = Board::default();
    let passed = || Scene::outbound().asks().dials().sends_upstream(CURL);
    let reports = [
        flagged(),
        flagged(),
        at(flagged(), "2026-11-20T11:44:01.000000Z"),
        named(passed().answers(GRANTED).report(), "billing-with-a-name-that-is-rather-long"),
        at(
            named(passed().answers("HTTP/1.1 407 X\r\n\r\n").report(), "search"),
            "2026-11-20T09:00:00.000000Z",
        ),
        Scene::outbound().app_sends("GET http://example.com/p HTTP/1.1\r\n\r\n").answers(ENVOY_404).report(),
        Scene::direct().to("[fd00:1::1]:3128").asks().report(),
    ];
    for report in reports {
        board.take(Message::Report(Box::new(report)));
    }
    board.take(Message::Gap(Gap::new(
        "2026-11-20T11:45:15.000000Z".to_owned(),
        Loser::Kernel,
        "ring_full",
        7,
    )));
    board
}

fn drawn(board: &Board, keys: &Keys, (columns, rows): (u16, u16), colors: Colors) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    let look = Look { colors, source: "through the agent".to_owned() };
    terminal.draw(|frame| _ = draw(frame, &look, board, keys, NOW)).expect("drawn");
    terminal.backend().clone()
}

fn screen(board: &Board, keys: &Keys, size: (u16, u16)) -> String {
    drawn(board, keys, size, Colors::On).to_string()
}

fn press(keys: &mut Keys, board: &Board, codes: &[KeyCode]) -> Outcome {
    codes
        .iter()
        .fold(Outcome::Go, |_, code| keys.press(KeyEvent::new(*code, KeyModifiers::NONE), board, 20, NOW))
}

fn letters(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

#[test]
fn in_80_columns() {
    insta::assert_snapshot!(screen(&board(), &Keys::default(), (80, 12)));
}

#[test]
fn in_140_columns() {
    insta::assert_snapshot!(screen(&board(), &Keys::default(), (140, 12)));
}

#[test]
fn in_20_columns() {
    insta::assert_snapshot!(screen(&board(), &Keys::default(), (20, 4)));
}

#[test]
fn nothing_yet() {
    insta::assert_snapshot!(screen(&Board::default(), &Keys::default(), (80, 6)));
}

#[test]
fn a_row_explained() {
    let (board, mut keys) = (board(), Keys::default());
    press(&mut keys, &board, &[KeyCode::Char('j'), KeyCode::Char('j'), KeyCode::Enter]);
    insta::assert_snapshot!(screen(&board, &keys, (80, 24)));
}

#[test]
fn the_keys_explained() {
    let (board, mut keys) = (board(), Keys::default());
    press(&mut keys, &board, &letters("?"));
    insta::assert_snapshot!(screen(&board, &keys, (80, 24)));
    press(&mut keys, &board, &letters("x"));
    assert_eq!(keys.mode, Mode::Table);
}

#[test]
fn no_size_is_too_small() {
    let (board, mut keys) = (board(), Keys::default());
    for detail in [false, true] {
        for size in [(1, 1), (2, 3), (7, 2), (300, 100)] {
            screen(&board, &keys, size);
        }
        press(&mut keys, &board, &[if detail { KeyCode::Esc } else { KeyCode::Enter }]);
    }
}

#[test]
fn without_colour_there_is_none() {
    use ratatui::style::Color;
    let (board, mut keys) = (board(), Keys::default());
    press(&mut keys, &board, &letters("j"));
    let plain = drawn(&board, &keys, (80, 12), Colors::Off);
    assert!(plain.buffer().content().iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    let colourful = drawn(&board, &keys, (80, 12), Colors::On);
    assert!(colourful.buffer().content().iter().any(|cell| cell.fg == Color::Red));
    assert_eq!(plain.to_string(), colourful.to_string(), "what a colour says is also said in words");
}

/// The workloads or programs of the rows, as shown.
fn order(board: &Board, keys: &Keys) -> Vec<String> {
    let rows = board.rows(keys.sort, keys.reverse, &keys.text, keys.flagged, NOW);
    rows.iter().map(|(key, _)| key.workload.chars().take(9).collect()).collect()
}

#[test]
fn keys_sort_and_filter() {
    let (board, mut keys) = (board(), Keys::default());
    assert_eq!(order(&board, &keys), ["curl", "shop/cart", "curl", "shop/bill", "shop/sear"]);
    press(&mut keys, &board, &letters("ssss"));
    assert_eq!(order(&board, &keys), ["curl", "curl", "shop/bill", "shop/cart", "shop/sear"]);
    press(&mut keys, &board, &letters("r"));
    assert_eq!(order(&board, &keys)[0], "shop/sear");
    press(&mut keys, &board, &letters("rs/CART"));
    assert_eq!((order(&board, &keys), keys.mode), (vec!["shop/cart".to_owned()], Mode::Typing));
    press(&mut keys, &board, &[KeyCode::Backspace, KeyCode::Esc]);
    press(&mut keys, &board, &letters("f"));
    assert_eq!(order(&board, &keys), ["curl", "shop/cart"]);
    press(&mut keys, &board, &[KeyCode::Esc]);
    assert_eq!(order(&board, &keys).len(), 5);
}

#[test]
fn the_selection_stays_with_its_row() {
    let (mut board, mut keys) = (board(), Keys::default());
    press(&mut keys, &board, &letters("sG"));
    let selected = keys.selected.clone();
    assert!(selected.as_ref().is_some_and(|key| key.workload == "shop/search"), "{selected:?}");
    board.take(Message::Report(Box::new(at(
        named(Scene::outbound().asks().answers(ENVOY_404).report(), "new"),
        "2026-11-20T11:45:17.000000Z",
    ))));
    assert_eq!((order(&board, &keys)[0].as_str(), &keys.selected), ("shop/new", &selected));
    press(&mut keys, &board, &[KeyCode::PageUp]);
    assert!(keys.selected.as_ref().is_some_and(|key| key.workload == "shop/new"));
}

#[test]
fn y_prints_the_manifest_where_there_is_one() {
    let (board, mut keys) = (board(), Keys::default());
    assert_eq!(press(&mut keys, &board, &letters("y")), Outcome::Go);
    assert_eq!(keys.note, Some("select a row first"));
    assert_eq!(press(&mut keys, &board, &letters("jy")), Outcome::Go);
    assert_eq!(keys.note, Some("no fix is known for this row"));
    let manifest = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n".to_owned();
    assert_eq!(press(&mut keys, &board, &letters("jy")), Outcome::Print(manifest));
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    assert_eq!(keys.press(control('c'), &board, 20, NOW), Outcome::Quit);
    assert_eq!(keys.press(control('s'), &board, 20, NOW), Outcome::Go);
}

#[test]
fn the_last_minute_is_the_last_minute() {
    let mut board = Board::default();
    for second in (0..60).chain(30..60) {
        let time = format!("2026-11-20T11:45:{second:02}.000000Z");
        board.take(Message::Report(Box::new(at(flagged(), &time))));
    }
    let rows = board.rows(Keys::default().sort, false, "", false, NOW);
    let minute = |seconds: i64| rows[0].1.last_minute(NOW - 18 + seconds);
    assert_eq!(rows[0].1.total, 90);
    assert_eq!((minute(59), minute(80), minute(114), minute(200)), (90, 65, 10, 0));
}

#[test]
fn its_size_is_bounded() {
    let mut board = Board::default();
    for n in 0..5_000_u32 {
        let mut report = flagged();
        report.connect.authority = format!("host-{n}.example:443").into();
        report.time = format!("2026-11-20T{:02}:{:02}:{:02}.000000Z", n / 3600, n / 60 % 60, n % 60);
        board.take(Message::Report(Box::new(report)));
    }
    let rows = board.rows(Keys::default().sort, false, "", false, NOW);
    assert_eq!((rows.len(), board.sessions), (2_000, (5_000, 5_000)));
    assert_eq!(rows[0].0.host, "host-4999.example:443");
}

#[test]
fn what_somebody_else_wrote_is_only_text() {
    let wicked = "\u{1b}]52;c;x\u{7}\u{1b}]8;;http://evil\u{1b}\\\u{202e}\u{2066}\u{0}\n\r✗";
    let (mut board, mut keys) = (Board::default(), Keys::default());
    for text in [wicked.to_owned(), wicked.repeat(100), "x".repeat(4096)] {
        let mut report = flagged();
        report.connect.authority = text.as_str().into();
        report.explanation.clone_from(&text);
        report.evidence = vec![text.clone(); 3];
        report.fix = Some(format!("{text}: egress-tracer explain {text}"));
        report.manifest = Some(text.clone());
        report.listener = Some(Listener { name: text.clone(), because: Some(text.clone()) });
        (report.source.namespace, report.source.workload) = (Some(text.clone()), Some(text.clone()));
        (report.source.pod, report.source.comm) = (Some(text.clone()), Some(text.into()));
        board.take(Message::Report(Box::new(report)));
    }
    let rows = board.rows(keys.sort, false, "", false, NOW).len();
    assert_eq!(rows, 3);
    for _ in 0..rows {
        press(&mut keys, &board, &letters("j"));
        for _ in 0..2 {
            let screen = screen(&board, &keys, (120, 60));
            let raw =
                screen.chars().find(|letter| !matches!(letter, ' '..='~' | '\n' | '✗' | '…' | '─' | '▶'));
            assert_eq!(raw, None, "{screen}");
            press(&mut keys, &board, &[KeyCode::Enter]);
        }
    }
}
