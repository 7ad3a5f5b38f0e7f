//! The kernel programs. On the host this binary is empty: it exists only for `target_arch = "bpf"`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}
