//! The core: what happens between a request and its answer. No network, no token library, no SQL in here.

mod change;
mod denial;
mod keys;
mod read;
mod release;
mod sign;
mod timestamp;
mod unwrap;
mod withheld;
mod wrap;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

pub use denial::{Denial, Fault, Pause, Unapproved};
pub use keys::Attestation;
pub(crate) use keys::discard;
pub use sign::{SignRequest, Signed};
pub use timestamp::{Stamped, TimestampRequest};
pub use unwrap::{UnwrapRequest, Unwrapped};
pub use withheld::Withheld;
pub use wrap::{WrapRequest, Wrapped};

use crate::{
    authority::{Asked, Authority, Caller},
    ledger::{Intent, Ledger},
    log::SecondPlace,
    token::Token,
};

/// The custodian: authority, token and ledger, and the sequences that join them.
pub struct Custodian {
    authority: Arc<Authority>,
    token: Arc<dyn Token>,
    ledger: Arc<dyn Ledger>,
    second_place: SecondPlace,
    token_deadline: Duration,
}

impl Custodian {
    /// Joins the parts. A token operation that takes longer than `token_deadline` is given up.
    pub fn new(
        authority: Arc<Authority>,
        token: Arc<dyn Token>,
        ledger: Arc<dyn Ledger>,
        token_deadline: Duration,
    ) -> Arc<Self> {
        Self::with_second_place(authority, token, ledger, SecondPlace::none(), token_deadline)
    }

    /// As [`Custodian::new`]; nothing is released before its record is in the second place as well.
    pub fn with_second_place(
        authority: Arc<Authority>,
        token: Arc<dyn Token>,
        ledger: Arc<dyn Ledger>,
        second_place: SecondPlace,
        token_deadline: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { authority, token, ledger, second_place, token_deadline })
    }

    /// Where records must be beside the ledger.
    pub fn second_place(&self) -> &SecondPlace {
        &self.second_place
    }

    /// Who may do what.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where the keys are.
    pub fn token(&self) -> &Arc<dyn Token> {
        &self.token
    }

    /// What is recorded.
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// By when a token operation that starts now must be done.
    pub fn token_deadline(&self) -> Instant {
        Instant::now() + self.token_deadline
    }
}

/// One call of the API: who asks, and under which id the attempt is recorded.
#[derive(Clone)]
pub struct Call {
    /// Names the attempt to caller and auditor.
    pub request_id: Uuid,
    /// When the request arrived.
    pub arrived: Instant,
    /// Who asks.
    pub caller: Caller,
    /// The request, if an approval may be bound to it.
    pub asked: Asked,
    /// Its place among the calls that are served at once.
    pub place: Place,
}

/// A place among the calls that are served at once. It is kept until the sequence ends, even if the caller hangs up before:
/// otherwise hanging up would be a way around the limit.
#[derive(Clone, Default)]
pub struct Place {
    _call: Option<Arc<OwnedSemaphorePermit>>,
    asking_token: Arc<Mutex<Vec<OwnedSemaphorePermit>>>,
}

impl Place {
    /// Of a call, with what it holds beside until a token has answered it.
    pub fn new(call: OwnedSemaphorePermit, asking_token: Vec<OwnedSemaphorePermit>) -> Self {
        Self { _call: Some(Arc::new(call)), asking_token: Arc::new(Mutex::new(asking_token)) }
    }

    /// The token has answered: the next may ask it. The call itself is not over.
    pub(crate) fn token_answered(&self) {
        self.asking_token.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Call {
    /// The intent of this call to do `operation`.
    pub fn intent(&self, operation: &'static str) -> Intent {
        let asked = self.asked.clone();
        Intent { asked, ..Intent::new(self.request_id, self.arrived, operation, &self.caller) }
    }
}

/// Runs a sequence on a task of its own: a caller that hangs up must not stop it before it is settled.
async fn to_the_end<T: Send + 'static>(
    place: Place,
    sequence: impl Future<Output = Result<T, Denial>> + Send + 'static,
) -> Result<T, Denial> {
    let sequence = async move {
        let ended = sequence.await;
        drop(place);
        ended
    };
    match tokio::spawn(sequence).await {
        Ok(result) => result,
        Err(error) => Err(Fault::Internal(format!("the sequence did not end: {error}")).into()),
    }
}
