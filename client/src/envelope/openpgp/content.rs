//! What is inside the encryption (RFC 9580 §10.3): one file, which may be compressed and signed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
};

use flate2::bufread::{DeflateDecoder, ZlibDecoder};

use super::{
    packet::{
        COMPRESSED, Head, LITERAL, ONE_PASS_SIGNATURE, SIGNATURE, StreamBody, carry, may_be_skipped,
        unexpected,
    },
    signatures::{Collector, Signatures},
    signer::Keyring,
};
use crate::{
    envelope::{damaged, unsupported},
    error::{Error, Kind},
    extract::Limits,
    output,
    progress::{self, Progress},
};

/// How deep compression may be in compression. GnuPG does it once.
const MAX_DEPTH: u32 = 3;
/// Packets beside the file: signatures, mostly.
const MAX_OTHERS: u32 = 1_000;
/// Longest of them, in bytes.
const MAX_OTHER_LEN: u64 = 64 * 1024;
/// Bytes that are read or decompressed at once.
const BUFFER: usize = 64 * 1024;

/// Where the file goes.
pub(super) struct Target<'t> {
    out: &'t File,
    written: u64,
    /// Decompressed, and no part of the file.
    skipped: u64,
    most: u64,
    signatures: Collector<'t>,
    progress: &'t dyn Progress,
}

/// What was in a message.
#[derive(Default)]
pub struct Content {
    /// Bytes of the file.
    pub len: u64,
    /// Its signatures. None of them is verified.
    pub signatures: Signatures,
}

impl<'t> Target<'t> {
    /// An empty file, for the content of an envelope of so many bytes, which somebody in the key ring may have signed.
    pub(super) fn new(
        out: &'t File,
        limits: &Limits,
        sealed: u64,
        keyring: Option<&'t Keyring>,
        progress: &'t dyn Progress,
    ) -> Self {
        // A short envelope may well hold a long line of zeros.
        let most = limits.content_bytes.min(limits.ratio.saturating_mul(sealed.max(BUFFER as u64)));
        Self { out, written: 0, skipped: 0, most, signatures: Collector::new(keyring), progress }
    }

    /// Writes the file that is in this message.
    pub(super) fn take(mut self, message: impl Read) -> io::Result<Content> {
        self.message(&mut BufReader::with_capacity(BUFFER, message), MAX_DEPTH)?;
        Ok(Content { len: self.written, signatures: self.signatures.finish() })
    }

    fn message(&mut self, stream: &mut dyn BufRead, depth: u32) -> io::Result<()> {
        let mut place = Place::Ahead;
        for _ in 0..MAX_OTHERS {
            let Some(head) = Head::read(stream)? else {
                return match place {
                    Place::Behind => Ok(()),
                    Place::Ahead => Err(carry(damaged("there is no file in it"))),
                };
            };
            let mut body = StreamBody::new(stream, head);
            match (head.tag, place) {
                (LITERAL, Place::Ahead) => {
                    self.literal(&mut body)?;
                    place = Place::Behind;
                }
                (COMPRESSED, Place::Ahead) => {
                    self.compressed(&mut body, depth)?;
                    place = Place::Behind;
                }
                (LITERAL | COMPRESSED, Place::Behind) => {
                    return Err(carry(unsupported("there is more than one file in it")));
                }
                (ONE_PASS_SIGNATURE, Place::Ahead) => {
                    self.signatures.announce(&body.small(MAX_OTHER_LEN)?)?
                }
                // It is of nothing that follows.
                (ONE_PASS_SIGNATURE, Place::Behind) => body.skip(MAX_OTHER_LEN)?,
                (SIGNATURE, Place::Ahead) => self.signatures.ahead(&body.small(MAX_OTHER_LEN)?)?,
                (SIGNATURE, Place::Behind) => self.signatures.behind(&body.small(MAX_OTHER_LEN)?)?,
                (tag, _) if may_be_skipped(tag) => body.skip(MAX_OTHER_LEN)?,
                (tag, _) => return Err(carry(unexpected(tag))),
            }
        }
        Err(carry(unsupported(format!("it has more than {MAX_OTHERS} packets"))))
    }

