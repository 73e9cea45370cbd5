//! Protected data of version 2 (RFC 9580 §5.13.2): chunks of AES-256-GCM under a key that is derived from the file key,
//! and a last tag over how much there was.

use std::io::{self, Read, Write};

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use custodian_proto::{key::FileKey, limits::FILE_KEY_LEN, openpgp::AES_256};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{
    mdc::fill,
    packet::{PROTECTED, carry, cut_off, uncarry},
};
use crate::{
    envelope::{damaged, unsupported},
    error::{Error, Result},
};

/// RFC 9580 §9.6.
pub(super) const GCM: u8 = 3;
const EAX: u8 = 1;
const OCB: u8 = 2;

const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;
/// Bytes of the nonce that are derived; the others count the chunks.
const IV_LEN: usize = NONCE_LEN - 8;
const SALT_LEN: usize = 32;
/// RFC 9580 §5.13.2: chunks of 4 MiB at most.
const MAX_CHUNK: u8 = 16;
/// Chunks of 256 KiB.
const OUR_CHUNK: u8 = 12;

/// What stands before the chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parameters {
    /// The size of a chunk: 2 to the power of this and 6.
    chunk: u8,
    salt: [u8; SALT_LEN],
}

impl Parameters {
    /// Their length in the packet, without the version.
    pub(super) const LEN: usize = 3 + SALT_LEN;

    /// New ones.
    pub(super) fn random() -> Option<Self> {
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).ok()?;
        Some(Self { chunk: OUR_CHUNK, salt })
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`crate::Kind::Local`] if this is not AES-256-GCM.
    pub(super) fn parse(bytes: &[u8; Self::LEN]) -> Result<Self> {
        let [cipher, mode, chunk, salt @ ..] = *bytes;
        let name = match mode {
            GCM => "GCM",
            OCB => "OCB",
            EAX => "EAX",
            _ => "a mode that is not known",
        };
        if (cipher, mode) != (AES_256, GCM) {
            let cipher = if cipher == AES_256 { "AES-256".to_owned() } else { format!("cipher {cipher}") };
            return Err(unsupported(format!(
                "its content is encrypted with {cipher} and {name}; only AES-256 with GCM can be opened"
            ))
            .hint("have it encrypted to the certificate that custodianctl key cert --openpgp prints: it says so"));
        }
        if chunk > MAX_CHUNK {
            return Err(unsupported("its chunks are larger than 4 MiB"));
        }
        Ok(Self { chunk, salt })
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..3].copy_from_slice(&[AES_256, GCM, self.chunk]);
        bytes[3..].copy_from_slice(&self.salt);
        bytes
    }

    fn chunk_len(self) -> usize {
        1 << (self.chunk + 6)
    }

    /// What the key is derived with, and what each chunk authenticates.
    fn info(self) -> [u8; 5] {
        [0xc0 | PROTECTED, 2, AES_256, GCM, self.chunk]
    }
}

/// The key of one message, and how far it was used.
struct Chunks {
    key: LessSafeKey,
    iv: [u8; IV_LEN],
    info: [u8; 5],
    /// Chunks so far.
    count: u64,
    /// Bytes of plaintext so far.
    total: u64,
}

