//! What the tracer says before an app fails: `audit` and `probe` on a real Istio.

// One module for all, so that `cargo xtask test --without mesh` can leave it out by its name.
mod real_mesh {
    use std::sync::LazyLock;
    use std::time::Duration;

    use lab::{Mesh, Place, Pod, PodOptions, Process, ProcessOutput, Seed, tracer_binary};
    use serde_json::Value;

    const TIMEOUT: Duration = Duration::from_mins(1);

    static MESH: LazyLock<Mesh> = LazyLock::new(|| Mesh::start().expect("a mesh"));

    fn run(place: &Place, args: &[&str]) -> ProcessOutput {
        let binary = tracer_binary().expect("a tracer");
        let mut command = place.command_at(&binary).expect("a command");
        command.args(args);
        Process::run(command, &[], TIMEOUT).expect("it runs to its end")
    }

    /// A process of the app with these variables, which only waits.
    fn app(pod: &Pod, variables: &[(&str, &str)]) -> Process {
        let mut command = pod.app().command("sleep").expect("a command");
        command.arg("600").envs(variables.iter().copied());
        Process::spawn(command, &[]).expect("an app")
    }

    fn lines(ended: &ProcessOutput) -> Vec<Value> {
        ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn audit_names_the_pod_whose_proxy_would_fail_and_probe_proves_the_fix() {
        let mesh = &*MESH;
        let seed = Seed::start(mesh, 3140).expect("a scene");
        let other = mesh.pod(&PodOptions::injected("bank", "teller")).expect("a pod");
        mesh.apply(&seed.service(), &[seed.app(), &other]).expect("the Service");
        let proxy = format!("http://user:s3cr3t@{}", seed.proxy());
        let settings = [("HTTPS_PROXY", proxy.as_str()), ("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
        let sleeping = app(seed.app(), &settings);
        let _teller = app(&other, &[]);
        let place = mesh.tools().expect("a place");
        let cgroup = mesh.pods_cgroup().to_str().expect("UTF-8");
        let args = ["audit", "--cgroup", cgroup, "-o", "json", "--fail-on", "flagged"];

        let ended = run(&place, &args);
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        assert!(!format!("{ended:?}").contains("s3cr3t"), "{ended:?}");
        let found = lines(&ended);
        let pod = format!("shop/{}", seed.app().name());
        let pairs: Vec<&Value> = found.iter().filter(|line| line["proxy"].is_string()).collect();
        assert_eq!(pairs.len(), 1, "the teller's app names no proxy: {found:?}");
        assert_eq!(
            (&pairs[0]["pod"], &pairs[0]["verdict"]),
            (&pod.as_str().into(), &"handled_as_http".into())
        );
        assert!(
            pairs[0]["cause"].as_str().is_some_and(|cause| cause.contains(&seed.service_name())),
            "{}",
            pairs[0]
        );
        assert_eq!(pairs[0]["known_from"], serde_json::json!(["HTTPS_PROXY"]));
        let codes: Vec<&Value> = found.iter().filter_map(|line| line.get("code")).collect();
        assert_eq!(codes, ["services_through_proxy", "cluster_ips_through_proxy"]);

        // Both pods, for a proxy that is given.
        let to = seed.proxy();
        let given = [&args[..], &["--to", &to]].concat();
        let found = lines(&run(&place, &given));
        let flagged = found.iter().filter(|line| line["flagged"] == true).count();
        assert_eq!(flagged, 2, "{found:?}");

        let pid = sleeping.pid().to_string();
        let probe =
            ["probe", "--standalone", "--family", "cgroup", "--cgroup", cgroup, "--pid", &pid, "-o", "json"];
        let probe = [&probe[..], &["--to", &to, "--fail-on", "flagged"]].concat();
        let before = run(&place, &probe);
        assert_eq!(before.status.code(), Some(3), "{before:?}");
        mesh.apply(&seed.service_entry(), &[seed.app(), &other]).expect("the fix");
        let after = run(&place, &probe);
        assert_eq!(after.status.code(), Some(0), "{after:?}");
        let after: Value = serde_json::from_str(&after.stdout).expect("JSON");
        assert_eq!(after["agrees"], true, "{after}");
        assert_eq!(after["predicted"]["verdict"], "tunneled", "{after}");
        // The ServiceEntry is seen by all namespaces, so the audit is clean for both.
        let ended = run(&place, &given);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
}
