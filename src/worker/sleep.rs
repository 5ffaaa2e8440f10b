//! Going to sleep without missing what arrives just then. crates/af_xdp/src/model.rs tries this in every order.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Says in all of `flags` that the worker sleeps and wants to be woken. Before it does it must look at its rings once
/// more: a program that has put something there before this returns need not have seen the flag. One that puts something
/// there later sees it, because `copy_to_worker` in bpf/steer.bpf.c reserves, has a barrier too, and then reads the flag.
pub(super) fn announce<'a>(flags: impl IntoIterator<Item = &'a AtomicU32>) {
    for flag in flags {
        flag.store(1, Ordering::Relaxed);
    }
    fence(Ordering::SeqCst);
}
