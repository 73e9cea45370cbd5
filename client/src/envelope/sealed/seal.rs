//! Seal: sources in, an envelope out, in one go: nothing that was encrypted is ever encrypted again with other content.
//!
//! So what is not known when an entry starts, the checksum and the packed size of a large file, stands behind it.

use std::sync::Arc;

use crc32fast::Hasher;

pub use super::stream::Output;
use super::{
    cobblestone::{Cipher, InputKey},
    container, context,
    stream::Stream,
};
use crate::{
    envelope::{
        Recipient, SenderMark, Written,
        cipher_key::{self, Purpose},
        jobs::{self, CHUNK, Chunk, Content, Jobs},
        source::Source,
        zip::{self, Compression, Deflater, NewEntry, Numbers, Place, Sizes, end_of_directory},
    },
    error::Result,
    progress::{self, Progress},
    workers,
};

/// From this size on, a file that is not deflated gets all cores for itself.
const HUGE: u64 = 4 * CHUNK;

/// Writes an envelope. The caller makes sure that names do not collide and that there is at least one recipient.
///
/// # Errors
/// [`crate::Kind::Local`] for sources that cannot be read or changed meanwhile, or if the output cannot be written;
/// [`crate::Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    sender: Option<SenderMark>,
    out: Output<'_>,
    progress: &dyn Progress,
) -> Result<Written> {
    let input_key = InputKey::random()?;
    let cipher_key = cipher_key::seal(recipients, Purpose::SealedInputKey, sender, input_key.expose())?;
    let cipher = Cipher::new(&input_key, &context(&cipher_key))?;
    let stream = Stream::start(out, &container::head(&cipher_key), cipher)?;
    let mut archive = Archive { stream, entries: 0, content_bytes: 0, directory: Vec::new(), open: None };
    let mut jobs = Jobs::new(sources, progress, || Ok(())).with_huge_from(HUGE);
    loop {
        workers::in_order(
            workers::count(),
            jobs.by_ref(),
            |job, deflater| prepare(job.read()?, deflater),
            |piece| {
                progress::check(progress)?;
                let len = piece.content_len();
                archive.write(piece)?;
                progress.advance(len);
                Ok(())
            },
        )?;
        match jobs.huge.take() {
            Some(huge) => archive.write_huge(&huge, progress)?,
            None => break,
        }
    }
    let content_bytes = archive.content_bytes;
    let stream = archive.finish()?;
    let envelope_bytes = stream.finish(|message| container::tail(&cipher_key, message.len, message.crc))?;
    Ok(Written { content_bytes, envelope_bytes })
}

/// A file that is sealed in chunks. Nothing is kept for it: one key encrypts all.
type Large<'a> = jobs::Large<'a, ()>;

/// What a worker makes.
enum Piece<'a> {
    /// A complete entry.
    Whole { entry: NewEntry, stored: Vec<u8> },
    /// A piece of a large file, as it is stored, and the checksum of its content.
    Chunk { large: Arc<Large<'a>>, place: Place, content_len: u64, stored: Vec<u8>, crc: Hasher },
}

impl Piece<'_> {
    /// Bytes of file content.
    fn content_len(&self) -> u64 {
        match self {
            Self::Whole { entry, .. } if entry.is_link() => 0,
            Self::Whole { entry, .. } => entry.size,
            Self::Chunk { content_len, .. } => *content_len,
        }
    }
}

fn prepare<'a>(content: Content<'a, ()>, deflater: &mut Deflater) -> Result<Piece<'a>> {
    match content {
        Content::Folder(source) => Ok(folder(source)),
        Content::Whole(source, content) => whole(source, content, deflater),
        Content::Chunk(Chunk { large, place, bytes, .. }) => {
            let mut crc = Hasher::new();
            crc.update(&bytes);
            let content_len = bytes.len() as u64;
            let stored = match large.compression {
                Compression::Stored => bytes,
                Compression::Deflated => deflater.deflate(&bytes, place)?,
            };
            Ok(Piece::Chunk { large, place, content_len, stored, crc })
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

fn large_entry(large: &Large<'_>, size: u64, sealed_size: u64, crc: u32) -> NewEntry {
    let body = zip::Body::Plain { compression: large.compression, crc, numbers: Numbers::Behind };
    let sizes = if large.input.is_some() { Sizes::Known } else { Sizes::KnownAtTheEnd };
    NewEntry { sealed_size, sizes, ..new_entry(large.source, size, body) }
}

fn new_entry(source: &Source, size: u64, body: zip::Body) -> NewEntry {
    let name = source.path.as_str().to_owned();
    let (mode, modified, sizes) = (source.mode, source.modified, Sizes::Known);
    NewEntry { name, mode, modified, size, sealed_size: size, body, sizes }
}

/// The archive inside, as it is written.
struct Archive<'a> {
    stream: Stream<'a>,
    entries: u64,
    content_bytes: u64,
    directory: Vec<u8>,
    open: Option<OpenEntry>,
}

/// A large entry whose chunks are coming.
struct OpenEntry {
    header_at: u64,
    data_at: u64,
    content_len: u64,
    crc: Hasher,
}

impl<'a> Archive<'a> {
    fn write(&mut self, piece: Piece<'_>) -> Result<()> {
        self.content_bytes += piece.content_len();
        match piece {
            Piece::Whole { entry, stored } => {
                self.list(&entry, self.stream.position());
                self.stream.append(&entry.local_header())?;
                self.stream.append(&stored)
            }
            Piece::Chunk { large, place, content_len, stored, crc } => {
                let mut open = match self.open.take() {
                    Some(open) => open,
                    None => self.begin(&large)?,
                };
                open.content_len += content_len;
                open.crc.combine(&crc);
                self.stream.append(&stored)?;
                if place == Place::Last {
                    return self.end(&large, &open);
                }
                self.open = Some(open);
                Ok(())
            }
        }
    }

    fn write_huge(&mut self, large: &Large<'_>, progress: &dyn Progress) -> Result<()> {
        let Some(input) = &large.input else { return Ok(()) };
        self.content_bytes += input.size;
        let open = self.begin(large)?;
        let crc = self.stream.append_file(input, progress)?;
        self.end(large, &OpenEntry { content_len: input.size, crc, ..open })
    }

    fn begin(&mut self, large: &Large<'_>) -> Result<OpenEntry> {
        let header_at = self.stream.position();
        self.stream.append(&large_entry(large, large.size(), 0, 0).local_header())?;
        Ok(OpenEntry { header_at, data_at: self.stream.position(), content_len: 0, crc: Hasher::new() })
    }

    fn end(&mut self, large: &Large<'_>, open: &OpenEntry) -> Result<()> {
        large.check_unchanged()?;
        let sealed_size = self.stream.position() - open.data_at;
        let entry = large_entry(large, open.content_len, sealed_size, open.crc.clone().finalize());
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
