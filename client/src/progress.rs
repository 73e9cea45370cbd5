//! How a long job tells how far it is.

use crate::error::{Error, Kind, Result};

/// Told by pipelines, shown by the command line. Called from several threads.
pub trait Progress: Send + Sync {
    /// The job has this many bytes of file content in all.
    fn total(&self, bytes: u64);
    /// This many more are done.
    fn advance(&self, bytes: u64);
    /// Whether the person pressed Ctrl-C: the job stops soon, cleans up and fails with `Kind::Interrupted`.
    fn interrupted(&self) -> bool;
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn interrupted(&self) -> bool {
        false
    }
}

/// Stops a job whose person pressed Ctrl-C.
///
/// # Errors
/// [`Kind::Interrupted`].
pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() {
        return Err(Error::new(Kind::Interrupted, "stopped", "interrupted before it was complete")
            .hint("nothing was left behind; run it again"));
    }
    Ok(())
}
