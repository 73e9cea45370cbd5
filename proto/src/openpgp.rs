//! The few parts of OpenPGP (RFC 9580) that both sides must agree on: what a wrapping key of OpenPGP wraps, and how it is
//! named.

use sha1::{Digest, Sha1};
use zeroize::{Zeroize, Zeroizing};

use crate::{key::FileKey, limits::FILE_KEY_LEN};

/// RFC 9580 §9.3: AES with a key of 256 bits. The only cipher whose keys the custodian unwraps (law 4).
pub const AES_256: u8 = 9;

/// RFC 9580 §9.1: RSA, to encrypt or to sign.
pub const RSA: u8 = 1;

/// What a PKESK packet of version 3 wraps: the cipher, its key, and a checksum (RFC 9580 §5.1.3).
pub const V3_LEN: usize = 1 + V6_LEN;

/// What a PKESK packet of version 6 wraps: the key and a checksum. The cipher is said elsewhere.
pub const V6_LEN: usize = FILE_KEY_LEN + CHECKSUM_LEN;

const CHECKSUM_LEN: usize = 2;

/// What is wrapped in a PKESK packet of version 3.
pub fn wrapped_by_v3(file_key: &FileKey) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(V3_LEN));
    bytes.push(AES_256);
    bytes.extend_from_slice(&wrapped_by_v6(file_key));
    bytes
}

/// What is wrapped in a PKESK packet of version 6.
pub fn wrapped_by_v6(file_key: &FileKey) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(V6_LEN));
    bytes.extend_from_slice(file_key.expose());
    bytes.extend_from_slice(&checksum(file_key.expose()).to_be_bytes());
    bytes
}

/// The file key in what a PKESK packet of either version wraps; their lengths tell them apart. `None` if anything about
/// it is not as it must be. What has the right length takes the same time, good or bad. Overwrites `bytes`.
pub fn take_file_key(bytes: &mut [u8]) -> Option<FileKey> {
    let (cipher, rest) = match bytes.len() {
        V3_LEN => (bytes.first().copied().unwrap_or_default(), bytes.get(1..).unwrap_or_default()),
        V6_LEN => (AES_256, &*bytes),
        _ => {
            bytes.zeroize();
            return None;
        }
    };
    let mut key = Zeroizing::new([0; FILE_KEY_LEN]);
    let (in_it, sum) = rest.split_at(FILE_KEY_LEN);
    key.copy_from_slice(in_it);
    let expected = checksum(&key).to_be_bytes();
    let wrong = sum.iter().zip(expected).fold(cipher ^ AES_256, |wrong, (is, must)| wrong | (is ^ must));
    bytes.zeroize();
    let key = FileKey::new(*key);
    (wrong == 0).then_some(key)
}

/// RFC 9580 §5.1.3: the sum of the key's bytes.
fn checksum(key: &[u8; FILE_KEY_LEN]) -> u16 {
    key.iter().fold(0, |sum: u16, byte| sum.wrapping_add(u16::from(*byte)))
}

/// The fingerprint of a key of version 4, which has this content of a public-key packet (RFC 9580 §5.5.4.2).
pub fn fingerprint_v4(public_key: &[u8]) -> [u8; 20] {
    Sha1::new().chain_update(hashed_v4(public_key)).finalize().into()
}

/// A key of version 4 as fingerprints and signatures hash it (RFC 9580 §5.2.4).
pub fn hashed_v4(public_key: &[u8]) -> Vec<u8> {
    let len = u16::try_from(public_key.len()).unwrap_or(u16::MAX);
    [&[0x99], &len.to_be_bytes()[..], public_key].concat()
}

/// The content of a public-key packet of version 4 with an RSA key. `created`: seconds since 1970.
pub fn rsa_public_key_v4(created: u32, modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    [&[4], &created.to_be_bytes()[..], &[RSA], &mpi(modulus), &mpi(exponent)].concat()
}

/// A number (RFC 9580 §3.2): its length in bits, and its bytes without leading zeros.
pub fn mpi(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let unused = number.first().map_or(0, |first| first.leading_zeros() as usize);
    let bits = u16::try_from(number.len() * 8 - unused).unwrap_or(u16::MAX);
    [&bits.to_be_bytes()[..], number].concat()
}

/// A packet with this content (RFC 9580 §4.2.1).
pub fn packet(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc0 | tag];
    packet.extend(length(content.len()));
    packet.extend_from_slice(content);
    packet
}

/// A length as packets and subpackets have it (RFC 9580 §4.2.1.1 to §4.2.1.3).
pub fn length(len: usize) -> Vec<u8> {
    match len {
        0..192 => vec![len as u8],
        192..8384 => {
            let rest = len - 192;
            vec![192 + (rest >> 8) as u8, (rest & 0xff) as u8]
        }
        _ => [&[0xff], &u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_file_key_with_its_checksum_comes_out() {
        let key = FileKey::new([0xa7; 32]);
        for good in [wrapped_by_v3(&key), wrapped_by_v6(&key)] {
            let taken = take_file_key(&mut good.to_vec()).map(|key| *key.expose());
            assert_eq!(taken, Some([0xa7; 32]));
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.to_vec();
                    bad[at] ^= 1 << bit;
                    assert!(take_file_key(&mut bad).is_none(), "bit {bit} of byte {at}");
                    assert!(bad.iter().all(|byte| *byte == 0));
                }
            }
        }
        for len in (0..70).filter(|len| ![V3_LEN, V6_LEN].contains(len)) {
            let mut bytes = vec![9; len];
            assert!(take_file_key(&mut bytes).is_none() && bytes.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn numbers_have_no_leading_zeros() {
        assert_eq!(mpi(&[0, 0, 1]), [0, 1, 1]);
        assert_eq!(mpi(&[1, 0xff]), [0, 9, 1, 0xff]);
        assert_eq!(mpi(&[0]), [0, 0]);
    }

    #[test]
    fn lengths_change_their_form_where_the_standard_says() {
        // The examples of RFC 9580 §4.2.1.
        assert_eq!(length(100), [0x64]);
        assert_eq!(length(191), [191]);
        assert_eq!(length(192), [192, 0]);
        assert_eq!(length(1723), [0xc5, 0xfb]);
        assert_eq!(length(8383), [223, 255]);
        assert_eq!(length(8384), [0xff, 0, 0, 0x20, 0xc0]);
        assert_eq!(length(100_000), [0xff, 0, 1, 0x86, 0xa0]);
    }
}
