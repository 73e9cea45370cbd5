//! SEALED.DATA as it is written: content in, in order; encrypted blocks out. Large files are encrypted on all cores.

use std::{
    fs::File,
    io::{IoSliceMut, Write},
    os::unix::fs::FileExt,
};

use crc32fast::Hasher;

use super::{
    cobblestone::{CHUNK, Cipher, SEALED_CHUNK, TAG_LEN},
    plaintext::{BLOCK, BLOCK_CHUNKS},
};
use crate::{
    envelope::source::Input,
    error::{Error, Result},
    output,
    progress::{self, Progress},
    workers,
};

/// Where an envelope goes.
pub enum Output<'a> {
    /// To an empty file, several blocks at once.
    File(&'a File),
    /// To something that takes bytes in order only.
    Stream(&'a mut dyn Write),
}

/// The message that is being encrypted.
pub(super) struct Stream<'a> {
    out: Output<'a>,
    /// Bytes of the envelope that were written.
    written: u64,
    cipher: Cipher,
    /// Blocks that were encrypted.
    blocks: u64,
    /// Content that does not fill a block yet.
    pending: Block,
    /// Of all that was written since [`Stream::start`].
    crc: Hasher,
    /// Where the message starts.
    start: u64,
}

/// What became of the message.
pub(super) struct Message {
    /// Its length, encrypted.
    pub(super) len: u64,
    /// Its CRC-32, encrypted.
    pub(super) crc: u32,
}

impl<'a> Stream<'a> {
    /// Starts the message after `head`, which is not part of it.
    pub(super) fn start(out: Output<'a>, head: &[u8], cipher: Cipher) -> Result<Self> {
        let pending = Block::default();
        let mut stream = Self { out, written: 0, cipher, blocks: 0, pending, crc: Hasher::new(), start: 0 };
        stream.write(head)?;
        (stream.start, stream.crc) = (stream.written, Hasher::new());
        let header = *stream.cipher.header();
        stream.write(&header)?;
        Ok(stream)
    }

    /// Bytes of content so far.
    pub(super) fn position(&self) -> u64 {
        self.blocks * BLOCK + self.pending.len as u64
    }

    /// Takes the next content.
    pub(super) fn append(&mut self, mut content: &[u8]) -> Result<()> {
        while !content.is_empty() {
            content = self.pending.push(content);
            self.write_if_full()?;
        }
        Ok(())
    }

    /// Takes all of a file as the next content. Returns the file's CRC-32.
    pub(super) fn append_file(&mut self, input: &Input, progress: &dyn Progress) -> Result<Hasher> {
        let room = if self.pending.len == 0 { 0 } else { BLOCK - self.pending.len as u64 };
        let head = self.append_part(input, 0, room.min(input.size), progress)?;
        let blocks = (input.size - room.min(input.size)) / BLOCK;
        let body = self.append_blocks(input, room, blocks, progress)?;
        let done = room.min(input.size) + blocks * BLOCK;
        let tail = self.append_part(input, done, input.size - done, progress)?;
        let mut crc = head;
        crc.combine(&body);
        crc.combine(&tail);
        Ok(crc)
    }

    /// Encrypts the last chunk, which is shorter than the others, and writes `tail` of the message behind it. Returns how
    /// much was written in all.
    pub(super) fn finish(mut self, tail: impl FnOnce(&Message) -> Vec<u8>) -> Result<u64> {
        let mut last = std::mem::take(&mut self.pending);
        let sealed = last.seal(&self.cipher, self.blocks, Place::Last)?;
        self.write(sealed)?;
        let crc = std::mem::take(&mut self.crc);
        let tail = tail(&Message { len: self.written - self.start, crc: crc.finalize() });
        self.write(&tail)?;
        if let Output::Stream(out) = &mut self.out {
            out.flush().map_err(|why| cannot_write(&why))?;
        }
        Ok(self.written)
    }

    /// Part of a file, by this thread.
    fn append_part(&mut self, input: &Input, at: u64, len: u64, progress: &dyn Progress) -> Result<Hasher> {
        let mut content = vec![0; usize::try_from(len).unwrap_or_default()];
        input.read_at(at, &mut content)?;
        self.append(&content)?;
        progress.advance(len);
        let mut crc = Hasher::new();
        crc.update(&content);
        Ok(crc)
    }

