//! Whatever happens to an envelope on the way: nothing of it comes out.

use std::{fs, path::Path};

use custodian_client::{
    Error, Kind,
    error::Result,
    extract::extract,
    progress::Silent,
    seal::seal,
    unwrapper::{KeyName, Unwrapper},
};
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tempfile::TempDir;

use crate::{
    common::{extract_job, tree},
    gpg::{Gpg, job},
};

/// Answers as the custodian does: one wrapped key is right, everything else is rejected.
pub(crate) struct Only {
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) file_key: [u8; 32],
}

impl Unwrapper for Only {
    fn unwrap(&self, wrapped: &WrappedKey, _: &Claims) -> Result<FileKey> {
        if wrapped.ciphertext() == self.ciphertext {
            return Ok(FileKey::new(self.file_key));
        }
        Err(Error::new(Kind::Integrity, "cannot unwrap", "rejected"))
    }

    fn choose(&self, _: &[WrappedKey]) -> Result<usize> {
        Ok(0)
    }

    /// Whoever is named: that the name was changed shows later.
    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        Ok(vec![Some(Gpg::key_id()); names.len()])
    }
}

impl Only {
    /// What gpg finds in the first packet of this envelope.
    fn of(gpg: &Gpg, envelope: &Path, folder: &Path) -> Self {
        struct Watching<'g>(&'g Gpg, std::sync::Mutex<Option<Only>>);
        impl Unwrapper for Watching<'_> {
            fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
                let key = self.0.unwrap(wrapped, claims)?;
                let only = Only { ciphertext: wrapped.ciphertext().to_vec(), file_key: *key.expose() };
                *self.1.lock().expect("lock") = Some(only);
                Ok(key)
            }
            fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
                self.0.choose(wrapped)
            }
            fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
                self.0.find(names)
            }
        }
        let watching = Watching(gpg, std::sync::Mutex::default());
        extract(&extract_job(envelope, &folder.join("watched")), &watching, &Silent).expect("opens");
        watching.1.into_inner().expect("lock").expect("asked")
    }
}

fn assert_refused(folder: &Path, unwrapper: &dyn Unwrapper, bytes: &[u8], what: &str) {
    let (envelope, out) = (folder.join("bad.gpg"), folder.join("out"));
    fs::write(&envelope, bytes).expect("written");
    let error = extract(&extract_job(&envelope, &out), unwrapper, &Silent)
        .err()
        .unwrap_or_else(|| panic!("{what}: was extracted"));
    assert!(matches!(error.kind, Kind::Integrity | Kind::Local), "{what}: {error}");
    assert!(!out.exists(), "{what}: left {:?}", tree::read(&out).keys());
    fs::remove_file(&envelope).expect("removed");
}

/// Ours, and gpg's: compressed.
fn small(folder: &Path, gpg: &Gpg) -> Vec<(&'static str, Vec<u8>, Only)> {
    let file = folder.join("f");
    fs::write(&file, b"hello hello hello hello hello").expect("written");
    let read = |name: &'static str, path: &Path| {
        let only = Only::of(gpg, path, &folder.join(name));
        (name, fs::read(path).expect("read"), only)
    };
    let (ours, theirs) = (folder.join("ours.gpg"), folder.join("theirs.gpg"));
    seal(&job(&[&gpg.certificate], &file, &ours), &Silent).expect("sealed");
    gpg.encrypt(&file, &theirs, &["-z", "6"]);
    vec![read("ours", &ours), read("gpg's", &theirs)]
}

/// Bits of the names of keys: whose key it is, the custodian decides. Changed names lead to a key that does not open it, or
/// to nobody.
fn is_name(bit: usize) -> bool {
    // Behind the head of the packet (3 bytes) and its version.
    (4 * 8..12 * 8).contains(&bit)
}

#[test]
fn every_single_flipped_bit_is_refused_and_leaves_no_file() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    for (name, good, only) in small(folder.path(), &gpg) {
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if !is_name(bit) {
                assert_refused(folder.path(), &only, &bad, &format!("{name}, bit {bit}"));
            }
        }
    }
}

#[test]
fn every_truncation_and_anything_behind_the_end_is_refused() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    for (name, good, only) in small(folder.path(), &gpg) {
        for len in 0..good.len() {
            assert_refused(folder.path(), &only, &good[..len], &format!("{name}, {len} bytes"));
        }
        for more in [&b"\n"[..], &good, &[0xca, 3, b'P', b'G', b'P']] {
            assert_refused(folder.path(), &only, &[&good, more].concat(), &format!("{name} and more"));
        }
    }
}

#[test]
fn a_message_whose_content_was_exchanged_is_refused() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    let both = small(folder.path(), &gpg);
    // Both begin with a packet of the same length.
    let pkesk = 3 + 1 + 8 + 1 + 2 + 256;
    for ((name, one, only), (_, other, _)) in [(&both[0], &both[1]), (&both[1], &both[0])] {
        assert_refused(folder.path(), only, &[&one[..pkesk], &other[pkesk..]].concat(), name);
    }
}

#[test]
fn damage_to_larger_ones_is_refused() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("good.gpg"));
    fs::write(&file, tree::noise(300_000)).expect("written");
    gpg.encrypt(&file, &envelope, &["-z", "0"]);
    let only = Only::of(&gpg, &envelope, folder.path());
    let good = fs::read(&envelope).expect("read");
    let damage = (
        any::<prop::sample::Index>(),
        prop::sample::select(vec!["flip", "cut", "drop a part"]),
        1usize..5_000,
    );
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&damage, |(at, how, len)| {
        let mut bytes = good.clone();
        let at = at.index(bytes.len() - 280) + 280;
        match how {
            "flip" => bytes[at] ^= 0x10,
            "cut" => bytes.truncate(at),
            _ => drop(bytes.drain(at..(at + len).min(bytes.len()))),
        }
        assert_refused(folder.path(), &only, &bytes, how);
        Ok(())
    });
    outcome.expect("all are refused");
}
