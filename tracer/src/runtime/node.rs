//! The pods and containers of this node as of the last list, with their cgroups, and the updates that a new list causes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Update,
    cgroups::ContainerCgroup,
    client::{List, ListedContainer, Sandbox},
};
use tracer_core::{
    mesh_profile::MeshProfile,
    pod::{Container, Fact, IGNORE, Owner, OwnerKey, Pod, container_ids, is_pod_cgroup, workload},
    selector::PodChoice,
};

#[derive(Default)]
pub(super) struct Node {
    choice: PodChoice,
    /// By the sandbox's id.
    pods: HashMap<String, Arc<Pod>>,
    /// By the container's id.
    containers: HashMap<String, Container>,
    /// The cgroups whose owner was sent, by the container's id.
    sent: HashMap<String, u64>,
    /// Cgroups that a container made below its own and that were asked for, with the container's id.
    nested: HashMap<u64, String>,
    /// The scopes that were sent, by cgroup.
    scoped: HashMap<u64, bool>,
}

impl Node {
    pub(super) fn new(choice: PodChoice) -> Self {
        Self { choice, ..Self::default() }
    }

    pub(super) fn knows(&self, sandbox: &str) -> bool {
        self.pods.contains_key(sandbox)
    }

    /// The owner of this cgroup path; `None`: a container that is not listed yet.
    pub(super) fn owner(&mut self, key: OwnerKey, path: &str) -> Option<Owner> {
        let mut ids = container_ids(path).peekable();
        if ids.peek().is_none() {
            return Some(Owner::Host);
        }
        let (id, container) = ids.find_map(|id| self.containers.get_key_value(id))?;
        if let OwnerKey::Cgroup(cgroup) = key
            && self.sent.get(id) != Some(&cgroup)
        {
            self.nested.insert(cgroup, id.clone());
        }
        Some(Owner::Container(container.clone()))
    }

    /// Takes a list, and the cgroups that existed after it.
    pub(super) fn update(&mut self, list: List, cgroups: &HashMap<String, ContainerCgroup>) -> Vec<Update> {
        let injected: HashSet<&str> = list
            .containers
            .iter()
            .filter(|container| MeshProfile::is_proxy_container(&container.name))
            .map(|container| container.sandbox.as_str())
            .collect();
        let pods = list.sandboxes.iter().map(|sandbox| {
            let mut pod = pod(sandbox);
            pod.injected |= injected.contains(sandbox.id.as_str());
            let before = self.pods.get(&sandbox.id);
            pod.host_network =
                sandbox.host_network.unwrap_or_else(|| before.is_some_and(|before| before.host_network));
            // An unchanged pod stays shared.
            let same = before.filter(|before| ***before == pod).map(Arc::clone);
            (sandbox.id.clone(), same.unwrap_or_else(|| Arc::new(pod)))
        });
        self.pods = pods.collect();
        let container = |ListedContainer { id, sandbox, name }: ListedContainer| {
            let pod = Arc::clone(self.pods.get(&sandbox)?);
            Some((id, Container { name, pod }))
        };
        let containers: HashMap<String, Container> =
            list.containers.into_iter().filter_map(container).collect();
        // Scopes first: a container that is about to run must be in scope before it has a name.
        let mut updates = self.rescope(&containers, cgroups);
        let mut sent = HashMap::new();
        for (id, container) in &containers {
            let Some(ContainerCgroup { cgroup, .. }) = cgroups.get(id) else { continue };
            sent.insert(id.clone(), *cgroup);
            if self.sent.get(id) != Some(cgroup) || self.containers.get(id) != Some(container) {
                let owner = Owner::Container(container.clone());
                updates.push(Update::Fact(Fact::Owner(OwnerKey::Cgroup(*cgroup), owner)));
            }
        }
        let gone = self.sent.iter().filter(|(id, _)| !sent.contains_key(*id));
        updates.extend(gone.map(|(_, cgroup)| Update::Fact(Fact::Gone(OwnerKey::Cgroup(*cgroup)))));
        self.nested.retain(|cgroup, id| {
            let exists = containers.contains_key(id);
            if !exists {
                updates.push(Update::Fact(Fact::Gone(OwnerKey::Cgroup(*cgroup))));
            }
            exists
        });
        self.sent = sent;
        self.containers = containers;
        updates
    }

    /// The scopes of the listed pods, where they differ from those that were sent.
    fn rescope(
        &mut self,
        containers: &HashMap<String, Container>,
        cgroups: &HashMap<String, ContainerCgroup>,
    ) -> Vec<Update> {
        let mut scoped = HashMap::new();
        let everything = self.choice.is_everything();
        let mut add = |pod: &Pod, found: &ContainerCgroup| {
            let traced = !pod.ignored && self.choice.wants(&pod.namespace, &pod.labels);
            if everything && traced {
                return; // the default
            }
            // The scope of the pod's own cgroup, where there is one, also holds for containers that start later.
            let (name, id) = &found.parent;
            scoped.insert(if is_pod_cgroup(name, &pod.uid) { *id } else { found.cgroup }, traced);
        };
        // The sandbox has a cgroup before the pod's containers have.
        for (id, pod) in &self.pods {
            if let Some(found) = cgroups.get(id) {
                add(pod, found);
            }
        }
        for (id, container) in containers {
            if let Some(found) = cgroups.get(id) {
                add(&container.pod, found);
            }
        }
        let new = scoped.iter().filter(|(cgroup, traced)| self.scoped.get(cgroup) != Some(traced));
        let new = new.map(|(&cgroup, &traced)| Update::Scope { cgroup, traced });
        let old = self.scoped.keys().filter(|cgroup| !scoped.contains_key(*cgroup));
        let updates = old.map(|&cgroup| Update::Unscope(cgroup)).chain(new).collect();
        self.scoped = scoped;
        updates
    }
}

