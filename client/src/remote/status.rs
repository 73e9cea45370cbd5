//! The one table that turns a gRPC status into what a person reads.

use std::time::Duration;

use custodian_proto::{
    ERROR_DOMAIN,
    refusal::{Refusal, fault},
};
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

use crate::error::{Error, Kind};

/// A failed call: what a person reads, and which refusal it was if the custodian refused.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) refusal: Option<Refusal>,
    /// The approval that must be given first.
    pub(super) waits_for: Option<Box<WaitsFor>>,
}

/// An approval that a refused call waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WaitsFor {
    /// `approvals/17`
    pub(super) name: String,
    /// How many others must approve.
    pub(super) needed: String,
}

impl WaitsFor {
    /// What an administrator gives on the command line.
    pub(super) fn id(&self) -> &str {
        self.name.strip_prefix("approvals/").unwrap_or(&self.name)
    }

    fn of(info: &ErrorInfo) -> Option<Self> {
        let of = |name| info.metadata.get(name).cloned();
        Some(Self { name: of("approval")?, needed: of("needed")? })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, refusal: None, waits_for: None }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Reads `google.rpc.ErrorInfo`, `RequestInfo` and `RetryInfo`.
pub(super) fn failure(what: &str, status: &Status) -> Failure {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
    let reason = info.map(|info| info.reason.as_str());
    let request = details.request_info().map(|request| request.request_id.as_str());
    let wait = details.retry_info().and_then(|retry| retry.retry_delay);
    let refusal = reason.and_then(Refusal::from_code);
    let waits_for = info.filter(|_| refusal == Some(Refusal::ApprovalRequired)).and_then(WaitsFor::of);
    let waits_for = waits_for.map(Box::new);

    let (kind, text, hint) = match (refusal, reason) {
        // The message says what about the request is wrong.
        (Some(refusal @ Refusal::InvalidArgument), _) if status.message() != refusal.text() => {
            (kind_of(refusal), format!("{}: {}", refusal.text(), status.message()), refusal.hint())
        }
        // The message says how many have approved.
        (Some(refusal @ Refusal::ApprovalRequired), _) if waits_for.is_some() => {
            (kind_of(refusal), status.message().to_owned(), refusal.hint())
        }
        // The message says which budget, and until when.
        (Some(refusal @ (Refusal::BudgetExhausted | Refusal::UnwrapLocked)), _) => {
            let why = if status.message().is_empty() { refusal.text() } else { status.message() };
            (kind_of(refusal), why.to_owned(), refusal.hint())
        }
        (Some(refusal), _) => (kind_of(refusal), refusal.text().to_owned(), refusal.hint()),
        (None, Some(reason)) => of_fault(reason).unwrap_or_else(|| of_code(status)),
        (None, None) => of_code(status),
    };
    let mut marks: Vec<String> = reason.map(str::to_owned).into_iter().collect();
    marks.extend(request.map(|id| format!("request {id}")));
    let why = if marks.is_empty() { text } else { format!("{text} ({})", marks.join(", ")) };
    let hint = match (wait, &waits_for) {
        (Some(wait), _) => format!("{hint}; wait {}", in_words(wait)),
        (None, Some(waits_for)) => approve_first(waits_for),
        (None, None) => hint.to_owned(),
    };
    Failure { error: Error::new(kind, what, why).hint(hint), refusal, waits_for }
}

/// What to do about a request that waits for approval.
pub(super) fn approve_first(waits_for: &WaitsFor) -> String {
    let WaitsFor { name, needed } = waits_for;
    let id = waits_for.id();
    format!(
        "it waits as {name} ({needed} needed): have other administrators run: custodianctl approval approve {id}; then do the \
         very same again, or wait for them with --wait"
    )
}

/// What a refusal is to the one who waits for an exit code.
fn kind_of(refusal: Refusal) -> Kind {
    match refusal {
        // It is the file that is bad, as with any other damage to it. Nothing was released.
        Refusal::WrappedKeyRejected => Kind::Integrity,
        // It cannot serve now: the same command works in a moment.
        Refusal::Overloaded | Refusal::PolicyChanged | Refusal::TooSlow | Refusal::Stopping => {
            Kind::Unreachable
        }
        Refusal::ApprovalRequired => Kind::WaitsForApproval,
        Refusal::CertificateRefused
        | Refusal::CertificateExpired
        | Refusal::DeviceUnknown
        | Refusal::DeviceNotActive
        | Refusal::DeviceSuspended
        | Refusal::DeviceRevoked
        | Refusal::LoginFailed
        | Refusal::LoginThrottled
        | Refusal::NotLoggedIn
        | Refusal::UserDisabled
        | Refusal::PasswordMustChange
        | Refusal::StepUpRequired
        | Refusal::FactorMissing
        | Refusal::FactorRefused
        | Refusal::FactorLocked
        | Refusal::RoleMissing
        | Refusal::PolicyDenied
        | Refusal::KeyUnknown
        | Refusal::KeySuspended
        | Refusal::KeyNotActive
        | Refusal::KeyExpired
        | Refusal::KeyCompromised
        | Refusal::KeyDestroyed
        | Refusal::KeyDeactivated
        | Refusal::WrongKeyUse
        | Refusal::BudgetExhausted
        | Refusal::UnwrapLocked
        | Refusal::EnrollmentRefused
        | Refusal::InvalidArgument
        | Refusal::NotFound
        | Refusal::AlreadyExists
        | Refusal::LastToken
        | Refusal::ApprovalDenied
        | Refusal::ApprovalExpired
        | Refusal::ApprovalUsed
        | Refusal::ApprovalWithdrawn
        | Refusal::IdentityUnknown
        | Refusal::NotOwnRequest
        | Refusal::OwnRequest
        | Refusal::TooManyPending
        | Refusal::StateConflict => Kind::Refused,
    }
}

fn of_fault(code: &str) -> Option<(Kind, String, &'static str)> {
    let again = "try again in a moment; if it lasts, tell the administrators";
    let (text, hint) = match code {
        fault::TOKEN_UNAVAILABLE => ("the custodian's token does not answer", again),
        fault::LEDGER_UNAVAILABLE => ("the custodian cannot record, so it releases nothing", again),
        fault::INTERNAL => {
            ("something is wrong inside the custodian", "tell the administrators the request id")
        }
        _ => return None,
    };
    Some((Kind::Unreachable, text.to_owned(), hint))
}

/// Without a reason that we know, all there is to go by is the code.
fn of_code(status: &Status) -> (Kind, String, &'static str) {
    let text = |fallback: &str| match status.message() {
        "" => fallback.to_owned(),
        message => message.to_owned(),
    };
    match status.code() {
        Code::Unimplemented => (
            Kind::Local,
            "the custodian does not know this call".to_owned(),
            "it may be older than this program: compare envelope --version with custodianctl status",
        ),
        Code::PermissionDenied | Code::Unauthenticated => {
            (Kind::Refused, text("the custodian refused"), "ask an administrator")
        }
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => {
            (Kind::Refused, text("the custodian refused"), "check the arguments")
        }
        code => {
            let why = text(code.description());
            (Kind::Unreachable, why, "try again in a moment; if it lasts, tell the administrators")
        }
    }
}

/// Rounded up.
fn in_words(wait: Duration) -> String {
    let seconds = wait.as_millis().div_ceil(1000);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn refused(reason: &str, code: Code) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
        details.set_request_info("0192-request", "");
        details.set_retry_info(Some(Duration::from_millis(1500)));
        Status::with_error_details(code, "message", details)
    }

