//! From the stored bytes of an entry to its content: inflated if need be, never more than the entry's size, and written.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::{Duration, SystemTime},
};

use flate2::{Decompress, FlushDecompress, Status};

use super::entry::{Compression, Data, Entry};
use crate::{
    envelope::damaged,
    error::{Error, Kind, Result},
    output,
    progress::{self, Progress},
};

/// Longest target of a link, in bytes: what Linux takes.
pub(in super::super) const MAX_TARGET_LEN: usize = 4_095;

/// Bytes that are inflated at once.
const BUFFER: usize = 256 * 1024;

/// Stored bytes of one entry on their way out.
pub(in super::super) struct Unpacker<'a, T> {
    entry: &'a Entry,
    compression: Compression,
    inflater: Option<Inflater>,
    len: u64,
    take: T,
}

impl<'a, T: FnMut(&[u8]) -> Result<()>> Unpacker<'a, T> {
    /// Starts an entry. `inflater` is one that an earlier entry is done with; `take` gets the content piece by piece.
    pub(in super::super) fn new(entry: &'a Entry, data: &Data, inflater: Option<Inflater>, take: T) -> Self {
        let inflater = match data.compression {
            Compression::Deflated => Some(inflater.unwrap_or_default().reset()),
            Compression::Stored => inflater,
        };
        Self { entry, compression: data.compression, inflater, len: 0, take }
    }

    /// Takes the next stored bytes.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if they do not inflate, or to more than the entry's size; and those of `take`.
    pub(in super::super) fn update(&mut self, bytes: &[u8]) -> Result<()> {
        match (&mut self.inflater, self.compression) {
            (Some(inflater), Compression::Deflated) => {
                let (entry, len, take) = (self.entry, &mut self.len, &mut self.take);
                inflater.inflate(bytes, entry, |piece| {
                    *len += piece.len() as u64;
                    if *len > entry.size() {
                        return Err(not_as_sealed(entry));
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

    /// Ends the entry. Gives the inflater back for the next one.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the content is shorter than the entry's size.
    pub(in super::super) fn finish(self) -> Result<Option<Inflater>> {
        let deflated = self.compression == Compression::Deflated;
        let ended = !deflated || self.inflater.as_ref().is_some_and(|inflater| inflater.ended);
        if !ended || self.len != self.entry.size() {
            return Err(not_as_sealed(self.entry));
        }
        Ok(self.inflater)
    }
}

/// Inflates one deflate stream after another.
pub(in super::super) struct Inflater {
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
        entry: &Entry,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        loop {
            if self.ended {
                return if bytes.is_empty() { Ok(()) } else { Err(not_as_sealed(entry)) };
            }
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(bytes, &mut self.buffer, FlushDecompress::None);
            let status = status.map_err(|_| not_as_sealed(entry))?;
            let taken = to_usize(self.state.total_in() - taken)?;
            let made = to_usize(self.state.total_out() - made)?;
            bytes = &bytes[taken..];
            take(&self.buffer[..made])?;
            self.ended = status == Status::StreamEnd;
            let wants_more = bytes.is_empty() && made < self.buffer.len();
            if wants_more && !self.ended {
                return Ok(());
            }
            if taken == 0 && made == 0 && !self.ended {
                return Err(not_as_sealed(entry));
            }
        }
    }
}

/// Writes content to its file and tells the progress.
pub(in super::super) struct FileWriter<'a> {
    out: &'a File,
    position: u64,
    entry: &'a Entry,
    progress: &'a dyn Progress,
}

impl<'a> FileWriter<'a> {
    /// Writes from the beginning of the file.
    pub(in super::super) fn new(out: &'a File, entry: &'a Entry, progress: &'a dyn Progress) -> Self {
        Self::starting_at(0, out, entry, progress)
    }

    /// Writes from this position on.
    pub(in super::super) fn starting_at(
        position: u64,
        out: &'a File,
        entry: &'a Entry,
        progress: &'a dyn Progress,
    ) -> Self {
        Self { out, position, entry, progress }
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`Kind::Local`] if they cannot be written; [`Kind::Interrupted`].
    pub(in super::super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        progress::check(self.progress)?;
        self.out
            .write_all_at(bytes, self.position)
            .map_err(|why| output::failed(format!("cannot write “{}”", self.entry.path()), &why))?;
        self.position += bytes.len() as u64;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }
}

/// Gives a file the modification time of its entry.
///
/// # Errors
/// [`Kind::Local`] if the file system refuses.
pub(in super::super) fn set_modified(file: &File, entry: &Entry) -> Result<()> {
    let Some(modified) = entry.modified().and_then(to_system_time) else { return Ok(()) };
    file.set_modified(modified)
        .map_err(|why| output::failed(format!("cannot set the time of “{}”", entry.path()), &why))
}

fn to_system_time(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if seconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
}

fn not_as_sealed(entry: &Entry) -> Error {
    damaged(format!("the content of “{}” is not what was sealed", entry.path()))
}

fn to_usize(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|why| Error::new(Kind::Local, "cannot inflate", why))
}
