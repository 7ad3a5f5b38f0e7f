//! What leaves a pod, read from its network interfaces: every TCP connection that the pod opens to another address, whether it
//! was accepted, and the first bytes in both directions; and what its sidecar passes on to its app. It is the measure for what a sidecar really did.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::{HOST, Pod};
use crate::netns::Netns;

/// Every frame, also those that go out: `ETH_P_ALL` in network byte order.
const ETH_P_ALL: u32 = 0x0003_u16.to_be() as u32;
const RECEIVE_BUFFER: usize = 32 << 20;
/// The addresses from which a sidecar dials its own app (istio pilot/pkg/networking/core/cluster.go
/// `InboundPassthroughBindIpv4`).
const INBOUND: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))];
/// Bytes that are kept of each direction.
const KEPT: usize = 4096;
/// The UDP port of the datagrams that tell the reader how far it has to read (discard).
const BARRIER: u16 = 9;
const TIMEOUT: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);

/// A TCP connection that the pod opened or went on to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireFlow {
    /// The port on the pod's side.
    pub port: u16,
    /// The other side.
    pub to: SocketAddr,
    /// Whether the other side accepted it.
    pub accepted: bool,
    /// The first bytes that the pod sent.
    pub sent: Vec<u8>,
    /// The first bytes that the pod received.
    pub received: Vec<u8>,
}

/// A reader of one pod's interface; dropping it ends it.
#[derive(Debug)]
pub struct Wire {
    addresses: Vec<IpAddr>,
    shared: Arc<(Mutex<State>, Condvar)>,
    netns: Netns,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    flows: Vec<Known>,
    barrier: u64,
    ends: bool,
}

#[derive(Debug)]
struct Known {
    flow: WireFlow,
    next_sent: u32,
    next_received: u32,
}

impl Wire {
    /// Reads the interface of this pod from now on.
    pub fn start(pod: &Pod) -> Result<Self> {
        let addresses = [Some(pod.address()), pod.address_v6()].into_iter().flatten();
        let addresses = addresses.map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
        let netns = pod.app().netns().clone();
        let socket =
            netns.run(open)?.context("cannot read a pod's interface: this needs root (CAP_NET_RAW)")?;
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let ours = Arc::clone(&shared);
        let own = addresses.clone();
        let reader = thread::spawn(move || read(&socket, &own, &ours));
        Ok(Self { addresses, shared, netns, reader: Some(reader) })
    }

    /// All connections to other pods that were opened or used since the last `clear`, in that order.
    pub fn flows(&self) -> Result<Vec<WireFlow>> {
        self.all(|flow| !self.addresses.contains(&flow.to.ip()))
    }

    /// All connections on which the pod's own sidecar passed something on to the app, since the last `clear`.
    pub fn deliveries(&self) -> Result<Vec<WireFlow>> {
        self.all(|flow| self.addresses.contains(&flow.to.ip()))
    }

    fn all(&self, wanted: impl Fn(&WireFlow) -> bool) -> Result<Vec<WireFlow>> {
        self.catch_up()?;
        Ok(self.state().flows.iter().map(|known| known.flow.clone()).filter(wanted).collect())
    }

    /// Forgets all connections.
    pub fn clear(&self) -> Result<()> {
        self.catch_up()?;
        self.state().flows.clear();
        Ok(())
    }

    /// Returns when everything that was sent before has been read: a datagram of our own is behind it.
    fn catch_up(&self) -> Result<()> {
        let wanted = self.state().barrier + 1;
        let socket = self.netns.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        let end = Instant::now() + TIMEOUT;
        while self.state().barrier < wanted {
            ensure!(Instant::now() < end, "the reader of the pod's interface does not keep up");
            // Sent again when it does not come: nothing says that a datagram arrives.
            socket.send_to(&wanted.to_be_bytes(), (HOST, BARRIER))?;
            let state = self.state();
            if state.barrier < wanted {
                drop(self.shared.1.wait_timeout(state, AGAIN).unwrap_or_else(PoisonError::into_inner));
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state().ends = true;
        // The datagram makes the reader look.
        if self.catch_up().is_ok()
            && let Some(reader) = self.reader.take()
        {
            let _ = reader.join();
        }
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let all = Protocol::from_raw(NonZeroU32::new(ETH_P_ALL).unwrap_or(NonZeroU32::MIN));
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(all))?;
    // The loopback's packets come here too, and the answer to one question to Envoy's admin port is more than the default holds.
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    Ok(socket)
}

fn read(socket: &OwnedFd, own: &[IpAddr], shared: &(Mutex<State>, Condvar)) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok((_, length)) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
        let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if packet(&buffer[..length.min(1 << 16)], own, &mut state).is_some() {
            shared.1.notify_all();
            if state.ends {
                return;
            }
        }
    }
}

