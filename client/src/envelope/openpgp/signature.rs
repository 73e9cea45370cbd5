//! Signatures that a certificate's own key made (RFC 9580 §5.2): what makes its parts belong together.

use aws_lc_rs::{
    digest::{self, SHA256, SHA384, SHA512},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        RsaPublicKeyComponents, UnparsedPublicKey,
    },
};

use super::{
    packet::{Length, cut_off, length},
    public_key::{EDDSA_LEGACY, Material, P_256, P_384, P_521, PublicKey, take_mpi},
};
use crate::{envelope::damaged, error::Result};

/// RFC 9580 §5.2.1.
pub(super) mod kind {
    use std::ops::RangeInclusive;

    /// A user id belongs to the primary key.
    pub(crate) const CERTIFICATION: RangeInclusive<u8> = 0x10..=0x13;
    pub(crate) const SUBKEY_BINDING: u8 = 0x18;
    /// What is said of the primary key itself.
    pub(crate) const DIRECT_KEY: u8 = 0x1f;
    pub(crate) const KEY_REVOCATION: u8 = 0x20;
    pub(crate) const SUBKEY_REVOCATION: u8 = 0x28;
    pub(crate) const CERTIFICATION_REVOCATION: u8 = 0x30;
}

const SHA_256: u8 = 8;
const SHA_384: u8 = 9;
const SHA_512: u8 = 10;

/// Subpackets (RFC 9580 §5.2.3.7) that need no attention here, though they may be critical.
const HARMLESS: [u8; 20] = [4, 5, 7, 11, 16, 20, 21, 22, 23, 24, 25, 26, 28, 29, 31, 32, 33, 34, 35, 39];

/// A signature that was read, and not verified yet.
pub(super) struct Signature {
    pub(super) kind: u8,
    version: u8,
    hash: u8,
    salt: Vec<u8>,
    /// From the version to the end of the hashed subpackets.
    hashed: Vec<u8>,
    material: Vec<u8>,
    facts: Facts,
    /// Key ids and fingerprints of who made it, as it says; nothing signs some of these.
    issuers: Vec<Vec<u8>>,
}

/// What comes of checking a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checked {
    /// The key made it over this data.
    Good,
    /// It did not.
    Bad,
    /// With an algorithm or a hash that nothing is verified with here.
    Unknown,
}

/// What the hashed subpackets say. Times are seconds since 1970, or since the key was made.
#[derive(Default)]
struct Facts {
    created: Option<u32>,
    expires_after: Option<u32>,
    key_expires_after: Option<u32>,
    key_flags: Option<u8>,
    features: u8,
    /// Something that must be understood is not.
    not_understood: bool,
}

impl Signature {
    /// Reads the content of a signature packet. `None`: of a version that is not known here.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it makes no sense.
    pub(super) fn parse(packet: &[u8]) -> Result<Option<Self>> {
        let (version, length_len) = match packet.first() {
            Some(3) => return Ok(Self::of_version_3(packet).ok()),
            Some(4) => (4, 2),
            Some(6) => (6, 4),
            _ => return Ok(None),
        };
        let mut rest = packet;
        let head = take(&mut rest, 4)?;
        let hashed_len = number(take(&mut rest, length_len)?);
        let subpackets = take(&mut rest, hashed_len)?;
        let hashed = packet.get(..4 + length_len + hashed_len).unwrap_or_default().to_vec();
        let facts = Facts::parse(subpackets)?;
        let unhashed_len = number(take(&mut rest, length_len)?);
        let unhashed = take(&mut rest, unhashed_len)?;
        let issuers = [issuers(subpackets), issuers(unhashed)].concat();
        // The beginning of the hash: a hint only.
        take(&mut rest, 2)?;
        let salt = match version {
            6 => {
                let len = number(take(&mut rest, 1)?);
                take(&mut rest, len)?.to_vec()
            }
            _ => Vec::new(),
        };
        let [_, kind, _, hash] = *head else { return Err(cut_off()) };
        Ok(Some(Self { kind, version, hash, salt, hashed, material: rest.to_vec(), facts, issuers }))
    }

