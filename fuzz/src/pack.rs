//! `sealed` envelopes around given parts, so that what is changed is not only ever a checksum.

#[path = "../../client/tests/sealed/container.rs"]
mod container;

use std::{
    io::{Read, Seek, Write},
    sync::OnceLock,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hkdf::{HKDF_SHA512, KeyType, Prk},
};
use custodian_client::{envelope::cms, progress::Silent};
use custodian_proto::key::FileKey;
use rustix::fs::MemfdFlags;

pub(crate) use self::container::container;

const CHUNK: usize = 16_384;

/// The first vector of `client/testdata/sealed`, and its file key.
const SOUND: &[u8] = include_bytes!("../seeds/sealed/sound");
const FILE_KEY: &[u8; 32] = include_bytes!("../seeds/sealed.key");

pub(crate) fn file_key() -> &'static FileKey {
    static KEY: OnceLock<FileKey> = OnceLock::new();
    KEY.get_or_init(|| FileKey::new(*FILE_KEY))
}

/// A CIPHER.KEY whose secret is known.
pub(crate) struct Maker {
    cipher_key: Vec<u8>,
    secret: Vec<u8>,
}

impl Maker {
    /// From the vector: its CIPHER.KEY is a CMS message.
    pub(crate) fn new() -> Self {
        let len = u32::from_le_bytes(SOUND[18..22].try_into().expect("4 bytes")) as usize;
        let cipher_key = SOUND[40..40 + len].to_vec();
        let memory = || rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory");
        let (mut message, mut secret) = (std::fs::File::from(memory()), std::fs::File::from(memory()));
        message.write_all(&cipher_key).expect("written");
        let message =
            cms::Message::new(&message, len as u64).expect("a message").read_header().map(|sealed| {
                let opened = sealed.open(FileKey::new(*FILE_KEY)).expect("opened");
                opened.write_to(&secret, &Silent).expect("the secret");
            });
        message.expect("a header");
        let mut bytes = Vec::new();
        secret.rewind().and_then(|()| secret.read_to_end(&mut bytes)).expect("read");
        Self { cipher_key, secret: bytes }
    }

    /// An envelope with this archive inside.
    pub(crate) fn seal(&self, inside: &[u8]) -> Vec<u8> {
        container(&self.cipher_key, &self.encrypt(inside, &[0x5a; 24]))
    }

    /// C2SP's chunked-encryption, straight from its specification.
    fn encrypt(&self, inside: &[u8], salt: &[u8]) -> Vec<u8> {
        struct Len;
        impl KeyType for Len {
            fn len(&self) -> usize {
                76
            }
        }
        let context =
            [b"custodian sealed/1\0".as_slice(), digest(&SHA256, &self.cipher_key).as_ref()].concat();
        let info = [b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0".as_slice(), salt, &context].concat();
        let mut derived = [0; 76];
        let prk = Prk::new_less_safe(HKDF_SHA512, &self.secret);
        prk.expand(&[&info], Len).and_then(|okm| okm.fill(&mut derived)).expect("derived");
        let gcm = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..32]).expect("key"));
        let mut out = [salt, &derived[44..]].concat();
        for number in 0..=inside.len() / CHUNK {
            let mut nonce: [u8; 12] = derived[32..44].try_into().expect("12 bytes");
            nonce.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(byte, digit)| *byte ^= digit);
            let end = inside.len().min((number + 1) * CHUNK);
            let mut chunk = inside[number * CHUNK..end].to_vec();
            gcm.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut chunk)
                .expect("sealed");
            out.extend(chunk);
        }
        out
    }
}
