//! Seal: sources in, an envelope out, in one go: nothing that was encrypted is ever encrypted again with other content.
//!
//! So what is not known when an entry starts, the checksum and the packed size of a large file, stands behind it.

use std::{collections::VecDeque, slice, sync::Arc};

use crc32fast::Hasher;

pub use super::stream::Output;
use super::{
    cobblestone::{Cipher, InputKey},
    container, context,
    stream::Stream,
};
use crate::{
    envelope::{
        Recipient,
        cipher_key::{self, Purpose},
        source::{Body, CHUNK, Input, Large, Source},
        zip::{self, Compression, Deflater, NewEntry, Numbers, end_of_directory},
    },
    error::Result,
    progress::{self, Progress},
    workers,
};

/// From this size on, a file that is not deflated gets all cores for itself.
const HUGE: u64 = 4 * CHUNK;

/// Writes an envelope. The caller makes sure that names do not collide and that there is at least one recipient. Returns
/// the envelope's size.
///
/// # Errors
/// [`crate::Kind::Local`] for sources that cannot be read or changed meanwhile, or if the output cannot be written;
/// [`crate::Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    out: Output<'_>,
    progress: &dyn Progress,
) -> Result<u64> {
    let input_key = InputKey::random()?;
    let cipher_key = cipher_key::seal(recipients, Purpose::SealedInputKey, input_key.expose())?;
    let cipher = Cipher::new(&input_key, &context(&cipher_key))?;
    let stream = Stream::start(out, &container::head(&cipher_key), cipher)?;
    let mut archive = Archive { stream, entries: 0, directory: Vec::new(), open: None };
    let mut jobs = Jobs { sources: sources.iter(), chunks: VecDeque::new(), huge: None };
    loop {
        workers::in_order(workers::count(), jobs.by_ref(), Job::prepare, |piece| {
            progress::check(progress)?;
            let len = piece.content_len();
            archive.write(piece)?;
            progress.advance(len);
            Ok(())
        })?;
        match jobs.huge.take() {
            Some(huge) => archive.write_huge(&huge, progress)?,
            None => break,
        }
    }
    archive.finish()?.finish(|message| container::tail(&cipher_key, message.len, message.crc))
}

/// One piece of work for one core.
enum Job<'a> {
    Whole(&'a Source),
    Chunk(Arc<Large<'a>>, u64),
}

/// All jobs up to the next huge file, again and again.
struct Jobs<'a> {
    sources: slice::Iter<'a, Source>,
    /// Those of the file that was opened last.
    chunks: VecDeque<Job<'a>>,
    /// A file that gets all cores when the jobs before it are done.
    huge: Option<Large<'a>>,
}

impl<'a> Iterator for Jobs<'a> {
    type Item = Result<Job<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(job) = self.chunks.pop_front() {
            return Some(Ok(job));
        }
        if self.huge.is_some() {
            return None;
        }
        let source = self.sources.next()?;
        let Body::File(from, size) = &source.body else { return Some(Ok(Job::Whole(source))) };
        if *size <= CHUNK {
            return Some(Ok(Job::Whole(source)));
        }
        match Large::open(source, from, *size) {
            Err(error) => Some(Err(error)),
            Ok(large) if large.compression == Compression::Stored && *size >= HUGE => {
                self.huge = Some(large);
                None
            }
            Ok(large) => {
                let large = Arc::new(large);
                self.chunks =
                    (0..large.chunks()).map(|index| Job::Chunk(Arc::clone(&large), index)).collect();
                self.next()
            }
        }
    }
}

/// What a job makes.
enum Piece<'a> {
    /// A complete entry.
    Whole { entry: NewEntry, stored: Vec<u8> },
    /// A piece of a large file, as it is stored, and the checksum of its content.
    Chunk { large: Arc<Large<'a>>, index: u64, stored: Vec<u8>, crc: Hasher },
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
    fn prepare(self, deflater: &mut Deflater) -> Result<Piece<'a>> {
        match self {
            Self::Whole(source) => match &source.body {
                Body::Folder => Ok(folder(source)),
                Body::Link(target) => whole(source, target.clone().into_bytes(), deflater),
                Body::File(from, size) => whole(source, Input::open(from, *size)?.read_all()?, deflater),
            },
            Self::Chunk(large, index) => {
                let content = large.read_chunk(index)?;
                let mut crc = Hasher::new();
                crc.update(&content);
                let stored = match large.compression {
                    Compression::Stored => content,
                    Compression::Deflated => large.deflate_chunk(index, &content, deflater)?,
                };
                Ok(Piece::Chunk { large, index, stored, crc })
            }
        }
    }
}

