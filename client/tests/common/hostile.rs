//! A ZIP writer that writes whatever it is told: written apart from the product's, after APPNOTE and WinZip's AE-2 page.

use aes::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::{FOREIGN_PASSWORD, tree};

/// One entry. Start from [`Entry::file`] and spoil what you like.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    /// The name in the local header, if it differs.
    pub(crate) local_name: Option<Vec<u8>>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) actual_method: u16,
    pub(crate) ae_version: u8,
    pub(crate) strength: u8,
    pub(crate) crc: u32,
    /// Claimed in both headers.
    pub(crate) size: u64,
    /// Claimed in the local header, if it differs.
    pub(crate) local_size: Option<u32>,
    pub(crate) mode: u32,
    /// What follows the local header.
    pub(crate) body: Vec<u8>,
    /// Where the directory says it is, if it differs.
    pub(crate) offset: Option<u32>,
    /// Follow it with a data descriptor, and leave the local sizes empty.
    pub(crate) descriptor: bool,
}

impl Entry {
    /// CIPHER.KEY.
    pub(crate) fn cipher_key(content: &[u8]) -> Self {
        Self::file("CIPHER.KEY", content).in_the_clear(content)
    }

    /// A file, stored and encrypted as it should be.
    pub(crate) fn file(name: &str, content: &[u8]) -> Self {
        Self::sealed(name, content, content, 0)
    }

    /// A file, deflated.
    pub(crate) fn deflated(name: &str, content: &[u8]) -> Self {
        Self::sealed(name, content, &deflate(content), 8)
    }

    /// The same, in the clear.
    pub(crate) fn in_the_clear(self, content: &[u8]) -> Self {
        let stored = match self.actual_method {
            8 => deflate(content),
            _ => content.to_vec(),
        };
        let is_folder = self.mode & 0o170_000 == 0o040_000;
        let method = if is_folder { 0 } else { self.actual_method };
        let crc = if is_folder { 0 } else { crc32fast::hash(content) };
        Self { flags: 0, method, crc, body: stored, ..self }
    }

    /// A symbolic link.
    pub(crate) fn link(name: &str, target: &str) -> Self {
        Self { mode: 0o120_777, ..Self::file(name, target.as_bytes()) }
    }

    /// A folder.
    pub(crate) fn folder(name: &str) -> Self {
        let mut entry = Self::file(name, b"");
        (entry.flags, entry.method, entry.mode, entry.body) = (0, 0, 0o040_755, Vec::new());
        entry
    }

    fn sealed(name: &str, content: &[u8], stored: &[u8], actual_method: u16) -> Self {
        Self {
            name: name.into(),
            local_name: None,
            flags: 1,
            method: 99,
            actual_method,
            ae_version: 2,
            strength: 3,
            crc: 0,
            size: content.len() as u64,
            local_size: None,
            mode: 0o100_644,
            body: encrypt(stored),
            offset: None,
            descriptor: false,
        }
    }

    fn extra(&self) -> Vec<u8> {
        if self.method != 99 {
            return Vec::new();
        }
        let mut extra = vec![0x01, 0x99, 7, 0, self.ae_version, 0, b'A', b'E', self.strength];
        extra.extend(self.actual_method.to_le_bytes());
        extra
    }

    fn common(&self, sealed_size: u32, size: u32, crc: u32, name: &[u8], extra: &[u8]) -> Vec<u8> {
        let flags = self.flags | if self.descriptor { 8 } else { 0 };
        let mut out = Vec::new();
        [51, flags, self.method, 0, 0x21].iter().for_each(|number| out.extend(number.to_le_bytes()));
        [crc, sealed_size, size].iter().for_each(|number| out.extend(number.to_le_bytes()));
        [name.len(), extra.len()].iter().for_each(|len| out.extend((*len as u16).to_le_bytes()));
        out
    }
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::new();
    let mut encoder = flate2::write::DeflateEncoder::new(&mut deflated, flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, content).expect("deflates");
    encoder.finish().expect("deflates");
    deflated
}

/// Puts entries together.
pub(crate) fn archive(entries: &[Entry]) -> Vec<u8> {
    archive_with_comment(entries, b"")
}

pub(crate) fn archive_with_comment(entries: &[Entry], comment: &[u8]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = entry.offset.unwrap_or(out.len() as u32);
        let extra = entry.extra();
        let sealed_size = entry.body.len() as u32;
        let size = u32::try_from(entry.size).unwrap_or(u32::MAX);

        let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
        let (local_sealed, local_size, local_crc) = match entry.descriptor {
            true => (0, 0, 0),
            false => (sealed_size, entry.local_size.unwrap_or(size), entry.crc),
        };
        out.extend(0x0403_4b50u32.to_le_bytes());
        out.extend(entry.common(local_sealed, local_size, local_crc, local_name, &extra));
        out.extend(local_name);
        out.extend(&extra);
        out.extend(&entry.body);
        if entry.descriptor {
            [0x0807_4b50, entry.crc, sealed_size, size]
                .iter()
                .for_each(|number| out.extend(number.to_le_bytes()));
        }

        let mut central_extra = Vec::new();
        if size == u32::MAX {
            central_extra.extend([1, 0, 8, 0]);
            central_extra.extend(entry.size.to_le_bytes());
        }
        central_extra.extend(&extra);
        directory.extend(0x0201_4b50u32.to_le_bytes());
        directory.extend([63, 3]);
        directory.extend(entry.common(sealed_size, size, entry.crc, &entry.name, &central_extra));
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(&entry.name);
        directory.extend(&central_extra);
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(0x0605_4b50u32.to_le_bytes());
    out.extend([0; 4]);
    [entries.len(), entries.len()].iter().for_each(|n| out.extend((*n as u16).to_le_bytes()));
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend((comment.len() as u16).to_le_bytes());
    out.extend(comment);
    out
}

/// WinZip AE-2 with 256 bits, under [`FOREIGN_PASSWORD`].
fn encrypt(content: &[u8]) -> Vec<u8> {
    let salt = tree::noise(16);
    let mut keys = [0; 66];
    pbkdf2::pbkdf2_hmac::<Sha1>(FOREIGN_PASSWORD.as_bytes(), &salt, 1_000, &mut keys);
    let mut ciphertext = content.to_vec();
    let mut counter = [0; 16];
    counter[0] = 1;
    let key: [u8; 32] = keys[..32].try_into().expect("32 bytes");
    ctr::Ctr128LE::<aes::Aes256>::new(&key.into(), &counter.into()).apply_keystream(&mut ciphertext);
    let mut mac = Hmac::<Sha1>::new_from_slice(&keys[32..64]).expect("any length");
    mac.update(&ciphertext);
    let code = mac.finalize().into_bytes();
    [salt.as_slice(), &keys[64..], &ciphertext, &code[..10]].concat()
}
