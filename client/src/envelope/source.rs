//! What is sealed: files, folders and links, as they were found.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSliceMut, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::zip::{Compression, Deflater, Place};
use crate::{
    error::{Error, Kind, Result},
    output::{self, SafePath},
};

/// Bytes of content that a worker handles at once. A file up to this size is sealed in memory.
pub(super) const CHUNK: u64 = 1024 * 1024;

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

/// What a source is.
#[derive(Clone, Debug)]
pub enum Body {
    /// A file: where it is, and its size when it was found.
    File(PathBuf, u64),
    /// A folder. What is in it comes as sources of its own.
    Folder,
    /// A symbolic link, and where it points.
    Link(String),
}

/// A file that is sealed in chunks.
pub(super) struct Large<'a> {
    pub(super) source: &'a Source,
    pub(super) input: Input,
    pub(super) compression: Compression,
}

impl<'a> Large<'a> {
    /// Opens it, and tells from samples whether it is worth deflating.
    pub(super) fn open(source: &'a Source, from: &Path, size: u64) -> Result<Self> {
        let input = Input::open(from, size)?;
        let compression = Deflater::default().choose(size, |at, sample| input.read_at(at, sample))?;
        Ok(Self { source, input, compression })
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> u64 {
        self.input.size.div_ceil(CHUNK)
    }

    /// Bytes of content in this chunk.
    pub(super) fn chunk_len(&self, index: u64) -> u64 {
        CHUNK.min(self.input.size - index * CHUNK)
    }

    /// Whether this chunk is the last one.
    pub(super) fn is_last(&self, index: u64) -> bool {
        index + 1 == self.chunks()
    }

    /// The content of this chunk.
    pub(super) fn read_chunk(&self, index: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.chunk_len(index)).unwrap_or_default()];
        self.input.read_at(index * CHUNK, &mut bytes)?;
        Ok(bytes)
    }

    /// The content of this chunk, deflated. All of them in a row are one deflate stream.
    pub(super) fn deflate_chunk(
        &self,
        index: u64,
        content: &[u8],
        deflater: &mut Deflater,
    ) -> Result<Vec<u8>> {
        deflater.deflate(content, if self.is_last(index) { Place::Last } else { Place::Inside })
    }
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
