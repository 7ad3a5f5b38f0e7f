//! `top` drawn in terminals of several sizes, and how keys change the view, on reports that the engine made.

#[path = "../../tracer-core/tests/scene/mod.rs"]
mod scene;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use scene::{CURL, GRANTED, Scene};
use tracer::top::{Mode, Outcome, State, Theme, ViewState, draw};
use tracer_core::report::{Colors, Gap, Listener, LossSource, Message, Report};

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

fn state() -> State {
    let mut state = State::default();
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
        state.take(Message::Report(Box::new(report)));
    }
    state.take(Message::Gap(Gap::new(
        "2026-11-20T11:45:15.000000Z".to_owned(),
        LossSource::Kernel,
        "ring_full",
        7,
    )));
    state
}

fn theme(colors: Colors) -> Theme {
    Theme { colors, marks: true, source: "node-1, through the agent".to_owned(), filter: String::new() }
}

fn drawn(state: &State, view: &ViewState, size: (u16, u16), colors: Colors) -> TestBackend {
    drawn_with(&theme(colors), state, view, size)
}

fn drawn_with(theme: &Theme, state: &State, view: &ViewState, (columns, rows): (u16, u16)) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    terminal.draw(|frame| _ = draw(frame, theme, state, view, NOW)).expect("drawn");
    terminal.backend().clone()
}

fn screen(state: &State, view: &ViewState, size: (u16, u16)) -> String {
    drawn(state, view, size, Colors::On).to_string()
}

fn press(view: &mut ViewState, state: &State, codes: &[KeyCode]) -> Outcome {
    codes
        .iter()
        .fold(Outcome::Go, |_, code| view.press(KeyEvent::new(*code, KeyModifiers::NONE), state, 20, NOW))
}

fn letters(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

/// The screen with the style of each cell.
fn styles(state: &State, size: (u16, u16)) -> String {
    format!("{:?}", drawn(state, &ViewState::default(), size, Colors::On).buffer())
}

#[test]
fn table_is_drawn_in_every_width() {
    for (columns, rows) in [(20, 4), (80, 12), (120, 12), (200, 12)] {
        let name = format!("table_in_{columns}_columns");
        insta::assert_snapshot!(name.clone(), screen(&state(), &ViewState::default(), (columns, rows)));
        insta::assert_snapshot!(format!("{name}_in_color"), styles(&state(), (columns, rows)));
    }
}

#[test]
fn footer_never_loses_its_last_key_and_the_header_never_its_numbers() {
    let (state, mut view) = (state(), ViewState::default());
    for keys in ["", "f", "/a rather long text that is looked for\n", "j\n", "?", "w"] {
        let codes = keys.chars().map(|key| if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) });
        press(&mut view, &state, &codes.collect::<Vec<_>>());
        for columns in (20..=200).step_by(10) {
            let screen = screen(&state, &view, (columns, 10));
            let lines: Vec<&str> = screen.lines().map(|line| line.trim_matches('"').trim_end()).collect();
            assert!(lines.last().is_some_and(|foot| foot.ends_with("q quit")), "{columns}: {screen}");
            assert!(lines[0].contains("sessions"), "{columns}: {screen}");
        }
        press(&mut view, &state, &[KeyCode::Esc, KeyCode::Esc]);
    }
}

#[test]
fn header_names_the_filter_and_what_still_waits() {
    let mut state = state();
    state.waiting = Some(3);
    let theme = Theme { filter: "--namespace shop --flagged".to_owned(), ..theme(Colors::Off) };
    let screen = drawn_with(&theme, &state, &ViewState::default(), (160, 10)).to_string();
    let head = screen.lines().next().expect("a line");
    for words in [
        "node-1, through the agent",
        "7 sessions",
        "3 waiting",
        "7 records lost",
        "--namespace shop --flagged",
    ] {
        assert!(head.contains(words), "{words}: {head}");
    }
    let empty = drawn_with(&theme, &State::default(), &ViewState::default(), (80, 10)).to_string();
    assert!(empty.contains("No sessions yet that pass --namespace shop --flagged"), "{empty}");
}

#[test]
fn plain_ascii_is_drawn_where_the_terminal_takes_no_marks() {
    let (state, mut view) = (state(), ViewState::default());
    let theme = Theme { marks: false, ..theme(Colors::Off) };
    for keys in [&[][..], &[KeyCode::Char('j'), KeyCode::Enter], &[KeyCode::Char('?')]] {
        press(&mut view, &state, keys);
        let screen = drawn_with(&theme, &state, &view, (80, 30)).to_string();
        assert!(screen.is_ascii(), "{screen}");
    }
}

