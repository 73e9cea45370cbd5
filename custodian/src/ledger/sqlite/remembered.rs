//! The log's last checkpoint, in a file outside the database: so that an old copy of the database, put in the place of the
//! present one, is noticed at the next start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use custodian_proto::tlog::Checkpoint;
use rusqlite::Connection;

use super::{OpenError, open::MODE, tree};

/// Stands for the log's name while nothing is signed yet.
const UNSIGNED: &str = "unsigned";

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    path: PathBuf,
}

impl Remembered {
    /// At the place that was chosen, or beside the ledger.
    pub(super) fn of(ledger: &Path, chosen: Option<PathBuf>) -> Self {
        let path = chosen.unwrap_or_else(|| {
            let mut name = ledger.as_os_str().to_owned();
            name.push(".checkpoint");
            name.into()
        });
        Self { path }
    }

    /// Begins to remember a log that is new, or was not remembered before: its present head, unsigned.
    pub(super) fn begin(&self, connection: &Connection) -> Result<(), OpenError> {
        if self.path.exists() {
            return Ok(());
        }
        let head = tree::head_within(connection, None)?;
        let head = Checkpoint { origin: UNSIGNED.to_owned(), size: head.size, root: head.root };
        self.keep(&head.text()).map_err(|error| self.io(error))
    }

    /// Refuses a log that does not begin with the remembered one. Returns the note.
    ///
    /// A missing file is refused as well: whoever restores a database could leave it out.
    pub(super) fn check(&self, connection: &Connection) -> Result<String, OpenError> {
        let note = match fs::read_to_string(&self.path) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NotRemembered(self.path.clone()));
            }
            Err(error) => return Err(self.io(error)),
        };
        let remembered: Checkpoint = note.parse().map_err(|flaw| {
            self.io(io::Error::new(io::ErrorKind::InvalidData, format!("it is no checkpoint: {flaw}")))
        })?;
        let records = tree::records(connection)?;
        let (path, remembered, root) = (self.path.clone(), remembered.size, remembered.root);
        if records < remembered {
            return Err(OpenError::RolledBack { path, remembered, records });
        }
        if tree::head_within(connection, Some(remembered))?.root != root {
            return Err(OpenError::Rewritten { path, remembered });
        }
        Ok(note)
    }

    /// Replaces what is remembered, durably.
    pub(super) fn keep(&self, note: &str) -> io::Result<()> {
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&aside)?;
        file.write_all(note.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Moves what is remembered out of the way: somebody has decided to go on with another log. Returns where to.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        for number in 1.. {
            let mut aside = self.path.as_os_str().to_owned();
            aside.push(format!(".lost-{number}"));
            let aside = PathBuf::from(aside);
            if !aside.exists() {
                return fs::rename(&self.path, &aside).map(|()| aside);
            }
        }
        Err(io::Error::other("there is no free name"))
    }

    fn io(&self, error: io::Error) -> OpenError {
        OpenError::Io { path: self.path.clone(), error }
    }
}
