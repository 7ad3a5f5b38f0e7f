//! Kernel structures and hook contexts, read field by field: `struct sock` and what hangs off it for the fentry and kprobe
//! families, UAPI contexts and packets for the cgroup family. It reads, and decides nothing about a session.

pub mod cgroup_tree;
pub mod message;
pub mod packet;
pub mod read;
pub mod structure;
pub mod syn_data;
pub mod uapi;
