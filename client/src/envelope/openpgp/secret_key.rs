//! A key for signing: a person's own (RFC 9580 §10.2), as `gpg --export-secret-keys` and `sq key generate` write it, or one elsewhere.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest::Digest,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use custodian_proto::{
    openpgp::{mpi, packet},
    secret::Secret as Passphrase,
};
use der::{Decode, Encode, Sequence, asn1::UintRef};
use zeroize::Zeroizing;

use super::{
    armor,
    certificate::{Certificate, next_packet},
    locked::{Secret, SecretKey},
    packet::{Head, PUBLIC_KEY, PUBLIC_SUBKEY, SECRET_KEY, SECRET_SUBKEY},
    public_key::{ECDSA, EDDSA_LEGACY, Material, P_256, P_384, P_521, PublicKey, key_id, take_mpi},
    s2k::MAX_MEMORY,
    signature::{EcdsaSigValue, SHA_256, SHA_384, SHA_512},
    signer::{check_adopted, check_alive},
};
use crate::{
    error::{Error, Kind, Result},
    private_file,
};

/// A private key in this process's memory, or in the custodian's token, and what its certificate says of it. aws-lc's private
/// operations take the same time whatever the key.
pub struct SigningKey {
    key: Key,
    /// Of the public key.
    pub(super) version: u8,
    pub(super) algorithm: u8,
    pub(super) fingerprint: Vec<u8>,
    /// The hash that it signs (RFC 9580 §9.5).
    pub(super) hash: u8,
}

/// Signs a SHA-256 digest with ECDSA on P-256: the signature in DER.
pub type EcdsaSigner = Box<dyn Fn(&[u8]) -> Result<Vec<u8>> + Send + Sync>;

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Elsewhere(EcdsaSigner),
}

const UNUSABLE: &str = "cannot sign with this key";

/// What helps against a form that is not read here, and against damage.
const EXPORT_ANEW: &str = "export the key anew with gpg, which writes a form that is read here: gpg --export-secret-keys ADDRESS > my.key";
/// What helps against a wrong passphrase.
const TYPE_AGAIN: &str = "type it again; or export the key anew, with the passphrase it has now: gpg --export-secret-keys ADDRESS > my.key";

/// Whether this is an OpenPGP secret key, binary or armoured.
pub fn is_secret_key(bytes: &[u8]) -> bool {
    armor::is_block(bytes, armor::SECRET_KEY)
        || matches!(Head::parse(bytes), Ok((head, used))
            if head.tag == SECRET_KEY && matches!(bytes.get(used), Some(3..=6)))
}

