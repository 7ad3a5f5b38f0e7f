//! Writes the seeds of all targets below `fuzz/corpus`, from the recordings, the heads and the configurations of the tests.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use fuzz::Step;
use tracer_core::{
    engine::Input,
    event::{End, Event, EventKind, Role},
};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = root.join("../tests");
    for trace in files(&tests.join("traces"), "jsonl") {
        let text = fs::read_to_string(&trace).expect("a trace");
        let name = trace.file_stem().expect("a name").to_string_lossy().into_owned();
        let inputs: Vec<Input> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        write(root, "engine", &name, &steps(&inputs));
        for (nth, lines) in text.lines().collect::<Vec<_>>().chunks(8).take(40).enumerate() {
            write(root, "recording", &format!("{name}-{nth}"), lines.join("\n").as_bytes());
        }
        for (nth, input) in inputs.iter().enumerate() {
            if let Input::Event(Event { kind: EventKind::Sent { data, .. }, .. }) = input {
                write(root, "head", &format!("{name}-{nth}"), data);
                write(root, "first_bytes", &format!("{name}-{nth}"), data);
            }
        }
    }
    for dump in files(&tests.join("dumps"), "json") {
        let name = dump.file_name().expect("a name").to_string_lossy().into_owned();
        write(root, "dump", &name, &fs::read(&dump).expect("a dump"));
    }
    for (nth, words) in ["app in (cart,bill),!legacy", "!kube-system", "10.0.0.1:3128", "4xx",
        "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-0123456789abcdef.scope"].iter().enumerate()
    {
        write(root, "words", &nth.to_string(), words.as_bytes());
    }
}

fn files(below: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
    found
}

fn write(root: &Path, target: &str, name: &str, bytes: &[u8]) {
    let dir = root.join("corpus").join(target);
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join(format!("seed-{name}")), bytes).expect("a seed");
}

/// A recording as steps, with flows and pods as small numbers.
fn steps(inputs: &[Input]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut flows, mut pods, mut last) = (HashMap::new(), HashMap::new(), None);
    let small = |of: &mut HashMap<u64, u8>, key: u64| {
        let next = u8::try_from(of.len() + 1).unwrap_or(255);
        *of.entry(key).or_insert(next)
    };
    for input in inputs {
        let Input::Event(event) = input else { continue };
        let role = match event.role {
            Role::App => 0,
            Role::Reply => 1,
            Role::Upstream => 2,
        };
        let (kind, payload) = match &event.kind {
            EventKind::Dialed => (0, Vec::new()),
            EventKind::Ended(End::DialFailed) => (1, Vec::new()),
            EventKind::Ended(End::ClosedHere) => (2, Vec::new()),
            EventKind::Ended(End::ClosedByPeer) => (3, Vec::new()),
            EventKind::Ended(End::Reset) => (4, Vec::new()),
            EventKind::Sent { data, .. } => (5, data.to_vec()),
        };
        let since = event.time.saturating_sub(last.replace(event.time).unwrap_or(event.time)) / 50_000_000;
        let has_sidecar = event.role != Role::App || event.sidecar.is_some();
        let step = Step {
            time: u8::try_from(since).unwrap_or(255),
            what: role | (kind << 2),
            flow: small(&mut flows, event.flow),
            link: event.link.map_or(0, |link| small(&mut flows, link)),
            pod: (small(&mut pods, event.netns) & 7) | if has_sidecar { 0 } else { 128 },
            proxy: u8::from(event.remote.port() % 4 != 0),
            lost: 0,
            payload,
        };
        step.encode(&mut bytes);
    }
    bytes
}
