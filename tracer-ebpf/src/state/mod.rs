//! What the kernel side keeps: the globals that the loader writes, the maps, and the types of their values.

pub mod cache;
pub mod globals;
pub mod hashed_array;
pub mod maps;
pub mod pending_proxies;
pub mod request_ports;
pub mod scope;
pub mod values;
