//! What an auditor's check finds: changed, missing, exchanged, forged, forked and rolled back. Offline, on exports.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use custodian_client::{
    Error, Kind,
    log::{Memory, Part, Source, Verified, compare, export, forget, search, verify},
    progress::Silent,
};
use custodian_proto::{
    tlog::{
        Checkpoint, Hash, Tile, VerifierKey,
        tiles::{self, Edge, bundle_path},
    },
    v1,
};
use proptest::prelude::*;
use prost::Message as _;

/// A log with a key of its own, in the layout of tlog-tiles.
struct Log {
    pair: EcdsaKeyPair,
    key: VerifierKey,
}

impl Log {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let key = VerifierKey::ecdsa_p256("custodian.example/log", spki.as_ref()).unwrap();
        Self { pair, key }
    }

    /// Writes the log of these records.
    fn write(&self, folder: &Path, records: &[Vec<u8>]) {
        let put = |path: String, bytes: &[u8]| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let mut edge = Edge::default();
        let mut tile = |tile: Tile, hashes: &[Hash]| -> Result<(), ()> {
            put(tile.path(hashes.len()), &tiles::bytes(hashes));
            Ok(())
        };
        for record in records {
            edge.push(Hash::of_entry(record), &mut tile).unwrap();
        }
        for (partial, hashes) in edge.partial() {
            tile(partial, hashes).unwrap();
        }
        for (index, bundle) in (0..).zip(records.chunks(256)) {
            let bytes = tiles::bundle(bundle.iter().map(Vec::as_slice)).unwrap();
            put(bundle_path(index, bundle.len()), &bytes);
        }
        let origin = self.key.name().to_owned();
        let text = Checkpoint { origin, size: records.len() as u64, root: edge.root() }.text();
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        put("checkpoint".to_owned(), self.key.note(&text, signature.as_ref()).as_bytes());
    }
}

fn records(count: u64) -> Vec<Vec<u8>> {
    let record = |sequence| v1::Record { sequence, operation: "Unwrap".into(), ..v1::Record::default() };
    (1..=count).map(|sequence| record(sequence).encode_to_vec()).collect()
}

fn check(log: &Log, folder: &Path, known: Option<&Checkpoint>, part: Part) -> Result<Verified, Error> {
    verify(Source::Folder(folder), &log.key, known, part, &Silent)
}

/// Fails as damage does, and says this.
#[track_caller]
fn finds(result: Result<Verified, Error>, told: &str) {
    let error = result.expect_err("nothing was found");
    assert_eq!(error.kind, Kind::Integrity, "{error}");
    assert!(error.why.contains(told), "{told:?} is not in: {error}");
}

/// The bundle of a log of so many records, with its entries changed.
fn change(folder: &Path, path: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let path = folder.join(path);
    let bytes = fs::read(&path).unwrap();
    let mut entries: Vec<Vec<u8>> =
        tiles::unbundle(&bytes).unwrap().into_iter().map(<[u8]>::to_vec).collect();
    change(&mut entries);
    fs::write(&path, tiles::bundle(entries.iter().map(Vec::as_slice)).unwrap()).unwrap();
}

#[test]
fn a_log_that_nobody_touched_verifies_from_every_size_to_every_later_one() {
    let log = Log::new();
    let all = records(600);
    let folders = tempfile::tempdir().unwrap();
    let mut known: Vec<Checkpoint> = Vec::new();
    for size in [0_u64, 1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 513, 600] {
        let folder = folders.path().join(size.to_string());
        log.write(&folder, &all[..usize::try_from(size).unwrap()]);
        let verified = check(&log, &folder, None, Part::All).unwrap();
        assert_eq!((verified.records, verified.checkpoint.size), (size, size));
        for known in &known {
            let all = check(&log, &folder, Some(known), Part::All).unwrap();
            assert_eq!(all.begins_with, Some(known.size));
            let new = check(&log, &folder, Some(known), Part::After(known.size)).unwrap();
            assert!(new.records < size - known.size + 256, "only what is new is read");
        }
        known.push(verified.checkpoint);
    }
}

#[test]
fn an_ecdsa_checkpoint_verifies_with_openssl_as_the_documentation_tells() {
    let (log, folder, scratch) = (Log::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    log.write(folder.path(), &records(3));
    fs::write(scratch.path().join("log.pub"), format!("{}\n", log.key)).unwrap();
    let script = r#"
        sed '/^$/,$d' "$1/checkpoint" > "$2/text"
        sed '1,/^$/d' "$1/checkpoint" | head -n 1 | cut -d' ' -f3 | base64 -d | tail -c +5 > "$2/signature"
        cut -d+ -f3- "$2/log.pub" | base64 -d | tail -c +2 | openssl pkey -pubin -inform DER -out "$2/key.pem"
        openssl dgst -sha256 -verify "$2/key.pem" -signature "$2/signature" "$2/text"
    "#;
    let ran = std::process::Command::new("bash")
        .args(["-euc", script, "bash"])
        .args([folder.path(), scratch.path()])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("Verified OK"));
}

