//! `cargo xtask`: the single door for developers.

fn main() {}
