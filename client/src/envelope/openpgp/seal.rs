//! Seal: one file in, an OpenPGP message out, in one pass and in constant memory.

use std::{
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use aws_lc_rs::rand;
use custodian_proto::{key::FileKey, limits::FILE_KEY_LEN};
use zeroize::Zeroizing;

use super::{
    aead::{self, Parameters},
    certificate::Recipient,
    mdc,
    packet::{LITERAL, PROTECTED},
    parts::Parts,
    recipients::{self, Version},
    secret_key::SigningKey,
    sign::{Signed, Signing},
};
use crate::{
    envelope::{Body, Input, Source, Written},
    error::{Error, Kind, Result},
    output,
    progress::{self, Progress},
    stdin::Stdin,
};

/// Bytes that are read at once.
const CHUNK: u64 = 1024 * 1024;

/// Binary, without a name, without a time (RFC 9580 §5.9).
const LITERAL_HEAD: [u8; 6] = [b'b', 0, 0, 0, 0, 0];

/// Writes an envelope that holds this one source, which must be a file; inside the encryption it is signed, if somebody signs.
/// It is protected as in RFC 9580 if all recipients say that they read that, else as everybody does.
///
/// # Errors
/// [`Kind::Usage`] for anything but one file; [`Kind::Local`] if it cannot be read, changed meanwhile, or if the output
/// cannot be written; [`Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    signer: Option<&SigningKey>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Written> {
    let source = the_one_file(sources)?;
    let mut key = Zeroizing::new([0; FILE_KEY_LEN]);
    rand::fill(key.as_mut_slice()).map_err(|_| cannot_seal("the system gives no random numbers"))?;
    let file_key = FileKey::new(*key);
    let signing = signer.map(|key| Signing::begin(key, recipients)).transpose()?;
    let version = if recipients.iter().all(Recipient::reads_v2) { Version::V2 } else { Version::V1 };

    let mut out = Out { out, written: 0 };
    for recipient in recipients {
        let packet = recipients::write(recipient, version, &file_key)?;
        out.write_all(&packet).map_err(failed)?;
    }
    let mut body = Parts::new(&mut out, PROTECTED);
    let content_bytes = match version {
        Version::V1 => {
            body.write_all(&[1]).map_err(failed)?;
            let writing = mdc::Writing::new(body, &file_key).map_err(failed)?;
            let (writing, content_bytes) = write_content(writing, source, signing, progress)?;
            body = writing.finish().map_err(failed)?;
            content_bytes
        }
        Version::V2 => {
            let parameters =
                Parameters::random().ok_or_else(|| cannot_seal("the system gives no random numbers"))?;
            body.write_all(&[2]).and_then(|()| body.write_all(&parameters.to_bytes())).map_err(failed)?;
            let writing = aead::Writing::new(body, &file_key, parameters)?;
            let (writing, content_bytes) = write_content(writing, source, signing, progress)?;
            body = writing.finish().map_err(failed)?;
            content_bytes
        }
    };
    body.finish().and_then(Write::flush).map_err(failed)?;
    Ok(Written { content_bytes, envelope_bytes: out.written })
}

fn the_one_file(sources: &[Source]) -> Result<&Source> {
    match sources {
        [source] if matches!(source.body, Body::File(..) | Body::Stdin) => Ok(source),
        _ => Err(Error::new(
            Kind::Usage,
            "cannot seal as OpenPGP",
            "an OpenPGP envelope holds exactly one file",
        )
        .hint("seal folders and several files with --format mtd")),
    }
}

/// Writes what is encrypted, and tells how long the file is.
fn write_content<W: Write>(
    mut out: W,
    source: &Source,
    mut signing: Option<Signing<'_>>,
    progress: &dyn Progress,
) -> Result<(W, u64)> {
    if let Some(signing) = &signing {
        out.write_all(&signing.announcement()).map_err(failed)?;
    }
    let (mut out, len) = write_literal(out, source, signing.as_mut(), progress)?;
    if let Some(signing) = signing {
        out.write_all(&signing.finish(SystemTime::now())?).map_err(failed)?;
    }
    Ok((out, len))
}

/// Writes the file as a packet. What is signed of it is the content (RFC 9580 §5.2.4).
fn write_literal<W: Write>(
    out: W,
    source: &Source,
    signing: Option<&mut Signing<'_>>,
    progress: &dyn Progress,
) -> Result<(W, u64)> {
    let mut literal = Parts::new(out, LITERAL);
    literal.write_all(&LITERAL_HEAD).map_err(failed)?;
    let mut content = Signed { out: literal, signing };
    let len = match &source.body {
        Body::File(path, size) => write_file(path, *size, &mut content, progress)?,
        Body::Stdin => write_stdin(&mut content, progress)?,
        Body::Folder | Body::Link(_) => 0,
    };
    Ok((content.out.finish().map_err(failed)?, len))
}

fn write_file(path: &Path, size: u64, out: &mut impl Write, progress: &dyn Progress) -> Result<u64> {
    let input = Input::open(path, size)?;
    let mut buffer = Zeroizing::new(Vec::new());
    let mut at = 0;
    while at < size {
        progress::check(progress)?;
        buffer.resize(usize::try_from(CHUNK.min(size - at)).unwrap_or_default(), 0);
        input.read_at(at, &mut buffer)?;
        out.write_all(&buffer).map_err(failed)?;
        at += buffer.len() as u64;
        progress.advance(buffer.len() as u64);
    }
    input.check_unchanged().map(|()| size)
}

fn write_stdin(out: &mut impl Write, progress: &dyn Progress) -> Result<u64> {
    let mut stdin = Stdin::new(progress);
    let mut len = 0;
    loop {
        let chunk = Zeroizing::new(stdin.read_chunk(CHUNK)?);
        if chunk.is_empty() {
            return Ok(len);
        }
        out.write_all(&chunk).map_err(failed)?;
        len += chunk.len() as u64;
        progress.advance(chunk.len() as u64);
    }
}

/// Counts what is written.
struct Out<'o> {
    out: &'o mut dyn Write,
    written: u64,
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn failed(why: io::Error) -> Error {
    why.downcast::<Error>().unwrap_or_else(|why| output::failed("cannot write the envelope", &why))
}

fn cannot_seal(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot seal", why)
}
