//! An opened envelope: content out, on all cores.

use std::fs::File;

use super::{
    content::{Content, SMALL, Scratch},
    password::Password,
};
use crate::{
    envelope::{
        damaged,
        zip::{Data, Entry, MAX_TARGET_LEN, set_modified},
    },
    error::Result,
    progress::Progress,
    workers,
};

/// An envelope whose password is known.
pub struct Opened<'f> {
    envelope: &'f File,
    entries: Vec<Entry>,
    password: Password,
}

impl<'f> Opened<'f> {
    pub(super) fn new(envelope: &'f File, entries: Vec<Entry>, password: Password) -> Self {
        Self { envelope, entries, password }
    }

    /// Files, folders and links.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
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
        let files: Vec<_> = files.iter().filter_map(|entry| Some((*entry, entry.data.as_ref()?))).collect();
        let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, data)| data.len <= SMALL);
        let workers = workers::count();
        // A large entry keeps two threads busy.
        workers::for_each(workers.div_ceil(2), &large, |(entry, data), (): &mut ()| {
            let out = create(entry)?;
            self.content(entry, data).large_to_file(&out, progress)?;
            set_modified(&out, entry)
        })?;
        workers::for_each(workers, &small, |(entry, data), scratch: &mut Scratch| {
            let out = create(entry)?;
            self.content(entry, data).whole_to_file(&out, scratch, progress)?;
            set_modified(&out, entry)
        })
    }

    /// Where a link points; authenticated, but not checked for safety.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is not what was sealed, or cannot be where a link points.
    pub fn link_target(&self, link: &Entry) -> Result<String> {
        let no_target = || damaged(format!("the link “{}” points nowhere", link.path()));
        let data = link.data.as_ref().filter(|data| data.len <= SMALL).ok_or_else(no_target)?;
        let mut target = Vec::new();
        self.content(link, data).whole(&mut Scratch::default(), |bytes| {
            if target.len() + bytes.len() > MAX_TARGET_LEN {
                return Err(no_target());
            }
            target.extend(bytes);
            Ok(())
        })?;
        String::from_utf8(target).map_err(|_| no_target())
    }

    fn content<'a>(&'a self, entry: &'a Entry, data: &'a Data) -> Content<'a> {
        Content { envelope: self.envelope, entry, data, password: &self.password }
    }
}
