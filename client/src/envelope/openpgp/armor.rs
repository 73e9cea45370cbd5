//! ASCII armour (RFC 9580 §6). Its checksum is not looked at: RFC 9580 §6.1 forbids to, and it protects from nobody.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::packet::{carry, cut_off, uncarry};
use crate::{
    envelope::{ReadAt, damaged},
    error::Result,
    output,
};

/// Longest line, in bytes. The standard says 76 characters; some write all in one.
const MAX_LINE: u64 = 1024 * 1024;
/// Most lines before the content: `Version: …`.
const MAX_HEADERS: usize = 100;
/// Bytes of text that are read at once.
const BUFFER: usize = 256 * 1024;
/// Characters of a line that we write.
const WIDTH: usize = 64;

pub(super) const MESSAGE: &str = "MESSAGE";
pub(super) const CERTIFICATE: &str = "PUBLIC KEY BLOCK";
pub(super) const SECRET_KEY: &str = "PRIVATE KEY BLOCK";
pub(super) const SIGNATURE: &str = "SIGNATURE";

/// Whether a file that starts like this is an armoured message.
pub(super) fn is_message(start: &[u8]) -> bool {
    start.starts_with(begin(MESSAGE).as_bytes())
}

fn begin(label: &str) -> String {
    format!("-----BEGIN PGP {label}-----")
}

/// Decodes a message of `len` bytes into a temporary file.
///
/// # Errors
/// [`crate::Kind::Integrity`] if it is damaged; [`crate::Kind::Local`] if there is no room for the file.
pub(super) fn decode_message(source: &dyn ReadAt, len: u64) -> Result<File> {
    let mut file = output::spool()?;
    let text = BufReader::with_capacity(BUFFER, Text { source, at: 0, len });
    decode(text, MESSAGE, &mut file).map_err(uncarry)?;
    Ok(file)
}

/// Decodes a certificate, if it is one in armour; what is binary stays as it is.
///
/// # Errors
/// [`crate::Kind::Integrity`] if it is damaged.
pub(super) fn decode_certificate(bytes: &[u8]) -> Result<Vec<u8>> {
    decode_block(bytes, CERTIFICATE).map(|decoded| decoded.to_vec())
}

/// Decodes a block with this label, if there is armour; what is binary stays as it is.
///
/// # Errors
/// [`crate::Kind::Integrity`] if it is damaged.
pub(super) fn decode_block(bytes: &[u8], label: &str) -> Result<Zeroizing<Vec<u8>>> {
    let text = bytes.trim_ascii_start();
    if !text.starts_with(b"-----BEGIN PGP ") {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    // It gets no longer: no copy of a key stays behind in a buffer that was too small.
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    decode(text, label, &mut *decoded).map_err(uncarry)?;
    Ok(decoded)
}

/// Whether a file that starts like this is a block with this label.
pub(super) fn is_block(start: &[u8], label: &str) -> bool {
    start.trim_ascii_start().starts_with(begin(label).as_bytes())
}

/// A certificate in armour.
pub fn certificate(binary: &[u8]) -> String {
    let encoded = STANDARD.encode(binary);
    let lines: Vec<_> =
        encoded.as_bytes().chunks(WIDTH).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let check = STANDARD.encode(&crc24(binary).to_be_bytes()[1..]);
    format!("{}\n\n{}\n={check}\n-----END PGP {CERTIFICATE}-----\n", begin(CERTIFICATE), lines.join("\n"))
}

/// RFC 9580 §6.1.1: GnuPG 2.2 misses it.
fn crc24(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x00b7_04ce, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 16, |crc, _| {
            let shifted = crc << 1;
            (if shifted & 0x0100_0000 == 0 { shifted } else { shifted ^ 0x0186_4cfb }) & 0x00ff_ffff
        })
    })
}

/// The bytes of a source, one after the other.
struct Text<'s> {
    source: &'s dyn ReadAt,
    at: u64,
    len: u64,
}

impl Read for Text<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.len - self.at).unwrap_or(usize::MAX).min(buffer.len());
        self.source.fill(self.at, &mut buffer[..len]).map_err(carry)?;
        self.at += len as u64;
        Ok(len)
    }
}

