//! The payload of a `struct msghdr`, as `tcp_sendmsg` gets it: in one piece, or scattered over several. It reads the
//! sender's memory and never waits for it: what is not resident is not read, and counted.

use core::mem::offset_of;

use aya_ebpf::helpers::generated::{bpf_probe_read, bpf_probe_read_user};
use tracer_ebpf::{
    HEAD_MAX, Loss,
    branchless::{least, masked, sign},
    layout::ABSENT,
};

use crate::{
    context::{Bytes, Context, Tuple},
    maps::{PIECES, Pieces},
    sock::{Sock, offset, read},
    task::current_thread,
};

/// How many pieces are looked at. A head in more than these is cut off there.
const PIECES_MAX: u32 = 32;
/// Bounds what lies in [`Pieces`]: an offset and a length below it fit.
const MASK: u64 = (2 * HEAD_MAX - 1) as u64;

/// Not an address, as none is in the first page: the bytes cannot be read.
const UNREADABLE: u64 = 0;
/// The same: they are in the kernel's own memory, not a sender's.
const IN_KERNEL: u64 = 1;

/// A piece of the sender's memory: its base and length, as in `struct iovec`, which is UAPI.
type Piece = [u64; 2];

/// A message that is being sent, or was.
pub struct Message {
    sk: Sock,
    /// How many bytes it has, and how many of them are at `base`.
    total: u32,
    have: u32,
    /// Where they are: in the sender's memory, or in a map, that is in the kernel's; or why they are nowhere.
    base: u64,
}

impl Message {
    /// Finds the bytes of a `struct msghdr *`.
    #[inline(always)]
    pub fn find(sk: Sock, message: u64, total: u32) -> Self {
        let base = egress_locate(message, u64::from(total));
        // From the first page, nothing is read.
        let pieces = base.wrapping_sub(offset_of!(Pieces, data) as u64) & sign(base);
        let gathered: u64 = read(pieces, offset_of!(Pieces, have) as u32);
        let have = gathered | (u64::from(total) & !sign(base));
        Self { sk, total, have: have as u32, base }
    }

    /// Bytes that were copied to `base` before.
    #[inline(always)]
    pub fn copied(sk: Sock, base: u64, have: u32, total: u32) -> Self {
        Self { sk, total, have, base }
    }

    /// Reads 1 to 8 bytes, as many as there are of `len`, from `skip` on.
    #[inline(always)]
    fn word(&self, skip: u32, len: u64) -> Option<u64> {
        let mut word = 0u64;
        let len = masked::<7>(len.wrapping_sub(1)) + 1;
        self.load((&raw mut word).cast(), len as u32, skip).then_some(word)
    }

    /// `to` must be valid for `len` bytes.
    #[inline(always)]
    fn load(&self, to: *mut u8, len: u32, skip: u32) -> bool {
        let from = (self.base + u64::from(skip)) as *const core::ffi::c_void;
        // SAFETY: the callers' promise; the helper checks the other side. It goes by the address whether that is a sender's
        // memory or the kernel's: https://elixir.bootlin.com/linux/v6.12/source/kernel/trace/bpf_trace.c#L262
        unsafe { bpf_probe_read(to.cast(), len, from) == 0 }
    }
}

/// Where the bytes of a `struct msghdr *` are; those that lie in pieces are put together first. A function of its own, to
/// the verifier, too, which looks at it once, whatever came before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_locate(message: u64, total: u64) -> u64 {
    let sort = u32::from(read::<u8>(message, offset!(iter_type))) & offset!(iter_mask);
    let skip: u64 = read(message, offset!(iov_offset));
    if offset!(iter_ubuf) != ABSENT && sort == offset!(iter_ubuf) {
        return read::<u64>(message, offset!(ubuf)) + skip;
    }
    if sort != offset!(iter_iovec) {
        return IN_KERNEL;
    }
    let pieces: u64 = read(message, offset!(iov));
    let [base, len]: Piece = read(pieces, 0);
    let (base, len) = (base + skip, len.wrapping_sub(skip));
    if len >= total {
        return base;
    }
    gather([base, len], pieces, read::<u64>(message, offset!(nr_segs)) as u32, total)
}

/// Puts the pieces together. No branch depends on how long they are, so to the verifier each turn of the loop is like the
/// one before.
#[inline(always)]
fn gather(first: Piece, pieces: u64, count: u32, total: u64) -> u64 {
    static EMPTY: Pieces = Pieces { have: 0, address: 0, data: [0; 4 * HEAD_MAX] };
    let thread = current_thread();
    let Some(to) = PIECES.insert(thread, &EMPTY, 0).ok().and_then(|()| PIECES.get_ptr_mut(thread)) else {
        return UNREADABLE;
    };
    let wanted = least(total, HEAD_MAX as u64);
    let (mut piece, mut have, mut at) = (first, 0u64, 1u32);
    while at <= PIECES_MAX {
        let [base, len] = piece;
        let part = masked::<MASK>(least(len, wanted - have));
        // SAFETY: `have` and `part` are at most MASK, and there is room for both.
        // The helper checks the sender's side.
        let failed = unsafe {
            let next = (&raw mut (*to).data).cast::<u8>().add(have as usize);
            bpf_probe_read_user(next.cast(), part as u32, base as *const core::ffi::c_void)
        };
        if failed != 0 {
            return UNREADABLE;
        }
        have = masked::<MASK>(have + part);
        if have >= wanted || at >= count {
            break;
        }
        piece = read(pieces, at * size_of::<Piece>() as u32);
        at += 1;
    }
    if have == 0 {
        return UNREADABLE; // so many empty pieces
    }
    // SAFETY: the value lives in the map, and only this thread uses it. Read from there, its address is a number to the
    // verifier, as a sender's address is.
    unsafe {
        (*to).have = have;
        (&raw mut (*to).address).write_volatile(&raw const (*to).data as u64);
        (&raw const (*to).address).read_volatile()
    }
}

impl Bytes for Message {
    #[inline(always)]
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32 {
        // Of what was gathered, there may be less.
        let have = least(u64::from(self.have), u64::from(len));
        let have = masked::<{ HEAD_MAX as u64 - 1 }>(have.wrapping_sub(1)) as u32 + 1;
        if self.load(to.cast(), have, 0) { have } else { 0 }
    }
}

impl Context for Message {
    #[inline(always)]
    fn first(&self) -> Result<u64, Loss> {
        if self.base == IN_KERNEL {
            return Err(Loss::PayloadInKernel);
        }
        // At the address 0, nothing can be read either.
        self.word(0, least(u64::from(self.have), 8)).ok_or(Loss::PayloadUnreadable)
    }

    #[inline(always)]
    fn tenth(&self) -> u8 {
        self.word(9, 1).unwrap_or(0) as u8
    }

    #[inline(always)]
    fn last(&self) -> [u8; 4] {
        if self.have < self.total {
            return [0; 4]; // not here
        }
        (self.word(self.total.wrapping_sub(4), 4).unwrap_or(0) as u32).to_le_bytes()
    }

    #[inline(always)]
    fn uid(&self) -> u32 {
        self.sk.uid()
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        self.sk.local_port()
    }

    #[inline(always)]
    fn sees_redirection(&self) -> bool {
        false
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        self.sk.cgroup().id()
    }

    #[inline(always)]
    fn is_in_scope(&self) -> bool {
        self.sk.cgroup().is_in_scope()
    }

    #[inline(always)]
    fn tuple(&self) -> Tuple {
        self.sk.tuple()
    }

    #[inline(always)]
    fn netns(&self) -> Option<u64> {
        self.sk.netns_in_scope()
    }
}
