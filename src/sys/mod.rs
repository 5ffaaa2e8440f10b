//! The only module of this crate with `unsafe` code: thin, typed wrappers around system calls and shared memory
//! for which no library has a safe one. One file for each kernel object.

#[cfg(feature = "lab")]
pub mod drain;
#[cfg(feature = "lab")]
pub mod tap;
