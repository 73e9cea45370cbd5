//! Envelopes put together by hand, sound or not: written apart from the product, after `docs/formats/sealed.md`.

use std::{fs, path::Path, process::Command};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hkdf::{HKDF_SHA512, KeyType, Prk},
};

use crate::{
    common::{SoftKey, run, seal_to, tree},
    container::container,
};

/// Bytes of content in a chunk, and of a sealed chunk.
pub(crate) const CHUNK: usize = 16_384;
pub(crate) const SEALED_CHUNK: usize = CHUNK + 16;
/// Salt and commitment.
pub(crate) const HEADER: usize = 56;

/// What an envelope consists of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) cipher_key: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Parts {
    /// Takes an envelope apart.
    pub(crate) fn of(envelope: &[u8]) -> Self {
        let u32_at =
            |at: usize| u32::from_le_bytes(envelope[at..at + 4].try_into().expect("4 bytes")) as usize;
        let key_len = u32_at(18);
        let data_at = 40 + key_len + 30 + 11 + 20;
        let directory_at = u32_at(envelope.len() - 6);
        Self {
            cipher_key: envelope[40..40 + key_len].to_vec(),
            data: envelope[data_at..directory_at - 24].to_vec(),
        }
    }

    /// Puts it together again.
    pub(crate) fn pack(&self) -> Vec<u8> {
        container(&self.cipher_key, &self.data)
    }
}

/// A CIPHER.KEY that the product made, and the input key in it.
pub(crate) struct Maker {
    cipher_key: Vec<u8>,
    input_key: Vec<u8>,
}

impl Maker {
    /// Has the product seal something to this key, and openssl decrypt the input key.
    pub(crate) fn new(key: &SoftKey) -> Self {
        let folder = tempfile::TempDir::new().expect("folder");
        let (source, envelope) = (folder.path().join("a"), folder.path().join("e.sealed"));
        tree::write(&source, b"a");
        seal_to(key, &source, &envelope);
        let cipher_key = Parts::of(&fs::read(envelope).expect("read")).cipher_key;
        let file = folder.path().join("CIPHER.KEY");
        fs::write(&file, &cipher_key).expect("written");
        Self { cipher_key, input_key: decrypt(key, &file) }
    }

    /// An envelope with this archive inside.
    pub(crate) fn seal(&self, inside: &[u8]) -> Vec<u8> {
        let cipher_key = self.cipher_key.clone();
        Parts { data: self.encrypt(inside, &tree::noise(24)), cipher_key }.pack()
    }

    fn encrypt(&self, inside: &[u8], salt: &[u8]) -> Vec<u8> {
        let chunks = self.chunks(salt);
        let mut out = chunks.header().to_vec();
        for number in 0..=inside.len() / CHUNK {
            let end = inside.len().min((number + 1) * CHUNK);
            out.extend(chunks.seal(number as u64, inside[number * CHUNK..end].to_vec()));
        }
        out
    }

    pub(crate) fn cipher_key(&self) -> &[u8] {
        &self.cipher_key
    }

    /// C2SP's chunked-encryption, straight from its specification.
    pub(crate) fn chunks(&self, salt: &[u8]) -> Chunks {
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
        let prk = Prk::new_less_safe(HKDF_SHA512, &self.input_key);
        prk.expand(&[&info], Len).and_then(|okm| okm.fill(&mut derived)).expect("derived");
        let gcm = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..32]).expect("key"));
        let nonce = derived[32..44].try_into().expect("12 bytes");
        Chunks { gcm, nonce, header: [salt, &derived[44..]].concat() }
    }
}

/// Seals chunks, in any order.
pub(crate) struct Chunks {
    gcm: LessSafeKey,
    nonce: [u8; 12],
    header: Vec<u8>,
}

impl Chunks {
    /// Salt and commitment.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    pub(crate) fn seal(&self, number: u64, mut chunk: Vec<u8>) -> Vec<u8> {
        let mut nonce = self.nonce;
        nonce.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(byte, digit)| *byte ^= digit);
        self.gcm
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut chunk)
            .expect("sealed");
        chunk
    }
}

/// What openssl finds in a CIPHER.KEY.
pub(crate) fn decrypt(key: &SoftKey, cipher_key: &Path) -> Vec<u8> {
    run(Command::new("openssl")
        .args(["cms", "-decrypt", "-inform", "DER", "-inkey", "key.pem", "-recip", "cert.pem", "-in"])
        .arg(cipher_key)
        .current_dir(&key.folder))
}