fn decode(mut text: impl BufRead, label: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut line = Vec::new();
    next_line(&mut text, &mut line)?;
    if line != begin(label).as_bytes() {
        return Err(carry(damaged(format!("it is not PGP {}", label.to_ascii_lowercase()))));
    }
    for headers in 0.. {
        next_line(&mut text, &mut line)?;
        if line.is_empty() {
            break;
        }
        if headers == MAX_HEADERS || !line.contains(&b':') {
            return Err(carry(damaged("its armour has no empty line before the content")));
        }
    }
    let end = format!("-----END PGP {label}-----");
    let mut pending = Vec::new();
    let mut rest = Rest::Content;
    loop {
        next_line(&mut text, &mut line)?;
        match line.as_slice() {
            ended if ended == end.as_bytes() => break,
            [b'=', check @ ..] if check.len() == 4 && rest != Rest::Nothing => rest = Rest::Nothing,
            _ if rest == Rest::Nothing => return Err(carry(no_base64())),
            content => {
                pending.extend_from_slice(content);
                let whole = pending.len() / 4 * 4;
                if rest == Rest::CheckOrEnd && whole > 0 {
                    return Err(carry(no_base64()));
                }
                let decoded = STANDARD.decode(&pending[..whole]).map_err(|_| carry(no_base64()))?;
                if pending[..whole].ends_with(b"=") {
                    rest = Rest::CheckOrEnd;
                }
                out.write_all(&decoded)?;
                pending.drain(..whole);
            }
        }
    }
    if !pending.is_empty() {
        return Err(carry(cut_off()));
    }
    let mut behind = Vec::new();
    text.take(MAX_LINE).read_to_end(&mut behind)?;
    if behind.len() as u64 == MAX_LINE || !behind.iter().all(u8::is_ascii_whitespace) {
        return Err(carry(damaged("something stands behind its end")));
    }
    Ok(())
}

/// What may still come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Content,
    CheckOrEnd,
    Nothing,
}

/// The next line, without its end.
fn next_line(text: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    line.clear();
    let read = text.take(MAX_LINE).read_until(b'\n', line)?;
    if line.last() != Some(&b'\n') && read as u64 == MAX_LINE {
        return Err(carry(damaged("its armour has a line of more than 1 MiB")));
    }
    if read == 0 {
        return Err(carry(cut_off()));
    }
    line.truncate(line.trim_ascii_end().len());
    Ok(())
}

fn no_base64() -> crate::error::Error {
    damaged("its armour is not base64")
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Result<Vec<u8>> {
        let bytes = text.as_bytes();
        let mut file = decode_message(&bytes, bytes.len() as u64)?;
        let mut decoded = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut decoded)).expect("read");
        Ok(decoded)
    }

    const BEGIN: &str = "-----BEGIN PGP MESSAGE-----\n";
    const END: &str = "-----END PGP MESSAGE-----\n";

    #[test]
    fn the_usual_forms_are_read() {
        for text in [
            format!("{BEGIN}\nAQID\n=abcd\n{END}"),
            format!("{BEGIN}Version: GnuPG v2\nComment: a\n\nAQ\nID\n{END}"),
            format!("{BEGIN}  \nAQID\n{END}\n  \n").replace('\n', "\r\n"),
            format!("{BEGIN}\nAQID\n{END}").trim_end().to_owned(),
        ] {
            assert_eq!(message(&text).expect("read"), [1, 2, 3], "{text}");
        }
        assert_eq!(message(&format!("{BEGIN}\nAQI=\n=abcd\n{END}")).expect("read"), [1, 2]);
    }

    #[test]
    fn armour_that_is_damaged_is_refused() {
        for text in [
            BEGIN.to_owned(),
            format!("{BEGIN}\nAQID\n"),
            format!("{BEGIN}AQID\n{END}"),
            format!("{BEGIN}\nAQI\n{END}"),
            format!("{BEGIN}\nAQ?D\n{END}"),
            format!("{BEGIN}\nAQI=\nAQID\n{END}"),
            format!("{BEGIN}\nAQID\n=abcd\nAQID\n{END}"),
            format!("{BEGIN}\nAQID\n=abcd\n=abcd\n{END}"),
            format!("{BEGIN}\nAQID\n{END}more"),
            format!("{BEGIN}\nAQID\n-----END PGP SIGNATURE-----\n"),
        ] {
            assert!(message(&text).is_err(), "{text}");
        }
        assert!(decode_certificate(format!("{BEGIN}\nAQID\n{END}").as_bytes()).is_err());
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc24(b""), 0x00b7_04ce);
        assert_eq!(crc24(b"123456789"), 0x0021_cf02);
    }

    proptest! {
        #[test]
        fn any_certificate_survives_armour(bytes in prop::collection::vec(any::<u8>(), 1..2_000)) {
            prop_assert_eq!(&decode_certificate(certificate(&bytes).as_bytes()).expect("read"), &bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[a-zA-Z0-9+/=\r\n :;-]{0,200}") {
            message(&format!("{BEGIN}{text}")).map(drop).ok();
        }
    }
}
