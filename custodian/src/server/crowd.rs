//! How many places one peer may have.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts places by who holds them, and gives nobody more than its share.
pub(crate) struct Crowd<K: Eq + Hash + Clone> {
    share: usize,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

/// One of somebody's places. Free again when dropped.
pub(crate) struct Held<K: Eq + Hash + Clone> {
    holder: K,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Crowd<K> {
    pub(crate) fn new(share: usize) -> Self {
        Self { share, held: Arc::default() }
    }

    /// A place for `holder`, unless it has its share already.
    pub(crate) fn enter(&self, holder: K) -> Option<Held<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(holder.clone()).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Held { holder, held: Arc::clone(&self.held) })
    }
}

impl<K: Eq + Hash + Clone> Drop for Held<K> {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_its_share_and_what_is_left_is_free_again() {
        let crowd = Crowd::new(2);
        let places: Vec<_> = (0..3).map(|_| crowd.enter("a")).collect();
        assert_eq!(places.iter().flatten().count(), 2);
        assert!(crowd.enter("b").is_some());
        drop(places);
        assert!(crowd.enter("a").is_some());
        assert!(crowd.held.lock().unwrap().is_empty());
    }
}
