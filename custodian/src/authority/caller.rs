//! Who is calling: gathered first, judged later.

use std::net::IpAddr;

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;

use super::{Device, DeviceId, Session, SpkiHash, User};

/// The other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// What it proved during the handshake.
    pub certificate: PeerCertificate,
}

/// The certificate with which a peer proved, during the TLS handshake, that it holds the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// SHA-256 of the key's SubjectPublicKeyInfo.
    pub spki: SpkiHash,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// What kind of peer it makes.
    pub kind: PeerKind,
}

/// What a peer's certificate makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerKind {
    /// The device CA issued the certificate.
    Device,
    /// The certificate is self-signed: a workstation that wants to enrol, and may do nothing else.
    Newcomer,
}

/// Everything known about who is calling, before anything is decided.
#[derive(Clone)]
pub struct Caller {
    /// The other end of the connection.
    pub peer: Peer,
    /// The device that the certificate's key belongs to.
    pub device: Option<Device>,
    /// The session that the call names.
    pub session: Option<Session>,
    /// Whose session that is.
    pub user: Option<User>,
    /// The version of the policy that was in force then: no older one may judge.
    pub policy: u64,
}

impl Caller {
    /// The id of the device.
    ///
    /// # Errors
    /// [`Refusal::DeviceUnknown`]
    pub fn device_id(&self) -> Result<DeviceId, Refusal> {
        self.device.as_ref().map(|device| device.id.clone()).ok_or(Refusal::DeviceUnknown)
    }
}
