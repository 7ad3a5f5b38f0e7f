//! What would become of CONNECTs before anyone sends one: every sidecar's configuration, asked about every proxy that its
//! apps use.

mod environment;
mod node;
mod processes;
mod render;
mod verdicts;
mod watch;

pub use environment::{ProxyEnvironment, SettingsCode, SettingsFinding, is_cluster_name};
pub use node::{SeenProxies, on_node};
pub use processes::{NetnsFacts, ProcessScope, netns_of};
pub use render::{Counts, json, table};
pub use verdicts::{AuditSubject, AuditedPair, AuditedSidecar, ConfigSource, ProxyUse, Question, audit};
pub use watch::Watch;
