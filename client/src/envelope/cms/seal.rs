//! Seal: one file in, an AuthEnvelopedData with AES-256-GCM out, in one pass and in constant memory. (`legacy.rs` writes
//! what is for programs that cannot read that.)
//!
//! If the length of the content is known, the message is DER. If not, it has indefinite lengths, and the content comes in
//! pieces.

use std::{io::Write, path::Path};

use aws_lc_rs::rand;
use custodian_proto::{key::FileKey, limits::FILE_KEY_LEN};
use der::{
    Encode,
    asn1::{ObjectIdentifier, SetOfVec},
};
use zeroize::Zeroizing;

use super::{
    algorithm::Algorithm,
    ber::{self, INTEGER, OCTET_STRING, SEQUENCE, context, context_constructed},
    gcm::{Gcm, MAX_LEN, NONCE_LEN, PIECE, Share, TAG_LEN},
    header::{ID_AUTH_ENVELOPED_DATA, ID_DATA},
    legacy, recipients,
};
use crate::{
    envelope::{Body, Input, Recipient, SenderMark, Source, Written},
    error::{Error, Kind, Result},
    output,
    progress::{self, Progress},
    stdin::Stdin,
    workers,
};

/// How a message protects its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// AES-256-GCM: whoever changes it on the way is found out.
    Authenticated,
    /// AES-256-CBC, for programs that know nothing else: it keeps secrets, but can be changed on the way unnoticed.
    Legacy,
}

/// Writes an envelope that holds this one source, which must be a file.
///
/// # Errors
/// [`Kind::Usage`] for anything but one file; [`Kind::Local`] if it cannot be read, changed meanwhile, or is longer than one
/// message can be, or if the output cannot be written; [`Kind::Interrupted`].
pub fn seal(
    sources: &[Source],
    recipients: &[Recipient],
    protection: Protection,
    sender: Option<SenderMark>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Written> {
    let source = the_one_file(sources)?;
    let mut key = Zeroizing::new([0; FILE_KEY_LEN]);
    random(key.as_mut_slice())?;
    let file_key = FileKey::new(*key);
    let wrapped = recipients.iter().map(|recipient| recipient.wrap(&file_key)).collect::<Result<Vec<_>>>()?;
    let recipients = recipients::write(&wrapped).map_err(cannot_seal)?;
    let out = Out { out, written: 0 };
    if protection == Protection::Legacy {
        // Without authentication there is no place for the sender's mark: the signature alone must do.
        return legacy::seal(source, &recipients, &file_key, out, progress);
    }

    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    let parts = Parts::authenticated(&recipients, &nonce, sender).map_err(cannot_seal)?;
    let gcm = Gcm::new(&file_key, nonce);
    match &source.body {
        Body::File(path, size) => seal_file(path, *size, &parts, &gcm, out, progress),
        Body::Stdin => seal_stdin(&parts, &gcm, out, progress),
        Body::Folder | Body::Link(_) => Err(not_one_file()),
    }
}

/// Fills it with random numbers.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes).map_err(|_| cannot_seal("the system gives no random numbers"))
}

fn the_one_file(sources: &[Source]) -> Result<&Source> {
    match sources {
        [source] if matches!(source.body, Body::File(..) | Body::Stdin) => Ok(source),
        _ => Err(not_one_file()),
    }
}

fn seal_file(
    path: &Path,
    size: u64,
    parts: &Parts,
    gcm: &Gcm,
    mut out: Out<'_>,
    progress: &dyn Progress,
) -> Result<Written> {
    check_len(size)?;
    let input = Input::open(path, size)?;
    let frame = parts.frame(Some(size));
    let mut tag = gcm.tag(&parts.additional);
    out.write(&frame.head)?;
    workers::in_order(
        workers::count(),
        (0..size.div_ceil(PIECE)).map(Ok),
        |index, (): &mut ()| {
            let position = index * PIECE;
            let len = usize::try_from(PIECE.min(size - position)).unwrap_or_default();
            let mut bytes = vec![0; len];
            input.read_at(position, &mut bytes)?;
            let share = gcm.encrypt(position, &mut bytes);
            Ok((bytes, share))
        },
        |(bytes, share)| {
            progress::check(progress)?;
            out.write(&bytes)?;
            tag.add(&share);
            progress.advance(bytes.len() as u64);
            Ok(())
        },
    )?;
    input.check_unchanged()?;
    out.finish(&frame, &tag.finish(), size)
}

