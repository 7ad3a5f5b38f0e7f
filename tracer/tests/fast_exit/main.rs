//! The cost of nearly all traffic: in every family, the programs leave a flow past its first bytes without a look-up. An
//! interpreter runs them on sockets that the test makes, and notes the kernel helpers that they call and their look-ups in LRU
//! hash maps. A kernel may inline a look-up; in the object it is a call.

mod image;
mod machine;
mod memory;
mod reply_race;

use std::{collections::HashMap, slice};

use aya_obj::generated::bpf_insn;
use image::Image;
use memory::Memory;
use tracer_ebpf::{BtfOffsets, ProbeSettings, settings::NO_UID};

/// A flow is past its first bytes beyond this. Repeated here, so that a change of the programs' limit fails this test.
const FIRST_BYTES: u64 = 64 << 10;

/// `BPF_FUNC_*`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L5816>
const MAP_LOOK_UP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const PROBE_READ: i32 = 4;
const KTIME: i32 = 5;
const CURRENT_IDS: i32 = 14;
const CURRENT_USER: i32 = 15;
const CURRENT_NAME: i32 = 16;
const SKB_LOAD_BYTES: i32 = 26;
const CURRENT_TASK: i32 = 35;
const TCP_SOCK: i32 = 96;
const PROBE_READ_USER: i32 = 112;
const JIFFIES: i32 = 118;
const PROBE_READ_KERNEL: i32 = 113;

/// Addresses in the interpreter's memory. A context holds the address of a packet in 32 bits.
const CONTEXT: u64 = 0xffff_8000_0000_0000;
const SOCKET: u64 = 0xffff_8001_0000_0000;
const COUNTERS: u64 = 0xffff_8002_0000_0000;
const TASK: u64 = 0xffff_8004_0000_0000;
const MESSAGE: u64 = 0xffff_8003_0000_0000;
const PACKET: u32 = 0x1000_0000;
const PAYLOAD: u64 = 0x5555_0000_0000;

/// TCP's flags: <https://www.rfc-editor.org/rfc/rfc9293.html#section-3.1>
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const REQUEST: &[u8] = b"CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n";

/// A program that sees sent bytes, and how its context is made.
struct Shell {
    program: &'static str,
    context: fn(&mut Memory, sent: u64, received: u64),
    /// The helpers that it may call for a flow past its first bytes. Of the look-ups only one in an array is due: whether the
    /// flow's port is one of a connection that an interceptor shares between sessions. The kernel inlines it.
    due: &'static [i32],
    /// Its result for such a flow.
    returns: u64,
}

const SHELLS: [Shell; 3] = [
    Shell { program: "egress_bytes", context: packet, due: &[TCP_SOCK, MAP_LOOK_UP], returns: 1 },
    Shell {
        program: "egress_fentry_send",
        context: arguments,
        due: &[PROBE_READ_KERNEL, MAP_LOOK_UP],
        returns: 0,
    },
    Shell {
        program: "egress_kprobe_send",
        context: registers,
        due: &[PROBE_READ_KERNEL, MAP_LOOK_UP],
        returns: 0,
    },
];

/// The fields that the programs read here. Others have no offset and read as zeros.
static BTF_OFFSETS: BtfOffsets = BtfOffsets {
    bytes_acked: 8,
    bytes_received: 16,
    iter_mask: 0xff,
    iter_ubuf: 0,
    ubuf: 0,
    ..BtfOffsets::UNKNOWN
};

/// What Istio's sidecar is said to be, so that it need not be observed first.
static SETTINGS: ProbeSettings = ProbeSettings {
    outbound_ports: [15001, 0, 0, 0],
    inbound_ports: [15006, 0, 0, 0],
    sidecar_uids: [1337, NO_UID, NO_UID, NO_UID],
    ..ProbeSettings::DEFAULT
};

/// A packet, without the counters of its socket.
struct Packet {
    flags: u8,
    /// The destination port of its header.
    to_port: u16,
    /// The local port of its socket.
    local_port: u16,
    payload: &'static [u8],
}

