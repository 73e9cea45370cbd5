//! The archive that is being written: pieces in, in order.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use super::{
    ae2::{Authenticator, CODE_LEN, Code, HEAD_LEN, KeyStream},
    directory_seal::DirectorySeal,
    password::Password,
    seal::{Large, Piece, large_entry},
};
use crate::{
    envelope::{
        Written,
        zip::{Body, Compression, NewEntry, Place, Sizes, end_of_directory},
    },
    error::{Error, Kind, Result},
    output,
};

/// Permission bits of CIPHER.KEY, which holds no secret by itself.
const PLAIN_MODE: u32 = 0o100_644;

pub(super) struct Archive<'f> {
    out: &'f File,
    position: u64,
    entries: u64,
    content_bytes: u64,
    directory: Vec<u8>,
    codes: Vec<Code>,
    open: Option<OpenEntry>,
}

/// A large entry whose chunks are coming.
struct OpenEntry {
    offset: u64,
    stream: KeyStream,
    authenticator: Authenticator,
    content_len: u64,
    ciphertext_len: u64,
}

impl<'f> Archive<'f> {
    /// Starts at the beginning of an empty file.
    pub(super) fn new(out: &'f File) -> Self {
        Self {
            out,
            position: 0,
            entries: 0,
            content_bytes: 0,
            directory: Vec::new(),
            codes: Vec::new(),
            open: None,
        }
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
            sizes: Sizes::Known,
        };
        self.list(&entry, self.position);
        self.append(&[&entry.local_header(), content])
    }

    /// Writes the next piece.
    pub(super) fn write(&mut self, piece: Piece<'_>) -> Result<()> {
        self.content_bytes += piece.content_len();
        match piece {
            Piece::Whole { entry, sealed, code } => {
                self.list(&entry, self.position);
                self.codes.extend(code);
                self.append(&[&entry.local_header(), &sealed, code.as_ref().map_or(&[][..], Code::as_slice)])
            }
            Piece::Chunk { large, place, content_len, bytes } => {
                self.write_chunk(&large, place, content_len, bytes)
            }
        }
    }

    /// Writes the directory and its seal.
    pub(super) fn finish(mut self, password: &Password) -> Result<Written> {
        let seal = DirectorySeal::new(password, &self.directory, self.codes.iter())
            .ok_or_else(|| Error::new(Kind::Local, "cannot seal", "HMAC is not available"))?;
        let len = self.directory.len() as u64;
        let end = end_of_directory(self.entries, self.position, len, &seal.into_comment());
        let directory = std::mem::take(&mut self.directory);
        self.append(&[&directory, &end])?;
        Ok(Written { content_bytes: self.content_bytes, envelope_bytes: self.position })
    }

    fn write_chunk(
        &mut self,
        large: &Arc<Large<'_>>,
        place: Place,
        content_len: u64,
        mut bytes: Vec<u8>,
    ) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(large)?,
        };
        if large.compression == Compression::Deflated {
            open.stream.apply(&mut bytes);
        }
        open.authenticator.update(&bytes);
        open.content_len += content_len;
        open.ciphertext_len += bytes.len() as u64;
        self.append(&[&bytes])?;
        if place == Place::Last {
            return self.end(large, open);
        }
        self.open = Some(open);
        Ok(())
    }

    fn begin(&mut self, large: &Large<'_>) -> Result<OpenEntry> {
        let offset = self.position;
        self.append(&[&large_entry(large, large.size(), 0).local_header(), &large.keys.head()])?;
        let (stream, authenticator) = (large.keys.keys.stream(0), large.keys.keys.authenticator());
        Ok(OpenEntry { offset, stream, authenticator, content_len: 0, ciphertext_len: 0 })
    }

    fn end(&mut self, large: &Large<'_>, open: OpenEntry) -> Result<()> {
        large.check_unchanged()?;
        let code = open.authenticator.code();
        self.append(&[&code])?;
        let entry = large_entry(large, open.content_len, (HEAD_LEN + CODE_LEN) as u64 + open.ciphertext_len);
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
