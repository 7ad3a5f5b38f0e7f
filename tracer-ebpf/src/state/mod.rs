//! What the kernel side keeps: the globals that the loader writes, the maps, and the types of their values.

pub mod budget;
pub mod cache;
pub mod dials;
pub mod globals;
pub mod hashed_array;
pub mod interceptors;
pub mod maps;
pub mod pending_proxies;
pub mod request_ports;
pub mod scope;
pub mod shared_upstreams;
pub mod values;
