//! A message in binary, whatever it came in: CMS and OpenPGP both have a form in text.

use std::fs::File;

use super::start_of;
use crate::error::{Error, Kind, Result};

/// A file, or what its text was decoded to.
pub(super) struct Binary<'f> {
    bytes: Bytes<'f>,
    len: u64,
}

enum Bytes<'f> {
    Given(&'f File),
    Decoded(File),
}

impl<'f> Binary<'f> {
    /// Takes a file of `len` bytes. `decode` sees how it starts: what it makes of a text is taken in its place.
    ///
    /// # Errors
    /// Those of `decode`; [`Kind::Local`] if the file cannot be read.
    pub(super) fn of(
        file: &'f File,
        len: u64,
        decode: impl FnOnce(&[u8]) -> Result<Option<File>>,
    ) -> Result<Self> {
        let Some(decoded) = decode(&start_of(file, len)?)? else {
            return Ok(Self { bytes: Bytes::Given(file), len });
        };
        let metadata = decoded.metadata();
        let len = metadata.map_err(|why| Error::new(Kind::Local, "cannot read a temporary file", why))?.len();
        Ok(Self { bytes: Bytes::Decoded(decoded), len })
    }

    /// Where the message is.
    pub(super) fn file(&self) -> &File {
        match &self.bytes {
            Bytes::Given(file) => file,
            Bytes::Decoded(file) => file,
        }
    }

    /// How long it is, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}
