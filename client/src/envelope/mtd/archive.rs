//! The archive that is being written: pieces in, in order.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use super::{
    ae2::{Authenticator, CODE_LEN, Code, HEAD_LEN, KeyStream},
    directory_seal::DirectorySeal,
    password::Password,
    seal::{Large, Piece},
};
use crate::{
    envelope::zip::{Body, Compression, NewEntry, end_of_directory},
    error::{Error, Kind, Result},
    output,
};

/// Permission bits of CIPHER.KEY, which holds no secret by itself.
const PLAIN_MODE: u32 = 0o100_644;

pub(super) struct Archive<'f> {
    out: &'f File,
    position: u64,
    entries: u64,
    directory: Vec<u8>,
    codes: Vec<Code>,
    open: Option<OpenEntry>,
}

/// A large entry whose chunks are coming.
struct OpenEntry {
    offset: u64,
    stream: KeyStream,
    authenticator: Authenticator,
    ciphertext_len: u64,
}

impl<'f> Archive<'f> {
    /// Starts at the beginning of an empty file.
    pub(super) fn new(out: &'f File) -> Self {
        Self { out, position: 0, entries: 0, directory: Vec::new(), codes: Vec::new(), open: None }
    }

    /// Writes an entry that everybody can read.
    pub(super) fn write_plain(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let size = content.len() as u64;
        let entry = NewEntry {
            name: name.to_owned(),
            mode: PLAIN_MODE,
            modified: jiff::Timestamp::now().as_second(),
            size,
            sealed_size: size,
            body: Body::plain(crc32fast::hash(content)),
        };
        self.list(&entry, self.position);
        self.append(&[&entry.local_header(), content])
    }

    /// Writes the next piece.
    pub(super) fn write(&mut self, piece: Piece<'_>) -> Result<()> {
        match piece {
            Piece::Whole { entry, sealed, code } => {
                self.list(&entry, self.position);
                self.codes.extend(code);
                self.append(&[&entry.local_header(), &sealed, code.as_ref().map_or(&[][..], Code::as_slice)])
            }
            Piece::Chunk { large, index, bytes } => self.write_chunk(&large, index, bytes),
        }
    }

    /// Writes the directory and its seal. Returns the size of the archive.
    pub(super) fn finish(mut self, password: &Password) -> Result<u64> {
        let seal = DirectorySeal::new(password, &self.directory, self.codes.iter())
            .ok_or_else(|| Error::new(Kind::Local, "cannot seal", "HMAC is not available"))?;
        let len = self.directory.len() as u64;
        let end = end_of_directory(self.entries, self.position, len, &seal.into_comment());
        let directory = std::mem::take(&mut self.directory);
        self.append(&[&directory, &end])?;
        Ok(self.position)
    }

    fn write_chunk(&mut self, large: &Arc<Large<'_>>, index: u64, mut bytes: Vec<u8>) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(large)?,
        };
        if large.file.compression == Compression::Deflated {
            open.stream.apply(&mut bytes);
        }
        open.authenticator.update(&bytes);
        open.ciphertext_len += bytes.len() as u64;
        self.append(&[&bytes])?;
        if large.file.is_last(index) {
            return self.end(large, open);
        }
        self.open = Some(open);
        Ok(())
    }

    fn begin(&mut self, large: &Large<'_>) -> Result<OpenEntry> {
        let offset = self.position;
        self.append(&[&large.entry(0).local_header(), &large.head()])?;
        let (stream, authenticator) = (large.keys.stream(0), large.keys.authenticator());
        Ok(OpenEntry { offset, stream, authenticator, ciphertext_len: 0 })
    }

    fn end(&mut self, large: &Large<'_>, open: OpenEntry) -> Result<()> {
        large.file.input.check_unchanged()?;
        let code = open.authenticator.code();
        self.append(&[&code])?;
        let entry = large.entry((HEAD_LEN + CODE_LEN) as u64 + open.ciphertext_len);
        self.out.write_all_at(&entry.local_header(), open.offset).map_err(|why| cannot_write(&why))?;
        self.list(&entry, open.offset);
        self.codes.push(code);
        Ok(())
    }

    fn list(&mut self, entry: &NewEntry, offset: u64) {
        self.directory.extend(entry.central_header(offset));
        self.entries += 1;
    }

    fn append(&mut self, parts: &[&[u8]]) -> Result<()> {
        for part in parts {
            self.out.write_all_at(part, self.position).map_err(|why| cannot_write(&why))?;
            self.position += part.len() as u64;
        }
        Ok(())
    }
}

fn cannot_write(why: &std::io::Error) -> Error {
    output::failed("cannot write the envelope", why)
}
