//! What an app's environment says about proxies: which it uses, and which calls inside the cluster go to the proxy by
//! mistake. Only the variables about proxies are read; credentials in them are never kept.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::explain::{ProxyScheme, ProxyTarget};

/// Variables that name a proxy.
const PROXIES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Variables that name what is not to be proxied.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The API server's address, which the kubelet tells every container.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// A name of a Service as apps write it, in both of its long forms.
const SERVICE_NAMES: [&str; 2] = ["name.namespace.svc", "name.namespace.svc.cluster.local"];

/// What a process knows about proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyEnvironment {
    variables: BTreeMap<String, String>,
}

/// A mistake in an app's proxy settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SettingsFinding {
    /// Which kind, a stable name.
    pub code: SettingsCode,
    /// One sentence.
    pub finding: String,
}

/// The kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::AsRefStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum SettingsCode {
    /// Calls to Services by name go to the proxy.
    ServicesThroughProxy,
    /// Calls to cluster IPs go to the proxy.
    ClusterIpsThroughProxy,
    /// An exception has a form that not every client understands.
    UnportableException,
    /// Variables that differ only in case have different values.
    AmbiguousVariable,
    /// A proxy without a port: clients disagree about the default.
    NoPort,
    /// The proxy is spoken to within TLS or with SOCKS.
    OtherProtocol,
    /// The value names no proxy.
    Unreadable,
    /// A session asked the proxy for a name inside the cluster.
    ClusterNameThroughProxy,
}

impl ProxyEnvironment {
    /// Reads `/proc/PID/environ`: `NAME=VALUE`, each ended by a zero byte. `None` where it names no proxy.
    pub fn of_environ(bytes: &[u8]) -> Option<Self> {
        let mut variables = BTreeMap::new();
        for entry in bytes.split(|byte| *byte == 0) {
            let Some((name, value)) = std::str::from_utf8(entry).ok().and_then(|entry| entry.split_once('='))
            else {
                continue;
            };
            let value = value.trim();
            let is_proxy = PROXIES.contains(&name);
            if (is_proxy || EXCEPTIONS.contains(&name) || name == API_SERVER) && !value.is_empty() {
                let kept = if is_proxy { without_credentials(value) } else { value };
                variables.insert(name.to_owned(), kept.to_owned());
            }
        }
        let names_proxy = PROXIES.iter().any(|name| variables.contains_key(*name));
        names_proxy.then_some(Self { variables })
    }

    /// The proxies, each with the variables that name it.
    pub fn proxies(&self) -> BTreeMap<ProxyTarget, Vec<&'static str>> {
        let mut proxies: BTreeMap<ProxyTarget, Vec<&'static str>> = BTreeMap::new();
        for name in PROXIES {
            let target = self.variables.get(name).and_then(|value| value.parse::<ProxyTarget>().ok());
            if let Some(target) = target.filter(|target| target.scheme == ProxyScheme::Http) {
                proxies.entry(target).or_default().push(name);
            }
        }
        proxies
    }

    /// What is wrong with the settings.
    pub fn findings(&self) -> Vec<SettingsFinding> {
        let mut findings = Vec::new();
        let mut add = |code, finding: String| {
            if !findings.iter().any(|known: &SettingsFinding| known.code == code) {
                findings.push(SettingsFinding { code, finding });
            }
        };
        for name in PROXIES {
            match self.variables.get(name).map(|value| value.parse::<ProxyTarget>()) {
                None => {}
                Some(Err(_)) => {
                    add(SettingsCode::Unreadable, format!("{name} names no proxy that can be read"));
                }
                Some(Ok(target)) => match target.scheme {
                    ProxyScheme::Https => add(
                        SettingsCode::OtherProtocol,
                        format!("{name} speaks TLS to {target}: the sidecar sees no CONNECT, only TLS"),
                    ),
                    ProxyScheme::Socks => {
                        add(
                            SettingsCode::OtherProtocol,
                            format!("{name} speaks SOCKS to {target}, which is no HTTP"),
                        );
                    }
                    ProxyScheme::Http if target.is_port_assumed => add(
                        SettingsCode::NoPort,
                        format!("{name} has no port: curl then uses 1080, others {}", target.port),
                    ),
                    ProxyScheme::Http => {}
                },
            }
        }
        for pair in [["HTTPS_PROXY", "https_proxy"], ["NO_PROXY", "no_proxy"]] {
            if let [Some(upper), Some(lower)] = pair.map(|name| self.variables.get(name))
                && upper != lower
            {
                add(
                    SettingsCode::AmbiguousVariable,
                    format!(
                        "{} and {} differ, and clients disagree about which one counts",
                        pair[0], pair[1]
                    ),
                );
            }
        }
        let entries = self.exceptions();
        let uncovered: Vec<&str> = SERVICE_NAMES
            .into_iter()
            .filter(|host| !entries.iter().any(|entry| covers(entry, host)))
            .collect();
        if !uncovered.is_empty() {
            add(
                SettingsCode::ServicesThroughProxy,
                format!(
                    "NO_PROXY does not cover {}: calls to Services by such names go to the proxy",
                    uncovered.join(" and ")
                ),
            );
        }
        if let Some(ip) = self.variables.get(API_SERVER)
            && !entries.iter().any(|entry| covers(entry, ip))
        {
            add(
                SettingsCode::ClusterIpsThroughProxy,
                format!(
                    "NO_PROXY does not cover cluster IPs such as the API server's, {ip}: calls to them go to the proxy"
                ),
            );
        }
        if let Some(entry) = entries.iter().find(|entry| entry.len() > 1 && entry.contains('*')) {
            add(
                SettingsCode::UnportableException,
                format!(
                    "NO_PROXY has `{entry}`, which Go reads as a suffix, while curl and Python match nothing by it"
                ),
            );
        }
        findings
    }

    fn exceptions(&self) -> Vec<&str> {
        let values = EXCEPTIONS.iter().filter_map(|name| self.variables.get(*name));
        values
            .flat_map(|value| value.split([',', ' ']))
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .collect()
    }
}

