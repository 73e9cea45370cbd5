//! AES-256-CFB as OpenPGP has it (RFC 9580 §12.9): the initialisation vector is zero, and what comes first is random.

use aes::{
    Aes256, Block,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit},
};
use custodian_proto::key::FileKey;
use zeroize::Zeroizing;

/// Bytes of a block.
pub(super) const BLOCK_LEN: usize = 16;

/// A message that is being encrypted. Has no `Debug`; the key is overwritten when dropped.
pub(super) struct Encryption(cfb_mode::Encryptor<Aes256>);

impl Encryption {
    pub(super) fn new(key: &FileKey) -> Self {
        Self(cfb_mode::Encryptor::new(key.expose().into(), &Block::default()))
    }

    /// Encrypts what comes next: whole blocks, but for the last call.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        by_blocks(bytes, |blocks| self.0.encrypt_blocks(blocks));
    }
}

/// A message that is being decrypted. Has no `Debug`; the key is overwritten when dropped.
pub(super) struct Decryption(cfb_mode::Decryptor<Aes256>);

impl Decryption {
    pub(super) fn new(key: &FileKey) -> Self {
        Self(cfb_mode::Decryptor::new(key.expose().into(), &Block::default()))
    }

    /// Decrypts what comes next: whole blocks, but for the last call.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        by_blocks(bytes, |blocks| self.0.decrypt_blocks(blocks));
    }
}

/// What is no whole block is filled up for the cipher, and cut again: each byte depends on none behind it.
fn by_blocks(bytes: &mut [u8], mut cipher: impl FnMut(&mut [Block])) {
    let (blocks, tail) = Block::slice_as_chunks_mut(bytes);
    cipher(blocks);
    if !tail.is_empty() {
        let mut last = Zeroizing::new([Block::default()]);
        let [block] = &mut *last;
        block[..tail.len()].copy_from_slice(tail);
        cipher(std::slice::from_mut(block));
        tail.copy_from_slice(&block[..tail.len()]);
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
        let mut cfb = Decryption::new(&FileKey::new(key));
        cfb.apply(&mut bytes("000102030405060708090a0b0c0d0e0f"));
        let mut sealed = bytes(concat!(
            "dc7e84bfda79164b7ecd8486985d386039ffed143b28b1c832113c6331e5407b",
            "df10132415e54b92a13ed0a8267ae2f975a385741ab9cef82031623d55b1e471"
        ));
        cfb.apply(&mut sealed);
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
            let mut cfb = Encryption::new(&FileKey::new(key));
            bytes.chunks_mut(cut * BLOCK_LEN).for_each(|part| cfb.apply(part));
            let mut cfb = Decryption::new(&FileKey::new(key));
            bytes.chunks_mut((601 - cut) * BLOCK_LEN).for_each(|part| cfb.apply(part));
            prop_assert_eq!(bytes, plain);
        }
    }
}
