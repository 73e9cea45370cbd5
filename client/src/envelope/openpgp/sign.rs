//! Signing (RFC 9580 §5.2). What is sealed: announced before it (§5.4), signed behind it, all inside the encryption. And files
//! that stand by themselves.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest::Context, rand};
use custodian_proto::openpgp::{length, packet};

use super::{
    certificate::Recipient,
    packet::{ONE_PASS_SIGNATURE, SIGNATURE},
    secret_key::SigningKey,
    signature::{kind, salt_len, salted, subpacket, trailer},
};
use crate::{
    envelope::{ReadAt, each_piece},
    error::{Error, Kind, Result},
    progress::Progress,
};

/// Signs `len` bytes that stand by themselves: the signature, binary, for a file of its own (RFC 9580 §10.4). It names no
/// recipients.
///
/// # Errors
/// Those of the content; [`Kind::Interrupted`]; [`Kind::Local`] if the content was made to pass for something else, or the
/// cryptographic library refuses; and whatever keeps a key elsewhere from signing.
pub fn sign_detached(
    key: &SigningKey,
    content: &dyn ReadAt,
    len: u64,
    progress: &dyn Progress,
) -> Result<Vec<u8>> {
    let mut signing = Signing::begin(key, &[])?;
    each_piece(content, len, progress, |piece| signing.update(piece))?;
    signing.finish(SystemTime::now())
}

/// A signature that is being made while its content is written.
pub(super) struct Signing<'k> {
    key: &'k SigningKey,
    hash: Context,
    salt: Vec<u8>,
    intended: Vec<(u8, Vec<u8>)>,
    /// How the content begins.
    start: Vec<u8>,
    /// Bytes of content.
    len: u64,
}

/// Bytes of the longest head of a text in DER, whose length has 127 octets.
const MAX_DER_HEAD: usize = 2 + 127;

impl<'k> Signing<'k> {
    /// For these recipients: so that none of them can pass it on to somebody else as if it were meant for him. None: of a file
    /// that is for anybody.
    ///
    /// # Errors
    /// [`Kind::Local`] if the system gives no random numbers.
    pub(super) fn begin(key: &'k SigningKey, recipients: &[Recipient]) -> Result<Self> {
        let refuses = || Error::new(Kind::Local, "cannot sign", "the cryptographic library refuses");
        let mut salt = Vec::new();
        if key.version == 6 {
            salt.resize(salt_len(key.hash).ok_or_else(refuses)?, 0);
            rand::fill(&mut salt).map_err(|_| refuses())?;
        }
        let hash = salted(key.hash, &salt).ok_or_else(refuses)?;
        let mut intended: Vec<(u8, Vec<u8>)> = Vec::new();
        for (version, fingerprint) in recipients.iter().map(Recipient::certificate) {
            if intended.iter().all(|(_, known)| known != fingerprint) {
                intended.push((version, fingerprint.to_vec()));
            }
        }
        Ok(Self { key, hash, salt, intended, start: Vec::new(), len: 0 })
    }

    /// The packet that announces it.
    pub(super) fn announcement(&self) -> Vec<u8> {
        const LAST: u8 = 1;
        let key = self.key;
        let what = [kind::BINARY, key.hash, key.algorithm];
        let content = match key.version {
            6 => [&[6], &what[..], &[short(self.salt.len())], &self.salt, &key.fingerprint, &[LAST]].concat(),
            _ => [&[3], &what[..], &key.key_id(), &[LAST]].concat(),
        };
        packet(ONE_PASS_SIGNATURE, &content)
    }

