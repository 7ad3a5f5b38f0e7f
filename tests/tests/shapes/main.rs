//! The hard shapes: requests that come in pieces, several on one connection, connections that end oddly, paths past the
//! sidecar, and what must make no session. All on a real Envoy with several workers.

mod ends;
mod paths;
mod requests;
mod stage;
