//! One entry of the directory, checked: what it is, and where its bytes are.

use super::layout::{
    AE2_OVERHEAD, Ae2Code, Common, EXTRA_AES, FLAG_ENCRYPTED, KNOWN_FLAGS, METHOD_AES, METHOD_DEFLATED,
    METHOD_STORED, TYPE_FILE, TYPE_FOLDER, TYPE_LINK, TYPE_MASK,
};
use crate::{
    envelope::{damaged, unsupported},
    error::{Error, Result},
    output::SafePath,
};

/// What an entry is.
pub use crate::output::Kind as EntryKind;

/// What protects the entries of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protection {
    /// AE-2, each entry by itself.
    Ae2,
    /// Nothing in the archive: all of it is inside something that is encrypted.
    Outside,
}

/// How content is stored before it is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Compression {
    /// As it is.
    Stored,
    /// RFC 1951.
    Deflated,
}

impl Compression {
    /// §4.4.5
    pub(super) fn method(self) -> u16 {
        match self {
            Self::Stored => METHOD_STORED,
            Self::Deflated => METHOD_DEFLATED,
        }
    }

    fn from_method(method: u16) -> Option<Self> {
        [Self::Stored, Self::Deflated].into_iter().find(|known| known.method() == method)
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(in super::super) path: SafePath,
    pub(in super::super) kind: EntryKind,
    pub(in super::super) size: u64,
    pub(in super::super) sealed_size: u64,
    /// `None` for folders.
    pub(in super::super) data: Option<Data>,
    pub(in super::super) modified: Option<i64>,
    pub(in super::super) mode: Option<u32>,
    /// Where its header in the directory is.
    pub(super) central_at: usize,
}

/// The content of an entry, as it is in the archive.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Data {
    /// Where it is; of an AE-2 entry, where its salt is. Zero until the local header was read.
    pub(in super::super) at: u64,
    /// Bytes, without AE-2's salt, verifier and code.
    pub(in super::super) len: u64,
    pub(in super::super) compression: Compression,
    /// CRC-32 of the content. AE-2 entries have none: zero.
    pub(in super::super) crc: u32,
    /// AE-2's authentication code. Other entries have none: zeros.
    pub(in super::super) code: Ae2Code,
}

impl Entry {
    /// Its path inside the envelope.
    pub fn path(&self) -> &SafePath {
        &self.path
    }

    /// What it is.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Bytes of content. For a link, of its target.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in the envelope, without headers.
    pub fn sealed_size(&self) -> u64 {
        self.sealed_size
    }

    /// Seconds since 1970.
    pub fn modified(&self) -> Option<i64> {
        self.modified
    }

    /// Unix permission bits. Those for set-user-id, set-group-id and sticky are left out.
    pub fn mode(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o777)
    }
}

/// The central header of an entry, as it was found.
pub(super) struct Found<'a> {
    pub(super) name: &'a [u8],
    pub(super) common: Common,
    pub(super) aes: Option<&'a [u8]>,
    pub(super) size: u64,
    pub(super) sealed_size: u64,
    pub(super) modified: Option<i64>,
    /// With the file type; `None` if not made on Unix.
    pub(super) mode: Option<u32>,
}

impl Found<'_> {
    /// Checks that it is a kind of entry we know, with a safe name. Where its data is comes later.
    pub(super) fn check(&self, protection: Protection, central_at: usize) -> Result<Entry> {
        let text = std::str::from_utf8(self.name)
            .map_err(|_| unsupported(format!("the name {} is not UTF-8", self.shown_name())))?;
        let path = SafePath::parse(text.strip_suffix('/').unwrap_or(text))
            .map_err(|why| damaged(format!("the name {} is not safe: {why}", self.shown_name())))?;
        if self.common.flags & !KNOWN_FLAGS != 0 {
            return Err(self.unsupported("is stored in a way that is not known here"));
        }
        let kind = self.kind(text.ends_with('/'))?;
        let data = match kind {
            EntryKind::Folder => None,
            EntryKind::File | EntryKind::Link => Some(match protection {
                Protection::Ae2 => self.sealed_data()?,
                Protection::Outside => self.plain_data()?,
            }),
        };
        Ok(Entry {
            path,
            kind,
            size: self.size,
            sealed_size: self.sealed_size,
            data,
            modified: self.modified,
            mode: self.mode,
            central_at,
        })
    }

    fn kind(&self, slash: bool) -> Result<EntryKind> {
        let by_mode = self.mode.map_or(0, |mode| mode & TYPE_MASK);
        match (slash, by_mode) {
            (true, 0 | TYPE_FOLDER) => {
                let empty = self.size == 0
                    && self.sealed_size == 0
                    && self.common.crc == 0
                    && self.common.method == METHOD_STORED
                    && self.common.flags & FLAG_ENCRYPTED == 0;
                if empty { Ok(EntryKind::Folder) } else { Err(self.damaged("is a folder with content")) }
            }
            (false, 0 | TYPE_FILE) => Ok(EntryKind::File),
            (false, TYPE_LINK) => Ok(EntryKind::Link),
            _ => Err(self.damaged("is neither a file, a folder nor a link")),
        }
    }

    /// WinZip's AE-x extra field: vendor version, “AE”, strength, actual method.
    fn sealed_data(&self) -> Result<Data> {
        if self.common.flags & FLAG_ENCRYPTED == 0 {
            return Err(self.damaged("is not encrypted"));
        }
        let (METHOD_AES, Some(aes)) = (self.common.method, self.aes) else {
            return Err(self.unsupported(format!("is not encrypted with AES (extra field {EXTRA_AES:#06x})")));
        };
        let [version, 0, b'A', b'E', strength, method @ ..] = aes else {
            return Err(self.damaged("has an AES field that makes no sense"));
        };
        if (*version, *strength) != (2, 3) || self.common.crc != 0 {
            return Err(self.unsupported("is not encrypted with AE-2 and AES-256"));
        }
        let method = <[u8; 2]>::try_from(method).map(u16::from_le_bytes);
        let method = method.map_err(|_| self.damaged("has an AES field of the wrong length"))?;
        let len = self
            .sealed_size
            .checked_sub(AE2_OVERHEAD)
            .ok_or_else(|| self.damaged("is too short to be encrypted"))?;
        self.data(method, len)
    }

    fn plain_data(&self) -> Result<Data> {
        if self.common.flags & FLAG_ENCRYPTED != 0 {
            return Err(self.unsupported("is encrypted once more"));
        }
        self.data(self.common.method, self.sealed_size)
    }

    fn data(&self, method: u16, len: u64) -> Result<Data> {
        let compression = Compression::from_method(method)
            .ok_or_else(|| self.unsupported(format!("is compressed by method {method}")))?;
        if compression == Compression::Stored && len != self.size {
            return Err(self.damaged("has sizes that contradict each other"));
        }
        Ok(Data { at: 0, len, compression, crc: self.common.crc, code: Ae2Code::default() })
    }

    /// The name for an error message: unknown bytes and control characters escaped.
    pub(super) fn shown_name(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(self.name))
    }

    pub(super) fn damaged(&self, why: impl std::fmt::Display) -> Error {
        damaged(format!("the entry {} {why}", self.shown_name()))
    }

    fn unsupported(&self, why: impl std::fmt::Display) -> Error {
        unsupported(format!("the entry {} {why}", self.shown_name()))
    }
}
