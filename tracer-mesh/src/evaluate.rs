//! The decision on one outbound connection, from the dialed address and the first bytes to the outcome: which
//! listener, what it detects, which chain, and what the chain does. Pure: no IO, no clock, no panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::chain::on_chain;
use super::chain_choice;
use super::decision::{ConnectionOutcome, Decision, Detected, Late, Place};
use super::detection::{self, Detection, RAW, Seen};
use super::dialed::Dialed;
use super::dump::Dump;
use super::http;
use super::index::ListenerHead;
use super::listener::{Listener, ListenerFilter, ListenerFilterKind};
use super::overlay::{Found, View, is_loopback};
use super::redirect::Identity;
use super::{Edit, Error};

/// Decides what the sidecar does with a connection to `to` whose first bytes are `head`.
///
/// Fails where the dump cannot tell: it has no listener that redirected connections enter by, or an entry that
/// the decision needs cannot be parsed.
pub fn decide(dump: &Dump, to: SocketAddr, head: &[u8]) -> Result<Decision, Error> {
    Dialed::new(View::of(dump), to, head).decide()
}

/// Decides what the sidecar would do with `edit` applied to its configuration; see [`decide`].
pub fn decide_with(dump: &Dump, edit: &Edit, to: SocketAddr, head: &[u8]) -> Result<Decision, Error> {
    Dialed::new(View::with(dump, edit), to, head).decide()
}

