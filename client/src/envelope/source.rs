//! What is sealed: files, folders and links, as they were found.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSliceMut, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{
    error::{Error, Kind, Result},
    output::{self, SafePath},
};

/// Something to seal.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path inside the envelope.
    pub path: SafePath,
    /// What it is.
    pub body: Body,
    /// As in `st_mode`, with the file type.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
}

impl Source {
    /// Bytes of its content, as far as known before it is read.
    pub fn known_size(&self) -> u64 {
        match self.body {
            Body::File(_, size) => size,
            Body::Folder | Body::Link(_) | Body::Stdin => 0,
        }
    }
}

/// What a source is.
#[derive(Clone, Debug)]
pub enum Body {
    /// A file: where it is, and its size when it was found.
    File(PathBuf, u64),
    /// A file whose content is what standard input gives until its end.
    Stdin,
    /// A folder. What is in it comes as sources of its own.
    Folder,
    /// A symbolic link, and where it points.
    Link(String),
}

/// A file to seal, open, as it was when it was opened.
pub(super) struct Input {
    file: File,
    path: PathBuf,
    pub(super) size: u64,
    modified: (i64, i64),
}

impl Input {
    /// Opens a file that must still have the size it had when it was found.
    pub(super) fn open(path: &Path, size: u64) -> Result<Self> {
        // Not blocking, and not through a link: what was a file when the folder was listed may be something else now.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        let cannot_read = |why| output::failed(format!("cannot read {}", path.display()), &why);
        let file = options.open(path).map_err(cannot_read)?;
        let metadata = file.metadata().map_err(cannot_read)?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let input = Self { file, path: path.to_owned(), size, modified };
        if !metadata.is_file() || metadata.len() != size {
            return Err(input.changed());
        }
        Ok(input)
    }

    /// All of it.
    pub(super) fn read_all(mut self) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(usize::try_from(self.size + 1).unwrap_or_default());
        let read = self.file.by_ref().take(self.size + 1).read_to_end(&mut content);
        read.map_err(|why| self.cannot_read(&why))?;
        if content.len() as u64 != self.size {
            return Err(self.changed());
        }
        self.check_unchanged()?;
        Ok(content)
    }

    /// Fills the buffer from this position on.
    pub(super) fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => self.cannot_read(&why),
        })
    }

    /// Fills several buffers in a row from this position on.
    pub(super) fn read_all_at(&self, at: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let read =
            rustix::io::preadv(&self.file, buffers, at).map_err(|why| self.cannot_read(&why.into()))?;
        if read == wanted {
            return Ok(());
        }
        // Less at once than there is: rare, and then one buffer after the other.
        let mut at = at;
        for buffer in buffers {
            self.read_at(at, buffer)?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    /// # Errors
    /// [`Kind::Local`] if the file changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|why| self.cannot_read(&why))?;
        let same = metadata.len() == self.size && (metadata.mtime(), metadata.mtime_nsec()) == self.modified;
        if same { Ok(()) } else { Err(self.changed()) }
    }

    fn cannot_read(&self, why: &io::Error) -> Error {
        output::failed(format!("cannot read {}", self.path.display()), why)
    }

    fn changed(&self) -> Error {
        Error::new(
            Kind::Local,
            format!("cannot seal {}", self.path.display()),
            "it changed while it was read",
        )
        .hint("wait until nothing writes to it, or seal a copy")
    }
}