    fn compressed(&mut self, body: &mut dyn Read, depth: u32) -> io::Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(carry(unsupported("it is compressed again and again")));
        };
        let mut algorithm = [0];
        body.read_exact(&mut algorithm)?;
        let mut body = BufReader::with_capacity(BUFFER, body);
        // RFC 9580 §9.4.
        match algorithm {
            [0] => self.message(&mut body, depth)?,
            [1] => {
                let mut decoder = DeflateDecoder::new(&mut body);
                self.message(&mut BufReader::with_capacity(BUFFER, &mut decoder), depth)?;
            }
            [2] => {
                let mut decoder = ZlibDecoder::new(&mut body);
                self.message(&mut BufReader::with_capacity(BUFFER, &mut decoder), depth)?;
            }
            [3] => {
                return Err(carry(
                    unsupported("its content is compressed with bzip2, which is not known here")
                        .hint("have it encrypted with --compress-algo zlib"),
                ));
            }
            [other] => {
                return Err(carry(unsupported(format!(
                    "its content is compressed in a way that is not known here ({other})"
                ))));
            }
        }
        // Sequoia pads compressed content, so that its length tells less.
        self.skip(&mut body)
    }

    /// Reads on to the end. What stands there may be compressed once more around this: it counts as content does.
    fn skip(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            progress::check(self.progress).map_err(carry)?;
            let read = body.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.skipped += read as u64;
            if self.skipped > self.most {
                return Err(carry(too_large(self.most)));
            }
        }
    }

    /// RFC 9580 §5.9. The name and the time in it are not used: nothing signs them.
    fn literal(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let mut start = [0; 2];
        body.read_exact(&mut start)?;
        let [_, name_len] = start;
        let mut name_and_time = [0; 255 + 4];
        let (name_and_time, _) = name_and_time.split_at_mut(usize::from(name_len) + 4);
        body.read_exact(name_and_time)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            progress::check(self.progress).map_err(carry)?;
            let read = body.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            self.written += read as u64;
            if self.written > self.most {
                return Err(carry(too_large(self.most)));
            }
            self.signatures.update(bytes);
            self.out
                .write_all(bytes)
                .map_err(|why| carry(output::failed("cannot write the content", &why)))?;
        }
    }
}

/// Whether the file was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Ahead,
    Behind,
}

fn too_large(most: u64) -> Error {
    Error::new(Kind::Local, "the envelope is too large", format!("it has more than {most} bytes of content"))
        .hint("if that is right, allow more: --max-bytes")
}

#[cfg(test)]
mod tests {
    use custodian_proto::openpgp::packet;
    use flate2::{Compression, write::ZlibEncoder};
    use proptest::prelude::*;

    use super::*;
    use crate::{envelope::openpgp::packet::uncarry, error::Result, progress::Silent};

    fn literal(content: &[u8]) -> Vec<u8> {
        packet(LITERAL, &[b"b\x03abc\0\0\0\0", content].concat())
    }

    fn zlib(message: &[u8]) -> Vec<u8> {
        padded_zlib(message, 0)
    }

