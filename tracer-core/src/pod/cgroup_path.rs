//! Reads container ids and pod uids from cgroup paths. Every runtime and cgroup driver has its own spelling; the table in
//! the tests lists them.

/// The paths in the text of `/proc/PID/cgroup`, v2 first. On hybrid nodes the v1 paths may name a container that the v2
/// path does not.
pub fn paths(proc_cgroup: &str) -> impl Iterator<Item = &str> {
    let of = move |v2: bool| {
        proc_cgroup.lines().filter_map(move |line| {
            let (hierarchy, rest) = line.split_once(':')?;
            let (_, path) = rest.split_once(':')?;
            ((hierarchy == "0") == v2).then_some(path)
        })
    };
    of(true).chain(of(false))
}

/// The ids of the containers that a cgroup is in, innermost first. Containers nest: a container may run a runtime of its
/// own, whose containers the node's runtime does not know, and a whole node may be a container.
pub fn container_ids(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit('/').filter_map(container_id)
}

/// The id in one part of a path: `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope` (systemd driver), `ID`,
/// `crio-ID` (cgroupfs driver), `SLICE:cri-containerd:ID` (one configured for the other).
fn container_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // The monitor process of a container is outside of it.
    if part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-") {
        return None;
    }
    let id = part.rsplit([':', '-']).next()?;
    let is_id =
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_id.then_some(id)
}

/// Whether the kubelet gives this directory name to the cgroup of the pod with this uid: `podUID`, or
/// `kubepods-burstable-podUID.slice` with underscores for the uid's dashes.
/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/kubelet/cm/pod_container_manager_linux.go#L44>
pub fn is_pod_cgroup(name: &str, uid: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let name = name.rsplit('-').next().filter(|last| last.starts_with("pod")).unwrap_or(name);
    let Some(name) = name.strip_prefix("pod") else { return false };
    !uid.is_empty() && (name == uid || name == uid.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    const OUTER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn container_ids_are_found_in_every_spelling() {
        for (path, ids) in [
            // containerd
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_1.slice/cri-containerd-ID.scope",
                "ID",
            ),
            ("/kubepods/besteffort/podU-1/ID", "ID"),
            ("/kubepods/podU-1/ID", "ID"),
            ("/system.slice/kubepods-besteffort-podU_1.slice:cri-containerd:ID", "ID"),
            ("/k8s.io/ID", "ID"),
            // CRI-O
            ("/kubepods.slice/kubepods-podU_1.slice/crio-ID.scope", "ID"),
            ("/kubepods.slice/kubepods-podU_1.slice/crio-ID.scope/container", "ID"),
            ("/kubepods/burstable/podU-1/crio-ID", "ID"),
            ("/kubepods.slice/kubepods-podU_1.slice/crio-conmon-ID.scope", ""),
            // dockershim, cri-dockerd
            ("/kubepods.slice/kubepods-podU_1.slice/docker-ID.scope", "ID"),
            ("/docker/ID", "ID"),
            // podman
            ("/machine.slice/libpod-ID.scope", "ID"),
            ("/machine.slice/libpod-conmon-ID.scope", ""),
            // a cgroup that a process of the container made
            ("/kubepods/podU-1/ID/init.scope", "ID"),
            // a node in a container, and a container in a container
            ("/docker/OUTER/kubelet/kubepods/besteffort/podU-1/ID", "ID OUTER"),
            (
                "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_1.slice/cri-containerd-ID.scope",
                "ID OUTER",
            ),
            ("/kubepods/podU-1/OUTER/docker/ID", "ID OUTER"),
            // seen from another cgroup namespace
            ("/../../podU-1/ID", "ID"),
            // the host
            ("/", ""),
            ("", ""),
            ("/system.slice/sshd.service", ""),
            ("/user.slice/user-1000.slice/session-3.scope", ""),
            ("/kubepods/podU-1", ""),
        ] {
            let path = path.replace("OUTER", OUTER).replace("ID", ID);
            let wanted: Vec<_> =
                ids.split_whitespace().map(|name| if name == "ID" { ID } else { OUTER }).collect();
            assert_eq!(container_ids(&path).collect::<Vec<_>>(), wanted, "{path}");
        }
    }

    #[test]
    fn malformed_ids_are_ignored() {
        for part in [&ID[1..], &format!("{ID}0"), &ID.to_uppercase(), "docker-", "crio-.scope", "é", ":", "-"]
        {
            assert_eq!(container_id(part), None, "{part}");
        }
    }

    #[test]
    fn proc_cgroup_is_read_on_v1_v2_and_hybrid_nodes() {
        let v2 = format!("0::/kubepods/podU/{ID}\n");
        let v1 = format!("12:memory:/kubepods/podU/{ID}\n1:name=systemd:/kubepods/podU/{ID}\n");
        let hybrid = format!("9:name=systemd:/\n4:memory:/kubepods/podU/{ID}\n0::/\n");
        for table in [v2, v1, hybrid] {
            assert_eq!(paths(&table).flat_map(container_ids).next(), Some(ID), "{table}");
        }
        assert_eq!(paths("garbage\n1:\n:::\n\n").collect::<Vec<_>>(), [":"]);
        assert_eq!(paths("0::/a:b\n").collect::<Vec<_>>(), ["/a:b"]);
    }

    #[test]
    fn cgroup_of_a_pod_is_found_by_its_uid() {
        let uid = "4e1d2a60-0c1b-4b7e-9d53-1f2e3d4c5b6a";
        let escaped = uid.replace('-', "_");
        assert!(is_pod_cgroup(&format!("pod{uid}"), uid));
        assert!(is_pod_cgroup(&format!("kubepods-burstable-pod{escaped}.slice"), uid));
        assert!(is_pod_cgroup(&format!("kubelet-kubepods-pod{escaped}.slice"), uid));
        // The uid of a static pod is a hash.
        assert!(is_pod_cgroup(
            "kubepods-podd41d8cd98f00b204e9800998ecf8427e.slice",
            "d41d8cd98f00b204e9800998ecf8427e"
        ));
        for other in ["", "pod", "kubepods", "k8s.io", "pods", "kubepods-burstable.slice"] {
            assert!(!is_pod_cgroup(other, uid) && !is_pod_cgroup(other, ""), "{other}");
        }
    }
}
