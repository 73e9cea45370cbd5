//! Whatever is changed in an envelope: it is refused, and leaves no file.

use std::{fs, path::Path, process::Command};

use custodian_client::Kind;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::{SoftKey, extract_to, run, seal_to, tree};

/// A small envelope of each kind of entry.
fn small(folder: &Path, key: &SoftKey) -> Vec<u8> {
    let source = folder.join("s");
    tree::write(&source.join("a"), b"hello");
    tree::write(&source.join("b"), &tree::text(300));
    tree::write(&source.join("empty"), b"");
    std::os::unix::fs::symlink("a", source.join("l")).expect("link");
    let envelope = folder.join("good.mtd");
    seal_to(key, &source, &envelope);
    fs::read(envelope).expect("read")
}

fn assert_refused(folder: &Path, key: &SoftKey, bytes: &[u8], what: &str) {
    let (envelope, out) = (folder.join("bad.mtd"), folder.join("out"));
    fs::write(&envelope, bytes).expect("written");
    let error = extract_to(key, &envelope, &out).err().unwrap_or_else(|| panic!("{what}: was extracted"));
    assert!(matches!(error.kind, Kind::Integrity | Kind::Local), "{what}: {error}");
    assert!(!out.exists(), "{what}: left {:?}", tree::read(&out).keys());
    // Some file systems flush a file to disk that is truncated and written again, but not a new one.
    fs::remove_file(&envelope).expect("removed");
}

/// Bytes of local headers that nobody reads: “version needed”, and the times, which are taken from the directory.
fn is_ignored(bytes: &[u8], at: usize) -> bool {
    let starts =
        bytes.windows(4).enumerate().filter(|(_, window)| *window == b"PK\x03\x04").map(|(start, _)| start);
    starts.into_iter().any(|start| {
        let len = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let extra = start + 30 + len(start + 26);
        (start + 4..start + 6).contains(&at)
            || bytes[extra..extra + 2] == [0x55, 0x54] && (extra..extra + 9).contains(&at)
    })
}

#[test]
fn law_8_every_flipped_bit_is_refused_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = small(folder.path(), key);
    let mut ignored = 0;
    for at in 0..good.len() {
        if is_ignored(&good, at) {
            ignored += 1;
            continue;
        }
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert_refused(folder.path(), key, &bad, &format!("bit {bit} of byte {at}"));
        }
    }
    assert!(ignored < good.len() / 20, "{ignored} of {} bytes are not checked", good.len());
}

#[test]
fn ignored_bits_change_nothing_that_is_extracted() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = small(folder.path(), key);
    let expected = tree::read(&folder.path().join("s"));
    for at in (0..good.len()).filter(|at| is_ignored(&good, *at)) {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let (envelope, out) = (folder.path().join("changed.mtd"), folder.path().join("out"));
            fs::write(&envelope, changed).expect("written");
            if extract_to(key, &envelope, &out).is_ok() {
                assert_eq!(tree::read(&out.join("s")), expected, "bit {bit} of byte {at}");
                fs::remove_dir_all(&out).expect("removed");
            }
            fs::remove_file(&envelope).expect("removed");
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
        prop_assume!((start..end).all(|at| !is_ignored(&good, at)) && good[start..end] != add);
        let mut bad = good.clone();
        bad.splice(start..end, add);
        assert_refused(folder.path(), key, &bad, "spliced");
    }
}

#[test]
fn a_flipped_bit_in_a_large_entry_is_refused_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    for content in [tree::noise(5_000_000), tree::text(60_000_000)] {
        let source = folder.path().join("large");
        fs::write(&source, content).expect("written");
        let envelope = folder.path().join("good.mtd");
        seal_to(key, &source, &envelope);
        let mut bytes = fs::read(&envelope).expect("read");
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
        assert_refused(folder.path(), key, &bytes, "the middle");
        fs::remove_file(envelope).expect("removed");
    }
}

#[test]
fn entries_cannot_be_removed_added_or_exchanged() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let good = small(folder.path(), key);
    let envelope = folder.path().join("edited.mtd");
    let edit = |args: &[&str]| {
        fs::write(&envelope, &good).expect("written");
        run(Command::new("7z").args(args).current_dir(&folder));
        fs::read(&envelope).expect("read")
    };
    fs::write(folder.path().join("stranger"), b"added").expect("written");
    for (edited, what) in [
        (edit(&["d", "edited.mtd", "s/b"]), "an entry removed"),
        (edit(&["rn", "edited.mtd", "s/a", "s/z"]), "an entry renamed"),
        (edit(&["a", "-tzip", "-pguess", "-mem=AES256", "edited.mtd", "stranger"]), "an entry added"),
    ] {
        assert_ne!(edited, good);
        assert_refused(folder.path(), key, &edited, what);
    }
}

#[test]
fn the_key_of_another_envelope_opens_nothing() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (one, two) = (small(folder.path(), key), {
        fs::remove_file(folder.path().join("good.mtd")).expect("removed");
        fs::remove_dir_all(folder.path().join("s")).expect("removed");
        small(folder.path(), key)
    });
    // Both CIPHER.KEYs have one length, so the second can stand in for the first, checksum included.
    let cipher_key_end = |bytes: &[u8]| {
        bytes
            .windows(4)
            .enumerate()
            .filter(|(_, window)| *window == b"PK\x03\x04")
            .nth(1)
            .expect("second entry")
            .0
    };
    let end = cipher_key_end(&one);
    assert_eq!(end, cipher_key_end(&two));
    let crc_at = one.windows(4).position(|window| window == b"PK\x01\x02").expect("directory") + 16;
    let mut mixed = one.clone();
    mixed[..end].copy_from_slice(&two[..end]);
    let crc: [u8; 4] = two[14..18].try_into().expect("4 bytes");
    mixed[crc_at..crc_at + 4].copy_from_slice(&crc);
    assert_refused(folder.path(), key, &mixed, "another CIPHER.KEY");

    let stranger = SoftKey::new(&[]);
    let envelope = folder.path().join("one.mtd");
    fs::write(&envelope, &one).expect("written");
    let error = extract_to(&stranger, &envelope, &folder.path().join("out")).expect_err("wrong key");
    assert_eq!(error.kind, Kind::Integrity);
}
