//! Signatures (RFC 9580 §5.2): those that make the parts of a certificate belong together, and those of documents.

use aws_lc_rs::{
    digest::{self, Context, Digest, SHA256, SHA384, SHA512},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
        ECDSA_P521_SHA512_ASN1, ED25519, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
        RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use der::{Encode, Sequence, asn1::UintRef};

use super::{
    packet::cut_off,
    public_key::{EDDSA_LEGACY, Material, P_256, P_384, P_521, PublicKey, take_mpi},
};
use crate::error::Result;

/// RFC 9580 §5.2.1.
pub(super) mod kind {
    use std::ops::RangeInclusive;

    /// Of a document, byte for byte.
    pub(crate) const BINARY: u8 = 0x00;
    /// Of a text, whose lines end with CR and LF.
    pub(crate) const TEXT: u8 = 0x01;
    /// A user id belongs to the primary key.
    pub(crate) const CERTIFICATION: RangeInclusive<u8> = 0x10..=0x13;
    pub(crate) const SUBKEY_BINDING: u8 = 0x18;
    /// A subkey that signs belongs to the primary key, as the subkey says.
    pub(crate) const PRIMARY_KEY_BINDING: u8 = 0x19;
    /// What is said of the primary key itself.
    pub(crate) const DIRECT_KEY: u8 = 0x1f;
    pub(crate) const KEY_REVOCATION: u8 = 0x20;
    pub(crate) const SUBKEY_REVOCATION: u8 = 0x28;
    pub(crate) const CERTIFICATION_REVOCATION: u8 = 0x30;
}

/// RFC 9580 §9.5.
pub(super) const SHA_256: u8 = 8;
pub(super) const SHA_384: u8 = 9;
pub(super) const SHA_512: u8 = 10;

/// RFC 9580 §5.2.3.7: subpackets that are read or written.
pub(super) mod subpacket {
    pub(crate) const CREATED: u8 = 2;
    pub(crate) const EXPIRES: u8 = 3;
    pub(crate) const KEY_EXPIRES: u8 = 9;
    pub(crate) const ISSUER: u8 = 16;
    pub(crate) const KEY_FLAGS: u8 = 27;
    pub(crate) const FEATURES: u8 = 30;
    pub(crate) const EMBEDDED_SIGNATURE: u8 = 32;
    pub(crate) const ISSUER_FINGERPRINT: u8 = 33;
    pub(crate) const INTENDED_RECIPIENT: u8 = 35;
}

/// Subpackets (RFC 9580 §5.2.3.7) that need no attention here, though they may be critical.
/// A notation (20) is none of them: who makes one critical wants it understood (RFC 9580 §5.2.3.24).
const HARMLESS: [u8; 18] = [4, 5, 7, 11, 16, 21, 22, 23, 24, 25, 26, 28, 29, 31, 32, 33, 34, 39];

/// The hash of this number; `None` for those that nothing is verified with, such as SHA-1.
pub(super) fn hash_algorithm(hash: u8) -> Option<&'static digest::Algorithm> {
    match hash {
        SHA_256 => Some(&SHA256),
        SHA_384 => Some(&SHA384),
        SHA_512 => Some(&SHA512),
        _ => None,
    }
}

/// Its name (RFC 9580 §9.5).
pub(super) fn hash_name(hash: u8) -> String {
    match hash {
        1 => "MD5".to_owned(),
        2 => "SHA-1".to_owned(),
        3 => "RIPEMD-160".to_owned(),
        SHA_256 => "SHA-256".to_owned(),
        SHA_384 => "SHA-384".to_owned(),
        SHA_512 => "SHA-512".to_owned(),
        11 => "SHA-224".to_owned(),
        other => format!("hash {other}"),
    }
}

/// How much salt goes before what a signature of version 6 is of (RFC 9580 §9.5).
pub(super) fn salt_len(hash: u8) -> Option<usize> {
    hash_algorithm(hash).map(|algorithm| algorithm.output_len() / 2)
}

/// A hash that begins with this salt; `None` if nothing is verified with it.
pub(super) fn salted(hash: u8, salt: &[u8]) -> Option<Context> {
    let mut context = Context::new(hash_algorithm(hash)?);
    context.update(salt);
    Some(context)
}

