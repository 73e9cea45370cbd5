//! The revocation list of the people's CA, kept for a while: whoever seals to a person asks for it, and each new one takes a
//! signature of the token and a record.

use std::sync::{Mutex, MutexGuard, PoisonError};

use custodian_proto::v1::PeopleRevocationList;
use jiff::{SignedDuration, Timestamp};

/// How long a list is handed out.
const KEEP: SignedDuration = SignedDuration::from_hours(1);

/// The last list, if nothing was revoked since.
#[derive(Default)]
pub(super) struct KeptList {
    kept: Mutex<Kept>,
    making: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    /// Grows with each revocation.
    generation: u64,
    list: Option<(Timestamp, PeopleRevocationList)>,
}

impl KeptList {
    /// The turn to make the next one: all who wait for it get what the first of them made.
    pub(super) async fn turn_to_make(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.making.lock().await
    }

    /// The kept one, or the generation under which to keep the next.
    pub(super) fn get(&self, now: Timestamp) -> Result<PeopleRevocationList, u64> {
        let kept = self.lock();
        match &kept.list {
            Some((made, list)) if now.duration_since(*made).abs() < KEEP => Ok(list.clone()),
            _ => Err(kept.generation),
        }
    }

    /// Keeps one that was made in this generation. Something may have been revoked while it was signed: then not.
    pub(super) fn keep(&self, generation: u64, made: Timestamp, list: PeopleRevocationList) {
        let mut kept = self.lock();
        if kept.generation == generation {
            kept.list = Some((made, list));
        }
    }

    /// Something was revoked.
    pub(super) fn forget(&self) {
        let mut kept = self.lock();
        kept.generation += 1;
        kept.list = None;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_kept_until_something_is_revoked_even_while_it_is_signed() {
        let (kept, now) = (KeptList::default(), Timestamp::now());
        let list = |number| PeopleRevocationList { number, ..PeopleRevocationList::default() };
        let first = kept.get(now).unwrap_err();
        kept.keep(first, now, list(1));
        assert_eq!(kept.get(now).unwrap().number, 1);
        assert!(kept.get(now + KEEP).is_err());
        let second = kept.get(now + KEEP).unwrap_err();
        kept.forget();
        kept.keep(second, now, list(2));
        let third = kept.get(now).unwrap_err();
        kept.keep(third, now, list(3));
        assert_eq!(kept.get(now).unwrap().number, 3);
    }
}
