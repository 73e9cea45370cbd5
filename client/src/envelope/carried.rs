//! A signature that a ZIP carries in its comment, and the envelope without it.
//!
//! What is signed is the envelope as it was before: without the signature, and with the comment's length as it was then.

use std::{fs::File, os::unix::fs::FileExt, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    damaged,
    read_at::{ReadAt, read},
};
use crate::{
    error::{Error, Kind, Result},
    output,
    progress::Progress,
    signed::{Signing, hash_of, sign_detached},
};

/// Stands between the comment as it was and the signature.
const MARK: &[u8] = b"\nCMS1 ";
/// The signature of the end record.
const END_SIGNATURE: &[u8] = b"PK\x05\x06";
/// Bytes of the end record, without the comment.
const END_LEN: usize = 22;
/// Where in it the comment's length is.
const COMMENT_LEN_AT: usize = 20;

/// An envelope without the signature that it carries.
pub(crate) struct Unsigned<'f> {
    source: &'f dyn ReadAt,
    len: u64,
    /// Where the comment's length stands, and what it was.
    was: Option<(u64, [u8; 2])>,
}

impl<'f> Unsigned<'f> {
    /// Takes the signature off an archive of `len` bytes, if it carries one. Returns that, too.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the signature is no text, or does not end where the archive does; [`Kind::Local`] if the
    /// archive cannot be read.
    pub(crate) fn of_zip(source: &'f dyn ReadAt, len: u64) -> Result<(Self, Option<Vec<u8>>)> {
        let whole = Self { source, len, was: None };
        let Some(end) = End::find(source, len)? else { return Ok((whole, None)) };
        let Some(mark) = end.comment.windows(MARK.len()).position(|window| window == MARK) else {
            return Ok((whole, None));
        };
        if usize::from(end.comment_len) != end.comment.len() {
            return Err(damaged("something stands behind its end"));
        }
        let signature = STANDARD.decode(&end.comment[mark + MARK.len()..]);
        let signature = signature.map_err(|_| damaged("the signature that it carries is no base64"))?;
        let was = u16::try_from(mark).unwrap_or_default().to_le_bytes();
        let unsigned = Self {
            source,
            len: end.at + (END_LEN + mark) as u64,
            was: Some((end.at + COMMENT_LEN_AT as u64, was)),
        };
        Ok((unsigned, Some(signature)))
    }

    /// How long it is, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

impl ReadAt for Unsigned<'_> {
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let end = at.saturating_add(buffer.len() as u64);
        if end > self.len {
            return Err(damaged("it is cut off"));
        }
        self.source.fill(at, buffer)?;
        for (place, byte) in self.was.iter().flat_map(|(place, was)| (*place..).zip(was)) {
            if (at..end).contains(&place) {
                buffer[(place - at) as usize] = *byte;
            }
        }
        Ok(())
    }
}

/// The end record of an archive.
struct End {
    at: u64,
    comment_len: u16,
    /// All that stands behind the record.
    comment: Vec<u8>,
}

impl End {
    fn find(source: &dyn ReadAt, len: u64) -> Result<Option<Self>> {
        let tail_len = len.min((END_LEN + usize::from(u16::MAX)) as u64);
        let tail = read(source, len - tail_len, usize::try_from(tail_len).unwrap_or_default())?;
        let Some(found) = tail.windows(END_LEN).rposition(|window| window.starts_with(END_SIGNATURE)) else {
            return Ok(None);
        };
        let comment_len =
            u16::from_le_bytes([tail[found + COMMENT_LEN_AT], tail[found + COMMENT_LEN_AT + 1]]);
        let comment = tail[found + END_LEN..].to_vec();
        Ok(Some(Self { at: len - tail_len + found as u64, comment_len, comment }))
    }
}

/// Signs an envelope that was just written to a file and puts the signature into its comment. Returns how long it is then.
///
/// # Errors
/// Those of the signer, and of the authority; [`Kind::Local`] if the signature with its certificates is too long for a
/// comment, or cannot be written; [`Kind::Interrupted`].
pub(crate) fn sign_zip(file: &File, len: u64, signing: Signing<'_>, progress: &dyn Progress) -> Result<u64> {
    let cannot_sign = |why: &str| Error::new(Kind::Local, "cannot sign the envelope", why);
    let end = End::find(file, len)?.ok_or_else(|| cannot_sign("it has no end record"))?;
    let digest = hash_of(file, len, signing.signer.algorithm().hash(), progress)?;
    let signature = STANDARD.encode(sign_detached(signing, &digest, SystemTime::now())?);
    let added = [MARK, signature.as_bytes()].concat();
    let comment_len = u16::try_from(end.comment.len() + added.len()).map_err(|_| {
        cannot_sign("the signature with its certificates and its timestamp is longer than 48 KiB")
            .hint("leave certificates out that the recipient has")
    })?;
    let cannot_write = |why| output::failed("cannot write the envelope", &why);
    file.write_all_at(&added, len).map_err(cannot_write)?;
    file.write_all_at(&comment_len.to_le_bytes(), end.at + COMMENT_LEN_AT as u64).map_err(cannot_write)?;
    Ok(len + added.len() as u64)
}
