//! What an auditor remembers: the last checkpoint of a log that verified. The next one must begin with it.

use std::{
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use custodian_proto::tlog::{Checkpoint, VerifierKey};
use tempfile::NamedTempFile;

use super::broken;
use crate::error::{Error, Kind, Result};

/// A file with the last checkpoint.
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    /// In this file.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// In the usual place: `$XDG_STATE_HOME/custodian` or `~/.local/state/custodian`, one file for each log key.
    ///
    /// # Errors
    /// [`Kind::Usage`] if there is no home folder.
    pub fn usual(key: &VerifierKey) -> Result<Self> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        let base = base.ok_or_else(|| {
            Error::new(Kind::Usage, "cannot remember the checkpoint", "there is no folder for it")
                .hint("give --state FILE, or set HOME")
        })?;
        Ok(Self { path: base.join("custodian").join(format!("log-{}.checkpoint", hex::encode(key.id()))) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint remembered; `None` the first time.
    ///
    /// # Errors
    /// If the file cannot be read, or is not signed by the log's key.
    pub fn recall(&self, key: &VerifierKey) -> Result<Option<Checkpoint>> {
        let what = format!("cannot use the remembered checkpoint {}", self.path.display());
        let note = match fs::read_to_string(&self.path) {
            Ok(note) => note,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(Error::new(Kind::Local, what, why)),
        };
        let checkpoint = Checkpoint::open(&note, key).map_err(|flaw| {
            broken(&what, flaw).hint("it was remembered of another log, or somebody changed it: see --state")
        })?;
        Ok(Some(checkpoint))
    }

    /// Remembers this one instead.
    ///
    /// # Errors
    /// [`Kind::Local`] if the file cannot be written.
    pub fn remember(&self, note: &str) -> Result<()> {
        let cannot = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, format!("cannot remember the checkpoint in {}", self.path.display()), why)
        };
        let folder =
            self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|why| cannot(&why))?;
        write_file(&self.path, folder, note.as_bytes()).map_err(|why| cannot(&why))
    }
}

/// Writes a file at once, and so that it survives a power failure: whole, or not at all.
pub(crate) fn write_durably(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<()> {
    write_file(path, folder, bytes)?;
    fs::File::open(folder)?.sync_all()
}

/// Writes a file at once: whole, or not at all.
pub(super) fn write_file(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
