//! An opened envelope of whatever format: what is in it, authenticated.

use std::fs::File;

use super::{Entry, mtd, sealed};
use crate::{error::Result, progress::Progress};

/// An opened envelope.
pub enum Opened<'f> {
    /// MTD.
    Mtd(mtd::Opened<'f>),
    /// `sealed`.
    Sealed(Box<sealed::Opened<'f>>),
}

impl Opened<'_> {
    /// Files, folders and links.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Mtd(opened) => opened.entries(),
            Self::Sealed(opened) => opened.entries(),
        }
    }

    /// Writes the content of these entries to the empty files that `create` makes, and sets their modification times.
    /// If this fails, the files may hold plaintext that is not authenticated, and must go.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if content is not what was sealed; [`crate::Kind::Local`] if it cannot be written;
    /// [`crate::Kind::Interrupted`].
    pub fn write_files(
        &self,
        files: &[&Entry],
        create: impl Fn(&Entry) -> Result<File> + Sync,
        progress: &dyn Progress,
    ) -> Result<()> {
        match self {
            Self::Mtd(opened) => opened.write_files(files, create, progress),
            Self::Sealed(opened) => opened.write_files(files, create, progress),
        }
    }

    /// Checks folders, which have no content.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if they are not what was sealed.
    pub fn check_folders<'e>(&self, folders: impl Iterator<Item = &'e Entry>) -> Result<()> {
        match self {
            // Its list of entries is authenticated as a whole.
            Self::Mtd(_) => Ok(()),
            Self::Sealed(opened) => opened.check_folders(folders),
        }
    }

    /// Where a link points; authenticated, but not checked for safety.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is not what was sealed, or cannot be where a link points.
    pub fn link_target(&self, link: &Entry) -> Result<String> {
        match self {
            Self::Mtd(opened) => opened.link_target(link),
            Self::Sealed(opened) => opened.link_target(link),
        }
    }
}