impl SigningKey {
    /// Reads a secret key, binary or armoured: of its subkeys for signing the newest that is good now, else the primary key.
    /// `passphrase` is asked if there is need for it.
    ///
    /// # Errors
    /// [`Kind::Local`] if the file cannot be read or used, other users can read it, the passphrase is wrong, or none of its keys
    /// can sign; and those of `passphrase`.
    pub fn open(file: &Path, passphrase: &dyn Fn() -> Result<Passphrase>) -> Result<Self> {
        let cannot = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, format!("cannot sign with the key {}", file.display()), why)
        };
        let bytes = private_file::read(file, &cannot)?;
        if !is_secret_key(&bytes) {
            return Err(cannot(&"it is no OpenPGP secret key")
                .hint("give what this writes: gpg --export-secret-keys ADDRESS > my.key"));
        }
        let named = |error: Error| match error.what.as_str() {
            UNUSABLE => Error { what: format!("cannot sign with the key {}", file.display()), ..error },
            _ => error,
        };
        Self::from_bytes(&bytes, SystemTime::now(), MAX_MEMORY, passphrase).map_err(named)
    }

    /// As [`SigningKey::open`], of the content of a file. `memory`: KiB that hashing the passphrase may take at most.
    ///
    /// # Errors
    /// As [`SigningKey::open`].
    pub fn from_bytes(
        bytes: &[u8],
        now: SystemTime,
        memory: u32,
        passphrase: &dyn Fn() -> Result<Passphrase>,
    ) -> Result<Self> {
        let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, UNUSABLE, why);
        let now = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let binary = armor::decode_block(bytes, armor::SECRET_KEY).map_err(|error| cannot(&error.why))?;
        let parts = Parts::parse(&binary).map_err(|error| cannot(&error.why).hint(error.hint))?;
        let mut problems = Vec::new();
        for (public, secret) in parts.signing(now, &mut problems) {
            let secret = secret.read(memory).map_err(|why| cannot(&why).hint(EXPORT_ANEW))?;
            let opened;
            let numbers = match &secret {
                Secret::Elsewhere => {
                    problems
                        .push(format!("{}: it is not in the file", hex::encode_upper(&public.fingerprint)));
                    continue;
                }
                Secret::Plain(numbers) => numbers,
                Secret::Encrypted(encrypted) => {
                    let passphrase = passphrase()?;
                    let decrypted = encrypted.decrypt(passphrase.expose().as_bytes());
                    opened = decrypted.map_err(|why| cannot(&why).hint(TYPE_AGAIN))?;
                    opened.as_slice()
                }
            };
            let (key, hash) = Key::read(public, numbers).ok_or_else(|| {
                cannot(&"it is neither RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or P-521, nor Ed25519")
            })?;
            let PublicKey { version, algorithm, fingerprint, .. } = public.clone();
            return Ok(Self { key, version, algorithm, fingerprint, hash });
        }
        let mut why = "none of its keys can sign now".to_owned();
        if !problems.is_empty() {
            why = format!("{why} ({})", problems.join("; "));
        }
        Err(cannot(&why))
    }

    /// A key that is somewhere else, on P-256 and of version 4, with this fingerprint.
    pub fn elsewhere(fingerprint: [u8; 20], signer: EcdsaSigner) -> Self {
        let (key, fingerprint) = (Key::Elsewhere(signer), fingerprint.to_vec());
        Self { key, version: 4, algorithm: ECDSA, fingerprint, hash: SHA_256 }
    }

    /// Its short name.
    pub(super) fn key_id(&self) -> [u8; 8] {
        key_id(self.version, &self.fingerprint)
    }

    /// Signs: what stands at the end of a signature packet.
    ///
    /// # Errors
    /// [`Kind::Local`] if the cryptographic library refuses; and whatever keeps a key elsewhere from signing.
    pub(super) fn sign(&self, digest: &Digest) -> Result<Vec<u8>> {
        let failed = |_| Error::new(Kind::Local, "cannot sign", "the cryptographic library refuses");
        let halves = |signature: &[u8]| {
            let (r, s) = signature.split_at(signature.len() / 2);
            [mpi(r), mpi(s)].concat()
        };
        match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(&RSA_PKCS1_SHA256, digest, &mut signature).map_err(failed)?;
                Ok(mpi(&signature))
            }
            Key::Ecdsa(key) => Ok(halves(key.sign_digest(digest).map_err(failed)?.as_ref())),
            Key::Ed25519(key) => {
                let signature = key.try_sign(digest.as_ref()).map_err(failed)?;
                Ok(match self.algorithm {
                    EDDSA_LEGACY => halves(signature.as_ref()),
                    _ => signature.as_ref().to_vec(),
                })
            }
            Key::Elsewhere(signer) => {
                let signature = signer(digest.as_ref())?;
                let EcdsaSigValue { r, s } = EcdsaSigValue::from_der(&signature).map_err(|why| {
                    Error::new(Kind::Integrity, "cannot sign", format!("the signature is none: {why}"))
                })?;
                Ok([mpi(r.as_bytes()), mpi(s.as_bytes())].concat())
            }
        }
    }
}

/// A secret key in its parts.
struct Parts<'p> {
    certificate: Certificate,
    /// Each with its fingerprint.
    secrets: Vec<(Vec<u8>, SecretKey<'p>)>,
}