#[test]
fn a_changed_record_is_named() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    log.write(folder.path(), &records(300));
    change(folder.path(), "tile/entries/000", |entries| entries[16][1] ^= 1);
    change(folder.path(), "tile/entries/001.p/44", |entries| entries[43].push(0));
    finds(check(&log, folder.path(), None, Part::All), "not the ones that were logged: 17, 300");
    // What is old is not read again.
    let known = check(&log, folder.path(), None, Part::After(256));
    finds(known, "not the ones that were logged: 300");
}

#[test]
fn exchanged_removed_and_added_records_are_found() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let bundle = "tile/entries/000.p/9";
    let again = || log.write(folder.path(), &records(9));
    again();
    change(folder.path(), bundle, |entries| entries.swap(2, 5));
    finds(check(&log, folder.path(), None, Part::All), "not the ones that were logged: 3, 6");
    again();
    change(folder.path(), bundle, |entries| drop(entries.remove(4)));
    finds(check(&log, folder.path(), None, Part::All), "record 9 is missing");
    again();
    change(folder.path(), bundle, |entries| entries.insert(0, entries[0].clone()));
    finds(check(&log, folder.path(), None, Part::All), "not the ones that were logged: 2, 3, 4, 5");
    again();
    fs::remove_file(folder.path().join(bundle)).unwrap();
    finds(check(&log, folder.path(), None, Part::All), "record 1 is missing");
}

#[test]
fn a_changed_record_whose_hash_was_changed_too_is_found() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let mut all = records(40);
    log.write(folder.path(), &all);
    let signed = fs::read(folder.path().join("checkpoint")).unwrap();
    all[20] = b"something else".to_vec();
    Log::new().write(folder.path(), &all);
    fs::write(folder.path().join("checkpoint"), signed).unwrap();
    finds(check(&log, folder.path(), None, Part::All), "do not lead to what was signed");
}

#[test]
fn a_damaged_tree_over_good_records_is_found() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    log.write(folder.path(), &records(40));
    let tile = folder.path().join("tile/0/000.p/40");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[7 * 32] ^= 1;
    fs::write(&tile, bytes).unwrap();
    finds(check(&log, folder.path(), None, Part::All), "another hash of record 8");
}

#[test]
fn a_forged_checkpoint_is_refused() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    log.write(folder.path(), &records(5));
    let checkpoint = folder.path().join("checkpoint");
    let note = fs::read_to_string(&checkpoint).unwrap();
    fs::write(&checkpoint, note.replace("\n5\n", "\n4\n")).unwrap();
    finds(
        check(&log, folder.path(), None, Part::All),
        "signature by the log key custodian.example/log is wrong",
    );
    Log::new().write(folder.path(), &records(5));
    finds(check(&log, folder.path(), None, Part::All), "not signed by the log key custodian.example/log");
}

#[test]
fn a_log_that_was_cut_or_rewritten_and_signed_again_is_found_by_whoever_remembers_it() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let all = records(300);
    log.write(folder.path(), &all);
    let memory = Memory::at(&folder.path().join("state/remembered"));
    assert_eq!(memory.recall(&log.key).unwrap(), None);
    let verified = check(&log, folder.path(), None, Part::All).unwrap();
    memory.remember(&verified.note).unwrap();
    let known = memory.recall(&log.key).unwrap().unwrap();
    assert_eq!(known, verified.checkpoint);

    for cut in [299, 256, 1, 0] {
        log.write(folder.path(), &all[..cut]);
        check(&log, folder.path(), None, Part::All).unwrap();
        finds(check(&log, folder.path(), Some(&known), Part::All), "300 were signed before");
    }
    let mut fork = records(400);
    fork[100] = b"rewritten".to_vec();
    for size in [300, 301, 400] {
        log.write(folder.path(), &fork[..size]);
        check(&log, folder.path(), None, Part::All).unwrap();
        finds(check(&log, folder.path(), Some(&known), Part::All), "it was rewritten");
        finds(check(&log, folder.path(), Some(&known), Part::After(300)), "it was rewritten");
    }
    // Another log's memory is of no use, and a changed one is noticed.
    assert_eq!(memory.recall(&Log::new().key).unwrap_err().kind, Kind::Integrity);
}

