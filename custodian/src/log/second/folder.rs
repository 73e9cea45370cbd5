//! A folder as the second place.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    CopyError,
    store::{Created, Store},
};

/// A folder. It is never made: where it is missing, maybe a machine is away, and its mount point must stay empty.
pub(super) struct Folder {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Folder {
    /// The folder at this path.
    pub(super) fn open(path: &Path) -> Result<Self, CopyError> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    /// Makes a folder beneath, and those above it, durably.
    fn make(&self, folder: &Path) -> Result<(), CopyError> {
        if folder == self.path || folder.is_dir() {
            return Ok(());
        }
        let io = |error| CopyError::Io { path: folder.to_owned(), error };
        let above = folder.parent().unwrap_or(&self.path);
        self.make(above)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            _ => {}
        }
        File::open(above).and_then(|above| above.sync_all()).map_err(io)
    }
}

impl Store for Folder {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// Not in another folder that came in its place.
    fn is_still_there(&mut self) -> Result<(), CopyError> {
        if identity(&self.path)? == self.identity {
            return Ok(());
        }
        let error = io::Error::other("another folder is in its place");
        Err(CopyError::Io { path: self.path.clone(), error })
    }

    fn read(&mut self, name: &str, longest: usize) -> Result<Option<Vec<u8>>, CopyError> {
        let path = self.path.join(name);
        let io = |error| CopyError::Io { path: path.clone(), error };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut bytes = Vec::new();
        file.take(longest as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() > longest {
            return Err(CopyError::Foreign(format!("{}: it is too long", path.display())));
        }
        Ok(Some(bytes))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let path = self.path.join(name);
        let io = |error| CopyError::Io { path: path.clone(), error };
        let folder = path.parent().unwrap_or(&self.path);
        self.make(folder)?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        // What was not finished. Never opened: who else may write here could have put a link to another file in its place.
        gone(fs::remove_file(&aside), || aside.clone().into())?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&aside).map_err(io)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&aside, &path).map_err(io)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> Result<Created, CopyError> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(Created::WasThere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write(name, bytes)?;
                Ok(Created::New)
            }
            Err(error) => Err(CopyError::Io { path, error }),
        }
    }

    fn remove(&mut self, name: &str) -> Result<(), CopyError> {
        gone(fs::remove_file(self.path.join(name)), || self.path.join(name))
    }

    fn widest(&mut self, full: &str) -> Result<Option<usize>, CopyError> {
        let narrow = narrow(&self.path.join(full));
        let io = |error| CopyError::Io { path: narrow.clone(), error };
        let found = match fs::read_dir(&narrow) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut widest = None;
        for file in found {
            let name = file.map_err(io)?.file_name();
            // What was not finished has another name.
            widest = widest.max(name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(widest)
    }

    fn remove_narrow(&mut self, full: &str) -> Result<(), CopyError> {
        let path = narrow(&self.path.join(full));
        gone(fs::remove_dir_all(&path), || path.clone())
    }
}

fn gone(removed: io::Result<()>, path: impl FnOnce() -> PathBuf) -> Result<(), CopyError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CopyError::Io { path: path(), error }),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> Result<(u64, u64), CopyError> {
    let io = |error| CopyError::Io { path: path.to_owned(), error };
    let found = fs::metadata(path).map_err(io)?;
    if !found.is_dir() {
        return Err(io(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    Ok((found.dev(), found.ino()))
}

/// Where the narrow files beside a full one are.
fn narrow(full: &Path) -> PathBuf {
    let mut narrow = full.as_os_str().to_owned();
    narrow.push(".p");
    narrow.into()
}
