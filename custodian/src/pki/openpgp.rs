//! OpenPGP certificates (RFC 9580) of wrapping keys that were made for OpenPGP: docs/formats/openpgp.md.
//!
//! The primary key, which signs, is the device CA's: it certifies wrapping keys in X.509, too. What it signs here begins
//! with the byte 0x99, a certificate with 0x30 and an attestation with `{`: none passes for another. The subkey, which is
//! encrypted to, is the wrapping key.

use custodian_proto::{
    key::KeyWrapping,
    openpgp::{AES_256, fingerprint_v4, hashed_v4, length, mpi, packet, rsa_public_key_v4},
    refusal::Refusal,
};
use der::{Decode, Sequence, asn1::UintRef};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;

use super::{CLOCK_SKEW, DeviceCa, PkiError};
use crate::{
    authority::{KeyState, WrappingKey},
    custody::{Denial, Fault},
};

/// RFC 9580 §5: packets.
const SIGNATURE: u8 = 2;
const PUBLIC_KEY: u8 = 6;
const USER_ID: u8 = 13;
const PUBLIC_SUBKEY: u8 = 14;

/// RFC 9580 §5.2.1: kinds of signatures.
const POSITIVE_CERTIFICATION: u8 = 0x13;
const SUBKEY_BINDING: u8 = 0x18;
const SUBKEY_REVOCATION: u8 = 0x28;