/// A packet that holds a CONNECT.
const CONNECT: Packet = Packet { flags: ACK, to_port: 3128, local_port: 40_000, payload: REQUEST };

/// Puts the context of [`CONNECT`], with a socket of these counters.
fn packet(memory: &mut Memory, sent: u64, received: u64) {
    put_packet(memory, &CONNECT, sent, received);
}

/// Puts a `struct __sk_buff`, its socket and the socket's counters.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6198>
fn put_packet(memory: &mut Memory, from: &Packet, sent: u64, received: u64) {
    let mut packet = vec![0; 40];
    (packet[0], packet[32]) = (0x45, 0x50); // the lengths of its headers
    packet[22..24].copy_from_slice(&from.to_port.to_be_bytes());
    packet[33] = from.flags;
    packet.extend_from_slice(from.payload);
    let len = u32::try_from(packet.len()).expect("a short packet");
    let mut context = vec![0; 192];
    context[..4].copy_from_slice(&len.to_le_bytes());
    context[76..80].copy_from_slice(&PACKET.to_le_bytes());
    context[80..84].copy_from_slice(&(PACKET + len).to_le_bytes());
    context[168..176].copy_from_slice(&SOCKET.to_le_bytes());
    let mut counters = vec![0; 112]; // `struct bpf_tcp_sock`
    counters[80..88].copy_from_slice(&received.to_le_bytes());
    counters[88..96].copy_from_slice(&sent.to_le_bytes());
    memory.put(CONTEXT, context);
    memory.put(PACKET.into(), packet);
    let mut socket = vec![0; 80]; // `struct bpf_sock`
    socket[44..48].copy_from_slice(&u32::from(from.local_port).to_le_bytes());
    memory.put(SOCKET, socket);
    memory.put(COUNTERS, counters);
}

/// Puts `tcp_sendmsg`'s arguments as a trampoline passes them.
fn arguments(memory: &mut Memory, sent: u64, received: u64) {
    let arguments = message(memory, sent, received);
    memory.put(CONTEXT, arguments.map(u64::to_le_bytes).concat());
}

/// Puts `tcp_sendmsg`'s arguments in the registers of a `struct pt_regs`.
fn registers(memory: &mut Memory, sent: u64, received: u64) {
    let places = if cfg!(target_arch = "x86_64") { [14, 13, 12] } else { [0, 1, 2] };
    let mut registers = [0_u64; 40];
    for (place, argument) in places.into_iter().zip(message(memory, sent, received)) {
        registers[place] = argument;
    }
    memory.put(CONTEXT, registers.map(u64::to_le_bytes).concat());
}

/// Puts a `struct sock` with these counters and a `struct msghdr` with a CONNECT in one segment; returns the arguments.
fn message(memory: &mut Memory, sent: u64, received: u64) -> [u64; 3] {
    memory.put(SOCKET, [0, sent, received, 0].map(u64::to_le_bytes).concat());
    memory.put(MESSAGE, PAYLOAD.to_le_bytes());
    memory.put(PAYLOAD, REQUEST);
    [SOCKET, MESSAGE, REQUEST.len() as u64]
}

/// The result of a run.
struct Ran {
    returned: u64,
    /// The helpers that the program called.
    called: Vec<i32>,
    /// It looked up a key in an LRU hash map.
    looked_up: bool,
}

/// Runs a program for a flow that has sent and received this many bytes.
fn run(shell: &Shell, sent: u64, received: u64) -> Ran {
    run_on(shell.program, &[&|memory| (shell.context)(memory, sent, received)])
}

/// Runs a program after each of `puts`, with one memory, and returns the result of the last run.
fn run_on(program: &str, puts: &[&dyn Fn(&mut Memory)]) -> Ran {
    let (code, mut memory) = load(program);
    let ran = puts.iter().map(|put| {
        memory.forget_look_ups();
        put(&mut memory);
        run_once(program, &code, &mut memory, &Current::default())
    });
    ran.last().expect("something to run on")
}

