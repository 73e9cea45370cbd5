//! An attempt, from its beginning to its record.

use std::{net::IpAddr, sync::Arc, time::Instant};

use custodian_proto::{key::KeyId, v1};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Change, committer::Slot};
use crate::{
    authority::{Asked, Budgets, Caller, Standing},
    custody::{Denial, Withheld},
};

/// The outcome of an allowed attempt, as it stands in the log.
pub const OK: &str = "OK";

/// The outcome of an attempt that a crash interrupted. Nothing left the custodian.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";

/// What somebody is about to try: all of the record that is known beforehand.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Names the attempt to caller and auditor: UUID version 7.
    pub request_id: Uuid,
    /// When the request arrived.
    pub arrived: Instant,
    /// The method's name: `Unwrap`.
    pub operation: &'static str,
    /// Resource name; empty if nobody is signed in.
    pub user: String,
    /// When the session last showed the second factor.
    pub factor: Option<Timestamp>,
    /// Resource name; empty if the certificate belongs to no device.
    pub device: String,
    /// SHA-256 of the certificate presented.
    pub certificate: Option<[u8; 32]>,
    /// The peer's address.
    pub ip: IpAddr,
    /// For operations with a key.
    pub key: Option<KeyId>,
    /// SHA-256 of the wrapped key.
    pub wrapped_sha256: Option<[u8; 32]>,
    /// What is to be signed: a hash's name and the digest.
    pub digest: String,
    /// What the client says about the file. Already cut to its limits.
    pub claims: Option<v1::Claims>,
    /// Resource name of what the operation is about, if none of the above.
    pub target: String,
    /// For `Approve`: the operation that is to be approved.
    pub approves: String,
    /// The request, if an approval may be bound to it.
    pub asked: Asked,
    /// The reason an admin gave. Becomes the record's detail if the outcome has none.
    pub reason: String,
}

impl Intent {
    /// An attempt of this caller, about nothing in particular yet.
    pub fn new(request_id: Uuid, arrived: Instant, operation: &'static str, caller: &Caller) -> Self {
        Self {
            request_id,
            arrived,
            user: caller.user.as_ref().map(|user| user.id.resource_name()).unwrap_or_default(),
            factor: caller.session.as_ref().and_then(|session| session.factor),
            device: caller.device.as_ref().map(|device| device.id.resource_name()).unwrap_or_default(),
            certificate: Some(caller.peer.certificate.sha256),
            ..Self::of_nobody(operation, caller.peer.ip)
        }
    }

    /// An attempt outside any call: a handshake, the set-up.
    pub fn of_nobody(operation: &'static str, ip: IpAddr) -> Self {
        Self {
            request_id: Uuid::now_v7(),
            arrived: Instant::now(),
            operation,
            user: String::new(),
            factor: None,
            device: String::new(),
            certificate: None,
            ip,
            key: None,
            wrapped_sha256: None,
            digest: String::new(),
            claims: None,
            target: String::new(),
            approves: String::new(),
            asked: Asked::NotKept,
            reason: String::new(),
        }
    }
}

/// An attempt that has begun and must be settled. Only the ledger makes one; settling consumes it.
///
/// Dropped without being settled (a panic), it is recorded as [`OUTCOME_UNKNOWN`].
pub struct Attempt {
    pub(in crate::ledger) intent: Arc<Intent>,
    pub(in crate::ledger) slot: Slot,
}

impl Attempt {
    /// Names the attempt to caller and auditor.
    pub fn request_id(&self) -> Uuid {
        self.intent.request_id
    }

    /// What is tried.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }
}

/// How an attempt ended, as far as everyone but the ledger is concerned.
#[expect(clippy::large_enum_variant, reason = "one for each attempt, built and taken apart at once")]
pub enum Outcome {
    /// Allowed, if the standing still holds when it is recorded.
    Granted(Grant),
    /// Not allowed, or it failed.
    Denied(Denial),
    /// A code of a second factor was wrong. It is counted against the intent's user.
    WrongCode(Denial),
    /// The token rejected the wrapped key. This costs the intent's user, device and key as much as an unwrapped one, and
    /// counts as a guess, so that guessing has its limits. Beyond them, the outcome is that of a good one: BUDGET_EXHAUSTED
    /// or UNWRAP_LOCKED (law 5).
    Rejected {
        /// WRAPPED_KEY_REJECTED, while the budgets last.
        denial: Denial,
        /// The limits that hold.
        budgets: Budgets,
    },
}

impl Outcome {
    /// The outcome of an operation that keeps its result back.
    pub fn of<T>(result: &Result<Withheld<T>, Denial>) -> Self {
        match result {
            Ok(withheld) => Self::Granted(Grant { standing: withheld.standing().clone(), change: None }),
            Err(denial) => Self::Denied(denial.clone()),
        }
    }

    /// What is to be changed.
    pub(in crate::ledger) fn change(&self) -> Option<&Change> {
        match self {
            Self::Granted(grant) => grant.change.as_ref(),
            Self::Denied(_) | Self::WrongCode(_) | Self::Rejected { .. } => None,
        }
    }
}

/// What is to be granted.
pub struct Grant {
    /// What must still be true.
    pub standing: Standing,
    /// What to change.
    pub change: Option<Change>,
}

/// The proof that an attempt is durably recorded as allowed. Only the ledger makes one.
///
/// ```compile_fail
/// let release = custodian::ledger::Release { sequence: 1 };
/// ```
pub struct Release {
    pub(in crate::ledger) sequence: u64,
}

impl Release {
    /// The record's sequence number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}
