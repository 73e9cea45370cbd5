//! Users: people, their roles, their passwords.

use std::{fmt, str::FromStr};

use custodian_proto::limits::MAX_ID_LEN;
use jiff::Timestamp;

use super::{BadId, FactorState, Groups};

/// A user's id: `anna`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserId(String);

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource name, `users/anna`.
    pub fn resource_name(&self) -> String {
        format!("users/{}", self.0)
    }
}

impl FromStr for UserId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let good = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
        };
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let fits = starts && text.len() <= MAX_ID_LEN && text.bytes().all(good);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadId) }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a user may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// May unwrap file keys.
    Operator,
    /// May read the log.
    Auditor,
    /// May manage devices, users and keys.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Auditor, Self::Admin];

    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Operator => 1,
            Self::Auditor => 2,
            Self::Admin => 4,
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Roles(u8);

impl Roles {
    /// Whether the role is in the set.
    pub fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// The roles of the set.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }

    /// As it stands in the ledger: the bits of the roles.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Reads what [`Roles::bits`] writes. Unknown bits are dropped.
    pub fn from_bits(bits: u8) -> Self {
        Role::ALL.into_iter().filter(|role| bits & role.bit() != 0).collect()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

/// A password's Argon2id hash in PHC string format. Has no `Debug` (law 9).
#[derive(Clone)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Takes a PHC string over.
    pub fn from_phc(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string.
    pub fn as_phc(&self) -> &str {
        &self.0
    }
}

/// Whether a user may go on with the password.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PasswordState {
    /// The user chose it, or nobody asked for another.
    #[default]
    Settled,
    /// Somebody else chose it: the user must set another before anything else.
    MustChange,
}

/// A person who may sign in.
#[derive(Clone)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// What it may do.
    pub roles: Roles,
    /// Whether it is stopped.
    pub disabled: bool,
    /// When that ends by itself.
    pub disabled_until: Option<Timestamp>,
    /// The hash of its password.
    pub password: PasswordHash,
    /// Whether that must be changed.
    pub password_state: PasswordState,
    /// Whether it has and needs a second factor.
    pub factor: FactorState,
    /// The groups it is in.
    pub groups: Groups,
    /// When it was created.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_the_ledger() {
        for bits in 0..8 {
            let roles = Roles::from_bits(bits);
            assert_eq!(roles.bits(), bits);
            assert_eq!(roles.iter().collect::<Roles>(), roles);
        }
    }
}
