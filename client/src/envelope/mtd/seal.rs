//! Seal: sources in, an archive out. Workers read, compress and encrypt; one writer puts the pieces in order.

use std::{fs::File, iter, path::Path, sync::Arc};

use super::{CIPHER_KEY, ae2, archive::Archive, password::Password};
use crate::{
    envelope::{
        Recipient,
        cipher_key::{self, Purpose},
        source::{self, Body, CHUNK, Input, Source},
        zip::{self, Compression, Deflater, NewEntry},
    },
    error::Result,
    progress::{self, Progress},
    workers,
};

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
    let cipher_key = cipher_key::seal(recipients, Purpose::MtdPassword, password.expose())?;
    archive.write_plain(CIPHER_KEY, &cipher_key)?;
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
                    Box::new(
                        (0..large.file.chunks()).map(move |index| Ok(Job::Chunk(Arc::clone(&large), index))),
                    )
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
            Self::Chunk { large, index, .. } => large.file.chunk_len(*index),
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
    let mut entry = new_entry(source, 0, 0, zip::Body::plain(0));
    entry.name.push('/');
    Piece::Whole { entry, sealed: Vec::new(), code: None }
}

fn whole<'a>(
    source: &Source,
    content: &[u8],
    password: &Password,
    deflater: &mut Deflater,
) -> Result<Piece<'a>> {
    let deflated = deflater.deflate_if_it_pays(content)?;
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
    let entry = new_entry(source, content.len() as u64, sealed_size, zip::Body::Sealed(compression));
    Ok(Piece::Whole { entry, sealed, code: Some(code) })
}

fn new_entry(source: &Source, size: u64, sealed_size: u64, body: zip::Body) -> NewEntry {
    let name = source.path.as_str().to_owned();
    NewEntry { name, mode: source.mode, modified: source.modified, size, sealed_size, body }
}

/// A file that is sealed in chunks.
pub(super) struct Large<'a> {
    pub(super) file: source::Large<'a>,
    salt: ae2::Salt,
    pub(super) keys: ae2::Keys,
}

impl<'a> Large<'a> {
    fn open(source: &'a Source, from: &Path, size: u64, password: &Password) -> Result<Self> {
        let file = source::Large::open(source, from, size)?;
        let salt = ae2::random_salt()?;
        Ok(Self { file, salt, keys: ae2::Keys::derive(password, &salt) })
    }

    /// Its entry; `sealed_size` is known only at the end.
    pub(super) fn entry(&self, sealed_size: u64) -> NewEntry {
        let body = zip::Body::Sealed(self.file.compression);
        new_entry(self.file.source, self.file.input.size, sealed_size, body)
    }

    /// What stands in front of its ciphertext.
    pub(super) fn head(&self) -> [u8; ae2::HEAD_LEN] {
        self.keys.head(&self.salt)
    }

    fn chunk(&self, index: u64, deflater: &mut Deflater) -> Result<Vec<u8>> {
        let mut bytes = self.file.read_chunk(index)?;
        match self.file.compression {
            Compression::Stored => {
                self.keys.stream(index * CHUNK).apply(&mut bytes);
                Ok(bytes)
            }
            Compression::Deflated => self.file.deflate_chunk(index, &bytes, deflater),
        }
    }
}
