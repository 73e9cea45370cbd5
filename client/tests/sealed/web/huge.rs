//! An envelope of ten gigabytes that nobody stored: what is asked for is computed.

use std::ops::Range;

use aws_lc_rs::rand;

use super::server::Content;
use crate::pack::{CHUNK, Chunks, HEADER, Maker, SEALED_CHUNK};

/// Bytes of the large file in it.
pub(crate) const ZEROS: u64 = 10 << 30;
/// The small one.
pub(crate) const SMALL: &[u8] = b"what is wanted";

pub(crate) struct Huge {
    head: Vec<u8>,
    chunks: Chunks,
    front: Vec<u8>,
    back: Vec<u8>,
    tail: Vec<u8>,
}

impl Huge {
    pub(crate) fn new(maker: &Maker) -> Self {
        let (front, back) = inner();
        let inner_len = front.len() as u64 + ZEROS + back.len() as u64;
        let data_len = HEADER as u64 + inner_len + (inner_len / CHUNK as u64 + 1) * 16;
        let mut salt = [0; 24];
        rand::fill(&mut salt).expect("random");
        let chunks = maker.chunks(&salt);
        let head = [outer_head(maker.cipher_key()), chunks.header().to_vec()].concat();
        Self { tail: outer_tail(maker.cipher_key(), data_len), head, chunks, front, back }
    }

    fn inner_len(&self) -> u64 {
        self.front.len() as u64 + ZEROS + self.back.len() as u64
    }

    /// What is inside, from this position on.
    fn inner(&self, range: Range<u64>) -> Vec<u8> {
        let back_at = self.front.len() as u64 + ZEROS;
        let byte = |at: u64| match at {
            _ if at < self.front.len() as u64 => self.front[at as usize],
            _ if at >= back_at => self.back[(at - back_at) as usize],
            _ => 0,
        };
        range.map(byte).collect()
    }

    fn sealed_chunk(&self, number: u64) -> Vec<u8> {
        let start = number * CHUNK as u64;
        self.chunks.seal(number, self.inner(start..self.inner_len().min(start + CHUNK as u64)))
    }

    fn chunks_len(&self) -> u64 {
        self.inner_len() + (self.inner_len() / CHUNK as u64 + 1) * 16
    }
}

impl Content for Huge {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.chunks_len() + self.tail.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        let (chunks_at, tail_at) = (self.head.len() as u64, self.head.len() as u64 + self.chunks_len());
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let part = if at < chunks_at {
                self.head[at as usize..].to_vec()
            } else if at < tail_at {
                let (number, skip) =
                    ((at - chunks_at) / SEALED_CHUNK as u64, (at - chunks_at) % SEALED_CHUNK as u64);
                self.sealed_chunk(number)[skip as usize..].to_vec()
            } else {
                self.tail[(at - tail_at) as usize..].to_vec()
            };
            let len = part.len().min((range.end - at) as usize);
            out.extend(&part[..len]);
            at += len as u64;
        }
        out
    }
}

/// A ZIP with the large file and the small one: what stands before the zeros, and what behind.
fn inner() -> (Vec<u8>, Vec<u8>) {
    // The CRC-32 of the zeros is not asked for here: nobody reads them.
    let numbers = |crc: u32, size: u32| [crc, size, size].map(u32::to_le_bytes).concat();
    let fixed = |version: u16| [version, 0x800, 0, 0, 0x21].map(u16::to_le_bytes).concat();
    let lens = |name: &str, extra: usize| [name.len() as u16, extra as u16].map(u16::to_le_bytes).concat();
    let zip64 = |values: &[u64]| {
        let len = (values.len() * 8) as u16;
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        [&1u16.to_le_bytes(), &len.to_le_bytes(), &values[..]].concat()
    };
    let (large, small, crc) = ("large", "folder/small", crc32fast::hash(SMALL));
    let wide = zip64(&[ZEROS, ZEROS]);
    let front = [
        b"PK\x03\x04",
        &fixed(45)[..],
        &numbers(0, u32::MAX),
        &lens(large, wide.len()),
        large.as_bytes(),
        &wide,
    ]
    .concat();
    let small_at = front.len() as u64 + ZEROS;
    let mut back = [
        b"PK\x03\x04",
        &fixed(20)[..],
        &numbers(crc, SMALL.len() as u32),
        &lens(small, 0),
        small.as_bytes(),
        SMALL,
    ]
    .concat();
    let directory_at = small_at + back.len() as u64;
    let central = |name: &str, numbers: Vec<u8>, extra: Vec<u8>, offset: u32| {
        let mode = (0o100_644u32 << 16).to_le_bytes();
        let ids = [b"PK\x01\x02", &[63, 3][..], &fixed(45), &numbers, &lens(name, extra.len())].concat();
        [&ids[..], &[0; 6], &mode, &offset.to_le_bytes(), name.as_bytes(), &extra].concat()
    };
    let directory = [
        central(large, numbers(0, u32::MAX), wide, 0),
        central(small, numbers(crc, SMALL.len() as u32), zip64(&[small_at]), u32::MAX),
    ]
    .concat();
    let len = directory.len() as u64;
    back.extend(directory);
    back.extend(end(2, directory_at, len));
    (front, back)
}

