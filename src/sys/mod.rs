//! The only module of this crate with `unsafe` code: thin, typed wrappers around system calls and shared memory
//! for which no library has a safe one. One file for each kernel object.

pub mod device;
pub mod drain;
pub mod ethtool;
pub mod eventfd;
pub(crate) mod lock;
pub mod mmsg;
pub mod packet;
pub(crate) mod process;
pub mod ringbuf;
pub mod shared;
pub mod tap;
pub(crate) mod unix;
pub mod violation;
pub mod xdp_attach;
