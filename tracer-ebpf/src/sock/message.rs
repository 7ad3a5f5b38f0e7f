//! The payload of a `struct msghdr`, as `tcp_sendmsg` receives it: in one buffer or in several. It reads the sender's memory
//! without faulting pages in: a payload that is not resident counts as lost.

use core::mem::offset_of;

use aya_ebpf::helpers::generated::{bpf_probe_read, bpf_probe_read_user};
use tracer_ebpf::{
    HEAD_MAX, Loss,
    btf_offsets::ABSENT,
    verifier::{masked, min, sign},
};

use super::{read::read, structure::Sock};
use crate::{
    context::{Bytes, Context, Tuple},
    current::task_address,
    state::{globals::offset, interceptors, maps::PIECES, values::Pieces},
};

/// How many buffers are read at most; a head that spans more is cut off.
const PIECES_MAX: u32 = 32;
/// Bounds an offset and a length in [`Pieces`]; their sum fits.
const MASK: u64 = (2 * HEAD_MAX - 1) as u64;

/// In place of an address, as the first page has none: the bytes cannot be read.
const UNREADABLE: u64 = 0;
/// In place of an address: the bytes are in the kernel's memory, not the sender's.
const IN_KERNEL: u64 = 1;

/// A buffer of the sender: base and length, as in `struct iovec`, which is UAPI.
type Piece = [u64; 2];

/// A message of a socket.
pub struct SocketMessage {
    sk: Sock,
    /// How many bytes it has.
    total: u32,
    /// How many of these are at `base`.
    have: u32,
    /// The address of its bytes, in the sender's memory or in a map; or [`UNREADABLE`] or [`IN_KERNEL`].
    base: u64,
    /// Whether the current task sends it.
    is_in_sender: bool,
}

impl SocketMessage {
    /// The message of a `struct msghdr *` that the current task sends.
    #[inline(always)]
    pub fn find(sk: Sock, message: u64, total: u32) -> Self {
        let base = egress_locate(message, u64::from(total));
        // `base` is the sender's address or that of `Pieces::data`, whose highest bit is set. In the first case this reads
        // from the first page, and yields 0.
        let pieces = base.wrapping_sub(offset_of!(Pieces, data) as u64) & sign(base);
        let gathered: u64 = read(pieces, offset_of!(Pieces, have) as u32);
        let have = gathered | (u64::from(total) & !sign(base));
        Self { sk, total, have: have as u32, base, is_in_sender: true }
    }

    /// A message that was sent before, with its first `have` bytes copied to `base`.
    #[inline(always)]
    pub fn copied(sk: Sock, base: u64, have: u32, total: u32) -> Self {
        Self { sk, total, have, base, is_in_sender: false }
    }

    /// Reads `len` bytes, 1 to 8, from the offset `skip` on.
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
        // SAFETY: the callers guarantee `to`, and the helper checks `from`. The address decides whether it reads the sender's
        // memory or the kernel's: https://elixir.bootlin.com/linux/v6.12/source/kernel/trace/bpf_trace.c#L262
        unsafe { bpf_probe_read(to.cast(), len, from) == 0 }
    }
}

/// The address of the bytes of a `struct msghdr *`; those of several buffers are gathered first. A global function, which the
/// verifier checks once and not in the state of each call.
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

/// Gathers the buffers of a message. No branch depends on their lengths, so to the verifier all turns of the loop are alike.
#[inline(always)]
fn gather(first: Piece, pieces: u64, count: u32, total: u64) -> u64 {
    static EMPTY: Pieces = Pieces { have: 0, address: 0, data: [0; 4 * HEAD_MAX] };
    let thread = task_address();
    let Some(to) = PIECES.insert(thread, &EMPTY, 0).ok().and_then(|()| PIECES.get_ptr_mut(thread)) else {
        return UNREADABLE;
    };
    let wanted = min(total, HEAD_MAX as u64);
    let (mut piece, mut have, mut at) = (first, 0u64, 1u32);
    while at <= PIECES_MAX {
        let [base, len] = piece;
        let part = masked::<MASK>(min(len, wanted - have));
        // SAFETY: `have` and `part` are at most MASK, and `data` has room for both. The helper checks the sender's side.
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
        return UNREADABLE; // all buffers were empty
    }
    // SAFETY: the value lives in the map, and only this thread uses it. The address is read from the map, so to the verifier it
    // is a number, as a sender's address is.
    unsafe {
        (*to).have = have;
        (&raw mut (*to).address).write_volatile(&raw const (*to).data as u64);
        (&raw const (*to).address).read_volatile()
    }
}

/// `len`, 1 to `HEAD_MAX`, with bounds that the verifier sees.
#[inline(always)]
pub fn bounded(len: u32) -> u32 {
    (len.wrapping_sub(1) & (HEAD_MAX as u32 - 1)) + 1
}

impl Bytes for SocketMessage {
    #[inline(always)]
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32 {
        // Fewer than `len` bytes may have been gathered.
        let have = min(u64::from(self.have), u64::from(len));
        let have = masked::<{ HEAD_MAX as u64 - 1 }>(have.wrapping_sub(1)) as u32 + 1;
        if self.load(to.cast(), have, 0) { have } else { 0 }
    }
}

impl Context for SocketMessage {
    #[inline(always)]
    fn first(&self) -> Result<u64, Loss> {
        if self.base == IN_KERNEL {
            return Err(Loss::PayloadInKernel);
        }
        // Reading at `UNREADABLE` fails.
        self.word(0, min(u64::from(self.have), 8)).ok_or(Loss::PayloadUnreadable)
    }

    #[inline(always)]
    fn tenth(&self) -> u8 {
        self.word(9, 1).unwrap_or(0) as u8
    }

    #[inline(always)]
    fn last(&self) -> [u8; 4] {
        if self.have < self.total {
            return [0; 4]; // the last bytes are not at `base`
        }
        (self.word(self.total.wrapping_sub(4), 4).unwrap_or(0) as u32).to_le_bytes()
    }

    #[inline(always)]
    fn uid(&self) -> u32 {
        self.sk.uid()
    }

    #[inline(always)]
    fn is_interceptors(&self) -> bool {
        self.is_in_sender && interceptors::is_current()
    }

    #[inline(always)]
    fn is_in_sender(&self) -> bool {
        self.is_in_sender
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
