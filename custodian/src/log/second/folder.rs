//! A folder with a copy of the log, in the layout of C2SP tlog-tiles. Every file appears whole and durable, or not at all; and
//! what is there is never changed, but the checkpoint, which is replaced by a later one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use custodian_proto::tlog::{
    Checkpoint, Hash, Tile,
    note::MAX_NOTE_LEN,
    tiles::{self, Edge, MAX_ENTRY_LEN, WIDTH, bundle_path},
};

/// The checkpoint's file.
const CHECKPOINT: &str = "checkpoint";

/// The longest file in the folder: a bundle of 256 entries, each with its length in front.
const MAX_FILE_LEN: u64 = WIDTH as u64 * (2 + MAX_ENTRY_LEN as u64);

/// Why the second place takes no records.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file or folder cannot be read or written. This may pass.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What is there is not the beginning of our log. This does not pass.
    #[error("{0}")]
    Foreign(String),
    /// The ledger does not give what is to be copied.
    #[error("the ledger does not answer: {0}")]
    Ledger(String),
}

/// The folder, as far as it is written.
pub(super) struct Folder {
    root: Root,
    edge: Edge,
    /// The entries of the bundle that is not full, as they stand in its file.
    bundle: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// The narrow bundle written last, if no checkpoint ends with it: it goes when a wider one is there.
    loose: Option<String>,
    /// The checkpoint that is there.
    note: Option<String>,
    /// Entries that were found there, and are ours: they are durable although the edge is not that far yet.
    found: u64,
}

impl Folder {
    /// The folder of a log whose first `found` entries are in it; `edge` is of those up to a full bundle.
    pub(super) fn new(root: Root, edge: Edge, note: Option<String>, found: u64) -> Self {
        Self { found, root, edge, bundle: Vec::new(), ends: Vec::new(), loose: None, note }
    }

    /// Entries that it is worked up to.
    pub(super) fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Entries that are durable in it.
    pub(super) fn durable(&self) -> u64 {
        self.size().max(self.found)
    }

    /// The checkpoint that is in it.
    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// How many entries there are until the next full bundle.
    pub(super) fn room(&self) -> usize {
        WIDTH - self.ends.len()
    }

    /// Appends entries, at most as many as there is [`room`](Self::room) for.
    pub(super) fn append(&mut self, entries: &[Vec<u8>]) -> Result<(), CopyError> {
        let index = self.size() / WIDTH as u64;
        let hashes: Vec<Hash> = entries.iter().map(|entry| Hash::of_entry(entry)).collect();
        for entry in entries {
            let bundled = tiles::bundle([entry.as_slice()]);
            self.bundle.extend(bundled.map_err(|flaw| CopyError::Ledger(flaw.to_string()))?);
            self.ends.push(self.bundle.len());
        }
        let width = self.ends.len();
        let written = bundle_path(index, width);
        self.root.put(&written, &self.bundle)?;
        if let Some(narrower) = self.loose.take() {
            self.root.remove(&narrower)?;
        }
        if width == WIDTH {
            self.root.remove_narrow(&written)?;
            self.bundle.clear();
            self.ends.clear();
        } else {
            self.loose = Some(written);
        }
        let root = &self.root;
        let mut full = |tile: Tile, hashes: &[Hash]| {
            let file = tile.path(WIDTH);
            root.put(&file, &tiles::bytes(hashes))?;
            root.remove_narrow(&file)
        };
        hashes.into_iter().try_for_each(|hash| self.edge.push(hash, &mut full))?;
        self.root.is_still_there()
    }

