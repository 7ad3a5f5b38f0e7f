//! The entry points: one thin function per hook and family.

mod cgroup;
mod egress;
mod fentry;
mod kprobe;
mod socket_events;
