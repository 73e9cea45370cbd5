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
    archive::{Archive, Written},
    cipher_key,
    deflate::{Deflater, Place, pays},
    password::Password,
    zip::{self, Compression, NewEntry, Sizes},
};
use crate::{
    envelope::Recipient,
    error::{Error, Kind, Result},
    output::{self, SafePath},
    progress::{self, Progress},
    stdin::Stdin,
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

/// Writes an envelope to an empty file. The caller makes sure that names do not collide and that there is at least one
/// recipient.
///
/// # Errors
/// [`Kind::Local`] for sources that cannot be read or changed meanwhile, or if the output cannot be written;
/// [`Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    out: &File,
    progress: &dyn Progress,
) -> Result<Written> {
    let password = Password::random()?;
    let mut archive = Archive::new(out);
    archive.write_plain(CIPHER_KEY, &cipher_key::seal(recipients, &password)?)?;
    workers::in_order(
        workers::count(),
        jobs(sources, &password, progress),
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
    /// Content that was read already.
    Read(&'a Source, Vec<u8>),
    ReadChunk(Arc<Large<'a>>, ChunkOf, Vec<u8>),
}

/// Where a chunk stands in its content.
#[derive(Clone, Copy)]
struct ChunkOf {
    at: u64,
    place: Place,
}

fn jobs<'a>(
    sources: &'a [Source],
    password: &'a Password,
    progress: &'a dyn Progress,
) -> impl Iterator<Item = Result<Job<'a>>> {
    sources.iter().flat_map(move |source| -> Box<dyn Iterator<Item = Result<Job<'a>>>> {
        match &source.body {
            Body::File(from, size) if *size > CHUNK => match Large::open(source, from, *size, password) {
                Ok(large) => {
                    let large = Arc::new(large);
                    Box::new((0..large.chunks()).map(move |index| Ok(Job::Chunk(Arc::clone(&large), index))))
                }
                Err(error) => Box::new(iter::once(Err(error))),
            },
            Body::Stdin => Box::new(Streamed::new(source, password, progress)),
            _ => Box::new(iter::once(Ok(Job::Whole(source)))),
        }
    })
}

/// Standard input as pieces of work. Reads one chunk ahead, to know which is the last.
struct Streamed<'a> {
    source: &'a Source,
    password: &'a Password,
    stdin: Stdin<'a>,
    large: Option<Arc<Large<'a>>>,
    /// The chunk to hand out next, and its place in the content. `None` at the end, and after a failure.
    next: Option<(u64, Vec<u8>)>,
    begun: bool,
}

impl<'a> Streamed<'a> {
    fn new(source: &'a Source, password: &'a Password, progress: &'a dyn Progress) -> Self {
        Self { source, password, stdin: Stdin::new(progress), large: None, next: None, begun: false }
    }

    fn step(&mut self) -> Result<Option<Job<'a>>> {
        if !self.begun {
            self.begun = true;
            self.next = Some((0, self.stdin.read_chunk(CHUNK)?));
        }
        let Some((at, bytes)) = self.next.take() else { return Ok(None) };
        let following = match bytes.len() as u64 {
            CHUNK => self.stdin.read_chunk(CHUNK)?,
            _ => Vec::new(),
        };
        let place = if following.is_empty() { Place::Last } else { Place::Inside };
        if at == 0 && place == Place::Last {
            return Ok(Some(Job::Read(self.source, bytes)));
        }
        if place == Place::Inside {
            self.next = Some((at + CHUNK, following));
        }
        let large = match &self.large {
            Some(large) => Arc::clone(large),
            None => {
                Arc::clone(self.large.insert(Arc::new(Large::of_stream(self.source, &bytes, self.password)?)))
            }
        };
        Ok(Some(Job::ReadChunk(large, ChunkOf { at, place }, bytes)))
    }
}

