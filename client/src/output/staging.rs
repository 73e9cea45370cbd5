//! A private folder beside the final names, where files wait until they are complete and authenticated.
//!
//! It is named `.envelope-PID-RANDOM`, has mode 0700, and is locked as long as its run lives. So a later run can tell a
//! folder that a killed run left behind, and removes it.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{failed, tree::Case};
use crate::error::{Error, Kind, Result};

const PREFIX: &str = ".envelope-";
const RANDOM_DIGITS: usize = 16;
/// How often a sweeper may snatch a new folder before it is locked, until we give up.
const TRIES: usize = 8;

/// Whether this is the name of a staging folder.
pub(super) fn is_staging_name(name: &str) -> bool {
    let Some((pid, random)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let hex = random.bytes().all(|digit| digit.is_ascii_hexdigit());
    !pid.is_empty() && pid.bytes().all(|digit| digit.is_ascii_digit()) && random.len() == RANDOM_DIGITS && hex
}

/// What to do if the target folder is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfMissing {
    /// Make it.
    Make,
    /// Fail.
    Fail,
}

/// A staging folder. Removed with all that is left in it when dropped.
pub struct Staging {
    target: Dir,
    /// The target for messages.
    shown: PathBuf,
    /// Folders that were made to have a target, the deepest first.
    made: Vec<PathBuf>,
    name: String,
    dir: Dir,
    /// Leftovers of killed runs that were removed.
    swept: u64,
}

impl Staging {
    /// Makes a staging folder in `target`, after sweeping what killed runs left there.
    ///
    /// # Errors
    /// [`Kind::Local`] if the target cannot be written.
    pub fn new(target: &Path, if_missing: IfMissing) -> Result<Self> {
        let shown = if target.as_os_str().is_empty() { PathBuf::from(".") } else { target.to_owned() };
        let cannot_write = |why: &io::Error| failed(format!("cannot write to {}", shown.display()), why);
        let made = match if_missing {
            IfMissing::Make => make_target(&shown)?,
            IfMissing::Fail => Vec::new(),
        };
        let target = Dir::open_ambient_dir(&shown, ambient_authority()).map_err(|why| cannot_write(&why))?;
        let swept = sweep(&target, &shown)?;
        for _ in 0..TRIES {
            let name = new_name()?;
            if let Some(dir) = make_locked(&target, &name).map_err(|why| cannot_write(&why.into()))? {
                return Ok(Self { target, shown, made, name, dir, swept });
            }
        }
        remove_made(&made);
        Err(Error::new(
            Kind::Local,
            format!("cannot write to {}", shown.display()),
            "its lock is always taken",
        ))
    }

    /// Where files wait.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Where they go.
    pub fn target(&self) -> &Dir {
        &self.target
    }

    /// The target's path for messages.
    pub fn shown(&self) -> std::path::Display<'_> {
        self.shown.display()
    }

    /// Leftovers of killed runs that were removed.
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// Whether the target tells `A` from `a`. Found out by trying.
    ///
    /// # Errors
    /// [`Kind::Local`] if nothing can be written.
    pub fn case(&self) -> Result<Case> {
        let cannot_write = |why| failed(format!("cannot write to {}", self.shown()), &why);
        self.dir.open_with("CASE", OpenOptions::new().write(true).create_new(true)).map_err(cannot_write)?;
        let folded = self.dir.symlink_metadata("case").is_ok();
        self.dir.remove_file("CASE").map_err(cannot_write)?;
        Ok(if folded { Case::Folded } else { Case::Distinguished })
    }

    /// Moves one file out to its final name, which must be free.
    ///
    /// # Errors
    /// [`Kind::Local`] if the name is taken.
    pub fn commit_file(mut self, file: &str, name: &OsStr) -> Result<()> {
        rename_new(&self.dir, Path::new(file), &self.target, Path::new(name))
            .map_err(|why| self.not_moved(name, why))?;
        self.made.clear();
        // A name is durable when its folder is.
        open_for_lock(&self.target, Path::new(".")).and_then(rustix::fs::fsync).map_err(|why| {
            Error::new(Kind::Local, format!("cannot write {} to the disk", name.display()), why)
        })
    }

    /// Moves all that is here to the target. Folders that are there already are kept, and filled. If a name is taken,
    /// everything is moved back. Returns the folders that were there already.
    ///
    /// # Errors
    /// [`Kind::Local`] if a name is taken.
    pub fn commit(&mut self) -> Result<HashSet<PathBuf>> {
        let mut moves = Moves::default();
        match moves.merge(&self.dir, &self.target, Path::new("")) {
            Ok(()) => {
                self.made.clear();
                Ok(moves.filled)
            }
            Err((name, why)) => {
                let stuck = moves.take_back(&self.dir, &self.target);
                let error = self.not_moved(name.as_os_str(), why);
                Err(match stuck {
                    None => error,
                    Some(stuck) => {
                        error.hint(format!("“{}” could not be taken back: remove it", stuck.display()))
                    }
                })
            }
        }
    }

    fn not_moved(&self, name: &OsStr, why: Errno) -> Error {
        let what = format!("cannot write “{}” to {}", Path::new(name).display(), self.shown());
        match why {
            Errno::EXIST => Error::new(Kind::Local, what, "something of this name is there already")
                .hint("existing files are not overwritten: move it away, or choose another place"),
            _ => failed(what, &why.into()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If this fails, the next run's sweep tries again and tells the person.
        self.target.remove_dir_all(&self.name).ok();
        remove_made(&self.made);
    }
}

/// What was moved from a staging folder to its target.
#[derive(Default)]
struct Moves {
    moved: Vec<PathBuf>,
    filled: HashSet<PathBuf>,
}

impl Moves {
    fn merge(&mut self, from: &Dir, to: &Dir, path: &Path) -> std::result::Result<(), (PathBuf, Errno)> {
        let told = |why: &io::Error| (path.to_owned(), Errno::from_io_error(why).unwrap_or(Errno::IO));
        // All names first: the folder changes while we move things out of it.
        let entries =
            from.entries().and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(|why| told(&why))?;
        for entry in entries {
            let name = PathBuf::from(entry.file_name());
            let path = path.join(&name);
            match rename_new(from, &name, to, &name) {
                Ok(()) => self.moved.push(path),
                Err(Errno::EXIST) => {
                    let (Ok(from), Ok(to)) = (open_folder(from, &name), open_folder(to, &name)) else {
                        return Err((path, Errno::EXIST));
                    };
                    self.filled.insert(path.clone());
                    self.merge(&from, &to, &path)?;
                }
                Err(why) => return Err((path, why)),
            }
        }
        Ok(())
    }

    /// Returns what could not be taken back.
    fn take_back(self, staging: &Dir, target: &Dir) -> Option<PathBuf> {
        self.moved.into_iter().rev().find(|path| rename_new(target, path, staging, path).is_err())
    }
}

/// Makes the folder and those above it that are missing. Returns the new ones, the deepest first.
fn make_target(target: &Path) -> Result<Vec<PathBuf>> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err();
    let made: Vec<_> = target.ancestors().take_while(missing).map(Path::to_owned).collect();
    fs::create_dir_all(target).map_err(|why| {
        remove_made(&made);
        failed(format!("cannot make the folder {}", target.display()), &why)
    })?;
    Ok(made)
}