fn seal_stdin(parts: &Parts, gcm: &Gcm, mut out: Out<'_>, progress: &dyn Progress) -> Result<Written> {
    let frame = parts.frame(None);
    let mut tag = gcm.tag(&parts.additional);
    let mut stdin = Stdin::new(progress);
    let mut position = 0;
    let pieces = std::iter::from_fn(|| {
        let piece = stdin.read_chunk(PIECE).and_then(|bytes| {
            let at = position;
            position += bytes.len() as u64;
            check_len(position).map(|()| (at, bytes))
        });
        match piece {
            Ok((_, bytes)) if bytes.is_empty() => None,
            piece => Some(piece),
        }
    });
    let encrypt = |(at, mut bytes): (u64, Vec<u8>), (): &mut ()| {
        let share = gcm.encrypt(at, &mut bytes);
        Ok((bytes, share))
    };
    out.write(&frame.head)?;
    let mut len = 0;
    workers::in_order(workers::count(), pieces, encrypt, |(bytes, share): (Vec<u8>, Share)| {
        let mut head = Vec::new();
        ber::write_head(&mut head, OCTET_STRING, bytes.len() as u64);
        out.write(&head)?;
        out.write(&bytes)?;
        tag.add(&share);
        len += bytes.len() as u64;
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    out.finish(&frame, &tag.finish(), len)
}

/// What is the same in both forms, in DER.
pub(super) struct Parts {
    /// Version and recipients.
    whom: Vec<u8>,
    /// Type and algorithm of the content.
    how: Vec<u8>,
    /// The type of the message.
    what: Vec<u8>,
    /// Bytes of the tag behind the content, if there is one.
    tag_len: Option<u64>,
    /// The authenticated attributes as they are authenticated: a `SET OF` in DER, or nothing.
    additional: Vec<u8>,
}

/// What stands around the encrypted content.
pub(super) struct Frame {
    pub(super) head: Vec<u8>,
    before_tag: Vec<u8>,
    after_tag: Vec<u8>,
}

/// An element of indefinite length: its second byte, and its end.
const INDEFINITE: u8 = 0x80;
const END: [u8; 2] = [0, 0];

impl Parts {
    fn authenticated(
        recipients: &[u8],
        nonce: &[u8; NONCE_LEN],
        sender: Option<SenderMark>,
    ) -> der::Result<Self> {
        // RFC 5083 §2.1: the version is always 0.
        let what = (ID_AUTH_ENVELOPED_DATA, 0);
        let parts = Self::new(what, recipients, &Algorithm::gcm(nonce)?, Some(TAG_LEN as u64))?;
        let Some(sender) = sender else { return Ok(parts) };
        let attributes = SetOfVec::try_from(vec![sender.attribute()?])?;
        Ok(Self { additional: attributes.to_der()?, ..parts })
    }

    /// What stands between the content and the tag's bytes.
    fn before_tag(&self) -> Vec<u8> {
        // RFC 5083 §2.1: in the message the attributes have the tag [1] in place of that of a SET.
        let attributes = match self.additional.split_first() {
            Some((_, rest)) => [&[context_constructed(1)], rest].concat(),
            None => Vec::new(),
        };
        let tag = self.tag_len.map(|len| head(OCTET_STRING, len)).unwrap_or_default();
        [attributes, tag].concat()
    }

    /// A message of this type and version.
    pub(super) fn new(
        (what, version): (ObjectIdentifier, u8),
        recipients: &[u8],
        algorithm: &[u8],
        tag_len: Option<u64>,
    ) -> der::Result<Self> {
        let whom = [ber::element(INTEGER, &[version]), recipients.to_vec()].concat();
        let how = [&ID_DATA.to_der()?, algorithm].concat();
        Ok(Self { whom, how, what: what.to_der()?, tag_len, additional: Vec::new() })
    }

    /// `len` is how long the encrypted content is, if that is known.
    pub(super) fn frame(&self, len: Option<u64>) -> Frame {
        let Self { whom, how, what, tag_len, .. } = self;
        let explicit = context_constructed(0);
        let tag = self.before_tag();
        match len {
            Some(len) => {
                // From the inside out, because each head tells the length of what it stands before.
                let content = head(context(0), len);
                let content_info_len = (how.len() + content.len()) as u64 + len;
                let content_info = head(SEQUENCE, content_info_len);
                let message_len = (whom.len() + content_info.len() + tag.len()) as u64
                    + tag_len.unwrap_or_default()
                    + content_info_len;
                let message = head(SEQUENCE, message_len);
                let wrapper_len = message.len() as u64 + message_len;
                let wrapper = head(explicit, wrapper_len);
                let whole = head(SEQUENCE, (what.len() + wrapper.len()) as u64 + wrapper_len);
                let head =
                    [&whole, what, &wrapper, &message, whom, &content_info, how, &content].map(Vec::as_slice);
                Frame { head: head.concat(), before_tag: tag, after_tag: Vec::new() }
            }
            None => {
                let [sequence, constructed] = [[SEQUENCE, INDEFINITE], [explicit, INDEFINITE]];
                let head: [&[u8]; 8] =
                    [&sequence, what, &constructed, &sequence, whom, &sequence, how, &constructed];
                let before_tag = [&END[..], &END, &tag].concat();
                Frame { head: head.concat(), before_tag, after_tag: END.repeat(3) }
            }
        }
    }
}

fn head(tag: u8, len: u64) -> Vec<u8> {
    let mut head = Vec::new();
    ber::write_head(&mut head, tag, len);
    head
}

/// Where a message goes.
pub(super) struct Out<'o> {
    out: &'o mut dyn Write,
    written: u64,
}

impl Out<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|why| output::failed("cannot write the envelope", &why))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes what stands behind the content; `tag` is empty where there is none.
    pub(super) fn finish(mut self, frame: &Frame, tag: &[u8], content_bytes: u64) -> Result<Written> {
        [&frame.before_tag, tag, &frame.after_tag].into_iter().try_for_each(|bytes| self.write(bytes))?;
        self.out.flush().map_err(|why| output::failed("cannot write the envelope", &why))?;
        Ok(Written { content_bytes, envelope_bytes: self.written })
    }
}