#[test]
fn an_export_grows_with_the_log_and_refuses_another_one() {
    let log = Log::new();
    let folders = tempfile::tempdir().unwrap();
    let (from, to) = (folders.path().join("from"), folders.path().join("to"));
    let all = records(70_000);
    for size in [10_usize, 10, 256, 300, 65_536, 70_000] {
        log.write(&from, &all[..size]);
        let exported = export(Source::Folder(&from), &to, &log.key, &Silent).unwrap();
        assert_eq!(exported.checkpoint.size, size as u64);
        check(&log, &to, None, Part::All).unwrap();
    }
    assert!(!to.join("tile/0/000.p").exists(), "narrow tiles go once the full one is there");
    let found = fs::read(to.join("checkpoint")).unwrap();

    let mut fork = records(70_001);
    fork[5] = b"rewritten".to_vec();
    log.write(&from, &fork);
    let error = export(Source::Folder(&from), &to, &log.key, &Silent).unwrap_err();
    assert!(error.kind == Kind::Integrity && error.why.contains("rewritten"), "{error}");
    assert_eq!(fs::read(to.join("checkpoint")).unwrap(), found, "the evidence stays");
}

#[test]
fn an_interrupted_export_is_finished_by_the_next() {
    let log = Log::new();
    let folders = tempfile::tempdir().unwrap();
    let (from, to) = (folders.path().join("from"), folders.path().join("to"));
    log.write(&from, &records(600));
    export(Source::Folder(&from), &to, &log.key, &Silent).unwrap();
    for left in ["checkpoint", "tile/0/001", "tile/entries/002.p/88", "tile/1/000.p/2"] {
        fs::remove_file(to.join(left)).unwrap();
        fs::remove_file(to.join("checkpoint")).ok();
        export(Source::Folder(&from), &to, &log.key, &Silent).unwrap();
        check(&log, &to, None, Part::All).unwrap();
    }
    change(&from, "tile/entries/002.p/88", |entries| entries[3].push(1));
    let elsewhere = folders.path().join("elsewhere");
    let error = export(Source::Folder(&from), &elsewhere, &log.key, &Silent).unwrap_err();
    assert!(error.why.contains("record 516 is missing, or not the one that was logged"), "{error}");
    assert!(!elsewhere.join("checkpoint").exists());
}

#[test]
fn two_auditors_copies_that_differ_are_shown_to_differ() {
    let log = Log::new();
    let folders = tempfile::tempdir().unwrap();
    let (one, other) = (folders.path().join("one"), folders.path().join("other"));
    let compared = || compare((&one, &other), &log.key, &Silent);
    log.write(&one, &records(700));
    for size in [0_usize, 1, 256, 300, 700] {
        log.write(&other, &records(700)[..size]);
        let compared = compared().unwrap();
        assert_eq!((compared.shorter.size, compared.longer.size), (size as u64, 700));
    }
    for (size, at) in [(701_u64, 5_usize), (600, 599), (300, 256), (700, 0)] {
        let mut fork = records(size);
        fork[at] = b"rewritten".to_vec();
        fs::remove_dir_all(&other).unwrap();
        log.write(&other, &fork);
        let error = compared().unwrap_err();
        assert_eq!(error.kind, Kind::Integrity);
        let told = format!("both are signed by the log: the first record that differs is {}", at + 1);
        assert!(error.why.contains(&told), "{error}");
    }
    // A copy that was meddled with proves nothing, and is not taken for a fork.
    log.write(&other, &records(300));
    fs::write(other.join("tile/0/000"), [7; 32 * 256]).unwrap();
    assert!(compared().unwrap_err().why.contains("is not the one that its checkpoint is of"));
    let stranger = Log::new();
    stranger.write(&other, &records(300));
    assert!(compared().unwrap_err().why.contains("not signed by the log key"));
}

#[test]
fn a_proven_search_finds_what_was_logged_and_nothing_in_a_log_that_was_changed() {
    let log = Log::new();
    let folder = tempfile::tempdir().unwrap();
    let record = |sequence: u64| v1::Record {
        sequence,
        user: if sequence.is_multiple_of(3) { "users/anna".into() } else { "users/bob".into() },
        ..v1::Record::default()
    };
    let all: Vec<_> = (1..=400).map(|sequence| record(sequence).encode_to_vec()).collect();
    log.write(folder.path(), &all);
    let filter = v1::RecordFilter { user: "users/anna".into(), ..v1::RecordFilter::default() };
    let find = || {
        let mut found = Vec::new();
        let proven = search(Source::Folder(folder.path()), &log.key, None, &filter, &Silent, &mut |record| {
            found.push(record.sequence);
            Ok(())
        });
        proven.map(|_| found)
    };
    assert!(find().unwrap().into_iter().eq((3..=400).step_by(3)));
    change(folder.path(), "tile/entries/001.p/144", |entries| entries[0] = record(257 + 1).encode_to_vec());
    assert_eq!(find().unwrap_err().kind, Kind::Integrity);
    // A log whose records say that they are others.
    let mut swapped = all;
    swapped.swap(10, 20);
    log.write(folder.path(), &swapped);
    assert!(find().unwrap_err().why.contains("record 11 says that it is record 21"));
}

