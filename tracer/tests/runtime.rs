//! With a container runtime that is absent, silent or broken, questions for owners are still answered, and soon.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    task::{LocalSet, spawn_local},
    time::timeout,
};
use tracer::runtime::{Runtime, RuntimeEndpoint, Update};
use tracer_core::{
    pod::{Fact, Owner, OwnerKey},
    selector::PodChoice,
};

const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A cgroup tree with one container, and the id of that container's cgroup.
fn tree() -> (tempfile::TempDir, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("kubepods/podu").join(ID);
    std::fs::create_dir_all(&dir).expect("directories");
    let cgroup = std::fs::metadata(dir).expect("metadata").ino();
    (root, cgroup)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

fn spawn(socket: &Path, root: &Path) -> Runtime {
    Runtime::spawn(RuntimeEndpoint(socket.to_owned()), root.to_owned(), PodChoice::default())
}

/// Asks for the owner of `key`; returns it, and how long the answer took.
async fn ask(runtime: &mut Runtime, key: OwnerKey) -> (Owner, Duration) {
    let start = Instant::now();
    runtime.ask(vec![key]);
    let answer = async {
        loop {
            if let Update::Fact(Fact::Owner(of, owner)) = runtime.next().await
                && of == key
            {
                return owner;
            }
        }
    };
    (timeout(Duration::from_secs(20), answer).await.expect("an answer"), start.elapsed())
}

#[test]
fn without_a_runtime_containers_are_unknown_at_once_and_the_host_is_known() {
    run(async {
        let (root, cgroup) = tree();
        let mut runtime = spawn(Path::new("/nonexistent/runtime.sock"), root.path());
        let (owner, took) = ask(&mut runtime, OwnerKey::Cgroup(cgroup)).await;
        assert_eq!(owner, Owner::Unknown);
        assert!(took < Duration::from_secs(1), "{took:?}");
        // No process has this id.
        assert_eq!(ask(&mut runtime, OwnerKey::Process(u32::MAX)).await.0, Owner::Unknown);
        let host =
            std::os::unix::fs::MetadataExt::ino(&root.path().join("kubepods").metadata().expect("there"));
        assert_eq!(ask(&mut runtime, OwnerKey::Cgroup(host)).await.0, Owner::Host);
        assert!(!runtime.is_connected());
    });
}

/// A socket whose connections are handed to `treat`.
fn listen<F: Future<Output = ()> + 'static>(
    dir: &Path,
    treat: impl Fn(tokio::net::UnixStream) -> F + 'static,
) -> PathBuf {
    let path = dir.join("runtime.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            spawn_local(treat(stream));
        }
    });
    path
}

#[test]
fn silent_runtime_is_given_up_after_the_timeout() {
    run(async {
        let (root, cgroup) = tree();
        let socket = listen(root.path(), |stream| async {
            let _held = stream;
            std::future::pending::<()>().await;
        });
        let mut runtime = spawn(&socket, root.path());
        // A report waits only a second for its name. This holds that there is an answer at all.
        assert_eq!(ask(&mut runtime, OwnerKey::Cgroup(cgroup)).await.0, Owner::Unknown);
        assert!(!runtime.is_connected(), "a socket that takes connections is no answer");
    });
}

#[test]
fn broken_runtime_is_tried_again_with_pauses() {
    run(async {
        let (root, cgroup) = tree();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let socket = listen(root.path(), move |mut stream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n\xff\xff\xff\x00nonsense\x1b[2J").await;
            }
        });
        let mut runtime = spawn(&socket, root.path());
        for _ in 0..20 {
            let (owner, took) = ask(&mut runtime, OwnerKey::Cgroup(cgroup)).await;
            assert_eq!(owner, Owner::Unknown);
            assert!(took < Duration::from_secs(8), "{took:?}");
        }
        let tried = connections.load(Ordering::Relaxed);
        assert!((1..10).contains(&tried), "{tried} connections");
    });
}
