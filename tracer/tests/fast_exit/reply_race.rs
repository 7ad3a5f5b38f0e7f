//! A sidecar's socket is established on one processor while its app's request leaves on another. Wherever the two programs meet,
//! the answer is recorded. The interpreter runs one of the programs whole in place of each helper call of the other.

use aya_obj::generated::bpf_insn;

use super::{
    ACK, CONTEXT, COUNTERS, CURRENT_TASK, JIFFIES, KTIME, MAP_LOOK_UP, MAP_UPDATE, PACKET, SKB_LOAD_BYTES,
    SOCKET, TASK, TCP_SOCK, image, machine, memory::Memory,
};

/// `BPF_FUNC_*`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L5816>
const SOCKET_COOKIE: i32 = 46;
const RING_RESERVE: i32 = 131;

const APP_PORT: u16 = 40_000;
const SIDECAR_PORT: u16 = 15_001;
const PASSIVE_ESTABLISHED: u32 = 5;

/// An event at a socket, and the program that sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The sidecar's socket is established.
    Established,
    /// The app's CONNECT leaves.
    Request,
    /// The sidecar's 404 leaves.
    Answer,
}

/// The two programs, and what they share.
struct Node {
    states: Vec<bpf_insn>,
    bytes: Vec<bpf_insn>,
    memory: Memory,
}

impl Node {
    fn new() -> Self {
        let image = image();
        let (states, _) = image.program("egress_states");
        let (bytes, memory) = image.program("egress_bytes");
        Self { states, bytes, memory }
    }

    /// Runs the event's program; `meanwhile` happens at its helper call of that number. Returns how many helpers it called, and
    /// whether it began a record.
    fn run(&mut self, event: Event, meanwhile: Option<(usize, Event)>) -> (usize, bool) {
        put(&mut self.memory, event);
        let (code, cookie) = match event {
            Event::Established => (&self.states, 2),
            Event::Request => (&self.bytes, 1),
            Event::Answer => (&self.bytes, 2),
        };
        let (code, mut memory) = (code.clone(), std::mem::take(&mut self.memory));
        let (mut called, mut recorded) = (0, false);
        let helper = |memory: &mut Memory, number, [first, second, third, fourth, _]: [u64; 5]| {
            called += 1;
            if let Some((at, other)) = meanwhile
                && called == at + 1
            {
                let stack = memory.get(machine::STACK, machine::STACK_BYTES)?.to_vec();
                self.memory = std::mem::take(memory);
                self.run(other, None);
                *memory = std::mem::take(&mut self.memory);
                memory.put(machine::STACK, stack);
                put(memory, event);
            }
            recorded |= number == RING_RESERVE;
            match number {
                MAP_LOOK_UP => memory.look_up(first, second),
                MAP_UPDATE => memory.update(first, second, third, fourth),
                SKB_LOAD_BYTES => memory.copy(third, fourth, u64::from(PACKET) + second),
                TCP_SOCK => Ok(COUNTERS),
                JIFFIES => Ok(1_000_000),
                KTIME => Ok(1_000_000_000),
                CURRENT_TASK => Ok(TASK),
                SOCKET_COOKIE => Ok(cookie),
                // The helper found nothing. A packet's program does not know its namespace either.
                _ => Ok(0),
            }
        };
        let ran = machine::run(&code, CONTEXT, &mut memory, helper);
        ran.unwrap_or_else(|error| panic!("{event:?}: {error}"));
        self.memory = memory;
        if let Some((_, other)) = meanwhile.filter(|(at, _)| called <= *at) {
            self.run(other, None);
        }
        (called, recorded)
    }
}

/// Puts the context of an event.
fn put(memory: &mut Memory, event: Event) {
    let app = ([10, 0, 0, 5], APP_PORT);
    let sidecar = ([127, 0, 0, 1], SIDECAR_PORT);
    match event {
        Event::Established => {
            // `struct bpf_sock_ops`: https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6760
            let mut context = vec![0; 256];
            context[..4].copy_from_slice(&PASSIVE_ESTABLISHED.to_le_bytes());
            context[20..24].copy_from_slice(&2_u32.to_le_bytes()); // AF_INET
            context[24..28].copy_from_slice(&app.0);
            context[28..32].copy_from_slice(&sidecar.0);
            context[66..68].copy_from_slice(&app.1.to_be_bytes());
            context[68..70].copy_from_slice(&sidecar.1.to_le_bytes());
            memory.put(CONTEXT, context);
        }
        Event::Request => {
            let request = b"CONNECT www.example.com:443 HTTP/1.1\r\n\r\n";
            put_packet(memory, app, ([10, 0, 0, 1], 3128), sidecar, request);
        }
        Event::Answer => put_packet(memory, sidecar, app, app, b"HTTP/1.1 404 Not Found\r\n\r\n"),
    }
}

type End = ([u8; 4], u16);

/// Puts a packet of a socket with these ends, which goes to `to`.
fn put_packet(memory: &mut Memory, local: End, remote: End, to: End, payload: &[u8]) {
    let mut packet = vec![0; 40];
    (packet[0], packet[32], packet[33]) = (0x45, 0x50, ACK);
    packet[9] = 6; // TCP
    packet[12..16].copy_from_slice(&local.0);
    packet[16..20].copy_from_slice(&to.0);
    packet[20..22].copy_from_slice(&local.1.to_be_bytes());
    packet[22..24].copy_from_slice(&to.1.to_be_bytes());
    packet.extend_from_slice(payload);
    let len = u32::try_from(packet.len()).expect("a short packet");
    let mut context = vec![0; 192];
    context[..4].copy_from_slice(&len.to_le_bytes());
    context[76..80].copy_from_slice(&PACKET.to_le_bytes());
    context[80..84].copy_from_slice(&(PACKET + len).to_le_bytes());
    context[168..176].copy_from_slice(&SOCKET.to_le_bytes());
    // `struct bpf_sock`: https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6297
    let mut socket = vec![0; 80];
    socket[4..8].copy_from_slice(&2_u32.to_le_bytes()); // AF_INET
    socket[24..28].copy_from_slice(&local.0);
    socket[44..46].copy_from_slice(&local.1.to_le_bytes());
    socket[48..50].copy_from_slice(&remote.1.to_be_bytes());
    socket[52..56].copy_from_slice(&remote.0);
    let mut counters = vec![0; 112]; // `struct bpf_tcp_sock`
    counters[88..96].copy_from_slice(&1_u64.to_le_bytes());
    memory.put(CONTEXT, context);
    memory.put(PACKET.into(), packet);
    memory.put(SOCKET, socket);
    memory.put(COUNTERS, counters);
}

#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn answer_is_recorded_wherever_request_and_establishment_meet() {
    for (outer, inner) in [(Event::Established, Event::Request), (Event::Request, Event::Established)] {
        let (calls, _) = {
            let mut node = Node::new();
            node.run(inner, None);
            node.run(outer, None)
        };
        assert!(calls > 3, "{outer:?} calls {calls} helpers");
        for at in 0..calls {
            let mut node = Node::new();
            node.run(outer, Some((at, inner)));
            let (_, recorded) = node.run(Event::Answer, None);
            assert!(recorded, "{inner:?} at helper call {at} of {outer:?}: the answer has no record");
        }
    }
}

#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn answer_without_a_request_is_not_recorded() {
    let mut node = Node::new();
    node.run(Event::Established, None);
    let (_, recorded) = node.run(Event::Answer, None);
    assert!(!recorded);
}
