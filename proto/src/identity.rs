//! How well it was checked who somebody is: identity levels, as policies in certificates (RFC 5280 §4.2.1.4).
//!
//! The custodian's CA writes them, and whoever verifies a signature reads them. A level is worth as much as the CA that
//! wrote it: readers look at it only in certificates of a CA that they were told to trust.

use std::{fmt, str::FromStr};

/// The arc of this project's object identifiers. It stands for the random UUID `aa385d17-2149-44e5-9c1e-9e231bc39137`,
/// cut into numbers of at most 24 bits: the scheme of 1.2.840.113556.1.8000.2554, beneath which anybody may do so
/// without asking. The other scheme for UUIDs, 2.25, makes one number of 128 bits, which many programs cannot read
/// (`const-oid` and so all of RustCrypto, by intention).
pub const ARC: &str = "1.2.840.113556.1.8000.2554.43576.23831.8521.17637.39966.10363675.12816695";

/// How well it was checked who somebody is. Each level includes the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IdentityLevel {
    /// The person reads what is sent to the e-mail address.
    V1,
    /// An administrator knows the person: the account was made for somebody on the organisation's books.
    V2,
    /// The person showed an identity document, to somebody or to a service that checks it.
    V3,
    /// The person came in person, with an identity document, and two administrators saw it.
    V4,
}

impl IdentityLevel {
    /// All, the weakest first.
    pub const ALL: [Self; 4] = [Self::V1, Self::V2, Self::V3, Self::V4];

    /// The policy that stands for it in a certificate: [`ARC`], 1 for identity levels, and its number.
    pub fn policy_oid(self) -> &'static str {
        match self {
            Self::V1 => "1.2.840.113556.1.8000.2554.43576.23831.8521.17637.39966.10363675.12816695.1.1",
            Self::V2 => "1.2.840.113556.1.8000.2554.43576.23831.8521.17637.39966.10363675.12816695.1.2",
            Self::V3 => "1.2.840.113556.1.8000.2554.43576.23831.8521.17637.39966.10363675.12816695.1.3",
            Self::V4 => "1.2.840.113556.1.8000.2554.43576.23831.8521.17637.39966.10363675.12816695.1.4",
        }
    }

    /// The level that a policy stands for, in dotted form; `None` for other policies.
    pub fn from_policy_oid(oid: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.policy_oid() == oid)
    }

    /// What was checked, for a person.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::V1 => "the e-mail address was checked",
            Self::V2 => "known to the organisation",
            Self::V3 => "showed an identity document",
            Self::V4 => "came in person, with an identity document",
        }
    }
}

impl fmt::Display for IdentityLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
            Self::V3 => "V3",
            Self::V4 => "V4",
        })
    }
}

/// The text is no identity level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is none of V1, V2, V3, V4")]
pub struct NotALevel;

impl FromStr for IdentityLevel {
    type Err = NotALevel;

    fn from_str(text: &str) -> Result<Self, NotALevel> {
        Self::ALL.into_iter().find(|level| level.to_string().eq_ignore_ascii_case(text)).ok_or(NotALevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_told_apart_by_their_policies() {
        for level in IdentityLevel::ALL {
            assert!(level.policy_oid().starts_with(ARC));
            assert_eq!(IdentityLevel::from_policy_oid(level.policy_oid()), Some(level));
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!(IdentityLevel::ALL.is_sorted());
        assert_eq!(IdentityLevel::from_policy_oid(ARC), None);
        assert_eq!("V5".parse::<IdentityLevel>(), Err(NotALevel));
    }
}
