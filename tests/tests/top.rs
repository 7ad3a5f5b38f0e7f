//! `top` in a real terminal, driven by keys: what it shows, small sizes, no color, control characters, and that it
//! restores the terminal however it ends.

use lab::{
    Agent, Behavior, Envoy, Lab, Script, ScriptedProxy, Terminal, full_sidecar, latin1_text, proxy_addr,
    tracer_binary,
};
use rustix::process::Signal;

const HTTP: u16 = 3128;
const TCP: u16 = 3129;
const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

struct TopFixture {
    lab: Lab,
    _envoy: Envoy,
    _proxy: ScriptedProxy,
    _agent: Agent,
}

impl TopFixture {
    fn new() -> Self {
        let lab = Lab::new().expect("a lab");
        let envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
        let proxy = ScriptedProxy::start(&lab, proxy_addr(TCP), Behavior::Tunnel).expect("a proxy");
        let agent = Agent::start(&lab, &[]).expect("an agent");
        Self { lab, _envoy: envoy, _proxy: proxy, _agent: agent }
    }

    fn play(&self, scripts: &[Script]) {
        self.lab.play(scripts).expect("transcripts");
    }

    fn top(&self, size: (u16, u16), environment: &[(&str, &str)]) -> Terminal {
        let binary = tracer_binary().expect("a tracer");
        Terminal::start(self.lab.tools(), &binary, &["top"], size, environment).expect("a terminal")
    }
}

