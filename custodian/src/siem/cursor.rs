//! How far the stream is: a number in a file. If it is lost or old, records are sent again, and none is left out.

use std::{fs, io, path::PathBuf};

/// The file.
pub(super) struct Cursor {
    path: PathBuf,
}

impl Cursor {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The last record that was received; 0 for a new stream.
    pub(super) fn read(&self) -> io::Result<u64> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text.trim_end().parse().map_err(|_| {
                let why = format!(
                    "{}: it is no number; remove it, and all records are sent again",
                    self.path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, why)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Replaced at once. Not synced: what a power failure takes back is sent again.
    pub(super) fn write(&self, sequence: u64) -> io::Result<()> {
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(".new");
        fs::write(&aside, format!("{sequence}\n"))?;
        fs::rename(&aside, &self.path)
    }
}
