//! Secret keys that are encrypted with a passphrase (RFC 9580 §3.7 and §3.7.2.1): iterated and salted, with AES in CFB mode.
//! What GnuPG exports, and Sequoia up to its first release.

use aes::{
    Aes128, Aes192, Aes256, Block,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::signature::{SHA_256, SHA_384, SHA_512};

const SHA_1: u8 = 2;
const SALT_LEN: usize = 8;
const IV_LEN: usize = 16;
const SHA_1_LEN: usize = 20;

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
    iv: [u8; IV_LEN],
    check: Check,
    bytes: &'p [u8],
}

/// RFC 9580 §9.3.
#[derive(Clone, Copy)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
}

/// How a passphrase becomes a key (RFC 9580 §3.7.1).
struct Derivation<'p> {
    hash: u8,
    salt: &'p [u8],
    /// Bytes to hash at least.
    count: usize,
}

/// What tells whether the passphrase is right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Sha1,
    Sum,
}

const OTHERWISE: &str = "it is encrypted in a way that is not known here, only iterated and salted S2K with AES in CFB mode is \
    (gpg --export-secret-keys writes that)";

impl<'p> Secret<'p> {
    /// Reads it (RFC 9580 §5.5.3).
    ///
    /// # Errors
    /// In text: it is cut off, damaged, or encrypted in a way that is not known here.
    pub(super) fn parse(version: u8, bytes: &'p [u8]) -> Result<Self, String> {
        const PLAIN: u8 = 0;
        const CFB_SHA_1: u8 = 254;
        const CFB_SUM: u8 = 255;
        let (usage, rest) = bytes.split_first().ok_or_else(cut_off)?;
        match (*usage, version) {
            (PLAIN, 6) => Ok(Self::Plain(rest)),
            (PLAIN, _) => {
                let (numbers, sum) = rest.split_last_chunk::<2>().ok_or_else(cut_off)?;
                if *sum == checksum(numbers) {
                    Ok(Self::Plain(numbers))
                } else {
                    Err("it is damaged".to_owned())
                }
            }
            (CFB_SHA_1, 6) => {
                // Before the cipher the length of all parameters, before the derivation its own.
                let (_, rest) = rest.split_first().ok_or_else(cut_off)?;
                let (cipher, rest) = rest.split_first().ok_or_else(cut_off)?;
                let (_, rest) = rest.split_first().ok_or_else(cut_off)?;
                Self::encrypted(*cipher, rest, Check::Sha1)
            }
            (CFB_SHA_1, _) => {
                let (cipher, rest) = rest.split_first().ok_or_else(cut_off)?;
                Self::encrypted(*cipher, rest, Check::Sha1)
            }
            (CFB_SUM, 4) => {
                let (cipher, rest) = rest.split_first().ok_or_else(cut_off)?;
                Self::encrypted(*cipher, rest, Check::Sum)
            }
            _ => Err(OTHERWISE.to_owned()),
        }
    }

    fn encrypted(cipher: u8, bytes: &'p [u8], check: Check) -> Result<Self, String> {
        const SALTED: u8 = 1;
        const ITERATED: u8 = 3;
        const GNU: u8 = 101;
        let (kind, rest) = bytes.split_first().ok_or_else(cut_off)?;
        if *kind == GNU {
            return Ok(Self::Elsewhere);
        }
        let (hash, rest) = rest.split_first().ok_or_else(cut_off)?;
        let (salt, rest) = rest.split_at_checked(SALT_LEN).ok_or_else(cut_off)?;
        let (count, rest) = match *kind {
            SALTED => (0, rest),
            ITERATED => {
                let (coded, rest) = rest.split_first().ok_or_else(cut_off)?;
                ((16 + usize::from(coded & 15)) << ((coded >> 4) + 6), rest)
            }
            _ => return Err(OTHERWISE.to_owned()),
        };
        let cipher = match cipher {
            7 => Cipher::Aes128,
            8 => Cipher::Aes192,
            9 => Cipher::Aes256,
            _ => return Err(OTHERWISE.to_owned()),
        };
        let (iv, bytes) = rest.split_first_chunk::<IV_LEN>().ok_or_else(cut_off)?;
        let derivation = Derivation { hash: *hash, salt, count };
        Ok(Self::Encrypted(Encrypted { cipher, derivation, iv: *iv, check, bytes }))
    }
}

