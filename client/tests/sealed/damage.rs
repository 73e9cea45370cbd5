//! Whatever is changed in an envelope: it is refused, and leaves no file.

use std::{fs, path::Path};

use custodian_client::{Kind, envelope::Format, extract::extract, progress::Silent, seal::seal};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    common::{SoftKey, extract_job, extract_to, seal_job, seal_to, tree},
    pack::{HEADER, Parts, SEALED_CHUNK},
};

/// A small envelope of each kind of entry.
fn small(folder: &Path, key: &SoftKey) -> Vec<u8> {
    let source = folder.join("s");
    tree::write(&source.join("a"), b"hello");
    tree::write(&source.join("b"), &tree::text(300));
    tree::write(&source.join("empty"), b"");
    std::os::unix::fs::symlink("a", source.join("l")).expect("link");
    sealed(folder, key, &source)
}

fn sealed(folder: &Path, key: &SoftKey, source: &Path) -> Vec<u8> {
    let envelope = folder.join("good.sealed");
    seal_to(key, source, &envelope);
    let bytes = fs::read(&envelope).expect("read");
    fs::remove_file(envelope).expect("removed");
    fs::remove_dir_all(source).expect("removed");
    bytes
}

fn assert_refused(folder: &Path, key: &SoftKey, bytes: &[u8], what: &str) -> String {
    let (envelope, out) = (folder.join("bad.sealed"), folder.join("out"));
    fs::write(&envelope, bytes).expect("written");
    let error = extract_to(key, &envelope, &out).err().unwrap_or_else(|| panic!("{what}: was extracted"));
    assert!(matches!(error.kind, Kind::Integrity | Kind::Local), "{what}: {error}");
    assert!(!out.exists(), "{what}: left {:?}", tree::read(&out).keys());
    // Some file systems flush a file to disk that is truncated and written again, but not a new one.
    fs::remove_file(&envelope).expect("removed");
    error.why
}

#[test]
fn every_flipped_bit_is_refused_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = small(folder.path(), key);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert_refused(folder.path(), key, &bad, &format!("bit {bit} of byte {at}"));
        }
    }
}

#[test]
fn every_truncation_is_refused_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = small(folder.path(), key);
    for len in 0..good.len() {
        assert_refused(folder.path(), key, &good[..len], &format!("cut to {len}"));
    }
}

#[test]
fn every_truncation_of_the_data_alone_is_refused() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = Parts::of(&small(folder.path(), key));
    for len in 0..good.data.len() {
        let bad = Parts { data: good.data[..len].to_vec(), ..good.clone() };
        assert_refused(folder.path(), key, &bad.pack(), &format!("data cut to {len}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn bytes_removed_added_or_replaced_anywhere_are_refused(
        at in any::<prop::sample::Index>(),
        remove in 0usize..40,
        add in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
        let good = small(folder.path(), key);
        let start = at.index(good.len());
        let end = (start + remove).min(good.len());
        prop_assume!(good[start..end] != add);
        let mut bad = good.clone();
        bad.splice(start..end, add);
        assert_refused(folder.path(), key, &bad, "spliced");
    }
}

#[test]
fn chunks_cannot_be_exchanged_repeated_left_out_or_taken_from_elsewhere() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let large = |len| {
        let source = folder.path().join("s");
        tree::write(&source.join("large"), &tree::noise(len));
        Parts::of(&sealed(folder.path(), key, &source))
    };
    // A block of 16 chunks and a half: read alone and among others.
    let len = 24 * 16_384;
    let (good, other) = (large(len), large(len));
    let chunks = |parts: &Parts| -> Vec<Vec<u8>> {
        parts.data[HEADER..].chunks(SEALED_CHUNK).map(<[u8]>::to_vec).collect()
    };
    let packed = |chunks: Vec<Vec<u8>>| {
        Parts { data: [good.data[..HEADER].to_vec(), chunks.concat()].concat(), ..good.clone() }.pack()
    };
    let (mine, theirs) = (chunks(&good), chunks(&other));
    let edited = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut chunks = mine.clone();
        edit(&mut chunks);
        packed(chunks)
    };
    for number in [0, 1, 15, 16, mine.len() - 2] {
        let cases: [(&str, Vec<u8>); 5] = [
            ("exchanged", edited(&|chunks| chunks.swap(number, (number + 5) % (mine.len() - 1)))),
            ("repeated", edited(&|chunks| chunks.insert(number, mine[number].clone()))),
            ("left out", edited(&|chunks| drop(chunks.remove(number)))),
            ("replaced by zeros", edited(&|chunks| chunks[number].fill(0))),
            ("from another envelope", edited(&|chunks| chunks[number].clone_from(&theirs[number]))),
        ];
        for (what, bad) in cases {
            assert_refused(folder.path(), key, &bad, &format!("chunk {number} {what}"));
        }
    }
    for (what, bad) in [
        ("the last chunk left out", edited(&|chunks| drop(chunks.pop()))),
        ("the last chunk twice", edited(&|chunks| chunks.push(mine[mine.len() - 1].clone()))),
        ("ended at another chunk", edited(&|chunks| chunks.truncate(3))),
        ("another's chunks", packed(theirs.clone())),
    ] {
        assert_refused(folder.path(), key, &bad, what);
    }
    assert_eq!(packed(mine).len(), good.pack().len());
}

