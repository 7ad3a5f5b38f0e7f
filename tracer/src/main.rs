//! The `egress-tracer` binary: hands its arguments to the library.

fn main() {}
