//! The walk of `docs/on-call.md` from the page to the fix, in a terminal of 80 columns. Each command is taken from the page.

use std::fs;
use std::path::Path;

use lab::{
    Agent, Behavior, Envoy, Lab, Process, ProcessOutput, Script, ScriptedProxy, Terminal, demo_sidecar,
    proxy_addr, tracer_binary,
};

const PROXY: u16 = 3128;
/// The process id of the app in the page.
const PID: &str = "25922";
const SIZE: (u16, u16) = (50, 80);

/// The lines of the page's shell blocks.
fn commands() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/on-call.md");
    let text = fs::read_to_string(page).expect("the page");
    let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

struct Walk {
    lab: Lab,
    app: Process,
    commands: Vec<String>,
}

impl Walk {
    /// The page's command that is `begin`, or begins so.
    fn command(&self, begin: &str) -> String {
        let is_it = |line: &&String| line.as_str() == begin || line.starts_with(&format!("{begin} "));
        let exact = self.commands.iter().find(|line| line.as_str() == begin);
        let found = exact.or_else(|| self.commands.iter().find(is_it));
        let line = found.unwrap_or_else(|| panic!("the page has no `{begin}`: {:?}", self.commands));
        let binary = tracer_binary().expect("a tracer").display().to_string();
        line.replace("egress-tracer", &binary).replace(PID, &self.app.pid().to_string())
    }

    fn start(&self, begin: &str) -> Terminal {
        let command = self.command(begin);
        Terminal::start(self.lab.tools(), Path::new("/bin/bash"), &["-c", &command], SIZE, &[])
            .expect("a terminal")
    }

    /// Runs a command of the page to its end, and returns what is on the screen.
    fn run(&self, begin: &str) -> (ProcessOutput, String) {
        let mut terminal = self.start(begin);
        let ended = terminal.wait_end().expect("it ends");
        let screen = String::from_utf8_lossy(&terminal.written()).replace("\r\n", "\n");
        for line in screen.lines() {
            let words =
                || line.split_whitespace().map(|word| word.chars().count() + 6).max().unwrap_or_default();
            let plain = strip_styles(line);
            assert!(plain.chars().count() <= 80 || words() > 80, "longer than the terminal: {plain}");
        }
        (ended, strip_styles(&screen))
    }

    #[track_caller]
    fn shows(&self, begin: &str, words: &[&str]) {
        let (ended, screen) = self.run(begin);
        assert!(ended.status.success(), "{begin}: {ended:?}: {screen}");
        for word in words {
            assert!(screen.contains(word), "{begin}: no {word:?}: {screen}");
        }
    }

    fn connect(&self, host: &str) {
        self.lab.play(&[Script::connect(proxy_addr(PROXY), host)]).expect("an answer");
    }
}

/// The text without color sequences.
fn strip_styles(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[test]
fn page_leads_from_the_alert_to_the_fix() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(PROXY), Behavior::Tunnel).expect("a proxy");
    let agent = Agent::start(&lab, &["--node", "node-1"]).expect("an agent");
    let mut command = lab.app().command("sleep").expect("a command");
    command.arg("600");
    let app = Process::spawn(command, &[]).expect("an app");
    let walk = Walk { lab, app, commands: commands() };

    // 1. Whether an agent runs here.
    walk.shows("egress-tracer status", &["✓ an agent runs on node-1", "✓ lost nothing", "next "]);

    // 2. Watch it happen: result first, why, and the command that prints the fix. Ctrl-C ends it with a summary.
    let mut watch = walk.start("egress-tracer observe --explain");
    watch.wait_text("Ctrl-C ends it").expect("it watches");
    for host in ["www.example.com:443", "api.example.com:443"] {
        walk.connect(host);
    }
    let screen = watch.wait_text("404 by sidecar +1").expect("the second session is counted");
    for words in ["✗ 404 by sidecar", "www.example.com:443", "never dialed", "at fault: ", "whole: "] {
        assert!(screen.contains(words), "no {words:?}: {screen}");
    }
    assert_eq!(screen.matches("at fault: ").count(), 1, "the cause is explained once: {screen}");
    watch.press("\x03").expect("Ctrl-C");
    assert!(watch.wait_end().expect("it ends").status.success());
    watch.wait_text("2 sessions in ").expect("a summary");
    walk.shows("egress-tracer observe --last 3", &["✗ 404 by sidecar", "2 sessions, 2 flagged"]);

    // Many apps at once.
    let mut top = walk.start("egress-tracer top");
    top.wait_text("2 hosts").expect("a row for the cause");
    top.press("q").expect("keys");
    assert!(top.wait_end().expect("it ends").status.success());

    // 3. Ask why. 4. The fix, in a file.
    let explain = format!("egress-tracer explain --pid {PID} --to 10.0.0.1:3128");
    walk.shows(&explain, &["✗ 10.0.0.1:3128  handled_as_http", "cause ", "fix 1 ", "risk: ", "next "]);
    walk.shows(&format!("{explain} -o yaml"), &[]);
    let fix = fs::read_to_string(walk.lab.dir().join("bin/fix.yaml")).expect("the page writes fix.yaml");
    assert!(
        fix.starts_with("# ServiceEntry: send 10.0.0.1:3128 as TCP\n") && fix.contains("kind: ServiceEntry"),
        "{fix}"
    );

    // 5. See that it is fixed: the listener that such a ServiceEntry makes.
    let probe = format!("egress-tracer probe --pid {PID} --to 10.0.0.1:3128");
    walk.shows(&probe, &["✗ 10.0.0.1:3128  handled_as_http", "agree       yes"]);
    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    walk.shows(&probe, &["10.0.0.1:3128  tunneled 200", "agree       yes"]);
    assert!(agent.stop().expect("it ends").status.success());
}
