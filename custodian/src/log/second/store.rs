//! Where the files of a copy are.

use custodian_proto::tlog::{
    note::MAX_NOTE_LEN,
    tiles::{self, MAX_ENTRY_LEN, WIDTH, bundle_path},
};

use super::{CopyError, Place, bucket::Bucket, folder::Folder};

/// The checkpoint's file.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// The longest file of a copy: a bundle of 256 entries, each with its length in front.
pub(super) const MAX_FILE_LEN: usize = WIDTH * (2 + MAX_ENTRY_LEN);

/// Files by name. Each appears whole and durable, or not at all.
pub(super) trait Store: Send {
    /// What a person calls it.
    fn shown(&self) -> String;

    /// Whether what was written is where it should be.
    fn is_still_there(&mut self) -> Result<(), CopyError>;

    /// A file's bytes, at most so many; `None` if there is none.
    fn read(&mut self, name: &str, longest: usize) -> Result<Option<Vec<u8>>, CopyError>;

    /// Writes a file, in the place of one that may be there.
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CopyError>;

    /// Writes a file if there is none.
    fn create(&mut self, name: &str, bytes: &[u8]) -> Result<Created, CopyError>;

    /// Removes a file, if there is one.
    fn remove(&mut self, name: &str) -> Result<(), CopyError>;

    /// The widest of the narrow files that stand for this one until it is full; `None` if there are none.
    fn widest(&mut self, full: &str) -> Result<Option<usize>, CopyError>;

    /// Removes what stood for this file until it was full.
    fn remove_narrow(&mut self, full: &str) -> Result<(), CopyError>;
}

/// What came of writing a file that must not be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Created {
    /// It is there now.
    New,
    /// One was there, and still is.
    WasThere,
}

/// The store at this place.
pub(super) fn open(place: &Place, runtime: &tokio::runtime::Handle) -> Result<Box<dyn Store>, CopyError> {
    Ok(match place {
        Place::Folder(path) => Box::new(Folder::open(path)?),
        Place::Bucket(config) => Box::new(Bucket::open(config, runtime.clone())?),
    })
}

impl dyn Store + '_ {
    /// The checkpoint; `None` if there is none.
    pub(super) fn checkpoint(&mut self) -> Result<Option<String>, CopyError> {
        let text = self.read(CHECKPOINT, MAX_NOTE_LEN)?.map(String::from_utf8).transpose();
        text.map_err(|_| CopyError::Foreign(format!("{}/{CHECKPOINT}: it is no text", self.shown())))
    }

    /// The entries of the widest bundle with this number; `None` if there is none.
    pub(super) fn bundle(&mut self, index: u64) -> Result<Option<Vec<Vec<u8>>>, CopyError> {
        let mut name = bundle_path(index, WIDTH);
        let mut found = self.read(&name, MAX_FILE_LEN)?;
        if found.is_none()
            && let Some(widest) = self.widest(&name)?
        {
            name = bundle_path(index, widest);
            found = self.read(&name, MAX_FILE_LEN)?;
        }
        let Some(bytes) = found else { return Ok(None) };
        let entries = tiles::unbundle(&bytes)
            .map_err(|flaw| CopyError::Foreign(format!("{}/{name}: {flaw}", self.shown())))?;
        Ok(Some(entries.into_iter().map(<[u8]>::to_vec).collect()))
    }

    /// Writes a file that is never changed once it is there.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        if self.create(name, bytes)? == Created::New {
            return Ok(());
        }
        match self.read(name, MAX_FILE_LEN)? {
            Some(there) if there == bytes => Ok(()),
            _ => Err(CopyError::Foreign(format!(
                "{}/{name}: it is there already, and is not what the ledger has: this is the copy of another log, or \
                 somebody changed it",
                self.shown()
            ))),
        }
    }
}
