//! E-mail addresses as they stand in certificates: rfc822Name (RFC 5280 §4.2.1.6), ASCII only.

use std::{fmt, str::FromStr};

/// RFC 5321 §4.5.3.1.3, without the angle brackets.
const MAX_LEN: usize = 254;
const MAX_LOCAL_LEN: usize = 64;
const MAX_LABEL_LEN: usize = 63;

/// An e-mail address: a dot-atom, `@`, and a DNS name (RFC 5321 §4.1.2, without quoted strings and address literals).
///
/// Two that differ in upper and lower case are the same one: RFC 5321 lets a host tell them apart, and none does; a person
/// would not either.
#[derive(Clone, Debug)]
pub struct Email(String);

impl Email {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In small letters: the same for all that are the same.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl PartialEq for Email {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Email {}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no e-mail address that can stand in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no e-mail address such as alice@example.org (ASCII, at most 254 characters)")]
pub struct NotAnEmail;

impl FromStr for Email {
    type Err = NotAnEmail;

    fn from_str(text: &str) -> Result<Self, NotAnEmail> {
        let (local, domain) = text.split_once('@').ok_or(NotAnEmail)?;
        // RFC 5322 §3.2.3.
        let is_atom = |atom: &str| {
            !atom.is_empty()
                && atom
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
        };
        let is_label = |label: &str| {
            (1..=MAX_LABEL_LEN).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let fits = text.len() <= MAX_LEN
            && local.len() <= MAX_LOCAL_LEN
            && local.split('.').all(is_atom)
            && domain.split('.').all(is_label);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAnEmail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_the_rules() {
        for good in ["a@b", "alice@example.org", "Alice.O'Hara+x@Mail.Example.ORG", "a@xn--bcher-kva.example"]
        {
            assert_eq!(good.parse::<Email>().map(|email| email.to_string()), Ok(good.to_owned()));
        }
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long_label = format!("a@{}.org", "b".repeat(64));
        let long = format!("a@{}org", "b.".repeat(130));
        for bad in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@b@c",
            "a..b@c",
            ".a@c",
            "a b@c",
            "a@b..c",
            "a@-b",
            "a@b-",
            "a@b_c",
            "\"a\"@b",
            "a@[1.2.3.4]",
            "ä@b",
            "a@b\n",
            "a,b@c",
            "<a@b>",
            &long_local,
            &long_label,
            &long,
        ] {
            assert_eq!(bad.parse::<Email>(), Err(NotAnEmail), "{bad}");
        }
    }

    #[test]
    fn upper_and_lower_case_are_the_same() {
        let [small, large] =
            ["alice@example.org", "ALICE@Example.Org"].map(|text| text.parse::<Email>().unwrap());
        assert_eq!((small.folded(), &small), (large.folded(), &large));
        assert_ne!(small, "alice@example.com".parse().unwrap());
    }
}
