//! OpenPGP certificates (RFC 9580) of wrapping keys that were made for OpenPGP, and of signing keys: docs/formats/openpgp.md.
//!
//! The primary key, which certifies, is the device CA's: it certifies keys in X.509, too. What it signs here begins with the
//! byte 0x99, a certificate with 0x30 and an attestation with `{`: none passes for another. The subkey, which is encrypted to
//! or signs, is the key itself. A signing key is no primary key: whoever may have digests signed could certify keys of his own
//! with one, and sign without the custodian from then on.

use custodian_proto::{
    key::KeyId,
    openpgp::{AES_256, fingerprint_v4, hashed_v4, length, mpi, packet, rsa_public_key_v4},
    refusal::Refusal,
};
use der::{Decode, Sequence, asn1::UintRef};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;

use super::{CLOCK_SKEW, DeviceCa, PkiError};
use crate::{
    authority::{KeyPurpose, KeyState, WrappingKey},
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
const PRIMARY_KEY_BINDING: u8 = 0x19;
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

/// The fingerprint of the subkey that people encrypt to, or that signs; `None` if the key has no OpenPGP certificate.
pub fn fingerprint(key: &WrappingKey) -> Option<[u8; 20]> {
    if !key.purpose.has_openpgp_certificate() {
        return None;
    }
    subkey(key).ok().map(|subkey| fingerprint_v4(&subkey))
}

/// The fingerprint of the certificate, which is its primary key's; `None` if the key has none.
pub fn certificate_fingerprint(key: &WrappingKey, ca: &DeviceCa) -> Option<[u8; 20]> {
    if !key.purpose.has_openpgp_certificate() {
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
    /// What a subkey that signs says itself (RFC 9580 §5.2.1.9).
    adoption: Option<Unsigned>,
}

/// A text, and the key in the token that is to sign it with ECDSA over SHA-256.
pub type ToSign = (KeyId, Vec<u8>);

impl Draft {
    /// Of a key as its state is at the time `now`.
    ///
    /// # Errors
    /// Refused if the key has no such certificate, or not now.
    pub fn new(key: &WrappingKey, ca: &DeviceCa, now: Timestamp) -> Result<Self, Denial> {
        let state = state(key, now)?;
        let signs = matches!(key.purpose, KeyPurpose::Sign(_));
        let created = created(key)?;
        let primary = primary_key(created, &ca_point(ca)?);
        let subkey = subkey(key)?;
        let user_id = format!("{} v{} (Custodian, key {})", key.label, key.version, key.id).into_bytes();

        let about_primary = hashed_v4(&primary);
        let about_user_id = [&about_primary, &[0xb4][..], &be32(user_id.len()), &user_id].concat();
        let about_subkey = [about_primary, hashed_v4(&subkey)].concat();
        let of_ca = Issuer { key: ca.key(), fingerprint: fingerprint_v4(&primary) };
        // Nobody may date a signature into a time when the key could not sign yet.
        let begins = seconds(key.life.wraps().from() - CLOCK_SKEW)?.max(created);
        let signed = match (signs, state) {
            // Readers judge a signature by what held when it was made: later exports must not say less of that time. What says
            // more about the end is the newer of the two.
            (true, KeyState::Deactivated) => begins + 1,
            (true, _) => begins,
            // Whatever the other machine's clock says: what is signed now is valid now.
            (false, _) => seconds(now - CLOCK_SKEW)?.max(created),
        };
        let revoked = if signs { seconds(key.updated)?.max(created) } else { signed };
        let lasts = |until| Ok::<_, Denial>(seconds(until)?.saturating_sub(created).to_be_bytes());
        let (lasts_primary, lasts_subkey) = (lasts(key.life.wraps().until())?, lasts(end(key))?);

        let revocation = match state {
            KeyState::Active | KeyState::PreActive | KeyState::Suspended => None,
            // What it signed stays good: it only ends.
            KeyState::Deactivated if signs => None,
            KeyState::Deactivated => Some((3, "no longer encrypted to")),
            KeyState::Compromised => Some((2, "somebody else may have it")),
            // Perhaps it was compromised before, which its state does not say any more: no reason is the one that makes all of its
            // signatures void (RFC 9580 §5.2.3.31).
            KeyState::Destroyed if signs => Some((0, "destroyed")),
            KeyState::Destroyed => Some((3, "destroyed")),
        };
        let is_revoked = revocation.is_some();
        let revocation = revocation.map(|(code, text): (u8, &str)| {
            let why = [&[code], text.as_bytes()].concat();
            let about = about_subkey.clone();
            Unsigned::new(SUBKEY_REVOCATION, about, revoked, of_ca, &[(subpacket::REASON, &why)])
        });
        let certification = Unsigned::new(
            POSITIVE_CERTIFICATION,
            about_user_id,
            signed,
            of_ca,
            &[
                (subpacket::KEY_FLAGS, &[flag::CERTIFY]),
                (subpacket::KEY_EXPIRATION, &lasts_primary),
                (subpacket::CIPHERS, &[AES_256]),
                (subpacket::HASHES, &[SHA_256, 10]),
                (subpacket::COMPRESSION, &[2, 1, 0]),
                (subpacket::FEATURES, &[flag::SEIPD_V1 | flag::SEIPD_V2]),
                (subpacket::AEAD_CIPHERS, &[AES_256, 3]),
                (subpacket::PRIMARY_USER_ID, &[1]),
            ],
        );
        // A key that somebody else may have, or that is gone, signs nothing, and its certificate needs nothing of it.
        let adoption = (signs && !is_revoked).then(|| {
            let own = Issuer { key: key.id, fingerprint: fingerprint_v4(&subkey) };
            Unsigned::new(PRIMARY_KEY_BINDING, about_subkey.clone(), signed, own, &[])
        });
        let flags = if signs { [flag::SIGN] } else { [flag::ENCRYPT_TO_PEOPLE | flag::ENCRYPT_STORAGE] };
        let binding = Unsigned::new(
            SUBKEY_BINDING,
            about_subkey,
            signed,
            of_ca,
            &[(subpacket::KEY_FLAGS, &flags), (subpacket::KEY_EXPIRATION, &lasts_subkey)],
        );
        Ok(Self { primary, user_id, subkey, certification, revocation, binding, adoption })
    }

    /// What is to be signed, in this order.
    pub fn to_be_signed(&self) -> Vec<ToSign> {
        self.signatures().map(|unsigned| (unsigned.signer, unsigned.message.clone())).collect()
    }

    /// The certificate with these signatures (DER), which are in the order of [`Draft::to_be_signed`].
    ///
    /// # Errors
    /// If they are not.
    pub fn finish(&self, signatures: &[Vec<u8>]) -> Result<Vec<u8>, Denial> {
        if signatures.len() != self.signatures().count() {
            let odd = "a certificate has another number of signatures than it needs";
            return Err(Fault::Internal(odd.into()).into());
        }
        let mut signatures = signatures.iter();
        let mut next = || signatures.next().map(Vec::as_slice).unwrap_or_default();
        let certification = self.certification.with(next(), None)?;
        let revocation = self.revocation.as_ref().map(|one| one.with(next(), None)).transpose()?;
        let binding = next();
        let adoption = self.adoption.as_ref().map(|one| one.with(next(), None)).transpose()?;
        let binding = self.binding.with(binding, adoption.as_deref())?;
        Ok([
            packet(PUBLIC_KEY, &self.primary),
            packet(USER_ID, &self.user_id),
            packet(SIGNATURE, &certification),
            packet(PUBLIC_SUBKEY, &self.subkey),
            revocation.map(|revocation| packet(SIGNATURE, &revocation)).unwrap_or_default(),
            packet(SIGNATURE, &binding),
        ]
        .concat())
    }

    fn signatures(&self) -> impl Iterator<Item = &Unsigned> {
        [&self.certification].into_iter().chain(&self.revocation).chain([&self.binding]).chain(&self.adoption)
    }
}

/// The state of a key that has a certificate now.
fn state(key: &WrappingKey, now: Timestamp) -> Result<KeyState, Denial> {
    let refused = |refusal, detail: &str| Err(Denial::Refused { refusal, detail: detail.to_owned() });
    let state = key.life.state(now);
    match (key.purpose, state) {
        (purpose, _) if !purpose.has_openpgp_certificate() => refused(
            Refusal::StateConflict,
            match purpose {
                KeyPurpose::Sign(_) => {
                    "OpenPGP signs with RSA in PKCS #1 v1.5 only, and the key does RSA-PSS only: one that signs OpenPGP, \
                     custodianctl key create --use sign-ecdsa makes"
                }
                _ => "the key was not made for OpenPGP: one that is, custodianctl key create --openpgp makes",
            },
        ),
        (_, KeyState::PreActive) => {
            refused(Refusal::KeyNotActive, "the key has not begun: OpenPGP has no way to say so")
        }
        (KeyPurpose::Sign(_), KeyState::Suspended) => refused(
            Refusal::KeySuspended,
            "the key itself signs a part of its certificate, and is suspended: use what was exported before, or activate it",
        ),
        (_, state) => Ok(state),
    }
}

/// When a key ends: a signing key when it was deactivated.
fn end(key: &WrappingKey) -> Timestamp {
    let until = key.life.wraps().until();
    match (key.purpose, key.life.set()) {
        // All of the last second.
        (KeyPurpose::Sign(_), KeyState::Deactivated) => until.min(key.updated + SignedDuration::from_secs(1)),
        _ => until,
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
    pub(super) const EMBEDDED_SIGNATURE: u8 = 32;
    pub(super) const ISSUER_FINGERPRINT: u8 = 33;
    pub(super) const AEAD_CIPHERS: u8 = 39;
}

/// RFC 9580 §5.2.3.29 and §5.2.3.32.
mod flag {
    pub(super) const CERTIFY: u8 = 0x01;
    pub(super) const SIGN: u8 = 0x02;
    pub(super) const ENCRYPT_TO_PEOPLE: u8 = 0x04;
    pub(super) const ENCRYPT_STORAGE: u8 = 0x08;
    pub(super) const SEIPD_V1: u8 = 0x01;
    pub(super) const SEIPD_V2: u8 = 0x08;
}

/// A key in the token that signs, and its fingerprint.
#[derive(Clone, Copy)]
struct Issuer {
    key: KeyId,
    fingerprint: [u8; 20],
}

/// A signature of version 4 that lacks the signature itself.
struct Unsigned {
    /// The key that is to sign.
    signer: KeyId,
    /// From the version to the end of the hashed subpackets.
    hashed: Vec<u8>,
    unhashed: Vec<u8>,
    /// What is signed.
    message: Vec<u8>,
}

impl Unsigned {
    fn new(kind: u8, about: Vec<u8>, signed: u32, issuer: Issuer, subpackets: &[(u8, &[u8])]) -> Self {
        let mut area = Vec::new();
        add(&mut area, subpacket::CREATED, &signed.to_be_bytes());
        add(&mut area, subpacket::ISSUER_FINGERPRINT, &[&[4], &issuer.fingerprint[..]].concat());
        subpackets.iter().for_each(|(kind, content)| add(&mut area, *kind, content));
        let hashed = [&[4, kind, ECDSA, SHA_256], &be16(area.len())[..], &area].concat();
        let mut unhashed = Vec::new();
        add(&mut unhashed, subpacket::ISSUER, issuer.fingerprint.get(12..).unwrap_or_default());
        // RFC 9580 §5.2.4.
        let message = [about, hashed.clone(), vec![4, 0xff], be32(hashed.len()).to_vec()].concat();
        Self { signer: issuer.key, hashed, unhashed, message }
    }

    /// The content of the packet, with another signature in it that protects itself.
    fn with(&self, signature: &[u8], embedded: Option<&[u8]>) -> Result<Vec<u8>, Denial> {
        let signature = EcdsaSigValue::from_der(signature)
            .map_err(|error| Fault::Internal(format!("the token's signature is none: {error}")))?;
        let digest = Sha256::digest(&self.message);
        let mut unhashed = self.unhashed.clone();
        if let Some(embedded) = embedded {
            add(&mut unhashed, subpacket::EMBEDDED_SIGNATURE, embedded);
        }
        Ok([
            &self.hashed,
            &be16(unhashed.len())[..],
            &unhashed,
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
    ecdsa_public_key_v4(created, ca_point)
}

/// The content of the packet of a key on P-256, which is this point.
fn ecdsa_public_key_v4(created: u32, point: &[u8]) -> Vec<u8> {
    [&[4], &created.to_be_bytes()[..], &[ECDSA], &P_256, &mpi(point)].concat()
}

/// The content of the subkey's packet.
fn subkey(key: &WrappingKey) -> Result<Vec<u8>, Denial> {
    let bad =
        |error: der::Error| Denial::from(Fault::Internal(format!("the certificate of {}: {error}", key.id)));
    let certificate = Certificate::from_der(&key.certificate).map_err(bad)?;
    let public = certificate.tbs_certificate().subject_public_key_info();
    let public = public.subject_public_key.raw_bytes();
    if let KeyPurpose::Sign(_) = key.purpose {
        return Ok(ecdsa_public_key_v4(created(key)?, public));
    }
    let rsa = RsaPublicKey::from_der(public).map_err(bad)?;
    Ok(rsa_public_key_v4(created(key)?, rsa.modulus.as_bytes(), rsa.public_exponent.as_bytes()))
}

fn ca_point(ca: &DeviceCa) -> Result<Vec<u8>, PkiError> {
    let bad = |error: der::Error| PkiError::Invalid(format!("the device CA's certificate is none: {error}"));
    let certificate = Certificate::from_der(ca.certificate()).map_err(bad)?;
    Ok(certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec())
}