/// RFC 9580 §9.1 and §9.5.
const ECDSA: u8 = 19;
const SHA_256: u8 = 8;
/// The curve P-256, with the length of its object identifier.
const P_256: [u8; 9] = [8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// RFC 8017 §A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

/// RFC 3279 §2.2.3.
#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// The fingerprint of the subkey that people encrypt to; `None` if the key is not for OpenPGP.
pub fn fingerprint(key: &WrappingKey) -> Option<[u8; 20]> {
    if key.wrapping() != Some(KeyWrapping::OpenPgp) {
        return None;
    }
    subkey(key).ok().map(|subkey| fingerprint_v4(&subkey))
}

/// The fingerprint of the certificate, which is its primary key's; `None` if the key is not for OpenPGP.
pub fn certificate_fingerprint(key: &WrappingKey, ca: &DeviceCa) -> Option<[u8; 20]> {
    if key.wrapping() != Some(KeyWrapping::OpenPgp) {
        return None;
    }
    let point = ca_point(ca).ok()?;
    Some(fingerprint_v4(&primary_key(created(key).ok()?, &point)))
}

/// A certificate whose signatures are still to be made.
pub struct Draft {
    primary: Vec<u8>,
    user_id: Vec<u8>,
    subkey: Vec<u8>,
    certification: Unsigned,
    revocation: Option<Unsigned>,
    binding: Unsigned,
}

impl Draft {
    /// Of a key as its state is at the time `now`.
    ///
    /// # Errors
    /// Refused if the key is not for OpenPGP, or not active yet.
    pub fn new(key: &WrappingKey, ca: &DeviceCa, now: Timestamp) -> Result<Self, Denial> {
        let refused = |refusal, detail: &str| Err(Denial::Refused { refusal, detail: detail.to_owned() });
        if key.wrapping() != Some(KeyWrapping::OpenPgp) {
            return refused(
                Refusal::StateConflict,
                "the key was not made for OpenPGP: one that is, custodianctl key create --openpgp makes",
            );
        }
        let state = key.life.state(now);
        if state == KeyState::PreActive {
            return refused(Refusal::KeyNotActive, "the key has not begun: OpenPGP has no way to say so");
        }
        let created = created(key)?;
        let primary = primary_key(created, &ca_point(ca)?);
        let subkey = subkey(key)?;
        let user_id = format!("{} v{} (Custodian, key {})", key.label, key.version, key.id).into_bytes();

        let about_primary = hashed_v4(&primary);
        let about_user_id = [&about_primary, &[0xb4][..], &be32(user_id.len()), &user_id].concat();
        let about_subkey = [about_primary, hashed_v4(&subkey)].concat();
        let issuer = fingerprint_v4(&primary);
        // Whatever the other machine's clock says: what is signed now is valid now.
        let signed = seconds(now - CLOCK_SKEW)?.max(created);
        let expires = seconds(key.life.wraps().until())?.saturating_sub(created).to_be_bytes();
        let unsigned =
            |kind, about, subpackets: &[(u8, &[u8])]| Unsigned::new(kind, about, signed, issuer, subpackets);

        let revocation = match state {
            KeyState::Active | KeyState::PreActive | KeyState::Suspended => None,
            KeyState::Deactivated => Some((3, "no longer encrypted to")),
            KeyState::Compromised => Some((2, "somebody else may have it")),
            KeyState::Destroyed => Some((3, "destroyed")),
        };
        let revocation = revocation.map(|(code, text): (u8, &str)| {
            let why = [&[code], text.as_bytes()].concat();
            unsigned(SUBKEY_REVOCATION, about_subkey.clone(), &[(subpacket::REASON, &why)])
        });
        let certification = unsigned(
            POSITIVE_CERTIFICATION,
            about_user_id,
            &[
                (subpacket::KEY_FLAGS, &[flag::CERTIFY]),
                (subpacket::KEY_EXPIRATION, &expires),
                (subpacket::CIPHERS, &[AES_256]),
                (subpacket::HASHES, &[SHA_256, 10]),
                (subpacket::COMPRESSION, &[2, 1, 0]),
                (subpacket::FEATURES, &[flag::SEIPD_V1 | flag::SEIPD_V2]),
                (subpacket::AEAD_CIPHERS, &[AES_256, 3]),
                (subpacket::PRIMARY_USER_ID, &[1]),
            ],
        );
        let flags = [flag::ENCRYPT_TO_PEOPLE | flag::ENCRYPT_STORAGE];
        let binding = unsigned(
            SUBKEY_BINDING,
            about_subkey,
            &[(subpacket::KEY_FLAGS, &flags), (subpacket::KEY_EXPIRATION, &expires)],
        );
        Ok(Self { primary, user_id, subkey, certification, revocation, binding })
    }

    /// What is to be signed, each over SHA-256, in this order.
    pub fn to_be_signed(&self) -> Vec<Vec<u8>> {
        self.signatures().map(|unsigned| unsigned.message.clone()).collect()
    }

    /// The certificate with these signatures (ECDSA, DER), which are in the order of [`Draft::to_be_signed`].
    ///
    /// # Errors
    /// If they are not.
    pub fn finish(&self, signatures: &[Vec<u8>]) -> Result<Vec<u8>, Denial> {
        let odd = || {
            Denial::from(Fault::Internal(
                "a certificate has another number of signatures than it needs".into(),
            ))
        };
        if signatures.len() != self.signatures().count() {
            return Err(odd());
        }
        let mut signed = Vec::new();
        for (unsigned, signature) in self.signatures().zip(signatures) {
            signed.push(packet(SIGNATURE, &unsigned.with(signature)?));
        }
        let (certification, about_subkey) = signed.split_first().ok_or_else(odd)?;
        Ok([
            packet(PUBLIC_KEY, &self.primary),
            packet(USER_ID, &self.user_id),
            certification.clone(),
            packet(PUBLIC_SUBKEY, &self.subkey),
            about_subkey.concat(),
        ]
        .concat())
    }

    fn signatures(&self) -> impl Iterator<Item = &Unsigned> {
        [&self.certification].into_iter().chain(&self.revocation).chain([&self.binding])
    }
}

/// RFC 9580 §5.2.3.7.
mod subpacket {
    pub(super) const CREATED: u8 = 2;
    pub(super) const KEY_EXPIRATION: u8 = 9;
    pub(super) const CIPHERS: u8 = 11;
    pub(super) const ISSUER: u8 = 16;
    pub(super) const HASHES: u8 = 21;
    pub(super) const COMPRESSION: u8 = 22;
    pub(super) const PRIMARY_USER_ID: u8 = 25;
    pub(super) const KEY_FLAGS: u8 = 27;
    pub(super) const REASON: u8 = 29;
    pub(super) const FEATURES: u8 = 30;
    pub(super) const ISSUER_FINGERPRINT: u8 = 33;
    pub(super) const AEAD_CIPHERS: u8 = 39;
}

/// RFC 9580 §5.2.3.29 and §5.2.3.32.
mod flag {
    pub(super) const CERTIFY: u8 = 0x01;
    pub(super) const ENCRYPT_TO_PEOPLE: u8 = 0x04;
    pub(super) const ENCRYPT_STORAGE: u8 = 0x08;
    pub(super) const SEIPD_V1: u8 = 0x01;
    pub(super) const SEIPD_V2: u8 = 0x08;
}

/// A signature of version 4 that lacks the signature itself.
struct Unsigned {
    /// From the version to the end of the hashed subpackets.
    hashed: Vec<u8>,
    unhashed: Vec<u8>,
    /// What is signed.
    message: Vec<u8>,
}

impl Unsigned {
    fn new(kind: u8, about: Vec<u8>, signed: u32, issuer: [u8; 20], subpackets: &[(u8, &[u8])]) -> Self {
        let mut area = Vec::new();
        add(&mut area, subpacket::CREATED, &signed.to_be_bytes());
        add(&mut area, subpacket::ISSUER_FINGERPRINT, &[&[4], &issuer[..]].concat());
        subpackets.iter().for_each(|(kind, content)| add(&mut area, *kind, content));
        let hashed = [&[4, kind, ECDSA, SHA_256], &be16(area.len())[..], &area].concat();
        let mut unhashed = Vec::new();
        add(&mut unhashed, subpacket::ISSUER, issuer.get(12..).unwrap_or_default());
        // RFC 9580 §5.2.4.
        let message = [about, hashed.clone(), vec![4, 0xff], be32(hashed.len()).to_vec()].concat();
        Self { hashed, unhashed, message }
    }

    fn with(&self, signature: &[u8]) -> Result<Vec<u8>, Denial> {
        let signature = EcdsaSigValue::from_der(signature)
            .map_err(|error| Fault::Internal(format!("the token's signature is none: {error}")))?;
        let digest = Sha256::digest(&self.message);
        Ok([
            &self.hashed,
            &be16(self.unhashed.len())[..],
            &self.unhashed,
            &digest[..2],
            &mpi(signature.r.as_bytes()),
            &mpi(signature.s.as_bytes()),
        ]
        .concat())
    }
}

fn add(area: &mut Vec<u8>, kind: u8, content: &[u8]) {
    area.extend(length(content.len() + 1));
    area.push(kind);
    area.extend_from_slice(content);
}

fn be16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

fn be32(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// When the key was made, as OpenPGP has it. A little earlier: other machines' clocks are late.
fn created(key: &WrappingKey) -> Result<u32, Denial> {
    seconds(key.created - CLOCK_SKEW)
}

fn seconds(time: Timestamp) -> Result<u32, Denial> {
    u32::try_from(time.as_second())
        .map_err(|_| Fault::Internal(format!("{time} is no time for OpenPGP")).into())
}

/// The content of the primary key's packet.
fn primary_key(created: u32, ca_point: &[u8]) -> Vec<u8> {
    [&[4], &created.to_be_bytes()[..], &[ECDSA], &P_256, &mpi(ca_point)].concat()
}

/// The content of the subkey's packet.
fn subkey(key: &WrappingKey) -> Result<Vec<u8>, Denial> {
    let bad =
        |error: der::Error| Denial::from(Fault::Internal(format!("the certificate of {}: {error}", key.id)));
    let certificate = Certificate::from_der(&key.certificate).map_err(bad)?;
    let public = certificate.tbs_certificate().subject_public_key_info();
    let rsa = RsaPublicKey::from_der(public.subject_public_key.raw_bytes()).map_err(bad)?;
    Ok(rsa_public_key_v4(created(key)?, rsa.modulus.as_bytes(), rsa.public_exponent.as_bytes()))
}

fn ca_point(ca: &DeviceCa) -> Result<Vec<u8>, PkiError> {
    let bad = |error: der::Error| PkiError::Invalid(format!("the device CA's certificate is none: {error}"));
    let certificate = Certificate::from_der(ca.certificate()).map_err(bad)?;
    Ok(certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec())
}
