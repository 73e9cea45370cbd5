//! What auditors and witnesses read: checkpoints, receipts, tiles, proofs.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use custodian_client::log::record_of;
use custodian_proto::tlog::{
    Checkpoint, CosignerKey, Hash, Receipt, VerifierKey, cosignature,
    merkle::{verify_consistency, verify_inclusion},
    tiles,
    witness::{self, AddCheckpoint},
};

const ORIGIN: &str = "example.com/log";

struct Signer {
    pair: Ed25519KeyPair,
    key: VerifierKey,
}

impl Signer {
    fn get() -> &'static Self {
        static SIGNER: OnceLock<Signer> = OnceLock::new();
        SIGNER.get_or_init(|| {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("key");
            // RFC 8410 §4.
            let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];
            let spki = [&head[..], pair.public_key().as_ref()].concat();
            let key = VerifierKey::of_spki(ORIGIN, &spki).expect("key");
            Self { pair, key }
        })
    }

    /// A note of this text that verifies.
    fn note(&self, text: &str) -> String {
        self.key.note(text, self.pair.sign(text.as_bytes()).as_ref())
    }
}

/// A checkpoint: as it is, and as a text that the log has really signed. And everything else that is a text.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let signer = Signer::get();
    Checkpoint::open(text, &signer.key).ok();
    Checkpoint::open(&signer.note(text), &signer.key).ok();
    let witness = CosignerKey::new("example.com/witness", [9; 32]).expect("key");
    cosignature::cosignatures(text, &[witness]).ok();
    text.parse::<CosignerKey>().ok();
    cosignature::with_cosignatures(&signer.note("text\n"), &[text]).ok();
    witness::size(text).ok();
    if let Ok(request) = text.parse::<AddCheckpoint>() {
        Checkpoint::open(&request.checkpoint, &signer.key).ok();
    }
    if let Ok(receipt) = text.parse::<Receipt>() {
        receipt.verify(&signer.key).ok();
        record_of(&receipt).ok();
    }
}

/// A tile, and a bundle of entries.
pub(crate) fn tiles(bytes: &[u8]) {
    if let Ok(hashes) = tiles::hashes(bytes) {
        assert_eq!(tiles::bytes(&hashes), bytes);
    }
    if let Ok(entries) = tiles::unbundle(bytes) {
        assert_eq!(tiles::bundle(entries).ok().as_deref(), Some(bytes));
    }
}

/// Proofs of arbitrary hashes for trees of arbitrary sizes: two numbers of 8 bytes, two roots, and the proof.
pub(crate) fn proofs(bytes: &[u8]) {
    let Some((sizes, rest)) = bytes.split_first_chunk::<16>() else { return };
    let number = |at: usize| u64::from_be_bytes(sizes[at..at + 8].try_into().expect("8 bytes"));
    let (first, second) = (number(0), number(8));
    let hashes: Vec<_> = rest.chunks_exact(Hash::LEN).filter_map(Hash::from_bytes).collect();
    let [old, new, proof @ ..] = hashes.as_slice() else { return };
    verify_inclusion(*old, first, second, new, proof).ok();
    verify_consistency((first, old), (second, new), proof).ok();
}
