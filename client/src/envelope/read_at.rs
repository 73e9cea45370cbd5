//! Bytes that can be read at any position: a file, or what is encrypted in one.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::damaged;
use crate::{
    error::{Error, Kind, Result},
    progress::{self, Progress},
};

/// Where an envelope's bytes come from. Parts of it are read by several threads at once, so a position is no state of it.
pub trait ReadAt: Sync {
    /// Fills the buffer with what starts at this position.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the end comes before the buffer is full; [`Kind::Local`] if it cannot be read.
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()>;
}

/// Bytes that are read at once.
const PIECE: u64 = 1024 * 1024;

/// Gives the first `len` bytes to `take`, piece by piece: in constant memory.
///
/// # Errors
/// Those of the source; [`Kind::Interrupted`].
pub(crate) fn each_piece(
    source: &dyn ReadAt,
    len: u64,
    progress: &dyn Progress,
    mut take: impl FnMut(&[u8]),
) -> Result<()> {
    let (mut at, mut piece) = (0, Vec::new());
    while at < len {
        progress::check(progress)?;
        piece.resize(usize::try_from(PIECE.min(len - at)).unwrap_or_default(), 0);
        source.fill(at, &mut piece)?;
        take(&piece);
        at += piece.len() as u64;
    }
    Ok(())
}

impl ReadAt for File {
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_exact_at(buffer, at).map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
            _ => Error::new(Kind::Local, "cannot read the envelope", why),
        })
    }
}

impl ReadAt for &[u8] {
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let from_here = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(from_here.ok_or_else(|| damaged("it is cut off"))?);
        Ok(())
    }
}

/// This many bytes from a position on.
pub(super) fn read(source: &dyn ReadAt, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    source.fill(at, &mut bytes)?;
    Ok(bytes)
}
