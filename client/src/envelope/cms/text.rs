//! Messages as text: PEM (RFC 7468), and S/MIME (RFC 8551) as mail programs save it. The text is decoded into a temporary
//! file without a name; what is in it is as encrypted as the text was.

use std::{fs::File, io::Write};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    envelope::{ReadAt, damaged, unsupported},
    error::Result,
    output,
};

/// How PEM names such messages: RFC 7468 §9, and what was usual before.
const LABELS: [&str; 2] = ["CMS", "PKCS7"];

/// Fields that mails start with, or what is left of one when it was saved.
const MAIL_FIELDS: [&str; 14] = [
    "mime-version",
    "content-type",
    "content-disposition",
    "content-transfer-encoding",
    "content-description",
    "return-path",
    "delivered-to",
    "received",
    "date",
    "from",
    "to",
    "cc",
    "subject",
    "message-id",
];

/// Longest header of a mail, in bytes.
const MAX_HEADER: u64 = 256 * 1024;
/// Bytes of text that are decoded at once.
const BUFFER: u64 = 256 * 1024;

/// A message that is text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Text {
    /// Between lines of this label.
    Pem(&'static str),
    /// A mail.
    Mail,
}

impl Text {
    /// Tells it from the start of a file.
    pub(super) fn detect(start: &[u8]) -> Option<Self> {
        if let Some(label) = LABELS.into_iter().find(|label| start.starts_with(begin(label).as_bytes())) {
            return Some(Self::Pem(label));
        }
        let colon = start.iter().position(|byte| *byte == b':')?;
        let is_mail = MAIL_FIELDS.iter().any(|field| start[..colon].eq_ignore_ascii_case(field.as_bytes()));
        is_mail.then_some(Self::Mail)
    }

    /// Decodes a text of `len` bytes.
    ///
    /// # Errors
    /// [`crate::Kind::Integrity`] if it is damaged; [`crate::Kind::Local`] if it is a mail of another kind, or there is no
    /// room for the temporary file.
    pub(super) fn decode(self, text: &dyn ReadAt, len: u64) -> Result<File> {
        let mut decoder = Decoder { pending: Vec::new(), out: output::spool()?, ended: false };
        let mut at = match self {
            Self::Pem(label) => begin(label).len() as u64,
            Self::Mail => mail_header(text, len)?,
        };
        let mut buffer = Vec::new();
        while at < len {
            buffer.resize(usize::try_from(BUFFER.min(len - at)).unwrap_or_default(), 0);
            text.fill(at, &mut buffer)?;
            if let (Self::Pem(label), Some(end)) = (self, buffer.iter().position(|byte| *byte == b'-')) {
                decoder.take(&buffer[..end])?;
                return decoder.finish_pem(text, at + end as u64, len, label);
            }
            decoder.take(&buffer)?;
            at += buffer.len() as u64;
        }
        match self {
            Self::Pem(_) => Err(damaged("it is cut off")),
            Self::Mail => decoder.finish(),
        }
    }
}

struct Decoder {
    /// Text that is not a multiple of four characters yet.
    pending: Vec<u8>,
    out: File,
    /// Padding was seen: the end.
    ended: bool,
}

impl Decoder {
    fn take(&mut self, text: &[u8]) -> Result<()> {
        for run in text.split(|byte| matches!(byte, b'\r' | b'\n' | b' ' | b'\t')) {
            self.pending.extend(run);
        }
        let whole = self.pending.len() / 4 * 4;
        if whole == 0 {
            return Ok(());
        }
        let complete = &self.pending[..whole];
        if self.ended {
            return Err(no_base64());
        }
        self.ended = complete.ends_with(b"=");
        let decoded = STANDARD.decode(complete).map_err(|_| no_base64())?;
        self.pending.drain(..whole);
        self.out.write_all(&decoded).map_err(|why| output::failed("cannot write a temporary file", &why))
    }

    fn finish(self) -> Result<File> {
        if self.pending.is_empty() { Ok(self.out) } else { Err(damaged("it is cut off")) }
    }

    /// What stands from `at` on must be the last line.
    fn finish_pem(self, text: &dyn ReadAt, at: u64, len: u64, label: &str) -> Result<File> {
        let end = format!("-----END {label}-----");
        let mut tail = vec![0; usize::try_from((len - at).min(BUFFER)).unwrap_or_default()];
        text.fill(at, &mut tail)?;
        let rest = tail.strip_prefix(end.as_bytes()).ok_or_else(|| damaged("it is cut off"))?;
        if at + (tail.len() as u64) < len || !rest.iter().all(u8::is_ascii_whitespace) {
            return Err(damaged("something stands behind its end"));
        }
        self.finish()
    }
}