/// Takes one packet in. Some: it was a barrier.
fn packet(bytes: &[u8], own: &[IpAddr], state: &mut State) -> Option<()> {
    let (protocol, from, to, body) = match *bytes.first()? >> 4 {
        4 => {
            let header = usize::from(*bytes.first()? & 15) * 4;
            let ip = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            let total = usize::from(u16_at(bytes, 2)?);
            // A length of 0 is a segment that the interface would have cut.
            let end = if total == 0 { bytes.len() } else { total.min(bytes.len()) };
            (*bytes.get(9)?, ip(12)?, ip(16)?, bytes.get(header..end)?)
        }
        6 => {
            let ip = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            let length = usize::from(u16_at(bytes, 4)?);
            let end = if length == 0 { bytes.len() } else { (40 + length).min(bytes.len()) };
            (*bytes.get(6)?, ip(8)?, ip(24)?, bytes.get(40..end)?)
        }
        _ => return None,
    };
    let (source, target) = (u16_at(body, 0)?, u16_at(body, 2)?);
    match protocol {
        17 if own.contains(&from) && target == BARRIER => {
            let number = u64::from_be_bytes(body.get(8..16)?.try_into().ok()?);
            state.barrier = state.barrier.max(number);
            Some(())
        }
        6 => {
            // Packets of the loopback device are seen twice.
            let is_out = |from: IpAddr, to: IpAddr| {
                let leaves =
                    own.contains(&from) && !own.contains(&to) && !to.is_loopback() && !INBOUND.contains(&to);
                leaves || (INBOUND.contains(&from) && own.contains(&to))
            };
            if is_out(from, to) {
                segment(body, true, source, SocketAddr::new(to, target), &mut state.flows);
            } else if is_out(to, from) {
                segment(body, false, target, SocketAddr::new(from, source), &mut state.flows);
            }
            None
        }
        _ => None,
    }
}

fn segment(tcp: &[u8], outbound: bool, port: u16, peer: SocketAddr, flows: &mut Vec<Known>) -> Option<()> {
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let (offset, flags) = (usize::from(tcp.get(12)? >> 4) * 4, *tcp.get(13)?);
    let (syn, ack) = (flags & 2 != 0, flags & 16 != 0);
    let payload = tcp.get(offset..)?;
    let known = flows.iter_mut().rev().find(|known| known.flow.port == port && known.flow.to == peer);
    if outbound && syn {
        if known.is_none_or(|known| known.next_sent != sequence.wrapping_add(1)) {
            let flow = WireFlow { port, to: peer, accepted: false, sent: Vec::new(), received: Vec::new() };
            flows.push(Known { flow, next_sent: sequence.wrapping_add(1), next_received: 0 });
        }
        return Some(());
    }
    let Some(Known { flow, next_sent, next_received }) = known else {
        if outbound && !payload.is_empty() {
            // A connection that is older than the reader, or was forgotten, and is used again.
            let flow = WireFlow { port, to: peer, accepted: true, sent: Vec::new(), received: Vec::new() };
            flows.push(Known { flow, next_sent: sequence, next_received: 0 });
            return segment(tcp, outbound, port, peer, flows);
        }
        return None;
    };
    if syn && ack {
        flow.accepted = true;
        *next_received = sequence.wrapping_add(1);
        return Some(());
    }
    let (next, kept) =
        if outbound { (next_sent, &mut flow.sent) } else { (next_received, &mut flow.received) };
    if sequence == *next && !payload.is_empty() {
        *next = sequence.wrapping_add(u32::try_from(payload.len()).ok()?);
        let room = KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&payload[..payload.len().min(room)]);
    }
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