    #[test]
    fn every_refusal_has_text_code_hint_request_and_exit_code() {
        for refusal in Refusal::ALL {
            let failure = failure("cannot open x", &refused(refusal.code(), Code::PermissionDenied));
            let error = &failure.error;
            assert_eq!(failure.refusal, Some(*refusal));
            let text = match refusal {
                Refusal::BudgetExhausted | Refusal::UnwrapLocked => "message",
                refusal => refusal.text(),
            };
            for part in [text, refusal.code(), "0192-request"] {
                assert!(error.why.contains(part), "{refusal:?}: {} lacks {part}", error.why);
            }
            assert!(error.hint.contains(refusal.hint()) && error.hint.contains("wait 2 s"), "{}", error.hint);
            assert!([3, 4, 5, 6].contains(&error.kind.exit_code()), "{refusal:?}");
        }
        let exit = |reason| failure("", &refused(reason, Code::Unknown)).error.kind.exit_code();
        assert_eq!(exit("DEVICE_REVOKED"), 3);
        assert_eq!(exit("BUDGET_EXHAUSTED"), 3);
        assert_eq!(exit("WRAPPED_KEY_REJECTED"), 5);
        assert_eq!(exit("OVERLOADED"), 6);
        assert_eq!(exit("APPROVAL_REQUIRED"), 4);
    }

