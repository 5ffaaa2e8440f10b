//! The tokens that stand for chunks of UMEM.

/// Bytes in a chunk. The kernel takes powers of two from 2048 to the page size; 4096 holds the largest frames.
pub const CHUNK: usize = 4096;

/// A chunk of UMEM in user hands.
///
/// Neither `Copy` nor `Clone`: who has the token has the only right to the chunk's memory. A frame that is
/// dropped is lost to its UMEM until the program ends; put it back where it came from.
#[must_use = "a dropped frame is a chunk lost"]
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of the chunk within its UMEM.
    pub(crate) chunk: u32,
    /// Which UMEM, so that a token is of no use in another.
    pub(crate) umem: u32,
}

/// A frame with bytes in it: `len` of them from `offset`.
#[must_use = "a dropped packet is a chunk lost"]
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    pub(crate) frame: Frame,
    pub(crate) offset: u16,
    pub(crate) len: u16,
}

impl Packet {
    /// The bytes `offset..offset + len` of `frame`'s chunk.
    ///
    /// # Panics
    /// If they do not lie within the chunk.
    pub fn new(frame: Frame, offset: usize, len: usize) -> Self {
        assert!(offset <= CHUNK && len <= CHUNK - offset, "{offset}+{len} is not within a chunk");
        Self { frame, offset: offset as u16, len: len as u16 }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// True if it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where in its chunk it begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        usize::from(self.offset)
    }

    /// The same packet without its first `n` bytes, or without any if it has fewer.
    pub fn skip(self, n: usize) -> Self {
        let n = n.min(self.len()) as u16;
        Self { frame: self.frame, offset: self.offset + n, len: self.len - n }
    }

    /// The frame, its content forgotten.
    pub fn into_frame(self) -> Frame {
        self.frame
    }
}