fn load(program: &str) -> (Vec<bpf_insn>, Memory) {
    image().program(program)
}

fn image() -> Image {
    // SAFETY: a `repr(C)` structure of `u32`s, without padding, that lives as long as the program.
    let layout =
        unsafe { slice::from_raw_parts((&raw const BTF_OFFSETS).cast::<u8>(), size_of::<BtfOffsets>()) };
    // SAFETY: a `repr(C)` structure of integers, without padding, that lives as long as the program.
    let settings =
        unsafe { slice::from_raw_parts((&raw const SETTINGS).cast::<u8>(), size_of::<ProbeSettings>()) };
    let globals = [("BTF_OFFSETS", (layout, true)), ("SETTINGS", (settings, true))];
    Image::link(HashMap::from(globals))
}

/// Who runs, and when.
#[derive(Default)]
struct Current {
    /// Process and thread.
    ids: u64,
    /// `CLOCK_MONOTONIC`, ns.
    time: u64,
    uid: u64,
}

fn run_once(program: &str, code: &[bpf_insn], memory: &mut Memory, current: &Current) -> Ran {
    let mut called = Vec::new();
    let helper = |memory: &mut Memory, number, [first, second, third, fourth, _]: [u64; 5]| {
        called.push(number);
        match number {
            MAP_LOOK_UP => memory.look_up(first, second),
            MAP_UPDATE => memory.update(first, second, third, fourth),
            PROBE_READ | PROBE_READ_USER | PROBE_READ_KERNEL => memory.copy(first, second, third),
            SKB_LOAD_BYTES => memory.copy(third, fourth, u64::from(PACKET) + second),
            TCP_SOCK => Ok(COUNTERS),
            JIFFIES => Ok(1_000_000),
            KTIME => Ok(current.time),
            CURRENT_IDS => Ok(current.ids),
            CURRENT_TASK => Ok(TASK),
            CURRENT_USER => Ok(current.uid),
            _ => Ok(0), // the helper found nothing
        }
    };
    let returned = machine::run(code, CONTEXT, memory, helper);
    let returned = returned.unwrap_or_else(|error| panic!("{program}: {error}"));
    Ran { returned, called, looked_up: memory.looked_up() }
}

#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn flow_past_its_first_bytes_causes_no_look_up() {
    for shell in SHELLS {
        for (sent, received) in
            [(FIRST_BYTES, 0), (0, FIRST_BYTES), (FIRST_BYTES, FIRST_BYTES), (u64::MAX, 1)]
        {
            let Ran { returned, called, looked_up } = run(&shell, sent, received);
            let Shell { program, due, returns, .. } = shell;
            assert_eq!(returned, returns, "{program}");
            assert!(
                !looked_up,
                "{program}, which has sent {sent} and received {received}, looks into a table"
            );
            assert!(
                !called.is_empty() && called.iter().all(|number| due.contains(number)),
                "{program}, which has sent {sent} and received {received}, calls {called:?}, and may call {due:?}"
            );
        }
    }
}

/// The counterpart of the test above: the interpreter does notice look-ups.
#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn flow_within_its_first_bytes_causes_a_look_up() {
    for shell in SHELLS {
        // The acknowledged SYN of the dialing side counts as a byte.
        for (sent, received) in [(1, 0), (FIRST_BYTES - 1, FIRST_BYTES - 1)] {
            let Ran { returned, called, looked_up } = run(&shell, sent, received);
            assert_eq!(returned, shell.returns, "{}", shell.program);
            assert!(looked_up, "{} looks into no table, and calls {called:?}", shell.program);
        }
    }
}

