//! Unusual connections through a real Envoy with several workers: requests in pieces, several requests on one connection, early
//! ends, connections that do not pass the sidecar, and bytes that make no session.

mod ends;
mod interceptors;
mod paths;
mod requests;
mod harness;
