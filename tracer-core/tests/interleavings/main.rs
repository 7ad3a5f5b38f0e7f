//! However the records of many sessions interleave, each session gets its own verdict, once. Within a session, every order
//! that cause and effect allow is tried; across sessions, every order.
#![expect(clippy::disallowed_methods, reason = "the crate is pure, its tests read files and variables")]

mod session;

use std::{collections::BTreeMap, net::SocketAddr};

use proptest::{prelude::*, test_runner::RngSeed};
use session::{
    Accept, AcceptAndDial, Dial, Head, HeadSecondHalf, Hello, Kind, OthersDial, OthersDialFails, Rewritten,
    SameBytes, Session, SidecarCloses, Sockets, Step, UpstreamEnds, UpstreamFails,
};
use tracer_core::{
    engine::{Engine, Input, Settings},
    report::Report,
    verdict::{Reason, Verdict},
};

const SECOND: u64 = 1_000_000_000;

/// The links that the kernel side derives from a thread that accepts, handles and dials.
#[derive(Default)]
struct Threads {
    /// The session of the latest dial, by pod and thread.
    dialed: BTreeMap<(u8, u32), usize>,
}

impl Threads {
    fn see(&mut self, step: Step, at: usize, sessions: &[Session], sockets: &mut [Sockets]) {
        let session = &sessions[at];
        let thread = (session.pod, session.thread);
        let tie = |sockets: &mut [Sockets], dialed: usize| {
            sockets[at].reply_link = Some(sessions[dialed].flow(2));
            sockets[dialed].upstream_link = Some(session.flow(1));
        };
        match step {
            Accept => drop(self.dialed.remove(&thread)),
            // The TCP proxy dials as soon as the connection is handled.
            AcceptAndDial => {
                self.dialed.remove(&thread);
                tie(sockets, at);
            }
            Dial if !session.is_http() => {
                self.dialed.remove(&thread);
                tie(sockets, at);
            }
            Dial => drop(self.dialed.insert(thread, at)),
            // A listener filter has waited for this, so the thread's earlier dial for a request is taken for its dial.
            Head | HeadSecondHalf if session.is_http() && session.waits && sockets[at].accepted != 0 => {
                if let Some(dialed) = self.dialed.remove(&thread) {
                    tie(sockets, dialed);
                }
            }
            SameBytes | Rewritten | Hello if self.dialed.get(&thread) == Some(&at) => {
                self.dialed.remove(&thread);
            }
            _ => {}
        }
    }
}

/// The reports of each session, by its app's address.
type Found = BTreeMap<(u64, SocketAddr), Vec<Report>>;

/// Plays the sessions. `picks`: the session of each next step. `links`: threads show for which connection they dial.
/// `loses`: whether the record with this number is lost.
fn play(sessions: &[Session], picks: &[usize], links: bool, loses: impl Fn(usize) -> bool) -> Found {
    let mut core = Engine::new(Settings { capacity: 1000, ..Settings::default() });
    let mut next: Vec<usize> = vec![0; sessions.len()];
    let mut sockets = vec![Sockets { is_known: links, ..Sockets::default() }; sessions.len()];
    let mut threads = Threads::default();
    let mut found = Found::new();
    let (mut records, mut lost) = (0, 0);
    let mut picks = picks.iter().cycle();
    let mut time = 1_000;
    loop {
        let open: Vec<usize> =
            (0..sessions.len()).filter(|&at| next[at] < sessions[at].order.len()).collect();
        if open.is_empty() {
            break;
        }
        let at = open[picks.next().expect("a cycle") % open.len()];
        let step = sessions[at].order[next[at]];
        next[at] += 1;
        time += 10;
        match step {
            Accept => sockets[at].accepted = time,
            Dial | OthersDial => sockets[at].dialed = time,
            AcceptAndDial => (sockets[at].accepted, sockets[at].dialed) = (time - 1, time),
            // Envoy accepts and closes such a connection in one callback.
            SidecarCloses if sessions[at].kind == Kind::Blackholed => sockets[at].accepted = time - 1,
            _ => {}
        }
        // A dial is recorded before its connection is handled.
        let before = sockets[at];
        if links {
            threads.see(step, at, sessions, &mut sockets);
        }
        let known = if matches!(step, Dial | AcceptAndDial) { before } else { sockets[at] };
        let known = Sockets { dialed: sockets[at].dialed, accepted: sockets[at].accepted, ..known };
        if let Some(event) = sessions[at].event(step, time, &known, lost) {
            records += 1;
            if loses(records - 1) {
                lost += 1;
                continue;
            }
            let mut reports = Vec::new();
            core.feed(Input::Event(event), &mut reports);
            for report in reports {
                let app = SocketAddr::new(report.source.ip, report.source.port);
                // A step only causes reports of its own session.
                assert!(
                    lost > 0 || app == sessions[at].app(),
                    "{step:?} of {:?} gave {report:?}",
                    sessions[at]
                );
                found.entry((sessions[at].netns(), app)).or_default().push(*report);
            }
        }
    }
    // Other traffic of the node goes on, and tells of the losses.
    let idle = Session { number: 1_000, order: Vec::new(), ..sessions[0].clone() };
    time += 10;
    let mut late = Vec::new();
    if let Some(event) = idle.event(UpstreamEnds, time, &Sockets::default(), lost) {
        core.feed(Input::Event(event), &mut late);
    }
    core.feed(Input::Tick(time + 100 * SECOND), &mut late);
    assert!(lost > 0 || late.is_empty(), "{late:?}");
    for report in late {
        let app = SocketAddr::new(report.source.ip, report.source.port);
        let netns = sessions.iter().find(|session| session.app() == app).map_or(0, Session::netns);
        found.entry((netns, app)).or_default().push(*report);
    }
    found
}