fn folder<'a>(source: &Source) -> Piece<'a> {
    let mut entry = new_entry(source, 0, zip::Body::plain(0));
    entry.name.push('/');
    Piece::Whole { entry, stored: Vec::new() }
}

fn whole<'a>(source: &Source, content: Vec<u8>, deflater: &mut Deflater) -> Result<Piece<'a>> {
    let (size, crc) = (content.len() as u64, crc32fast::hash(&content));
    let (compression, stored) = match deflater.deflate_if_it_pays(&content)? {
        Some(deflated) => (Compression::Deflated, deflated),
        None => (Compression::Stored, content),
    };
    let body = zip::Body::Plain { compression, crc, numbers: Numbers::InHeader };
    let entry = NewEntry { sealed_size: stored.len() as u64, ..new_entry(source, size, body) };
    Ok(Piece::Whole { entry, stored })
}

fn large_entry(large: &Large<'_>, sealed_size: u64, crc: u32) -> NewEntry {
    let body = zip::Body::Plain { compression: large.compression, crc, numbers: Numbers::Behind };
    NewEntry { sealed_size, ..new_entry(large.source, large.input.size, body) }
}

fn new_entry(source: &Source, size: u64, body: zip::Body) -> NewEntry {
    let name = source.path.as_str().to_owned();
    NewEntry { name, mode: source.mode, modified: source.modified, size, sealed_size: size, body }
}

/// The archive inside, as it is written.
struct Archive<'a> {
    stream: Stream<'a>,
    entries: u64,
    directory: Vec<u8>,
    open: Option<OpenEntry>,
}

/// A large entry whose chunks are coming.
struct OpenEntry {
    header_at: u64,
    data_at: u64,
    crc: Hasher,
}

impl<'a> Archive<'a> {
    fn write(&mut self, piece: Piece<'_>) -> Result<()> {
        match piece {
            Piece::Whole { entry, stored } => {
                self.list(&entry, self.stream.position());
                self.stream.append(&entry.local_header())?;
                self.stream.append(&stored)
            }
            Piece::Chunk { large, index, stored, crc } => {
                let mut open = match self.open.take() {
                    Some(open) => open,
                    None => self.begin(&large)?,
                };
                open.crc.combine(&crc);
                self.stream.append(&stored)?;
                if large.is_last(index) {
                    return self.end(&large, &open, open.crc.clone().finalize());
                }
                self.open = Some(open);
                Ok(())
            }
        }
    }

    fn write_huge(&mut self, large: &Large<'_>, progress: &dyn Progress) -> Result<()> {
        let open = self.begin(large)?;
        let crc = self.stream.append_file(&large.input, progress)?;
        self.end(large, &open, crc)
    }

    fn begin(&mut self, large: &Large<'_>) -> Result<OpenEntry> {
        let header_at = self.stream.position();
        self.stream.append(&large_entry(large, 0, 0).local_header())?;
        Ok(OpenEntry { header_at, data_at: self.stream.position(), crc: Hasher::new() })
    }

    fn end(&mut self, large: &Large<'_>, open: &OpenEntry, crc: u32) -> Result<()> {
        large.input.check_unchanged()?;
        let entry = large_entry(large, self.stream.position() - open.data_at, crc);
        self.stream.append(&entry.descriptor())?;
        self.list(&entry, open.header_at);
        Ok(())
    }

    fn list(&mut self, entry: &NewEntry, header_at: u64) {
        self.directory.extend(entry.central_header(header_at));
        self.entries += 1;
    }

    /// Writes the directory.
    fn finish(mut self) -> Result<Stream<'a>> {
        let (at, len) = (self.stream.position(), self.directory.len() as u64);
        self.stream.append(&self.directory)?;
        self.stream.append(&end_of_directory(self.entries, at, len, b""))?;
        Ok(self.stream)
    }
}