impl Dialed<'_> {
    fn decide(self) -> Result<Decision, Error> {
        let Self { view, to, head } = self;
        let mut decision = Decision::default();
        decision.inner.is_connect = http::is_meant_for_a_proxy(head);
        let identity = view.dump.identity();
        decision.inner.is_gateway = identity.kind() == Some("router");
        if view.is_bypassed(to) {
            not_redirected(&mut decision, to, "an exclusion leaves it out of the redirect");
        } else if decision.inner.is_gateway {
            self.on_gateway(&mut decision)?;
        } else if let Some(entry) = self.inbound_entry(&identity)? {
            self.on_inbound(&entry, &mut decision)?;
        } else if let Some(why) = identity.bypass(to).filter(|_| !is_loopback(to.ip())) {
            not_redirected(&mut decision, to, &why);
        } else {
            self.walk(&mut decision)?;
        }
        view.dump.unsettled.caveats(to, &mut decision);
        decision.judge();
        Ok(decision)
    }

    /// A gateway listens itself: no redirect, and the connection comes from its client.
    fn on_gateway(self, decision: &mut Decision) -> Result<(), Error> {
        decision
            .step("The dump is of a gateway (node id router~), which listens itself: nothing is redirected.");
        let (place, Some(found)) = look_up(self.view, self.to)? else { return Err(Error::NoEntry(self.to)) };
        decision.inner.place = place;
        decision.step(format!("Listener {} takes port {}.", found.head.label(), self.to.port()));
        self.follow(&[], &found.listener, decision)
    }

    /// The dialed address is the pod's own: from outside, the connection enters by the inbound listener.
    ///
    /// Source: istio `pilot/pkg/networking/core/listener_inbound.go` (`virtualInbound`, chains by `destination_port`).
    fn on_inbound(self, entry: &Found, decision: &mut Decision) -> Result<(), Error> {
        let to = self.to;
        decision.inner.is_inbound = true;
        decision.inner.place = Place::Entry;
        decision.step(format!(
        "The dump is of the pod that {to} belongs to: a connection from outside comes in by the inbound listener {}.",
        entry.head.label()
    ));
        self.follow(&[], &entry.listener, decision)
    }

    /// The listener for connections from outside, where `to` is the pod's own address. What dials the redirect's own port is
    /// not redirected again.
    fn inbound_entry(self, identity: &Identity) -> Result<Option<Found>, Error> {
        let Self { view, to, .. } = self;
        if !identity.is_own(to.ip()) || view.dump.redirect_ports.contains(&to.port()) {
            return Ok(None);
        }
        match view.listener(|head, _| head.use_original_dst() && head.is_inbound())? {
            Some(entry) => Ok(Some(entry)),
            None => view.original_dst_listener(true),
        }
    }

    /// The connection leaves the pod, by the redirect or to a port that Envoy itself holds.
    fn walk(self, decision: &mut Decision) -> Result<(), Error> {
        let Self { view, to, .. } = self;
        // istio-init leaves loopback alone; then a listener that the kernel holds may still be dialed directly.
        if is_loopback(to.ip()) {
            let Some(direct) = view.listener(|head, bind| head.binds_to_port() && accepts(bind, to))? else {
                not_redirected(
                    decision,
                    to,
                    "iptables leaves loopback addresses alone, and no listener is there",
                );
                return Ok(());
            };
            decision.step(format!("The app dials {to}, where Envoy itself listens."));
            decision.inner.is_own_port = true;
            decision.inner.place = Place::Exact;
            return self.follow(&[], &direct.listener, decision);
        }
        // Several listeners may take redirected connections; the redirect's own port decides between them.
        let ports = &view.dump.redirect_ports;
        let is_entry = |head: &ListenerHead| head.use_original_dst() && !head.is_inbound();
        let entry = match view.listener(|head, bind| is_entry(head) && ports.contains(&bind.port))? {
            Some(entry) => Some(entry),
            None => view.listener(|head, _| is_entry(head))?,
        };
        let redirected = |decision: &mut Decision, entry: &Found| {
            decision.step(format!(
                "The app dials {to}; iptables redirects it to Envoy's listener {}.",
                entry.head.label()
            ));
        };
        if entry.is_none()
            && let Some(keeper) = view.original_dst_listener(false)?
        {
            redirected(decision, &keeper);
            decision.inner.place = Place::Entry;
            return self.follow(&[], &keeper.listener, decision);
        }
        let (place, chosen) = look_up(view, to)?;
        let entry_filters = entry.as_ref().map_or(Vec::new(), |entry| entry.listener.filters.clone());
        match &entry {
            Some(entry) => {
                redirected(decision, entry);
                decision.caveats(&entry.listener.unread);
            }
            None => decision.caveat("the dump has no listener that redirected connections enter by"),
        }
        let (place, found) = match (chosen, entry) {
            (Some(chosen), entry) => {
                let is_entry = entry.is_some_and(|entry| entry.head.label() == chosen.head.label());
                let place = if is_entry { Place::Entry } else { place };
                (place, chosen)
            }
            (None, Some(entry)) => (Place::Entry, entry),
            (None, None) => return Err(Error::NoEntry(to)),
        };
        decision.inner.place = place;
        let label = found.head.label();
        decision.step(match place {
            Place::Exact => format!("Listener {label} has exactly that address."),
            Place::Wildcard => {
                format!("No listener has that address; {label} takes every address on port {}.", to.port())
            }
            Place::Entry | Place::NotRedirected => format!("No other listener fits, so {label} keeps it."),
        });
        let before: &[ListenerFilter] = if place == Place::Entry { &[] } else { &entry_filters };
        self.follow(before, &found.listener, decision)
    }

    /// Follows a connection through a listener, and through the internal listeners of the same Envoy that its clusters lead to.
    fn follow(
        self,
        filters_before: &[ListenerFilter],
        listener: &Listener,
        decision: &mut Decision,
    ) -> Result<(), Error> {
        let mut next = self.on_listener(filters_before, listener, decision)?;
        for _ in 0..MAX_DEPTH {
            let Some(name) = next else { return Ok(()) };
            let Some(listener) = self.view.internal_listener(&name)? else {
                decision.caveat(format!("internal listener {name} is not in the dump"));
                decision.outcome = ConnectionOutcome::Tunnel;
                return Ok(());
            };
            decision.step(format!("Its host is the internal listener {name} of the same Envoy."));
            next = self.on_listener(&[], &listener, decision)?;
        }
        if let Some(name) = next {
            decision.caveat(format!("internal listeners lead on to each other; {name} is not followed"));
            decision.outcome = ConnectionOutcome::Tunnel;
        }
        Ok(())
    }

    /// Decides on one listener, for a client that sends at once, and for one that does not. Returns the internal listener that
    /// the connection goes on to, if there is one.
    fn on_listener(
        self,
        filters_before: &[ListenerFilter],
        listener: &Listener,
        decision: &mut Decision,
    ) -> Result<Option<String>, Error> {
        let mut late = Decision { inner: decision.inner.clone(), ..Decision::default() };
        let next = self.on_first_bytes(filters_before, listener, decision)?;
        // A listener filter that has waited for long enough is left out (ActiveTcpSocket::onTimeout); of protocols nothing is
        // known then.
        let timeout = listener.timeout.as_deref().filter(|timeout| *timeout != "0s");
        let waits = filters_before.iter().chain(&listener.filters).any(ListenerFilter::waits);
        if let Some(after) = timeout.filter(|_| listener.continue_on_timeout && waits && next.is_none()) {
            let seen =
                Seen { transport: RAW.to_owned(), server_name: String::new(), applications: Vec::new() };
            if let Some((chain, _)) = chain_choice::by_conditions(listener, &seen, self.to, &mut late) {
                on_chain(self, chain, &mut late)?;
            } else {
                late.outcome = ConnectionOutcome::Close;
            }
            late.judge();
            if (late.outcome, late.status) != (decision.outcome, decision.status) {
                let Decision { outcome, status, verdict, .. } = late;
                decision.late = Some(Late { after: after.to_owned(), outcome, status, verdict });
                decision.caveat(format!(
                "a client whose first bytes come later than {after} (protocolDetectionTimeout) is treated otherwise"
            ));
            }
        }
        Ok(next)
    }

    /// Decides on one listener, for a client that sends its first bytes at once.
    fn on_first_bytes(
        self,
        filters_before: &[ListenerFilter],
        listener: &Listener,
        decision: &mut Decision,
    ) -> Result<Option<String>, Error> {
        let Self { to, head, .. } = self;
        decision.listener.clone_from(&listener.name);
        decision.caveats(&listener.unread);
        let mut filters: Vec<&ListenerFilter> = Vec::new();
        for filter in filters_before.iter().chain(&listener.filters) {
            match filter.is_disabled(to.port()) {
                Some(true) => {}
                Some(false) => filters.push(filter),
                None => {
                    decision.caveat("the rule that disables a listener filter is not evaluated here");
                    filters.push(filter);
                }
            }
            if let ListenerFilterKind::Other(name) = &filter.kind {
                decision.caveat(format!("listener filter {name} is not evaluated here"));
            }
        }
        let seen = match detection::detect(&filters, head) {
            Detection::Done(seen) => seen,
            Detection::Waits => {
                decision.step("Its listener filters wait for more bytes before anything is decided.");
                if listener.timeout.as_deref() != Some("0s") {
                    let timeout = listener.timeout.as_deref().unwrap_or("15s");
                    let then = if listener.continue_on_timeout { "goes on as not HTTP" } else { "is closed" };
                    decision.caveat(format!("after {timeout} without them the connection {then}"));
                }
                return Ok(None);
            }
            Detection::Closes(why) => {
                decision.step(format!("Envoy closes it: {why}."));
                decision.outcome = ConnectionOutcome::Close;
                decision.details = Some(why.to_owned());
                return Ok(None);
            }
        };
        let application = seen.applications.first().cloned();
        decision.step(format!(
            "First bytes: {}, {}.",
            if seen.transport == "tls" { "TLS" } else { "plaintext" },
            match (&application, filters.is_empty()) {
                (Some(application), _) => format!("detected as {application}"),
                (None, true) => "no inspector looks further".to_owned(),
                (None, false) => "not HTTP".to_owned(),
            }
        ));
        decision.detected = Some(Detected { transport: seen.transport.clone(), application });
        let (chain, by_match) = if let Some(matcher) = &listener.matcher {
            let Some(chain) = chain_choice::by_tree(matcher, listener, &seen, to, decision) else {
                return Ok(None);
            };
            (chain, true)
        } else {
            let Some(found) = chain_choice::by_conditions(listener, &seen, to, decision) else {
                // ActiveStreamListenerBase::newConnection: NR, "filter_chain_not_found".
                decision
                    .step("No filter chain fits and there is no default one; Envoy closes the connection.");
                decision.outcome = ConnectionOutcome::Close;
                decision.details = Some("filter_chain_not_found".to_owned());
                return Ok(None);
            };
            found
        };
        decision.filter_chain.clone_from(&chain.name);
        decision.inner.made_from.clone_from(&chain.made_from);
        decision.step(chain_choice::describe(chain, by_match));
        on_chain(self, chain, decision)
    }
}