impl<'p> Parts<'p> {
    fn parse(mut bytes: &'p [u8]) -> Result<Self> {
        let mut public = Vec::new();
        let mut secrets = Vec::new();
        let mut seen = 0;
        while let Some((tag, content)) = next_packet(&mut bytes)? {
            let public_tag = match tag {
                SECRET_KEY => PUBLIC_KEY,
                SECRET_SUBKEY => PUBLIC_SUBKEY,
                other => {
                    public.extend(packet(other, content));
                    continue;
                }
            };
            seen += u32::from(tag == SECRET_KEY);
            if seen > 1 {
                return Err(Error::new(Kind::Local, "cannot sign", "it holds several keys")
                    .hint("export one: gpg --export-secret-keys ADDRESS"));
            }
            match PublicKey::split(content) {
                Ok((key, secret)) => {
                    let secret = SecretKey { tag, public: key, secret };
                    secrets.push((PublicKey::parse(key)?.fingerprint, secret));
                    public.extend(packet(public_tag, key));
                }
                // A subkey that only encrypts: what is said of it has nothing to stand behind then.
                Err(_) if tag == SECRET_SUBKEY => public.extend(packet(PUBLIC_SUBKEY, &[])),
                Err(error) => return Err(error),
            }
        }
        Ok(Self { certificate: Certificate::parse(&public)?, secrets })
    }

    /// The keys that may sign now, the best first: subkeys, the newest before the others, then the primary key. Why others may
    /// not goes to `problems`.
    fn signing(&self, now: u64, problems: &mut Vec<String>) -> Vec<(&PublicKey, SecretKey<'p>)> {
        let certificate = &self.certificate;
        let primary = match certificate
            .said_of_primary(now)
            .and_then(|said| check_alive(&certificate.primary, said, now, now).map(|()| said))
        {
            Ok(said) => said,
            Err(error) => {
                problems.push(error.why);
                return Vec::new();
            }
        };
        let mut keys = Vec::new();
        for (key, signatures) in &certificate.subkeys {
            let fit = certificate.binding_of(key, signatures, now).and_then(|said| {
                let alive = check_alive(key, said, now, now);
                alive.and_then(|()| check_adopted(certificate, key, said, now)).map_err(|error| error.why)?;
                Ok(said.allows_signing())
            });
            match fit {
                Ok(true) => keys.push(key),
                Ok(false) => {}
                Err(why) => problems.push(format!("{}: {why}", hex::encode_upper(&key.fingerprint))),
            }
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.created));
        if primary.allows_signing() {
            keys.push(&certificate.primary);
        }
        let with_secret = keys.into_iter().filter_map(|key| {
            let (_, secret) = self.secrets.iter().find(|(fingerprint, _)| *fingerprint == key.fingerprint)?;
            Some((key, *secret))
        });
        with_secret.collect()
    }
}

impl Key {
    /// Reads the numbers of a key (RFC 9580 §5.5.5), and tells with which hash it signs. `None` if they are not those of the
    /// public key, or of a kind that does not sign here.
    fn read(public: &PublicKey, mut numbers: &[u8]) -> Option<(Self, u8)> {
        let mut number = || take_mpi(&mut numbers).ok();
        match &public.material {
            Material::Rsa { modulus, exponent } => {
                let (d, p, q, u) = (number()?, number()?, number()?, number()?);
                let der = rsa_private_key(modulus, exponent, d, p, q, u)?;
                Some((Self::Rsa(Box::new(RsaKeyPair::from_der(&der).ok()?)), SHA_256))
            }
            Material::Ecdsa { curve, point } => {
                let (algorithm, len, hash) = match curve.as_slice() {
                    P_256 => (&ECDSA_P256_SHA256_FIXED_SIGNING, 32, SHA_256),
                    P_384 => (&ECDSA_P384_SHA384_FIXED_SIGNING, 48, SHA_384),
                    P_521 => (&ECDSA_P521_SHA512_FIXED_SIGNING, 66, SHA_512),
                    _ => return None,
                };
                let scalar = padded(number()?, len)?;
                let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &scalar, point).ok()?;
                Some((Self::Ecdsa(key), hash))
            }
            Material::Ed25519(point) => {
                let seed = match public.algorithm {
                    EDDSA_LEGACY => padded(number()?, 32)?,
                    _ => Zeroizing::new(numbers.to_vec()),
                };
                let key = Ed25519KeyPair::from_seed_and_public_key(&seed, point).ok()?;
                Some((Self::Ed25519(key), SHA_256))
            }
            Material::Other => None,
        }
    }
}

