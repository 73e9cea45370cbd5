//! An opened message: its file out, in one pass and in constant memory.

use std::{
    fs::File,
    io::{self, Read},
};

use custodian_proto::key::FileKey;

use super::{
    aead,
    content::{Content, Target},
    header::{Header, Protection},
    mdc,
    packet::uncarry,
    signer::Keyring,
};
use crate::{
    error::{Kind, Result},
    extract::Limits,
    progress::Progress,
};

/// A message whose key is known. Nothing of it is authenticated yet.
pub struct Opened<'f> {
    header: Header<'f>,
    file_key: FileKey,
}

impl<'f> Opened<'f> {
    pub(super) fn new(header: Header<'f>, file_key: FileKey) -> Self {
        Self { header, file_key }
    }

    /// Writes the content to an empty file, and tells how much it is and who signed it: as far as keys of the key ring may
    /// have done so, and not verified yet. If this fails, the file may hold plaintext that is not authenticated, and must go.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the content is not what was sealed, or this is not the key; [`Kind::Local`] if it cannot be
    /// written, exceeds a limit or is of a kind that is not known here; [`Kind::Interrupted`].
    pub fn write_to(
        self,
        out: &File,
        limits: &Limits,
        keyring: Option<&Keyring>,
        progress: &dyn Progress,
    ) -> Result<Content> {
        let Self { header: Header { protection, content, len, .. }, file_key } = self;
        let target = Target::new(out, limits, len, keyring, progress);
        let content = Counted { content, progress };
        match protection {
            Protection::Mdc => {
                let mut plain = mdc::Reading::new(content, &file_key);
                let taken = target.take(&mut plain);
                believe(taken, || plain.finish())
            }
            Protection::Aead(parameters) => {
                let mut plain = aead::Reading::new(content, &file_key, parameters)?;
                let taken = target.take(&mut plain);
                believe(taken, || plain.finish())
            }
        }
    }
}

/// What a message that was changed says of itself is not worth telling: whether it is authentic comes first.
fn believe(taken: io::Result<Content>, finish: impl FnOnce() -> Result<()>) -> Result<Content> {
    let taken = taken.map_err(uncarry);
    if matches!(&taken, Err(error) if error.kind == Kind::Interrupted) {
        return taken;
    }
    finish().and(taken)
}

/// Tells how much was read.
struct Counted<'p, R> {
    content: R,
    progress: &'p dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}