impl<'a> Iterator for Streamed<'a> {
    type Item = Result<Job<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// What a worker hands to the writer.
pub(super) enum Piece<'a> {
    /// A complete entry: salt, verifier and ciphertext.
    Whole { entry: NewEntry, sealed: Vec<u8>, code: Option<ae2::Code> },
    /// A piece of a large file: encrypted if it is stored, else only deflated, because then its place in the key stream
    /// depends on the pieces before it.
    Chunk { large: Arc<Large<'a>>, place: Place, content_len: u64, bytes: Vec<u8> },
}

impl Piece<'_> {
    /// Bytes of file content.
    pub(super) fn content_len(&self) -> u64 {
        match self {
            Self::Whole { entry, .. } if entry.is_link() => 0,
            Self::Whole { entry, .. } => entry.size,
            Self::Chunk { content_len, .. } => *content_len,
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
                // Its content comes with the job.
                Body::Stdin => Err(Error::new(Kind::Local, "cannot seal", "standard input was not read")),
            },
            Self::Chunk(large, index) => {
                let (chunk, bytes) = large.read_chunk(index)?;
                large.seal_chunk(chunk, bytes, deflater)
            }
            Self::Read(source, content) => whole(source, &content, password, deflater),
            Self::ReadChunk(large, chunk, bytes) => large.seal_chunk(chunk, bytes, deflater),
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
    let deflated = match deflater.choose_of(content)? {
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
    let sizes = Sizes::Known;
    NewEntry { name, mode: source.mode, modified: source.modified, size, sealed_size, body, sizes }
}

/// A file that is sealed in chunks.
pub(super) struct Large<'a> {
    source: &'a Source,
    /// `None`: its chunks come with the jobs.
    input: Option<Input>,
    salt: ae2::Salt,
    pub(super) keys: ae2::Keys,
    pub(super) compression: Compression,
}

impl<'a> Large<'a> {
    fn open(source: &'a Source, from: &Path, size: u64, password: &Password) -> Result<Self> {
        let input = Input::open(from, size)?;
        let compression = Deflater::default().choose(size, |at, sample| input.read_at(at, sample))?;
        Self::new(source, Some(input), compression, password)
    }

    /// Of a stream that begins with these bytes: they tell whether deflating pays.
    fn of_stream(source: &'a Source, start: &[u8], password: &Password) -> Result<Self> {
        let compression = Deflater::default().choose_of(start)?;
        Self::new(source, None, compression, password)
    }

    fn new(
        source: &'a Source,
        input: Option<Input>,
        compression: Compression,
        password: &Password,
    ) -> Result<Self> {
        let salt = ae2::random_salt()?;
        Ok(Self { source, input, salt, keys: ae2::Keys::derive(password, &salt), compression })
    }

    /// Its entry; both sizes of a stream, and any `sealed_size`, are known only at the end.
    pub(super) fn entry(&self, size: u64, sealed_size: u64) -> NewEntry {
        let entry = new_entry(self.source, size, sealed_size, zip::Body::Sealed(self.compression));
        match self.input {
            Some(_) => entry,
            None => NewEntry { sizes: Sizes::KnownAtTheEnd, ..entry },
        }
    }

    /// Bytes of content, as far as known.
    pub(super) fn size(&self) -> u64 {
        self.input.as_ref().map_or(0, |input| input.size)
    }

    /// What stands in front of its ciphertext.
    pub(super) fn head(&self) -> [u8; ae2::HEAD_LEN] {
        self.keys.head(&self.salt)
    }

    /// # Errors
    /// [`Kind::Local`] if the file changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.input.as_ref().map_or(Ok(()), Input::check_unchanged)
    }

    fn chunks(&self) -> u64 {
        self.size().div_ceil(CHUNK)
    }

    fn read_chunk(&self, index: u64) -> Result<(ChunkOf, Vec<u8>)> {
        let at = index * CHUNK;
        let len = CHUNK.min(self.size() - at);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        if let Some(input) = &self.input {
            input.read_at(at, &mut bytes)?;
        }
        let place = if index + 1 == self.chunks() { Place::Last } else { Place::Inside };
        Ok((ChunkOf { at, place }, bytes))
    }

    fn seal_chunk(
        self: Arc<Self>,
        ChunkOf { at, place }: ChunkOf,
        mut bytes: Vec<u8>,
        deflater: &mut Deflater,
    ) -> Result<Piece<'a>> {
        let content_len = bytes.len() as u64;
        match self.compression {
            Compression::Stored => self.keys.stream(at).apply(&mut bytes),
            Compression::Deflated => bytes = deflater.deflate(&bytes, place)?,
        }
        Ok(Piece::Chunk { large: self, place, content_len, bytes })
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
