//! Packets (RFC 9580 §4): their heads, and their bodies in a file or in a stream.

use std::io::{self, BufRead, Read};

use crate::{
    envelope::{ReadAt, damaged, unsupported},
    error::{Error, Kind, Result},
    progress::{self, Progress},
};

pub(super) const PKESK: u8 = 1;
pub(super) const SIGNATURE: u8 = 2;
pub(super) const SKESK: u8 = 3;
pub(super) const ONE_PASS_SIGNATURE: u8 = 4;
pub(super) const SECRET_KEY: u8 = 5;
pub(super) const PUBLIC_KEY: u8 = 6;
pub(super) const SECRET_SUBKEY: u8 = 7;
pub(super) const COMPRESSED: u8 = 8;
/// Encrypted without any protection from changes.
pub(super) const UNPROTECTED: u8 = 9;
pub(super) const MARKER: u8 = 10;
pub(super) const LITERAL: u8 = 11;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;
pub(super) const USER_ATTRIBUTE: u8 = 17;
/// SEIPD: encrypted, and protected from changes.
pub(super) const PROTECTED: u8 = 18;
/// GnuPG's own, from a draft that never became a standard.
pub(super) const GNUPG_AEAD: u8 = 20;
pub(super) const PADDING: u8 = 21;

/// RFC 9580 §4.3: whoever does not know such packets steps over them.
const NOT_CRITICAL: std::ops::RangeInclusive<u8> = 40..=63;

/// The shortest first part of a body in parts (RFC 9580 §4.2.1.4).
const MIN_FIRST_PART: u64 = 512;

/// How long a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// So many bytes; the body ends there.
    Last(u64),
    /// So many bytes; then comes another length.
    Part(u64),
    /// As long as what it stands in.
    ToTheEnd,
}

/// The head of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) tag: u8,
    pub(super) length: Length,
}

impl Head {
    /// The longest, in bytes.
    pub(super) const MAX_LEN: usize = 1 + MAX_LENGTH_LEN;

    /// Reads a head where `bytes` begins, and tells how long it is.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is none, or cut off.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let (first, rest) = bytes.split_first().ok_or_else(cut_off)?;
        let (tag, (length, used)) = match first {
            // The old form: type and kind of length in one byte.
            0x80..0xc0 => {
                let length = match first & 3 {
                    3 => (Length::ToTheEnd, 0),
                    kind => {
                        let octets = 1 << kind;
                        (Length::Last(number(rest.get(..octets).ok_or_else(cut_off)?)), octets)
                    }
                };
                ((first >> 2) & 15, length)
            }
            0xc0.. => (first & 63, length(rest)?),
            _ => return Err(damaged("what should be an OpenPGP packet is none")),
        };
        if let Length::Part(len) = length
            && (len < MIN_FIRST_PART
                || !matches!(tag, COMPRESSED | UNPROTECTED | LITERAL | PROTECTED | GNUPG_AEAD))
        {
            return Err(damaged(format!("its packet of type {tag} may not come in parts like that")));
        }
        Ok((Self { tag, length }, 1 + used))
    }

    /// The next packet's head in a stream; `None` at its end.
    pub(super) fn read(stream: &mut dyn BufRead) -> io::Result<Option<Self>> {
        let Some(first) = next_byte(stream)? else { return Ok(None) };
        let wanted = match first {
            0x80..0xc0 if first & 3 == 3 => 0,
            0x80..0xc0 => 1 << (first & 3),
            _ => 1,
        };
        let mut bytes = vec![first];
        take(stream, &mut bytes, wanted)?;
        if first >= 0xc0 {
            let more = length_len(bytes.last().copied().unwrap_or_default()) - 1;
            take(stream, &mut bytes, more)?;
        }
        Self::parse(&bytes).map(|(head, _)| Some(head)).map_err(carry)
    }
}

const MAX_LENGTH_LEN: usize = 5;

/// How many bytes a length of the new form has, the first of which is this.
fn length_len(first: u8) -> usize {
    match first {
        192..224 => 2,
        255 => MAX_LENGTH_LEN,
        _ => 1,
    }
}

