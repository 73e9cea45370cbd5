//! What the workers of one token do in turn.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock},
    time::timeout,
};

use super::logins::Logins;

/// Shared by the workers of one token.
#[derive(Clone, Default)]
pub(super) struct Turns {
    pub(super) logins: Logins,
    objects: Arc<RwLock<()>>,
}

impl Turns {
    /// Waits until nobody makes, destroys or lists keys. SoftHSM now and then fails to make one while another thread lists or destroys
    /// some (CKR_GENERAL_ERROR, CKR_TEMPLATE_INCONSISTENT). An HSM may take a minute to make one: after half of the time until
    /// `deadline` it is done without waiting.
    pub(super) async fn change(&self, deadline: Instant) -> Option<OwnedRwLockWriteGuard<()>> {
        timeout(patience(deadline), Arc::clone(&self.objects).write_owned()).await.ok()
    }

    /// Waits until nobody makes or destroys keys, as [`Turns::change`] does.
    pub(super) async fn list(&self, deadline: Instant) -> Option<OwnedRwLockReadGuard<()>> {
        timeout(patience(deadline), Arc::clone(&self.objects).read_owned()).await.ok()
    }
}

fn patience(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_waits_for_the_one_before_but_not_until_its_own_deadline() {
        let turns = Turns::default();
        let far = Instant::now() + Duration::from_secs(120);
        let first = turns.change(far).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        assert!(turns.change(deadline).await.is_none());
        assert!(Instant::now() < deadline, "time is left to do it");
        let (second, ()) = tokio::join!(turns.change(far), async { drop(first) });
        assert!(second.is_some());
        drop(second);
        let (one, other) = (turns.list(far).await, turns.list(far).await);
        assert!(one.is_some() && other.is_some());
    }
}