/// Waits until all of `words` are on the screen; a frame arrives in several reads.
fn wait_for_words(terminal: &Terminal, words: &[&str]) -> String {
    let all = |contents: &String| words.iter().all(|word| contents.contains(word));
    let found = terminal.wait("words", |screen| Some(screen.contents()).filter(all));
    found.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Asserts that the terminal is as before: main screen, visible cursor, usual mode.
fn assert_terminal_is_restored(terminal: &Terminal) {
    assert!(terminal.is_cooked().expect("a terminal"), "the line is raw");
    let written = terminal.wait_written(LEAVE_SCREEN).expect("the main screen");
    assert!(written.rfind(ENTER_SCREEN) < written.rfind(LEAVE_SCREEN), "{written:?}");
    let written = terminal.wait_written(SHOW_CURSOR).expect("a cursor");
    assert!(written.rfind(HIDE_CURSOR) < written.rfind(SHOW_CURSOR), "{written:?}");
}

#[test]
fn keys_select_explain_filter_and_pause() {
    let fixture = TopFixture::new();
    fixture.play(&[
        Script::connect(proxy_addr(HTTP), "first.example:443"),
        Script::connect(proxy_addr(TCP), "second.example:443"),
    ]);
    let mut terminal = fixture.top((24, 80), &[]);
    // The reports that the agent had kept are there at once, flagged ones first.
    let screen = wait_for_words(&terminal, &["2 sessions", "first.example", "second.example", "q quit"]);
    let rows: Vec<&str> = screen.lines().skip(2).take(2).collect();
    assert!(rows[0].contains("✗ 404 by sidecar") && rows[1].contains("  200 by proxy"), "{screen}");
    assert!(screen.lines().next().is_some_and(|line| line.contains("2 sessions, 1 flagged")), "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");

    // A filter, typed letter by letter; Escape clears it.
    terminal.press("/second\r").expect("keys");
    terminal
        .wait("one row", |screen| {
            let text = screen.contents();
            (text.contains("only /second") && !text.contains("first.example")).then_some(())
        })
        .expect("the filter holds");
    terminal.press("\x1b").expect("keys");
    terminal.wait_text("first.example").expect("all rows again");

    // Enter explains the selected row, with the fix.
    terminal.press("j\r").expect("keys");
    wait_for_words(
        &terminal,
        &["never dial", "──✗ 10.0.0.1:3128", "fix: ServiceEntry", "kind: ", "Esc back"],
    );
    terminal.press("\x1b[6~\x1b[6~").expect("keys");
    terminal.wait_text("opened no connection to").expect("the end of it, two pages down");
    terminal.press("\x1b").expect("keys");
    terminal.wait_text("ASKED FOR").expect("the table");

    // Reports that arrive while it is paused are shown after it.
    terminal.press("p").expect("keys");
    terminal.wait_text("PAUSED").expect("it is paused");
    fixture.play(&[Script::connect(proxy_addr(TCP), "third.example:443")]);
    terminal.press("S").expect("keys");
    let screen = wait_for_words(&terminal, &["sort: last seen", "q quit", "2 sessions"]);
    assert!(!screen.contains("2 hosts"), "{screen}");
    terminal.press("p").expect("keys");
    terminal.wait_text("2 hosts").expect("it goes on");

    // Resizes, also to small sizes.
    terminal.resize(50, 200).expect("a size");
    terminal.wait_text("TOTAL").expect("there is room for more columns");
    terminal.resize(5, 20).expect("a size");
    terminal
        .wait("the small table", |screen| (!screen.contents().contains("TOTAL")).then_some(()))
        .expect("drawn");
    terminal.resize(24, 80).expect("a size");
    terminal.wait_text("q quit").expect("drawn");

    // The fix is written to a file, and printed on the main screen.
    terminal.press("s").expect("keys");
    terminal.wait_text("sort: flagged first").expect("sorted");
    terminal.press("gw").expect("keys");
    terminal.wait_text("kubectl apply -f fix-forward-proxy-10-0-0-1-3128.yaml").expect("it is written");
    let written = std::fs::read_to_string(fixture.lab.dir().join("bin/fix-forward-proxy-10-0-0-1-3128.yaml"));
    assert!(written.expect("a file").contains("kind: ServiceEntry"));
    terminal.press("w").expect("keys");
    terminal.wait_text("exists already").expect("it is not replaced");
    terminal.press("y").expect("keys");
    let ended = terminal.wait_end().expect("it ends");
    assert!(ended.status.success(), "{ended:?}");
    wait_for_words(&terminal, &["apiVersion: networking.istio.io", "kind: ServiceEntry", "resolution: NONE"]);
    assert_terminal_is_restored(&terminal);
}

#[test]
fn terminal_is_restored_after_keys_signals_and_the_agents_end() {
    let fixture = TopFixture::new();
    fixture.play(&[Script::connect(proxy_addr(HTTP), "first.example:443")]);
    for (end, code) in [("q", 0), ("\x03", 0)] {
        let mut terminal = fixture.top((24, 80), &[]);
        terminal.wait_text("first.example").expect("a row");
        assert!(!terminal.is_cooked().expect("a terminal"));
        terminal.press(end).expect("a key");
        assert_eq!(terminal.wait_end().expect("it ends").status.code(), Some(code));
        assert_terminal_is_restored(&terminal);
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut terminal = fixture.top((24, 80), &[]);
        terminal.wait_text("first.example").expect("a row");
        terminal.signal(signal).expect("a signal");
        assert!(terminal.wait_end().expect("it ends").status.success(), "{signal:?}");
        assert_terminal_is_restored(&terminal);
    }
    // The agent ends while `top` runs.
    let mut terminal = fixture.top((24, 80), &[]);
    terminal.wait_text("first.example").expect("a row");
    let TopFixture { lab: _lab, _agent: agent, .. } = fixture;
    agent.kill().expect("it is killed");
    assert_eq!(terminal.wait_end().expect("it ends").status.code(), Some(1));
    terminal.wait_text("the agent at").expect("the reason on the main screen");
    assert_terminal_is_restored(&terminal);
}

#[test]
fn control_characters_from_the_wire_do_not_reach_the_terminal() {
    let fixture = TopFixture::new();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}]8;;http://evil\u{1b}\\\u{1b}]52;c;eA==\u{7}\u{1b}[31m\0";
    let bidi = latin1_text("\u{202e}\u{2066}evil".as_bytes());
    for authority in [evil.to_owned(), bidi, "x".repeat(400)] {
        fixture.play(&[
            Script::connect(proxy_addr(HTTP), &format!("{authority}:443")),
            Script::connect(proxy_addr(TCP), &format!("{authority}:443")),
        ]);
    }
    let mut terminal = fixture.top((40, 120), &[("NO_COLOR", "1")]);
    terminal.wait_text("6 sessions").expect("rows");
    for row in 0..6 {
        terminal.press("\r").expect("keys");
        terminal.wait_text("Esc back").expect("the explanation");
        terminal.press("\x1b").expect("keys");
        terminal.wait_text("ASKED FOR").unwrap_or_else(|error| panic!("row {row}: {error}"));
        terminal.press("j").expect("keys");
    }
    terminal.press("q").expect("keys");
    assert!(terminal.wait_end().expect("it ends").status.success());
    assert_terminal_is_restored(&terminal);
    let written = terminal.written();
    let written = String::from_utf8(written).expect("UTF-8");
    assert!(!written.contains("\x1b]"), "no operating system command: {written:?}");
    for letter in ['\u{7}', '\0', '\u{202e}', '\u{2066}', '\u{9b}'] {
        assert!(!written.contains(letter), "{letter:?}");
    }
    // With NO_COLOR there must be no color parameter: 30 to 48 except 39.
    let colors = written.split("\x1b[").skip(1).filter(|rest| {
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap_or_default();
        rest[end..].starts_with('m')
            && rest[..end].split(';').any(|n| n.parse().is_ok_and(|n: u8| (30..=48).contains(&n) && n != 39))
    });
    assert_eq!(colors.count(), 0, "{written:?}");
}

#[test]
fn top_without_a_terminal_says_what_to_use_instead() {
    let lab = Lab::new().expect("a lab");
    let ended = Agent::run(&lab, &["top"]).expect("it ends");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("needs a terminal") && ended.stderr.lines().count() == 1, "{ended:?}");
}

#[test]
fn terminal_is_restored_after_a_panic_and_shows_its_message() {
    let lab = Lab::new().expect("a lab");
    let us = std::env::current_exe().expect("this test");
    let args = ["--ignored", "--exact", "panicking_child_process", "--nocapture"];
    let mut terminal = Terminal::start(lab.tools(), &us, &args, (24, 80), &[]).expect("a terminal");
    assert!(!terminal.wait_end().expect("it ends").status.success());
    assert_terminal_is_restored(&terminal);
    terminal.wait_text("as a bug would").expect("the panic's message on the main screen");
}

#[test]
#[ignore = "started by terminal_is_restored_after_a_panic_and_shows_its_message"]
#[expect(clippy::panic, reason = "that is what is tested")]
fn panicking_child_process() {
    let mut screen = tracer::top::Screen::take().expect("a terminal");
    screen.draw(|_| panic!("as a bug would")).expect("drawn");
}
