//! What runs on this node, as last listed: pods, their containers, and the cgroups of both; and what is new against the
//! list before. Sends no requests itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    News,
    cgroups::Found,
    client::{List, Listed, Sandbox},
};
use tracer_core::{
    mesh_profile::MeshProfile,
    pod::{Container, Fact, IGNORE, Key, Owner, Pod, container_ids, is_pod_cgroup, workload},
    selector::PodChoice,
};

#[derive(Default)]
pub(super) struct Node {
    choice: PodChoice,
    /// By the sandbox's id.
    pods: HashMap<String, Arc<Pod>>,
    /// By the container's id.
    containers: HashMap<String, Container>,
    /// The cgroups that were told of, by the container's id.
    told: HashMap<String, u64>,
    /// Those that were asked for: made by a container for itself. With its id.
    inner: HashMap<u64, String>,
    /// What was said of them, by cgroup.
    scoped: HashMap<u64, bool>,
}

impl Node {
    pub(super) fn new(choice: PodChoice) -> Self {
        Self { choice, ..Self::default() }
    }

    pub(super) fn knows(&self, sandbox: &str) -> bool {
        self.pods.contains_key(sandbox)
    }

    /// Who is at home in this cgroup; `None`: a container that is not known.
    pub(super) fn owner(&mut self, key: Key, path: &str) -> Option<Owner> {
        let mut ids = container_ids(path).peekable();
        if ids.peek().is_none() {
            return Some(Owner::Host);
        }
        let (id, container) = ids.find_map(|id| self.containers.get_key_value(id))?;
        if let Key::Cgroup(cgroup) = key
            && self.told.get(id) != Some(&cgroup)
        {
            self.inner.insert(cgroup, id.clone());
        }
        Some(Owner::Container(container.clone()))
    }

