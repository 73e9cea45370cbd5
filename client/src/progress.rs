//! How a long job tells how far it is.

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
