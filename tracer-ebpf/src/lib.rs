//! What crosses the boundary between the kernel programs and userspace: the records on the ring, the constants
//! that the loader sets, and the test for "do these first bytes concern us". Integers and byte arrays only.
#![no_std]