    /// Takes a list, and the cgroups that were there after it.
    pub(super) fn update(&mut self, list: List, cgroups: &HashMap<String, Found>) -> Vec<News> {
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
            // What did not change stays the same, and shared.
            let same = before.filter(|before| ***before == pod).map(Arc::clone);
            (sandbox.id.clone(), same.unwrap_or_else(|| Arc::new(pod)))
        });
        self.pods = pods.collect();
        let container = |Listed { id, sandbox, name }: Listed| {
            let pod = Arc::clone(self.pods.get(&sandbox)?);
            Some((id, Container { name, pod }))
        };
        let containers: HashMap<String, Container> =
            list.containers.into_iter().filter_map(container).collect();
        // Scope first: what is about to run must not wait for names.
        let mut news = self.rescope(&containers, cgroups);
        let mut told = HashMap::new();
        for (id, container) in &containers {
            let Some(Found { cgroup, .. }) = cgroups.get(id) else { continue };
            told.insert(id.clone(), *cgroup);
            if self.told.get(id) != Some(cgroup) || self.containers.get(id) != Some(container) {
                let owner = Owner::Container(container.clone());
                news.push(News::Fact(Fact::Owner(Key::Cgroup(*cgroup), owner)));
            }
        }
        let gone = self.told.iter().filter(|(id, _)| !told.contains_key(*id));
        news.extend(gone.map(|(_, cgroup)| News::Fact(Fact::Gone(Key::Cgroup(*cgroup)))));
        self.inner.retain(|cgroup, id| {
            let is_left = containers.contains_key(id);
            if !is_left {
                news.push(News::Fact(Fact::Gone(Key::Cgroup(*cgroup))));
            }
            is_left
        });
        self.told = told;
        self.containers = containers;
        news
    }

    /// What is to be traced of what is there now, where that was not said before.
    fn rescope(
        &mut self,
        containers: &HashMap<String, Container>,
        cgroups: &HashMap<String, Found>,
    ) -> Vec<News> {
        let mut scoped = HashMap::new();
        let everything = self.choice.is_everything();
        let mut say = |pod: &Pod, found: &Found| {
            let traced = !pod.ignored && self.choice.wants(&pod.namespace, &pod.labels);
            if everything && traced {
                return; // as everything is of which nothing is said
            }
            // A pod's own cgroup stands for all of its containers, those to come included.
            let (name, id) = &found.parent;
            scoped.insert(if is_pod_cgroup(name, &pod.uid) { *id } else { found.cgroup }, traced);
        };
        // The sandbox has a cgroup before any container of the pod does.
        for (id, pod) in &self.pods {
            if let Some(found) = cgroups.get(id) {
                say(pod, found);
            }
        }
        for (id, container) in containers {
            if let Some(found) = cgroups.get(id) {
                say(&container.pod, found);
            }
        }
        let new = scoped.iter().filter(|(cgroup, traced)| self.scoped.get(cgroup) != Some(traced));
        let new = new.map(|(&cgroup, &traced)| News::Scope { cgroup, traced });
        let old = self.scoped.keys().filter(|cgroup| !scoped.contains_key(*cgroup));
        let news = old.map(|&cgroup| News::Unscope(cgroup)).chain(new).collect();
        self.scoped = scoped;
        news
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

    fn listed(id: &str, sandbox: &str, name: &str) -> Listed {
        Listed { id: id.to_owned(), sandbox: sandbox.to_owned(), name: name.to_owned() }
    }

    fn found(id: &str, cgroup: u64, parent: &str) -> (String, Found) {
        (id.to_owned(), Found { cgroup, parent: (parent.to_owned(), 1_000 + cgroup / 10) })
    }

    fn scopes(news: &[News]) -> Vec<&News> {
        news.iter().filter(|news| !matches!(news, News::Fact(_))).collect()
    }

    #[test]
    fn containers_are_told_of_once_and_again_when_something_changed() {
        let mut node = Node::default();
        let list =
            List { sandboxes: vec![sandbox("s", "shop", &[])], containers: vec![listed("c", "s", "app")] };
        let cgroups = HashMap::from([found("c", 11, "pod"), found("other", 21, "pod")]);
        let news = node.update(list.clone(), &cgroups);
        let [News::Fact(Fact::Owner(Key::Cgroup(11), Owner::Container(app)))] = news.as_slice() else {
            panic!("{news:?}");
        };
        assert_eq!((app.name.as_str(), app.pod.namespace.as_str(), app.pod.injected), ("app", "shop", false));
        assert!(node.update(list.clone(), &cgroups).is_empty());

        let mut injected = list;
        injected.containers.push(listed("p", "s", mesh_profile::ISTIO.container));
        let news = node.update(injected, &cgroups);
        assert!(matches!(&news[..], [News::Fact(Fact::Owner(_, Owner::Container(app)))] if app.pod.injected));
        let news = node.update(List::default(), &HashMap::new());
        assert_eq!(news, [News::Fact(Fact::Gone(Key::Cgroup(11)))]);
    }

    #[test]
    fn a_pods_own_cgroup_stands_for_it_from_its_sandbox_on() {
        let choice =
            PodChoice { namespaces: vec!["shop".parse().expect("a namespace")], selectors: Vec::new() };
        let mut node = Node::new(choice);
        let list =
            List { sandboxes: vec![sandbox("s", "shop", &[]), sandbox("t", "bank", &[])], ..List::default() };
        let cgroups = HashMap::from([found("s", 11, "poduid-s"), found("t", 21, "poduid-t")]);
        let news = node.update(list.clone(), &cgroups);
        assert_eq!(scopes(&news).len(), 2);
        assert!(news.contains(&News::Scope { cgroup: 1_001, traced: true }));
        assert!(news.contains(&News::Scope { cgroup: 1_002, traced: false }));

        let mut later = list;
        later.containers.push(listed("c", "s", "app"));
        let cgroups: HashMap<_, _> = cgroups.into_iter().chain([found("c", 12, "poduid-s")]).collect();
        assert!(scopes(&node.update(later, &cgroups)).is_empty(), "its container is in scope already");
        let news = node.update(List::default(), &HashMap::new());
        assert!(news.contains(&News::Unscope(1_001)) && news.contains(&News::Unscope(1_002)), "{news:?}");
    }

    #[test]
    fn containers_below_a_common_cgroup_are_scoped_one_by_one() {
        let mut node = Node::default();
        let list = List {
            sandboxes: vec![sandbox("s", "shop", &[IGNORE]), sandbox("t", "shop", &[])],
            containers: vec![listed("c", "s", "app"), listed("d", "t", "app")],
        };
        let cgroups = HashMap::from([found("c", 11, "k8s.io"), found("d", 12, "k8s.io")]);
        let news = node.update(list, &cgroups);
        assert_eq!(scopes(&news), [&News::Scope { cgroup: 11, traced: false }]);
    }

    #[test]
    fn a_place_is_a_containers_the_hosts_or_not_known() {
        const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let mut node = Node::default();
        let key = Key::Cgroup(12);
        let path = format!("/kubepods/podx/{ID}/inner");
        assert_eq!(node.owner(key, &path), None);
        assert_eq!(node.owner(key, "/system.slice/sshd.service"), Some(Owner::Host));
        let list =
            List { sandboxes: vec![sandbox("s", "shop", &[])], containers: vec![listed(ID, "s", "app")] };
        node.update(list, &HashMap::new());
        assert!(matches!(node.owner(key, &path), Some(Owner::Container(app)) if app.name == "app"));
        let news = node.update(List::default(), &HashMap::new());
        assert_eq!(news, [News::Fact(Fact::Gone(key))], "it goes with the container that made it");
    }
}