/// A length of the new form, and how many bytes that takes.
pub(super) fn length(bytes: &[u8]) -> Result<(Length, usize)> {
    let first = *bytes.first().ok_or_else(cut_off)?;
    let used = length_len(first);
    let more = bytes.get(1..used).ok_or_else(cut_off)?;
    let length = match first {
        0..192 => Length::Last(first.into()),
        192..224 => Length::Last((u64::from(first - 192) << 8) + number(more) + 192),
        224..255 => Length::Part(1 << (first & 31)),
        255 => Length::Last(number(more)),
    };
    Ok((length, used))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn next_byte(stream: &mut dyn BufRead) -> io::Result<Option<u8>> {
    let first = stream.fill_buf()?.first().copied();
    stream.consume(first.iter().count());
    Ok(first)
}

/// Appends so many bytes.
fn take(stream: &mut dyn BufRead, bytes: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
    for _ in 0..wanted {
        bytes.push(next_byte(stream)?.ok_or_else(|| carry(cut_off()))?);
    }
    Ok(())
}

/// What of a packet that is not understood is to be said.
pub(super) fn unexpected(tag: u8) -> Error {
    match tag {
        SECRET_KEY | PUBLIC_KEY | PUBLIC_SUBKEY | 7 => {
            unsupported("there is a key where a message should be")
        }
        _ => unsupported(format!("it has an OpenPGP packet of type {tag} where that is not known")),
    }
}

/// Whether this packet may be stepped over wherever it stands.
pub(super) fn may_be_skipped(tag: u8) -> bool {
    matches!(tag, MARKER | PADDING) || NOT_CRITICAL.contains(&tag)
}

/// The body of a packet in a file.
#[derive(Clone)]
pub(super) struct FileBody<'f> {
    source: &'f dyn ReadAt,
    /// The next byte.
    at: u64,
    /// Bytes until the end of this part.
    left: u64,
    parts: Parts,
    /// Where the file ends.
    end: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    More,
    Last,
}

impl<'f> FileBody<'f> {
    /// The packet that starts here.
    pub(super) fn open(source: &'f dyn ReadAt, at: u64, end: u64) -> Result<(Head, Self)> {
        let start = peek(source, at, end, Head::MAX_LEN)?;
        let (head, used) = Head::parse(&start)?;
        let mut body = Self { source, at: at + used as u64, left: 0, parts: Parts::Last, end };
        body.enter(head.length)?;
        Ok((head, body))
    }

    fn enter(&mut self, length: Length) -> Result<()> {
        (self.left, self.parts) = match length {
            Length::Last(len) => (len, Parts::Last),
            Length::Part(len) => (len, Parts::More),
            Length::ToTheEnd => (self.end - self.at, Parts::Last),
        };
        if self.left > self.end - self.at { Err(cut_off()) } else { Ok(()) }
    }

    /// Goes on to the next part, if this one is used up.
    fn advance(&mut self) -> Result<()> {
        while self.left == 0 && self.parts == Parts::More {
            let (length, used) = length(&peek(self.source, self.at, self.end, MAX_LENGTH_LEN)?)?;
            self.at += used as u64;
            self.enter(length)?;
        }
        Ok(())
    }

    /// Bytes of the body from here on, and where the next packet starts.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it is cut off.
    pub(super) fn measure(mut self, progress: &dyn Progress) -> Result<(u64, u64)> {
        let mut len = 0;
        loop {
            progress::check(progress)?;
            self.advance()?;
            if self.left == 0 {
                return Ok((len, self.at));
            }
            len += self.left;
            self.at += self.left;
            self.left = 0;
        }
    }

    /// All of a body that is not longer than this, and where the next packet starts.
    ///
    /// # Errors
    /// [`Kind::Local`] if it is.
    pub(super) fn small(mut self, most: usize) -> Result<(Vec<u8>, u64)> {
        let mut bytes = Vec::new();
        self.by_ref().take(most as u64 + 1).read_to_end(&mut bytes).map_err(uncarry)?;
        if bytes.len() > most {
            return Err(unsupported(format!("a packet before its content is longer than {most} bytes")));
        }
        Ok((bytes, self.at))
    }
}

impl Read for FileBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance().map_err(carry)?;
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        self.source.fill(self.at, buffer).map_err(carry)?;
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

fn peek(source: &dyn ReadAt, at: u64, end: u64, wanted: usize) -> Result<Vec<u8>> {
    let len = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(wanted);
    crate::envelope::read_at::read(source, at, len)
}

/// The body of a packet in a stream.
pub(super) struct StreamBody<'s> {
    stream: &'s mut dyn BufRead,
    length: Length,
}

impl<'s> StreamBody<'s> {
    /// The body behind a head that was just read.
    pub(super) fn new(stream: &'s mut dyn BufRead, head: Head) -> Self {
        Self { stream, length: head.length }
    }

    /// All of it, which may not be more than this.
    pub(super) fn small(self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(carry(unsupported(format!(
                "it has a packet beside its content of more than {most} bytes"
            ))));
        }
        Ok(bytes)
    }

    /// Steps over what is left, which may not be more than this.
    pub(super) fn skip(self, most: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.take(most + 1), &mut io::sink())?;
        if skipped > most {
            return Err(carry(unsupported(format!(
                "it has a packet beside its content of more than {most} bytes"
            ))));
        }
        Ok(())
    }
}

