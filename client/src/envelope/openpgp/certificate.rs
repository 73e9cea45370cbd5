//! Somebody to seal to: an OpenPGP certificate (RFC 9580 §10.1) with an RSA key for encrypting.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use const_oid::db::rfc5912::RSA_ENCRYPTION;
use der::{
    Encode,
    asn1::{AnyRef, BitStringRef, UintRef},
};
use spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::{
    armor,
    packet::{
        Head, Length, PUBLIC_KEY, PUBLIC_SUBKEY, SECRET_KEY, SIGNATURE, USER_ATTRIBUTE, USER_ID, cut_off,
        may_be_skipped,
    },
    public_key::{Material, PublicKey, RsaPublicKey, key_id},
    signature::{Signature, kind},
};
use crate::error::{Error, Kind, Result};

/// Largest certificate, in bytes: some have collected thousands of signatures.
const MAX_LEN: usize = 4 * 1024 * 1024;

/// RSA moduli that can be sealed to, in bits.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The key to encrypt to.
pub struct Recipient {
    version: u8,
    fingerprint: Vec<u8>,
    /// The primary key's version and fingerprint.
    certificate: (u8, Vec<u8>),
    reads_v2: bool,
    public_key: Pkcs1PublicEncryptingKey,
}

impl Recipient {
    /// Takes a certificate, binary or armoured, that has an RSA key which is good for encrypting at the time `now`: of
    /// several, the newest. Everything that the certificate says of that key must be signed by its primary key. Whose the
    /// certificate is, the person decides who gave it.
    ///
    /// # Errors
    /// [`Kind::Local`] with the reason.
    pub fn from_certificate(bytes: &[u8], now: SystemTime) -> Result<Self> {
        if bytes.len() > MAX_LEN {
            return Err(unusable("it is larger than 4 MiB"));
        }
        let now = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let parsed = armor::decode_certificate(bytes).and_then(|binary| Certificate::parse(&binary));
        let parsed = parsed.map_err(|error| match error.kind {
            Kind::Integrity => {
                unusable(&error.why).hint("give an OpenPGP certificate, as gpg --export writes it")
            }
            _ => error,
        })?;
        parsed.recipient(now)
    }

    /// The fingerprint of the key.
    pub fn fingerprint(&self) -> &[u8] {
        &self.fingerprint
    }

    /// The short name of the key.
    pub(super) fn key_id(&self) -> [u8; 8] {
        key_id(self.version, &self.fingerprint)
    }

    pub(super) fn version(&self) -> u8 {
        self.version
    }

    /// Version and fingerprint of the certificate, which are its primary key's.
    pub(super) fn certificate(&self) -> (u8, &[u8]) {
        let (version, fingerprint) = &self.certificate;
        (*version, fingerprint)
    }

    /// Whether its owner says that he reads the protection of RFC 9580.
    pub(super) fn reads_v2(&self) -> bool {
        self.reads_v2
    }

    /// Encrypts to it.
    pub(super) fn wrap(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut ciphertext = vec![0; self.public_key.ciphertext_size()];
        self.public_key
            .encrypt(bytes, &mut ciphertext)
            .map_err(|_| unusable("its RSA key cannot encrypt"))?;
        Ok(ciphertext)
    }
}

/// A certificate in its parts.
pub(super) struct Certificate {
    pub(super) primary: PublicKey,
    direct: Vec<Signature>,
    /// User ids and attributes as signatures hash them.
    names: Vec<(Vec<u8>, Vec<Signature>)>,
    pub(super) subkeys: Vec<(PublicKey, Vec<Signature>)>,
}

/// What the signatures that come next are about.
enum About {
    Primary,
    Name,
    Subkey,
    /// Something that is not known here.
    Nothing,
}

