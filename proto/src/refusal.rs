//! Refusals: why the custodian said no. The codes are stable: programs and the audit log rely on them.

use std::fmt;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal, $hint:literal;)+) => {
        /// Why the custodian refused. Theirs, not ours: trying again unchanged will not help, except where noted.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Refusal {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable code, as in `google.rpc.ErrorInfo.reason` and in the log.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// One sentence for the person who asked.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What that person can do next.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)+ }
            }

            /// Reads a code. `None` if this version does not know it.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

refusals! {
    /// The TLS handshake failed: no certificate, or not one of the device CA.
    CertificateRefused = "CERTIFICATE_REFUSED",
        "the custodian does not accept this client certificate",
        "check CUSTODIAN_CERT and CUSTODIAN_KEY, or enrol this workstation: envelope enroll";
    /// The certificate is not yet or no longer valid.
    CertificateExpired = "CERTIFICATE_EXPIRED",
        "the device certificate is not valid at this time",
        "check this machine's clock, or enrol again: envelope enroll";
    /// A certificate of the CA that belongs to no device on the allow-list.
    DeviceUnknown = "DEVICE_UNKNOWN",
        "this workstation is not on the allow-list",
        "ask an administrator for an invitation, then: envelope enroll";
    /// Enrolled, but not activated yet.
    DeviceNotActive = "DEVICE_NOT_ACTIVE",
        "this workstation is enrolled but not activated yet",
        "ask an administrator to run: custodianctl device activate";
    /// Suspended.
    DeviceSuspended = "DEVICE_SUSPENDED",
        "this workstation is suspended",
        "ask an administrator why";
    /// Revoked, for good.
    DeviceRevoked = "DEVICE_REVOKED",
        "this workstation is revoked",
        "ask an administrator; a revoked workstation must be enrolled anew under another id";
    /// Unknown user, wrong password or disabled user: outside, one answer.
    LoginFailed = "LOGIN_FAILED",
        "user or password is wrong",
        "check both and log in again: envelope login";
    /// Too many logins for this user or device. Waiting helps.
    LoginThrottled = "LOGIN_THROTTLED",
        "too many logins in a short time",
        "wait and try again";
    /// No session, an ended one, or one of another certificate.
    NotLoggedIn = "NOT_LOGGED_IN",
        "there is no valid session on this workstation",
        "log in: envelope login";
    /// The user was disabled after signing in.
    UserDisabled = "USER_DISABLED",
        "this user is disabled",
        "ask an administrator";
    /// Somebody else set the password, and it must be changed before anything else.
    PasswordMustChange = "PASSWORD_MUST_CHANGE",
        "your password was set by somebody else: change it first",
        "envelope passwd";
    /// A second factor shown a moment ago would allow it.
    StepUpRequired = "STEP_UP_REQUIRED",
        "this needs a fresh code of your authenticator app",
        "give one: envelope totp verify, or --totp-file";
    /// A second factor would allow it, and there is none.
    FactorMissing = "FACTOR_MISSING",
        "this needs a second factor, and you have none yet",
        "envelope totp enroll";
    /// A wrong code, or one that was used.
    FactorRefused = "FACTOR_REFUSED",
        "the code is wrong, or was used already",
        "wait for the next code of your authenticator app, and check that machine's clock";
    /// Too many wrong codes. Waiting helps.
    FactorLocked = "FACTOR_LOCKED",
        "after too many wrong codes, your second factor is locked for a while",
        "wait, or ask an administrator: custodianctl user reset-factor";
    /// The user's roles do not allow the operation.
    RoleMissing = "ROLE_MISSING",
        "your roles do not allow this",
        "ask an administrator for the role, or use another account";
    /// The organisation's policy does not allow it.
    PolicyDenied = "POLICY_DENIED",
        "the policy does not allow this",
        "ask an administrator, who can see in the log which policy it was";
    /// Others must approve it first. Then the same request passes, once.
    ApprovalRequired = "APPROVAL_REQUIRED",
        "this needs the approval of others",
        "ask an administrator: custodianctl approval ls; once it is approved, do the same again";
    /// Somebody denied this very request.
    ApprovalDenied = "APPROVAL_DENIED",
        "the approval of this request was denied",
        "see by whom and why: custodianctl approval ls --all";
    /// The approval was not used, or not given, in time.
    ApprovalExpired = "APPROVAL_EXPIRED",
        "this approval has expired",
        "make the same request again: it asks for a new one";
    /// The approval was used already.
    ApprovalUsed = "APPROVAL_USED",
        "this approval was used already",
        "make the same request again: it asks for a new one";
    /// Who asked took the request back.
    ApprovalWithdrawn = "APPROVAL_WITHDRAWN",
        "this request was withdrawn by who made it",
        "whoever needs it makes the same request again: it asks for a new approval";
    /// Nobody but who asked can take a request back.
    NotOwnRequest = "NOT_OWN_REQUEST",
        "only who made this request can withdraw it",
        "an administrator can stop it: custodianctl approval deny";
    /// Nobody approves what they asked for themselves.
    OwnRequest = "OWN_REQUEST",
        "nobody can approve their own request",
        "ask another administrator";
    /// Too many requests of this user wait for approval.
    TooManyPending = "TOO_MANY_PENDING",
        "too many of your requests wait for approval",
        "have some of them approved or denied: custodianctl approval ls";
    /// The policy changed between the decision and its record. Trying again helps.
    PolicyChanged = "POLICY_CHANGED",
        "the policy changed while this was done",
        "try again";
    /// No such wrapping key in the custodian.
    KeyUnknown = "KEY_UNKNOWN",
        "the custodian has no such wrapping key",
        "check with envelope inspect which keys the file is sealed to";
    /// The wrapping key is suspended.
    KeySuspended = "KEY_SUSPENDED",
        "this wrapping key is suspended",
        "ask an administrator why";
    /// The wrapping key is pre-active: it waits for its date or for an administrator.
    KeyNotActive = "KEY_NOT_ACTIVE",
        "this wrapping key is not active yet",
        "ask an administrator when it will be";
    /// The period in which the wrapping key unwraps has ended.
    KeyExpired = "KEY_EXPIRED",
        "the period in which this wrapping key unwraps has ended",
        "ask an administrator whether it can be extended: custodianctl key limit";
    /// The wrapping key is compromised: stopped for good.
    KeyCompromised = "KEY_COMPROMISED",
        "this wrapping key is compromised, and stopped for good",
        "ask the sender for the file, sealed to another key";
    /// The wrapping key is destroyed.
    KeyDestroyed = "KEY_DESTROYED",
        "this wrapping key is destroyed",
        "ask the sender for the file, sealed to another key";
    /// The key is deactivated: an older version, or its period is over.
    KeyDeactivated = "KEY_DEACTIVATED",
        "this key is deactivated: nothing new is signed with it or sealed to it",
        "use the newest version of the key: custodianctl key ls";
    /// The key was made for another purpose (NIST SP 800-57 part 1 §5.2).
    WrongKeyUse = "WRONG_KEY_USE",
        "this key was made for something else, and does nothing but that",
        "see what each key is for: custodianctl key ls";
    /// Anything that does not unwrap to a file key (laws 4 and 5).
    WrappedKeyRejected = "WRAPPED_KEY_REJECTED",
        "the wrapped key cannot be unwrapped",
        "the file is damaged, or was not sealed to this key";
    /// A budget of the user, the device or the key has no room for it. Waiting helps: the message says until when.
    BudgetExhausted = "BUDGET_EXHAUSTED",
        "a budget of unwraps is used up",
        "wait until then, or ask an administrator for more: custodianctl budget lift";
    /// Too many wrapped keys of this user on this device did not unwrap. Waiting helps: the message says until when.
    UnwrapLocked = "UNWRAP_LOCKED",
        "too many wrapped keys that came from you on this workstation did not unwrap",
        "wait until then, and check the files with envelope inspect; an administrator can help earlier: custodianctl budget unlock";
    /// A wrong, used or expired enrolment code.
    EnrollmentRefused = "ENROLLMENT_REFUSED",
        "the enrolment code is wrong, used or expired",
        "ask an administrator for a new invitation";
    /// No administrator has recorded who the user is.
    IdentityUnknown = "IDENTITY_UNKNOWN",
        "the custodian has no e-mail address of this user",
        "ask an administrator: custodianctl user identity set";
    /// The message itself makes no sense.
    InvalidArgument = "INVALID_ARGUMENT",
        "the request is not valid",
        "check the arguments";
    /// No device, user or key of that name.
    NotFound = "NOT_FOUND",
        "there is nothing of that name",
        "list what there is";
    /// The id is taken.
    AlreadyExists = "ALREADY_EXISTS",
        "that id is in use",
        "choose another";
    /// The state does not allow the change: a revoked device cannot be activated.
    StateConflict = "STATE_CONFLICT",
        "its present state does not allow that",
        "look at the state first";
    /// No other token would serve a key that is in use.
    LastToken = "LAST_TOKEN",
        "no other token would serve some of the keys",
        "bring another token back first: custodianctl token ls; or stop the use of these keys: --even-if-last";
    /// Too much at once. Waiting a little helps.
    Overloaded = "OVERLOADED",
        "the custodian is busy",
        "try again in a moment";
    /// Of a batch, the next item did not come, or the next answer was not read. Asking again for what has no answer helps.
    TooSlow = "TOO_SLOW",
        "the next item did not come, or the next answer was not read, in time",
        "ask again for what was not answered";
    /// The custodian ends: what has not begun is not begun any more. Waiting helps.
    Stopping = "STOPPING",
        "the custodian is being stopped",
        "try again in a moment; if it lasts, tell the administrators";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.code())
    }
}

impl std::error::Error for Refusal {}

/// The codes of faults: ours, not theirs. Waiting helps.
pub mod fault {
    /// The token does not answer.
    pub const TOKEN_UNAVAILABLE: &str = "TOKEN_UNAVAILABLE";
    /// The ledger cannot record.
    pub const LEDGER_UNAVAILABLE: &str = "LEDGER_UNAVAILABLE";
    /// Something that should not happen; the incident id leads to the custodian's own log.
    pub const INTERNAL: &str = "INTERNAL";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal.code()), Some(*refusal));
        }
        assert_eq!(Refusal::from_code("NO_SUCH_CODE"), None);
    }
}
