//! What is inside SEALED.DATA, readable at any place: only the chunks that hold it are read and decrypted.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::cobblestone::{CHUNK, Cipher, HEADER_LEN, InputKey, SEALED_CHUNK, content_len};
use crate::{
    envelope::{damaged, read_at::ReadAt},
    error::{Error, Result},
};

/// Chunks that are read and decrypted at once. Measured: larger blocks leave the cache, smaller ones cost more calls.
pub(super) const BLOCK_CHUNKS: u64 = 16;
/// Bytes of content in a block, but for the last.
pub(super) const BLOCK: u64 = BLOCK_CHUNKS * CHUNK as u64;

/// The content of SEALED.DATA.
pub(super) struct Plaintext<'f> {
    source: &'f dyn ReadAt,
    /// Where its chunks are.
    chunks: Range<u64>,
    len: u64,
    cipher: Cipher,
    /// For reads here and there.
    window: Mutex<Window>,
}

/// One decrypted block. Whoever reads in a row keeps one.
#[derive(Default)]
pub(super) struct Window {
    /// Number of the block, and its content.
    block: Option<(u64, usize)>,
    buffer: Vec<u8>,
}

impl<'f> Plaintext<'f> {
    /// Checks that the commitment fits key and context, and that the end is the end.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if not; [`crate::Kind::Local`] if it cannot be read.
    pub(super) fn open(
        source: &'f dyn ReadAt,
        data: Range<u64>,
        input_key: &InputKey,
        context: &[u8],
    ) -> Result<Self> {
        let len = content_len(data.end - data.start).ok_or_else(|| damaged("SEALED.DATA is cut off"))?;
        let mut header = [0; HEADER_LEN];
        source.fill(data.start, &mut header)?;
        let cipher = Cipher::from_header(input_key, context, &header)
            .ok_or_else(|| damaged("SEALED.DATA was not sealed with this CIPHER.KEY"))?;
        let chunks = data.start + HEADER_LEN as u64..data.end;
        let plaintext = Self { source, chunks, len, cipher, window: Mutex::default() };
        // The last chunk is shorter than the others, under a number of its own: it proves the length.
        plaintext.check_last_chunk()?;
        Ok(plaintext)
    }

    /// Bytes of content.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The content from this position on, as far as the block goes that it is in. Empty at the end.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if the block is not what was sealed; [`crate::Kind::Local`] if it cannot be read.
    pub(super) fn block<'w>(&self, window: &'w mut Window, at: u64) -> Result<&'w [u8]> {
        let number = at / BLOCK;
        let len = match window.block {
            Some((known, len)) if known == number => len,
            _ => {
                window.block = None;
                let len = self.open_block(number, &mut window.buffer)?;
                window.block = Some((number, len));
                len
            }
        };
        let start = usize::try_from(at % BLOCK).unwrap_or(usize::MAX).min(len);
        Ok(&window.buffer[start..len])
    }

    /// Decrypts a block to the start of the buffer. Returns its length.
    fn open_block(&self, number: u64, buffer: &mut Vec<u8>) -> Result<usize> {
        let sealed_block = BLOCK_CHUNKS * SEALED_CHUNK as u64;
        let left = (self.chunks.end - self.chunks.start).saturating_sub(number.saturating_mul(sealed_block));
        let sealed_len = usize::try_from(left.min(sealed_block)).unwrap_or_default();
        if buffer.len() < sealed_len {
            buffer.resize(sealed_len, 0);
        }
        let buffer = &mut buffer[..sealed_len];
        self.source.fill(self.chunks.start + number * sealed_block, buffer)?;
        let mut len = 0;
        for (index, start) in (0..sealed_len).step_by(SEALED_CHUNK).enumerate() {
            let end = (start + SEALED_CHUNK).min(sealed_len);
            let chunk = number * BLOCK_CHUNKS + index as u64;
            // Content is moved up over the tags before it.
            if !self.cipher.open(chunk, &mut buffer[len..end], start - len) {
                return Err(changed(chunk));
            }
            len += (end - start).saturating_sub(SEALED_CHUNK - CHUNK);
        }
        Ok(len)
    }

    fn check_last_chunk(&self) -> Result<()> {
        let number = self.len / CHUNK as u64;
        let at = self.chunks.start + number * SEALED_CHUNK as u64;
        let mut chunk = vec![0; usize::try_from(self.chunks.end - at).unwrap_or_default()];
        self.source.fill(at, &mut chunk)?;
        if self.cipher.open(number, &mut chunk, 0) { Ok(()) } else { Err(changed(number)) }
    }
}

fn changed(chunk: u64) -> Error {
    damaged(format!("chunk {chunk} of SEALED.DATA is not what was sealed"))
}

impl ReadAt for Plaintext<'_> {
    fn fill(&self, mut at: u64, mut buffer: &mut [u8]) -> Result<()> {
        // Nothing of a window is half-changed if a thread panics: it says which block it holds only when it does.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        while !buffer.is_empty() {
            let block = self.block(&mut window, at)?;
            if block.is_empty() {
                return Err(damaged("what is inside SEALED.DATA ends too early"));
            }
            let len = block.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(len);
            now.copy_from_slice(&block[..len]);
            (at, buffer) = (at + len as u64, later);
        }
        Ok(())
    }
}