    #[test]
    fn a_request_that_waits_says_for_what_and_what_to_type() {
        let pairs = [("approval", "approvals/17"), ("needed", "2"), ("given", "1")];
        let metadata = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let details = ErrorDetails::with_error_info(
            "APPROVAL_REQUIRED",
            ERROR_DOMAIN,
            metadata.collect::<HashMap<_, _>>(),
        );
        let status =
            Status::with_error_details(Code::FailedPrecondition, "needs: 1 of 2 have approved", details);
        let failure = failure("cannot apply the policy", &status);
        assert_eq!(failure.error.kind.exit_code(), 4);
        assert!(
            failure.error.why.contains("1 of 2 have approved (APPROVAL_REQUIRED"),
            "{}",
            failure.error.why
        );
        for part in ["approvals/17", "(2 needed)", "custodianctl approval approve 17", "--wait"] {
            assert!(failure.error.hint.contains(part), "{}", failure.error.hint);
        }
        assert_eq!(failure.waits_for.unwrap().id(), "17");
    }

    #[test]
    fn a_wait_is_told_in_words_that_fit() {
        let told = [1, 119, 120, 121, 3_599, 7_199, 7_200, 86_400].map(Duration::from_secs).map(in_words);
        assert_eq!(told, ["1 s", "119 s", "2 min", "3 min", "60 min", "120 min", "2 h", "24 h"]);
        assert_eq!(in_words(Duration::from_millis(1_001)), "2 s");
    }

    #[test]
    fn faults_are_not_the_callers_fault() {
        for code in [fault::TOKEN_UNAVAILABLE, fault::LEDGER_UNAVAILABLE, fault::INTERNAL] {
            let failure = failure("cannot open x", &refused(code, Code::Unavailable));
            assert_eq!(failure.error.kind, Kind::Unreachable);
            assert_eq!(failure.refusal, None);
            assert!(failure.error.why.contains(code) && failure.error.why.contains("0192-request"));
        }
    }

    #[test]
    fn a_reason_of_a_later_version_still_says_what_it_can() {
        let failure = failure("cannot open x", &refused("MOON_IN_WRONG_PHASE", Code::PermissionDenied));
        assert_eq!(failure.error.kind, Kind::Refused);
        assert_eq!(failure.error.why, "message (MOON_IN_WRONG_PHASE, request 0192-request)");
    }

    #[test]
    fn reasons_of_another_domain_are_not_taken_for_ours() {
        let details = ErrorDetails::with_error_info("NOT_LOGGED_IN", "elsewhere.example", HashMap::new());
        let failure = failure("x", &Status::with_error_details(Code::Unavailable, "proxy", details));
        assert_eq!((failure.refusal, failure.error.kind), (None, Kind::Unreachable));
    }
}
