//! Which expressions a child has. Both sides keep this and change it in the same way at the same evaluations, so that a
//! text is sent once and what is kept is bounded.

use std::collections::HashMap;

/// Expressions kept.
const COUNT: usize = 512;
/// Bytes of their texts.
const BYTES: usize = 256 << 10;

pub(crate) struct ExpressionCache<T> {
    by_id: HashMap<u64, T>,
    bytes: usize,
}

impl<T> Default for ExpressionCache<T> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<T> ExpressionCache<T> {
    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        self.by_id.get(&id)
    }

    /// Keeps one more, and forgets all others if they become too many.
    pub(crate) fn insert(&mut self, id: u64, bytes: usize, expression: T) -> &T {
        if self.by_id.len() >= COUNT || self.bytes + bytes > BYTES {
            self.by_id.clear();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.by_id.entry(id).insert_entry(expression).into_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_by_count_and_by_bytes() {
        let mut cache = ExpressionCache::default();
        for id in 0..COUNT as u64 {
            cache.insert(id, 1, ());
        }
        assert!(cache.get(0).is_some());
        cache.insert(COUNT as u64, 1, ());
        assert!(cache.get(0).is_none() && cache.get(COUNT as u64).is_some());
        cache.insert(1_000, BYTES, ());
        assert!(cache.get(COUNT as u64).is_none() && cache.get(1_000).is_some());
    }
}
