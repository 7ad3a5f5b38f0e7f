//! The payload of a `struct msghdr`, as `tcp_sendmsg` gets it: in one piece, or scattered over several. It reads the
//! sender's memory and never waits for it: what is not resident is not read, and counted.

use core::{arch::asm, ptr};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_cgroup_id, bpf_probe_read_kernel, bpf_probe_read_user},
};
use tracer_ebpf::{HEAD_MAX, Loss, layout::ABSENT};

use crate::{
    context::{Bytes, Context, Tuple},
    maps::{Maybe, PIECES, Pieces, opaque_zero},
    scope,
    sock::{Sock, offset, read},
};

/// How many pieces are looked at. A head in more than these is cut off there.
const PIECES_MAX: u32 = 32;
/// Bounds what lies in [`Pieces`]: an offset and a length below it fit.
const MASK: u64 = (2 * HEAD_MAX - 1) as u64;

/// A piece of the sender's memory: `struct iovec`, which is UAPI.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Piece {
    base: u64,
    len: u64,
}

/// A message that is being sent.
pub struct Message {
    sk: Sock,
    total: u32,
    early: Maybe,
    /// Where it is.
    base: u64,
    /// That is where its pieces were put together, not the sender's memory.
    is_gathered: Maybe,
    /// How many bytes of it are there.
    have: u32,
    /// It cannot be read, or it is in the kernel's own memory.
    is_unreadable: Maybe,
    is_in_kernel: Maybe,
}

impl Message {
    /// Looks at a `struct msghdr *`.
    #[inline(always)]
    pub fn read(sk: Sock, message: u64, total: u32, early: bool) -> Self {
        let (no, yes) = (Maybe::new(false), Maybe::new(true));
        let mut this = Self {
            sk,
            total,
            early: Maybe::new(early),
            base: opaque_zero(),
            is_gathered: no,
            have: total,
            is_unreadable: no,
            is_in_kernel: no,
        };
        let sort = u32::from(read::<u8>(message, offset!(iter_type))) & offset!(iter_mask);
        let skip: u64 = read(message, offset!(iov_offset));
        if offset!(iter_ubuf) != ABSENT && sort == offset!(iter_ubuf) {
            this.base = read::<u64>(message, offset!(ubuf)) + skip;
        } else if sort == offset!(iter_iovec) {
            let pieces: u64 = read(message, offset!(iov));
            let first: Piece = read(pieces, 0);
            let first = Piece { base: first.base + skip, len: first.len.wrapping_sub(skip) };
            if first.len >= u64::from(total) {
                this.base = first.base;
            } else {
                this.gather(first, pieces, read::<u64>(message, offset!(nr_segs)) as u32);
            }
        } else {
            this.is_in_kernel = yes;
        }
        this
    }

    /// Puts the pieces together. No branch depends on how long they are, so to the verifier each turn of the loop is
    /// like the one before.
    #[inline(always)]
    fn gather(&mut self, first: Piece, pieces: u64, count: u32) {
        static EMPTY: Pieces = Pieces { data: [0; 4 * HEAD_MAX], address: ptr::null() };
        let thread = bpf_get_current_pid_tgid();
        self.is_unreadable = Maybe::new(true);
        let Some(to) = PIECES.insert(thread, &EMPTY, 0).ok().and_then(|()| PIECES.get_ptr_mut(thread)) else {
            return;
        };
        let wanted = u64::from(if self.total < HEAD_MAX as u32 { self.total } else { HEAD_MAX as u32 });
        let (mut piece, mut have, mut at) = (first, 0u64, 1u32);
        while at <= PIECES_MAX {
            let part = masked::<MASK>(least(piece.len, wanted - have));
            // SAFETY: `have` and `part` are at most MASK, and there is room for both.
            if !user(unsafe { to.cast::<u8>().add(have as usize) }, part as u32, piece.base) {
                return;
            }
            have = masked::<MASK>(have + part);
            if have >= wanted || at >= count {
                break;
            }
            piece = read(pieces, at * size_of::<Piece>() as u32);
            at += 1;
        }
        // SAFETY: the value lives in the map, and only this thread uses it.
        self.base = unsafe {
            (&raw mut (*to).address).write_volatile(to.cast());
            (&raw const (*to).address).read_volatile() as u64
        };
        self.have = have as u32;
        self.is_gathered = Maybe::new(true);
        self.is_unreadable = Maybe::new(false);
    }

    /// Reads `len` bytes, at most 8, from `skip` on.
    #[inline(always)]
    fn word(&self, skip: u32, len: u32) -> Option<u64> {
        let mut word = 0u64;
        self.load((&raw mut word).cast(), len, skip).then_some(word)
    }

    /// `to` must be valid for `len` bytes.
    #[inline(always)]
    fn load(&self, to: *mut u8, len: u32, skip: u32) -> bool {
        let from = self.base + u64::from(skip);
        if self.is_gathered.is() {
            // SAFETY: the callers' promise; the helper checks the other side.
            unsafe { bpf_probe_read_kernel(to.cast(), len, from as *const core::ffi::c_void) == 0 }
        } else {
            user(to, len, from)
        }
    }
}

/// A number that the verifier knows to be at most `MASK`. LLVM knows it, too, and would leave the instruction out.
#[inline(always)]
fn masked<const MASK: u64>(mut number: u64) -> u64 {
    // SAFETY: one instruction on one register.
    unsafe { asm!("{number} &= {mask}", number = inout(reg) number, mask = const MASK) };
    number
}

/// The lesser of two numbers below 2^63, without a branch.
#[inline(always)]
fn least(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    let mut sign = difference;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{sign} s>>= 63", sign = inout(reg) sign) };
    b.wrapping_add(difference & sign)
}

/// Reads the sender's memory.
#[inline(always)]
fn user<T>(to: *mut T, len: u32, from: u64) -> bool {
    // SAFETY: `to` is valid for `len` bytes at all callers; the helper checks the sender's side.
    unsafe { bpf_probe_read_user(to.cast(), len, from as *const core::ffi::c_void) == 0 }
}

impl Bytes for Message {
    #[inline(always)]
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> u32 {
        // Of what was gathered, there may be less.
        let have = if self.have < len { self.have } else { len };
        let have = masked::<{ HEAD_MAX as u64 - 1 }>(u64::from(have).wrapping_sub(1)) as u32 + 1;
        if self.load(to.cast(), have, 0) { have } else { 0 }
    }
}

impl Context for Message {
    #[inline(always)]
    fn first(&self) -> Result<u64, Loss> {
        if self.is_in_kernel.is() {
            return Err(Loss::PayloadInKernel);
        }
        if self.is_unreadable.is() {
            return Err(Loss::PayloadUnreadable);
        }
        let len = if self.have >= 8 { 8 } else { (self.have.wrapping_sub(1) & 7) + 1 };
        self.word(0, len).ok_or(Loss::PayloadUnreadable)
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
    fn cgroup(&self) -> u64 {
        // SAFETY: takes nothing, returns a number; a send is in its task's own context.
        unsafe { bpf_get_current_cgroup_id() }
    }

    #[inline(always)]
    fn is_in_scope(&self) -> bool {
        scope::is_current_in_scope()
    }

    #[inline(always)]
    fn tuple(&self) -> Tuple {
        self.sk.tuple()
    }

    #[inline(always)]
    fn netns(&self) -> Option<u64> {
        self.sk.netns_in_scope()
    }

    #[inline(always)]
    fn is_early(&self) -> bool {
        self.early.is()
    }
}
