//! The tokens that stand for chunks of UMEM.

/// Bytes in a chunk. The kernel takes powers of two from 2048 to the page size; 4096 holds the largest frames.
pub const CHUNK_SIZE: usize = 4096;

/// A chunk of UMEM in user hands.
///
/// Neither `Copy` nor `Clone`: the token is the only right to the chunk's memory. The chunk of a token that is
/// dropped stays unused until the program ends, so put the token back where it came from.
#[must_use = "the chunk of a dropped token stays unused until the program ends"]
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Number of the chunk within its UMEM.
    pub(crate) index: u32,
    /// Which UMEM, so that a token is of no use in another.
    pub(crate) umem: u32,
}

/// In a fragment's length: its frame continues in the next fragment.
pub(crate) const MORE: u16 = 1 << 15;

/// An Ethernet frame, or a part of one, in a chunk.
///
/// A frame that is larger than a chunk consists of several fragments in a row, all but the last of which
/// [continue](Fragment::continues).
#[must_use = "the chunk of a dropped fragment stays unused until the program ends"]
#[derive(Debug, PartialEq, Eq)]
pub struct Fragment {
    pub(crate) chunk: Chunk,
    pub(crate) offset: u16,
    /// Bytes, and [`MORE`].
    pub(crate) len: u16,
}

impl Fragment {
    /// The bytes `offset..offset + len` of `chunk`.
    ///
    /// # Panics
    /// If they do not lie within the chunk.
    pub fn new(chunk: Chunk, offset: usize, len: usize) -> Self {
        assert!(offset <= CHUNK_SIZE && len <= CHUNK_SIZE - offset, "{offset}+{len} is not within a chunk");
        Self { chunk, offset: offset as u16, len: len as u16 }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len & !MORE)
    }

    /// True if it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it begins in its chunk, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        usize::from(self.offset)
    }

    /// True if the same Ethernet frame continues in the next fragment.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.len & MORE != 0
    }

    /// The same fragment of a frame that continues in the next one.
    pub fn continued(self) -> Self {
        Self { len: self.len | MORE, ..self }
    }

    /// The same fragment without its first `n` bytes, or without any if it has fewer.
    pub fn skip(mut self, n: usize) -> Self {
        self.advance(n);
        self
    }

    /// Drops its first `n` bytes, or all if it has fewer.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len()) as u16;
        self.offset += n;
        self.len -= n;
    }

    /// The chunk, without its content.
    pub fn into_chunk(self) -> Chunk {
        self.chunk
    }
}
