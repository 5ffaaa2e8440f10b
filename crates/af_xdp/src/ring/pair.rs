//! Both sides of one ring in this process, over memory of a file without a name.

use super::memory::{Layout, Shared, Word};
use super::{Consumer, Producer};
use crate::mapping::Mapping;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io;
use std::os::fd::AsFd;

const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, descriptors: 192 };

/// A ring of `size` slots, a power of two, whose indices begin at `start`.
pub(crate) fn pair<T: Copy>(size: u32, start: u32) -> io::Result<(Producer<T>, Consumer<T>)> {
    let file = memfd_create("ring", MemfdFlags::CLOEXEC)?;
    let len = LAYOUT.bytes::<T>(size);
    ftruncate(&file, len as u64)?;
    let side = || Ok::<_, io::Error>(Shared::new(Mapping::shared(file.as_fd(), len, 0)?, LAYOUT, size));
    let ours = side()?;
    ours.set(Word::Producer, start);
    ours.set(Word::Consumer, start);
    Ok((Producer::on(ours), Consumer::on(side()?)))
}
