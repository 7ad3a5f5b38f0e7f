//! Every fix that `explain` prints for a situation, applied by the printed command: whether the API server and istiod's
//! webhook accept it, whether the request then reaches the proxy, whether every other server of the port answers as before, and
//! whether any object changed that the command does not name. Each fix is undone before the next one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::reality::Seen;
use crate::stage::{Actor, Stage, pod_name};
use crate::table::{Client, Request, Situation, To};

/// Where the API server keeps what a fix may change.
const COLLECTIONS: &[&str] = &[
    "/api/v1/services",
    "/apis/apps/v1/deployments",
    "/apis/networking.istio.io/v1/destinationrules",
    "/apis/networking.istio.io/v1/serviceentries",
    "/apis/networking.istio.io/v1/sidecars",
    "/apis/networking.istio.io/v1/virtualservices",
    "/apis/networking.istio.io/v1alpha3/envoyfilters",
    "/apis/security.istio.io/v1/authorizationpolicies",
    "/apis/security.istio.io/v1/peerauthentications",
];

/// What came of one fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Which object it creates or changes, from its title.
    pub fix: String,
    /// What is wrong with it; `None`: it works.
    pub fault: Option<String>,
}

/// What there was before any fix.
struct Before<'a> {
    dialed: SocketAddr,
    /// The other servers of the port that answer the app themselves, and the answers.
    others: &'a [(String, String)],
    objects: &'a Objects,
    /// Whether the proxy answers a pod without a sidecar.
    is_alive: bool,
}

/// An object's kind, namespace and name.
type Key = (String, String, String);
type Objects = BTreeMap<Key, Value>;

/// Applies each fix of the explanation, best first.
pub fn try_all(stage: &mut Stage, situation: &Situation, explained: &Value) -> Result<Vec<Tried>> {
    let fixes = explained["fixes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if fixes.is_empty() {
        return Ok(Vec::new());
    }
    let (app, deployment) = (stage.actor(situation.client, &[])?, deployment(situation));
    stage.mesh().put(&deployment)?;
    let plain = stage.actor(Client::NoSidecar, &[])?;
    let before = objects(stage)?;
    // What the mesh does not let through before the fix may change with it; what a server itself answers may not.
    let dialed = stage.dialed(&app, situation.to)?;
    let (own, now) = (stage.others(&plain, situation, dialed)?, stage.others(&app, situation, dialed)?);
    let others: Vec<_> =
        now.into_iter().zip(own).filter(|(now, own)| now == own).map(|(now, _)| now).collect();
    let only_in_mesh = matches!(situation.to, To::Loopback(_) | To::Name(_));
    let is_alive = only_in_mesh || stage.dial(&plain, situation, dialed)?.client.status().is_some();
    let mut tried = Vec::new();
    for fix in fixes {
        let text = |key: &str| fix[key].as_str().with_context(|| format!("a fix without {key}: {fix}"));
        let printed = (text("title")?, text("apply")?, text("manifest")?);
        let fault = fault(
            stage,
            situation,
            &app,
            printed,
            &Before { dialed, others: &others, objects: &before, is_alive },
        )?;
        tried.push(Tried { fix: text("title")?.split(':').next().unwrap_or_default().to_owned(), fault });
        undo(stage, &before)?;
    }
    stage.mesh().remove(&deployment)?;
    Ok(tried)
}

fn fault(
    stage: &mut Stage,
    situation: &Situation,
    app: &Actor,
    (title, apply, manifest): (&str, &str, &str),
    before: &Before<'_>,
) -> Result<Option<String>> {
    let file = stage.write("fix.yaml", &situation.name, manifest.as_bytes())?;
    let Some(command) = command(title, apply, &file.display().to_string(), situation) else {
        return Ok(Some(format!("the command cannot be run: {apply}")));
    };
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    if let Err(error) = stage.mesh().kubectl(&arguments, "") {
        let text = format!("{error:#}");
        let reason = text.lines().find(|line| line.contains("rror")).unwrap_or(&text);
        return Ok(Some(format!("is not accepted: {reason}")));
    }
    // A pod has the annotations with which it was started, so the workload's pods are started anew.
    let workload = ("Deployment".to_owned(), "shop".to_owned(), pod_name(situation.client).to_owned());
    let after = objects(stage)?;
    let annotations = annotations(&after[&workload]);
    let restarted =
        if annotations.is_empty() { None } else { Some(stage.actor(situation.client, &annotations)?) };
    let app = restarted.as_deref().unwrap_or(app);

    let seen = stage.dial_after_push(app, situation, before.dialed)?;
    if !heals(&seen, situation.request, before.is_alive) {
        let answer =
            seen.client.status().map_or_else(|| seen.client.end.clone(), |status| status.to_string());
        return Ok(Some(format!("does not heal: the app gets {answer}, {}", seen.verdict())));
    }
    let answers: BTreeMap<String, String> =
        stage.others(app, situation, before.dialed)?.into_iter().collect();
    for (name, was) in before.others {
        let is = &answers[name];
        if was != is {
            return Ok(Some(format!("heals, but {name} answers {is} where it answered {was}")));
        }
    }
    let named = named(&command);
    let mut objects = before.objects.iter();
    let changed =
        objects.find(|(key, object)| after.get(*key) != Some(*object) && Some(*key) != named.as_ref());
    Ok(changed.map(|((kind, namespace, name), _)| format!("heals, but changes {kind} {namespace}/{name}")))
}

