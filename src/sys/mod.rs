//! The only module of this crate with `unsafe` code: thin, typed wrappers around system calls and shared memory
//! for which no library has a safe one. One file for each kernel object.

pub mod device;
pub mod ethtool;
pub(crate) mod lock;
pub mod mmsg;
pub mod packet;
pub mod ringbuf;
pub mod shared;
pub(crate) mod unix;
pub mod xdp_attach;
