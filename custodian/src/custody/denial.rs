//! Why an attempt gave nothing.

use custodian_proto::refusal::{self, Refusal};
use jiff::Timestamp;

use crate::{
    authority::{ApprovalRequest, BudgetName, Waiting},
    pki::PkiError,
};

/// An attempt that gave nothing: refused (theirs) or failed (ours).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Theirs. The caller learns the refusal; `detail` is for the log alone.
    #[error("{refusal}")]
    Refused {
        /// What the caller is told.
        refusal: Refusal,
        /// What the auditor is told beyond that: which field, which of several causes.
        detail: String,
    },
    /// Theirs, until others have approved it.
    #[error("{}", Refusal::ApprovalRequired)]
    Unapproved(Box<Unapproved>),
    /// Theirs, for a time.
    #[error("{0}")]
    Paused(Box<Pause>),
    /// Ours.
    #[error(transparent)]
    Failed(#[from] Fault),
}

/// A request that waits for the approval of others. The ledger keeps it when it records the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unapproved {
    /// What is asked for.
    pub request: ApprovalRequest,
    /// The approval it waits for: known once it is kept.
    pub waiting: Option<Waiting>,
    /// What the auditor is told.
    detail: String,
}

impl Unapproved {
    /// The denial of a request that is not kept yet.
    pub fn by(request: ApprovalRequest) -> Denial {
        let detail = format!("needs the approval of {}", request.needed);
        Denial::Unapproved(Box::new(Self { request, waiting: None, detail }))
    }

    /// The denial of a request that is kept, and waits for this approval.
    pub fn waiting(request: ApprovalRequest, waiting: Waiting) -> Denial {
        let Waiting { id, needed, given } = waiting;
        let detail = format!("waits for {}: {given} of {needed} have approved", id.resource_name());
        Denial::Unapproved(Box::new(Self { request, waiting: Some(waiting), detail }))
    }
}

impl Denial {
    /// The code as it stands in the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { refusal, .. } => refusal.code(),
            Self::Unapproved(_) => Refusal::ApprovalRequired.code(),
            Self::Paused(pause) => pause.refusal.code(),
            Self::Failed(fault) => fault.code(),
        }
    }

    /// The part that only the log learns.
    pub fn detail(&self) -> &str {
        match self {
            Self::Refused { detail, .. } => detail,
            Self::Unapproved(unapproved) => &unapproved.detail,
            Self::Paused(pause) => &pause.detail,
            Self::Failed(fault) => fault.detail(),
        }
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal, detail: String::new() }
    }
}

impl From<PkiError> for Denial {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::Token(error) => error.into(),
            PkiError::Invalid(why) => Fault::Internal(why).into(),
        }
    }
}

/// A refusal that ends by itself. Of this one the caller learns the detail, too: it is about the caller's own doings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({code})", code = refusal.code())]
pub struct Pause {
    /// What the caller is told.
    pub refusal: Refusal,
    /// The first moment at which it is over, if nothing more happens until then.
    pub until: Timestamp,
    /// What it is, and until when.
    pub detail: String,
    /// The budget that is used up, if it is one.
    pub budget: Option<BudgetName>,
}

impl From<Pause> for Denial {
    fn from(pause: Pause) -> Self {
        Self::Paused(Box::new(pause))
    }
}

/// Something of ours does not work. The detail goes to the log, not to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No worker could answer within the deadline.
    #[error("the token does not answer: {0}")]
    TokenUnavailable(String),
    /// The ledger could not commit within its deadline (law 1: then nothing leaves).
    #[error("the ledger cannot record: {0}")]
    LedgerUnavailable(String),
    /// A defect.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl Fault {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenUnavailable(_) => refusal::fault::TOKEN_UNAVAILABLE,
            Self::LedgerUnavailable(_) => refusal::fault::LEDGER_UNAVAILABLE,
            Self::Internal(_) => refusal::fault::INTERNAL,
        }
    }

    /// What happened, for the log.
    pub fn detail(&self) -> &str {
        match self {
            Self::TokenUnavailable(detail) | Self::LedgerUnavailable(detail) | Self::Internal(detail) => {
                detail
            }
        }
    }
}
