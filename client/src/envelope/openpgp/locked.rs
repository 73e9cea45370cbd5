//! The secret part of a key (RFC 9580 §5.5.3), as it is under a passphrase: with AES in CFB mode, what GnuPG exports, or
//! authenticated with OCB or GCM (RFC 9580 §3.7.2.1), as newer programs write it.

use aes::{
    Aes128, Aes192, Aes256,
    cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, common::BlockSizeUser},
};
use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    ocb,
    s2k::{Derivation, cut_off, take, take_byte},
};

const IV_LEN: usize = 16;
const SHA_1_LEN: usize = 20;

/// A secret-key packet, in its parts.
#[derive(Clone, Copy)]
pub(super) struct SecretKey<'p> {
    /// The type of the packet.
    pub(super) tag: u8,
    /// What the public-key packet would have.
    pub(super) public: &'p [u8],
    /// What follows that.
    pub(super) secret: &'p [u8],
}

/// What stands behind the public part of a secret key.
pub(super) enum Secret<'p> {
    /// The numbers.
    Plain(&'p [u8]),
    /// The numbers, encrypted.
    Encrypted(Encrypted<'p>),
    /// It is not there: on a card, or left out.
    Elsewhere,
}

/// Encrypted numbers.
pub(super) struct Encrypted<'p> {
    cipher: Cipher,
    derivation: Derivation<'p>,
    mode: Mode<'p>,
    bytes: &'p [u8],
}

/// RFC 9580 §9.3.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
}

/// How they are encrypted.
enum Mode<'p> {
    Cfb {
        iv: [u8; IV_LEN],
        check: Check,
    },
    Aead {
        aead: Aead,
        nonce: &'p [u8],
        /// What the key is made for, so that none is used twice.
        info: [u8; 4],
        /// The public part, which is authenticated, too.
        additional: Vec<u8>,
    },
}

/// What tells whether the passphrase is right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Sha1,
    Sum,
}

/// RFC 9580 §9.6.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aead {
    Ocb,
    Gcm,
}

impl<'p> SecretKey<'p> {
    /// Reads the secret part. `memory`: KiB that hashing the passphrase may take at most.
    ///
    /// # Errors
    /// In text: it is cut off, damaged, or encrypted in a way that is not known here or takes too much.
    pub(super) fn read(self, memory: u32) -> Result<Secret<'p>, String> {
        const PLAIN: u8 = 0;
        const AEAD: u8 = 253;
        const CFB_SHA_1: u8 = 254;
        const CFB_SUM: u8 = 255;
        let version = self.public.first().copied().unwrap_or_default();
        let mut rest = self.secret;
        let protection = match (take_byte(&mut rest)?, version) {
            (PLAIN, 6) => return Ok(Secret::Plain(rest)),
            (PLAIN, _) => {
                let (numbers, sum) = rest.split_last_chunk::<2>().ok_or_else(cut_off)?;
                return if *sum == checksum(numbers) { Ok(Secret::Plain(numbers)) } else { Err(damaged()) };
            }
            (AEAD, 4 | 6) => None,
            (CFB_SHA_1, _) => Some(Check::Sha1),
            (CFB_SUM, 4) => Some(Check::Sum),
            (other, _) => {
                return Err(format!(
                    "it is encrypted in a way (S2K usage {other}, version {version}) that is not known here"
                ));
            }
        };
        // Of version 6 all parameters have their length before them, and the derivation its own.
        let mut fields = if version == 6 { take_counted(&mut rest)? } else { rest };
        let cipher = take_byte(&mut fields)?;
        let aead = if protection.is_none() { take_byte(&mut fields)? } else { 0 };
        let derivation = match version {
            6 => {
                let mut own = take_counted(&mut fields)?;
                let derivation = Derivation::take(&mut own, memory)?;
                if own.is_empty() { derivation } else { return Err(damaged()) }
            }
            _ => Derivation::take(&mut fields, memory)?,
        };
        let Some(derivation) = derivation else { return Ok(Secret::Elsewhere) };
        let mode = match protection {
            Some(_) if matches!(derivation, Derivation::Argon2 { .. }) => {
                return Err("it is damaged: Argon2 goes with authenticated encryption only".to_owned());
            }
            Some(check) => {
                let (iv, behind) = fields.split_first_chunk::<IV_LEN>().ok_or_else(cut_off)?;
                fields = behind;
                Mode::Cfb { iv: *iv, check }
            }
            None => {
                let tag = 0xc0 | self.tag;
                let info = [tag, version, cipher, aead];
                let aead = Aead::numbered(aead)?;
                let nonce = take(&mut fields, aead.nonce_len())?;
                Mode::Aead { aead, nonce, info, additional: [&[tag], self.public].concat() }
            }
        };
        let bytes = match version {
            6 if fields.is_empty() => rest,
            6 => return Err(damaged()),
            _ => fields,
        };
        Ok(Secret::Encrypted(Encrypted { cipher: Cipher::numbered(cipher)?, derivation, mode, bytes }))
    }
}

