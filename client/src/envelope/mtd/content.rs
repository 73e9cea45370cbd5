//! The content of one entry: authenticated, decrypted, inflated, written.
//!
//! Each byte of an entry is read once, and the same bytes are authenticated and decrypted: nobody who can write to the
//! envelope meanwhile gets other bytes decrypted than those that were authenticated.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use flate2::{Decompress, FlushDecompress, Status};

use super::{
    ae2::{HEAD_LEN, KeyStream, Keys},
    password::Password,
    zip::{Compression, Data, Entry},
};
use crate::{
    envelope::damaged,
    error::{Error, Kind, Result},
    output,
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
        self.read(self.data.at, &mut scratch.sealed)?;
        let (head, ciphertext) = scratch.sealed.split_first_chunk_mut().ok_or_else(|| self.damaged())?;
        let keys = Keys::from_head(self.password, head).ok_or_else(|| self.damaged())?;
        let mut authenticator = keys.authenticator();
        authenticator.update(ciphertext);
        if !authenticator.confirms(&self.data.code) {
            return Err(self.damaged());
        }
        keys.stream(0).apply(ciphertext);
        let mut plain = Plain::new(self, scratch.inflater.take(), take);
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
        let mut writer = FileWriter { out, position: 0, content: self, progress };
        self.whole(scratch, |bytes| writer.write(bytes))
    }

    /// Decrypts a large entry to a file on two threads: this one reads and authenticates, the other decrypts and writes.
    /// If this fails, the file holds unauthenticated plaintext and must go.
    pub(super) fn large_to_file(&self, out: &File, progress: &dyn Progress) -> Result<()> {
        let mut head = [0; HEAD_LEN];
        self.read(self.data.at, &mut head)?;
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
                self.read(self.data.at + HEAD_LEN as u64 + position, &mut buffer)?;
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
        let mut writer = FileWriter { out, position: 0, content: self, progress };
        let mut plain = Plain::new(self, None, |bytes: &[u8]| writer.write(bytes));
        for mut buffer in to_decrypt {
            stream.apply(&mut buffer);
            plain.update(&buffer)?;
            // If nobody takes it, the other thread has all it needs already.
            emptied.send(buffer).ok();
        }
        plain.finish().map(drop)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.envelope.read_exact_at(bytes, at).map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
            _ => Error::new(Kind::Local, "cannot read the envelope", why),
        })
    }

    fn damaged(&self) -> Error {
        damaged(format!("the content of “{}” is not what was sealed", self.entry.path()))
    }
}

/// Decrypted bytes on their way out: inflated if need be, never more than the entry's size.
struct Plain<'a, T> {
    content: &'a Content<'a>,
    inflater: Option<Inflater>,
    len: u64,
    take: T,
}

impl<'a, T: FnMut(&[u8]) -> Result<()>> Plain<'a, T> {
    fn new(content: &'a Content<'a>, inflater: Option<Inflater>, take: T) -> Self {
        let inflater = match content.data.compression {
            Compression::Deflated => Some(inflater.unwrap_or_default().reset()),
            Compression::Stored => inflater,
        };
        Self { content, inflater, len: 0, take }
    }

    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        match (&mut self.inflater, self.content.data.compression) {
            (Some(inflater), Compression::Deflated) => {
                let (content, len, take) = (self.content, &mut self.len, &mut self.take);
                inflater.inflate(bytes, content, |piece| {
                    *len += piece.len() as u64;
                    if *len > content.entry.size() {
                        return Err(content.damaged());
                    }
                    take(piece)
                })
            }
            _ => {
                self.len += bytes.len() as u64;
                (self.take)(bytes)
            }
        }
    }

    /// Gives the inflater back for the next entry.
    fn finish(self) -> Result<Option<Inflater>> {
        let deflated = self.content.data.compression == Compression::Deflated;
        let ended = !deflated || self.inflater.as_ref().is_some_and(|inflater| inflater.ended);
        if !ended || self.len != self.content.entry.size() {
            return Err(self.content.damaged());
        }
        Ok(self.inflater)
    }
}

struct Inflater {
    state: Decompress,
    buffer: Vec<u8>,
    ended: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { state: Decompress::new(false), buffer: vec![0; BUFFER], ended: false }
    }
}

impl Inflater {
    fn reset(mut self) -> Self {
        self.state.reset(false);
        self.ended = false;
        self
    }

    fn inflate(
        &mut self,
        mut bytes: &[u8],
        content: &Content<'_>,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        loop {
            if self.ended {
                return if bytes.is_empty() { Ok(()) } else { Err(content.damaged()) };
            }
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(bytes, &mut self.buffer, FlushDecompress::None);
            let status = status.map_err(|_| content.damaged())?;
            let taken = usize::try_from(self.state.total_in() - taken).map_err(lost)?;
            let made = usize::try_from(self.state.total_out() - made).map_err(lost)?;
            bytes = &bytes[taken..];
            take(&self.buffer[..made])?;
            self.ended = status == Status::StreamEnd;
            let wants_more = bytes.is_empty() && made < self.buffer.len();
            if wants_more && !self.ended {
                return Ok(());
            }
            if taken == 0 && made == 0 && !self.ended {
                return Err(content.damaged());
            }
        }
    }
}

/// Writes content to its file and tells the progress.
struct FileWriter<'a> {
    out: &'a File,
    position: u64,
    content: &'a Content<'a>,
    progress: &'a dyn Progress,
}

impl FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        progress::check(self.progress)?;
        self.out
            .write_all_at(bytes, self.position)
            .map_err(|why| output::failed(format!("cannot write “{}”", self.content.entry.path()), &why))?;
        self.position += bytes.len() as u64;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }
}

fn lost(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "a worker thread was lost", why)
}
