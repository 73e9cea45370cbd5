//! An opened message: its content out, on all cores.

use std::{fs::File, os::unix::fs::FileExt};

use custodian_proto::key::FileKey;

use super::{
    algorithm::{Cipher, IV_LEN},
    cbc::{BLOCK_LEN, Cbc},
    gcm::{Gcm, PIECE},
    header::{Authentication, Content, Header},
    pieces::Pieces,
};
use crate::{
    envelope::{ReadAt, damaged, unsupported},
    error::Result,
    output,
    progress::{self, Progress},
    workers,
};

/// A message whose key is known. Nothing of it is authenticated yet.
pub struct Opened<'f> {
    source: &'f dyn ReadAt,
    header: Header<'f>,
    key: FileKey,
}

impl<'f> Opened<'f> {
    pub(super) fn new(source: &'f dyn ReadAt, header: Header<'f>, file_key: FileKey) -> Result<Self> {
        let key = header.algorithm.content_key(file_key)?;
        Ok(Self { source, header, key })
    }

    /// Writes the content to an empty file, and tells how much it is. If this fails, the file may hold plaintext that is
    /// not authenticated, and must go.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if the content is not what was sealed, or this is not the key; [`crate::Kind::Local`] if
    /// it cannot be written; [`crate::Kind::Interrupted`].
    pub fn write_to(self, out: &File, progress: &dyn Progress) -> Result<u64> {
        let Self { source, header: Header { algorithm, content, authentication, .. }, key } = self;
        match (algorithm.cipher, authentication) {
            (Cipher::Gcm { nonce, .. }, Some(authentication)) => {
                write_gcm(source, content, &Gcm::new(&key, nonce), &authentication, out, progress)
            }
            (Cipher::Cbc { iv }, None) => write_cbc(source, content, &Cbc::new(&key), iv, out, progress),
            _ => Err(unsupported("its encryption is not known here")),
        }
    }
}

fn write_gcm(
    source: &dyn ReadAt,
    content: Content<'_>,
    gcm: &Gcm,
    authentication: &Authentication,
    out: &File,
    progress: &dyn Progress,
) -> Result<u64> {
    let len = content.len;
    let mut tag = gcm.tag(&authentication.additional);
    workers::in_order(
        workers::count(),
        Pieces::new(content),
        |piece, buffer: &mut Vec<u8>| {
            progress::check(progress)?;
            let position = piece.position;
            let bytes = piece.read(source, buffer)?;
            // The same bytes are authenticated and decrypted, whoever changes the envelope meanwhile.
            let share = gcm.decrypt(position, bytes);
            write_at(out, position, bytes)?;
            progress.advance(bytes.len() as u64);
            Ok(share)
        },
        |share| {
            tag.add(&share);
            Ok(())
        },
    )?;
    if !tag.confirms(&authentication.tag) {
        return Err(damaged("its content is not what was sealed, or was sealed with another key"));
    }
    Ok(len)
}

/// Every failure of the padding is told as the same one: whoever could tell them apart could decrypt without the key.
fn write_cbc(
    source: &dyn ReadAt,
    content: Content<'_>,
    cbc: &Cbc,
    iv: [u8; IV_LEN],
    out: &File,
    progress: &dyn Progress,
) -> Result<u64> {
    let len = content.len;
    let mut previous = iv;
    let mut last = [0; BLOCK_LEN];
    // A piece needs the last block of the one before it, so this thread reads.
    let jobs = Pieces::new(content).map(|piece| {
        let piece = piece?;
        let position = piece.position;
        let mut bytes = Vec::new();
        piece.read(source, &mut bytes)?;
        let before = previous;
        previous = *bytes.last_chunk().ok_or_else(|| damaged("it changed while it was read"))?;
        Ok((position, before, bytes))
    });
    workers::in_order(
        workers::count(),
        jobs,
        |(position, before, mut bytes), (): &mut ()| {
            progress::check(progress)?;
            cbc.decrypt(&before, &mut bytes);
            write_at(out, position, &bytes)?;
            progress.advance(bytes.len() as u64);
            Ok(bytes.last_chunk().copied())
        },
        |block| {
            last = block.unwrap_or_default();
            Ok(())
        },
    )?;
    let padding = u64::from(last[BLOCK_LEN - 1]);
    let padded = (1..=BLOCK_LEN as u64).contains(&padding)
        && last[BLOCK_LEN - padding as usize..].iter().all(|byte| u64::from(*byte) == padding);
    if !padded {
        return Err(damaged("its content is not what was sealed, or was sealed with another key"));
    }
    out.set_len(len - padding).map_err(|why| output::failed("cannot write the content", &why))?;
    Ok(len - padding)
}

fn write_at(out: &File, position: u64, bytes: &[u8]) -> Result<()> {
    debug_assert!(position.is_multiple_of(PIECE));
    out.write_all_at(bytes, position).map_err(|why| output::failed("cannot write the content", &why))
}
