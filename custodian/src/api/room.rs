//! Room for calls: how many there may be at once, and which of them may have which part of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use custodian_proto::refusal::Refusal;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::Status;
use uuid::Uuid;

use super::{ApiLimits, to_status};
use crate::custody::{Denial, Place};

/// Calls that stop somebody or something, at once, while there is no room for others.
const STOPPING: usize = 8;

/// Of how many calls one is left to those that ask no token.
const OTHERS: usize = 8;

/// All of it.
#[derive(Clone)]
pub(super) struct Room {
    calls: Arc<Semaphore>,
    /// As many calls as there may be.
    places: usize,
    /// Of those, the calls that ask a token, until it has answered: as many as all tokens have room for. Many more would be
    /// refused by the tokens, too, but only after they were judged, and then they would have to be recorded.
    asking_token: Arc<Semaphore>,
    /// Of both, half for the items of batches: the other half is left to who asks for one thing.
    items: Arc<Semaphore>,
    items_asking: Arc<Semaphore>,
    /// Beyond all others.
    stopping: Arc<Semaphore>,
    /// Calls of this minute that were refused.
    refused: Arc<AtomicU64>,
}

/// Which part of the room a call may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// For most calls.
    Common,
    /// For those that callers make all the time and that ask a token: Unwrap, Sign and Timestamp.
    Token,
    /// As [`Lane::Common`], and if that is full, beyond it. Only administrators may stay there: others would fill it.
    Stopping,
}

/// Room for an item of a batch.
pub(super) struct ItemRoom {
    /// Free again when there is an outcome, even if nobody has read it yet.
    pub(super) share: OwnedSemaphorePermit,
    pub(super) place: Place,
}

