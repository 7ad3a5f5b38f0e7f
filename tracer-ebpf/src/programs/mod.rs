//! The entry points: one thin function per hook and family.

mod cgroup;
mod egress;
mod fentry;
mod kprobe;
mod original_dst;
mod socket_events;
