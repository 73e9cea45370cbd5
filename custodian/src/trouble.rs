//! What an operator reads when the custodian cannot start or be set up.

use std::fmt;

/// What failed, why, and what to try next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    what: String,
    why: String,
    hint: String,
}

impl Trouble {
    /// What failed, and why.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string(), hint: String::new() }
    }

    /// With the next thing to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}: {}", self.what, self.why)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  try: {}", self.hint) }
    }
}

impl std::error::Error for Trouble {}
