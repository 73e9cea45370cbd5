//! The content of one entry: authenticated, decrypted, inflated, written.
//!
//! Each byte of an entry is read once, and the same bytes are authenticated and decrypted: nobody who can write to the
//! envelope meanwhile gets other bytes decrypted than those that were authenticated.

use std::{
    fs::File,
    sync::mpsc::{self, Receiver, SyncSender},
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

/// Bytes that are handled at once. All buffers together stay in the cache.
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

    /// Decrypts a large entry to a file on two threads: the other authenticates, this one does all else, which takes as long.
    /// If this fails, the file holds unauthenticated plaintext and must go.
    pub(super) fn large_to_file(&self, out: &File, progress: &dyn Progress) -> Result<()> {
        let mut head = [0; HEAD_LEN];
        self.envelope.fill(self.data.at, &mut head)?;
        let keys = Keys::from_head(self.password, &head).ok_or_else(|| self.damaged())?;
        let (read, to_authenticate) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
        let (authenticated, to_decrypt) = mpsc::channel();
        thread::scope(|scope| {
            let mut authenticator = keys.authenticator();
            let authenticate = move || {
                for ciphertext in to_authenticate {
                    authenticator.update(&ciphertext);
                    // If nobody takes it, the other thread failed, and tells why.
                    authenticated.send(ciphertext).ok();
                }
                authenticator
            };
            let authenticating = thread::Builder::new().spawn_scoped(scope, authenticate).map_err(lost)?;
            let passed = self.pass(keys.stream(0), read, &to_decrypt, out, progress);
            let authenticator = authenticating.join().map_err(|_| lost("it panicked"))?;
            passed?;
            if authenticator.confirms(&self.data.code) { Ok(()) } else { Err(self.damaged()) }
        })
    }

    /// Reads ciphertext for whoever authenticates it, and decrypts and writes what comes back from there.
    fn pass(
        &self,
        mut stream: KeyStream,
        read: SyncSender<Vec<u8>>,
        to_decrypt: &Receiver<Vec<u8>>,
        out: &File,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut writer = FileWriter::new(out, self.entry, progress);
        let mut plain = Unpacker::new(self.entry, self.data, None, |bytes: &[u8]| writer.write(bytes));
        let mut buffers = vec![Vec::new(); BUFFERS];
        let (mut position, mut decrypted) = (0, 0);
        while decrypted < self.data.len {
            progress::check(progress)?;
            if position < self.data.len
                && let Some(mut buffer) = buffers.pop()
            {
                let len = (self.data.len - position).min(BUFFER as u64);
                buffer.resize(usize::try_from(len).map_err(lost)?, 0);
                self.envelope.fill(self.data.at + HEAD_LEN as u64 + position, &mut buffer)?;
                position += len;
                read.send(buffer).map_err(lost)?;
                continue;
            }
            let mut buffer = to_decrypt.recv().map_err(lost)?;
            stream.apply(&mut buffer);
            plain.update(&buffer)?;
            decrypted += buffer.len() as u64;
            buffers.push(buffer);
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