/// A signature that was read, and not verified yet.
#[derive(Clone)]
pub(super) struct Signature {
    pub(super) kind: u8,
    pub(super) version: u8,
    pub(super) hash: u8,
    pub(super) salt: Vec<u8>,
    /// From the version to the end of the hashed subpackets.
    hashed: Vec<u8>,
    material: Vec<u8>,
    facts: Facts,
    /// Key ids and fingerprints of who made it, as it says; nothing signs some of these.
    pub(super) issuers: Vec<Vec<u8>>,
    /// Signatures in it, which are of their own worth: the content of their packets.
    embedded: Vec<Vec<u8>>,
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
#[derive(Clone, Default)]
struct Facts {
    created: Option<u32>,
    expires_after: Option<u32>,
    key_expires_after: Option<u32>,
    key_flags: Option<u8>,
    features: u8,
    /// Fingerprints of whom the signed message is encrypted to.
    intended: Vec<Vec<u8>>,
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
        let embedded = [embedded(subpackets), embedded(unhashed)].concat();
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
        Ok(Some(Self {
            kind,
            version,
            hash,
            salt,
            hashed,
            material: rest.to_vec(),
            facts,
            issuers,
            embedded,
        }))
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
            embedded: Vec::new(),
        })
    }

    /// When it was made, in seconds since 1970.
    pub(super) fn created(&self) -> u32 {
        self.facts.created.unwrap_or_default()
    }

    /// When it was made, if it says so. A signature of a document must.
    pub(super) fn created_if_told(&self) -> Option<u32> {
        self.facts.created
    }

    /// The number of the algorithm.
    pub(super) fn algorithm(&self) -> u8 {
        self.hashed.get(2).copied().unwrap_or_default()
    }

    /// Fingerprints of whom the signed message is encrypted to, if it says so (RFC 9580 §5.2.3.36).
    pub(super) fn intended(&self) -> &[Vec<u8>] {
        &self.facts.intended
    }

    /// Signatures in it that can be read (RFC 9580 §5.2.3.34).
    pub(super) fn embedded(&self) -> impl Iterator<Item = Self> {
        self.embedded.iter().filter_map(|packet| Self::parse(packet).ok().flatten())
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

    /// Whether the key that it is about is meant for signing documents.
    pub(super) fn allows_signing(&self) -> bool {
        const TO_SIGN: u8 = 0x02;
        self.facts.key_flags.is_some_and(|flags| flags & TO_SIGN != 0)
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
        let Some(mut hash) = self.begin() else { return Checked::Unknown };
        hash.update(data);
        self.checked_over(key, hash)
    }

    /// The hash of what it is of, with what comes first; `None` if nothing is verified with it.
    pub(super) fn begin(&self) -> Option<Context> {
        if self.version == 6 && salt_len(self.hash) != Some(self.salt.len()) {
            return None;
        }
        salted(self.hash, &self.salt)
    }

    /// Whether this key made it. `hash` is of all that it is of.
    pub(super) fn checked_over(&self, key: &PublicKey, mut hash: Context) -> Checked {
        if self.hashed.get(2) != Some(&key.algorithm) || self.version != key.version {
            return Checked::Unknown;
        }
        hash.update(&self.hashed);
        hash.update(&trailer(self.version, &self.hashed));
        match (self.can_be_checked(key), self.check(key, &hash.finish())) {
            (_, Some(())) => Checked::Good,
            (true, None) => Checked::Bad,
            (false, None) => Checked::Unknown,
        }
    }

    /// Whether [`Signature::check`] knows the algorithms.
    fn can_be_checked(&self, key: &PublicKey) -> bool {
        match &key.material {
            Material::Ecdsa { curve, .. } => ecdsa(curve, self.hash).is_some(),
            Material::Rsa { .. } | Material::Ed25519(_) => hash_algorithm(self.hash).is_some(),
            Material::Other => false,
        }
    }

    fn check(&self, key: &PublicKey, digest: &Digest) -> Option<()> {
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
                key.to_parsed_public_key(parameters).ok()?.verify_digest_sig(digest, &signature).ok()
            }
            Material::Ecdsa { curve, point } => {
                let algorithm = ecdsa(curve, self.hash)?;
                let (r, s) = (take_mpi(&mut rest).ok()?, take_mpi(&mut rest).ok()?);
                let value = EcdsaSigValue { r: UintRef::new(r).ok()?, s: UintRef::new(s).ok()? };
                UnparsedPublicKey::new(algorithm, point).verify_digest(digest, &value.to_der().ok()?).ok()
            }
            Material::Ed25519(point) => {
                let signature = match key.algorithm {
                    EDDSA_LEGACY => {
                        let (r, s) = (take_mpi(&mut rest).ok()?, take_mpi(&mut rest).ok()?);
                        [padded(r, 32)?, padded(s, 32)?].concat()
                    }
                    _ => rest.to_vec(),
                };
                UnparsedPublicKey::new(&ED25519, point).verify(digest.as_ref(), &signature).ok()
            }
            Material::Other => None,
        }
    }
}

/// RFC 3279 §2.2.3.
#[derive(Sequence)]
pub(super) struct EcdsaSigValue<'a> {
    pub(super) r: UintRef<'a>,
    pub(super) s: UintRef<'a>,
}

