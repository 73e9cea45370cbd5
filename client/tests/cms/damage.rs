//! Whatever is changed in an envelope: it is refused, and leaves no file.

use std::{fs, path::Path, time::SystemTime};

use custodian_client::{
    Error, Kind, envelope::Recipient, error::Result, extract::extract, progress::Silent, unwrapper::Unwrapper,
};
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    common::{SoftKey, extract_job, seal_to, tree},
    roundtrip::seal_stdin,
};

/// A custodian: it has one key, and unwraps for no other.
pub(crate) struct Own<'k> {
    key: &'k SoftKey,
    id: KeyId,
}

impl<'k> Own<'k> {
    pub(crate) fn of(key: &'k SoftKey) -> Self {
        let recipient = Recipient::from_certificate(&key.certificate, SystemTime::now());
        Self { key, id: recipient.expect("certificate").key_id() }
    }
}

impl Unwrapper for Own<'_> {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        assert_eq!(wrapped.key_id(), self.id);
        self.key.unwrap(wrapped, claims)
    }

    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        wrapped
            .iter()
            .position(|wrapped| wrapped.key_id() == self.id)
            .ok_or_else(|| Error::new(Kind::Local, "cannot unwrap", "no such key"))
    }
}

fn assert_refused(folder: &Path, key: &Own<'_>, bytes: &[u8], what: &str) {
    let (envelope, out) = (folder.join("bad.p7m"), folder.join("out"));
    fs::write(&envelope, bytes).expect("written");
    let job = extract_job(&envelope, &out);
    let error = extract(&job, key, &Silent).err().unwrap_or_else(|| panic!("{what}: was extracted"));
    assert!(matches!(error.kind, Kind::Integrity | Kind::Local), "{what}: {error}");
    assert!(!out.exists(), "{what}: left {:?}", tree::read(&out).keys());
    fs::remove_file(&envelope).expect("removed");
}

/// Both forms: of a file, and of a stream.
fn small(folder: &Path, key: &SoftKey) -> [Vec<u8>; 2] {
    let (file, envelope) = (folder.join("f"), folder.join("good.p7m"));
    fs::write(&file, b"hello").expect("written");
    seal_to(key, &file, &envelope);
    let streamed = seal_stdin(key, folder, &["-o", "-", "-"], b"hello");
    assert!(streamed.status.success());
    [fs::read(envelope).expect("read"), streamed.stdout]
}

#[test]
fn every_flipped_bit_is_refused_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let own = Own::of(key);
    for good in small(folder.path(), key) {
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_refused(folder.path(), &own, &bad, &format!("bit {bit} of byte {at}"));
            }
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let own = Own::of(key);
    for good in small(folder.path(), key) {
        for len in 0..good.len() {
            assert_refused(folder.path(), &own, &good[..len], &format!("{len} bytes of it"));
        }
        for more in [&[0][..], &[0, 0], b"\n", &good] {
            assert_refused(folder.path(), &own, &[&good, more].concat(), "something behind it");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn damage_in_a_large_envelope_is_refused(at: prop::sample::Index, bits in 1u8.., cut: bool) {
        let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
        let (file, envelope) = (folder.path().join("f"), folder.path().join("f.p7m"));
        fs::write(&file, tree::noise(2_500_000)).expect("written");
        seal_to(key, &file, &envelope);
        let mut bad = fs::read(&envelope).expect("read");
        let at = at.index(bad.len());
        if cut { bad.truncate(at) } else { bad[at] ^= bits }
        assert_refused(folder.path(), &Own::of(key), &bad, &format!("byte {at}, cut: {cut}"));
    }
}
