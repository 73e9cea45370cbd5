//! The ZIP around the encryption: CIPHER.KEY, SEALED.DATA, and nothing else.
//!
//! What it may say is determined by its two contents to the last byte. So a reader writes it again and compares, and no
//! bit of it can be changed unnoticed.

use std::ops::Range;

use super::{super::CIPHER_KEY, SEALED_DATA, cobblestone};
use crate::{
    envelope::{
        damaged,
        read_at::{ReadAt, read},
        zip::{
            Body, Compression, MAX_CIPHER_KEY_LEN, NewEntry, Numbers, Sizes, end_of_directory,
            starts_with_local,
        },
    },
    error::Result,
};

/// Both entries are files that all may read: neither holds a secret by itself.
const MODE: u32 = 0o100_644;
/// Out of the range of dates: the earliest there is stands for it, in every time zone.
const NO_TIME: i64 = i64::MIN;

/// CIPHER.KEY's local header: fixed fields and name, no extra field.
const FIRST_HEADER_LEN: u64 = 30 + CIPHER_KEY.len() as u64;
/// Where it says how long CIPHER.KEY is.
const FIRST_SIZE_AT: u64 = 18;

/// What the outer ZIP holds.
pub(super) struct Container {
    /// The first entry.
    pub(super) cipher_key: Vec<u8>,
    /// Where the second is.
    pub(super) data: Range<u64>,
}

impl Container {
    /// Reads the container of an envelope of `len` bytes.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is not what a writer of this format writes; [`crate::Kind::Local`] if it cannot be
    /// read.
    pub(super) fn read(source: &dyn ReadAt, len: u64) -> Result<Self> {
        let differs = || damaged("its outer ZIP is not what such an envelope has");
        let cipher_key_len = cipher_key_len(source, len)?.ok_or_else(differs)?;
        let cipher_key_len = usize::try_from(cipher_key_len).map_err(|_| differs())?;
        let cipher_key = read(source, FIRST_HEADER_LEN, cipher_key_len)?;
        let head = head(&cipher_key);
        if read(source, 0, head.len())? != head {
            return Err(differs());
        }

        let data = data_range(&cipher_key, head.len() as u64, len).ok_or_else(differs)?;
        let tail = read(source, data.end, usize::try_from(len - data.end).map_err(|_| differs())?)?;
        // Only the checksum is not known yet: it is for other programs, and stands behind the descriptor's signature.
        let crc = tail.get(4..8).and_then(|crc| crc.try_into().ok()).map(u32::from_le_bytes);
        if crc.is_none_or(|crc| self::tail(&cipher_key, data.end - data.start, crc) != tail) {
            return Err(differs());
        }
        Ok(Self { cipher_key, data })
    }
}

/// Whether an archive that starts with CIPHER.KEY goes on with SEALED.DATA.
pub(in super::super) fn is_sealed(source: &dyn ReadAt, len: u64) -> Result<bool> {
    let Some(cipher_key_len) = cipher_key_len(source, len)? else { return Ok(false) };
    let second = FIRST_HEADER_LEN + cipher_key_len;
    let mut start = [0; 30 + SEALED_DATA.len()];
    if second + start.len() as u64 > len {
        return Ok(false);
    }
    source.fill(second, &mut start)?;
    Ok(starts_with_local(&start, SEALED_DATA.as_bytes()))
}

/// What stands before the content of SEALED.DATA.
pub(super) fn head(cipher_key: &[u8]) -> Vec<u8> {
    [&first(cipher_key).local_header(), cipher_key, &second(0, 0).local_header()].concat()
}

/// What stands behind it. `crc` is its CRC-32.
pub(super) fn tail(cipher_key: &[u8], data_len: u64, crc: u32) -> Vec<u8> {
    let (first, second) = (first(cipher_key), second(data_len, crc));
    let second_at = FIRST_HEADER_LEN + cipher_key.len() as u64;
    let data_at = second_at + second.local_header().len() as u64;
    let directory = [first.central_header(0), second.central_header(second_at)].concat();
    let directory_at = data_at + data_len + second.descriptor().len() as u64;
    let end = end_of_directory(2, directory_at, directory.len() as u64, b"");
    [second.descriptor(), directory, end].concat()
}

fn first(cipher_key: &[u8]) -> NewEntry {
    entry(CIPHER_KEY, cipher_key.len() as u64, Body::plain(crc32fast::hash(cipher_key)))
}

fn second(len: u64, crc: u32) -> NewEntry {
    // It is written in one go, so checksum and sizes come behind it.
    let body = Body::Plain { compression: Compression::Stored, crc, numbers: Numbers::Behind };
    NewEntry { sizes: Sizes::KnownAtTheEnd, ..entry(SEALED_DATA, len, body) }
}

fn entry(name: &str, size: u64, body: Body) -> NewEntry {
    let sizes = Sizes::Known;
    NewEntry { name: name.to_owned(), mode: MODE, modified: NO_TIME, size, sealed_size: size, body, sizes }
}

/// How long CIPHER.KEY says it is; `None` if that is too long.
fn cipher_key_len(source: &dyn ReadAt, len: u64) -> Result<Option<u64>> {
    if len < FIRST_HEADER_LEN {
        return Ok(None);
    }
    let mut size = [0; 4];
    source.fill(FIRST_SIZE_AT, &mut size)?;
    let size = u64::from(u32::from_le_bytes(size));
    Ok(Some(size).filter(|size| *size <= MAX_CIPHER_KEY_LEN && FIRST_HEADER_LEN + size <= len))
}

/// Where the content of SEALED.DATA is in an envelope of `len` bytes. The longer it is, the longer is what follows, by
/// steps: so the right length is found by trying.
fn data_range(cipher_key: &[u8], data_at: u64, len: u64) -> Option<Range<u64>> {
    let mut data_len = 0;
    for _ in 0..4 {
        let tail_len = tail(cipher_key, data_len, 0).len() as u64;
        let next = len.checked_sub(data_at + tail_len)?;
        if next == data_len {
            return (data_len >= cobblestone::SHORTEST).then_some(data_at..data_at + data_len);
        }
        data_len = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    /// An envelope whose data is a hole in a sparse file.
    fn sparse(data_len: u64) -> (File, u64) {
        let file = tempfile::tempfile().expect("file");
        let (head, tail) = (head(b"key"), tail(b"key", data_len, 7));
        file.write_all_at(&head, 0).expect("written");
        file.write_all_at(&tail, head.len() as u64 + data_len).expect("written");
        (file, head.len() as u64 + data_len + tail.len() as u64)
    }

    #[test]
    fn data_of_any_size_is_found_again() {
        let edge = 1u64 << 32;
        for data_len in [72, 73, 1 << 20, edge - 300, edge, 1 << 40].into_iter().chain(edge - 200..edge + 3) {
            let (file, len) = sparse(data_len);
            let container = Container::read(&file, len).expect("sound");
            assert_eq!(container.data.end - container.data.start, data_len);
            assert_eq!(container.cipher_key, b"key");
            assert!(is_sealed(&file, len).expect("read"));
            for other in [len - 1, len + 1] {
                assert!(Container::read(&file, other).is_err());
            }
        }
    }
}
