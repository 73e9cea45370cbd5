//! A key and its certificates in a PKCS #12 file (RFC 7292), protected by a password: what browsers and CAs hand out.

use aws_lc_rs::{
    digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256},
    hmac,
};
use cms::{content_info::ContentInfo, encrypted_data::EncryptedData};
use der::{
    Any, Decode, Encode, Sequence,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
};
use spki::AlgorithmIdentifierOwned;
use x509_cert::attr::Attribute;
use zeroize::Zeroizing;

use super::pbes2::{self, MAX_ROUNDS};
use crate::envelope::cms::ber::Reader;

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_ENCRYPTED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6");
const ID_KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.1");
const ID_SHROUDED_KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.2");
const ID_CERT_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
const ID_X509: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");
const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const ID_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");

/// RFC 7292 §4.
#[derive(Sequence)]
struct Pfx {
    version: u8,
    auth_safe: ContentInfo,
    #[asn1(optional = "true")]
    mac: Option<MacData>,
}

#[derive(Sequence)]
struct MacData {
    mac: DigestInfo,
    salt: OctetString,
    #[asn1(default = "one")]
    rounds: u32,
}

fn one() -> u32 {
    1
}

#[derive(Sequence)]
struct DigestInfo {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

/// RFC 7292 §4.2.
#[derive(Sequence)]
struct SafeBag {
    id: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: Any,
    #[asn1(optional = "true")]
    attributes: Option<SetOfVec<Attribute>>,
}

/// RFC 5958 §3.
#[derive(Sequence)]
pub(super) struct EncryptedPrivateKey {
    pub(super) algorithm: AlgorithmIdentifierOwned,
    pub(super) data: OctetString,
}

/// RFC 7292 §4.2.3.
#[derive(Sequence)]
struct CertBag {
    id: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: OctetString,
}

/// What was found: a private key (PKCS #8) and certificates, all in DER.
pub(super) struct Contents {
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) certificates: Vec<Vec<u8>>,
}

/// Opens a file.
///
/// # Errors
/// In text: it is no such file, the password is wrong, it is encrypted in an old way, or has no key or several.
pub(super) fn open(bytes: &[u8], password: &str) -> Result<Contents, String> {
    let no_pkcs12 = |_: der::Error| "it is neither PEM nor PKCS #12".to_owned();
    // Some programs write BER.
    let der = Reader::new(&bytes, bytes.len() as u64).element(&mut { bytes.len() as u64 * 2 + 64 });
    let pfx = Pfx::from_der(&der.map_err(|error| error.why)?).map_err(no_pkcs12)?;
    if pfx.version != 3 || pfx.auth_safe.content_type != ID_DATA {
        return Err("it is PKCS #12 of a kind that is not known here".to_owned());
    }
    let safe: OctetString = pfx.auth_safe.content.decode_as().map_err(no_pkcs12)?;
    if let Some(mac) = &pfx.mac {
        mac.check(safe.as_bytes(), password)?;
    }

    let mut keys = Vec::new();
    let mut certificates = Vec::new();
    for part in Vec::<ContentInfo>::from_der(safe.as_bytes()).map_err(no_pkcs12)? {
        let bags = bags(&part, password)?;
        for bag in Vec::<SafeBag>::from_der(&bags).map_err(no_pkcs12)? {
            match bag.id {
                ID_KEY_BAG => keys.push(Zeroizing::new(bag.value.to_der().map_err(no_pkcs12)?)),
                ID_SHROUDED_KEY_BAG => {
                    let shrouded: EncryptedPrivateKey = bag.value.decode_as().map_err(no_pkcs12)?;
                    keys.push(pbes2::decrypt(
                        &shrouded.algorithm,
                        shrouded.data.as_bytes(),
                        password.as_bytes(),
                    )?);
                }
                ID_CERT_BAG => {
                    let certificate: CertBag = bag.value.decode_as().map_err(no_pkcs12)?;
                    if certificate.id == ID_X509 {
                        certificates.push(certificate.value.as_bytes().to_vec());
                    }
                }
                _ => {}
            }
        }
    }
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(Contents { key, certificates }),
        (Some(_), false) => Err("it has several keys".to_owned()),
        (None, _) => Err("it has no key".to_owned()),
    }
}

fn bags(part: &ContentInfo, password: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |_: der::Error| "it is damaged".to_owned();
    match part.content_type {
        ID_DATA => {
            let bags: OctetString = part.content.decode_as().map_err(unreadable)?;
            Ok(Zeroizing::new(bags.as_bytes().to_vec()))
        }
        ID_ENCRYPTED_DATA => {
            let data: EncryptedData = part.content.decode_as().map_err(unreadable)?;
            let info = data.enc_content_info;
            let ciphertext = info.encrypted_content.ok_or("it is damaged")?;
            pbes2::decrypt(&info.content_enc_alg, ciphertext.as_bytes(), password.as_bytes())
        }
        _ => Err("it is protected by something else than a password".to_owned()),
    }
}

impl MacData {
    fn check(&self, content: &[u8], password: &str) -> Result<(), String> {
        let (hash, algorithm) = match self.mac.algorithm.oid {
            ID_SHA1 => (&SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            ID_SHA256 => (&SHA256, hmac::HMAC_SHA256),
            other => return Err(format!("its authentication ({other}) is not known here")),
        };
        if self.rounds == 0 || self.rounds > MAX_ROUNDS {
            return Err("its number of rounds is not sound".to_owned());
        }
        let key = mac_key(hash, password, self.salt.as_bytes(), self.rounds);
        let key = hmac::Key::new(algorithm, &key);
        hmac::verify(&key, content, self.mac.digest.as_bytes())
            .map_err(|_| "the password is wrong, or it is damaged".to_owned())
    }
}

/// RFC 7292 appendix B.2, for a key that is as long as the hash.
fn mac_key(hash: &'static digest::Algorithm, password: &str, salt: &[u8], rounds: u32) -> Zeroizing<Vec<u8>> {
    const FOR_MAC: u8 = 3;
    let block = hash.block_len();
    let filled = |bytes: &[u8]| -> Vec<u8> {
        let len = bytes.len().next_multiple_of(block);
        bytes.iter().copied().cycle().take(len).collect()
    };
    // Appendix B.1: UTF-16, big-endian, with a zero at the end.
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect());
    let text = Zeroizing::new(filled(&text));
    let input = Zeroizing::new([vec![FOR_MAC; block].as_slice(), &filled(salt), &text].concat());
    let mut key = Zeroizing::new(digest::digest(hash, &input).as_ref().to_vec());
    for _ in 1..rounds {
        key = Zeroizing::new(digest::digest(hash, &key).as_ref().to_vec());
    }
    key
}