impl Encrypted<'_> {
    /// The numbers.
    ///
    /// # Errors
    /// In text: the passphrase is wrong.
    pub(super) fn decrypt(&self, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        let len = match self.cipher {
            Cipher::Aes128 => 16,
            Cipher::Aes192 => 24,
            Cipher::Aes256 => 32,
        };
        let key = self.derivation.key(passphrase, len)?;
        let mut bytes = Zeroizing::new(self.bytes.to_vec());
        match self.cipher {
            Cipher::Aes128 => cfb(&self.iv, &mut bytes, block_cipher(Aes128::new_from_slice(&key))?),
            Cipher::Aes192 => cfb(&self.iv, &mut bytes, block_cipher(Aes192::new_from_slice(&key))?),
            Cipher::Aes256 => cfb(&self.iv, &mut bytes, block_cipher(Aes256::new_from_slice(&key))?),
        }
        let wrong = || "the passphrase is wrong".to_owned();
        let check_len = if self.check == Check::Sha1 { SHA_1_LEN } else { 2 };
        let numbers_len = bytes.len().checked_sub(check_len).ok_or_else(cut_off)?;
        let (numbers, check) = bytes.split_at_checked(numbers_len).ok_or_else(cut_off)?;
        let right = match self.check {
            Check::Sha1 => Sha1::digest(numbers).as_slice().ct_eq(check),
            Check::Sum => checksum(numbers).as_slice().ct_eq(check),
        };
        if !bool::from(right) {
            return Err(wrong());
        }
        bytes.truncate(numbers_len);
        Ok(bytes)
    }
}

impl Derivation<'_> {
    fn key(&self, passphrase: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        match self.hash {
            SHA_1 => Ok(self.derive::<Sha1>(passphrase, len)),
            SHA_256 => Ok(self.derive::<Sha256>(passphrase, len)),
            SHA_384 => Ok(self.derive::<Sha384>(passphrase, len)),
            SHA_512 => Ok(self.derive::<Sha512>(passphrase, len)),
            _ => Err(OTHERWISE.to_owned()),
        }
    }

    /// RFC 9580 §3.7.1.3. What one hash is too short for goes on with the next, which begins with one more zero.
    fn derive<H: Digest>(&self, passphrase: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
        let unit = Zeroizing::new([self.salt, passphrase].concat());
        let mut key = Zeroizing::new(Vec::with_capacity(len.next_multiple_of(64)));
        let mut zeros = 0;
        while key.len() < len {
            let mut hash = H::new();
            hash.update(vec![0; zeros]);
            let mut left = self.count.max(unit.len());
            while left > 0 {
                let taken = left.min(unit.len());
                hash.update(&unit[..taken]);
                left -= taken;
            }
            key.extend_from_slice(&hash.finalize());
            zeros += 1;
        }
        key.truncate(len);
        key
    }
}

/// One block, encrypted in place.
fn block_cipher<C: BlockCipherEncrypt, E>(cipher: Result<C, E>) -> Result<C, String> {
    cipher.map_err(|_| OTHERWISE.to_owned())
}

/// Decrypts.
fn cfb<C>(iv: &[u8; IV_LEN], bytes: &mut [u8], cipher: C)
where
    C: BlockCipherEncrypt<BlockSize = <Aes256 as aes::cipher::common::BlockSizeUser>::BlockSize>,
{
    let mut before: Block = (*iv).into();
    for block in bytes.chunks_mut(IV_LEN) {
        cipher.encrypt_block(&mut before);
        let stream = before;
        if let Ok(whole) = <[u8; IV_LEN]>::try_from(&*block) {
            before = whole.into();
        }
        block.iter_mut().zip(stream).for_each(|(byte, other)| *byte ^= other);
    }
}

/// The sum of the bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    bytes.iter().fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(*byte))).to_be_bytes()
}

fn cut_off() -> String {
    "it is cut off".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// NIST SP 800-38A, F.3.14: CFB128-AES128.
    #[test]
    fn the_vectors_of_the_standard_hold() {
        let bytes = |hex: &str| hex::decode(hex).expect("hex");
        let cipher = Aes128::new_from_slice(&bytes("2b7e151628aed2a6abf7158809cf4f3c")).expect("a key");
        let iv: [u8; 16] = bytes("000102030405060708090a0b0c0d0e0f").try_into().expect("16 bytes");
        let mut sealed = bytes("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b");
        cfb(&iv, &mut sealed, cipher);
        assert_eq!(hex::encode(sealed), "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    }

    #[test]
    fn a_key_that_is_elsewhere_is_told_from_one_that_cannot_be_read() {
        assert!(matches!(Secret::parse(4, b"\xfe\x07\x65\x00GNU\x01"), Ok(Secret::Elsewhere)));
        let aead = Secret::parse(4, &[253, 9, 2, 4]).err().expect("refused");
        assert!(aead.contains("not known"), "{aead}");
        assert!(Secret::parse(4, &[0, 1, 2, 0, 4]).is_err(), "checksum");
        assert!(matches!(Secret::parse(4, &[0, 1, 2, 0, 3]), Ok(Secret::Plain([1, 2]))));
    }

    proptest! {
        #[test]
        fn law_11_arbitrary_bytes_never_panic(
            usage in prop::sample::select(vec![0, 7, 253, 254, 255]),
            version in prop::sample::select(vec![4, 6]),
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Ok(Secret::Encrypted(encrypted)) = Secret::parse(version, &[&[usage], &bytes[..]].concat()) {
                let shorter = Derivation { count: encrypted.derivation.count.min(1_000), ..encrypted.derivation };
                Encrypted { derivation: shorter, ..encrypted }.decrypt(b"x").map(drop).ok();
            }
        }
    }
}
