//! Seal: paths in, one envelope out. Offline.

use std::path::PathBuf;

use crate::{error::Result, progress::Progress};

/// What to seal, to whom, and how.
pub struct SealJob {
    /// X.509 certificates of the recipients' wrapping keys, DER. At least one.
    pub recipients: Vec<Vec<u8>>,
    /// Files and folders. A folder is taken with all that is in it, under its own name.
    pub paths: Vec<PathBuf>,
    /// Where the envelope goes.
    pub output: SealTo,
    /// What to do with symbolic links.
    pub symlinks: Symlinks,
}

/// Where an envelope goes.
pub enum SealTo {
    /// A file that must not exist yet.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// What to do with a symbolic link among the files to seal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symlinks {
    /// Stop and name it.
    Refuse,
    /// Keep it as a link.
    Keep,
}

/// What was sealed.
#[derive(Clone, Debug, Default)]
pub struct SealReport {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
    /// Bytes of the envelope.
    pub envelope_bytes: u64,
}

/// Seals in the MTD format.
pub fn seal(_job: &SealJob, _progress: &dyn Progress) -> Result<SealReport> {
    Err(crate::Error::new(crate::Kind::Local, "cannot seal", "not written yet"))
}
