//! Whose turn it is to log in to a token. All its workers have the same PIN: one that became wrong is tried once, not by each of
//! them, since tokens lock after three to ten tries.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::StartError;

/// Shared by the workers of one token.
#[derive(Clone, Default)]
pub(super) struct Logins(Arc<Mutex<Option<RefusedPin>>>);

/// What the token said of it.
struct RefusedPin(String);

impl Logins {
    /// Waits for the turn.
    ///
    /// # Errors
    /// [`StartError::Pin`] if the token has refused the PIN: nobody tries it again.
    pub(super) async fn turn(&self) -> Result<Turn, StartError> {
        let refused = Arc::clone(&self.0).lock_owned().await;
        match &*refused {
            Some(RefusedPin(why)) => Err(StartError::Pin(why.clone())),
            None => Ok(Turn(refused)),
        }
    }
}

/// The right to log in. It must be known what became of it before the next one has it.
pub(super) struct Turn(OwnedMutexGuard<Option<RefusedPin>>);

impl Turn {
    /// It is over.
    pub(super) fn ended<T>(mut self, outcome: &Result<T, StartError>) {
        if let Err(StartError::Pin(why)) = outcome {
            *self.0 = Some(RefusedPin(why.clone()));
        }
    }
}