#[test]
fn hosts_of_one_cause_are_counted_in_its_row() {
    let mut state = State::default();
    let with_host = |host: &str| {
        let mut report = flagged();
        report.connect.authority = host.into();
        Message::Report(Box::new(report))
    };
    let hosts = |state: &State| state.rows(ViewState::default().sort, false, "", false, NOW)[0].1.hosts();
    state.take(with_host("a.example:443"));
    state.take(with_host("a.example:443"));
    assert_eq!(hosts(&state), "a.example:443");
    state.take(with_host("b.example:443"));
    assert_eq!(hosts(&state), "2 hosts");
    for number in 0..100 {
        state.take(with_host(&format!("host-{number}.example:443")));
    }
    let rows = state.rows(ViewState::default().sort, false, "b.example", false, NOW);
    assert_eq!((rows.len(), rows[0].1.total, rows[0].1.hosts().as_str()), (1, 103, "32+ hosts"));
}

#[test]
fn rows_can_be_sorted_by_every_column() {
    let (state, mut view) = (state(), ViewState::default());
    let first = |view: &ViewState| {
        let rows = state.rows(view.sort, false, "", false, NOW);
        (rows[0].0.clone(), rows[0].1.total, rows[0].1.last)
    };
    let mut names = Vec::new();
    for _ in 0..9 {
        names.push(view.sort.name());
        let (key, total, last) = first(&view);
        match view.sort.name() {
            "app" => assert_eq!(key.workload, "curl"),
            "proxy" => assert_eq!(key.proxy.to_string(), "10.0.0.1:3128"),
            "result" => assert_eq!(key.verdict.name(), "handled_as_http"),
            "cause" => assert_eq!(key.cause, ""),
            "total" | "last minute" => assert!(total >= 2, "{key:?}"),
            "last seen" => assert_eq!(last, NOW - 3),
            _ => {}
        }
        press(&mut view, &state, &letters("s"));
    }
    assert_eq!(
        names,
        ["flagged first", "app", "proxy", "result", "hosts", "cause", "last minute", "total", "last seen"]
    );
    assert_eq!(view.sort.name(), "flagged first", "it goes round");
    press(&mut view, &state, &letters("S"));
    assert_eq!(view.sort.name(), "last seen");
}

#[test]
fn empty_table_says_that_no_session_was_seen() {
    insta::assert_snapshot!(screen(&State::default(), &ViewState::default(), (80, 6)));
}

#[test]
fn selected_row_is_explained() {
    let (state, mut view) = (state(), ViewState::default());
    press(&mut view, &state, &[KeyCode::Char('j'), KeyCode::Char('j'), KeyCode::Enter]);
    insta::assert_snapshot!(screen(&state, &view, (80, 24)));
}

#[test]
fn keys_are_listed_by_the_help() {
    let (state, mut view) = (state(), ViewState::default());
    press(&mut view, &state, &letters("?"));
    insta::assert_snapshot!(screen(&state, &view, (80, 24)));
    press(&mut view, &state, &letters("x"));
    assert_eq!(view.mode, Mode::Table);
}

#[test]
fn drawing_does_not_panic_in_any_size() {
    let (state, mut view) = (state(), ViewState::default());
    for detail in [false, true] {
        for size in [(1, 1), (2, 3), (7, 2), (300, 100)] {
            screen(&state, &view, size);
        }
        press(&mut view, &state, &[if detail { KeyCode::Esc } else { KeyCode::Enter }]);
    }
}