/// Most packets of a short flow cause no look-up either.
#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn only_relevant_packets_cause_a_look_up() {
    let empty = |flags| Packet { flags, payload: b"", ..CONNECT };
    let to_sidecar = |flags| Packet { to_port: 15001, ..empty(flags) };
    let from = |local_port, flags| Packet { flags, local_port, ..CONNECT };
    for (what, packet, sent, received, due) in [
        ("an acknowledgement", empty(ACK), 1, 0, false),
        ("a SYN-ACK", to_sidecar(SYN | ACK), 0, 0, false),
        ("a SYN", empty(SYN), 0, 0, true),
        ("a SYN to a sidecar", to_sidecar(SYN), 0, 0, true),
        ("a FIN behind an answer", empty(FIN | ACK), 100, 1, false),
        ("a FIN before an answer", empty(FIN | ACK), 100, 0, true),
        ("a reset behind an answer", empty(RST), 100, 1, true),
        ("a reset that acknowledges", empty(RST | ACK), 100, 1, true),
        ("a request", CONNECT, 1, 0, true),
        ("a request with its SYN", from(40_000, SYN), 0, 0, true),
        ("the first that a server sends", from(8080, ACK), 0, 100, false),
        ("the second", from(8080, ACK), 100, 200, true),
        ("what a sidecar answers", from(15006, ACK), 0, 100, false),
    ] {
        let put = |memory: &mut Memory| put_packet(memory, &packet, sent, received);
        let Ran { returned, looked_up, called } = run_on("egress_bytes", &[&put]);
        assert_eq!((returned, looked_up), (1, due), "{what}: calls {called:?}");
    }
    // A request before it makes the sidecar's answer relevant.
    let asks = |memory: &mut Memory| put_packet(memory, &Packet { to_port: 15001, ..CONNECT }, 1, 0);
    let answers = |memory: &mut Memory| put_packet(memory, &from(15006, ACK), 0, 100);
    assert!(run_on("egress_bytes", &[&asks, &answers]).looked_up);
}

/// Process and thread id stay the same over `execve(2)`, so an app's name and user are read at each dial.
#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn name_and_user_of_an_app_are_read_at_each_dial() {
    let (code, mut memory) = load("egress_connect4");
    for time in [5, 6] {
        put_dial(&mut memory);
        let Ran { returned, called, .. } =
            run_once("egress_connect4", &code, &mut memory, &Current { ids: 7, time, uid: 1000 });
        let asked = [CURRENT_USER, CURRENT_NAME].map(|helper| called.contains(&helper));
        assert_eq!((returned, asked), (1, [true; 2]), "at {time}: calls {called:?}");
    }
}

/// The helper for a thread's name takes longer than the rest of a dial. A sidecar's threads dial often and keep their names, so
/// these are cached for a second; but a new thread may have the address of an old one.
#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn name_of_a_sidecars_thread_is_read_once_a_second() {
    const SECOND: u64 = 1_000_000_000;
    let (code, mut memory) = load("egress_connect4");
    for (what, ids, time, due) in [
        ("the first dial", 7, 5 * SECOND, true),
        ("a dial right after it", 7, 5 * SECOND + 1, false),
        ("a dial within the second", 7, 6 * SECOND, false),
        ("a later dial", 7, 7 * SECOND, true),
        ("another thread at the same address", 8, 7 * SECOND + 1, true),
        ("the first thread again", 7, 7 * SECOND + 2, true),
    ] {
        put_dial(&mut memory);
        let Ran { returned, called, .. } =
            run_once("egress_connect4", &code, &mut memory, &Current { ids, time, uid: 1337 });
        assert_eq!((returned, called.contains(&CURRENT_NAME)), (1, due), "{what}: calls {called:?}");
    }
}

/// A `struct bpf_sock_addr`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6640>
fn put_dial(memory: &mut Memory) {
    let mut context = vec![0; 72];
    context[4..8].copy_from_slice(&[10, 0, 0, 1]);
    context[24..26].copy_from_slice(&3128_u16.to_be_bytes());
    context[36] = 6; // TCP
    memory.put(CONTEXT, context);
}
