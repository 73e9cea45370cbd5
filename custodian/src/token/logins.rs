//! Whose turn it is to log in to a token. All its workers have the same PIN: one that became wrong is tried once, not by each of
//! them, since tokens lock after three to ten tries.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::OwnedMutexGuard, time::timeout};

use super::StartError;

/// How long to wait for the turn. A token says at once that a PIN is wrong: a worker that has said nothing for this long hangs, and must
/// not keep the others from starting.
const PATIENCE: Duration = Duration::from_secs(3);

/// Shared by the workers of one token.
#[derive(Clone, Default)]
pub(super) struct Logins {
    one: Arc<tokio::sync::Mutex<()>>,
    /// What the token said of the PIN, if it refused it.
    refused: Arc<Mutex<Option<String>>>,
}

impl Logins {
    /// Waits for the turn, but not for one that hangs.
    ///
    /// # Errors
    /// [`StartError::Pin`] if the token has refused the PIN: nobody tries it again.
    pub(super) async fn turn(&self) -> Result<Turn, StartError> {
        let held = timeout(PATIENCE, Arc::clone(&self.one).lock_owned()).await.ok();
        match &*self.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(StartError::Pin(why.clone())),
            None => Ok(Turn { _held: held, refused: Arc::clone(&self.refused) }),
        }
    }
}

/// The right to log in. It must be known what became of it before the next one has it.
pub(super) struct Turn {
    _held: Option<OwnedMutexGuard<()>>,
    refused: Arc<Mutex<Option<String>>>,
}

impl Turn {
    /// It is over.
    pub(super) fn ended<T>(self, outcome: &Result<T, StartError>) {
        if let Err(StartError::Pin(why)) = outcome {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_hangs_does_not_keep_the_others_from_logging_in() {
        let logins = Logins::default();
        let hangs = logins.turn().await.ok().unwrap();
        logins.turn().await.ok().unwrap().ended(&Ok(()));
        hangs.ended(&Err::<(), _>(StartError::Pin("wrong".to_owned())));
        assert!(matches!(logins.turn().await, Err(StartError::Pin(_))));
    }
}