    /// RFC 4880 §5.2.2. Verifies nothing here, but keys have been revoked so.
    fn of_version_3(packet: &[u8]) -> Result<Self> {
        let mut rest = packet;
        let [version, _, kind, _, _, _, _] = *take(&mut rest, 7)? else { return Err(cut_off()) };
        let issuer = take(&mut rest, 8)?.to_vec();
        let [algorithm, hash] = *take(&mut rest, 2)? else { return Err(cut_off()) };
        Ok(Self {
            kind,
            version,
            hash,
            salt: Vec::new(),
            hashed: vec![version, kind, algorithm],
            material: Vec::new(),
            facts: Facts::default(),
            issuers: vec![issuer],
        })
    }

    /// When it was made, in seconds since 1970.
    pub(super) fn created(&self) -> u32 {
        self.facts.created.unwrap_or_default()
    }

    /// Whether it holds at a time, if it was verified.
    pub(super) fn holds_at(&self, now: u64) -> bool {
        let Some(created) = self.facts.created else { return false };
        let end = self
            .facts
            .expires_after
            .filter(|after| *after > 0)
            .map(|after| u64::from(created) + u64::from(after));
        !self.facts.not_understood && u64::from(created) <= now && end.is_none_or(|end| now < end)
    }

    /// When the key that it is about ends, if that was made at this time; `None`: never.
    pub(super) fn key_end(&self, key_created: u32) -> Option<u64> {
        let after = self.facts.key_expires_after.filter(|after| *after > 0)?;
        Some(u64::from(key_created) + u64::from(after))
    }

    /// Whether the key that it is about is meant for encrypting (RFC 9580 §5.2.3.29).
    pub(super) fn allows_encryption(&self) -> bool {
        const TO_PEOPLE: u8 = 0x04;
        const TO_STORAGE: u8 = 0x08;
        self.facts.key_flags.is_some_and(|flags| flags & (TO_PEOPLE | TO_STORAGE) != 0)
    }

    /// Whether the key's owner reads SEIPD packets of version 2 (RFC 9580 §5.2.3.32).
    pub(super) fn announces_v2(&self) -> bool {
        self.facts.features & 0x08 != 0
    }

    /// Whether this key made it over this data. Weak and unknown algorithms verify nothing.
    pub(super) fn verifies(&self, key: &PublicKey, data: &[u8]) -> bool {
        self.checked(key, data) == Checked::Good
    }

    /// Whether this key takes back with it what it said of this data: also if that cannot be checked here. Whoever revoked a key
    /// years ago did it with the algorithms of then, and somebody else who adds such a signature only keeps us from sealing.
    pub(super) fn may_revoke(&self, key: &PublicKey, data: &[u8]) -> bool {
        match self.checked(key, data) {
            Checked::Good => true,
            Checked::Bad => false,
            Checked::Unknown => self.may_be_of(key),
        }
    }

    /// Whether it says that it is of this key, or nothing about whose it is.
    fn may_be_of(&self, key: &PublicKey) -> bool {
        let is_it = |issuer: &Vec<u8>| match issuer.len() {
            8 => issuer.as_slice() == key.key_id(),
            _ => *issuer == key.fingerprint,
        };
        self.issuers.is_empty() || self.issuers.iter().any(is_it)
    }

    fn checked(&self, key: &PublicKey, data: &[u8]) -> Checked {
        if self.hashed.get(2) != Some(&key.algorithm) || self.version != key.version {
            return Checked::Unknown;
        }
        let len = u32::try_from(self.hashed.len()).unwrap_or(u32::MAX).to_be_bytes();
        let trailer = [&[self.version, 0xff], &len[..]].concat();
        let message = [&self.salt, data, &self.hashed, &trailer].concat();
        match (self.can_be_checked(key), self.check(key, &message)) {
            (_, Some(())) => Checked::Good,
            (true, None) => Checked::Bad,
            (false, None) => Checked::Unknown,
        }
    }

    /// Whether [`Signature::check`] knows the algorithms.
    fn can_be_checked(&self, key: &PublicKey) -> bool {
        match &key.material {
            Material::Ecdsa { curve, .. } => matches!(
                (curve.as_slice(), self.hash),
                (P_256, SHA_256) | (P_384, SHA_384) | (P_521, SHA_512)
            ),
            Material::Rsa { .. } | Material::Ed25519(_) => matches!(self.hash, SHA_256 | SHA_384 | SHA_512),
            Material::Other => false,
        }
    }

