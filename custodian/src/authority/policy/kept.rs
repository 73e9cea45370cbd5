//! What takes longer to make than to use, and is made of the same things again and again.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

/// Most things kept of a kind. With more, all are made anew: who asks today is fewer than that.
const MOST: usize = 1_024;

/// Things by what they are made of.
pub(super) struct Kept<K, V>(Mutex<HashMap<K, V>>);

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    /// The thing of this key: `make` makes it, of nothing but the key, if it is not there.
    pub(super) fn get<E>(&self, key: K, make: impl FnOnce(&K) -> Result<V, E>) -> Result<V, E> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thing) = lock().get(&key) {
            return Ok(thing.clone());
        }
        let thing = make(&key)?;
        let mut things = lock();
        if things.len() >= MOST {
            things.clear();
        }
        things.insert(key, thing.clone());
        Ok(thing)
    }
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use super::*;

    #[test]
    fn a_thing_is_made_once_and_never_of_another_key_and_there_are_never_more_than_the_most() {
        let (kept, made) = (Kept::<usize, usize>::default(), Cell::new(0));
        let get = |key: usize| {
            let make = |key: &usize| {
                made.set(made.get() + 1);
                Ok::<_, Infallible>(key * 2)
            };
            kept.get(key, make).unwrap()
        };
        assert_eq!([get(1), get(2), get(1)], [2, 4, 2]);
        assert_eq!(made.get(), 2);
        for key in 0..3 * MOST {
            assert_eq!(get(key), key * 2);
            assert!(kept.0.lock().unwrap().len() <= MOST);
        }
    }

    #[test]
    fn what_could_not_be_made_is_tried_again() {
        let kept = Kept::<u8, u8>::default();
        assert_eq!(kept.get(1, |_| Err("no")), Err("no"));
        assert_eq!(kept.get(1, |_| Ok::<_, &str>(7)), Ok(7));
    }
}
