//! AES-256-CBC (NIST SP 800-38A), reading only: it protects nobody from changed content.

use aes::{
    Aes256,
    cipher::{BlockCipherDecrypt, KeyInit},
};
use custodian_proto::key::FileKey;

/// Bytes of a block.
pub(super) const BLOCK_LEN: usize = 16;

/// The key of one message. Has no `Debug`; overwritten when dropped.
pub(super) struct Cbc(Aes256);

impl Cbc {
    pub(super) fn new(key: &FileKey) -> Self {
        Self(Aes256::new(key.expose().into()))
    }

    /// Decrypts whole blocks, which stand behind the block `before`.
    pub(super) fn decrypt(&self, before: &[u8; BLOCK_LEN], bytes: &mut [u8]) {
        let mut before = *before;
        // As many blocks as the processor decrypts at once, and their ciphertext is still there to be added to the next.
        for strip in bytes.chunks_mut(STRIP) {
            let mut shifted = [0; STRIP];
            let shifted = &mut shifted[..strip.len()];
            let (first, rest) = shifted.split_at_mut(BLOCK_LEN.min(strip.len()));
            first.copy_from_slice(&before[..first.len()]);
            rest.copy_from_slice(&strip[..rest.len()]);
            if let Some(last) = strip.last_chunk() {
                before = *last;
            }
            let (blocks, _) = aes::Block::slice_as_chunks_mut(strip);
            self.0.decrypt_blocks(blocks);
            strip.iter_mut().zip(shifted).for_each(|(byte, other)| *byte ^= *other);
        }
    }
}

const STRIP: usize = 256 * BLOCK_LEN;