/// A number with its zeros in front. `None` if it is longer.
fn padded(number: &[u8], len: usize) -> Option<Zeroizing<Vec<u8>>> {
    let zeros = len.checked_sub(number.len())?;
    let mut padded = Zeroizing::new(vec![0; len]);
    padded[zeros..].copy_from_slice(number);
    Some(padded)
}

/// RFC 8017 §A.1.2.
#[derive(Sequence)]
struct RsaPrivateKey<'a> {
    version: u8,
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
    private_exponent: UintRef<'a>,
    prime1: UintRef<'a>,
    prime2: UintRef<'a>,
    exponent1: UintRef<'a>,
    exponent2: UintRef<'a>,
    coefficient: UintRef<'a>,
}

/// OpenPGP has the inverse of its first prime modulo the second; PKCS #1 that of the second modulo the first. So they change
/// places.
fn rsa_private_key(n: &[u8], e: &[u8], d: &[u8], p: &[u8], q: &[u8], u: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (exponent1, exponent2) = (modulo(d, &less_one(q)?)?, modulo(d, &less_one(p)?)?);
    let number = |bytes| UintRef::new(bytes).ok();
    let key = RsaPrivateKey {
        version: 0,
        modulus: number(n)?,
        public_exponent: number(e)?,
        private_exponent: number(d)?,
        prime1: number(q)?,
        prime2: number(p)?,
        exponent1: number(&exponent1)?,
        exponent2: number(&exponent2)?,
        coefficient: number(u)?,
    };
    key.to_der().ok().map(Zeroizing::new)
}

/// A prime less one. `None` if it is even.
fn less_one(prime: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut less = Zeroizing::new(prime.to_vec());
    let last = less.last_mut().filter(|last| **last & 1 == 1)?;
    *last -= 1;
    Some(less)
}

/// What is left of a number. Bit by bit: it is done twice for a file, and nobody is there to measure it.
fn modulo(number: &[u8], modulus: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if modulus.iter().all(|byte| *byte == 0) {
        return None;
    }
    // One byte more than the modulus: twice what is left may be that long.
    let modulus = Zeroizing::new([&[0], modulus].concat());
    let mut left = Zeroizing::new(vec![0_u8; modulus.len()]);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in left.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if left.as_slice() >= modulus.as_slice() {
            let mut borrow = false;
            for (byte, other) in left.iter_mut().zip(modulus.iter()).rev() {
                let (less, one) = byte.overflowing_sub(*other);
                let (less, two) = less.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (less, one || two);
            }
        }
    }
    Some(left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_left_is_what_is_left(number: u128, modulus in 1..u64::MAX) {
            let left = modulo(&number.to_be_bytes(), &modulus.to_be_bytes()).expect("not zero");
            let expected = (number % u128::from(modulus)).to_be_bytes();
            prop_assert!(expected.ends_with(&left[1..]) && left[0] == 0);
        }

        #[test]
        fn law_11_arbitrary_public_parts_never_panic(
            algorithm in prop::sample::select(vec![1_u8, 3, 19, 22, 27, 18]),
            version in prop::sample::select(vec![4_u8, 6]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let content = [&[version, 0, 0, 0, 1, algorithm], &bytes[..]].concat();
            let passphrase = || Err(Error::new(Kind::Local, "x", "no passphrase"));
            let key = packet(SECRET_KEY, &content);
            assert!(SigningKey::from_bytes(&key, SystemTime::now(), MAX_MEMORY, &passphrase).is_err());
        }
    }
}