fn pod(sandbox: &Sandbox) -> Pod {
    let Sandbox { uid, namespace, name, labels, annotations, .. } = sandbox;
    let labels = labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    Pod {
        uid: uid.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        workload: workload(name, &labels),
        labels,
        injected: MeshProfile::injected(annotations.keys().map(String::as_str)).is_some(),
        host_network: false,
        ignored: annotations.get(IGNORE).is_some_and(|value| value == "true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_core::mesh_profile;

    fn sandbox(id: &str, namespace: &str, annotations: &[&str]) -> Sandbox {
        Sandbox {
            id: id.to_owned(),
            uid: format!("uid-{id}"),
            namespace: namespace.to_owned(),
            name: format!("{id}-pod"),
            labels: HashMap::from([("app".to_owned(), id.to_owned())]),
            annotations: annotations.iter().map(|key| ((*key).to_owned(), "true".to_owned())).collect(),
            host_network: Some(false),
        }
    }

    fn listed(id: &str, sandbox: &str, name: &str) -> ListedContainer {
        ListedContainer { id: id.to_owned(), sandbox: sandbox.to_owned(), name: name.to_owned() }
    }

    fn found(id: &str, cgroup: u64, parent: &str) -> (String, ContainerCgroup) {
        (id.to_owned(), ContainerCgroup { cgroup, parent: (parent.to_owned(), 1_000 + cgroup / 10) })
    }

    fn scopes(updates: &[Update]) -> Vec<&Update> {
        updates.iter().filter(|updates| !matches!(updates, Update::Fact(_))).collect()
    }

    #[test]
    fn owner_is_sent_once_and_again_when_it_changes() {
        let mut node = Node::default();
        let list =
            List { sandboxes: vec![sandbox("s", "shop", &[])], containers: vec![listed("c", "s", "app")] };
        let cgroups = HashMap::from([found("c", 11, "pod"), found("other", 21, "pod")]);
        let updates = node.update(list.clone(), &cgroups);
        let [Update::Fact(Fact::Owner(OwnerKey::Cgroup(11), Owner::Container(app)))] = updates.as_slice()
        else {
            panic!("{updates:?}");
        };
        assert_eq!((app.name.as_str(), app.pod.namespace.as_str(), app.pod.injected), ("app", "shop", false));
        assert!(node.update(list.clone(), &cgroups).is_empty());

        let mut injected = list;
        injected.containers.push(listed("p", "s", mesh_profile::ISTIO.container));
        let updates = node.update(injected, &cgroups);
        assert!(
            matches!(&updates[..], [Update::Fact(Fact::Owner(_, Owner::Container(app)))] if app.pod.injected)
        );
        let updates = node.update(List::default(), &HashMap::new());
        assert_eq!(updates, [Update::Fact(Fact::Gone(OwnerKey::Cgroup(11)))]);
    }

    #[test]
    fn cgroup_of_a_pod_is_scoped_as_soon_as_its_sandbox_exists() {
        let choice =
            PodChoice { namespaces: vec!["shop".parse().expect("a namespace")], selectors: Vec::new() };
        let mut node = Node::new(choice);
        let list =
            List { sandboxes: vec![sandbox("s", "shop", &[]), sandbox("t", "bank", &[])], ..List::default() };
        let cgroups = HashMap::from([found("s", 11, "poduid-s"), found("t", 21, "poduid-t")]);
        let updates = node.update(list.clone(), &cgroups);
        assert_eq!(scopes(&updates).len(), 2);
        assert!(updates.contains(&Update::Scope { cgroup: 1_001, traced: true }));
        assert!(updates.contains(&Update::Scope { cgroup: 1_002, traced: false }));

        let mut later = list;
        later.containers.push(listed("c", "s", "app"));
        let cgroups: HashMap<_, _> = cgroups.into_iter().chain([found("c", 12, "poduid-s")]).collect();
        assert!(
            scopes(&node.update(later, &cgroups)).is_empty(),
            "the cgroup of its pod has a scope already"
        );
        let updates = node.update(List::default(), &HashMap::new());
        assert!(
            updates.contains(&Update::Unscope(1_001)) && updates.contains(&Update::Unscope(1_002)),
            "{updates:?}"
        );
    }

    #[test]
    fn containers_without_a_cgroup_of_their_pod_are_scoped_one_by_one() {
        let mut node = Node::default();
        let list = List {
            sandboxes: vec![sandbox("s", "shop", &[IGNORE]), sandbox("t", "shop", &[])],
            containers: vec![listed("c", "s", "app"), listed("d", "t", "app")],
        };
        let cgroups = HashMap::from([found("c", 11, "k8s.io"), found("d", 12, "k8s.io")]);
        let updates = node.update(list, &cgroups);
        assert_eq!(scopes(&updates), [&Update::Scope { cgroup: 11, traced: false }]);
    }

    #[test]
    fn cgroup_path_belongs_to_a_container_the_host_or_is_unknown() {
        const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let mut node = Node::default();
        let key = OwnerKey::Cgroup(12);
        let path = format!("/kubepods/podx/{ID}/inner");
        assert_eq!(node.owner(key, &path), None);
        assert_eq!(node.owner(key, "/system.slice/sshd.service"), Some(Owner::Host));
        let list =
            List { sandboxes: vec![sandbox("s", "shop", &[])], containers: vec![listed(ID, "s", "app")] };
        node.update(list, &HashMap::new());
        assert!(matches!(node.owner(key, &path), Some(Owner::Container(app)) if app.name == "app"));
        let updates = node.update(List::default(), &HashMap::new());
        assert_eq!(updates, [Update::Fact(Fact::Gone(key))], "the nested cgroup ends with its container");
    }
}