    /// With so many bytes behind the compressed content.
    fn padded_zlib(message: &[u8], padding: usize) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(vec![2], Compression::fast());
        encoder.write_all(message).expect("written");
        packet(COMPRESSED, &[encoder.finish().expect("finished"), vec![0; padding]].concat())
    }

    fn take_from(message: &[u8], limits: &Limits) -> Result<u64> {
        let out = tempfile::tempfile().expect("temporary file");
        let target = Target::new(&out, limits, message.len() as u64, None, &Silent);
        target.take(message).map(|content| content.len).map_err(uncarry)
    }

    fn take(message: &[u8]) -> Result<u64> {
        take_from(message, &Limits::default())
    }

    #[test]
    fn one_file_is_found_whatever_stands_around_it() {
        let file = literal(b"12345");
        assert_eq!(take(&file), Ok(5));
        assert_eq!(take(&zlib(&file)), Ok(5));
        assert_eq!(take(&zlib(&zlib(&file))), Ok(5));
        assert_eq!(take(&packet(COMPRESSED, &[&[0], &file[..]].concat())), Ok(5));
        let (signed, signature) = (packet(ONE_PASS_SIGNATURE, &[3; 13]), packet(SIGNATURE, &[4; 100]));
        assert_eq!(take(&[signed.clone(), file.clone(), signature.clone()].concat()), Ok(5));
        assert_eq!(
            take(&[packet(10, b"PGP"), packet(60, b"?"), zlib(&[signed, file, signature].concat())].concat()),
            Ok(5)
        );
    }

    #[test]
    fn what_is_no_message_with_one_file_is_refused_by_name() {
        let file = literal(b"12345");
        for (message, why) in [
            (Vec::new(), "no file"),
            (packet(SIGNATURE, &[4; 100]), "no file"),
            (file.repeat(2), "more than one file"),
            ([zlib(&file), file.clone()].concat(), "more than one file"),
            (packet(30, b"?"), "type 30"),
            (packet(6, b"key"), "a key"),
            (file[..file.len() - 1].to_vec(), "cut off"),
            (packet(COMPRESSED, &[3, 1]), "bzip2"),
            (packet(COMPRESSED, &[9, 1]), "not known"),
            (packet(COMPRESSED, &[2, 0xff, 0xff, 0xff]), "compressed content"),
            (packet(COMPRESSED, &[2, 1]), "cut off"),
            (packet(COMPRESSED, &[]), "cut off"),
            (zlib(&zlib(&zlib(&zlib(&file)))), "again and again"),
            (packet(10, b"PGP").repeat(1_001), "packets"),
            (packet(10, &vec![0; 70_000]), "packet beside"),
        ] {
            let error = take(&message).expect_err(why);
            assert!(error.why.contains(why), "{why}: {error}");
        }
        let compressed = zlib(&file);
        assert_eq!(take(&packet(COMPRESSED, &[&compressed[2..], &[0; 5_000]].concat())), Ok(5), "padding");
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = zlib(&literal(&vec![0; 80_000_000]));
        let limits = Limits { ratio: 100, ..Limits::default() };
        assert_eq!(take_from(&bomb, &limits).expect_err("too large").what, "the envelope is too large");
        let limits = Limits { content_bytes: 4, ..Limits::default() };
        assert_eq!(take_from(&literal(b"12345"), &limits).expect_err("too large").kind, Kind::Local);
        assert_eq!(take_from(&literal(b"1234"), &limits), Ok(4));
    }

    #[test]
    fn a_bomb_behind_the_file_is_stopped_in_every_layer() {
        let limits = Limits { ratio: 20, ..Limits::default() };
        // Padding compresses well in the layers around it.
        let padded = padded_zlib(&literal(b"12345"), 30_000_000);
        for bomb in [zlib(&padded), zlib(&zlib(&padded))] {
            assert!(bomb.len() * 20 < 30_000_000, "{}", bomb.len());
            assert_eq!(take_from(&bomb, &limits).expect_err("too large").what, "the envelope is too large");
        }
        assert_eq!(take(&zlib(&padded_zlib(&literal(b"12345"), 5_000))), Ok(5), "padding");
    }

    #[test]
    fn whoever_presses_ctrl_c_does_not_wait_for_padding() {
        struct Stopped;
        impl Progress for Stopped {
            fn total(&self, _: u64) {}
            fn advance(&self, _: u64) {}
            fn interrupted(&self) -> bool {
                true
            }
        }
        let out = tempfile::tempfile().expect("temporary file");
        let mut target = Target::new(&out, &Limits::default(), 1_000, None, &Stopped);
        let error = target.skip(&mut io::repeat(0)).map_err(uncarry).expect_err("stopped");
        assert_eq!(error.kind, Kind::Interrupted);
    }

    proptest! {
        #[test]
        fn arbitrary_content_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            tag in prop::sample::select(vec![COMPRESSED, LITERAL, SIGNATURE, 60]),
        ) {
            take(&bytes).map(drop).ok();
            take(&packet(tag, &bytes)).map(drop).ok();
            take(&packet(COMPRESSED, &[&[1], &bytes[..]].concat())).map(drop).ok();
        }
    }
}
