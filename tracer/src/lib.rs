//! egress-tracer in userspace: the pure core, and the edges around it.

pub mod explain;
pub mod mesh;
