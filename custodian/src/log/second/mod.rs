//! The second place: a copy of the log in another folder, best on another machine, or in a bucket, that grows with it. What leaves the
//! custodian can be made to wait for it: then a record is durable in two places before its file key goes (law 1).
//!
//! The copy has the layout of C2SP tlog-tiles: `custodianctl audit verify FOLDER` reads it as it is.

mod bucket;
mod copier;
mod folder;
mod growing;
mod store;
#[cfg(test)]
mod tests;

use std::{fmt, io, path::PathBuf, time::Duration};

use tokio::{sync::watch, time::Instant};

pub use bucket::BucketConfig;
pub use copier::{Copier, Copying};

use crate::{custody::Fault, ledger::Release};

/// How many records may be missing in the second place while something is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFailure {
    /// None: what is released is recorded in both places.
    Require,
    /// So many.
    Lag(u64),
}

impl OnFailure {
    fn lag(self) -> u64 {
        match self {
            Self::Require => 0,
            Self::Lag(records) => records,
        }
    }
}

/// Where the second place is, and how much depends on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyConfig {
    /// Where.
    pub place: Place,
    /// What to do while it lags.
    pub on_failure: OnFailure,
}

/// Where the second place is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A folder. It must be there: one that is made anew could be the empty mount point of a machine that is away.
    Folder(PathBuf),
    /// A bucket of an object store.
    Bucket(BucketConfig),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

/// Why the second place takes no records.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file, folder or object cannot be read or written. This may pass.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What is there is not the beginning of our log. This does not pass.
    #[error("{0}")]
    Foreign(String),
    /// The ledger does not give what is to be copied.
    #[error("the ledger does not answer: {0}")]
    Ledger(String),
}

/// How the second place is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct CopyState {
    /// Records that are durable there.
    pub copied: u64,
    /// Why there are no more; `None` while all is well.
    pub trouble: Option<String>,
}

/// What stands between a record and what it allows to leave. Nothing, if there is no second place.
#[derive(Clone)]
pub struct SecondPlace {
    required: Option<Required>,
}

#[derive(Clone)]
struct Required {
    state: watch::Receiver<CopyState>,
    lag: u64,
    patience: Duration,
}

/// The proof that a record is durable wherever it must be. Only [`SecondPlace::confirm`] makes one.
///
/// ```compile_fail
/// let confirmed = custodian::log::Confirmed { sequence: 1 };
/// ```
pub struct Confirmed {
    sequence: u64,
}

impl Confirmed {
    /// The record's sequence number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl SecondPlace {
    /// There is none: the ledger is enough.
    pub fn none() -> Self {
        Self { required: None }
    }

    /// The one that a [`Copier`] writes. A release waits for it no longer than `patience`, counted from its settling.
    pub fn required(copier: &Copier, on_failure: OnFailure, patience: Duration) -> Self {
        Self { required: Some(Required { state: copier.state(), lag: on_failure.lag(), patience }) }
    }

    /// How it is; `None` if there is none.
    pub fn state(&self) -> Option<CopyState> {
        self.required.as_ref().map(|required| required.state.borrow().clone())
    }

    /// Whether something may be released with the record after `last`, by what is known now. Asked before the token is
    /// troubled: most of what could not leave is then refused and recorded as such.
    ///
    /// # Errors
    /// [`Fault::LedgerUnavailable`] if the second place is in trouble and too far behind.
    pub fn admits(&self, last: u64) -> Result<(), Fault> {
        let Some(required) = &self.required else { return Ok(()) };
        let state = required.state.borrow();
        match &state.trouble {
            Some(why) if last.saturating_add(1) > state.copied.saturating_add(required.lag) => {
                Err(Fault::LedgerUnavailable(format!("the second place does not take records: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// By when a record that is settled from now on must be in the second place.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.required.as_ref().map_or(Duration::ZERO, |required| required.patience)
    }

    /// Waits until the record of a release is in the second place, or near enough.
    ///
    /// # Errors
    /// [`Fault::LedgerUnavailable`] if it is not there by `deadline`. Then nothing may leave.
    pub async fn confirm(&self, release: Release, deadline: Instant) -> Result<Confirmed, Fault> {
        let sequence = release.sequence();
        let Some(Required { state, lag, patience }) = self.required.clone() else {
            return Ok(Confirmed { sequence });
        };
        let mut state = state;
        let there = |state: &CopyState| state.copied.saturating_add(lag) >= sequence;
        // A writer that has ended writes no more.
        if let Ok(Ok(_)) = tokio::time::timeout_at(deadline, state.wait_for(there)).await {
            return Ok(Confirmed { sequence });
        }
        let why = state.borrow().trouble.clone();
        let why = why.unwrap_or_else(|| format!("it took longer than {patience:?}"));
        Err(Fault::LedgerUnavailable(format!(
            "record {sequence} is not in the second place ({why}): what it allows did not leave"
        )))
    }
}