fn check_len(len: u64) -> Result<()> {
    if len <= MAX_LEN {
        return Ok(());
    }
    Err(cannot_seal("the content is larger than one CMS message with AES-256-GCM can be: 64 GiB")
        .hint("seal it with --format mtd, or in parts"))
}

pub(super) fn not_one_file() -> Error {
    Error::new(Kind::Usage, "cannot seal as CMS", "a CMS envelope holds exactly one file")
        .hint("seal folders and several files with --format mtd")
}

pub(super) fn cannot_seal(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot seal", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_invocation_of_gcm_is_refused_with_the_cure() {
        assert!(check_len(MAX_LEN).is_ok());
        let error = check_len(MAX_LEN + 1).expect_err("refused");
        assert!(error.hint.contains("--format mtd"));
    }

    #[test]
    fn lengths_beyond_four_gigabytes_are_der() {
        let parts = Parts::authenticated(&[0x31, 0], &[0; NONCE_LEN], None).expect("encodes");
        for len in [0, 127, 128, 65_535, 65_536, 1 << 32, MAX_LEN] {
            let frame = parts.frame(Some(len));
            let total = frame.head.len() as u64 + len + frame.before_tag.len() as u64 + TAG_LEN as u64;
            let [_, first, more @ ..] = frame.head.as_slice() else { panic!("too short") };
            let (told, used) = match first {
                ..0x80 => (u64::from(*first), 0),
                _ => {
                    let used = usize::from(first & 0x7f);
                    (more[..used].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)), used)
                }
            };
            assert_eq!(told + 2 + used as u64, total, "{len}");
        }
    }
}
