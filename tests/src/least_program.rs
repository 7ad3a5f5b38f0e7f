//! The least kernel programs that could do the tracer's job for a flow that turns out not to matter, instruction by
//! instruction: what bounds the tracer's own. They remember a dial, an accept and a connection with who made it, find by the
//! socket what was remembered, and look at a payload's first bytes. They make no record, follow no scope, pay for no full or
//! broken table, and know only what the lab's pod has: IPv4, and a sidecar at Istio's ports with Istio's user.

/// Bytes kept of a socket: the lines of cache that a flow of the tracer's takes at least.
const ENTRY: u32 = 64;
/// So many sockets are kept, a power of two: as many as in the tracer's table of flows.
const ENTRIES: u32 = 1 << 15;
/// Bytes of the map.
pub(crate) const MAP_BYTES: u32 = ENTRIES * ENTRY;

/// Helpers: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L5816>
const KTIME_GET_NS: i32 = 5;
const GET_CURRENT_PID_TGID: i32 = 14;
const GET_CURRENT_UID_GID: i32 = 15;
const GET_CURRENT_COMM: i32 = 16;
const SKB_LOAD_BYTES: i32 = 26;
const GET_SOCKET_COOKIE: i32 = 46;
const SOCK_OPS_CB_FLAGS_SET: i32 = 59;
const TCP_SOCK: i32 = 96;

/// Instructions: <https://www.rfc-editor.org/rfc/rfc9669.html>
const LOAD_BYTE: u8 = 0x71;
const LOAD_WORD: u8 = 0x61;
const LOAD: u8 = 0x79;
const STORE: u8 = 0x7b;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x0f;
const ADD_NUMBER: u8 = 0x07;
const OR: u8 = 0x4f;
const AND_NUMBER: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const IF_EQUAL: u8 = 0x15;
const IF_UNEQUAL: u8 = 0x55;
const IF_GREATER: u8 = 0x25;
const IF_GREATER_THAN: u8 = 0x2d;
const IF_AT_MOST: u8 = 0xbd;
const GO: u8 = 0x05;

/// To the end of the program.
const OUT: i16 = i16::MAX;
/// An instruction's bits that say how far it jumps, and what they are on the way there.
const OFFSET: u64 = 0xffff << 16;
const OFFSET_OUT: u64 = (OUT as u64) << 16;

/// Where one of the sidecar's ports is accepted on; who the sidecar is.
const PORTS: [i32; 2] = [15001, 15006];
const SIDECAR: i32 = 1337;

/// A program in the making. Registers by number: 0 has what a helper gives, 1 to 5 are its arguments, 6 to 9 are kept, 10 is
/// the end of the stack.
#[derive(Default)]
struct Code(Vec<u64>);

impl Code {
    fn then(mut self, op: u8, to: u8, from: u8, offset: i16, number: i32) -> Self {
        let registers = u64::from(to | from << 4) << 8;
        let offset = u64::from(offset.cast_unsigned()) << 16;
        self.0.push(u64::from(op) | registers | offset | u64::from(number.cast_unsigned()) << 32);
        self
    }

    fn call(self, helper: i32) -> Self {
        self.then(0x85, 0, 0, 0, helper)
    }

    /// Register 1 is the entry of the socket whose cookie is in register 0.
    fn entry(self, map: i32) -> Self {
        let index = self.then(AND_NUMBER, 0, 0, 0, (ENTRIES - 1).cast_signed());
        let offset = index.then(SHIFT_LEFT, 0, 0, 0, ENTRY.trailing_zeros().cast_signed());
        // `BPF_PSEUDO_MAP_VALUE`: the address of the map's value, in two slots.
        offset.then(0x18, 1, 2, 0, map).then(0, 0, 0, 0, 0).then(ADD, 1, 0, 0, 0)
    }

    /// The entry of the context's socket is looked at. The context is in register 6.
    fn find(self, map: i32) -> Self {
        self.then(MOVE, 1, 6, 0, 0).call(GET_SOCKET_COOKIE).entry(map).then(LOAD, 2, 1, 0, 0)
    }

    /// The context's socket is remembered, with its maker and when. The context is in register 6.
    fn remember(self, map: i32) -> Self {
        self.call(GET_CURRENT_PID_TGID)
            .then(MOVE, 7, 0, 0, 0)
            .call(GET_CURRENT_UID_GID)
            .then(MOVE, 8, 0, 0, 0)
            .call(KTIME_GET_NS)
            .then(MOVE, 9, 0, 0, 0)
            .then(MOVE, 1, 10, 0, 0)
            .then(ADD_NUMBER, 1, 0, 0, -16)
            .then(SET, 2, 0, 0, 16)
            .call(GET_CURRENT_COMM)
            .then(MOVE, 1, 6, 0, 0)
            .call(GET_SOCKET_COOKIE)
            .then(MOVE, 2, 0, 0, 0)
            .entry(map)
            .then(STORE, 1, 2, 0, 0)
            .then(STORE, 1, 7, 8, 0)
            .then(STORE, 1, 8, 16, 0)
            .then(STORE, 1, 9, 24, 0)
            .then(LOAD, 2, 10, -16, 0)
            .then(STORE, 1, 2, 32, 0)
            .then(LOAD, 2, 10, -8, 0)
            .then(STORE, 1, 2, 40, 0)
    }