impl Cipher {
    fn numbered(number: u8) -> Result<Self, String> {
        match number {
            7 => Ok(Self::Aes128),
            8 => Ok(Self::Aes192),
            9 => Ok(Self::Aes256),
            other => Err(format!("it is encrypted with cipher {other}, only AES is known here")),
        }
    }

    fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

impl Aead {
    fn numbered(number: u8) -> Result<Self, String> {
        match number {
            1 => Err("it is encrypted with EAX, only OCB and GCM are known here".to_owned()),
            2 => Ok(Self::Ocb),
            3 => Ok(Self::Gcm),
            other => Err(format!("it is encrypted with AEAD mode {other}, only OCB and GCM are known here")),
        }
    }

    fn nonce_len(self) -> usize {
        match self {
            Self::Ocb => ocb::NONCE_LEN,
            Self::Gcm => 12,
        }
    }
}

impl Encrypted<'_> {
    /// The numbers.
    ///
    /// # Errors
    /// In text: the passphrase is wrong.
    pub(super) fn decrypt(&self, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        let key = self.derivation.key(passphrase, self.cipher.key_len())?;
        let mut bytes = Zeroizing::new(self.bytes.to_vec());
        let len = match &self.mode {
            Mode::Cfb { iv, check } => {
                match self.cipher {
                    Cipher::Aes128 => cfb(iv, &mut bytes, block_cipher(Aes128::new_from_slice(&key))?),
                    Cipher::Aes192 => cfb(iv, &mut bytes, block_cipher(Aes192::new_from_slice(&key))?),
                    Cipher::Aes256 => cfb(iv, &mut bytes, block_cipher(Aes256::new_from_slice(&key))?),
                }
                check.numbers_len(&bytes)?.ok_or("the passphrase is wrong")?
            }
            Mode::Aead { aead, nonce, info, additional } => {
                let key = expanded(&key, info)?;
                let opened = match aead {
                    Aead::Ocb => self.open_ocb(&key, nonce, additional, &mut bytes)?,
                    Aead::Gcm => self.open_gcm(&key, nonce, additional, &mut bytes)?,
                };
                opened.ok_or("the passphrase is wrong, or the key was changed")?
            }
        };
        bytes.truncate(len);
        Ok(bytes)
    }

    fn open_ocb(
        &self,
        key: &[u8],
        nonce: &[u8],
        additional: &[u8],
        bytes: &mut [u8],
    ) -> Result<Option<usize>, String> {
        Ok(match self.cipher {
            Cipher::Aes128 => {
                ocb::open(&block_cipher(Aes128::new_from_slice(key))?, nonce, additional, bytes)
            }
            Cipher::Aes192 => {
                ocb::open(&block_cipher(Aes192::new_from_slice(key))?, nonce, additional, bytes)
            }
            Cipher::Aes256 => {
                ocb::open(&block_cipher(Aes256::new_from_slice(key))?, nonce, additional, bytes)
            }
        })
    }

