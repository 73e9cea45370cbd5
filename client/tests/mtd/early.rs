//! The list of entries is public: what it has to say comes before a key is asked for.

use std::{fs, path::Path};

use custodian_client::{
    Kind,
    extract::{ExtractTo, Input, extract},
    inspect::inspect,
    progress::Silent,
};
use tempfile::TempDir;

use crate::common::{SoftKey, extract_job, extract_to, seal_to, tree};

#[test]
fn inspection_lists_what_is_inside_without_a_key() {
    let key = SoftKey::new(&[]);
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("a.txt"), &tree::text(5_000));
    tree::set_modified(&source.join("a.txt"), 1_700_000_000);
    tree::set_mode(&source.join("a.txt"), 0o640);
    let envelope = folder.path().join("e.mtd");
    seal_to(&key, &source, &envelope);
    let inspection = inspect(&Input::File(envelope.clone())).expect("inspected");
    assert_eq!(
        (inspection.format, inspection.envelope_bytes),
        ("mtd", envelope.metadata().expect("there").len())
    );
    let entries = inspection.entries.expect("public");
    assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["docs/", "docs/a.txt"]);
    assert_eq!((entries[1].size, entries[1].mode), (5_000, Some(0o640)));
    assert_eq!(entries[1].modified.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(entries[1].sealed_size < 1_000);
    assert_eq!(inspection.recipients.len(), 1);
    assert_eq!(inspection.recipients[0].wrapped_key_sha256.len(), 64);
    assert_eq!(key.asked(), 0);
}

#[test]
fn no_key_is_asked_for_if_a_file_is_in_the_way_or_too_many_are_chosen() {
    let key = SoftKey::new(&[]);
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("a"), b"new");
    tree::write(&source.join("b"), b"new");
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(&key, &source, &envelope);
    tree::write(&out.join("docs/b"), b"old");
    assert_eq!(extract_to(&key, &envelope, &out).expect_err("is there").kind, Kind::Local);
    fs::remove_dir_all(out.join("docs")).expect("removed");
    std::os::unix::fs::symlink(folder.path(), out.join("docs")).expect("link");
    assert_eq!(extract_to(&key, &envelope, &out).expect_err("is a link").kind, Kind::Local);

    let mut job = extract_job(&envelope, Path::new("unused"));
    job.output = ExtractTo::Stdout;
    assert_eq!(extract(&job, &key, &Silent).expect_err("two").kind, Kind::Usage);
    assert_eq!(key.asked(), 0);
}