    /// Where a register has this number, `block`, and then nothing more.
    fn when(self, register: u8, number: i32, block: impl FnOnce(Self) -> Self) -> Self {
        let block = block(Self::default()).then(GO, 0, 0, OUT, 0);
        let length = i16::try_from(block.0.len()).unwrap_or(OUT);
        let mut code = self.then(IF_UNEQUAL, register, 0, length, number);
        code.0.extend(block.0);
        code
    }

    /// Goes on where register 2 is one of the sidecar's ports.
    fn at_sidecar(self) -> Self {
        self.then(IF_EQUAL, 2, 0, 1, PORTS[0]).then(IF_UNEQUAL, 2, 0, OUT, PORTS[1])
    }

    /// Has the program called when the state of the context's socket changes (4: `BPF_SOCK_OPS_STATE_CB_FLAG`), or not (0).
    fn watch_states(self, flag: i32) -> Self {
        self.then(MOVE, 1, 6, 0, 0).then(SET, 2, 0, 0, flag).call(SOCK_OPS_CB_FLAGS_SET)
    }

    /// Let it pass.
    fn end(self) -> Vec<u64> {
        let Self(mut code) = self.then(SET, 0, 0, 0, 1).then(0x95, 0, 0, 0, 0);
        let end = code.len() - 2;
        for (at, instruction) in code.iter_mut().enumerate() {
            if *instruction & OFFSET == OFFSET_OUT {
                let distance = u64::try_from(end - at - 1).unwrap_or_default();
                *instruction = *instruction & !OFFSET | distance << 16;
            }
        }
        code
    }
}

/// The program for a hook of the tracer's, by that program's name. Offsets are those of the hook's context:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L6198>
pub(crate) fn code(hook: &str, map: i32) -> Vec<u64> {
    let code = Code::default().then(MOVE, 6, 1, 0, 0);
    match hook {
        "egress_connect4" => code.remember(map),
        "egress_accept4" => code
            .then(LOAD, 1, 6, 64, 0) // the socket
            .then(IF_EQUAL, 1, 0, OUT, 0)
            .then(LOAD_WORD, 2, 1, 44, 0) // its port
            .at_sidecar()
            .remember(map),
        "egress_options" => code
            .then(LOAD_WORD, 2, 6, 24, 0)
            .then(IF_UNEQUAL, 2, 0, OUT, 6) // the level is TCP
            .then(LOAD_WORD, 2, 6, 28, 0)
            .then(IF_UNEQUAL, 2, 0, OUT, 1) // and the option TCP_NODELAY
            .then(LOAD, 1, 6, 0, 0)
            .then(LOAD_WORD, 2, 1, 44, 0)
            .at_sidecar()
            // What this thread has dialled.
            .call(GET_CURRENT_PID_TGID)
            .entry(map)
            .then(LOAD, 2, 1, 0, 0),
        "egress_states" => code
            .then(LOAD_WORD, 1, 6, 0, 0)
            // BPF_SOCK_OPS_STATE_CB: the socket is over in FIN_WAIT1, CLOSE or LAST_ACK.
            .when(1, 10, |code| {
                let over = |code: Code| code.find(map).watch_states(0);
                code.then(LOAD_WORD, 2, 6, 8, 0).when(2, 4, over).when(2, 7, over).when(2, 9, over)
            })
            // BPF_SOCK_OPS_TCP_CONNECT_CB, of the sidecar's
            .when(1, 3, |code| {
                code.find(map)
                    .then(LOAD_WORD, 2, 1, 16, 0)
                    .then(IF_UNEQUAL, 2, 0, OUT, SIDECAR)
                    .watch_states(4)
            })
            // BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            .when(1, 5, |code| {
                let accepts = code.then(LOAD_WORD, 2, 6, 68, 0).at_sidecar().watch_states(4);
                accepts.find(map).then(STORE, 1, 0, 0, 0)
            }),
        "egress_bytes" => code
            .then(LOAD, 1, 6, 168, 0) // the socket
            .then(IF_EQUAL, 1, 0, OUT, 0)
            .call(TCP_SOCK)
            .then(IF_EQUAL, 0, 0, OUT, 0)
            .then(LOAD, 1, 0, 88, 0) // bytes_acked
            .then(LOAD, 2, 0, 80, 0) // bytes_received
            .then(OR, 1, 2, 0, 0)
            .then(IF_GREATER, 1, 0, OUT, 0xffff)
            .then(LOAD_WORD, 7, 6, 76, 0) // data
            .then(LOAD_WORD, 2, 6, 80, 0) // data_end
            .then(MOVE, 1, 7, 0, 0)
            .then(ADD_NUMBER, 1, 0, 0, 40)
            .then(IF_GREATER_THAN, 1, 2, OUT, 0)
            .then(LOAD_BYTE, 2, 7, 32, 0) // the TCP header's length
            .then(SHIFT_RIGHT, 2, 0, 0, 4)
            .then(SHIFT_LEFT, 2, 0, 0, 2)
            .then(ADD_NUMBER, 2, 0, 0, 20)
            .then(LOAD_WORD, 3, 6, 0, 0)
            .then(IF_AT_MOST, 3, 2, OUT, 0) // no payload
            .then(MOVE, 1, 6, 0, 0)
            .then(MOVE, 3, 10, 0, 0)
            .then(ADD_NUMBER, 3, 0, 0, -8)
            .then(SET, 4, 0, 0, 8)
            .call(SKB_LOAD_BYTES)
            .find(map),
        _ => Code::default(),
    }
    .end()
}
