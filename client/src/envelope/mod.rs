//! Envelope formats: a closed set. Each has a module with the same verbs: `read_header`, `open`, `seal`.

pub mod mtd;
mod oaep;
mod recipient;

pub use recipient::Recipient;

use crate::error::{Error, Kind};

/// The formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A ZIP archive with AES-256 entries, whose password is in a CMS message: `docs/formats/mtd.md`.
    Mtd,
}

impl Format {
    /// Its name in text and in the custodian's log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mtd => "mtd",
        }
    }
}

/// Most recipients of one envelope, when sealing and when reading.
pub const MAX_RECIPIENTS: usize = 1_000;

/// How many bytes of the start of a file [`detect`] wants to see.
pub const DETECT_LEN: usize = 64;

/// Tells the format from the first [`DETECT_LEN`] bytes of a file (fewer if the file is shorter). Names and suffixes
/// do not count.
///
/// # Errors
/// [`Kind::Local`], with what the file looks like instead.
pub fn detect(start: &[u8]) -> Result<Format, Error> {
    if mtd::is_mtd(start) {
        return Ok(Format::Mtd);
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
            (b"-----BEGIN", "PEM"),
            (b"hello", "no format"),
        ] {
            let error = detect(start).expect_err("no envelope");
            assert_eq!(error.kind, Kind::Local);
            assert!(error.why.contains(why), "{}", error.why);
        }
    }
}