impl Room {
    pub(super) fn new(limits: &ApiLimits) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.max(1)));
        let asking_token = limits.asking_token.min(limits.calls - limits.calls / OTHERS);
        Self {
            calls: semaphore(limits.calls),
            places: limits.calls.max(1),
            asking_token: semaphore(asking_token),
            items: semaphore(limits.calls / 2),
            items_asking: semaphore(asking_token / 2),
            stopping: semaphore(STOPPING),
            refused: Arc::default(),
        }
    }

    /// The answer to a call for which there is no room. It is counted, since it is not recorded.
    pub(super) fn refuse(&self, request_id: Uuid) -> Status {
        self.refused.fetch_add(1, Ordering::Relaxed);
        to_status(&Refusal::Overloaded.into(), request_id)
    }

    /// Begins a new minute. How many calls were refused in the old one.
    pub(super) fn roll(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// A place, and the lane that had it: [`Lane::Stopping`] only if there was none elsewhere. `None`: there is no room.
    pub(super) fn enter(&self, lane: Lane) -> Option<(Place, Lane)> {
        let asking = match lane {
            Lane::Token => Some(Arc::clone(&self.asking_token).try_acquire_owned().ok()?),
            Lane::Common | Lane::Stopping => None,
        };
        match Arc::clone(&self.calls).try_acquire_owned() {
            Ok(call) => {
                let within = if lane == Lane::Stopping { Lane::Common } else { lane };
                Some((Place::new(call, asking.into_iter().collect()), within))
            }
            Err(_) if lane == Lane::Stopping => {
                let beyond = Arc::clone(&self.stopping).try_acquire_owned().ok()?;
                Some((Place::new(beyond, Vec::new()), Lane::Stopping))
            }
            Err(_) => None,
        }
    }

    /// Waits for room for an item of a batch.
    ///
    /// # Errors
    /// [`Refusal::Stopping`] once there will never be any.
    pub(super) async fn enter_item(&self) -> Result<ItemRoom, Denial> {
        let closed = |_| Refusal::Stopping;
        let share = Arc::clone(&self.items).acquire_owned().await.map_err(closed)?;
        let item_asking = Arc::clone(&self.items_asking).acquire_owned().await.map_err(closed)?;
        let asking = Arc::clone(&self.asking_token).acquire_owned().await.map_err(closed)?;
        let call = Arc::clone(&self.calls).acquire_owned().await.map_err(closed)?;
        Ok(ItemRoom { share, place: Place::new(call, vec![item_asking, asking]) })
    }

    /// Waits until no call is under way, whether somebody waits for its answer or not; at most this long. Whether it is so then.
    /// Nobody finds room after that.
    pub(super) async fn until_idle(&self, limit: Duration) -> bool {
        let all = |places: usize| u32::try_from(places).unwrap_or(u32::MAX);
        let idle = timeout(limit, async {
            tokio::try_join!(
                self.calls.acquire_many(all(self.places)),
                self.stopping.acquire_many(all(STOPPING))
            )
        });
        // Closed while the places are held: whoever waits for one must not get it now.
        let idle = idle.await;
        [&self.items, &self.items_asking, &self.asking_token, &self.calls, &self.stopping]
            .into_iter()
            .for_each(|semaphore| semaphore.close());
        matches!(idle, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(calls: usize, asking_token: usize) -> Room {
        Room::new(&ApiLimits { calls, asking_token, tails: 1 })
    }

    #[test]
    fn calls_that_ask_a_token_leave_room_to_the_others() {
        let room = room(3, 2);
        let asking = [room.enter(Lane::Token), room.enter(Lane::Token)];
        assert!(asking.iter().all(Option::is_some));
        assert!(room.enter(Lane::Token).is_none(), "its queue is full");
        let other = room.enter(Lane::Common);
        assert!(other.is_some());
        assert!(room.enter(Lane::Common).is_none());
        drop(asking);
        assert!(room.enter(Lane::Common).is_some() && room.enter(Lane::Token).is_some());
    }

    #[test]
    fn what_stops_somebody_finds_room_beyond_all_others() {
        let room = room(1, 1);
        let first = room.enter(Lane::Stopping);
        assert!(first.is_some_and(|(_, lane)| lane == Lane::Common), "there was room");
        let _all = room.enter(Lane::Common);
        assert!(room.enter(Lane::Token).is_none());
        let beyond: Vec<_> = (0..STOPPING).filter_map(|_| room.enter(Lane::Stopping)).collect();
        assert!(beyond.len() == STOPPING && beyond.iter().all(|(_, lane)| *lane == Lane::Stopping));
        assert!(room.enter(Lane::Stopping).is_none());
    }

    #[test]
    fn calls_that_ask_no_token_find_room_however_much_the_tokens_have() {
        let room = room(16, 1_000);
        let asking: Vec<_> = (0..16).filter_map(|_| room.enter(Lane::Token)).collect();
        assert_eq!(asking.len(), 14);
        assert!(room.enter(Lane::Common).is_some());
    }

    #[test]
    fn whoever_is_refused_is_counted() {
        let room = room(1, 1);
        assert_eq!(room.refuse(Uuid::nil()).code(), tonic::Code::ResourceExhausted);
        assert_eq!((room.roll(), room.roll()), (1, 0));
    }

    #[tokio::test]
    async fn items_take_half_of_what_a_token_is_asked_for_until_it_has_answered() {
        let room = room(12, 4);
        let items = [room.enter_item().await.unwrap(), room.enter_item().await.unwrap()];
        let more = timeout(Duration::from_millis(20), room.enter_item()).await;
        assert!(more.is_err(), "it waits");
        let single = [room.enter(Lane::Token), room.enter(Lane::Token)];
        assert!(single.iter().all(Option::is_some));
        items.iter().for_each(|item| item.place.token_answered());
        let more = [room.enter_item().await.unwrap(), room.enter_item().await.unwrap()];
        drop((items, single, more));
        assert!(room.until_idle(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn nobody_finds_room_after_the_wait_for_the_last_calls() {
        for under_way in [vec![], vec![Lane::Common], vec![Lane::Common, Lane::Common, Lane::Stopping]] {
            let room = room(2, 2);
            let mut calls: Vec<_> = under_way.iter().map(|lane| room.enter(*lane)).collect();
            // Of the longest, the one beyond all others is left.
            calls.drain(..calls.len() / 2 * 2);
            assert_eq!(room.until_idle(Duration::from_millis(20)).await, calls.is_empty());
            assert!(room.enter(Lane::Common).is_none() && room.enter(Lane::Stopping).is_none());
            let item = room.enter_item().await.err();
            assert!(item.is_some_and(|denial| denial.code() == Refusal::Stopping.code()));
        }
    }
}
