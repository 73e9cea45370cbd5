//! AES-256-CFB as OpenPGP has it (RFC 9580 §12.9): the initialisation vector is zero, and what comes first is random.

use aes::{
    Aes256,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use custodian_proto::key::FileKey;

/// Bytes of a block.
pub(super) const BLOCK_LEN: usize = 16;
/// Bytes that are decrypted at once.
const STRIP: usize = 256 * BLOCK_LEN;

/// One message, on its way. Has no `Debug`; the key is overwritten when dropped.
pub(super) struct Cfb {
    aes: Aes256,
    /// The block of ciphertext before.
    before: aes::Block,
}

impl Cfb {
    pub(super) fn new(key: &FileKey) -> Self {
        Self { aes: Aes256::new(key.expose().into()), before: aes::Block::default() }
    }

    /// Decrypts what comes next: whole blocks, but for the last call.
    pub(super) fn decrypt(&mut self, bytes: &mut [u8]) {
        // What is added to a block is the block before, encrypted: those are known, so many are encrypted at once.
        for strip in bytes.chunks_mut(STRIP) {
            let mut stream = [0; STRIP];
            let stream = &mut stream[..strip.len().next_multiple_of(BLOCK_LEN)];
            let (first, rest) = stream.split_at_mut(BLOCK_LEN);
            first.copy_from_slice(&self.before);
            rest.copy_from_slice(&strip[..rest.len()]);
            if let Some(last) = strip.last_chunk::<BLOCK_LEN>() {
                self.before = (*last).into();
            }
            let (blocks, _) = aes::Block::slice_as_chunks_mut(stream);
            self.aes.encrypt_blocks(blocks);
            strip.iter_mut().zip(stream).for_each(|(byte, other)| *byte ^= *other);
        }
    }

    /// Encrypts what comes next: whole blocks, but for the last call.
    pub(super) fn encrypt(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(BLOCK_LEN) {
            self.aes.encrypt_block(&mut self.before);
            block.iter_mut().zip(&self.before).for_each(|(byte, other)| *byte ^= *other);
            if let Ok(whole) = <[u8; BLOCK_LEN]>::try_from(&*block) {
                self.before = whole.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// NIST SP 800-38A, F.3.17: CFB128-AES256, with the vector made the first block of ciphertext.
    #[test]
    fn the_vectors_of_the_standard_hold() {
        let bytes = |hex: &str| hex::decode(hex).expect("hex");
        let key: [u8; 32] = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
            .try_into()
            .expect("32 bytes");
        let mut cfb = Cfb::new(&FileKey::new(key));
        cfb.decrypt(&mut bytes("000102030405060708090a0b0c0d0e0f"));
        let mut sealed = bytes(concat!(
            "dc7e84bfda79164b7ecd8486985d386039ffed143b28b1c832113c6331e5407b",
            "df10132415e54b92a13ed0a8267ae2f975a385741ab9cef82031623d55b1e471"
        ));
        cfb.decrypt(&mut sealed);
        assert_eq!(
            hex::encode(sealed),
            concat!(
                "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
                "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
            )
        );
    }

    proptest! {
        #[test]
        fn what_was_encrypted_comes_back_however_it_is_cut(
            key: [u8; 32],
            plain in prop::collection::vec(any::<u8>(), 0..20_000),
            cut in 1usize..600,
        ) {
            let mut bytes = plain.clone();
            let mut cfb = Cfb::new(&FileKey::new(key));
            bytes.chunks_mut(cut * BLOCK_LEN).for_each(|part| cfb.encrypt(part));
            let mut cfb = Cfb::new(&FileKey::new(key));
            bytes.chunks_mut((601 - cut) * BLOCK_LEN).for_each(|part| cfb.decrypt(part));
            prop_assert_eq!(bytes, plain);
        }
    }
}