/// Stops at the first that is not empty.
fn remove_made(made: &[PathBuf]) {
    for folder in made {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// Removes the staging folders of runs that are dead.
fn sweep(target: &Dir, shown: &Path) -> Result<u64> {
    let cannot_list = |why| failed(format!("cannot list {}", shown.display()), &why);
    let mut swept = 0;
    for entry in target.entries().map_err(cannot_list)? {
        let name = entry.map_err(cannot_list)?.file_name();
        let Some(name) = name.to_str().filter(|name| is_staging_name(name)) else { continue };
        // Somebody else's cannot be opened; a live one cannot be locked.
        let Ok(lock) = open_for_lock(target, Path::new(name)) else { continue };
        // Another user's is not ours to remove, even where we could: in a shared folder anybody can make one.
        if !rustix::fs::fstat(&lock).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw()) {
            continue;
        }
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        target.remove_dir_all(name).map_err(|why| {
            let what = format!("cannot remove {}, which a killed run left in {}", name, shown.display());
            Error::new(Kind::Local, what, why)
                .hint("it may hold files that were not authenticated: remove it by hand")
        })?;
        swept += 1;
    }
    Ok(swept)
}

/// Makes and locks a folder. `None` if a sweeper was faster, or the name is taken.
fn make_locked(target: &Dir, name: &str) -> rustix::io::Result<Option<Dir>> {
    match rustix::fs::mkdirat(target, name, Mode::RWXU) {
        Err(Errno::EXIST) => return Ok(None),
        made => made?,
    }
    let Ok(folder) = open_for_lock(target, Path::new(name)) else { return Ok(None) };
    if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    // Removed between our opening and our locking it?
    if rustix::fs::fstat(&folder)?.st_nlink == 0 || target.symlink_metadata(name).is_err() {
        return Ok(None);
    }
    Ok(Some(Dir::from_std_file(folder.into())))
}

fn open_for_lock(parent: &Dir, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn open_folder(parent: &Dir, name: &Path) -> rustix::io::Result<Dir> {
    open_for_lock(parent, name).map(|folder| Dir::from_std_file(folder.into()))
}

/// Renames, and fails with `EXIST` if the new name is taken.
fn rename_new(from: &Dir, name: &Path, to: &Dir, new_name: &Path) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        // Some file systems cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if rustix::fs::statat(to, new_name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err(Errno::EXIST);
            }
            rustix::fs::renameat(from, name, to, new_name)
        }
        done => done,
    }
}

fn new_name() -> Result<String> {
    let mut random = [0; RANDOM_DIGITS / 2];
    rand::fill(&mut random)
        .map_err(|_| Error::new(Kind::Local, "cannot name a folder", "the system gives no random numbers"))?;
    Ok(format!("{PREFIX}{}-{}", std::process::id(), hex::encode(random)))
}
