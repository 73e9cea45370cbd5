//! The content of one entry: authenticated, decrypted, inflated, written.
//!
//! Each byte of an entry is read once, and the same bytes are authenticated and decrypted: nobody who can write to the
//! envelope meanwhile gets other bytes decrypted than those that were authenticated.

use std::{
    fs::File,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use super::{
    ae2::{HEAD_LEN, KeyStream, Keys},
    password::Password,
};
use crate::{
    envelope::{
        damaged,
        read_at::ReadAt,
        zip::{Data, Entry, FileWriter, Inflater, Unpacker},
    },
    error::{Error, Kind, Result},
    progress::{self, Progress},
};

/// Up to this many bytes of ciphertext an entry is handled in memory, by one thread.
pub(super) const SMALL: u64 = 1024 * 1024;

/// Bytes that are handled at once. All buffers together stay in the cache: measured, a fifth faster than with larger ones.
const BUFFER: usize = 256 * 1024;
/// Buffers between the two threads of a large entry.
const BUFFERS: usize = 4;

/// What a thread uses again for the next entry.
#[derive(Default)]
pub(super) struct Scratch {
    sealed: Vec<u8>,
    inflater: Option<Inflater>,
}

/// One entry and where it is.
pub(super) struct Content<'a> {
    pub(super) envelope: &'a File,
    pub(super) entry: &'a Entry,
    pub(super) data: &'a Data,
    pub(super) password: &'a Password,
}

impl Content<'_> {
    /// Decrypts a small entry and hands its content over in pieces, after all of it is authenticated.
    pub(super) fn whole(&self, scratch: &mut Scratch, take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let len = HEAD_LEN + usize::try_from(self.data.len).map_err(|_| self.damaged())?;
        scratch.sealed.resize(len, 0);
        self.envelope.fill(self.data.at, &mut scratch.sealed)?;
        let (head, ciphertext) = scratch.sealed.split_first_chunk_mut().ok_or_else(|| self.damaged())?;
        let keys = Keys::from_head(self.password, head).ok_or_else(|| self.damaged())?;
        let mut authenticator = keys.authenticator();
        authenticator.update(ciphertext);
        if !authenticator.confirms(&self.data.code) {
            return Err(self.damaged());
        }
        keys.stream(0).apply(ciphertext);
        let mut plain = Unpacker::new(self.entry, self.data, scratch.inflater.take(), take);
        plain.update(ciphertext)?;
        scratch.inflater = plain.finish()?;
        Ok(())
    }

    /// Decrypts a small entry to a file.
    pub(super) fn whole_to_file(
        &self,
        out: &File,
        scratch: &mut Scratch,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut writer = FileWriter::new(out, self.entry, progress);
        self.whole(scratch, |bytes| writer.write(bytes))
    }

    /// Decrypts a large entry to a file on two threads: this one reads and authenticates, the other decrypts and writes.
    /// If this fails, the file holds unauthenticated plaintext and must go.
    pub(super) fn large_to_file(&self, out: &File, progress: &dyn Progress) -> Result<()> {
        let mut head = [0; HEAD_LEN];
        self.envelope.fill(self.data.at, &mut head)?;
        let keys = Keys::from_head(self.password, &head).ok_or_else(|| self.damaged())?;
        let stream = keys.stream(0);
        let (full, to_decrypt) = mpsc::sync_channel(BUFFERS);
        let (emptied, empty) = mpsc::channel();
        for _ in 0..BUFFERS {
            emptied.send(Vec::with_capacity(BUFFER)).map_err(lost)?;
        }
        thread::scope(|scope| {
            let decrypt = move || self.decrypt(stream, &to_decrypt, &emptied, out, progress);
            let decrypting = thread::Builder::new().spawn_scoped(scope, decrypt).map_err(lost)?;

            let mut authenticator = keys.authenticator();
            let mut position = 0;
            while position < self.data.len {
                progress::check(progress)?;
                // No buffer comes back: the other thread failed, and tells why below.
                let Ok(mut buffer) = empty.recv() else { break };
                let len = (self.data.len - position).min(BUFFER as u64);
                buffer.resize(usize::try_from(len).map_err(lost)?, 0);
                self.envelope.fill(self.data.at + HEAD_LEN as u64 + position, &mut buffer)?;
                authenticator.update(&buffer);
                position += len;
                if full.send(buffer).is_err() {
                    break;
                }
            }
            drop(full);
            let decrypted = decrypting.join().map_err(|_| lost("it panicked"))?;
            if position == self.data.len && !authenticator.confirms(&self.data.code) {
                return Err(self.damaged());
            }
            decrypted
        })
    }

    fn decrypt(
        &self,
        mut stream: KeyStream,
        to_decrypt: &Receiver<Vec<u8>>,
        emptied: &Sender<Vec<u8>>,
        out: &File,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut writer = FileWriter::new(out, self.entry, progress);
        let mut plain = Unpacker::new(self.entry, self.data, None, |bytes: &[u8]| writer.write(bytes));
        for mut buffer in to_decrypt {
            stream.apply(&mut buffer);
            plain.update(&buffer)?;
            // If nobody takes it, the other thread has all it needs already.
            emptied.send(buffer).ok();
        }
        plain.finish().map(drop)
    }

    fn damaged(&self) -> Error {
        damaged(format!("the content of “{}” is not what was sealed", self.entry.path()))
    }
}

fn lost(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "a worker thread was lost", why)
}
