//! Law 11: no bytes make a parser panic. Whatever is read, sound or not, ends in files or in an error.

use std::{fs, sync::OnceLock};

use custodian_client::{
    extract::{Input, extract},
    inspect::inspect,
    progress::Silent,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    common::{
        SoftKey, extract_job,
        hostile::{Entry, archive},
        tree,
    },
    pack::{Maker, Parts},
};

/// Lets every reader see these bytes.
fn read(bytes: &[u8]) {
    let folder = TempDir::new().expect("folder");
    let envelope = folder.path().join("e.sealed");
    fs::write(&envelope, bytes).expect("written");
    inspect(&Input::File(envelope.clone())).map(drop).ok();
    let extracted = extract(&extract_job(&envelope, &folder.path().join("out")), SoftKey::shared(), &Silent);
    assert_eq!(extracted.is_err(), !folder.path().join("out").exists());
}

fn maker() -> &'static Maker {
    static MAKER: OnceLock<Maker> = OnceLock::new();
    MAKER.get_or_init(|| Maker::new(SoftKey::shared()))
}

/// An archive with something of everything.
fn inside() -> Vec<u8> {
    let mut described = Entry::file("d", b"described").in_the_clear(b"described");
    described.descriptor = true;
    archive(&[
        Entry::folder("f/"),
        Entry::file("f/a", b"content").in_the_clear(b"content"),
        Entry::deflated("f/b", &tree::text(500)).in_the_clear(&tree::text(500)),
        described,
        Entry::link("l", "f/a").in_the_clear(b"f/a"),
    ])
}

/// Bytes with a few of them replaced, removed or added.
fn edited(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0usize..9, prop::collection::vec(any::<u8>(), 0..9));
    prop::collection::vec(edit, 1..4).prop_map(move |edits| {
        let mut bytes = good.clone();
        for (at, remove, add) in edits {
            let start = at.index(bytes.len() + 1);
            let end = (start + remove).min(bytes.len());
            bytes.splice(start..end, add);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn law_11_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        read(&bytes);
        // The same where they are taken for more than they are.
        read(&Parts { cipher_key: bytes.clone(), data: bytes.clone() }.pack());
        read(&maker().seal(&bytes));
    }

    #[test]
    fn archives_that_were_edited_before_they_were_sealed(inside in edited(inside())) {
        read(&maker().seal(&inside));
    }

    #[test]
    fn cipher_keys_that_were_edited(cipher_key in edited(Parts::of(&maker().seal(b"")).cipher_key)) {
        read(&Parts { cipher_key, data: Parts::of(&maker().seal(b"")).data }.pack());
    }

    #[test]
    fn envelopes_that_were_edited(bytes in edited(maker().seal(&inside()))) {
        read(&bytes);
    }
}