/// Whether the request reached the proxy and its own answer came back; where the proxy does not even answer a pod without a
/// sidecar, whether the request is on its way to it.
fn heals(seen: &Seen, request: Request, is_alive: bool) -> bool {
    let due = if request == Request::ConnectDenied { 403 } else { 200 };
    let verdict = seen.verdict();
    let is_dead = !is_alive && verdict.to_string() == "unreachable/connect_failed";
    let is_due = seen.client.status() == Some(due)
        && ["tunneled", "refused_by_proxy", "direct"].contains(&verdict.name.as_str());
    is_due || is_dead
}

/// The arguments of the printed kubectl command, with the values of its placeholders. `None`: it is no command.
fn command(title: &str, apply: &str, file: &str, situation: &Situation) -> Option<Vec<String>> {
    // After a comma there is another way to do the same.
    let printed = apply.split(", or ").next()?.strip_prefix("kubectl ")?;
    if printed.contains("fix.yaml") {
        let workload = format!("{} --namespace shop", pod_name(situation.client));
        let filled = printed.replace("fix.yaml", file).replace(" NAME ", &format!(" {workload} "));
        return Some(filled.split_whitespace().map(str::to_owned).collect());
    }
    // An object that only its host identifies is edited by hand, so that it says what the manifest says.
    let host = title.strip_prefix("ServiceEntry for ")?.split(':').next()?;
    let has_host = |object: &&Value| object["kind"] == "ServiceEntry" && object["spec"]["hosts"][0] == host;
    let metadata = &situation.objects.iter().find(has_host)?["metadata"];
    let (namespace, name) = (metadata["namespace"].as_str()?, metadata["name"].as_str()?);
    let edit = ["-n", namespace, "patch", "serviceentry", name, "--type", "merge", "--patch-file", file];
    Some(edit.map(str::to_owned).to_vec())
}

/// The object that a `kubectl patch` names; `kubectl apply` names none that is there.
fn named(command: &[String]) -> Option<Key> {
    let at = |flags: &[&str]| command.iter().position(|argument| flags.contains(&argument.as_str()));
    let after = |position: usize, by: usize| command.get(position + by).cloned();
    let patch = at(&["patch"])?;
    let kind = after(patch, 1)?;
    let kind = match kind.as_str() {
        "service" => "Service",
        "deployment" => "Deployment",
        "destinationrule" => "DestinationRule",
        "serviceentry" => "ServiceEntry",
        "sidecar" => "Sidecar",
        other => other,
    };
    Some((kind.to_owned(), after(at(&["-n", "--namespace"])?, 1)?, after(patch, 2)?))
}

/// Every object that a fix may change, without what the API server and the controllers write.
fn objects(stage: &Stage) -> Result<Objects> {
    let mut all = Objects::new();
    for object in stage.mesh().list(COLLECTIONS)? {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
        let kept = json!({"name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata["labels"],
            "annotations": metadata["annotations"]});
        if key.1 != "istio-system" || key.0 != "EnvoyFilter" {
            all.insert(key, json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": kept, "spec": object["spec"]}));
        }
    }
    Ok(all)
}

/// Makes the objects what they were.
fn undo(stage: &Stage, before: &Objects) -> Result<()> {
    for (key, object) in objects(stage)? {
        if before.get(&key) != Some(&object) {
            stage.mesh().remove(&object)?;
            if let Some(was) = before.get(&key) {
                stage.mesh().put(was)?;
            }
        }
    }
    Ok(())
}

/// The app's workload. No controller runs its pods here: the stage starts them.
fn deployment(situation: &Situation) -> Value {
    let name = pod_name(situation.client);
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "app", "image": "none"}]}}}})
}

fn annotations(deployment: &Value) -> Vec<(String, String)> {
    let all = deployment["spec"]["template"]["metadata"]["annotations"].as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
