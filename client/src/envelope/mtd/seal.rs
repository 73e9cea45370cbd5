//! Seal: sources in, an archive out. Workers read, compress and encrypt; one writer puts the pieces in order.

use std::{fs::File, sync::Arc};

use super::{CIPHER_KEY, ae2, archive::Archive, password::Password};
use crate::{
    envelope::{
        Recipient, SenderMark, Written,
        cipher_key::{self, Purpose},
        jobs::{self, Chunk, Content, Jobs},
        source::Source,
        zip::{self, Compression, Deflater, NewEntry, Place, Sizes},
    },
    error::Result,
    progress::{self, Progress},
    workers,
};

/// Writes an envelope to an empty file. The caller makes sure that names do not collide and that there is at least one
/// recipient.
///
/// # Errors
/// [`crate::Kind::Local`] for sources that cannot be read or changed meanwhile, or if the output cannot be written;
/// [`crate::Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    sender: Option<SenderMark>,
    out: &File,
    progress: &dyn Progress,
) -> Result<Written> {
    let password = Password::random()?;
    let mut archive = Archive::new(out);
    let cipher_key = cipher_key::seal(recipients, Purpose::MtdPassword, sender, password.expose())?;
    archive.write_plain(CIPHER_KEY, &cipher_key)?;
    workers::in_order(
        workers::count(),
        Jobs::new(sources, progress, || Salted::new(&password)),
        |job, deflater| seal_content(job.read()?, &password, deflater),
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

/// The keys of one entry, and the salt that they come from.
pub(super) struct Salted {
    salt: ae2::Salt,
    pub(super) keys: ae2::Keys,
}

impl Salted {
    fn new(password: &Password) -> Result<Self> {
        let salt = ae2::random_salt()?;
        Ok(Self { salt, keys: ae2::Keys::derive(password, &salt) })
    }

    /// What stands in front of the ciphertext.
    pub(super) fn head(&self) -> [u8; ae2::HEAD_LEN] {
        self.keys.head(&self.salt)
    }
}

/// A file that is sealed in chunks.
pub(super) type Large<'a> = jobs::Large<'a, Salted>;

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

fn seal_content<'a>(
    content: Content<'a, Salted>,
    password: &Password,
    deflater: &mut Deflater,
) -> Result<Piece<'a>> {
    match content {
        Content::Folder(source) => Ok(folder(source)),
        Content::Whole(source, content) => whole(source, &content, password, deflater),
        Content::Chunk(chunk) => seal_chunk(chunk, deflater),
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

    let salted = Salted::new(password)?;
    let mut sealed = Vec::with_capacity(ae2::HEAD_LEN + body.len());
    sealed.extend(salted.head());
    sealed.extend(body);
    let ciphertext = &mut sealed[ae2::HEAD_LEN..];
    salted.keys.stream(0).apply(ciphertext);
    let mut authenticator = salted.keys.authenticator();
    authenticator.update(ciphertext);
    let code = authenticator.code();
    let sealed_size = sealed.len() as u64 + ae2::CODE_LEN as u64;
    let entry = new_entry(source, content.len() as u64, sealed_size, zip::Body::Sealed(compression));
    Ok(Piece::Whole { entry, sealed, code: Some(code) })
}

fn seal_chunk<'a>(chunk: Chunk<'a, Salted>, deflater: &mut Deflater) -> Result<Piece<'a>> {
    let Chunk { large, at, place, mut bytes } = chunk;
    let content_len = bytes.len() as u64;
    match large.compression {
        Compression::Stored => large.keys.keys.stream(at).apply(&mut bytes),
        Compression::Deflated => bytes = deflater.deflate(&bytes, place)?,
    }
    Ok(Piece::Chunk { large, place, content_len, bytes })
}

/// The entry of a large file; both sizes of a stream, and any `sealed_size`, are known only at the end.
pub(super) fn large_entry(large: &Large<'_>, size: u64, sealed_size: u64) -> NewEntry {
    let entry = new_entry(large.source, size, sealed_size, zip::Body::Sealed(large.compression));
    match large.input {
        Some(_) => entry,
        None => NewEntry { sizes: Sizes::KnownAtTheEnd, ..entry },
    }
}

fn new_entry(source: &Source, size: u64, sealed_size: u64, body: zip::Body) -> NewEntry {
    let name = source.path.as_str().to_owned();
    let sizes = Sizes::Known;
    NewEntry { name, mode: source.mode, modified: source.modified, size, sealed_size, body, sizes }
}
