//! PBKDF2-HMAC-SHA1 (RFC 8018 §5.2) with a salt of 16 bytes, all blocks of the result side by side.
//!
//! This is most of the work for an archive of small files. A library computes one block after the other, and each SHA-1
//! compression waits for the one before it. Four blocks in step keep the processor busy: measured, half the time. The
//! compression itself is the library's.

use sha1::{Digest, Sha1, block_api::compress};
use zeroize::Zeroizing;

use super::ae2::SALT_LEN;

/// Blocks of 20 bytes: enough for two AES-256 keys and a verifier.
const BLOCKS: usize = 4;
/// Bytes of the result.
pub(super) const DERIVED_LEN: usize = BLOCKS * HASH_LEN;

const HASH_LEN: usize = 20;
const BLOCK_LEN: usize = 64;

type State = [u32; HASH_LEN / 4];

/// FIPS 180-4 §5.3.1.
const INITIAL: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// Derives [`DERIVED_LEN`] bytes.
pub(super) fn derive(password: &[u8], salt: &[u8; SALT_LEN], rounds: u32) -> Zeroizing<[u8; DERIVED_LEN]> {
    let (inner, outer) = (keyed(password, 0x36), keyed(password, 0x5c));
    let mut messages = Zeroizing::new([[0; BLOCK_LEN]; BLOCKS]);
    for (number, message) in (1u32..).zip(messages.iter_mut()) {
        message[..SALT_LEN].copy_from_slice(salt);
        message[SALT_LEN..HASH_LEN].copy_from_slice(&number.to_be_bytes());
        // Salt and number are as long as a hash, so all messages have the same end: SHA-1's padding, and the length in
        // bits of this block and the one with the key.
        message[HASH_LEN] = 0x80;
        message[BLOCK_LEN - 8..].copy_from_slice(&(8 * (BLOCK_LEN + HASH_LEN) as u64).to_be_bytes());
    }
    let mut derived = Zeroizing::new([0; DERIVED_LEN]);
    for _ in 0..rounds {
        hash_each(&inner, &mut messages);
        hash_each(&outer, &mut messages);
        for (block, message) in derived.chunks_exact_mut(HASH_LEN).zip(messages.iter()) {
            block.iter_mut().zip(message).for_each(|(sum, byte)| *sum ^= byte);
        }
    }
    derived
}

/// Replaces the start of each message by the message's hash.
fn hash_each(start: &State, messages: &mut [[u8; BLOCK_LEN]; BLOCKS]) {
    let mut states = [*start; BLOCKS];
    for (state, message) in states.iter_mut().zip(messages.iter()) {
        compress(state, std::slice::from_ref(message));
    }
    for (state, message) in states.iter().zip(messages) {
        for (word, bytes) in state.iter().zip(message.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// SHA-1 after the first block of HMAC: the key, padded (RFC 2104 §2).
fn keyed(key: &[u8], pad: u8) -> Zeroizing<State> {
    let mut block = Zeroizing::new([pad; BLOCK_LEN]);
    let xor = |block: &mut [u8], key: &[u8]| block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
    if key.len() > BLOCK_LEN {
        xor(block.as_mut_slice(), &Sha1::digest(key));
    } else {
        xor(block.as_mut_slice(), key);
    }
    let mut state = Zeroizing::new(INITIAL);
    compress(&mut state, std::slice::from_ref(&*block));
    state
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_pbkdf2(password in prop::collection::vec(any::<u8>(), 0..150), salt in any::<[u8; 16]>(), rounds in 1u32..50) {
            let mut expected = [0; DERIVED_LEN];
            pbkdf2::pbkdf2_hmac::<Sha1>(&password, &salt, rounds, &mut expected);
            prop_assert_eq!(*derive(&password, &salt, rounds), expected);
        }
    }
}
