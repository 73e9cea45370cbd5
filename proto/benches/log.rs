//! The log at 10 million records: what appending costs, how long a receipt is, and how fast it is made and checked.
//!
//! `cargo bench -p custodian-proto --bench log`. The tree is built from records of a usual size, and kept in memory as its
//! tiles.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use bench_rows::{Rows, Target};
use custodian_proto::tlog::{
    Checkpoint, Flaw, Hash, Receipt, Tile, VerifierKey, merkle, nodes::Nodes, tiles::Edge,
};

const RECORDS: u64 = 10_000_000;

/// Receipts made and checked.
const RECEIPTS: u64 = 2_000;

/// As long as the record of an Unwrap usually is.
fn record(sequence: u64) -> Vec<u8> {
    let mut record = vec![0x5a; 316];
    record[..8].copy_from_slice(&sequence.to_be_bytes());
    record
}

fn main() {
    let mut tiles: HashMap<Tile, Vec<Hash>> = HashMap::new();
    let mut edge = Edge::default();
    let mut keep = |tile: Tile, hashes: &[Hash]| -> Result<(), Flaw> {
        tiles.insert(tile, hashes.to_vec());
        Ok(())
    };
    let began = Instant::now();
    for sequence in 1..=RECORDS {
        edge.push(Hash::of_entry(&record(sequence)), &mut keep).unwrap();
    }
    let took = began.elapsed();
    for (tile, hashes) in edge.partial() {
        keep(tile, hashes).unwrap();
    }
    let kept: usize = tiles.values().map(|hashes| hashes.len() * Hash::LEN).sum();
    let mut rows = Rows::new("log");
    let each = micros(took) / RECORDS as f64;
    rows.add("log of 10^7 records: hash and append one", each, "µs", Target::None);
    rows.add("the same: tiles, for each record", kept as f64 / RECORDS as f64, "bytes", Target::None);

    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let key = VerifierKey::ecdsa_p256("custodian.example/log", spki.as_ref()).unwrap();
    let text = Checkpoint { origin: key.name().to_owned(), size: RECORDS, root: edge.root() }.text();
    let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    let checkpoint = key.note(&text, signature.as_ref());

    let indexes: Vec<u64> = (0..RECEIPTS).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % RECORDS).collect();
    let began = Instant::now();
    let receipts: Vec<String> = indexes
        .iter()
        .map(|index| {
            // Without anything kept from one to the next, as the ledger reads them.
            let mut nodes = Nodes::new(|tile| Ok::<_, Flaw>(tiles[&tile].clone()));
            let proof = merkle::inclusion(*index, RECORDS, &mut |node| nodes.hash(node)).unwrap();
            let (entry, index, checkpoint) = (record(index + 1), *index, checkpoint.clone());
            Receipt { entry, index, proof, checkpoint }.to_string()
        })
        .collect();
    let made = began.elapsed();
    let began = Instant::now();
    for receipt in &receipts {
        receipt.parse::<Receipt>().unwrap().verify(&key).unwrap();
    }
    let checked = began.elapsed();
    rows.add("the same: make a receipt", micros(made) / RECEIPTS as f64, "µs", Target::None);
    rows.add(
        "the same: check a receipt, signature included",
        micros(checked) / RECEIPTS as f64,
        "µs",
        Target::None,
    );
    rows.add("the same: a receipt's length, entry included", receipts[0].len() as f64, "bytes", Target::None);
    rows.finish();
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
