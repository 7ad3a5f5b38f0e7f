//! Reads of kernel memory, with the offsets that the loader found ([`crate::state::globals::offset!`]).

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Integers and arrays of integers: any bytes are a valid value.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Reads a value of the kernel's memory; zeros if that fails, as it does at an address that is not mapped.
#[inline(always)]
pub fn read<T: Plain>(base: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let from = (base + u64::from(offset)) as *const core::ffi::c_void;
    // SAFETY: `value` has the size that is passed, and the helper checks the source. It writes all of `value` also on failure,
    // and any bytes are a valid `T`.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        value.assume_init()
    }
}