    /// Takes content.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        let missing = MAX_DER_HEAD - self.start.len();
        self.start.extend(bytes.iter().take(missing));
        self.len += bytes.len() as u64;
    }

    /// The packet with the signature.
    ///
    /// # Errors
    /// [`Kind::Local`] if the content was made to pass for something else, or the cryptographic library refuses; and whatever
    /// keeps a key elsewhere from signing.
    pub(super) fn finish(self, now: SystemTime) -> Result<Vec<u8>> {
        let Self { key, mut hash, salt, intended, start, len } = self;
        let created = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let created = u32::try_from(created).unwrap_or(u32::MAX);
        let mut area = Vec::new();
        add(&mut area, subpacket::CREATED, &created.to_be_bytes());
        add(&mut area, subpacket::ISSUER_FINGERPRINT, &[&[key.version], &key.fingerprint[..]].concat());
        for (version, fingerprint) in &intended {
            // Not critical: GnuPG 2.2 does not know it, and would not verify the signature then.
            add(&mut area, subpacket::INTENDED_RECIPIENT, &[&[*version], &fingerprint[..]].concat());
        }
        let mut unhashed = Vec::new();
        if key.version == 4 {
            add(&mut unhashed, subpacket::ISSUER, &key.key_id());
        }
        let head = [key.version, kind::BINARY, key.algorithm, key.hash];
        let hashed = [&head[..], &area_len(key.version, area.len())?, &area].concat();
        let trailer = trailer(key.version, &hashed);
        if is_der_set(&start, len + (hashed.len() + trailer.len()) as u64) {
            let why = "the file is made so that its signature would pass for one of something else, in CMS";
            return Err(Error::new(Kind::Local, "cannot sign", why).hint("ask where the file comes from"));
        }
        hash.update(&hashed);
        hash.update(&trailer);
        let digest = hash.finish();
        let beginning = digest.as_ref().get(..2).unwrap_or_default();
        let mut content =
            [&hashed, &area_len(key.version, unhashed.len())?[..], &unhashed, beginning].concat();
        if key.version == 6 {
            content.push(short(salt.len()));
            content.extend(&salt);
        }
        content.extend(key.sign(&digest)?);
        Ok(packet(SIGNATURE, &content))
    }
}

/// Whether what begins like this and has so many bytes is one SET in DER. What a CMS signature is of (RFC 5652 §5.4) is that,
/// and a key in the custodian makes both kinds of signatures: a sender could make a file whose signature in OpenPGP is one of
/// attributes of his own in CMS. The length may be written in any way: not every reader minds.
fn is_der_set(start: &[u8], len: u64) -> bool {
    const SET: u8 = 0x31;
    let [SET, first, rest @ ..] = start else { return false };
    let (head, told) = match *first {
        short @ 0..0x80 => (2, u64::from(short)),
        long => {
            let octets = usize::from(long & 0x7f);
            let Some(told) = rest.get(..octets) else { return false };
            let (zeros, told) = told.split_at(octets.saturating_sub(8));
            // Nothing is so long.
            if zeros.iter().any(|byte| *byte != 0) {
                return false;
            }
            (2 + octets as u64, told.iter().fold(0, |told, byte| told << 8 | u64::from(*byte)))
        }
    };
    told.checked_add(head) == Some(len)
}

/// The length of an area of subpackets (RFC 9580 §5.2.3).
fn area_len(version: u8, len: usize) -> Result<Vec<u8>> {
    let too_many = |_| Error::new(Kind::Local, "cannot sign", "there are too many recipients to be named");
    match version {
        6 => Ok(u32::try_from(len).map_err(too_many)?.to_be_bytes().to_vec()),
        _ => Ok(u16::try_from(len).map_err(too_many)?.to_be_bytes().to_vec()),
    }
}

fn add(area: &mut Vec<u8>, kind: u8, content: &[u8]) {
    area.extend(length(content.len() + 1));
    area.push(kind);
    area.extend_from_slice(content);
}

fn short(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

/// Content on its way, signed if somebody signs.
pub(super) struct Signed<'s, 'k, W> {
    pub(super) out: W,
    pub(super) signing: Option<&'s mut Signing<'k>>,
}

impl<W: Write> Write for Signed<'_, '_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        if let Some(signing) = &mut self.signing {
            signing.update(bytes.get(..written).unwrap_or_default());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_pass_for_attributes_of_cms_is_told_from_all_else() {
        for (start, len) in [
            (&[0x31, 100, 0x30][..], 102),
            (&[0x31, 0x81, 200], 203),
            (&[0x31, 0x82, 1, 0, 0x30], 260),
            (&[0x31, 0x84, 0, 0, 1, 0], 262),
            (&[0x31, 0x88, 0, 0, 0, 0, 0, 0, 1, 0], 266),
            (&[0x31, 0x89, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x30], 267),
            (&[&[0x31_u8, 0xff][..], &[0; 125], &[1, 0]].concat(), 385),
        ] {
            assert!(is_der_set(start, len), "{start:?}");
            assert!(!is_der_set(start, len - 1) && !is_der_set(start, len + 1), "{start:?}");
        }
        for start in [
            &b"1. What is agreed"[..],
            b"",
            b"1",
            &[0x31, 0x82, 1],
            &[0x30, 100],
            &[0x31, 0x89, 1, 0, 0, 0, 0, 0, 0, 1, 0],
            "1\u{e8}re partie: what is agreed, and what is not, and who says so to whom and when".as_bytes(),
        ] {
            assert!((0..1_000).filter(|len| *len != 48).all(|len| !is_der_set(start, len)), "{start:?}");
        }
    }
}