    fn check(&self, key: &PublicKey, message: &[u8]) -> Option<()> {
        let mut rest = self.material.as_slice();
        match &key.material {
            Material::Rsa { modulus, exponent } => {
                let parameters = match self.hash {
                    SHA_256 => &RSA_PKCS1_2048_8192_SHA256,
                    SHA_384 => &RSA_PKCS1_2048_8192_SHA384,
                    SHA_512 => &RSA_PKCS1_2048_8192_SHA512,
                    _ => return None,
                };
                let signature = padded(take_mpi(&mut rest).ok()?, modulus.len())?;
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, &signature).ok()
            }
            Material::Ecdsa { curve, point } => {
                let (algorithm, len) = match (curve.as_slice(), self.hash) {
                    (P_256, SHA_256) => (&ECDSA_P256_SHA256_FIXED, 32),
                    (P_384, SHA_384) => (&ECDSA_P384_SHA384_FIXED, 48),
                    (P_521, SHA_512) => (&ECDSA_P521_SHA512_FIXED, 66),
                    _ => return None,
                };
                let (r, s) = (take_mpi(&mut rest).ok()?, take_mpi(&mut rest).ok()?);
                let signature = [padded(r, len)?, padded(s, len)?].concat();
                UnparsedPublicKey::new(algorithm, point).verify(message, &signature).ok()
            }
            Material::Ed25519(point) => {
                let signature = match key.algorithm {
                    EDDSA_LEGACY => {
                        let (r, s) = (take_mpi(&mut rest).ok()?, take_mpi(&mut rest).ok()?);
                        [padded(r, 32)?, padded(s, 32)?].concat()
                    }
                    _ => rest.to_vec(),
                };
                let hash = match self.hash {
                    SHA_256 => &SHA256,
                    SHA_384 => &SHA384,
                    SHA_512 => &SHA512,
                    _ => return None,
                };
                let digest = digest::digest(hash, message);
                UnparsedPublicKey::new(&ED25519, point).verify(digest.as_ref(), &signature).ok()
            }
            Material::Other => None,
        }
    }
}

impl Facts {
    fn parse(mut area: &[u8]) -> Result<Self> {
        let mut facts = Self::default();
        while !area.is_empty() {
            let (first, body) = subpacket(&mut area)?;
            let critical = first & 0x80 != 0;
            let time = || <[u8; 4]>::try_from(body).ok().map(u32::from_be_bytes);
            match first & 0x7f {
                2 => facts.created = time(),
                3 => facts.expires_after = time(),
                9 => facts.key_expires_after = time(),
                27 => facts.key_flags = Some(body.first().copied().unwrap_or_default()),
                30 => facts.features = body.first().copied().unwrap_or_default(),
                known if HARMLESS.contains(&known) => {}
                _ => facts.not_understood |= critical,
            }
        }
        Ok(facts)
    }
}

/// The next one: its type, and what is in it. RFC 9580 §5.2.3.7: its length is as of packets, but never in parts.
fn subpacket<'b>(area: &mut &'b [u8]) -> Result<(&'b u8, &'b [u8])> {
    let (len, used) = match area.first() {
        Some(224..=254) => return Err(damaged("a signature in the certificate makes no sense")),
        _ => length(area)?,
    };
    let Length::Last(len) = len else { return Err(cut_off()) };
    take(area, used)?;
    let subpacket = take(area, usize::try_from(len).unwrap_or(usize::MAX))?;
    subpacket.split_first().ok_or_else(cut_off)
}

/// Who made it, as an area of subpackets says (RFC 9580 §5.2.3.12 and §5.2.3.35), up to where it makes no sense.
fn issuers(mut area: &[u8]) -> Vec<Vec<u8>> {
    const KEY_ID: u8 = 16;
    const FINGERPRINT: u8 = 33;
    let mut issuers = Vec::new();
    while let Ok((kind, body)) = subpacket(&mut area) {
        match (kind & 0x7f, body) {
            (KEY_ID, id) => issuers.push(id.to_vec()),
            (FINGERPRINT, [_, fingerprint @ ..]) => issuers.push(fingerprint.to_vec()),
            _ => {}
        }
    }
    issuers
}

fn take<'b>(bytes: &mut &'b [u8], len: usize) -> Result<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(taken)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// A number with its zeros in front. `None` if it is longer.
fn padded(number: &[u8], len: usize) -> Option<Vec<u8>> {
    let zeros = len.checked_sub(number.len())?;
    Some([vec![0; zeros], number.to_vec()].concat())
}
