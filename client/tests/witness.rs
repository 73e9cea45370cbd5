//! What a witness keeps of a log that signs what does not fit, and what nobody can make it keep.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use custodian_client::witness::{Answer, Evidence, Folder, Witness};
use custodian_proto::tlog::{Checkpoint, Hash, VerifierKey, witness::AddCheckpoint};
use jiff::Timestamp;
use tempfile::TempDir;

/// A log that signs whatever it is told to, and its witness.
struct Scene {
    pair: EcdsaKeyPair,
    key: VerifierKey,
    folder: TempDir,
    witness: Witness,
}

impl Scene {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let key = VerifierKey::ecdsa_p256("custodian.example/log", spki.as_ref()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (made, _) = Folder::create(folder.path(), "witness.example/w").unwrap();
        fs::write(made.logs_path().join("log.pub"), format!("{key}\n")).unwrap();
        let witness = Witness::open(made).unwrap();
        Self { pair, key, folder, witness }
    }

    fn request(&self, old: u64, proof: &[Hash], size: u64, root: &Hash) -> String {
        let origin = self.key.name().to_owned();
        let text = Checkpoint { origin, size, root: *root }.text();
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        let checkpoint = self.key.note(&text, signature.as_ref());
        AddCheckpoint { old, proof: proof.to_vec(), checkpoint }.to_string()
    }

    fn add(&self, old: u64, proof: &[Hash], size: u64, root: &Hash) -> Answer {
        self.witness.add(&self.request(old, proof, size, root), Timestamp::now())
    }

    /// Cosigns a first tree of seven entries.
    fn begun() -> (Self, Hash) {
        let scene = Self::new();
        let root = hash(7);
        assert!(matches!(scene.add(0, &[], 7, &root), Answer::Cosigned(_)));
        (scene, root)
    }

    fn evidence(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path().join("evidence")).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn kept(&self, name: &str) -> String {
        fs::read_to_string(Path::new(self.folder.path()).join("evidence").join(name)).unwrap()
    }
}

fn hash(number: u64) -> Hash {
    Hash::of_entry(&number.to_be_bytes())
}

#[test]
fn two_trees_of_one_size_are_kept_and_told() {
    let (scene, root) = Scene::begun();
    // Whatever the sender says that the witness signed last.
    for (old, other) in [(7, hash(8)), (0, hash(9)), (3, hash(10))] {
        let Answer::Split(7, Evidence::Kept(name)) = scene.add(old, &[], 7, &other) else { panic!("{old}") };
        assert!(scene.kept(&name).contains(&other.to_string()));
    }
    assert_eq!(scene.evidence().len(), 3);
    assert!(matches!(scene.add(7, &[], 7, &root), Answer::Cosigned(_)), "the one it knows");
}

#[test]
fn junk_proofs_use_up_no_evidence() {
    let (scene, root) = Scene::begun();
    for number in 0..150 {
        assert!(matches!(scene.add(7, &[hash(number)], 7, &root), Answer::Malformed(_)));
        let answer = scene.add(7, &[hash(number)], 8, &hash(8));
        assert!(matches!(answer, Answer::NotConsistent(_, Evidence::Kept(_))), "{answer:?}");
    }
    assert_eq!(scene.evidence().len(), 1, "one for the one tree");
    assert!(matches!(scene.add(7, &[], 7, &hash(9)), Answer::Split(7, Evidence::Kept(_))));
}

#[test]
fn evidence_that_finds_no_room_is_told_and_leaves_room_for_better() {
    let (scene, _) = Scene::begun();
    for number in 0..100 {
        let answer = scene.add(7, &[hash(1)], 8 + number, &hash(number));
        assert!(matches!(answer, Answer::NotConsistent(_, Evidence::Kept(_))), "{answer:?}");
    }
    let answer = scene.add(7, &[hash(1)], 500, &hash(500));
    assert!(matches!(answer, Answer::NotConsistent(_, Evidence::NoRoom)), "{answer:?}");
    let Answer::Split(7, Evidence::Kept(name)) = scene.add(7, &[], 7, &hash(9)) else { panic!() };
    assert_eq!(scene.evidence().len(), 101);
    assert!(scene.kept(&name).starts_with("old 7\n"));
}

#[test]
fn a_first_tree_has_nothing_to_prove() {
    let scene = Scene::new();
    assert!(matches!(scene.add(0, &[hash(1)], 7, &hash(7)), Answer::Malformed(_)));
    assert_eq!(scene.evidence(), [""; 0]);
}