fn begin(label: &str) -> String {
    format!("-----BEGIN {label}-----")
}

/// Checks the header of a mail, and tells where its body starts.
fn mail_header(text: &dyn ReadAt, len: u64) -> Result<u64> {
    let mut start = vec![0; usize::try_from(len.min(MAX_HEADER)).unwrap_or_default()];
    text.fill(0, &mut start)?;
    let blank = |line: &[u8]| matches!(line, b"\n" | b"\r\n");
    let mut body = 0;
    let mut lines = Vec::<String>::new();
    let ended = start.split_inclusive(|byte| *byte == b'\n').any(|line| {
        body += line.len();
        if blank(line) {
            return true;
        }
        let line = String::from_utf8_lossy(line);
        match lines.last_mut() {
            // RFC 5322 §2.2.3: a line that starts with a space goes on with the one before.
            Some(last) if line.starts_with([' ', '\t']) => last.push_str(&line),
            _ => lines.push(line.into_owned()),
        }
        false
    });
    if !ended {
        return Err(unsupported("it looks like a mail, but has no body"));
    }
    let field = |wanted: &str| {
        let fields = lines.iter().filter_map(|line| line.split_once(':'));
        let mut wanted = fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        wanted.next().map(|(_, value)| value.trim().to_ascii_lowercase())
    };
    let content_type = field("content-type").unwrap_or_else(|| "text/plain".to_owned());
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !matches!(media_type, "application/pkcs7-mime" | "application/x-pkcs7-mime" | "application/cms") {
        return Err(unsupported(format!(
            "it is a mail that is not encrypted as a whole (its type is {media_type})"
        ))
        .hint("save the encrypted attachment, often named smime.p7m, and open that"));
    }
    match field("content-transfer-encoding").as_deref() {
        Some("base64") => Ok(body as u64),
        _ => Err(unsupported("it is an encrypted mail, but not in base64")),
    }
}

fn no_base64() -> crate::error::Error {
    damaged("its text is not base64")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use proptest::prelude::*;

    use super::*;

    fn decode(text: &[u8]) -> Result<Vec<u8>> {
        let kind = Text::detect(text).ok_or_else(|| damaged("no text"))?;
        let mut file = kind.decode(&text, text.len() as u64)?;
        let mut decoded = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut decoded)).expect("read");
        Ok(decoded)
    }

    const MAIL: &str = "From: a\r\nContent-Type: application/pkcs7-mime;\r\n name=smime.p7m\r\nContent-Transfer-Encoding: base64\r\n\r\n";

    #[test]
    fn text_that_is_damaged_is_refused() {
        for text in [
            "-----BEGIN CMS-----\nAAAA\n",
            "-----BEGIN CMS-----\nAAAA\n-----END PKCS7-----\n",
            "-----BEGIN CMS-----\nAAAA\n-----END CMS-----\nmore",
            "-----BEGIN CMS-----\nAAA\n-----END CMS-----\n",
            "-----BEGIN CMS-----\nAA=AAAAA\n-----END CMS-----\n",
            "-----BEGIN CMS-----\nAA==AAAA\n-----END CMS-----\n",
            "-----BEGIN CMS-----\nAB==\n-----END CMS-----\n",
            "-----BEGIN CMS-----\nAA?A\n-----END CMS-----\n",
            "From: a\nTo: b\n\nhello\n",
            "From: a\nContent-Type: application/pkcs7-mime\n\nAAAA\n",
            "From: a\nContent-Type: application/pkcs7-mime\n",
            &format!("{MAIL}AAAA\r\n--boundary--"),
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_both_kinds_of_text(bytes in prop::collection::vec(any::<u8>(), 0..400_000), width in 1usize..200) {
            let encoded = STANDARD.encode(&bytes);
            let lines: Vec<_> = encoded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
            let pem = format!("-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n", lines.join("\n"));
            prop_assert_eq!(&decode(pem.as_bytes()).expect("PEM"), &bytes);
            let mail = format!("{MAIL}{}\r\n", lines.join("\r\n"));
            prop_assert_eq!(&decode(mail.as_bytes()).expect("mail"), &bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(-----BEGIN CMS-----|Content-Type:)[a-zA-Z0-9+/=\r\n :;-]{0,200}") {
            decode(text.as_bytes()).ok();
        }
    }
}
