//! Programs of another tool on the tracer's cgroup hooks, such as a service mesh's or a socket load balancer's. A test
//! attaches them before or after the tracer and holds that both keep working.

use std::ffi::c_long;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};

use crate::empty_programs::{LINK_CREATE, descriptor, load_program, lookup, number, open};

/// `setsockopt` level that no protocol of the kernel has; [`OptionHandler`] handles it.
pub const FOREIGN_LEVEL: i32 = 0x5eed;

const MAP_CREATE: c_long = 0;
const SOCK_OPS: (u32, u32) = (13, 3);
const SETSOCKOPT: (u32, u32) = (25, 22);

/// One instruction: <https://docs.kernel.org/bpf/standardization/instruction-set.html>.
const fn op(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, dst | src << 4, low, high, a, b, c, d])
}

/// Counts the sockets of a cgroup that reach `TCP_CLOSE`, by a `sock_ops` program that asks for the state callbacks
/// itself.
#[derive(Debug)]
pub struct CloseCounter {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl CloseCounter {
    /// Attaches the program after those that are attached already.
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let map = descriptor(MAP_CREATE, &[2, 4, 8, 1]).context("no array map")?;
        let fd = i32::try_from(number(map.as_raw_fd())?)?;
        let code = [
            op(0xbf, 6, 1, 0, 0),   // r6 = ctx
            op(0x61, 2, 6, 0, 0),   // r2 = ctx->op
            op(0x15, 2, 0, 4, 10),  // if r2 == BPF_SOCK_OPS_STATE_CB goto state
            op(0xbf, 1, 6, 0, 0),   // r1 = ctx
            op(0xb7, 2, 0, 0, 4),   // r2 = BPF_SOCK_OPS_STATE_CB_FLAG
            op(0x85, 0, 0, 0, 59),  // bpf_sock_ops_cb_flags_set(r1, r2)
            op(0x05, 0, 0, 11, 0),  // goto end
            op(0x61, 2, 6, 8, 0),   // state: r2 = ctx->args[1]
            op(0x55, 2, 0, 9, 7),   // if r2 != TCP_CLOSE goto end
            op(0x62, 10, 0, -4, 0), // key = 0
            op(0xbf, 2, 10, 0, 0),  // r2 = fp
            op(0x07, 2, 0, 0, -4),  // r2 += -4
            op(0x18, 1, 1, 0, fd),  // r1 = map
            op(0x00, 0, 0, 0, 0),   // (its second half)
            op(0x85, 0, 0, 0, 1),   // r0 = bpf_map_lookup_elem(r1, r2)
            op(0x15, 0, 0, 2, 0),   // if r0 == 0 goto end
            op(0xb7, 1, 0, 0, 1),   // r1 = 1
            op(0xdb, 0, 1, 0, 0),   // *r0 += r1, atomically
            op(0xb7, 0, 0, 0, 1),   // end: r0 = 1
            op(0x95, 0, 0, 0, 0),   // exit
        ];
        let (program, link) = attach(&code, SOCK_OPS, cgroup)?;
        Ok(Self { map, _program: program, _link: link })
    }

    /// How many sockets reached `TCP_CLOSE` since the program was attached.
    pub fn count(&self) -> Result<u64> {
        lookup(&self.map)
    }
}

/// Handles `setsockopt` at [`FOREIGN_LEVEL`] by itself and has the kernel skip it (`optlen = -1`).
#[derive(Debug)]
pub struct OptionHandler {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl OptionHandler {
    /// Attaches the program after those that are attached already.
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let code = [
            op(0x61, 2, 1, 24, 0),            // r2 = ctx->level
            op(0x55, 2, 0, 2, FOREIGN_LEVEL), // if r2 != FOREIGN_LEVEL goto end
            op(0xb7, 3, 0, 0, -1),            // r3 = -1
            op(0x63, 1, 3, 32, 0),            // ctx->optlen = r3
            op(0xb7, 0, 0, 0, 1),             // end: r0 = 1
            op(0x95, 0, 0, 0, 0),             // exit
        ];
        let (program, link) = attach(&code, SETSOCKOPT, cgroup)?;
        Ok(Self { _program: program, _link: link })
    }
}

/// Loads a program of this type and attach type, and attaches it to a cgroup by a link.
fn attach(code: &[u64], (kind, at): (u32, u32), cgroup: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let target = open(cgroup)?;
    let program = load_program(code, kind, at).context("the kernel refuses the program")?;
    let words = [number(program.as_raw_fd())?, number(target.as_raw_fd())?, at, 0];
    let link = descriptor(LINK_CREATE, &words).context("the program cannot be attached")?;
    Ok((program, link))
}
