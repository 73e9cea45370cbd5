//! Devices: the workstations on the allow-list.

use std::{fmt, str::FromStr};

use custodian_proto::limits::MAX_ID_LEN;
use jiff::Timestamp;

use super::{BadId, Groups, UserId};

/// A device's id, chosen by an administrator: `laptop-7`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(String);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource name, `devices/laptop-7`.
    pub fn resource_name(&self) -> String {
        format!("devices/{}", self.0)
    }
}

impl FromStr for DeviceId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=MAX_ID_LEN).contains(&text.len()) && text.bytes().all(good) && !text.starts_with('-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadId) }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of a TLS key's SubjectPublicKeyInfo: what a device is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpkiHash(pub [u8; 32]);

/// Where a device is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceState {
    /// Has a certificate, may do nothing.
    Enrolled,
    /// May be used.
    Active,
    /// Stopped for a while.
    Suspended,
    /// Stopped for good.
    Revoked,
}

impl DeviceState {
    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }

    /// Reads what [`DeviceState::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Enrolled, Self::Active, Self::Suspended, Self::Revoked]
            .into_iter()
            .find(|state| state.name() == name)
    }

    /// Whether the life of a device allows this step: enrolled → active ⇄ suspended, anything but revoked → revoked.
    pub fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Enrolled | Self::Suspended, Self::Active)
                | (Self::Active, Self::Suspended)
                | (Self::Enrolled | Self::Active | Self::Suspended, Self::Revoked)
        )
    }
}

/// A device on the allow-list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// What it is known by. Another only after it enrolled anew.
    pub spki: SpkiHash,
    /// Where it is in its life.
    pub state: DeviceState,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// When the certificate ends.
    pub expires: Timestamp,
    /// When it last enrolled.
    pub enrolled: Timestamp,
    /// When the state last changed.
    pub updated: Timestamp,
    /// The reason given for the last suspension or revocation, else empty.
    pub reason: String,
    /// When a suspension ends by itself.
    pub suspended_until: Option<Timestamp>,
    /// The groups it is in.
    pub groups: Groups,
}

/// A certificate that others are to take no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevokedCertificate {
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: Why,
}

/// Why a certificate is on the revocation list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The device is revoked, or the person does not need it any more.
    Revoked,
    /// The device is suspended.
    Suspended,
    /// The device, or the person, has another one.
    Replaced,
    /// Somebody else may have the person's key.
    Compromised,
    /// What it says of the person is not true any more.
    NotTrueAnyMore,
}

impl Why {
    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Replaced => "replaced",
            Self::Compromised => "compromised",
            Self::NotTrueAnyMore => "not-true-any-more",
        }
    }

    /// Reads what [`Why::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Revoked, Self::Suspended, Self::Replaced, Self::Compromised, Self::NotTrueAnyMore]
            .into_iter()
            .find(|why| why.name() == name)
    }
}

/// A one-time code that lets one workstation enrol. The code itself is not kept, only its SHA-256.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invitation {
    /// SHA-256 of the code.
    pub code_hash: [u8; 32],
    /// The id the device will have.
    pub device: DeviceId,
    /// Who invited; `None` for the invitations of `custodian init`.
    pub invited_by: Option<UserId>,
    /// When the code ends.
    pub expires: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_the_rules() {
        for good in ["a", "laptop-7", "0-0", &"x".repeat(63)] {
            assert!(good.parse::<DeviceId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a/b", "a b", "ä", "..", &"x".repeat(64)] {
            assert_eq!(bad.parse::<DeviceId>(), Err(BadId), "{bad}");
        }
    }

    #[test]
    fn revoked_is_for_good() {
        for next in [DeviceState::Enrolled, DeviceState::Active, DeviceState::Suspended, DeviceState::Revoked]
        {
            assert!(!DeviceState::Revoked.may_become(next));
        }
    }
}
