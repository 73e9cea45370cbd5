//! Envelope formats: a closed set. Each has a module with the same verbs: `read_header`, `open`, `seal`.

mod binary;
pub(crate) mod carried;
mod cipher_key;
pub mod cms;
mod jobs;
pub mod mtd;
mod oaep;
mod opened;
pub mod openpgp;
mod own_key;
mod read_at;
mod recipient;
pub mod sealed;
mod sender_mark;
mod source;
mod zip;

pub use opened::Opened;
pub use own_key::OwnKey;
pub use read_at::ReadAt;
pub(crate) use read_at::each_piece;
pub use recipient::Recipient;
pub use sender_mark::SenderMark;
pub use source::{Body, Source};
pub use zip::{Entry, EntryKind};

use self::{source::Input, zip::starts_with_local};
use crate::error::{Error, Kind};

/// The first entry of an MTD archive and of a `sealed` envelope.
const CIPHER_KEY: &str = "CIPHER.KEY";

/// The formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A ZIP archive with AES-256 entries, whose password is in a CMS message: `docs/formats/mtd.md`.
    Mtd,
    /// Encrypted as a whole, names included, and readable at any place: `docs/formats/sealed.md`.
    Sealed,
    /// One file in a CMS message, as in S/MIME: `docs/formats/cms.md`.
    Cms,
    /// One file in an OpenPGP message: `docs/formats/openpgp.md`.
    OpenPgp,
}

impl Format {
    /// Its name in text and in the custodian's log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mtd => "mtd",
            Self::Sealed => "sealed",
            Self::Cms => "cms",
            Self::OpenPgp => "openpgp",
        }
    }
}

/// Most recipients of one envelope, when sealing and when reading.
pub const MAX_RECIPIENTS: usize = 1_000;

/// What was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes of file content in it.
    pub content_bytes: u64,
    /// The envelope's own size in bytes.
    pub envelope_bytes: u64,
}

/// How many bytes of the start of a file tell what it is.
const START_LEN: usize = 64;

/// As much of a file of `len` bytes as tells what it is.
fn start_of(file: &dyn ReadAt, len: u64) -> Result<Vec<u8>, Error> {
    read_at::read(file, 0, usize::try_from(len).unwrap_or(START_LEN).min(START_LEN))
}

/// Tells the format of a file of `len` bytes from its content. Names and suffixes do not count.
///
/// # Errors
/// [`Kind::Local`], with what the file looks like instead, or if it cannot be read.
pub fn detect(file: &dyn ReadAt, len: u64) -> Result<Format, Error> {
    let start = &*start_of(file, len)?;
    if starts_with_local(start, CIPHER_KEY.as_bytes()) {
        return Ok(if sealed::is_sealed(file, len)? { Format::Sealed } else { Format::Mtd });
    }
    if cms::is_cms(start) {
        return Ok(Format::Cms);
    }
    if openpgp::is_openpgp(start) {
        return Ok(Format::OpenPgp);
    }
    let looks_like = match start {
        [] => "it is empty",
        [b'P', b'K', 3, 4, ..] => "it is a ZIP archive, but CIPHER.KEY is not its first entry",
        [b'P', b'K', ..] => "it looks like a ZIP archive, but CIPHER.KEY is not its first entry",
        [b'-', b'-', b'-', b'-', b'-', ..] => "it is a PEM text",
        _ => "it starts like no format known here",
    };
    Err(Error::new(Kind::Local, "this is no envelope", looks_like)
        .hint("check that it is the file you meant, and that it arrived complete"))
}

/// The envelope contradicts itself, is cut off, or was changed.
pub(crate) fn damaged(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, "the envelope is damaged or was tampered with", why)
        .hint("nothing was released; get a fresh copy from its sender")
}

/// The envelope may be sound, but this program does not open such.
pub(crate) fn unsupported(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "this program cannot open such an envelope", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_envelope_is_told_with_what_it_looks_like() {
        for (start, why) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04", "CIPHER.KEY"),
            (b"-----BEGIN CERTIFICATE-----", "PEM"),
            (b"hello", "no format"),
        ] {
            let error = detect(&start, start.len() as u64).expect_err("no envelope");
            assert_eq!(error.kind, Kind::Local);
            assert!(error.why.contains(why), "{}", error.why);
        }
    }
}
