//! Flap damping: how often an address may move.

use crate::ether::Address;
use hashlink::LinkedHashMap;
use std::time::Duration;

/// Moves of one address that are followed within [`WINDOW`]; further ones are not, until it is over.
/// A failover moves once or twice; a loop moves with every frame.
pub(super) const MOVES: u32 = 5;
/// See [`MOVES`].
const WINDOW: Duration = Duration::from_secs(10);
/// Addresses whose moves are remembered after their entry is gone; the one that moved first is forgotten first.
pub(super) const REMEMBERED: usize = 4096;

/// Addresses that moved of late. The one that first moved, of those remembered, is first.
#[derive(Default, Debug)]
pub(super) struct Moves(LinkedHashMap<Address, Counted>);

#[derive(Clone, Copy, Debug)]
struct Counted {
    count: u32,
    since: Duration,
}

impl Moves {
    /// Whether `address` is remembered to have moved.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.0.contains_key(address)
    }

    /// Counts a move at `now`; false if there were too many.
    pub(super) fn may_move(&mut self, address: Address, now: Duration) -> bool {
        if self.0.len() >= REMEMBERED && !self.has(&address) {
            self.0.pop_front();
        }
        let moves = self.0.entry(address).or_insert(Counted { count: 0, since: now });
        if now.saturating_sub(moves.since) >= WINDOW {
            *moves = Counted { count: 0, since: now };
        }
        moves.count = moves.count.saturating_add(1);
        moves.count <= MOVES
    }

    /// How many addresses are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