impl Chunks {
    /// `None` if the cryptographic library refuses.
    fn new(file_key: &FileKey, parameters: Parameters) -> Option<Self> {
        struct Derived;
        impl KeyType for Derived {
            fn len(&self) -> usize {
                FILE_KEY_LEN + IV_LEN
            }
        }
        let info = parameters.info();
        let mut derived = Zeroizing::new([0; FILE_KEY_LEN + IV_LEN]);
        let extracted = Salt::new(HKDF_SHA256, &parameters.salt).extract(file_key.expose());
        extracted.expand(&[&info], Derived).ok()?.fill(derived.as_mut_slice()).ok()?;
        let (key, iv) = derived.split_at(FILE_KEY_LEN);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some(Self { key, iv: iv.try_into().ok()?, info, count: 0, total: 0 })
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..IV_LEN].copy_from_slice(&self.iv);
        nonce[IV_LEN..].copy_from_slice(&self.count.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn last_additional(&self) -> [u8; 13] {
        let mut additional = [0; 13];
        additional[..5].copy_from_slice(&self.info);
        additional[5..].copy_from_slice(&self.total.to_be_bytes());
        additional
    }

    /// Opens a chunk with its tag in place. How long its plaintext is; `None` if it is not what was sealed.
    fn open(&mut self, chunk: &mut [u8]) -> Option<usize> {
        let len = self.key.open_in_place(self.nonce(), Aad::from(self.info), chunk).ok()?.len();
        self.count += 1;
        self.total += len as u64;
        Some(len)
    }

    fn seal(&mut self, chunk: &mut Vec<u8>) -> Option<()> {
        self.total += chunk.len() as u64;
        self.key.seal_in_place_append_tag(self.nonce(), Aad::from(self.info), chunk).ok()?;
        self.count += 1;
        Some(())
    }

    fn last_tag_is(&self, tag: &[u8]) -> bool {
        let mut tag = tag.to_vec();
        self.key.open_in_place(self.nonce(), Aad::from(self.last_additional()), &mut tag).is_ok()
    }

    fn last_tag(&self) -> Option<Vec<u8>> {
        let mut tag = Vec::new();
        self.key.seal_in_place_append_tag(self.nonce(), Aad::from(self.last_additional()), &mut tag).ok()?;
        Some(tag)
    }
}

/// The plaintext. Each chunk is authentic when it comes; that none is missing shows [`Reading::finish`].
pub(super) struct Reading<R> {
    sealed: R,
    chunks: Chunks,
    buffer: Zeroizing<Vec<u8>>,
    /// In the buffer: what can be read.
    from: usize,
    to: usize,
    /// In the buffer: what was read too much, and may be the last tag.
    held: std::ops::Range<usize>,
    ended: bool,
}

impl<R: Read> Reading<R> {
    /// The chunks begin here.
    pub(super) fn new(sealed: R, file_key: &FileKey, parameters: Parameters) -> Result<Self> {
        let chunks = Chunks::new(file_key, parameters).ok_or_else(no_cryptography)?;
        let buffer = Zeroizing::new(vec![0; parameters.chunk_len() + 2 * TAG_LEN]);
        Ok(Self { sealed, chunks, buffer, from: 0, to: 0, held: 0..0, ended: false })
    }

    fn refill(&mut self) -> io::Result<()> {
        let held = self.held.len();
        self.buffer.copy_within(self.held.clone(), 0);
        let read = fill(&mut self.sealed, self.buffer.get_mut(held..).unwrap_or_default())?;
        let all = held + read;
        self.ended = all < self.buffer.len();
        let chunk = all.checked_sub(TAG_LEN).ok_or_else(|| carry(cut_off()))?;
        self.held = chunk..all;
        (self.from, self.to) = (0, 0);
        if chunk > 0 {
            let sealed = self.buffer.get_mut(..chunk).unwrap_or_default();
            self.to = self.chunks.open(sealed).ok_or_else(|| carry(changed()))?;
        }
        if self.ended && !self.chunks.last_tag_is(self.buffer.get(chunk..all).unwrap_or_default()) {
            self.to = 0;
            return Err(carry(changed()));
        }
        Ok(())
    }

    /// Reads on to the end, and checks that all of it is what was sealed.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is not.
    pub(super) fn finish(mut self) -> Result<()> {
        while !self.ended {
            self.refill().map_err(uncarry)?;
        }
        // Also if an earlier call has told so, and was not heard.
        let last = self.buffer.get(self.held.clone()).unwrap_or_default();
        if self.chunks.last_tag_is(last) { Ok(()) } else { Err(changed()) }
    }
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.from == self.to && !self.ended {
            self.refill()?;
        }
        let here = self.buffer.get(self.from..self.to).unwrap_or_default();
        let len = here.len().min(buffer.len());
        buffer[..len].copy_from_slice(&here[..len]);
        self.from += len;
        Ok(len)
    }
}

