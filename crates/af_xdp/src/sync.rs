//! Atomics: the machine's, or under `--cfg loom` those of a checker that tries every order in which two threads'
//! loads and stores may be seen (src/model.rs).

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