/// How signatures on this curve over this hash are verified.
fn ecdsa(curve: &[u8], hash: u8) -> Option<&'static EcdsaVerificationAlgorithm> {
    Some(match (curve, hash) {
        (P_256, SHA_256) => &ECDSA_P256_SHA256_ASN1,
        (P_256, SHA_384) => &ECDSA_P256_SHA384_ASN1,
        (P_256, SHA_512) => &ECDSA_P256_SHA512_ASN1,
        (P_384, SHA_256) => &ECDSA_P384_SHA256_ASN1,
        (P_384, SHA_384) => &ECDSA_P384_SHA384_ASN1,
        (P_384, SHA_512) => &ECDSA_P384_SHA512_ASN1,
        (P_521, SHA_256) => &ECDSA_P521_SHA256_ASN1,
        (P_521, SHA_384) => &ECDSA_P521_SHA384_ASN1,
        (P_521, SHA_512) => &ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}

/// What is hashed last (RFC 9580 §5.2.4).
pub(super) fn trailer(version: u8, hashed: &[u8]) -> Vec<u8> {
    let len = u32::try_from(hashed.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[version, 0xff], &len[..]].concat()
}

impl Facts {
    fn parse(mut area: &[u8]) -> Result<Self> {
        let mut facts = Self::default();
        while !area.is_empty() {
            let (first, body) = next_subpacket(&mut area)?;
            let critical = first & 0x80 != 0;
            let time = || <[u8; 4]>::try_from(body).ok().map(u32::from_be_bytes);
            match first & 0x7f {
                subpacket::CREATED => facts.created = time(),
                // An end that cannot be read is not no end.
                subpacket::EXPIRES | subpacket::KEY_EXPIRES if body.len() != 4 => facts.not_understood = true,
                subpacket::EXPIRES => facts.expires_after = time(),
                subpacket::KEY_EXPIRES => facts.key_expires_after = time(),
                subpacket::KEY_FLAGS => {
                    facts.key_flags = Some(body.first().copied().unwrap_or_default());
                }
                subpacket::FEATURES => facts.features = body.first().copied().unwrap_or_default(),
                subpacket::INTENDED_RECIPIENT => {
                    // The first byte is the version of the key.
                    facts.intended.push(body.get(1..).unwrap_or_default().to_vec());
                }
                known if HARMLESS.contains(&known) => {}
                _ => facts.not_understood |= critical,
            }
        }
        Ok(facts)
    }
}

/// The next one: its type, and what is in it. RFC 9580 §5.2.3.7: its length is not as of packets. Nothing comes in parts, so a
/// length of two bytes begins with anything from 192 to 254.
fn next_subpacket<'b>(area: &mut &'b [u8]) -> Result<(&'b u8, &'b [u8])> {
    let len = match *take(area, 1)? {
        [first @ 192..=254] => (usize::from(first - 192) << 8) + number(take(area, 1)?) + 192,
        [255] => number(take(area, 4)?),
        ref short => number(short),
    };
    take(area, len)?.split_first().ok_or_else(cut_off)
}

/// Who made it, as an area of subpackets says (RFC 9580 §5.2.3.12 and §5.2.3.35), up to where it makes no sense.
fn issuers(area: &[u8]) -> Vec<Vec<u8>> {
    let named = subpackets(area).filter_map(|(kind, body)| match (kind, body) {
        (subpacket::ISSUER, id) => Some(id.to_vec()),
        (subpacket::ISSUER_FINGERPRINT, [_, fingerprint @ ..]) => Some(fingerprint.to_vec()),
        _ => None,
    });
    named.collect()
}

/// Signatures in an area of subpackets, up to where it makes no sense.
fn embedded(area: &[u8]) -> Vec<Vec<u8>> {
    let found = subpackets(area).filter(|(kind, _)| *kind == subpacket::EMBEDDED_SIGNATURE);
    found.map(|(_, body)| body.to_vec()).collect()
}

fn subpackets(mut area: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, body) = next_subpacket(&mut area).ok()?;
        Some((kind & 0x7f, body))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9580 §5.2.3.7.
    #[test]
    fn subpackets_of_any_length_are_read_and_so_is_what_follows() {
        let lengths: [(usize, &[u8]); 8] = [
            (1, &[1]),
            (191, &[191]),
            (192, &[192, 0]),
            (8_383, &[223, 255]),
            (8_384, &[224, 0]),
            (16_319, &[254, 255]),
            (16_320, &[255, 0, 0, 0x3f, 0xc0]),
            (5, &[255, 0, 0, 0, 5]),
        ];
        for (len, coded) in lengths {
            let behind = [5, subpacket::CREATED, 0, 0, 0, 7];
            let subpacket = [&[100][..], &vec![0; len - 1]].concat();
            let area = [coded, &subpacket, &behind].concat();
            let mut rest = area.as_slice();
            let (kind, body) = next_subpacket(&mut rest).expect("read");
            assert_eq!((*kind, body.len(), rest), (100, len - 1, &behind[..]));
            assert_eq!(Facts::parse(&area).expect("read").created, Some(7));
            for cut in 1..coded.len() + len {
                assert!(next_subpacket(&mut &area[..cut]).is_err(), "{cut} of {len}");
            }
        }
        assert!(next_subpacket(&mut &[0_u8, 0][..]).is_err(), "without a type");
    }
}
