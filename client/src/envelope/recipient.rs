//! Somebody to seal to: the public half of a wrapping key, as its X.509 certificate presents it.

use std::time::SystemTime;

use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
use const_oid::db::rfc5912::RSA_ENCRYPTION;
use custodian_proto::key::{FileKey, KeyId, KeyWrapping, WrappedKey};
use der::{Decode, Encode, asn1::ObjectIdentifier};
use spki::AlgorithmIdentifierOwned;
use x509_cert::{
    Certificate,
    ext::pkix::{KeyUsage, SubjectKeyIdentifier},
};

use super::oaep;
use crate::error::{Error, Kind, Result};

/// RFC 4262: the certificate announces what the key can do in this extension.
const SMIME_CAPABILITIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.15");

/// What nearly every key can do, if its certificate does not say.
const USUAL_WRAPPING: KeyWrapping = KeyWrapping::OaepSha256;

/// RSA moduli that can be sealed to, in bits.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The public half of a wrapping key.
pub struct Recipient {
    key_id: KeyId,
    wrapping: KeyWrapping,
    public_key: OaepPublicEncryptingKey,
}

impl Recipient {
    /// Takes a certificate (DER) that is good for sealing at the time `now`. Whose it is, the person decides who gave
    /// it: no chain is built.
    ///
    /// # Errors
    /// [`Kind::Local`]: no certificate, not valid now, not an RSA key of 2048 to 4096 bits, or not meant for this.
    pub fn from_certificate(der: &[u8], now: SystemTime) -> Result<Self> {
        let certificate = Certificate::from_der(der).map_err(|why| {
            unusable(format!("it is no X.509 certificate ({why})")).hint("give a certificate in PEM or DER")
        })?;
        check_validity(&certificate, now)?;
        check_usage(&certificate)?;
        let public_key = rsa_key(&certificate)?;
        Ok(Self { key_id: key_id(&certificate)?, wrapping: announced_wrapping(&certificate)?, public_key })
    }

    /// The wrapping key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// How it wants file keys wrapped.
    pub fn wrapping(&self) -> KeyWrapping {
        self.wrapping
    }

    /// Wraps a file key for it.
    ///
    /// # Errors
    /// [`Kind::Local`] if the cryptographic library refuses.
    pub fn wrap(&self, file_key: &FileKey) -> Result<WrappedKey> {
        let mut ciphertext = vec![0; self.public_key.ciphertext_size()];
        let algorithm = oaep::implementation(self.wrapping)
            .ok_or_else(|| unusable("its key is not one for RSA-OAEP".into()))?;
        self.public_key
            .encrypt(algorithm, file_key.expose(), &mut ciphertext, None)
            .map_err(|_| unusable("its RSA key cannot encrypt".into()))?;
        WrappedKey::new(self.key_id, self.wrapping, ciphertext)
            .ok_or_else(|| unusable("its RSA key is too large".into()))
    }
}

fn check_validity(certificate: &Certificate, now: SystemTime) -> Result<()> {
    let validity = certificate.tbs_certificate().validity();
    if now < validity.not_before.to_system_time() {
        let why = format!("its period for sealing begins at {}", validity.not_before);
        return Err(unusable(why).hint("wait until then, or check the clock"));
    }
    if now > validity.not_after.to_system_time() {
        let why = format!("its period for sealing ended at {} (the certificate expired)", validity.not_after);
        return Err(unusable(why).hint("ask for the certificate of the key's current version"));
    }
    Ok(())
}

fn check_usage(certificate: &Certificate) -> Result<()> {
    let usage = certificate
        .tbs_certificate()
        .get_extension::<KeyUsage>()
        .map_err(|_| unusable("its key usage cannot be read".into()))?;
    match usage {
        Some((_, usage)) if !usage.key_encipherment() => Err(unusable(
            "its key is not meant for encrypting keys (keyUsage lacks keyEncipherment)".into(),
        )
        .hint(
            "ask for the certificate of a wrapping key; one for OpenPGP is sealed to with --format openpgp",
        )),
        _ => Ok(()),
    }
}

fn rsa_key(certificate: &Certificate) -> Result<OaepPublicEncryptingKey> {
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der();
    let key = spki
        .ok()
        .and_then(|spki| PublicEncryptingKey::from_der(&spki).ok())
        .and_then(|key| OaepPublicEncryptingKey::new(key).ok())
        .ok_or_else(|| unusable("its key is not an RSA key of 2048 to 4096 bits".into()))?;
    if !MODULUS_BITS.contains(&key.key_size_bits()) {
        return Err(unusable(format!("its RSA key has {} bits, not 2048 to 4096", key.key_size_bits())));
    }
    Ok(key)
}

fn key_id(certificate: &Certificate) -> Result<KeyId> {
    let extension = certificate
        .tbs_certificate()
        .get_extension::<SubjectKeyIdentifier>()
        .map_err(|_| unusable("its key identifier cannot be read".into()))?;
    match extension {
        Some((_, id)) => KeyId::from_bytes(id.0.as_bytes()).ok_or_else(|| {
            unusable(format!("its key identifier has {} bytes, not 20", id.0.as_bytes().len()))
        }),
        None => Ok(KeyId::of_public_key(
            certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes(),
        )),
    }
}

/// The strongest wrapping that the certificate announces.
fn announced_wrapping(certificate: &Certificate) -> Result<KeyWrapping> {
    let extensions = certificate.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
    let Some(extension) = extensions.iter().find(|extension| extension.extn_id == SMIME_CAPABILITIES) else {
        return Ok(USUAL_WRAPPING);
    };
    // A SMIMECapability has the shape of an AlgorithmIdentifier (RFC 8551 §2.5.2).
    let capabilities = Vec::<AlgorithmIdentifierOwned>::from_der(extension.extn_value.as_bytes())
        .map_err(|_| unusable("its S/MIME capabilities cannot be read".into()))?;
    let mentions_pkcs1 = capabilities.iter().any(|capability| capability.oid == RSA_ENCRYPTION);
    let mentions_oaep = capabilities.iter().any(|capability| capability.oid == oaep::ID_RSAES_OAEP);
    match capabilities.iter().filter_map(oaep::from_algorithm).max() {
        Some(strongest) => Ok(strongest),
        None if mentions_pkcs1 => Err(unusable("its key was made for RSA PKCS #1 v1.5 only".into())
            .hint("that is for what others seal: give the certificate of a key that was made for sealing")),
        None if mentions_oaep => {
            Err(unusable("it asks for a kind of RSA-OAEP that is not known here".into()))
        }
        None => Ok(USUAL_WRAPPING),
    }
}

fn unusable(why: String) -> Error {
    Error::new(Kind::Local, "cannot seal to this certificate", why)
}