/// The value without what stands before the last `@` of its authority.
fn without_credentials(value: &str) -> &str {
    value.rsplit_once('@').map_or(value, |(_, rest)| rest)
}

/// Whether an exception covers a host, for the most generous of the usual clients.
///
/// Source: golang.org/x/net `http/httpproxy` (suffixes, `*.`, CIDR, ports), curl's manual on `NO_PROXY`.
fn covers(entry: &str, host: &str) -> bool {
    let entry = entry.to_ascii_lowercase();
    if entry == "*" || entry == host {
        return true;
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return contains(&entry, ip);
    }
    let entry = match entry.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name.to_owned(),
        _ => entry,
    };
    let suffix = entry.trim_start_matches('*').trim_start_matches('.');
    !suffix.is_empty() && host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a CIDR block holds an address.
fn contains(block: &str, ip: IpAddr) -> bool {
    let Some((network, length)) = block.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let masked = |bits: u128, width: u32| {
        let ignored = width.checked_sub(length)?;
        Some(bits.checked_shr(ignored).unwrap_or(0))
    };
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let [network, ip] = [network, ip].map(|ip| masked(u128::from(u32::from(ip)), 32));
            network.is_some() && network == ip
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let [network, ip] = [network, ip].map(|ip| masked(u128::from(ip), 128));
            network.is_some() && network == ip
        }
        _ => false,
    }
}

/// Whether an app's target is inside the cluster, so that it has no business at a forward proxy.
#[expect(
    clippy::case_sensitive_file_extension_comparisons,
    reason = "the ends of a name, in lower case as in the cluster"
)]
pub fn is_cluster_name(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.ends_with(".svc") || host.ends_with(".svc.cluster.local")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(text: &str) -> Option<ProxyEnvironment> {
        ProxyEnvironment::of_environ(text.replace(' ', "\0").as_bytes())
    }

    fn codes(text: &str) -> Vec<String> {
        let findings = environment(text).expect(text).findings();
        findings.iter().map(|finding| finding.code.as_ref().to_owned()).collect()
    }

    #[test]
    fn proxies_are_read_without_their_credentials_and_other_variables_are_not_kept() {
        let found =
            environment("HTTPS_PROXY=http://u:s3cr3t@proxy.corp:3128 PASSWORD=x http_proxy=10.0.0.1:8080")
                .expect("a proxy");
        let shown = format!("{found:?}");
        assert!(!shown.contains("s3cr3t") && !shown.contains("PASSWORD"), "{shown}");
        let proxies: Vec<String> = found.proxies().keys().map(ToString::to_string).collect();
        assert_eq!(proxies, ["10.0.0.1:8080", "proxy.corp:3128"]);
        assert_eq!(environment("HOME=/ NO_PROXY=.svc"), None);
    }

    #[test]
    fn mistakes_in_the_exceptions_are_found() {
        let all = "HTTPS_PROXY=http://p:3128 KUBERNETES_SERVICE_HOST=10.96.0.1 NO_PROXY=";
        assert_eq!(codes(all), ["services_through_proxy", "cluster_ips_through_proxy"]);
        assert_eq!(codes(&format!("{all}.svc,.cluster.local,10.96.0.0/12")), [""; 0]);
        assert_eq!(codes(&format!("{all}svc,cluster.local,10.96.0.1")), [""; 0]);
        assert_eq!(codes(&format!("{all}*")), [""; 0]);
        assert_eq!(codes(&format!("{all}.svc,10.0.0.0/8")), ["services_through_proxy"]);
        assert_eq!(codes(&format!("{all}.svc,.cluster.local,10.97.0.0/16")), ["cluster_ips_through_proxy"]);
        assert_eq!(codes(&format!("{all}*.svc,*.cluster.local,10.96.0.1")), ["unportable_exception"]);
    }

    #[test]
    fn mistakes_in_the_proxies_are_found() {
        let rest = "NO_PROXY=.svc,.cluster.local";
        assert_eq!(codes(&format!("HTTPS_PROXY=http://p {rest}")), ["no_port"]);
        assert_eq!(codes(&format!("HTTPS_PROXY=https://p:443 {rest}")), ["other_protocol"]);
        assert_eq!(codes(&format!("HTTPS_PROXY=ftp://p {rest}")), ["unreadable"]);
        assert_eq!(codes(&format!("HTTPS_PROXY=p:1 https_proxy=q:1 {rest}")), ["ambiguous_variable"]);
    }

    #[test]
    fn blocks_hold_their_addresses() {
        let ip = |text: &str| text.parse().expect("an address");
        for (block, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "fd12::1", true),
            ("10.0.0.0/33", "10.0.0.1", false),
            ("10.0.0.0/8", "fd00::1", false),
        ] {
            assert_eq!(contains(block, ip(address)), inside, "{block} {address}");
        }
    }
}
