//! Room for calls: how many there may be at once, and which of them may have which part of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::ApiLimits;
use crate::custody::{Denial, Fault, Place};

/// Calls that stop somebody or something, at once, while there is no room for others.
const STOPPING: usize = 8;

/// All of it.
#[derive(Clone)]
pub(super) struct Room {
    calls: Arc<Semaphore>,
    /// As many calls as there may be.
    places: usize,
    /// Of those, the calls that ask a token, until it has answered: as many as all tokens have room for. Many more would be
    /// refused by the tokens, too, but only after they were judged, and then they would have to be recorded.
    asking_token: Arc<Semaphore>,
    /// Of those, the items of batches: the other half is left to who asks for one thing.
    items: Arc<Semaphore>,
    /// Beyond all others.
    stopping: Arc<Semaphore>,
    /// Calls of this minute that found none.
    turned_away: Arc<AtomicU64>,
}

/// Which part of the room a call may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// For most calls.
    Common,
    /// For calls that ask a token.
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
        let asking_token = limits.asking_token.min(limits.calls);
        Self {
            calls: semaphore(limits.calls),
            places: limits.calls.max(1),
            asking_token: semaphore(asking_token),
            items: semaphore(asking_token / 2),
            stopping: semaphore(STOPPING),
            turned_away: Arc::default(),
        }
    }

    /// A place, and the lane that had it: [`Lane::Stopping`] only if there was none elsewhere. `None`: there is no room, and the
    /// call is counted.
    pub(super) fn enter(&self, lane: Lane) -> Option<(Place, Lane)> {
        let entered = self.try_enter(lane);
        if entered.is_none() {
            self.turn_away();
        }
        entered
    }

    /// Counts a call that is turned away.
    pub(super) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a new minute. How many calls were turned away in the old one.
    pub(super) fn roll(&self) -> u64 {
        self.turned_away.swap(0, Ordering::Relaxed)
    }

    fn try_enter(&self, lane: Lane) -> Option<(Place, Lane)> {
        let asking = match lane {
            Lane::Token => Some(Arc::clone(&self.asking_token).try_acquire_owned().ok()?),
            Lane::Common | Lane::Stopping => None,
        };
        match Arc::clone(&self.calls).try_acquire_owned() {
            Ok(call) => {
                let within = if lane == Lane::Stopping { Lane::Common } else { lane };
                Some((Place::new(call, asking), within))
            }
            Err(_) if lane == Lane::Stopping => {
                let beyond = Arc::clone(&self.stopping).try_acquire_owned().ok()?;
                Some((Place::new(beyond, None), Lane::Stopping))
            }
            Err(_) => None,
        }
    }

    /// Waits for room for an item of a batch.
    ///
    /// # Errors
    /// Only if there will never be any.
    pub(super) async fn enter_item(&self) -> Result<ItemRoom, Denial> {
        let closed = |_| Fault::Internal("there is no room for items any more".to_owned());
        let share = Arc::clone(&self.items).acquire_owned().await.map_err(closed)?;
        let asking = Arc::clone(&self.asking_token).acquire_owned().await.map_err(closed)?;
        let call = Arc::clone(&self.calls).acquire_owned().await.map_err(closed)?;
        Ok(ItemRoom { share, place: Place::new(call, Some(asking)) })
    }

    /// Waits until no call is under way, whether somebody waits for its answer or not; at most this long. Whether it is so then.
    pub(super) async fn until_idle(&self, limit: Duration) -> bool {
        let all = u32::try_from(self.places).unwrap_or(u32::MAX);
        matches!(timeout(limit, self.calls.acquire_many(all)).await, Ok(Ok(_)))
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
        assert_eq!((room.roll(), room.roll()), (2, 0));
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

    #[tokio::test]
    async fn items_take_half_of_what_a_token_is_asked_for_and_it_ends() {
        let room = room(9, 4);
        let items = [room.enter_item().await.unwrap(), room.enter_item().await.unwrap()];
        let more = timeout(Duration::from_millis(20), room.enter_item()).await;
        assert!(more.is_err(), "it waits");
        let single = [room.enter(Lane::Token), room.enter(Lane::Token)];
        assert!(single.iter().all(Option::is_some));
        assert!(!room.until_idle(Duration::from_millis(20)).await);
        drop((items, single));
        assert!(room.until_idle(Duration::from_secs(5)).await);
    }
}
