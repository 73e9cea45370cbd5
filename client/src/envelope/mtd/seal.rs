//! Seal: sources in, an archive out. Workers read, compress and encrypt; one writer puts the pieces in order.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    iter,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

use super::{
    CIPHER_KEY, ae2,
    archive::Archive,
    cipher_key,
    deflate::{Deflater, Place, pays},
    password::Password,
    zip::{self, Compression, NewEntry},
};
use crate::{
    envelope::Recipient,
    error::{Error, Kind, Result},
    output::{self, SafePath},
    progress::{self, Progress},
    workers,
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

/// Writes an envelope to an empty file. The caller makes sure that names do not collide and that there is at least one
/// recipient. Returns the envelope's size.
///
/// # Errors
/// [`Kind::Local`] for sources that cannot be read or changed meanwhile, or if the output cannot be written;
/// [`Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    out: &File,
    progress: &dyn Progress,
) -> Result<u64> {
    let password = Password::random()?;
    let mut archive = Archive::new(out);
    archive.write_plain(CIPHER_KEY, &cipher_key::seal(recipients, &password)?)?;
    workers::in_order(
        workers::count(),
        jobs(sources, &password),
        |job, deflater| job.seal(&password, deflater),
        |piece| {
            progress::check(progress)?;
            let len = piece.content_len();
            archive.write(piece)?;
            progress.advance(len);
            Ok(())
        },
    )?;
    archive.finish(&password)
}

/// One piece of work.
enum Job<'a> {
    Whole(&'a Source),
    Chunk(Arc<Large<'a>>, u64),
}

fn jobs<'a>(sources: &'a [Source], password: &'a Password) -> impl Iterator<Item = Result<Job<'a>>> {
    sources.iter().flat_map(|source| -> Box<dyn Iterator<Item = Result<Job<'a>>>> {
        match &source.body {
            Body::File(from, size) if *size > CHUNK => match Large::open(source, from, *size, password) {
                Ok(large) => {
                    let large = Arc::new(large);
                    Box::new((0..large.chunks()).map(move |index| Ok(Job::Chunk(Arc::clone(&large), index))))
                }
                Err(error) => Box::new(iter::once(Err(error))),
            },
            _ => Box::new(iter::once(Ok(Job::Whole(source)))),
        }
    })
}

/// What a worker hands to the writer.
pub(super) enum Piece<'a> {
    /// A complete entry: salt, verifier and ciphertext.
    Whole { entry: NewEntry, sealed: Vec<u8>, code: Option<ae2::Code> },
    /// A piece of a large file: encrypted if it is stored, else only deflated, because then its place in the key stream
    /// depends on the pieces before it.
    Chunk { large: Arc<Large<'a>>, index: u64, bytes: Vec<u8> },
}

impl Piece<'_> {
    fn content_len(&self) -> u64 {
        match self {
            Self::Whole { entry, .. } => entry.size,
            Self::Chunk { large, index, .. } => large.chunk_len(*index),
        }
    }
}

impl<'a> Job<'a> {
    fn seal(self, password: &Password, deflater: &mut Deflater) -> Result<Piece<'a>> {
        match self {
            Self::Whole(source) => match &source.body {
                Body::Folder => Ok(folder(source)),
                Body::Link(target) => whole(source, target.as_bytes(), password, deflater),
                Body::File(from, size) => {
                    let content = Input::open(from, *size)?.read_all()?;
                    whole(source, &content, password, deflater)
                }
            },
            Self::Chunk(large, index) => {
                large.chunk(index, deflater).map(|bytes| Piece::Chunk { large, index, bytes })
            }
        }
    }
}

fn folder<'a>(source: &Source) -> Piece<'a> {
    let mut entry = new_entry(source, 0, 0, zip::Body::Plain(0));
    entry.name.push('/');
    Piece::Whole { entry, sealed: Vec::new(), code: None }
}

