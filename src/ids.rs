//! Numbers of routers, ports and segments: each a type of its own, so that none is taken for another.
//!
//! A [`Plan`](crate::plan::Plan) gives the numbers, and they keep their meaning while it runs. Whoever keeps a table of
//! its own by such a number asks for its [`index`](Id::index).

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Index, IndexMut};

/// Workers that the XDP program serves on a NIC.
pub const MAX_WORKERS: usize = 64;

/// Routers that can be numbered: the XDP program has 16 bits for them, and the last number stands for none.
pub const MAX_ROUTERS: usize = u16::MAX as usize;

/// A number that stands for an item of an [`IdVec`].
pub trait Id: Copy {
    /// The number of the item at `index`.
    fn at(index: usize) -> Self;

    /// Where the item is.
    fn index(self) -> usize;
}

impl Id for usize {
    fn at(index: usize) -> Self {
        index
    }

    fn index(self) -> usize {
        self
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])+ $name:ident)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The number `n`.
            #[must_use]
            pub const fn new(n: u32) -> Self {
                Self(n)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }

            /// The number as an index.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl Id for $name {
            fn at(index: usize) -> Self {
                Self(index as u32)
            }

            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", stringify!($name), self.0)
            }
        }
    )+};
}

ids! {
    /// A router of a plan, below [`MAX_ROUTERS`].
    RouterId
    /// A port of a plan: a router's interface on a segment.
    PortId
    /// A segment of a plan: a LAN, which is a NIC with the ports bound to it.
    SegmentId
}

/// A list whose items are numbered by `I`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdVec<I, T> {
    items: Vec<T>,
    numbered_by: PhantomData<fn(I) -> I>,
}

impl<I: Id, T> IdVec<I, T> {
    /// Appends `item` and returns its number.
    pub fn push(&mut self, item: T) -> I {
        self.items.push(item);
        I::at(self.items.len() - 1)
    }

    /// The number that the next item gets.
    #[must_use]
    pub fn next_id(&self) -> I {
        I::at(self.items.len())
    }

    /// The numbers of all items, ascending.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = I> + ExactSizeIterator + use<I, T> {
        (0..self.items.len()).map(I::at)
    }

    /// All items with their numbers, ascending.
    pub fn numbered(&self) -> impl DoubleEndedIterator<Item = (I, &T)> {
        self.ids().zip(&self.items)
    }
}

impl<I, T> Default for IdVec<I, T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<I, T> From<Vec<T>> for IdVec<I, T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, numbered_by: PhantomData }
    }
}

impl<I, T> IntoIterator for IdVec<I, T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, I, T> IntoIterator for &'a IdVec<I, T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a, I, T> IntoIterator for &'a mut IdVec<I, T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter_mut()
    }
}

impl<I, T> Deref for IdVec<I, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<I, T> DerefMut for IdVec<I, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<I: Id, T> Index<I> for IdVec<I, T> {
    type Output = T;

    /// # Panics
    /// If the list has no item of this number.
    fn index(&self, id: I) -> &T {
        &self.items[id.index()]
    }
}

impl<I: Id, T> IndexMut<I> for IdVec<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.items[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_found_by_the_number_that_it_got() {
        let mut list: IdVec<PortId, &str> = IdVec::default();
        assert_eq!(list.next_id(), PortId::new(0));
        let ids = ["a", "b"].map(|item| list.push(item));
        assert_eq!(ids, [PortId::new(0), PortId::new(1)]);
        assert_eq!(ids.map(|id| list[id]), ["a", "b"]);
        list[ids[1]] = "c";
        assert_eq!(list.numbered().collect::<Vec<_>>(), [(ids[0], &"a"), (ids[1], &"c")]);
        assert!(list.ids().eq(ids));
        assert_eq!((ids[1].get(), ids[1].index()), (1, 1));
        assert_eq!(format!("{:?}", ids[1]), "PortId 1");
    }
}
