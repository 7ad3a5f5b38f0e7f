//! A client that asks the istiod with all defaults for what a sidecar would ask for, and loads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use lab::{DEFAULT_ISTIOD, Mesh, Pod};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The client.
#[derive(Debug)]
pub struct DumpClient {
    name: String,
    asked: Asked,
    to: UnboundedSender<DiscoveryRequest>,
}

/// The last request for each type, which an acknowledgment repeats.
type Asked = Arc<Mutex<BTreeMap<String, DiscoveryRequest>>>;

/// The part of `envoy.service.discovery.v3.DiscoveryRequest` that istiod reads.
#[derive(Clone, PartialEq, Message)]
struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(message, optional, tag = "2")]
    node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    response_nonce: String,
}

/// The part of `envoy.config.core.v3.Node` that istiod reads.
#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Struct>,
}

/// What an acknowledgment needs of `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

impl DumpClient {
    /// A client in the place of this pod's sidecar.
    pub fn start(mesh: &Mesh, pod: &Pod) -> Result<Self> {
        let info: Value = serde_json::from_str(&pod.admin("server_info")?)?;
        let text = |key: &str| info["node"][key].as_str().unwrap_or_default().to_owned();
        let metadata = proto(&info["node"]["metadata"]);
        let Some(Kind::StructValue(metadata)) = metadata.kind else { anyhow::bail!("no metadata: {info}") };
        let node = Node { id: text("id"), cluster: text("cluster"), metadata: Some(metadata) };
        let (to, requests) = unbounded_channel();
        // `sidecar~ADDRESS~POD.NAMESPACE~DOMAIN`: the debug endpoint knows a client by its third part.
        let name = node.id.split('~').nth(2).context("a node id without a pod")?.to_owned();
        let client = Self { name, asked: Arc::default(), to: to.clone() };
        let (netns, asked) = (mesh.control().netns().clone(), Arc::clone(&client.asked));
        thread::spawn(move || {
            if let Err(error) = netns.run(|| subscribe(requests, &to, &asked)).flatten() {
                eprintln!("the stream to the istiod with all defaults: {error:#}");
            }
        });
        for type_url in [CLUSTERS, LISTENERS] {
            client.ask(type_url, BTreeSet::new(), Some(node.clone()))?;
        }
        Ok(client)
    }

    /// The dump that this istiod would have its sidecar make of all that was applied before the last wait for a push.
    pub fn dump(&self, mesh: &Mesh) -> Result<Value> {
        mesh.default_dump(&self.name, |dump| {
            let mut is_whole = true;
            for (type_url, wanted, got) in [
                (
                    ROUTES,
                    texts(dump, "routeConfigName"),
                    names(dump, "dynamicRouteConfigs", "routeConfig", "name"),
                ),
                (
                    ENDPOINTS,
                    eds(dump),
                    names(dump, "dynamicEndpointConfigs", "endpointConfig", "clusterName"),
                ),
            ] {
                is_whole &= wanted.is_subset(&got);
                let asked = lock(&self.asked).get(type_url).map(|request| request.resource_names.clone());
                if asked.unwrap_or_default() != wanted.iter().cloned().collect::<Vec<_>>() {
                    self.ask(type_url, wanted, None)?;
                }
            }
            Ok(is_whole)
        })
    }

    fn ask(&self, type_url: &str, names: BTreeSet<String>, node: Option<Node>) -> Result<()> {
        let mut asked = lock(&self.asked);
        let mut request = asked.remove(type_url).unwrap_or_default();
        request.resource_names = names.into_iter().collect();
        type_url.clone_into(&mut request.type_url);
        asked.insert(type_url.to_owned(), request.clone());
        self.to.send(DiscoveryRequest { node, ..request }).ok().context("the stream has ended")
    }
}

fn lock(asked: &Asked) -> MutexGuard<'_, BTreeMap<String, DiscoveryRequest>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the stream in the calling thread's network namespace until istiod ends it, and acknowledges what comes.
fn subscribe(
    requests: UnboundedReceiver<DiscoveryRequest>,
    to: &UnboundedSender<DiscoveryRequest>,
    asked: &Asked,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("http://{DEFAULT_ISTIOD}"))?.connect().await?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(64 << 20);
        client.ready().await?;
        let stream = tonic::Request::new(UnboundedReceiverStream::new(requests));
        let codec: ProstCodec<DiscoveryRequest, DiscoveryResponse> = ProstCodec::default();
        let answer = client.streaming(stream, PathAndQuery::from_static(METHOD), codec).await?;
        let mut answers = answer.into_inner();
        while let Ok(Some(response)) = answers.message().await {
            let mut asked = lock(asked);
            let Some(request) = asked.get_mut(&response.type_url) else { continue };
            (request.version_info, request.response_nonce) = (response.version_info, response.nonce);
            to.send(request.clone())?;
        }
        Ok(())
    })
}

/// The entries of a section, by a text in them.
fn names(dump: &Value, section: &str, part: &str, name: &str) -> BTreeSet<String> {
    let sections = dump["configs"].as_array().into_iter().flatten();
    let entries = sections.filter_map(|config| config[section].as_array()).flatten();
    entries.filter_map(|entry| entry[part][name].as_str().map(str::to_owned)).collect()
}

/// The clusters whose endpoints are delivered on their own.
fn eds(dump: &Value) -> BTreeSet<String> {
    let sections = dump["configs"].as_array().into_iter().flatten();
    let entries = sections.filter_map(|config| config["dynamicActiveClusters"].as_array()).flatten();
    let clusters = entries.map(|entry| &entry["cluster"]).filter(|cluster| cluster["type"] == "EDS");
    let name = |cluster: &Value| {
        cluster["edsClusterConfig"]["serviceName"].as_str().or(cluster["name"].as_str()).map(str::to_owned)
    };
    clusters.filter_map(name).collect()
}

/// All texts below a key, at any depth.
fn texts(value: &Value, key: &str) -> BTreeSet<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(|one| texts(one, key)).collect(),
        Value::Object(all) => {
            let mut found: BTreeSet<String> = all.values().flat_map(|one| texts(one, key)).collect();
            found.extend(all.get(key).and_then(Value::as_str).map(str::to_owned));
            found
        }
        _ => BTreeSet::new(),
    }
}

fn proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(all) => Kind::ListValue(ListValue { values: all.iter().map(proto).collect() }),
        Value::Object(all) => {
            let fields = all.iter().map(|(key, value)| (key.clone(), proto(value))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    ProtoValue { kind: Some(kind) }
}