#[test]
fn no_color_is_drawn_without_colors() {
    use ratatui::style::Color;
    let (state, mut view) = (state(), ViewState::default());
    press(&mut view, &state, &letters("j"));
    let plain = drawn(&state, &view, (80, 12), Colors::Off);
    assert!(plain.buffer().content().iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    let colored = drawn(&state, &view, (80, 12), Colors::On);
    assert!(colored.buffer().content().iter().any(|cell| cell.fg == Color::Red));
    assert_eq!(plain.to_string(), colored.to_string(), "words say what a color says");
}

/// The workloads or programs of the rows, as shown.
fn order(state: &State, view: &ViewState) -> Vec<String> {
    let rows = state.rows(view.sort, view.reverse, &view.text, view.flagged, NOW);
    rows.iter().map(|(key, _)| key.workload.chars().take(9).collect()).collect()
}

#[test]
fn keys_sort_and_filter() {
    let (state, mut view) = (state(), ViewState::default());
    assert_eq!(order(&state, &view), ["curl", "shop/cart", "curl", "shop/bill", "shop/sear"]);
    press(&mut view, &state, &letters("s"));
    assert_eq!(order(&state, &view), ["curl", "curl", "shop/bill", "shop/cart", "shop/sear"]);
    press(&mut view, &state, &letters("r"));
    assert_eq!(order(&state, &view)[0], "shop/sear");
    press(&mut view, &state, &letters("rS/CART"));
    assert_eq!((order(&state, &view), view.mode), (vec!["shop/cart".to_owned()], Mode::Typing));
    press(&mut view, &state, &[KeyCode::Backspace, KeyCode::Esc]);
    press(&mut view, &state, &letters("f"));
    assert_eq!(order(&state, &view), ["curl", "shop/cart"]);
    press(&mut view, &state, &[KeyCode::Esc]);
    assert_eq!(order(&state, &view).len(), 5);
}

#[test]
fn selection_stays_with_its_row_when_rows_move() {
    let (mut state, mut view) = (state(), ViewState::default());
    press(&mut view, &state, &letters("SG"));
    let selected = view.selected.clone();
    assert!(selected.as_ref().is_some_and(|key| key.workload == "shop/search"), "{selected:?}");
    state.take(Message::Report(Box::new(at(
        named(Scene::outbound().asks().answers(ENVOY_404).report(), "new"),
        "2026-11-20T11:45:17.000000Z",
    ))));
    assert_eq!((order(&state, &view)[0].as_str(), &view.selected), ("shop/new", &selected));
    press(&mut view, &state, &[KeyCode::PageUp]);
    assert!(view.selected.as_ref().is_some_and(|key| key.workload == "shop/new"));
}

#[test]
fn y_prints_the_manifest_of_a_row_that_has_one() {
    let (state, mut view) = (state(), ViewState::default());
    assert_eq!(press(&mut view, &state, &letters("y")), Outcome::Go);
    assert_eq!(view.note.as_deref(), Some("select a row first (j, k)"));
    assert_eq!(press(&mut view, &state, &letters("jy")), Outcome::Go);
    assert_eq!(view.note.as_deref(), Some("no fix is known for this row"));
    let manifest = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n".to_owned();
    assert_eq!(press(&mut view, &state, &letters("jw")), Outcome::Write(manifest.clone()));
    assert_eq!(press(&mut view, &state, &letters("y")), Outcome::Print(manifest));
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    assert_eq!(view.press(control('c'), &state, 20, NOW), Outcome::Quit);
    assert_eq!(view.press(control('s'), &state, 20, NOW), Outcome::Go);
}

#[test]
fn last_minute_counts_only_the_last_minute() {
    let mut state = State::default();
    for second in (0..60).chain(30..60) {
        let time = format!("2026-11-20T11:45:{second:02}.000000Z");
        state.take(Message::Report(Box::new(at(flagged(), &time))));
    }
    let rows = state.rows(ViewState::default().sort, false, "", false, NOW);
    let minute = |seconds: i64| rows[0].1.last_minute(NOW - 18 + seconds);
    assert_eq!(rows[0].1.total, 90);
    assert_eq!((minute(59), minute(80), minute(114), minute(200)), (90, 65, 10, 0));
}

#[test]
fn number_of_rows_is_bounded() {
    let mut state = State::default();
    for n in 0..5_000_u32 {
        let mut report = flagged();
        report.source.workload = Some(format!("app-{n}"));
        report.time = format!("2026-11-20T{:02}:{:02}:{:02}.000000Z", n / 3600, n / 60 % 60, n % 60);
        state.take(Message::Report(Box::new(report)));
    }
    let rows = state.rows(ViewState::default().sort, false, "", false, NOW);
    assert_eq!((rows.len(), state.sessions), (2_000, (5_000, 5_000)));
    assert_eq!(rows[0].0.workload, "shop/app-4999");
}

#[test]
fn control_characters_from_reports_are_escaped() {
    let wicked = "\u{1b}]52;c;x\u{7}\u{1b}]8;;http://evil\u{1b}\\\u{202e}\u{2066}\u{0}\n\r✗";
    let (mut state, mut view) = (State::default(), ViewState::default());
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
        state.take(Message::Report(Box::new(report)));
    }
    let rows = state.rows(view.sort, false, "", false, NOW).len();
    assert_eq!(rows, 3);
    for _ in 0..rows {
        press(&mut view, &state, &letters("j"));
        for _ in 0..2 {
            let screen = screen(&state, &view, (120, 60));
            let raw =
                screen.chars().find(|letter| !matches!(letter, ' '..='~' | '\n' | '✗' | '…' | '─' | '▶'));
            assert_eq!(raw, None, "{screen}");
            press(&mut view, &state, &[KeyCode::Enter]);
        }
    }
}
