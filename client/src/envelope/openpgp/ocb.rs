//! OCB (RFC 7253) over AES: the authenticated mode that every OpenPGP of today must know (RFC 9580 §9.6). Only to open, and only
//! what fits into memory.

use aes::{
    Aes256, Block,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, common::BlockSizeUser},
};
use subtle::ConstantTimeEq;

/// Bytes of a tag.
pub(super) const TAG_LEN: usize = 16;
/// Bytes of OpenPGP's nonces.
pub(super) const NONCE_LEN: usize = 15;

const BLOCK_LEN: usize = 16;

/// A cipher with blocks of 16 bytes, under a key.
pub(super) trait Aes:
    BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = <Aes256 as BlockSizeUser>::BlockSize>
{
}

impl<C> Aes for C where
    C: BlockCipherEncrypt
        + BlockCipherDecrypt
        + BlockSizeUser<BlockSize = <Aes256 as BlockSizeUser>::BlockSize>
{
}

/// Opens in place what has its tag behind it, and tells how long the plaintext is. `None`, and nothing to be read in `sealed`,
/// if it is not what was sealed with this key, nonce and additional data. The nonce has 1 to 15 bytes.
pub(super) fn open(cipher: &impl Aes, nonce: &[u8], additional: &[u8], sealed: &mut [u8]) -> Option<usize> {
    let len = sealed.len().checked_sub(TAG_LEN)?;
    let (text, tag) = sealed.split_at_mut(len);
    let key = Key::new(cipher);
    let mut offset = key.first_offset(nonce)?;
    let mut sum = 0;
    let (blocks, rest) = text.as_chunks_mut::<BLOCK_LEN>();
    for (number, block) in (1_u64..).zip(blocks) {
        offset ^= key.numbered(number);
        let plain = offset ^ key.decrypt(u128::from_be_bytes(*block) ^ offset);
        sum ^= plain;
        *block = plain.to_be_bytes();
    }
    if !rest.is_empty() {
        offset ^= key.star;
        let pad = key.encrypt(offset).to_be_bytes();
        rest.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
        sum ^= padded(rest);
    }
    let expected = key.encrypt(sum ^ offset ^ key.dollar) ^ key.hash(additional);
    if bool::from(expected.to_be_bytes().ct_eq(&*tag)) {
        return Some(len);
    }
    sealed.fill(0);
    None
}

/// A key, and what follows from it (RFC 7253 §4.1). Blocks are numbers here.
struct Key<'c, C> {
    cipher: &'c C,
    star: u128,
    dollar: u128,
}

impl<'c, C: Aes> Key<'c, C> {
    fn new(cipher: &'c C) -> Self {
        let star = encrypt(cipher, 0);
        Self { cipher, star, dollar: double(star) }
    }

    fn encrypt(&self, block: u128) -> u128 {
        encrypt(self.cipher, block)
    }

    fn decrypt(&self, block: u128) -> u128 {
        let mut block: Block = block.to_be_bytes().into();
        self.cipher.decrypt_block(&mut block);
        u128::from_be_bytes(block.into())
    }

    /// What the offset changes by at the block of this number, which counts from 1.
    fn numbered(&self, number: u64) -> u128 {
        (0..=number.trailing_zeros()).fold(self.dollar, |mask, _| double(mask))
    }

    /// RFC 7253 §4.2: the offset before the first block.
    fn first_offset(&self, nonce: &[u8]) -> Option<u128> {
        let mut block = [0; BLOCK_LEN];
        let at = BLOCK_LEN.checked_sub(nonce.len()).filter(|at| (1..BLOCK_LEN).contains(at))?;
        block[at..].copy_from_slice(nonce);
        // In front of the nonce a one. A tag of 128 bits is told by zeros before that.
        block[at - 1] = 1;
        let nonce = u128::from_be_bytes(block);
        let bottom = (nonce & 63) as u32;
        let top = self.encrypt(nonce & !63);
        // 192 bits, of which 128 are taken, `bottom` bits from the start.
        let behind = ((top >> 64) ^ (top >> 56)) as u64;
        Some((top << bottom) | (u128::from(behind) >> (64 - bottom)))
    }

    /// RFC 7253 §4.1: HASH.
    fn hash(&self, additional: &[u8]) -> u128 {
        let (mut sum, mut offset) = (0, 0);
        let (blocks, rest) = additional.as_chunks::<BLOCK_LEN>();
        for (number, block) in (1_u64..).zip(blocks) {
            offset ^= self.numbered(number);
            sum ^= self.encrypt(u128::from_be_bytes(*block) ^ offset);
        }
        if !rest.is_empty() {
            sum ^= self.encrypt(padded(rest) ^ offset ^ self.star);
        }
        sum
    }
}

