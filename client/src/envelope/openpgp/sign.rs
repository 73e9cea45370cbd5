//! Signing what is sealed (RFC 9580 §5.2 and §5.4): announced before it, signed behind it, all inside the encryption.

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
use crate::error::{Error, Kind, Result};

/// A signature that is being made while its content is written.
pub(super) struct Signing<'k> {
    key: &'k SigningKey,
    hash: Context,
    salt: Vec<u8>,
    intended: Vec<(u8, Vec<u8>)>,
}

impl<'k> Signing<'k> {
    /// For these recipients: so that none of them can pass it on to somebody else as if it were meant for him.
    ///
    /// # Errors
    /// [`Kind::Local`] if the system gives no random numbers.
    pub(super) fn begin(key: &'k SigningKey, recipients: &[Recipient]) -> Result<Self> {
        let refuses = || Error::new(Kind::Local, "cannot sign", "the cryptographic library refuses");
        let mut salt = Vec::new();
        if key.public().version == 6 {
            salt.resize(salt_len(key.hash()).ok_or_else(refuses)?, 0);
            rand::fill(&mut salt).map_err(|_| refuses())?;
        }
        let hash = salted(key.hash(), &salt).ok_or_else(refuses)?;
        let mut intended: Vec<(u8, Vec<u8>)> = Vec::new();
        for (version, fingerprint) in recipients.iter().map(Recipient::certificate) {
            if intended.iter().all(|(_, known)| known != fingerprint) {
                intended.push((version, fingerprint.to_vec()));
            }
        }
        Ok(Self { key, hash, salt, intended })
    }

    /// The packet that announces it.
    pub(super) fn announcement(&self) -> Vec<u8> {
        const LAST: u8 = 1;
        let public = self.key.public();
        let what = [kind::BINARY, self.key.hash(), public.algorithm];
        let content = match public.version {
            6 => [&[6], &what[..], &[short(self.salt.len())], &self.salt, &public.fingerprint, &[LAST]]
                .concat(),
            _ => [&[3], &what[..], &public.key_id(), &[LAST]].concat(),
        };
        packet(ONE_PASS_SIGNATURE, &content)
    }

    /// Takes content.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// The packet with the signature.
    ///
    /// # Errors
    /// [`Kind::Local`] if the cryptographic library refuses.
    pub(super) fn finish(self, now: SystemTime) -> Result<Vec<u8>> {
        let Self { key, mut hash, salt, intended } = self;
        let public = key.public();
        let created = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let created = u32::try_from(created).unwrap_or(u32::MAX);
        let mut area = Vec::new();
        add(&mut area, subpacket::CREATED, &created.to_be_bytes());
        add(&mut area, subpacket::ISSUER_FINGERPRINT, &[&[public.version], &public.fingerprint[..]].concat());
        for (version, fingerprint) in &intended {
            // Not critical: GnuPG 2.2 does not know it, and would not verify the signature then.
            add(&mut area, subpacket::INTENDED_RECIPIENT, &[&[*version], &fingerprint[..]].concat());
        }
        let mut unhashed = Vec::new();
        if public.version == 4 {
            add(&mut unhashed, subpacket::ISSUER, &public.key_id());
        }
        let head = [public.version, kind::BINARY, public.algorithm, key.hash()];
        let hashed = [&head[..], &area_len(public.version, area.len())?, &area].concat();
        hash.update(&hashed);
        hash.update(&trailer(public.version, &hashed));
        let digest = hash.finish();
        let beginning = digest.as_ref().get(..2).unwrap_or_default();
        let mut content =
            [&hashed, &area_len(public.version, unhashed.len())?[..], &unhashed, beginning].concat();
        if public.version == 6 {
            content.push(short(salt.len()));
            content.extend(&salt);
        }
        content.extend(key.sign(&digest)?);
        Ok(packet(SIGNATURE, &content))
    }
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
