//! The only table from refusals and faults to what strangers learn.

use std::{collections::HashMap, time::Duration};

use custodian_proto::{ERROR_DOMAIN, refusal::Refusal};
use jiff::Timestamp;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use crate::{
    authority::Waiting,
    custody::{Denial, Fault, Unapproved},
};

/// The status of a denied call: code, one sentence, and the details ErrorInfo, RequestInfo and RetryInfo.
pub fn to_status(denial: &Denial, request_id: Uuid) -> Status {
    let (code, message, retry) = match denial {
        // The detail is about the caller's own message, and helps nobody else.
        Denial::Refused { refusal: Refusal::InvalidArgument, detail } if !detail.is_empty() => {
            (Code::InvalidArgument, detail.clone(), None)
        }
        Denial::Unapproved(unapproved) => {
            (code(Refusal::ApprovalRequired), told(unapproved), retry(Refusal::ApprovalRequired))
        }
        Denial::Refused { refusal, .. } => (code(*refusal), refusal.text().to_owned(), retry(*refusal)),
        Denial::Paused(pause) => (code(pause.refusal), pause.detail.clone(), Some(from_now(pause.until))),
        Denial::Failed(fault) => {
            tracing::error!(%request_id, "{fault}");
            faulty(fault)
        }
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(denial.code(), ERROR_DOMAIN, facts(denial));
    details.set_request_info(request_id.to_string(), "");
    if let Some(delay) = retry {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code, message, details)
}

/// How many others must approve, and how many have.
fn told(unapproved: &Unapproved) -> String {
    let text = Refusal::ApprovalRequired.text();
    match unapproved.waiting {
        Some(Waiting { given, needed, .. }) => format!("{text}: {given} of {needed} have approved"),
        None => text.to_owned(),
    }
}

fn code(refusal: Refusal) -> Code {
    match refusal {
        Refusal::CertificateRefused
        | Refusal::CertificateExpired
        | Refusal::LoginFailed
        | Refusal::NotLoggedIn => Code::Unauthenticated,
        Refusal::DeviceUnknown
        | Refusal::DeviceNotActive
        | Refusal::DeviceSuspended
        | Refusal::DeviceRevoked
        | Refusal::UserDisabled
        | Refusal::PasswordMustChange
        | Refusal::StepUpRequired
        | Refusal::FactorMissing
        | Refusal::FactorRefused
        | Refusal::FactorLocked
        | Refusal::RoleMissing
        | Refusal::PolicyDenied
        | Refusal::ApprovalDenied
        | Refusal::OwnRequest
        | Refusal::NotOwnRequest
        | Refusal::EnrollmentRefused => Code::PermissionDenied,
        Refusal::LoginThrottled
        | Refusal::BudgetExhausted
        | Refusal::UnwrapLocked
        | Refusal::Overloaded
        | Refusal::TooManyPending => Code::ResourceExhausted,
        Refusal::KeyUnknown | Refusal::NotFound => Code::NotFound,
        Refusal::KeySuspended
        | Refusal::KeyNotActive
        | Refusal::KeyExpired
        | Refusal::KeyCompromised
        | Refusal::KeyDestroyed
        | Refusal::KeyDeactivated
        | Refusal::WrongKeyUse
        | Refusal::StateConflict
        | Refusal::ApprovalRequired
        | Refusal::ApprovalExpired
        | Refusal::ApprovalUsed
        | Refusal::ApprovalWithdrawn
        | Refusal::IdentityUnknown
        | Refusal::LastToken => Code::FailedPrecondition,
        Refusal::WrappedKeyRejected | Refusal::InvalidArgument => Code::InvalidArgument,
        Refusal::AlreadyExists => Code::AlreadyExists,
        Refusal::TooSlow => Code::DeadlineExceeded,
        Refusal::Stopping => Code::Unavailable,
        // The very code of a transaction that met another (AIP-193).
        Refusal::PolicyChanged => Code::Aborted,
    }
}

/// How long to wait before trying the same again, where waiting helps.
fn retry(refusal: Refusal) -> Option<Duration> {
    match refusal {
        Refusal::LoginThrottled => Some(Duration::from_secs(10)),
        Refusal::PolicyChanged => Some(Duration::from_millis(50)),
        Refusal::Overloaded => Some(Duration::from_millis(500)),
        Refusal::Stopping => Some(Duration::from_secs(5)),
        _ => None,
    }
}

fn from_now(until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default()
}

/// What a program can learn without reading the text: of a pause `until` (RFC 3339) and which `budget`; of a request that waits
/// which `approval`, and how many of how many were given.
fn facts(denial: &Denial) -> HashMap<String, String> {
    let facts = match denial {
        Denial::Paused(pause) => {
            let budget = pause.budget.as_ref().map(|budget| ("budget", budget.to_string()));
            [("until", pause.until.to_string())].into_iter().chain(budget).collect()
        }
        Denial::Unapproved(unapproved) => match unapproved.waiting {
            Some(Waiting { id, needed, given }) => vec![
                ("approval", id.resource_name()),
                ("needed", needed.to_string()),
                ("given", given.to_string()),
            ],
            None => vec![],
        },
        Denial::Refused { .. } | Denial::Failed(_) => vec![],
    };
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn faulty(fault: &Fault) -> (Code, String, Option<Duration>) {
    match fault {
        Fault::TokenUnavailable(_) => {
            (Code::Unavailable, "the token does not answer".into(), Some(Duration::from_secs(1)))
        }
        Fault::LedgerUnavailable(_) => {
            (Code::Unavailable, "the ledger cannot record now".into(), Some(Duration::from_secs(1)))
        }
        Fault::Internal(_) => (Code::Internal, "something went wrong in the custodian".into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_5_a_rejected_key_looks_the_same_whatever_the_cause() {
        let id = Uuid::nil();
        let plain = to_status(&Refusal::WrappedKeyRejected.into(), id);
        let detail = Denial::Refused { refusal: Refusal::WrappedKeyRejected, detail: "bad padding".into() };
        let detailed = to_status(&detail, id);
        assert_eq!(plain.code(), detailed.code());
        assert_eq!(plain.message(), detailed.message());
        assert_eq!(plain.details(), detailed.details());
    }

    #[test]
    fn faults_do_not_tell_strangers_why() {
        for fault in [Fault::TokenUnavailable, Fault::LedgerUnavailable, Fault::Internal] {
            let status = to_status(&fault("/secret/path".into()).into(), Uuid::nil());
            assert!(!status.message().contains("/secret/path"));
            assert!(!String::from_utf8_lossy(status.details()).contains("/secret/path"));
        }
    }

    #[test]
    fn every_status_names_its_reason_and_request() {
        for refusal in Refusal::ALL {
            let status = to_status(&Denial::from(*refusal), Uuid::nil());
            let details = status.get_error_details();
            assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some(refusal.code()));
            assert_eq!(
                details.request_info().map(|info| info.request_id.clone()),
                Some(Uuid::nil().to_string())
            );
        }
    }
}