    /// Whole blocks of a file, from `at` on, by all threads.
    fn append_blocks(
        &mut self,
        input: &Input,
        at: u64,
        blocks: u64,
        progress: &dyn Progress,
    ) -> Result<Hasher> {
        let mut content_crc = Hasher::new();
        let Self { out, cipher, written, blocks: done, crc: message_crc, .. } = self;
        let (first, start) = (*done, *written);
        let file = if let Output::File(file) = out { Some(*file) } else { None };
        let seal = |number: u64, block: &mut Block| {
            block.fill(input, at + number * BLOCK)?;
            let content = block.content_crc();
            let sealed = block.seal(cipher, first + number, Place::Inside)?;
            let crc = crc_of(sealed);
            let to_write = match file {
                Some(file) => {
                    let at = start + number * SEALED_BLOCK as u64;
                    file.write_all_at(sealed, at).map_err(|why| cannot_write(&why))?;
                    Vec::new()
                }
                None => sealed.to_vec(),
            };
            Ok((content, crc, to_write))
        };
        workers::in_order(workers::count(), (0..blocks).map(Ok), seal, |(content, crc, to_write)| {
            progress::check(progress)?;
            if let Output::Stream(out) = out {
                out.write_all(&to_write).map_err(|why| cannot_write(&why))?;
            }
            content_crc.combine(&content);
            message_crc.combine(&crc);
            *done += 1;
            *written += SEALED_BLOCK as u64;
            progress.advance(BLOCK);
            Ok(())
        })?;
        Ok(content_crc)
    }

    fn write_if_full(&mut self) -> Result<()> {
        if self.pending.len as u64 == BLOCK {
            let mut block = std::mem::take(&mut self.pending);
            let sealed = block.seal(&self.cipher, self.blocks, Place::Inside)?;
            self.write(sealed)?;
            self.blocks += 1;
            block.len = 0;
            self.pending = block;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.out {
            Output::File(file) => file.write_all_at(bytes, self.written),
            Output::Stream(out) => out.write_all(bytes),
        };
        written.map_err(|why| cannot_write(&why))?;
        self.crc.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

const SEALED_BLOCK: usize = BLOCK_CHUNKS as usize * SEALED_CHUNK;

/// Where a block stands in its message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is full: all its chunks are.
    Inside,
    /// It is not full, and ends with a chunk that is not.
    Last,
}

/// Content of some chunks, each with room for its tag behind it: encrypted where it is.
struct Block {
    buffer: Vec<u8>,
    /// Bytes of content.
    len: usize,
}

impl Default for Block {
    fn default() -> Self {
        Self { buffer: vec![0; SEALED_BLOCK], len: 0 }
    }
}

impl Block {
    /// Takes content as long as there is room. Returns the rest.
    fn push<'c>(&mut self, mut content: &'c [u8]) -> &'c [u8] {
        while !content.is_empty() && (self.len as u64) < BLOCK {
            let (chunk, taken) = (self.len / CHUNK, self.len % CHUNK);
            let len = content.len().min(CHUNK - taken);
            let at = chunk * SEALED_CHUNK + taken;
            self.buffer[at..at + len].copy_from_slice(&content[..len]);
            self.len += len;
            content = &content[len..];
        }
        content
    }

    /// Fills all of it from a file.
    fn fill(&mut self, input: &Input, at: u64) -> Result<()> {
        let mut slots: Vec<_> = self
            .buffer
            .chunks_exact_mut(SEALED_CHUNK)
            .map(|chunk| IoSliceMut::new(&mut chunk[..CHUNK]))
            .collect();
        input.read_all_at(at, &mut slots)?;
        self.len = CHUNK * slots.len();
        Ok(())
    }

    /// Of all the content, if it is full.
    fn content_crc(&self) -> Hasher {
        let mut crc = Hasher::new();
        self.buffer.chunks_exact(SEALED_CHUNK).for_each(|chunk| crc.update(&chunk[..CHUNK]));
        crc
    }

    /// Encrypts it as block `number` of the message.
    fn seal(&mut self, cipher: &Cipher, number: u64, place: Place) -> Result<&[u8]> {
        let (full, rest) = (self.len / CHUNK, self.len % CHUNK);
        let len = match place {
            Place::Inside => full * SEALED_CHUNK,
            Place::Last => full * SEALED_CHUNK + rest + TAG_LEN,
        };
        let sealed = &mut self.buffer[..len];
        for (index, chunk) in (0u64..).zip(sealed.chunks_mut(SEALED_CHUNK)) {
            cipher.seal(number * BLOCK_CHUNKS + index, chunk)?;
        }
        Ok(sealed)
    }
}

fn crc_of(bytes: &[u8]) -> Hasher {
    let mut crc = Hasher::new();
    crc.update(bytes);
    crc
}

fn cannot_write(why: &std::io::Error) -> Error {
    output::failed("cannot write the envelope", why)
}
