//! What is sealed, cut into pieces of work for the cores, in order.

use std::{ops::Range, path::Path, slice, sync::Arc};

use super::{
    source::{Body, Input, Source},
    zip::{Compression, Deflater, Place},
};
use crate::{
    error::{Error, Kind, Result},
    progress::Progress,
    stdin::Stdin,
};

/// Bytes of content that a worker handles at once. A file up to this size is sealed in memory.
pub(super) const CHUNK: u64 = 1024 * 1024;

/// Content that is sealed in chunks. `K` is what the format keeps for each: keys, for example.
pub(super) struct Large<'a, K> {
    pub(super) source: &'a Source,
    /// `None`: it comes from a stream.
    pub(super) input: Option<Input>,
    pub(super) compression: Compression,
    pub(super) keys: K,
}

impl<'a, K> Large<'a, K> {
    fn open(source: &'a Source, from: &Path, size: u64, keys: K) -> Result<Self> {
        let input = Input::open(from, size)?;
        let compression = Deflater::default().choose(size, |at, sample| input.read_at(at, sample))?;
        Ok(Self { source, input: Some(input), compression, keys })
    }

    /// Of a stream that begins with these bytes: they tell whether deflating pays.
    fn of_stream(source: &'a Source, start: &[u8], keys: K) -> Result<Self> {
        let compression = Deflater::default().choose_of(start)?;
        Ok(Self { source, input: None, compression, keys })
    }

    /// Bytes of content, as far as known.
    pub(super) fn size(&self) -> u64 {
        self.input.as_ref().map_or(0, |input| input.size)
    }

    /// # Errors
    /// [`Kind::Local`] if the file changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.input.as_ref().map_or(Ok(()), Input::check_unchanged)
    }

    fn chunks(&self) -> u64 {
        self.size().div_ceil(CHUNK)
    }

    fn read_chunk(self: Arc<Self>, index: u64) -> Result<Chunk<'a, K>> {
        let at = index * CHUNK;
        let len = CHUNK.min(self.size() - at);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        if let Some(input) = &self.input {
            input.read_at(at, &mut bytes)?;
        }
        let place = if index + 1 == self.chunks() { Place::Last } else { Place::Inside };
        Ok(Chunk { large: self, at, place, bytes })
    }
}

/// A piece of large content that was read.
pub(super) struct Chunk<'a, K> {
    pub(super) large: Arc<Large<'a, K>>,
    /// Where it stands in the content.
    pub(super) at: u64,
    pub(super) place: Place,
    pub(super) bytes: Vec<u8>,
}

/// Something to seal, read.
pub(super) enum Content<'a, K> {
    Folder(&'a Source),
    /// All of a small file, or of a link's target.
    Whole(&'a Source, Vec<u8>),
    Chunk(Chunk<'a, K>),
}

/// One piece of work.
pub(super) enum Job<'a, K> {
    Whole(&'a Source),
    Chunk(Arc<Large<'a, K>>, u64),
    /// Of a stream: it was read already.
    Read(Content<'a, K>),
}

impl<'a, K> Job<'a, K> {
    /// Reads what is to be sealed. For workers.
    pub(super) fn read(self) -> Result<Content<'a, K>> {
        match self {
            Self::Whole(source) => match &source.body {
                Body::Folder => Ok(Content::Folder(source)),
                Body::Link(target) => Ok(Content::Whole(source, target.clone().into_bytes())),
                Body::File(from, size) => Ok(Content::Whole(source, Input::open(from, *size)?.read_all()?)),
                // Its content comes with the job.
                Body::Stdin => Err(Error::new(Kind::Local, "cannot seal", "standard input was not read")),
            },
            Self::Chunk(large, index) => large.read_chunk(index).map(Content::Chunk),
            Self::Read(content) => Ok(content),
        }
    }
}

/// All jobs in order. `F` makes what a format keeps for large content.
///
/// If a format gives the cores to huge files in its own way, the jobs end before each: they go on when it was taken.
pub(super) struct Jobs<'a, K, F> {
    sources: slice::Iter<'a, Source>,
    progress: &'a dyn Progress,
    keys: F,
    huge_from: u64,
    /// Of the file that was opened last.
    chunks: Option<(Arc<Large<'a, K>>, Range<u64>)>,
    streamed: Option<Streamed<'a, K>>,
    /// A huge file whose turn it is.
    pub(super) huge: Option<Large<'a, K>>,
}

impl<'a, K, F: FnMut() -> Result<K>> Jobs<'a, K, F> {
    pub(super) fn new(sources: &'a [Source], progress: &'a dyn Progress, keys: F) -> Self {
        let sources = sources.iter();
        Self { sources, progress, keys, huge_from: u64::MAX, chunks: None, streamed: None, huge: None }
    }

    /// Stored files of at least this size are huge.
    pub(super) fn with_huge_from(self, size: u64) -> Self {
        Self { huge_from: size, ..self }
    }

    fn step(&mut self) -> Result<Option<Job<'a, K>>> {
        loop {
            if let Some((large, rest)) = &mut self.chunks
                && let Some(index) = rest.next()
            {
                return Ok(Some(Job::Chunk(Arc::clone(large), index)));
            }
            self.chunks = None;
            if let Some(streamed) = &mut self.streamed
                && let Some(content) = streamed.step(&mut self.keys)?
            {
                return Ok(Some(Job::Read(content)));
            }
            self.streamed = None;
            if self.huge.is_some() {
                return Ok(None);
            }
            let Some(source) = self.sources.next() else { return Ok(None) };
            match &source.body {
                Body::File(from, size) if *size > CHUNK => {
                    let large = Large::open(source, from, *size, (self.keys)()?)?;
                    if large.compression == Compression::Stored && *size >= self.huge_from {
                        self.huge = Some(large);
                    } else {
                        let chunks = 0..large.chunks();
                        self.chunks = Some((Arc::new(large), chunks));
                    }
                }
                Body::Stdin => self.streamed = Some(Streamed::new(source, self.progress)),
                _ => return Ok(Some(Job::Whole(source))),
            }
        }
    }
}

impl<'a, K, F: FnMut() -> Result<K>> Iterator for Jobs<'a, K, F> {
    type Item = Result<Job<'a, K>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Standard input as content. Reads one chunk ahead, to know which is the last.
struct Streamed<'a, K> {
    source: &'a Source,
    stdin: Stdin<'a>,
    large: Option<Arc<Large<'a, K>>>,
    /// The chunk to hand out next, and its place in the content. `None` at the end, and after a failure.
    next: Option<(u64, Vec<u8>)>,
    begun: bool,
}

impl<'a, K> Streamed<'a, K> {
    fn new(source: &'a Source, progress: &'a dyn Progress) -> Self {
        Self { source, stdin: Stdin::new(progress), large: None, next: None, begun: false }
    }

    fn step(&mut self, keys: &mut impl FnMut() -> Result<K>) -> Result<Option<Content<'a, K>>> {
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
            return Ok(Some(Content::Whole(self.source, bytes)));
        }
        if place == Place::Inside {
            self.next = Some((at + CHUNK, following));
        }
        let large = match &self.large {
            Some(large) => Arc::clone(large),
            None => Arc::clone(self.large.insert(Arc::new(Large::of_stream(self.source, &bytes, keys()?)?))),
        };
        Ok(Some(Content::Chunk(Chunk { large, at, place, bytes })))
    }
}
