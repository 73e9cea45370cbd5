//! Protected data of version 1 (RFC 9580 §5.13.1): AES-256-CFB, and at the end a SHA-1 of everything before it. What
//! GnuPG writes.
//!
//! The hash is inside the encryption, which is what protects it. It does not come before the end: what is read before
//! that is not authentic yet.

use std::io::{self, Read, Write};

use aws_lc_rs::rand;
use custodian_proto::key::FileKey;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    cfb::{BLOCK_LEN, Decryption, Encryption},
    packet::{carry, cut_off, uncarry},
};
use crate::{envelope::damaged, error::Result};

/// A random block, and its last two bytes again.
const PREFIX_LEN: usize = BLOCK_LEN + 2;
/// What stands before the hash: a packet of type 19 and 20 bytes.
const MDC_HEAD: [u8; 2] = [0xd3, 0x14];
const MDC_LEN: usize = MDC_HEAD.len() + 20;

/// Bytes that are decrypted at once.
const CHUNK: usize = 64 * 1024;

/// The plaintext, for a reader who will call [`Reading::finish`] before he believes it.
pub(super) struct Reading<R> {
    sealed: R,
    cfb: Decryption,
    hash: Sha1,
    buffer: Zeroizing<Vec<u8>>,
    /// In the buffer: what can be read …
    from: usize,
    to: usize,
    /// … and what stands behind that, and may be the end.
    held: usize,
    prefix: Prefix,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Ahead,
    Behind,
}

impl<R: Read> Reading<R> {
    /// What is encrypted begins here, behind the version.
    pub(super) fn new(sealed: R, file_key: &FileKey) -> Self {
        Self {
            sealed,
            cfb: Decryption::new(file_key),
            hash: Sha1::new(),
            buffer: Zeroizing::new(vec![0; MDC_LEN + CHUNK]),
            from: 0,
            to: 0,
            held: 0,
            prefix: Prefix::Ahead,
            ended: false,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.to..self.to + self.held, 0);
        let fresh = self.buffer.get_mut(self.held..self.held + CHUNK).unwrap_or_default();
        let read = fill(&mut self.sealed, fresh)?;
        self.ended = read < CHUNK;
        self.cfb.apply(fresh.get_mut(..read).unwrap_or_default());
        let all = self.held + read;
        self.held = all.min(MDC_LEN);
        (self.from, self.to) = (0, all - self.held);
        self.hash.update(self.buffer.get(..self.to).unwrap_or_default());
        if self.prefix == Prefix::Ahead {
            // RFC 9580 §5.13.1: whether its two last bytes are repeated is not asked. That would tell too much too early.
            self.prefix = Prefix::Behind;
            self.from = PREFIX_LEN;
            if self.to < self.from {
                return Err(carry(cut_off()));
            }
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
        let changed = || damaged("its content is not what was sealed, or was sealed with another key");
        let mdc = self.buffer.get(self.to..self.to + self.held).unwrap_or_default();
        let (head, expected) = mdc.split_at_checked(MDC_HEAD.len()).ok_or_else(changed)?;
        let found = self.hash.chain_update(head).finalize();
        let right = head.ct_eq(&MDC_HEAD) & found.as_slice().ct_eq(expected);
        if bool::from(right) { Ok(()) } else { Err(changed()) }
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

/// Fills a buffer as far as the source reaches.
pub(super) fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(filled)
}

/// Encrypts what is written to it.
pub(super) struct Writing<W> {
    out: W,
    cfb: Encryption,
    hash: Sha1,
    /// Less than a block.
    pending: Zeroizing<Vec<u8>>,
}

impl<W: Write> Writing<W> {
    /// Begins with something random.
    pub(super) fn new(out: W, file_key: &FileKey) -> io::Result<Self> {
        let mut writing =
            Self { out, cfb: Encryption::new(file_key), hash: Sha1::new(), pending: Zeroizing::default() };
        let mut prefix = [0; PREFIX_LEN];
        rand::fill(&mut prefix[..BLOCK_LEN])
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        prefix.copy_within(BLOCK_LEN - 2..BLOCK_LEN, BLOCK_LEN);
        writing.write_all(&prefix)?;
        Ok(writing)
    }

    /// Writes the hash, and gives back what was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_all(&MDC_HEAD)?;
        let hash = self.hash.finalize();
        self.pending.extend_from_slice(&hash);
        self.cfb.apply(&mut self.pending);
        self.out.write_all(&self.pending)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Writing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..bytes.len().min(CHUNK)).unwrap_or_default();
        self.hash.update(bytes);
        self.pending.extend_from_slice(bytes);
        let whole = self.pending.len() / BLOCK_LEN * BLOCK_LEN;
        let sealed = self.pending.get_mut(..whole).unwrap_or_default();
        self.cfb.apply(sealed);
        self.out.write_all(sealed)?;
        self.pending.drain(..whole);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal(plain: &[u8]) -> Vec<u8> {
        let mut writing = Writing::new(Vec::new(), &FileKey::new([3; 32])).expect("random");
        writing.write_all(plain).expect("written");
        writing.finish().expect("written")
    }

    fn open(sealed: &[u8]) -> Result<Vec<u8>> {
        let mut reading = Reading::new(sealed, &FileKey::new([3; 32]));
        let mut plain = Vec::new();
        let read = reading.read_to_end(&mut plain).map_err(uncarry);
        reading.finish().and(read).map(|_| plain)
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_found() {
        let sealed = seal(b"a small secret");
        assert_eq!(open(&sealed).expect("opens"), b"a small secret");
        for at in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(open(&bad).is_err(), "bit {at}");
        }
        for len in 0..sealed.len() {
            assert!(open(&sealed[..len]).is_err(), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back(plain in prop::collection::vec(any::<u8>(), 0..300_000)) {
            prop_assert!(open(&seal(&plain)).expect("opens") == plain);
        }
    }

    #[test]
    fn lengths_around_a_chunk_come_back() {
        for len in CHUNK - 60..CHUNK + 60 {
            assert_eq!(open(&seal(&vec![9; len])).expect("opens").len(), len);
        }
    }
}