fn sessions() -> impl Strategy<Value = Vec<Session>> {
    let session = (0..Kind::ALL.len(), 0..2u8, 0..2u32, 0..2u8, any::<prop::sample::Index>());
    (prop::collection::vec(session, 1..14), any::<bool>()).prop_map(|(drawn, waits)| {
        let number = |(number, (kind, pod, thread, target, order)): (
            usize,
            (usize, u8, u32, u8, prop::sample::Index),
        )| {
            let kind = Kind::ALL[kind];
            let mut orders = kind.orders(waits);
            let order = orders.swap_remove(order.index(orders.len()));
            Session { number: u64::try_from(number).expect("few"), kind, order, pod, thread, target, waits }
        };
        drawn.into_iter().enumerate().map(number).collect()
    })
}

/// Whether a session's sockets may be taken for another's, so that its verdict may be undetermined.
fn may_be_doubted(session: &Session, all: &[Session], links: bool) -> bool {
    let mut beside = all.iter().filter(|other| other.number != session.number && other.pod == session.pod);
    let has = |other: &Session, steps: &[Step]| other.order.iter().any(|step| steps.contains(step));
    match session.kind {
        // While a sidecar's thread begins TLS, its answer on another connection may have come through that, unless the
        // thread's links show for which connection it dialed.
        Kind::Local404 => !links && beside.any(|other| has(other, &[Hello])),
        // Sockets to one proxy that are silent until their CONNECT is granted are told apart only by their first bytes, and
        // a thread's dial for a request may be taken for that of its next connection.
        Kind::Terminated => beside.next().is_some(),
        // An app may speak TLS with its proxy.
        Kind::WrappedInTls | Kind::MeshClosed => !links,
        // A dial that failed for a connection of which nothing else is known may have been for this one too, unless it is known
        // that the sidecar did not keep this one.
        Kind::Blackholed => {
            !links && beside.any(|other| has(other, &[UpstreamFails, OthersDialFails, UpstreamEnds]))
        }
        _ => false,
    }
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let explores = |name: &str| std::env::var_os(name).is_some();
    ProptestConfig {
        cases: if explores("PROPTEST_CASES") { default.cases } else { 4_000 },
        rng_seed: if explores("PROPTEST_RNG_SEED") { default.rng_seed } else { RngSeed::Fixed(1) },
        ..default
    }
}

proptest! {
    // A fixed seed; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` explore further.
    #![proptest_config(config())]

    #[test]
    fn no_interleaving_changes_a_verdict(
        sessions in sessions(),
        links in any::<bool>(),
        picks in prop::collection::vec(0..1000usize, 1..150),
    ) {
        let found = play(&sessions, &picks, links, |_| false);
        for session in &sessions {
            let reports = found.get(&(session.netns(), session.app())).map_or(&[][..], Vec::as_slice);
            let verdicts: Vec<_> = reports.iter().map(|report| (report.verdict, report.reason)).collect();
            let is_doubted = matches!(verdicts[..], [(Verdict::Undetermined, _)]);
            // A pooled failure may be known to be that of the dialed address.
            let is_explained = session.kind == Kind::SharedFailure
                && verdicts == [(Verdict::Unreachable, Some(Reason::ConnectFailed))];
            let is_doubted = is_doubted && may_be_doubted(session, &sessions, links);
            if !is_explained && !is_doubted {
                let expected: Vec<_> = session.kind.expected().into_iter().collect();
                prop_assert_eq!(verdicts, expected, "{:?}", session);
            }
        }
    }

    #[test]
    fn lost_records_add_no_flag_and_no_answerer(
        sessions in sessions(),
        links in any::<bool>(),
        picks in prop::collection::vec(0..1000usize, 1..150),
        losses in prop::collection::btree_set(0..80usize, 1..12),
    ) {
        let whole = play(&sessions, &picks, links, |_| false);
        let found = play(&sessions, &picks, links, |record| losses.contains(&record));
        for (session, reports) in &found {
            let before = whole.get(session).map_or(&[][..], Vec::as_slice);
            for report in reports {
                let was = |verdict| before.iter().any(|report| report.verdict == verdict);
                let had_flag = before.iter().any(|report| report.flagged);
                prop_assert!(!report.flagged || had_flag, "{:?}\n{:?}\n{:?}", report, before, losses);
                let asserts = matches!(report.verdict, Verdict::Tunneled | Verdict::RefusedByProxy);
                prop_assert!(!asserts || was(report.verdict), "{:?}\n{:?}\n{:?}", report, before, losses);
            }
        }
    }
}
