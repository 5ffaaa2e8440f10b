//! A batch of frames that the XDP program copied into a worker's ring buffer, for many routers or an unknown one.

use crate::ether::checksum;
use crate::lan::Lan;
use crate::steer::layout::{Copied, CopyKind};
use crate::sys::ringbuf::RingBuffer;
use std::ops::Range;

/// The frames of one kind among the records of a batch. Records of a ring buffer are read-only: those with a checksum to be
/// completed are copied first. There are few: UDP to a group, such as DHCP's, from a program on our own host.
#[derive(Default)]
pub(super) struct CopiedBatch {
    frames: Vec<CopiedFrame>,
    completed: Vec<u8>,
}

/// A frame of the batch.
struct CopiedFrame {
    /// Which record it is.
    record: usize,
    /// Where in [`CopiedBatch::completed`] its copy is, if it has one.
    completed: Option<Range<usize>>,
}

impl CopiedBatch {
    /// Takes the frames of `kind` among the first `count` records of `copies` in the place of those it had.
    pub(super) fn select(&mut self, copies: &RingBuffer, count: usize, kind: CopyKind) {
        self.clear();
        for n in 0..count {
            if let Some(copied) = Copied::read(copies.record(n)).filter(|copied| copied.kind == kind) {
                self.push(n, copied.frame);
            }
        }
    }

    /// Takes nothing in their place.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.completed.clear();
    }

    fn push(&mut self, record: usize, frame: &[u8]) {
        let completed = checksum::unfinished(frame).map(|checksum| {
            let start = self.completed.len();
            self.completed.extend_from_slice(frame);
            checksum.complete(&mut self.completed[start..]);
            start..self.completed.len()
        });
        self.frames.push(CopiedFrame { record, completed });
    }

    /// Number of frames.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Has `lan` remember the frames as they are sent, to know them again if a loop sends them back.
    pub(super) fn remember(&self, copies: &RingBuffer, lan: &Lan) {
        for copied in (0..self.len()).filter_map(|n| self.get(copies, n)) {
            lan.heard(copied.frame, copied.time);
        }
    }

    /// Frame `n` as it is to be sent.
    pub(super) fn get<'a>(&'a self, copies: &'a RingBuffer, n: usize) -> Option<Copied<'a>> {
        let CopiedFrame { record, completed } = &self.frames[n];
        let copied = Copied::read(copies.record(*record))?;
        Some(match completed {
            Some(range) => Copied { frame: &self.completed[range.clone()], ..copied },
            None => copied,
        })
    }
}