#[test]
fn payloads_removed_under_retention_are_told_from_missing_ones() {
    let log = Log::new();
    let folder = tempfile::tempdir().unwrap();
    // One record an hour.
    let record = |sequence: u64| v1::Record {
        sequence,
        time: Some(prost_types::Timestamp { seconds: 3_600 * sequence as i64, nanos: 0 }),
        ..v1::Record::default()
    };
    let all: Vec<_> = (1..=700).map(|sequence| record(sequence).encode_to_vec()).collect();
    log.write(folder.path(), &all);
    let at = |hour: i64| jiff::Timestamp::from_second(3_600 * hour).unwrap();
    let said = ("anna", "10 years are over");
    let forget = |hour| forget(folder.path(), &log.key, at(hour), said, &Silent);
    assert_eq!(forget(200).unwrap(), None, "only whole bundles");
    let removal = forget(300).unwrap().unwrap();
    assert_eq!((removal.first, removal.last, removal.by.as_str()), (1, 256, "anna"));
    let found = check(&log, folder.path(), None, Part::All).unwrap();
    assert_eq!((found.records, found.removed), (444, 256));
    assert!(fs::read_to_string(folder.path().join("tile/entries/000")).unwrap().chars().all(|c| c == '\0'));
    // The rest later; what is gone is gone once.
    let removal = forget(9_999).unwrap().unwrap();
    assert_eq!((removal.first, removal.last), (257, 512));
    assert_eq!(check(&log, folder.path(), None, Part::All).unwrap().removed, 512);
    // A run that was cut off between its list and its bundles is finished by the next.
    let bundle = tiles::bundle(all[..256].iter().map(Vec::as_slice)).unwrap();
    fs::write(folder.path().join("tile/entries/000"), bundle).unwrap();
    assert_eq!(check(&log, folder.path(), None, Part::All).unwrap().removed, 256);
    assert_eq!(forget(9_999).unwrap(), None);
    assert_eq!(check(&log, folder.path(), None, Part::All).unwrap().removed, 512);
    // Proofs still reach from old checkpoints to new ones, and copies still compare.
    let whole = tempfile::tempdir().unwrap();
    log.write(whole.path(), &all[..300]);
    let known = check(&log, whole.path(), None, Part::All).unwrap().checkpoint;
    check(&log, folder.path(), Some(&known), Part::All).unwrap();
    compare((whole.path(), folder.path()), &log.key, &Silent).unwrap();
    // Neither a list without its removal nor a removal without its line goes unnoticed.
    change(folder.path(), "tile/entries/002.p/188", |entries| entries[3].clear());
    finds(
        check(&log, folder.path(), None, Part::All),
        "the payload of record 516 is missing, and no removal",
    );
    change(folder.path(), "tile/entries/002.p/188", |entries| entries[3] = all[515].clone());
    change(folder.path(), "tile/entries/000", |entries| entries[5] = b"forged".to_vec());
    finds(check(&log, folder.path(), None, Part::All), "not the ones that were logged: 6");
    change(folder.path(), "tile/entries/000", |entries| entries[5].clear());
    fs::remove_file(folder.path().join("retention")).unwrap();
    finds(check(&log, folder.path(), None, Part::All), "the payload of record 1 is missing, and no removal");
    // What does not verify is evidence, and stays.
    assert_eq!(forget(9_999).unwrap_err().kind, Kind::Integrity);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_flipped_bit_in_an_export_goes_unnoticed(size in 1_u64..600, file in any::<u64>(), bit in any::<u64>()) {
        let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
        log.write(folder.path(), &records(size));
        let mut files: Vec<_> = Tile::all(size)
            .filter(|tile| tile.level == 0)
            .flat_map(|tile| {
                [tile.path(tile.width(size)), bundle_path(tile.index, tile.width(size))]
            })
            .collect();
        files.push("checkpoint".to_owned());
        let path = folder.path().join(&files[(file % files.len() as u64) as usize]);
        let mut bytes = fs::read(&path).unwrap();
        let bit = bit % (bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let found = check(&log, folder.path(), None, Part::All);
        prop_assert!(found.is_err(), "bit {} of {}", bit, path.display());
    }
}