impl Read for StreamBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let left = match self.length {
                Length::ToTheEnd => return self.stream.read(buffer),
                Length::Last(0) => return Ok(0),
                Length::Part(0) => {
                    let first = next_byte(self.stream)?.ok_or_else(|| carry(cut_off()))?;
                    let mut bytes = vec![first];
                    take(self.stream, &mut bytes, length_len(first) - 1)?;
                    (self.length, _) = length(&bytes).map_err(carry)?;
                    continue;
                }
                Length::Last(left) | Length::Part(left) => left,
            };
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.stream.read(buffer.get_mut(..most).unwrap_or_default())?;
            if read == 0 {
                return Err(carry(cut_off()));
            }
            self.length = match self.length {
                Length::Last(left) => Length::Last(left - read as u64),
                Length::Part(left) => Length::Part(left - read as u64),
                Length::ToTheEnd => Length::ToTheEnd,
            };
            return Ok(read);
        }
    }
}

pub(super) fn cut_off() -> Error {
    damaged("it is cut off")
}

/// Our error, on its way through a reader.
pub(super) fn carry(error: Error) -> io::Error {
    io::Error::other(error)
}

/// What came through a reader: our error, or one of a decompressor.
pub(super) fn uncarry(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => return cut_off(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            return damaged("its compressed content makes no sense");
        }
        _ => {}
    }
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::new(Kind::Local, "cannot read the envelope", other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_of_both_forms_are_read() {
        for (bytes, tag, length, used) in [
            (&[0x84, 5][..], PKESK, Length::Last(5), 2),
            (&[0x85, 1, 0x0c], PKESK, Length::Last(268), 3),
            (&[0x86, 0, 0, 1, 0], PKESK, Length::Last(256), 5),
            (&[0xa3, 1], COMPRESSED, Length::ToTheEnd, 1),
            (&[0xd2, 0xc5, 0xfb], PROTECTED, Length::Last(1723), 3),
            (&[0xd2, 0xed], PROTECTED, Length::Part(8192), 2),
            (&[0xcb, 0xff, 1, 0, 0, 0], LITERAL, Length::Last(1 << 24), 6),
        ] {
            assert_eq!(Head::parse(bytes).expect("a head"), (Head { tag, length }, used));
            let mut stream = bytes;
            assert_eq!(Head::read(&mut stream).expect("a head"), Some(Head { tag, length }));
            assert_eq!(stream.len(), bytes.len() - used);
            for cut in 1..used {
                assert!(Head::parse(&bytes[..cut]).is_err() && Head::read(&mut &bytes[..cut]).is_err());
            }
        }
        for bad in [&[0x30, 1][..], &[0], &[0xd2, 0xe8], &[0xc1, 0xed]] {
            assert!(Head::parse(bad).is_err(), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn a_body_in_parts_is_the_same_in_a_file_and_in_a_stream(
            parts in prop::collection::vec(9u8..12, 0..4),
            last in 0usize..10_000,
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut packet = vec![0xc0 | LITERAL];
            let mut content = Vec::new();
            for part in parts {
                packet.push(224 + part);
                let bytes = vec![part; 1 << part];
                packet.extend(&bytes);
                content.extend(bytes);
            }
            packet.extend(custodian_proto::openpgp::length(last));
            packet.extend(vec![7; last]);
            content.extend(vec![7; last]);
            let len = packet.len() as u64;
            packet.extend(&behind);

            let source = packet.as_slice();
            let (head, body) = FileBody::open(&source, 0, packet.len() as u64).expect("a packet");
            prop_assert_eq!(head.tag, LITERAL);
            prop_assert_eq!(body.clone().measure(&progress::Silent).expect("measured"), (content.len() as u64, len));
            let (read, at) = body.small(20_000).expect("read");
            prop_assert_eq!((&read, at), (&content, len));

            let mut stream = packet.as_slice();
            let head = Head::read(&mut stream).expect("a head").expect("a packet");
            let mut read = Vec::new();
            StreamBody::new(&mut stream, head).read_to_end(&mut read).expect("read");
            prop_assert_eq!((&read, stream), (&content, &behind[..]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let source = bytes.as_slice();
            if let Ok((_, body)) = FileBody::open(&source, 0, bytes.len() as u64) {
                body.clone().measure(&progress::Silent).map(drop).ok();
                body.small(1000).map(drop).ok();
            }
            let mut stream = source;
            while let Ok(Some(head)) = Head::read(&mut stream) {
                if StreamBody::new(&mut stream, head).skip(1000).is_err() {
                    break;
                }
            }
        }
    }
}