/// Source: envoy `source/common/listener_manager/connection_handler_impl.cc`
/// `ConnectionHandlerImpl::getBalancedHandlerByAddress`: the exact address, else the wildcard of its family.
/// Names, `bind_to_port` and the traffic direction play no part in it.
fn look_up(view: View<'_>, to: SocketAddr) -> Result<(Place, Option<Found>), Error> {
    if let Some(exact) = view.listener(|_, bind| bind.ip == to.ip() && bind.port == to.port())? {
        return Ok((Place::Exact, Some(exact)));
    }
    let any = unspecified(to.ip());
    if let Some(wildcard) = view.listener(|_, bind| bind.ip == any && bind.port == to.port())? {
        return Ok((Place::Wildcard, Some(wildcard)));
    }
    // `[::]` with `ipv4_compat` was entered under 0.0.0.0 too.
    let compatible = view.listener(|_, bind| accepts(bind, to) && bind.ip.is_unspecified())?;
    Ok((Place::Wildcard, compatible))
}

fn accepts(bind: super::index::Bind, to: SocketAddr) -> bool {
    bind.port == to.port()
        && (bind.ip == to.ip()
            || bind.ip == unspecified(to.ip())
            || (bind.serves_ipv4 && bind.ip.is_unspecified() && to.is_ipv4()))
}

fn unspecified(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn not_redirected(decision: &mut Decision, to: SocketAddr, why: &str) {
    decision.step(format!("The app dials {to}; Envoy never sees it: {why}."));
    decision.outcome = ConnectionOutcome::Tunnel;
    decision.inner.place = Place::NotRedirected;
}

/// Internal listeners that lead to each other are followed this far.
const MAX_DEPTH: u8 = 4;
