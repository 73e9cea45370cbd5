//! What a person reads when something did not work: what failed, why, and what to try next.

use std::fmt;

/// What kind of failure it is; decides the exit code of both tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Something on this machine: a file, a full disk, an envelope we cannot read.
    Local,
    /// The command was typed wrongly.
    Usage,
    /// The custodian said no.
    Refused,
    /// The custodian waits for somebody's approval.
    WaitsForApproval,
    /// The envelope is damaged or was tampered with. Nothing was released.
    Integrity,
    /// No custodian answered, or it cannot serve now.
    Unreachable,
    /// Ctrl-C.
    Interrupted,
}

impl Kind {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Local => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::WaitsForApproval => 4,
            Self::Integrity => 5,
            Self::Unreachable => 6,
            Self::Interrupted => 130,
        }
    }
}

/// A failure, told to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind it is.
    pub kind: Kind,
    /// What failed: `cannot open report.mtd`.
    pub what: String,
    /// Why: `permission denied`.
    pub why: String,
    /// The next thing to try; may be empty.
    pub hint: String,
}

impl Error {
    /// A failure of this kind, with its cause.
    pub fn new(kind: Kind, what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { kind, what: what.into(), why: why.to_string(), hint: String::new() }
    }

    /// With the next thing to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Error {}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