impl Certificate {
    /// Reads the packets of one certificate.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for what is cut off; [`Kind::Local`] for what is no certificate, or a private key.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let Some(primary) = next_packet(&mut bytes)? else { return Err(unusable("it is empty")) };
        let primary = match primary {
            (PUBLIC_KEY, content) => PublicKey::parse(content)?,
            (SECRET_KEY, _) => {
                return Err(unusable("it is a private key").hint("give the public one: gpg --export"));
            }
            _ => return Err(unusable("it is no OpenPGP certificate")),
        };
        let mut certificate = Self { primary, direct: Vec::new(), names: Vec::new(), subkeys: Vec::new() };
        let mut about = About::Primary;
        while let Some((tag, content)) = next_packet(&mut bytes)? {
            match tag {
                SIGNATURE => {
                    let Some(signature) = Signature::parse(content)? else { continue };
                    let signatures = match about {
                        About::Primary => Some(&mut certificate.direct),
                        About::Name => certificate.names.last_mut().map(|(_, signatures)| signatures),
                        About::Subkey => certificate.subkeys.last_mut().map(|(_, signatures)| signatures),
                        About::Nothing => None,
                    };
                    if let Some(signatures) = signatures {
                        signatures.push(signature);
                    }
                }
                USER_ID | USER_ATTRIBUTE => {
                    certificate.names.push((hashed_name(tag, content), Vec::new()));
                    about = About::Name;
                }
                PUBLIC_SUBKEY => {
                    // One of a version that is not known here is of no use, and does not harm the others.
                    about = match PublicKey::parse(content) {
                        Ok(key) => {
                            certificate.subkeys.push((key, Vec::new()));
                            About::Subkey
                        }
                        Err(_) => About::Nothing,
                    };
                }
                PUBLIC_KEY => {
                    return Err(unusable("it holds several certificates")
                        .hint("give each recipient's certificate in a file of its own"));
                }
                SECRET_KEY | 7 => {
                    return Err(
                        unusable("there is a private key in it").hint("give the public one: gpg --export")
                    );
                }
                tag if may_be_skipped(tag) || tag == 12 => {}
                tag => {
                    return Err(unusable(&format!(
                        "it has a packet of type {tag}, which is not known there"
                    )));
                }
            }
        }
        Ok(certificate)
    }

    fn recipient(&self, now: u64) -> Result<Recipient> {
        let primary = self.said_of_primary(now)?;
        if let Some(why) = not_now(&self.primary, primary, now) {
            return Err(unusable(&why).hint("ask for the current certificate"));
        }
        let mut problems = Vec::new();
        let mut best: Option<(&PublicKey, &Signature)> = None;
        for (key, signatures) in &self.subkeys {
            match self.said_of_subkey(key, signatures, now) {
                Ok(said) if best.is_none_or(|(other, _)| key.created >= other.created) => {
                    best = Some((key, said))
                }
                Ok(_) => {}
                Err(why) => problems.push(format!("subkey {}: {why}", hex::encode_upper(&key.fingerprint))),
            }
        }
        if best.is_none()
            && primary.allows_encryption()
            && matches!(self.primary.material, Material::Rsa { .. })
        {
            best = Some((&self.primary, primary));
        }
        let Some((key, _)) = best else {
            let mut why = "it has no RSA key for encrypting that is valid now".to_owned();
            if !problems.is_empty() {
                why = format!("{why} ({})", problems.join("; "));
            }
            return Err(unusable(&why).hint("ask for a certificate with an RSA encryption key"));
        };
        Ok(Recipient {
            version: key.version,
            fingerprint: key.fingerprint.clone(),
            certificate: (self.primary.version, self.primary.fingerprint.clone()),
            reads_v2: primary.announces_v2(),
            public_key: rsa(&key.material)?,
        })
    }

    /// The newest that the primary key says of itself.
    ///
    /// # Errors
    /// [`Kind::Local`] if it is revoked, or nothing can be verified.
    pub(super) fn said_of_primary(&self, now: u64) -> Result<&Signature> {
        let own = &self.primary.hashed;
        let revokes =
            |one: &Signature| one.kind == kind::KEY_REVOCATION && one.may_revoke(&self.primary, own);
        if self.direct.iter().any(revokes) {
            return Err(unusable("it is revoked").hint("ask for the current certificate"));
        }
        let direct = self.direct.iter().filter(|one| {
            one.kind == kind::DIRECT_KEY && one.holds_at(now) && one.verifies(&self.primary, own)
        });
        let direct = direct.max_by_key(|one| one.created());
        // RFC 9580 §10.1.1: what holds for a whole certificate of version 6 stands there, and not beside the user ids.
        if let Some(said) = direct.filter(|_| self.primary.version == 6) {
            return Ok(said);
        }
        let named = self.said_of_names(now).map(|(_, said)| said);
        named.chain(direct).max_by_key(|one| one.created()).ok_or_else(|| {
            unusable("its own key signed nothing in it that can be verified (RSA, ECDSA or Ed25519 with SHA-256 or better)")
                .hint("ask its owner for a certificate with newer signatures")
        })
    }

    /// User ids and attributes as signatures hash them, each with the newest that the primary key says of it. Without those
    /// that it took back.
    pub(super) fn said_of_names(&self, now: u64) -> impl Iterator<Item = (&[u8], &Signature)> {
        self.names.iter().filter_map(move |(name, signatures)| {
            let data = [self.primary.hashed.as_slice(), name].concat();
            let valid = |one: &&Signature| one.holds_at(now) && one.verifies(&self.primary, &data);
            let revoked = signatures.iter().any(|one| {
                one.kind == kind::CERTIFICATION_REVOCATION && one.may_revoke(&self.primary, &data)
            });
            let certified =
                signatures.iter().filter(|one| kind::CERTIFICATION.contains(&one.kind)).filter(valid);
            let newest = certified.max_by_key(|one| one.created()).filter(|_| !revoked)?;
            Some((name.as_slice(), newest))
        })
    }

    /// The newest that the primary key says of a subkey.
    ///
    /// # Errors
    /// In text: it is revoked, or none of this certificate.
    pub(super) fn binding_of<'s>(
        &self,
        key: &PublicKey,
        signatures: &'s [Signature],
        now: u64,
    ) -> std::result::Result<&'s Signature, String> {
        let data = self.hashed_with(key);
        let of_kind = |wanted| signatures.iter().filter(move |one| one.kind == wanted);
        if of_kind(kind::SUBKEY_REVOCATION).any(|one| one.may_revoke(&self.primary, &data)) {
            return Err("it is revoked".to_owned());
        }
        let said = of_kind(kind::SUBKEY_BINDING)
            .filter(|one| one.holds_at(now) && one.verifies(&self.primary, &data))
            .max_by_key(|one| one.created());
        said.ok_or_else(|| "the primary key did not sign that it is its own".to_owned())
    }

    /// The primary key and a subkey, as signatures about both hash them.
    pub(super) fn hashed_with(&self, subkey: &PublicKey) -> Vec<u8> {
        [self.primary.hashed.as_slice(), &subkey.hashed].concat()
    }

    fn said_of_subkey<'s>(
        &self,
        key: &PublicKey,
        signatures: &'s [Signature],
        now: u64,
    ) -> std::result::Result<&'s Signature, String> {
        let said = self.binding_of(key, signatures, now)?;
        if !said.allows_encryption() {
            return Err("it is not for encrypting".to_owned());
        }
        if !matches!(key.material, Material::Rsa { .. }) {
            return Err(format!("it is no RSA key (algorithm {})", key.algorithm));
        }
        not_now(key, said, now).map_or(Ok(said), Err)
    }
}

