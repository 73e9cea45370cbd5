//! Who users are, and their certificates.

use std::{fmt, str::FromStr};

use custodian_proto::{email::Email, identity::IdentityLevel, key::KeyId};
use jiff::Timestamp;

use super::{UserId, Why};

/// Who a user is, as an administrator recorded it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    /// Which user.
    pub user: UserId,
    /// The address. No two users have the same.
    pub email: Email,
    /// How well it was checked.
    pub level: IdentityLevel,
    /// What was looked at, or empty.
    pub evidence: String,
    /// When it was recorded.
    pub since: Timestamp,
}

/// What a certificate's key is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CertificateUse {
    /// Signing.
    Sign,
    /// Being encrypted to.
    Encrypt,
}

impl CertificateUse {
    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Encrypt => "encrypt",
        }
    }

    /// Reads what [`CertificateUse::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sign, Self::Encrypt].into_iter().find(|usage| usage.name() == name)
    }
}

/// The serial number of a certificate that the people's CA issued.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub [u8; 16]);

impl Serial {
    /// The resource name, `certificates/4f…`.
    pub fn resource_name(&self) -> String {
        format!("certificates/{self}")
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut serial = [0; 16];
        hex::decode_to_slice(text, &mut serial)?;
        Ok(Self(serial))
    }
}

/// A certificate of a user's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PersonCertificate {
    /// Its serial number.
    pub serial: Serial,
    /// Whose it is.
    pub user: UserId,
    /// What its key is for.
    pub usage: CertificateUse,
    /// The address in it.
    pub email: Email,
    /// The level in it.
    pub level: IdentityLevel,
    /// Its key.
    pub key: KeyId,
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// When it was issued.
    pub issued: Timestamp,
    /// The first moment at which it is not valid any more.
    pub expires: Timestamp,
    /// If it was revoked.
    pub revoked: Option<Revoked>,
}

/// How a certificate ended before its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// When.
    pub since: Timestamp,
    /// What kind of reason.
    pub why: Why,
    /// The reason given.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_survive_text() {
        let serial = Serial(*b"0123456789abcdef");
        assert_eq!(serial.to_string().parse(), Ok(serial));
        for bad in ["", "4f", "zz", &"0".repeat(33), &"0".repeat(34)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad}");
        }
    }
}
