//! What nearly all traffic costs: a flow past its first bytes leaves without a look-up, in every family. The programs run
//! on this machine, instruction by instruction, on sockets of the test's making, and what is looked at is which of the
//! kernel's helpers they call, and whether they touch a table of their own. A kernel may look into one of its maps without
//! a call, but in the object each of these is one.

mod image;
mod machine;
mod memory;

use std::{collections::HashMap, slice};

use image::Image;
use memory::Memory;
use tracer_ebpf::Layout;

/// More than this is past the first bytes. It stands here once more so that it does not change unseen.
const FIRST_BYTES: u64 = 64 << 10;

/// `BPF_FUNC_*`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L5816>
const PROBE_READ: i32 = 4;
const SKB_LOAD_BYTES: i32 = 26;
const TCP_SOCK: i32 = 96;
const PROBE_READ_USER: i32 = 112;
const PROBE_READ_KERNEL: i32 = 113;

/// Where things are. A packet's address has 32 bits in its context.
const CONTEXT: u64 = 0xffff_8000_0000_0000;
const SOCKET: u64 = 0xffff_8001_0000_0000;
const COUNTERS: u64 = 0xffff_8002_0000_0000;
const MESSAGE: u64 = 0xffff_8003_0000_0000;
const PACKET: u32 = 0x1000_0000;
const PAYLOAD: u64 = 0x5555_0000_0000;

const REQUEST: &[u8] = b"CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n";

/// A program that looks at bytes that leave, and how its context is made.
struct Shell {
    program: &'static str,
    context: fn(&mut Memory, sent: u64, received: u64),
    /// The helpers that it may call for a flow past its first bytes.
    due: &'static [i32],
    /// What it then returns.
    returns: u64,
}

const SHELLS: [Shell; 3] = [
    Shell { program: "egress_bytes", context: packet, due: &[TCP_SOCK], returns: 1 },
    Shell { program: "egress_fentry_send", context: arguments, due: &[PROBE_READ_KERNEL], returns: 0 },
    Shell { program: "egress_kprobe_send", context: registers, due: &[PROBE_READ_KERNEL], returns: 0 },
];

/// Only what is read of a socket here; whatever else is asked for is nowhere, and reads as zeros.
static LAYOUT: Layout =
    Layout { bytes_acked: 8, bytes_received: 16, iter_mask: 0xff, iter_ubuf: 0, ubuf: 0, ..Layout::UNKNOWN };

/// A `struct __sk_buff` of a packet that holds a CONNECT, its socket, and that one's counters.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6198>
fn packet(memory: &mut Memory, sent: u64, received: u64) {
    let mut packet = vec![0; 40];
    (packet[0], packet[32]) = (0x45, 0x50); // the lengths of its headers
    packet.extend_from_slice(REQUEST);
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
    memory.put(SOCKET, vec![0; 80]); // `struct bpf_sock`
    memory.put(COUNTERS, counters);
}

/// `tcp_sendmsg`'s arguments, as a trampoline hands them over.
fn arguments(memory: &mut Memory, sent: u64, received: u64) {
    let arguments = message(memory, sent, received);
    memory.put(CONTEXT, arguments.map(u64::to_le_bytes).concat());
}

/// The same in the registers of a `struct pt_regs`.
fn registers(memory: &mut Memory, sent: u64, received: u64) {
    let places = if cfg!(target_arch = "x86_64") { [14, 13, 12] } else { [0, 1, 2] };
    let mut registers = [0_u64; 40];
    for (place, argument) in places.into_iter().zip(message(memory, sent, received)) {
        registers[place] = argument;
    }
    memory.put(CONTEXT, registers.map(u64::to_le_bytes).concat());
}

/// A `struct sock` with these counters, and a `struct msghdr` that holds a CONNECT in one piece.
fn message(memory: &mut Memory, sent: u64, received: u64) -> [u64; 3] {
    memory.put(SOCKET, [0, sent, received, 0].map(u64::to_le_bytes).concat());
    memory.put(MESSAGE, PAYLOAD.to_le_bytes());
    memory.put(PAYLOAD, REQUEST);
    [SOCKET, MESSAGE, REQUEST.len() as u64]
}

/// What a program did.
struct Ran {
    returned: u64,
    /// The helpers that it called.
    called: Vec<i32>,
    /// It touched a table.
    looked_up: bool,
}

/// Runs a program for a flow that has sent and received so many bytes.
fn run(shell: &Shell, sent: u64, received: u64) -> Ran {
    // SAFETY: a `repr(C)` structure of `u32`s, without padding, that lives as long as the program.
    let layout = unsafe { slice::from_raw_parts((&raw const LAYOUT).cast::<u8>(), size_of::<Layout>()) };
    let (code, mut memory) = Image::link(HashMap::from([("LAYOUT", (layout, true))])).program(shell.program);
    (shell.context)(&mut memory, sent, received);
    let mut called = Vec::new();
    let helper = |memory: &mut Memory, number, [first, second, third, fourth, _]: [u64; 5]| {
        called.push(number);
        match number {
            PROBE_READ | PROBE_READ_USER | PROBE_READ_KERNEL => memory.copy(first, second, third),
            SKB_LOAD_BYTES => memory.copy(third, fourth, u64::from(PACKET) + second),
            TCP_SOCK => Ok(COUNTERS),
            _ => Ok(0), // nothing is known of anybody
        }
    };
    let returned = machine::run(&code, CONTEXT, &mut memory, helper);
    let returned = returned.unwrap_or_else(|error| panic!("{}: {error}", shell.program));
    Ran { returned, called, looked_up: memory.looked_up() }
}

#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn a_flow_past_its_first_bytes_leaves_without_a_look_up() {
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

/// Else the test above would see nothing where there is something.
#[test]
#[cfg_attr(without_kernel_programs, ignore = "built without the kernel programs")]
fn one_before_that_is_looked_up() {
    for shell in SHELLS {
        for (sent, received) in [(0, 0), (FIRST_BYTES - 1, FIRST_BYTES - 1)] {
            let Ran { returned, called, looked_up } = run(&shell, sent, received);
            assert_eq!(returned, shell.returns, "{}", shell.program);
            assert!(looked_up, "{} looks into no table, and calls {called:?}", shell.program);
        }
    }
}