fn whole<'a>(
    source: &Source,
    content: &[u8],
    password: &Password,
    deflater: &mut Deflater,
) -> Result<Piece<'a>> {
    let size = content.len() as u64;
    let read = |at, sample: &mut [u8]| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        sample.copy_from_slice(&content[at..at + sample.len()]);
        Ok(())
    };
    let deflated = match deflater.choose(size, read)? {
        Compression::Deflated => Some(deflater.deflate(content, Place::Last)?),
        Compression::Stored => None,
    };
    let deflated = deflated.filter(|deflated| pays(size, deflated.len() as u64));
    let compression = if deflated.is_some() { Compression::Deflated } else { Compression::Stored };
    let body = deflated.as_deref().unwrap_or(content);

    let salt = ae2::random_salt()?;
    let keys = ae2::Keys::derive(password, &salt);
    let mut sealed = Vec::with_capacity(ae2::HEAD_LEN + body.len());
    sealed.extend(keys.head(&salt));
    sealed.extend(body);
    let ciphertext = &mut sealed[ae2::HEAD_LEN..];
    keys.stream(0).apply(ciphertext);
    let mut authenticator = keys.authenticator();
    authenticator.update(ciphertext);
    let code = authenticator.code();
    let sealed_size = sealed.len() as u64 + ae2::CODE_LEN as u64;
    let entry = new_entry(source, size, sealed_size, zip::Body::Sealed(compression));
    Ok(Piece::Whole { entry, sealed, code: Some(code) })
}

fn new_entry(source: &Source, size: u64, sealed_size: u64, body: zip::Body) -> NewEntry {
    let name = source.path.as_str().to_owned();
    NewEntry { name, mode: source.mode, modified: source.modified, size, sealed_size, body }
}

/// A file that is sealed in chunks.
pub(super) struct Large<'a> {
    source: &'a Source,
    input: Input,
    salt: ae2::Salt,
    pub(super) keys: ae2::Keys,
    pub(super) compression: Compression,
}

impl<'a> Large<'a> {
    fn open(source: &'a Source, from: &Path, size: u64, password: &Password) -> Result<Self> {
        let input = Input::open(from, size)?;
        let compression = Deflater::default().choose(size, |at, sample| input.read_at(at, sample))?;
        let salt = ae2::random_salt()?;
        Ok(Self { source, input, salt, keys: ae2::Keys::derive(password, &salt), compression })
    }

    /// Its entry; `sealed_size` is known only at the end.
    pub(super) fn entry(&self, sealed_size: u64) -> NewEntry {
        new_entry(self.source, self.input.size, sealed_size, zip::Body::Sealed(self.compression))
    }

    /// What stands in front of its ciphertext.
    pub(super) fn head(&self) -> [u8; ae2::HEAD_LEN] {
        self.keys.head(&self.salt)
    }

    /// Whether this chunk is the last one.
    pub(super) fn is_last(&self, index: u64) -> bool {
        index + 1 == self.chunks()
    }

    /// # Errors
    /// [`Kind::Local`] if the file changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.input.check_unchanged()
    }

    fn chunks(&self) -> u64 {
        self.input.size.div_ceil(CHUNK)
    }

    fn chunk_len(&self, index: u64) -> u64 {
        CHUNK.min(self.input.size - index * CHUNK)
    }

    fn chunk(&self, index: u64, deflater: &mut Deflater) -> Result<Vec<u8>> {
        let at = index * CHUNK;
        let mut bytes = vec![0; usize::try_from(self.chunk_len(index)).unwrap_or_default()];
        self.input.read_at(at, &mut bytes)?;
        match self.compression {
            Compression::Stored => {
                self.keys.stream(at).apply(&mut bytes);
                Ok(bytes)
            }
            Compression::Deflated => {
                deflater.deflate(&bytes, if self.is_last(index) { Place::Last } else { Place::Inside })
            }
        }
    }
}

/// A file to seal, open, as it was when it was opened.
struct Input {
    file: File,
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
}

impl Input {
    /// Opens a file that must still have the size it had when it was found.
    fn open(path: &Path, size: u64) -> Result<Self> {
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

    fn read_all(mut self) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(usize::try_from(self.size + 1).unwrap_or_default());
        let read = self.file.by_ref().take(self.size + 1).read_to_end(&mut content);
        read.map_err(|why| output::failed(format!("cannot read {}", self.path.display()), &why))?;
        if content.len() as u64 != self.size {
            return Err(self.changed());
        }
        self.check_unchanged()?;
        Ok(content)
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|why| match why.kind() {
            std::io::ErrorKind::UnexpectedEof => self.changed(),
            _ => output::failed(format!("cannot read {}", self.path.display()), &why),
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        let metadata = self.file.metadata();
        let metadata =
            metadata.map_err(|why| output::failed(format!("cannot read {}", self.path.display()), &why))?;
        let same = metadata.len() == self.size && (metadata.mtime(), metadata.mtime_nsec()) == self.modified;
        if same { Ok(()) } else { Err(self.changed()) }
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