#[test]
fn neither_key_nor_data_passes_for_that_of_another_envelope() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (one, two) = (Parts::of(&small(folder.path(), key)), Parts::of(&small(folder.path(), key)));
    let mixed = Parts { cipher_key: one.cipher_key.clone(), data: two.data.clone() };
    let why = assert_refused(folder.path(), key, &mixed.pack(), "mixed");
    assert!(why.contains("not sealed with this CIPHER.KEY"), "{why}");
    let other_salt =
        Parts { data: [&two.data[..24], &one.data[24..]].concat(), cipher_key: one.cipher_key.clone() };
    let why = assert_refused(folder.path(), key, &other_salt.pack(), "another salt");
    assert!(why.contains("not sealed with this CIPHER.KEY"), "{why}");

    let stranger = SoftKey::new(&[]);
    let envelope = folder.path().join("one.sealed");
    fs::write(&envelope, one.pack()).expect("written");
    let error = extract_to(&stranger, &envelope, &folder.path().join("out")).expect_err("wrong key");
    assert_eq!(error.kind, Kind::Integrity);
}

#[test]
fn the_cipher_key_of_one_format_does_not_pass_for_one_of_the_other() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let sealed = Parts::of(&small(folder.path(), key));
    tree::write(&folder.path().join("a"), b"a");
    let mut job = seal_job(key, &[&folder.path().join("a")], &folder.path().join("a.mtd"));
    job.format = Format::Mtd;
    seal(&job, &Silent).expect("sealed");
    let mtd = fs::read(folder.path().join("a.mtd")).expect("read");
    let key_len = u32::from_le_bytes(mtd[18..22].try_into().expect("4 bytes")) as usize;
    let key_at = 40 + usize::from(mtd[28]);
    let mtd_key = mtd[key_at..key_at + key_len].to_vec();

    let why =
        assert_refused(folder.path(), key, &Parts { cipher_key: mtd_key, ..sealed.clone() }.pack(), "MTD's");
    assert!(why.contains("attributes"), "{why}");
    let archive = crate::common::hostile::archive(&[
        crate::common::hostile::Entry::cipher_key(&sealed.cipher_key),
        crate::common::hostile::Entry::file("a", b"a"),
    ]);
    let why = assert_refused(folder.path(), key, &archive, "sealed's");
    assert!(why.contains("attributes"), "{why}");
}

#[test]
fn a_flipped_bit_in_a_large_entry_is_refused_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    for content in [tree::noise(20_000_000), tree::text(60_000_000)] {
        let source = folder.path().join("s");
        tree::write(&source.join("large"), &content);
        let good = sealed(folder.path(), key, &source);
        for at in [good.len() / 3, good.len() / 2, good.len() - 5_000] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let why = assert_refused(folder.path(), key, &bad, "one bit");
            assert!(why.contains("chunk"), "{why}");
        }
    }
}

#[test]
fn one_file_is_taken_out_without_reading_the_others() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let source = folder.path().join("s");
    let wanted = tree::noise(3_000_000);
    tree::write(&source.join("a"), &tree::noise(20_000_000));
    tree::write(&source.join("b"), &wanted);
    tree::write(&source.join("c"), &tree::noise(20_000_000));
    let mut bytes = sealed(folder.path(), key, &source);
    // What lies in the middle of the others is not what was sealed: whoever read it would notice.
    for at in [10_000_000, 33_000_000] {
        bytes[at] ^= 1;
    }
    let (envelope, out) = (folder.path().join("e.sealed"), folder.path().join("out"));
    fs::write(&envelope, bytes).expect("written");
    let mut job = extract_job(&envelope, &out);
    job.only = vec!["s/b".to_owned()];
    extract(&job, key, &Silent).expect("extracted");
    assert_eq!(tree::contents(&out).concat(), wanted);
    job.only = vec!["s/c".to_owned()];
    assert_eq!(extract(&job, key, &Silent).expect_err("damaged").kind, Kind::Integrity);
}
