//! What a cgroup's path says: the ids of the containers it lies in, and whether it is a pod's. Every runtime and driver
//! has its own spelling; the table in the tests holds them.

/// The paths in the text of `/proc/PID/cgroup`, the v2 one first: on hybrid nodes the others may say more.
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

/// The ids of the containers that a cgroup lies in, innermost first: a container may run a runtime of its own, whose
/// containers the node's runtime does not know, and a whole node may be a container.
pub fn container_ids(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit('/').filter_map(container_id)
}

/// The id in one part of a path: `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope` (systemd driver), `ID`,
/// `crio-ID` (cgroupfs driver), `SLICE:cri-containerd:ID` (one configured for the other).
fn container_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // The monitor of a container is not in it.
    if part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-") {
        return None;
    }
    let id = part.rsplit([':', '-']).next()?;
    let is_id =
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_id.then_some(id)
}

/// Is this a directory's name that the kubelet gives to the cgroup of the pod with this uid: `podUID`, or
/// `kubepods-burstable-podUID.slice`, where dashes are underscores?
/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/kubelet/cm/pod_container_manager_linux.go#L44>
pub fn is_of_pod(name: &str, uid: &str) -> bool {
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
    fn every_runtime_and_driver_has_its_own_spelling() {
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
            // dockershim and its heir
            ("/kubepods.slice/kubepods-podU_1.slice/docker-ID.scope", "ID"),
            ("/docker/ID", "ID"),
            // podman
            ("/machine.slice/libpod-ID.scope", "ID"),
            ("/machine.slice/libpod-conmon-ID.scope", ""),
            // a process of the container made a cgroup of its own
            ("/kubepods/podU-1/ID/init.scope", "ID"),
            // a node in a container, and a container in a container
            ("/docker/OUTER/kubelet/kubepods/besteffort/podU-1/ID", "ID OUTER"),
            (
                "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_1.slice/cri-containerd-ID.scope",
                "ID OUTER",
            ),
            ("/kubepods/podU-1/OUTER/docker/ID", "ID OUTER"),
            // seen from within another cgroup namespace
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
    fn what_only_looks_like_an_id_is_none() {
        for part in [&ID[1..], &format!("{ID}0"), &ID.to_uppercase(), "docker-", "crio-.scope", "é", ":", "-"]
        {
            assert_eq!(container_id(part), None, "{part}");
        }
    }

    #[test]
    fn v1_v2_and_hybrid_tables_are_read() {
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
    fn the_pods_own_cgroup_is_known_by_its_uid() {
        let uid = "4e1d2a60-0c1b-4b7e-9d53-1f2e3d4c5b6a";
        let escaped = uid.replace('-', "_");
        assert!(is_of_pod(&format!("pod{uid}"), uid));
        assert!(is_of_pod(&format!("kubepods-burstable-pod{escaped}.slice"), uid));
        assert!(is_of_pod(&format!("kubelet-kubepods-pod{escaped}.slice"), uid));
        // A static pod's is a hash.
        assert!(is_of_pod(
            "kubepods-podd41d8cd98f00b204e9800998ecf8427e.slice",
            "d41d8cd98f00b204e9800998ecf8427e"
        ));
        for other in ["", "pod", "kubepods", "k8s.io", "pods", "kubepods-burstable.slice"] {
            assert!(!is_of_pod(other, uid) && !is_of_pod(other, ""), "{other}");
        }
    }
}