/// The end of a directory that starts beyond 4 GiB.
fn end(entries: u16, at: u64, len: u64) -> Vec<u8> {
    let numbers = [entries.into(), entries.into(), len, at].map(u64::to_le_bytes).concat();
    [
        b"PK\x06\x06".as_slice(),
        &44u64.to_le_bytes(),
        &[63, 3, 45, 0],
        &[0; 8],
        &numbers,
        b"PK\x06\x07",
        &[0; 4],
        &(at + len).to_le_bytes(),
        &1u32.to_le_bytes(),
        b"PK\x05\x06",
        &[0; 4],
        &entries.to_le_bytes(),
        &entries.to_le_bytes(),
        &u32::try_from(len).expect("small").to_le_bytes(),
        &u32::MAX.to_le_bytes(),
        &[0; 2],
    ]
    .concat()
}

fn outer_common(version: u16, flags: u16, crc: u32, size: u32, name: &str, extra: u16) -> Vec<u8> {
    let fixed = [version, flags, 0, 0, 0x21].map(u16::to_le_bytes).concat();
    let numbers = [crc, size, size].map(u32::to_le_bytes).concat();
    [fixed, numbers, [name.len() as u16, extra].map(u16::to_le_bytes).concat()].concat()
}

const NAMES: [&str; 2] = ["CIPHER.KEY", "SEALED.DATA"];

fn outer_head(key: &[u8]) -> Vec<u8> {
    let [first, second] = NAMES;
    [
        b"PK\x03\x04".as_slice(),
        &outer_common(20, 0x800, crc32fast::hash(key), key.len() as u32, first, 0),
        first.as_bytes(),
        key,
        b"PK\x03\x04",
        &outer_common(45, 0x808, 0, u32::MAX, second, 20),
        second.as_bytes(),
        &[1, 0, 16, 0],
        &[0; 16],
    ]
    .concat()
}

/// docs/formats/sealed.md: behind more than 4 GiB.
fn outer_tail(key: &[u8], data_len: u64) -> Vec<u8> {
    let [first, second] = NAMES;
    // The checksum of the data is for other programs.
    let crc = 7u32;
    let mode = (0o100_644u32 << 16).to_le_bytes();
    let sizes = [data_len, data_len].map(u64::to_le_bytes).concat();
    let descriptor = [b"PK\x07\x08", &crc.to_le_bytes()[..], &sizes].concat();
    let head_len = outer_head(key).len() as u64;
    let second_at = 30 + first.len() as u32 + key.len() as u32;
    let directory = [
        b"PK\x01\x02".as_slice(),
        &[63, 3],
        &outer_common(20, 0x800, crc32fast::hash(key), key.len() as u32, first, 0),
        &[0; 6],
        &mode,
        &0u32.to_le_bytes(),
        first.as_bytes(),
        b"PK\x01\x02",
        &[63, 3],
        &outer_common(45, 0x808, crc, u32::MAX, second, 20),
        &[0; 6],
        &mode,
        &second_at.to_le_bytes(),
        second.as_bytes(),
        &[1, 0, 16, 0],
        &sizes,
    ]
    .concat();
    let at = head_len + data_len + descriptor.len() as u64;
    [&descriptor[..], &directory, &end(2, at, directory.len() as u64)].concat()
}