    fn open_gcm(
        &self,
        key: &[u8],
        nonce: &[u8],
        additional: &[u8],
        bytes: &mut [u8],
    ) -> Result<Option<usize>, String> {
        let algorithm = match self.cipher {
            Cipher::Aes128 => &AES_128_GCM,
            Cipher::Aes192 => &AES_192_GCM,
            Cipher::Aes256 => &AES_256_GCM,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| no_cryptography())?);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| no_cryptography())?;
        Ok(key.open_in_place(nonce, Aad::from(additional), bytes).ok().map(|plain| plain.len()))
    }
}

impl Check {
    /// How long the numbers are, which stand before what tells whether they are right. `None`: they are not.
    fn numbers_len(self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let len = bytes.len().checked_sub(match self {
            Self::Sha1 => SHA_1_LEN,
            Self::Sum => 2,
        });
        let (numbers, check) = len.and_then(|len| bytes.split_at_checked(len)).ok_or_else(cut_off)?;
        let right = match self {
            Self::Sha1 => Sha1::digest(numbers).as_slice().ct_eq(check),
            Self::Sum => checksum(numbers).as_slice().ct_eq(check),
        };
        Ok(bool::from(right).then_some(numbers.len()))
    }
}

/// RFC 9580 §3.7.2.1: what the passphrase gives is not the key itself.
fn expanded(key: &[u8], info: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    struct Len(usize);
    impl KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut expanded = Zeroizing::new(vec![0; key.len()]);
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(key);
    let filled = extracted.expand(&[info], Len(key.len())).and_then(|okm| okm.fill(&mut expanded));
    filled.map(|()| expanded).map_err(|_| no_cryptography())
}

fn block_cipher<C, E>(cipher: Result<C, E>) -> Result<C, String> {
    cipher.map_err(|_| no_cryptography())
}

/// Decrypts.
fn cfb<C>(iv: &[u8; IV_LEN], bytes: &mut [u8], cipher: C)
where
    C: BlockCipherEncrypt<BlockSize = <Aes256 as BlockSizeUser>::BlockSize>,
{
    cfb_mode::BufDecryptor::inner_iv_init(cipher, iv.into()).decrypt(bytes);
}

/// What stands behind its own length.
fn take_counted<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let len = take_byte(bytes)?;
    take(bytes, len.into())
}

/// The sum of the bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    bytes.iter().fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(*byte))).to_be_bytes()
}

fn damaged() -> String {
    "it is damaged".to_owned()
}

