//! Who may do what: devices, users, sessions, keys, and the [`Permit`] that follows from all of them together (law 3).

mod approval;
mod budget;
mod caller;
mod device;
mod factor;
mod floodgate;
mod groups;
mod guesses;
mod identity;
mod judge;
mod key;
mod key_life;
mod password;
mod permit;
mod policy;
mod sealing;
mod session;
mod strangers;
mod throttle;
mod totp;
mod user;

pub use approval::{
    Approval, ApprovalId, ApprovalRequest, ApprovalRules, ApprovalState, ApprovalUse, Asked, AskedRequest,
    Ending, LEAST_FOR_BREAK_GLASS, Vote, Waiting, Weight,
};
pub use budget::{
    Amounts, Budget, BudgetName, Budgets, Charge, Cost, Lift, Measure, Span, Spender, SpenderKind, Spenders,
    Tally, Window, room_of_all,
};
pub use caller::{Caller, Peer, PeerCertificate, PeerKind};
pub use device::{Device, DeviceId, DeviceState, Invitation, RevokedCertificate, SpkiHash, Why};
pub use factor::{FRESH_FACTOR, Factor, FactorProof, FactorRule, FactorState, RecoveryHash, WrongCodes};
pub use floodgate::Floodgate;
pub use groups::{BadGroups, Groups};
pub use guesses::{Guessed, Guesses, Lock};
pub use identity::{CertificateUse, Person, PersonCertificate, Revoked, Serial};
pub use judge::{Authority, Need, Rules};
pub use key::{KeyPurpose, KeyTask, SigningScheme, WrappingKey};
pub use key_life::{BadPeriods, Beginning, KeyLife, KeyState, KeyStep, WrapPeriod, WrongStep, next};
pub use password::Passwords;
pub use permit::{MayLack, Permit, Standing};
pub use policy::{Answer, Policy, PolicyError, PolicyText, Question, Verdict};
pub use sealing::{SealedSecret, SealingKey};
pub use session::{Session, SessionId};
pub use strangers::Strangers;
pub use throttle::{LoginRate, LoginRates, LoginThrottle, Throttled};
pub use totp::TotpSecret;
pub use user::{PasswordHash, PasswordState, Role, Roles, User, UserId};

/// An id of a device, a user or a label that does not keep the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an id has 1 to 63 characters: a-z, 0-9 and '-', for users also '.' and '_', and starts with a letter or digit"
)]
pub struct BadId;