fn encrypt(cipher: &impl Aes, block: u128) -> u128 {
    let mut block: Block = block.to_be_bytes().into();
    cipher.encrypt_block(&mut block);
    u128::from_be_bytes(block.into())
}

/// RFC 7253 §2: doubling in the field of 2^128 elements.
fn double(block: u128) -> u128 {
    (block << 1) ^ ((block >> 127) * 0x87)
}

/// Less than a block, with a one behind it.
fn padded(rest: &[u8]) -> u128 {
    let mut block = [0; BLOCK_LEN];
    block.iter_mut().zip(rest.iter().chain(&[0x80])).for_each(|(to, from)| *to = *from);
    u128::from_be_bytes(block)
}

#[cfg(test)]
mod tests {
    use aes::{Aes128, cipher::KeyInit};

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).expect("hex")
    }

    /// RFC 7253 appendix A: number of the nonce, lengths of the additional data and of the plaintext, and what is sealed.
    const VECTORS: &[(u8, usize, usize, &str)] = &[
        (0, 0, 0, "785407BFFFC8AD9EDCC5520AC9111EE6"),
        (1, 8, 8, "6820B3657B6F615A5725BDA0D3B4EB3A257C9AF1F8F03009"),
        (2, 8, 0, "81017F8203F081277152FADE694A0A00"),
        (3, 0, 8, "45DD69F8F5AAE72414054CD1F35D82760B2CD00D2F99BFA9"),
        (4, 16, 16, "571D535B60B277188BE5147170A9A22C3AD7A4FF3835B8C5701C1CCEC8FC3358"),
        (5, 16, 0, "8CF761B6902EF764462AD86498CA6B97"),
        (6, 0, 16, "5CE88EC2E0692706A915C00AEB8B2396F40E1C743F52436BDF06D8FA1ECA343D"),
        (7, 24, 24, "1CA2207308C87C010756104D8840CE1952F09673A448A122C92C62241051F57356D7F3C90BB0E07F"),
        (8, 24, 0, "6DC225A071FC1B9F7C69F93B0F1E10DE"),
        (9, 0, 24, "221BD0DE7FA6FE993ECCD769460A0AF2D6CDED0C395B1C3CE725F32494B9F914D85C0B1EB38357FF"),
        (
            10,
            32,
            32,
            "BD6F6C496201C69296C11EFD138A467ABD3C707924B964DEAFFC40319AF5A48540FBBA186C5553C68AD9F592A79A4240",
        ),
        (11, 32, 0, "FE80690BEE8A485D11F32965BC9D2A32"),
        (
            12,
            0,
            32,
            "2942BFC773BDA23CABC6ACFD9BFD5835BD300F0973792EF46040C53F1432BCDFB5E1DDE3BC18A5F840B52E653444D5DF",
        ),
        (
            13,
            40,
            40,
            "D5CA91748410C1751FF8A2F618255B68A0A12E093FF454606E59F9C1D0DDC54B65E8628E568BAD7AED07BA06A4A69483A7035490C5769E60",
        ),
        (14, 40, 0, "C5CD9D1850C141E358649994EE701B68"),
        (
            15,
            0,
            40,
            "4412923493C57D5DE0D700F753CCE0D1D2D95060122E9F15A5DDBFC5787E50B5CC55EE507BCB084E479AD363AC366B95A98CA5F3000B1479",
        ),
    ];

    #[test]
    fn the_vectors_of_the_standard_hold_and_every_flipped_bit_is_found() {
        let cipher = Aes128::new_from_slice(&bytes("000102030405060708090A0B0C0D0E0F")).expect("a key");
        let counted: Vec<u8> = (0..40).collect();
        for (number, additional, plain, sealed) in VECTORS {
            let nonce = [&bytes("BBAA998877665544332211")[..], &[*number]].concat();
            let sealed = bytes(sealed);
            let mut opened = sealed.clone();
            let len = open(&cipher, &nonce, &counted[..*additional], &mut opened);
            assert_eq!((len, &opened[..*plain]), (Some(*plain), &counted[..*plain]), "{number}");
            for at in 0..sealed.len() * 8 {
                let mut bad = sealed.clone();
                bad[at / 8] ^= 1 << (at % 8);
                assert!(open(&cipher, &nonce, &counted[..*additional], &mut bad).is_none(), "bit {at}");
                assert!(bad.iter().all(|byte| *byte == 0));
            }
        }
        for len in [0, 16, 17] {
            assert!(open(&cipher, &vec![0; len], &[], &mut [0; TAG_LEN]).is_none(), "a nonce of {len} bytes");
        }
        assert!(open(&cipher, &[0; NONCE_LEN], &[], &mut [0; TAG_LEN - 1]).is_none());
    }
}