/// Why a key of which this is said may not be used now.
fn not_now(key: &PublicKey, said: &Signature, now: u64) -> Option<String> {
    if u64::from(key.created) > now {
        return Some("it was made later than now: is the clock right?".to_owned());
    }
    said.key_end(key.created).filter(|end| *end <= now).map(|_| "it is expired".to_owned())
}

/// RFC 9580 §5.2.4.
fn hashed_name(tag: u8, content: &[u8]) -> Vec<u8> {
    let kind = if tag == USER_ID { 0xb4 } else { 0xd1 };
    let len = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind], &len[..], content].concat()
}

/// The next packet: its type, and what is in it. `None` at the end.
pub(super) fn next_packet<'b>(bytes: &mut &'b [u8]) -> Result<Option<(u8, &'b [u8])>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (head, used) = Head::parse(bytes)?;
    let Length::Last(len) = head.length else { return Err(cut_off()) };
    let rest = bytes.get(used..).unwrap_or_default();
    let (content, rest) =
        rest.split_at_checked(usize::try_from(len).unwrap_or(usize::MAX)).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(Some((head.tag, content)))
}

fn rsa(material: &Material) -> Result<Pkcs1PublicEncryptingKey> {
    let Material::Rsa { modulus, exponent } = material else { return Err(unusable("its key is no RSA key")) };
    let spki = || -> der::Result<Vec<u8>> {
        let key = RsaPublicKey { modulus: UintRef::new(modulus)?, public_exponent: UintRef::new(exponent)? };
        let key = key.to_der()?;
        let algorithm = AlgorithmIdentifier { oid: RSA_ENCRYPTION, parameters: Some(AnyRef::NULL) };
        SubjectPublicKeyInfo { algorithm, subject_public_key: BitStringRef::from_bytes(&key)? }.to_der()
    };
    let key = spki()
        .ok()
        .and_then(|spki| PublicEncryptingKey::from_der(&spki).ok())
        .and_then(|key| Pkcs1PublicEncryptingKey::new(key).ok())
        .filter(|key| MODULUS_BITS.contains(&key.key_size_bits()));
    key.ok_or_else(|| unusable("its RSA key does not have 2048 to 4096 bits"))
}

fn unusable(why: &str) -> Error {
    Error::new(Kind::Local, "cannot seal to this certificate", why)
}
