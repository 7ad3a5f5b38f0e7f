//! The lab's network: a pod and an outside joined by a veth pair, with istio-init's rules in the pod. All labs use the
//! same addresses in namespaces of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::place::Place;
use crate::process::Process;

/// The pod's address.
pub const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 5));
/// The pod's IPv6 address.
pub const POD_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 5));
/// The forward proxy's address.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// The forward proxy's IPv6 address.
pub const PROXY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1));
/// The web server behind the proxy.
pub const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 216, 34));

/// The forward proxy with this port.
pub const fn proxy_addr(port: u16) -> SocketAddr {
    SocketAddr::new(PROXY, port)
}

/// User and group of the sidecar in istio-init's rules.
pub(crate) const SIDECAR_USER: u32 = 1337;
/// User and group of the app.
pub(crate) const APP_USER: u32 = 1000;

/// More addresses of the outside: second proxies, service addresses, other pods.
const OUTSIDE: &[&str] = &["10.0.0.2", "10.0.0.99", "10.0.1.1", "10.96.0.50", "10.244.2.7"];
const OUTSIDE_V6: &[&str] = &["fd00:1::2", "fd00:1::99", "fd00:244:2::7"];

/// What istio-init writes for `INTERCEPTION_MODE: REDIRECT` with everything included (istio
/// tools/istio-iptables/pkg/capture/run.go). The address family fills in the braces.
const RULES: &str = "*nat
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -s {passthrough} -o lo -j RETURN
-A ISTIO_OUTPUT ! -d {loopback} -o lo -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d {loopback} -o lo -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d {loopback} -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
COMMIT
";

/// More rules for a pod that is a proxy itself: inbound connections go to the sidecar's port 15006.
const INBOUND: &str = "*nat
:ISTIO_INBOUND - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
COMMIT
";

const TIMEOUT: Duration = Duration::from_secs(20);

/// Sets istio-init's IPv4 rules in the namespace of a pod.
pub(crate) fn redirect(pod: &Place) -> Result<()> {
    restore(pod, "iptables-restore", &rules_v4())
}

fn rules_v4() -> String {
    RULES.replace("{passthrough}", "127.0.0.6/32").replace("{loopback}", "127.0.0.1/32")
}

/// Joins the pod and the outside, and sets the rules. Both places must be root's.
pub(crate) fn connect(pod: &Place, outside: &Place) -> Result<()> {
    let v6 = pod.netns().run(|| std::path::Path::new("/proc/net/if_inet6").exists())?;
    let peer = outside.netns().path();
    let mut pod_side = vec![
        "link set lo up".to_owned(),
        format!("link add eth0 type veth peer name eth0 netns {peer}"),
        format!("addr add {POD}/24 dev eth0"),
        "link set eth0 up".to_owned(),
    ];
    let mut outside_side: Vec<String> =
        ["link set lo up", "addr add 10.244.1.1/24 dev eth0", "link set eth0 up"].map(str::to_owned).into();
    let addresses = OUTSIDE.iter().map(ToString::to_string).chain([PROXY.to_string(), TARGET.to_string()]);
    outside_side.extend(addresses.map(|address| format!("addr add {address}/32 dev lo")));
    let mut routes = vec!["route add default via 10.244.1.1".to_owned()];
    if v6 {
        // nodad: without it, an address stays tentative and unusable for a second. This link has no other host.
        pod_side.push(format!("addr add {POD_V6}/64 dev eth0 nodad"));
        outside_side.push("addr add fd00:244::1/64 dev eth0 nodad".to_owned());
        let addresses = OUTSIDE_V6.iter().map(ToString::to_string).chain([PROXY_V6.to_string()]);
        outside_side.extend(addresses.map(|address| format!("addr add {address}/128 dev lo nodad")));
        routes.push("route add default via fd00:244::1 dev eth0".to_owned());
    }
    ip(pod, &pod_side)?;
    ip(outside, &outside_side)?; // the pod's link gets a carrier when both ends are up
    ip(pod, &routes)?;
    redirect(pod)?;
    if v6 {
        let v6_rules = RULES.replace("{passthrough}", "::6/128").replace("{loopback}", "::1/128");
        restore(pod, "ip6tables-restore", &v6_rules)?;
    }
    Ok(())
}

/// Puts rules before istio-init's: what `user` dials passes, and the rest goes to `port`. IPv6 as well where there is any.
pub(crate) fn redirect_to(pod: &Place, user: u32, port: u16) -> Result<()> {
    let rules = format!(
        "*nat\n-I ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports {port}\n\
         -I ISTIO_OUTPUT 1 ! -o lo -m owner --uid-owner {user} -j RETURN\nCOMMIT\n"
    );
    restore(pod, "iptables-restore", &rules)?;
    if pod.netns().run(|| std::path::Path::new("/proc/net/if_inet6").exists())? {
        restore(pod, "ip6tables-restore", &rules)?;
    }
    Ok(())
}

/// Redirects inbound connections to port 15006.
pub(crate) fn redirect_inbound(pod: &Place) -> Result<()> {
    restore(pod, "iptables-restore", INBOUND)
}

/// Sets up the loopback of a namespace that has nothing else.
pub(crate) fn loopback(place: &Place) -> Result<()> {
    ip(place, &["link set lo up".to_owned()])
}

/// Runs commands of `ip` in one go.
pub(crate) fn ip(place: &Place, batch: &[String]) -> Result<()> {
    let mut command = place.command("ip")?;
    command.args(["-batch", "-"]);
    Process::run_checked(command, (batch.join("\n") + "\n").as_bytes(), TIMEOUT).map(drop)
}

fn restore(place: &Place, program: &str, rules: &str) -> Result<()> {
    let mut command = place.command(program)?;
    command.args(["--noflush", "--wait"]);
    Process::run_checked(command, rules.as_bytes(), TIMEOUT).map(drop)
}