    /// Puts a checkpoint in the place of the one that is there, with all that somebody needs to check it. Its entries must
    /// have been appended.
    pub(super) fn sign(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<(), CopyError> {
        let size = checkpoint.size;
        let width = Tile { level: 0, index: size / WIDTH as u64 }.width(size);
        if width > 0 && size / WIDTH as u64 == self.size() / WIDTH as u64 {
            let file = bundle_path(size / WIDTH as u64, width);
            self.root.put(&file, &self.bundle[..self.ends[width - 1]])?;
            if self.loose.as_ref() == Some(&file) {
                self.loose = None;
            }
        }
        for (tile, hashes) in self.edge.partial() {
            let width = tile.width(size);
            if let Some(hashes) = hashes.get(..width).filter(|hashes| !hashes.is_empty()) {
                self.root.put(&tile.path(width), &tiles::bytes(hashes))?;
            }
        }
        if self.root.checkpoint()? != self.note {
            let path = self.root.path.join(CHECKPOINT);
            return Err(CopyError::Foreign(format!("{}: somebody else changed it", path.display())));
        }
        self.root.write(CHECKPOINT, note.as_bytes())?;
        self.note = Some(note.to_owned());
        Ok(())
    }
}

/// The folder itself. It is never made: where it is missing, maybe a machine is away, and its mount point must stay empty.
#[derive(Clone, Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Root {
    /// The folder at this path.
    pub(super) fn open(path: &Path) -> Result<Self, CopyError> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    /// The checkpoint in it; `None` if there is none.
    pub(super) fn checkpoint(&self) -> Result<Option<String>, CopyError> {
        let path = self.path.join(CHECKPOINT);
        let text = read(&path, MAX_NOTE_LEN as u64)?.map(String::from_utf8).transpose();
        text.map_err(|_| CopyError::Foreign(format!("{}: it is no text", path.display())))
    }

    /// The entries of the widest bundle with this number; `None` if there is none.
    pub(super) fn bundle(&self, index: u64) -> Result<Option<Vec<Vec<u8>>>, CopyError> {
        let full = self.path.join(bundle_path(index, WIDTH));
        let found = match read(&full, MAX_FILE_LEN)? {
            Some(bytes) => Some((full, bytes)),
            None => match widest(&narrow(&full))? {
                Some(path) => read(&path, MAX_FILE_LEN)?.map(|bytes| (path, bytes)),
                None => None,
            },
        };
        let Some((path, bytes)) = found else { return Ok(None) };
        let entries = tiles::unbundle(&bytes)
            .map_err(|flaw| CopyError::Foreign(format!("{}: {flaw}", path.display())))?;
        Ok(Some(entries.into_iter().map(<[u8]>::to_vec).collect()))
    }

    /// Whether what was written is where it should be: not in another folder that came in its place.
    fn is_still_there(&self) -> Result<(), CopyError> {
        if identity(&self.path)? == self.identity {
            return Ok(());
        }
        let error = io::Error::other("another folder is in its place");
        Err(CopyError::Io { path: self.path.clone(), error })
    }

    /// Writes a file that is never changed once it is there.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let path = self.path.join(name);
        match read(&path, MAX_FILE_LEN)? {
            None => self.write(name, bytes),
            Some(there) if there == bytes => Ok(()),
            Some(_) => Err(CopyError::Foreign(format!(
                "{}: it is there already, and is not what the ledger has: this is the copy of another log, or somebody \
                 changed it",
                path.display()
            ))),
        }
    }

    /// Writes a file durably: whole, or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let path = self.path.join(name);
        let io = |error| CopyError::Io { path: path.clone(), error };
        let folder = path.parent().unwrap_or(&self.path);
        self.make(folder)?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&aside).map_err(io)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&aside, &path).map_err(io)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
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

    fn remove(&self, name: &str) -> Result<(), CopyError> {
        gone(fs::remove_file(self.path.join(name)), || self.path.join(name))
    }

    /// Removes what stood for a full file until it was there.
    fn remove_narrow(&self, full: &str) -> Result<(), CopyError> {
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

/// The widest of the narrow files in this folder.
fn widest(narrow: &Path) -> Result<Option<PathBuf>, CopyError> {
    let io = |error| CopyError::Io { path: narrow.to_owned(), error };
    let found = match fs::read_dir(narrow) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut widest = None;
    for file in found {
        let name = file.map_err(io)?.file_name();
        // What was not finished has another name.
        widest = widest.max(name.to_str().and_then(|name| name.parse::<usize>().ok()));
    }
    Ok(widest.map(|width| narrow.join(width.to_string())))
}

/// A file's bytes; `None` if there is none.
fn read(path: &Path, longest: u64) -> Result<Option<Vec<u8>>, CopyError> {
    let io = |error| CopyError::Io { path: path.to_owned(), error };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > longest {
        return Err(CopyError::Foreign(format!("{}: it is too long", path.display())));
    }
    Ok(Some(bytes))
}
