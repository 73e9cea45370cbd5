//! Secrets that are encrypted with a password: PBES2 of RFC 8018, with PBKDF2 and AES in CBC mode. What `openssl` writes since
//! version 3, and others about as long.
//!
//! Not by the crate `pkcs5`, which writes and reads our own key files (`person/key_file.rs`): it takes ten times as many rounds
//! from whoever made the file, and has HMAC-SHA1, which older PKCS #12 files are derived with, only as `sha1-insecure`.

use std::num::NonZeroU32;

use aws_lc_rs::{
    cipher::{AES_128, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey},
    iv::FixedLength,
    pbkdf2,
};
use der::{
    Any, DecodeValue, FixedTag, Sequence,
    asn1::{ObjectIdentifier, OctetString},
};
use spki::AlgorithmIdentifierOwned;
use zeroize::Zeroizing;

const ID_PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const ID_PBKDF2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.12");
const ID_AES128_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.2");
const ID_AES256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
const PRFS: [(ObjectIdentifier, pbkdf2::Algorithm); 4] = [
    (ObjectIdentifier::new_unwrap("1.2.840.113549.2.7"), pbkdf2::PBKDF2_HMAC_SHA1),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.2.9"), pbkdf2::PBKDF2_HMAC_SHA256),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.2.10"), pbkdf2::PBKDF2_HMAC_SHA384),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.2.11"), pbkdf2::PBKDF2_HMAC_SHA512),
];

/// Most rounds. More would be an attack on our time: these take seconds.
pub(super) const MAX_ROUNDS: u32 = 10_000_000;

/// RFC 8018 appendix A.4.
#[derive(Sequence)]
struct Parameters {
    kdf: AlgorithmIdentifierOwned,
    encryption: AlgorithmIdentifierOwned,
}

/// RFC 8018 appendix A.2.
#[derive(Sequence)]
struct KdfParameters {
    salt: OctetString,
    rounds: u32,
    #[asn1(optional = "true")]
    key_len: Option<u16>,
    /// Left out: HMAC-SHA1.
    #[asn1(optional = "true")]
    prf: Option<AlgorithmIdentifierOwned>,
}

/// Decrypts.
///
/// # Errors
/// In text: the algorithm is not known here, or the password is wrong.
pub(super) fn decrypt(
    algorithm: &AlgorithmIdentifierOwned,
    ciphertext: &[u8],
    password: &[u8],
) -> Result<Zeroizing<Vec<u8>>, String> {
    let old = || {
        "it is encrypted in a way that is not known here; write it anew: \
         openssl pkcs12 -legacy -in OLD -nodes | openssl pkcs12 -export -out NEW"
            .to_owned()
    };
    let Parameters { kdf, encryption } = parameters(algorithm, ID_PBES2).ok_or_else(old)?;
    let KdfParameters { salt, rounds, prf, .. } = parameters(&kdf, ID_PBKDF2).ok_or_else(old)?;
    let prf = prf.map_or(PRFS[0].0, |prf| prf.oid);
    let (_, prf) = PRFS.into_iter().find(|(oid, _)| *oid == prf).ok_or_else(old)?;
    let cipher = match encryption.oid {
        ID_AES128_CBC => &AES_128,
        ID_AES256_CBC => &AES_256,
        _ => return Err(old()),
    };
    let iv: OctetString = parameters(&encryption, encryption.oid).ok_or_else(old)?;
    let iv: [u8; 16] = iv.as_bytes().try_into().map_err(|_| old())?;
    let rounds = NonZeroU32::new(rounds)
        .filter(|rounds| rounds.get() <= MAX_ROUNDS)
        .ok_or("its number of rounds is not sound")?;

    let mut key = Zeroizing::new(vec![0; if encryption.oid == ID_AES128_CBC { 16 } else { 32 }]);
    pbkdf2::derive(prf, rounds, salt.as_bytes(), password, &mut key);
    let mut bytes = Zeroizing::new(ciphertext.to_vec());
    let key = UnboundCipherKey::new(cipher, &key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
    let plain = key.and_then(|key| {
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        key.decrypt(&mut bytes, context).map(|plain| Zeroizing::new(plain.to_vec()))
    });
    plain.map_err(|_| "the password is wrong".to_owned())
}

/// The parameters of this algorithm; `None` if it is another.
fn parameters<T>(algorithm: &AlgorithmIdentifierOwned, oid: ObjectIdentifier) -> Option<T>
where
    T: for<'a> DecodeValue<'a, Error = der::Error> + FixedTag + 'static,
{
    let parameters: &Any = algorithm.parameters.as_ref().filter(|_| algorithm.oid == oid)?;
    parameters.decode_as().ok()
}