/// Encrypts what is written to it.
pub(super) struct Writing<W> {
    out: W,
    chunks: Chunks,
    chunk_len: usize,
    /// Less than a chunk.
    pending: Zeroizing<Vec<u8>>,
}

impl<W: Write> Writing<W> {
    pub(super) fn new(out: W, file_key: &FileKey, parameters: Parameters) -> Result<Self> {
        let chunks = Chunks::new(file_key, parameters).ok_or_else(no_cryptography)?;
        let chunk_len = parameters.chunk_len();
        let pending = Zeroizing::new(Vec::with_capacity(chunk_len + TAG_LEN));
        Ok(Self { out, chunks, chunk_len, pending })
    }

    fn seal(&mut self) -> io::Result<()> {
        self.chunks.seal(&mut self.pending).ok_or_else(|| carry(no_cryptography()))?;
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// Writes the last tag, and gives back what was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.pending.is_empty() {
            self.seal()?;
        }
        let tag = self.chunks.last_tag().ok_or_else(|| carry(no_cryptography()))?;
        self.out.write_all(&tag)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Writing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.chunk_len - self.pending.len();
        let bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        self.pending.extend_from_slice(bytes);
        if self.pending.len() == self.chunk_len {
            self.seal()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn changed() -> Error {
    damaged("its content is not what was sealed, or was sealed with another key")
}

fn no_cryptography() -> Error {
    Error::new(crate::Kind::Local, "cannot use AES-256-GCM", "the cryptographic library refuses")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parameters(chunk: u8) -> Parameters {
        Parameters { chunk, salt: [5; SALT_LEN] }
    }

    fn seal(plain: &[u8], chunk: u8) -> Vec<u8> {
        let mut writing =
            Writing::new(Vec::new(), &FileKey::new([3; 32]), parameters(chunk)).expect("writing");
        writing.write_all(plain).expect("written");
        writing.finish().expect("written")
    }

    fn open(sealed: &[u8], chunk: u8) -> Result<Vec<u8>> {
        let mut reading = Reading::new(sealed, &FileKey::new([3; 32]), parameters(chunk))?;
        let mut plain = Vec::new();
        let read = reading.read_to_end(&mut plain).map_err(uncarry);
        // Whoever believes one of the two is safe.
        assert_eq!(read.is_ok(), reading.finish().is_ok());
        read.map(|_| plain)
    }

    #[test]
    fn any_flipped_bit_any_truncation_and_any_missing_chunk_is_found() {
        let plain: Vec<u8> = (0..200).collect();
        let sealed = seal(&plain, 0);
        assert_eq!(sealed.len(), 200 + 4 * TAG_LEN + TAG_LEN);
        assert_eq!(open(&sealed, 0).expect("opens"), plain);
        for at in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(open(&bad, 0).is_err(), "bit {at}");
        }
        for len in 0..sealed.len() {
            assert!(open(&sealed[..len], 0).is_err(), "{len} bytes");
        }
        let chunk = 64 + TAG_LEN;
        assert!(open(&[&sealed[..chunk], &sealed[2 * chunk..]].concat(), 0).is_err());
        let swapped = [&sealed[chunk..2 * chunk], &sealed[..chunk], &sealed[2 * chunk..]].concat();
        assert!(open(&swapped, 0).is_err());
    }

    #[test]
    fn what_it_is_encrypted_with_is_read_back_and_all_else_refused() {
        let good = parameters(6).to_bytes();
        assert_eq!(Parameters::parse(&good).expect("parsed"), parameters(6));
        for (at, value) in [(0, 7), (0, 10), (1, OCB), (1, EAX), (1, 0), (2, 17), (2, 255)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Parameters::parse(&bad).is_err(), "{value} at {at}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back(plain in prop::collection::vec(any::<u8>(), 0..5_000), chunk in 0u8..6) {
            prop_assert!(open(&seal(&plain, chunk), chunk).expect("opens") == plain);
        }
    }

    #[test]
    fn nothing_and_whole_chunks_come_back() {
        for len in [0, 1, 63, 64, 65, 127, 128, 129, 192] {
            assert_eq!(open(&seal(&vec![9; len], 0), 0).expect("opens").len(), len);
        }
    }
}