fn no_cryptography() -> String {
    "the cryptographic library refuses".to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::envelope::openpgp::{packet::SECRET_KEY, public_key::PublicKey};

    /// KiB: enough for what these tests open.
    const MEMORY: u32 = 1 << 10;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).expect("hex")
    }

    fn read(version: u8, secret: &[u8]) -> Result<Secret<'_>, String> {
        let public: &[u8] = if version == 6 { &[6] } else { &[4] };
        SecretKey { tag: SECRET_KEY, public, secret }.read(MEMORY)
    }

    /// NIST SP 800-38A, F.3.14: CFB128-AES128.
    #[test]
    fn the_vectors_of_the_standard_hold() {
        let cipher = Aes128::new_from_slice(&bytes("2b7e151628aed2a6abf7158809cf4f3c")).expect("a key");
        let iv: [u8; 16] = bytes("000102030405060708090a0b0c0d0e0f").try_into().expect("16 bytes");
        let mut sealed = bytes("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b");
        cfb(&iv, &mut sealed, cipher);
        assert_eq!(hex::encode(sealed), "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    }

    /// A packet that another program wrote: `testdata/openpgp/locked.py`.
    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        tag: u8,
        packet: String,
        passphrase: String,
        /// What comes out, in hex; or why nothing does.
        #[serde(default)]
        numbers: String,
        #[serde(default)]
        why: String,
    }

    fn vectors() -> &'static [Vector] {
        static VECTORS: LazyLock<Vec<Vector>> = LazyLock::new(|| {
            let vectors = include_str!("../../../testdata/openpgp/locked.json");
            serde_json::from_str(vectors).expect("vectors")
        });
        &VECTORS
    }

    fn opened(tag: u8, packet: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let (public, secret) = PublicKey::split(packet).map_err(|error| error.why)?;
        match (SecretKey { tag, public, secret }).read(MEMORY)? {
            Secret::Encrypted(encrypted) => encrypted.decrypt(passphrase.as_bytes()),
            Secret::Plain(_) | Secret::Elsewhere => Err("it is not encrypted".to_owned()),
        }
    }

    #[test]
    fn what_another_program_locked_opens_or_is_refused_for_the_reason_it_names() {
        assert!(vectors().len() > 150);
        for Vector { name, tag, packet, passphrase, numbers, why } in vectors() {
            match opened(*tag, &bytes(packet), passphrase) {
                Ok(found) => {
                    assert_eq!((&hex::encode(found.as_slice()), why.as_str()), (numbers, ""), "{name}")
                }
                Err(told) => assert!(!why.is_empty() && told.contains(why), "{name}: {told}"),
            }
        }
    }

    #[test]
    fn any_flipped_bit_of_what_is_authenticated_is_found() {
        let flippable = |vector: &&Vector| {
            vector.name.contains("ed25519, aead") && vector.name.contains("AES-256, Argon2, packet 5")
        };
        let mut seen = 0;
        for vector in vectors().iter().filter(flippable) {
            let packet = bytes(&vector.packet);
            for at in 0..packet.len() * 8 {
                let mut bad = packet.clone();
                bad[at / 8] ^= 1 << (at % 8);
                assert!(opened(vector.tag, &bad, &vector.passphrase).is_err(), "{}: bit {at}", vector.name);
            }
            for len in 0..packet.len() {
                assert!(opened(vector.tag, &packet[..len], &vector.passphrase).is_err(), "{len} bytes");
            }
            assert!(opened(vector.tag ^ 2, &packet, &vector.passphrase).is_err(), "as a subkey");
            seen += 1;
        }
        assert!(seen > 1);
    }

    #[test]
    fn a_key_that_is_elsewhere_is_told_from_one_that_cannot_be_read() {
        assert!(matches!(read(4, b"\xfe\x07\x65\x00GNU\x01"), Ok(Secret::Elsewhere)));
        let eax = [&[253, 9, 1, 3, 8][..], &[1; 9], &[7; 60]].concat();
        assert!(read(4, &eax).err().expect("refused").contains("EAX"));
        assert!(read(4, &[0, 1, 2, 0, 4]).is_err(), "checksum");
        assert!(matches!(read(4, &[0, 1, 2, 0, 3]), Ok(Secret::Plain([1, 2]))));
    }

    proptest! {
        #[test]
        fn law_11_locked_keys_with_other_secret_parts_never_panic(
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            kept in any::<prop::sample::Index>(),
            whole: bool,
        ) {
            let vector = which.get(vectors());
            let packet = bytes(&vector.packet);
            // Some are so damaged that they have no secret part.
            if let Ok((public, secret)) = PublicKey::split(&packet) {
                let mut secret = secret.to_vec();
                for (at, byte) in changes {
                    if !secret.is_empty() {
                        let at = at.index(secret.len());
                        secret[at] = byte;
                    }
                }
                if !whole {
                    secret.truncate(kept.index(secret.len() + 1));
                }
                let key = SecretKey { tag: vector.tag, public, secret: &secret };
                // KiB: so little that many passes take no time.
                if let Ok(Secret::Encrypted(mut encrypted)) = key.read(64) {
                    if let Derivation::Hashed { count, .. } = &mut encrypted.derivation {
                        *count = (*count).min(1_000);
                    }
                    encrypted.decrypt(vector.passphrase.as_bytes()).map(drop).ok();
                }
            }
        }

        #[test]
        fn law_11_arbitrary_bytes_never_panic(
            usage in prop::sample::select(vec![0, 7, 253, 254, 255]),
            version in prop::sample::select(vec![4, 6]),
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Ok(Secret::Encrypted(mut encrypted)) = read(version, &[&[usage], &bytes[..]].concat()) {
                if let Derivation::Hashed { count, .. } = &mut encrypted.derivation {
                    *count = (*count).min(1_000);
                }
                encrypted.decrypt(b"x").map(drop).ok();
            }
        }
    }
}
