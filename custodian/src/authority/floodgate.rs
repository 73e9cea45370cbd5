//! A bound on what strangers can make the log grow by.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    sync::{Mutex, PoisonError},
};

/// Counts refusals of those who have no right to be here, within windows that somebody else ends ([`Floodgate::roll`]).
/// So many of a window are recorded one by one; of the others only the number is.
pub struct Floodgate<K> {
    per_key: u32,
    overall: u32,
    window: Mutex<Window<K>>,
}

struct Window<K> {
    seen: HashMap<K, u32>,
    recorded: u32,
    unrecorded: u64,
}

impl<K: Eq + Hash> Floodgate<K> {
    /// Lets `per_key` through of each key and `overall` of all. Remembers at most `overall` keys.
    pub fn new(per_key: u32, overall: u32) -> Self {
        let window = Window { seen: HashMap::new(), recorded: 0, unrecorded: 0 };
        Self { per_key, overall, window: Mutex::new(window) }
    }

    /// Counts one. Whether it is to be recorded.
    pub fn admit(&self, key: K) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.recorded < self.overall {
            let of_key = window.seen.entry(key).or_default();
            if *of_key < self.per_key {
                *of_key += 1;
                window.recorded += 1;
                return true;
            }
        }
        window.unrecorded += 1;
        false
    }

    /// Begins a new window. How many were not recorded in the old one.
    pub fn roll(&self) -> u64 {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.seen = HashMap::new();
        window.recorded = 0;
        mem::take(&mut window.unrecorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_and_all_are_bounded_and_the_rest_is_counted() {
        let gate = Floodgate::new(2, 5);
        let admitted = |key| (0..4).filter(|_| gate.admit(key)).count();
        assert_eq!([admitted("a"), admitted("b"), admitted("c"), admitted("d")], [2, 2, 1, 0]);
        assert_eq!(gate.roll(), 11);
        assert_eq!(gate.roll(), 0);
        assert!(gate.admit("d"));
    }
}
