//! What an event means for its flow and its session, whatever hook saw it: which flows are kept, which of a sidecar's dials
//! belongs to which accepted socket, and which events become records. It makes no verdict.

pub mod close;
pub mod open;
pub mod payload;
pub mod sidecar;
pub mod thread;
pub mod upstream;
