//! Extract: an envelope in, authenticated files out.

use std::path::PathBuf;

use crate::{error::Result, progress::Progress, unwrapper::Unwrapper};

/// What to extract, and where to.
pub struct ExtractJob {
    /// The envelope.
    pub envelope: Input,
    /// Where the files go.
    pub output: ExtractTo,
    /// Only entries that match one of these globs; empty: all.
    pub only: Vec<String>,
    /// Why; recorded by the custodian.
    pub reason: String,
    /// What is too much.
    pub limits: Limits,
}

/// Where an envelope comes from.
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Where extracted files go.
pub enum ExtractTo {
    /// Beneath this folder, which is made if it is missing. Existing files are not overwritten.
    Folder(PathBuf),
    /// The content of the one matching entry to standard output, once all of it is authenticated.
    Stdout,
}

/// What an envelope may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of content in all.
    pub content_bytes: u64,
    /// Content bytes per stored byte, for any one entry.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1_000_000, content_bytes: 1 << 40, ratio: 1_100 }
    }
}

/// What was extracted.
#[derive(Clone, Debug, Default)]
pub struct ExtractReport {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
    /// Leftovers of an earlier, killed run that were removed.
    pub swept: u64,
}

/// Extracts an envelope of any format.
pub fn extract(
    _job: &ExtractJob,
    _unwrapper: &dyn Unwrapper,
    _progress: &dyn Progress,
) -> Result<ExtractReport> {
    Err(crate::Error::new(crate::Kind::Local, "cannot extract", "not written yet"))
}
