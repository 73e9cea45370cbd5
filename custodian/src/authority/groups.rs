//! Groups: labels that administrators give to users and devices, for policies to ask for.

use std::{fmt, str::FromStr};

use custodian_proto::limits::{MAX_GROUPS, MAX_ID_LEN};

/// The groups that a user or a device is in: in order, each once. Most are in none, which takes no memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Groups(String);

/// What is no set of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a group has 1 to 63 characters: a-z, 0-9 and '-', and starts with a letter or digit; at most {MAX_GROUPS} of them"
)]
pub struct BadGroups;

impl Groups {
    /// These groups, whatever their order.
    ///
    /// # Errors
    /// One that does not keep the rules of ids, or too many.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, BadGroups> {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let all_good = names.iter().all(|name| is_good(name));
        if all_good && names.len() <= MAX_GROUPS { Ok(Self(names.join(","))) } else { Err(BadGroups) }
    }

    /// Their names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// As they stand in the ledger.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads what [`Groups::as_str`] writes.
impl FromStr for Groups {
    type Err = BadGroups;

    fn from_str(text: &str) -> Result<Self, BadGroups> {
        if text.is_empty() { Ok(Self::default()) } else { Self::new(text.split(',')) }
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { f.write_str(&self.0.replace(',', ", ")) }
    }
}

fn is_good(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_ID_LEN).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_a_set_and_survive_the_ledger() {
        let groups = Groups::new(["night", "board", "night"]).unwrap();
        assert_eq!(groups.iter().collect::<Vec<_>>(), ["board", "night"]);
        for groups in [groups, Groups::default(), Groups::new(["x"]).unwrap()] {
            assert_eq!(groups.as_str().parse(), Ok(groups));
        }
    }

    #[test]
    fn names_keep_the_rules_of_ids() {
        for bad in ["", "-a", "A", "a,b", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(Groups::new([bad]), Err(BadGroups), "{bad}");
        }
        let many: Vec<_> = (0..=MAX_GROUPS).map(|number| format!("g{number}")).collect();
        assert_eq!(Groups::new(many.iter().map(String::as_str)), Err(BadGroups));
        assert!(Groups::new(many[1..].iter().map(String::as_str)).is_ok());
    }
}
