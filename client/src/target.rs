//! The folder that an envelope is extracted to.

use std::{
    collections::HashSet,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt},
};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::{
    envelope::{Entry, EntryKind, Opened, damaged},
    error::{Error, Kind, Result},
    output::{self, Case, IfMissing, Staging},
    progress::{self, Progress},
};

/// Permission bits of files whose own are not recorded. The umask takes its part of these and of recorded ones.
const USUAL_MODE: u32 = 0o666;

/// A folder, with a staging folder in it.
pub(crate) struct TargetFolder {
    staging: Staging,
}

impl TargetFolder {
    /// Makes the folder if it is missing, and sweeps what a killed run left.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        Ok(Self { staging: Staging::new(folder, IfMissing::Make)? })
    }

    /// Leftovers of killed runs that were removed.
    pub(crate) fn swept(&self) -> u64 {
        self.staging.swept()
    }

    /// Whether it tells `A` from `a`.
    pub(crate) fn case(&self) -> Result<Case> {
        self.staging.case()
    }

    /// Checks that nothing stands in the way. What appears later is found when the files are moved in.
    ///
    /// # Errors
    /// [`Kind::Local`], with what stands there.
    pub(crate) fn check_free<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Result<()> {
        check_free(self.staging.target(), self.staging.shown(), entries)
    }

    /// Extracts these entries: all of them, or none.
    ///
    /// # Errors
    /// As [`Opened::write_files`]; [`Kind::Integrity`] for links that lead out of the folder; [`Kind::Local`] if a name is
    /// taken.
    pub(crate) fn fill(
        &mut self,
        opened: &Opened<'_>,
        entries: &[&Entry],
        progress: &dyn Progress,
    ) -> Result<()> {
        let of_kind = |kind| entries.iter().copied().filter(move |entry| entry.kind() == kind);
        opened.check_folders(of_kind(EntryKind::Folder))?;
        self.make_folders(entries)?;
        let files: Vec<_> = of_kind(EntryKind::File).collect();
        opened.write_files(&files, |entry| create_file(self.staging.dir(), entry), progress)?;
        of_kind(EntryKind::Link)
            .try_for_each(|link| make_link(self.staging.dir(), link, &opened.link_target(link)?))?;
        progress::check(progress)?;
        let filled = self.staging.commit()?;
        finish_folders(self.staging.target(), of_kind(EntryKind::Folder), &filled)
    }

    /// Open to the owner for now, whatever their modes are: files go into them.
    fn make_folders(&self, entries: &[&Entry]) -> Result<()> {
        let mut made = HashSet::new();
        for entry in entries {
            let folder = match entry.kind() {
                EntryKind::Folder => Some(entry.path().as_str()),
                EntryKind::File | EntryKind::Link => entry.path().parent(),
            };
            let Some(folder) = folder.filter(|folder| made.insert(*folder)) else { continue };
            self.staging.dir().create_dir_all(folder).map_err(|why| cannot_write(folder, &why))?;
        }
        Ok(())
    }
}

/// [`TargetFolder::check_free`] for a folder that is not touched. One that is missing is free.
///
/// # Errors
/// [`Kind::Local`], with what stands there, or if nobody can look.
pub(crate) fn check_free_in<'a>(folder: &Path, entries: impl Iterator<Item = &'a Entry>) -> Result<()> {
    match Dir::open_ambient_dir(folder, ambient_authority()) {
        Ok(dir) => check_free(&dir, folder.display(), entries),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(output::failed(format!("cannot write to {}", folder.display()), &why)),
    }
}

fn check_free<'a>(
    target: &Dir,
    shown: std::path::Display<'_>,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<()> {
    let mut absent = HashSet::new();
    for entry in entries {
        let mut above: Vec<_> = entry.path().ancestors().collect();
        above.reverse();
        if above.iter().any(|folder| absent.contains(*folder)) {
            continue;
        }
        let places = above.iter().map(|folder| (*folder, EntryKind::Folder));
        for (path, kind) in places.chain([(entry.path().as_str(), entry.kind())]) {
            match target.symlink_metadata(path) {
                Ok(there) if there.is_dir() && kind == EntryKind::Folder => {}
                Ok(_) => return Err(taken(path, &shown)),
                Err(_) => {
                    absent.insert(path);
                    break;
                }
            }
        }
    }
    Ok(())
}

fn taken(path: &str, shown: &std::path::Display<'_>) -> Error {
    let what = format!("cannot write “{path}” to {shown}");
    Error::new(Kind::Local, what, "something of this name is there already")
        .hint("existing files are not overwritten: move it away, or extract to another folder with -C")
}

fn create_file(dir: &Dir, entry: &Entry) -> Result<File> {
    let mut options = OpenOptions::new();
    // Nobody else can reach it yet, so it may have its final mode from the start.
    options.write(true).create_new(true).mode(entry.mode().unwrap_or(USUAL_MODE));
    let file =
        dir.open_with(entry.path(), &options).map_err(|why| cannot_write(entry.path().as_str(), &why))?;
    Ok(file.into_std())
}

fn make_link(dir: &Dir, link: &Entry, target: &str) -> Result<()> {
    output::check_link(link.path(), target)
        .map_err(|why| damaged(format!("the link “{}” is not safe: {why}", link.path())))?;
    dir.symlink_contents(target, link.path()).map_err(|why| cannot_write(link.path().as_str(), &why))?;
    set_modified(dir, link)
}

/// Modes and times of the folders that are new. Last, because a folder may be closed to us then; the deepest first.
fn finish_folders<'a>(
    target: &Dir,
    folders: impl Iterator<Item = &'a Entry>,
    filled: &HashSet<PathBuf>,
) -> Result<()> {
    let mut folders: Vec<_> =
        folders.filter(|folder| !filled.contains(Path::new(folder.path().as_str()))).collect();
    folders.sort_unstable_by_key(|folder| std::cmp::Reverse(folder.path().depth()));
    for folder in folders {
        set_modified(target, folder)?;
        let Some(mode) = folder.mode() else { continue };
        let path = folder.path();
        // The umask had its part when it was made.
        target
            .symlink_metadata(path)
            .and_then(|now| {
                target.set_permissions(path, Permissions::from_mode(now.permissions().mode() & mode))
            })
            .map_err(|why| cannot_write(path.as_str(), &why))?;
    }
    Ok(())
}

fn set_modified(dir: &Dir, entry: &Entry) -> Result<()> {
    let Some(seconds) = entry.modified() else { return Ok(()) };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    rustix::fs::utimensat(dir, entry.path().as_str(), &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|why| cannot_write(entry.path().as_str(), &why.into()))
}

fn cannot_write(path: &str, why: &std::io::Error) -> Error {
    output::failed(format!("cannot write “{path}”"), why)
}
