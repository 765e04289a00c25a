//! The pieces of the log's files that were read last: who reads one event again reads those behind it next.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes of a piece.
pub(super) const PIECE: usize = 64 << 10;
/// Pieces kept: as many flows may be behind without disturbing each other.
const KEPT: usize = 16;

/// Where each begins, the one that was read last first.
#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<(u64, Bytes)>>);

impl Recent {
    /// What is at `position` and behind it, if anything of it is here.
    pub(super) fn at(&self, position: u64) -> Option<Bytes> {
        let mut pieces = self.0.lock();
        let offset = |start: u64| usize::try_from(position.checked_sub(start)?).ok();
        let index = pieces
            .iter()
            .position(|(start, bytes)| offset(*start).is_some_and(|offset| offset < bytes.len()))?;
        let (start, bytes) = pieces.remove(index)?;
        let found = bytes.slice(offset(start)?..);
        pieces.push_front((start, bytes));
        Some(found)
    }

    /// Keeps a piece, and lets go of the one that was not asked for longest.
    pub(super) fn keep(&self, start: u64, bytes: Bytes) {
        let mut pieces = self.0.lock();
        pieces.retain(|(other, _)| *other != start);
        pieces.truncate(KEPT - 1);
        pieces.push_front((start, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_asked_for_stay() {
        let recent = Recent::default();
        for start in 0..KEPT as u64 {
            recent.keep(start * 10, Bytes::from_static(b"0123456789"));
        }
        assert_eq!(recent.at(3).unwrap(), "3456789");
        recent.keep(1_000, Bytes::from_static(b"x"));
        assert!(recent.at(10).is_none(), "it was asked for longest ago");
        assert_eq!(recent.at(0).unwrap(), "0123456789");
        assert_eq!(recent.at(1_000).unwrap(), "x");
        assert!(recent.at(1_001).is_none());
        assert_eq!(recent.0.lock().len(), KEPT);
    }
}
