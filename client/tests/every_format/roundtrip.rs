//! What comes out is what went in.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use custodian_client::{
    Kind,
    extract::{ExtractJob, ExtractTo, extract},
    progress::{Progress, Silent},
    seal::{SealTo, seal},
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::{SoftKey, extract_job, extract_to, seal_job, seal_to, tree};

#[derive(Clone, Debug)]
enum Node {
    File { content: Vec<u8>, mode: u32, modified: i64 },
    Folder { children: BTreeMap<String, Node>, mode: u32, modified: i64 },
    Link(String),
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 1..200),
        (0usize..200_000).prop_map(tree::text),
        (0usize..200_000).prop_map(tree::noise),
        // More than one chunk.
        (1_000_000usize..2_500_000).prop_map(tree::text),
        (1_000_000usize..2_500_000).prop_map(tree::noise),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 ._äöüßλ☃-]{0,12}[a-zA-Zé雪]"
        .prop_filter("names that any system takes", |name| !name.starts_with('.') && !name.contains(".."))
}

fn node() -> impl Strategy<Value = Node> {
    let times = -2_000_000_000i64..2_000_000_000;
    let file = (content(), 0u32..0o1000, times.clone()).prop_map(|(content, mode, modified)| Node::File {
        content,
        mode,
        modified,
    });
    let leaf = prop_oneof![6 => file, 1 => name().prop_map(Node::Link)];
    leaf.prop_recursive(5, 24, 6, move |inner| {
        let modes = (0u32..0o1000).prop_map(|mode| mode | 0o500);
        (prop::collection::btree_map(name(), inner, 0..6), modes, times.clone())
            .prop_map(|(children, mode, modified)| Node::Folder { children, mode, modified })
    })
}

fn make(path: &Path, node: &Node) {
    match node {
        Node::File { content, mode, modified } => {
            fs::write(path, content).expect("written");
            tree::set_modified(path, *modified);
            tree::set_mode(path, *mode);
        }
        Node::Folder { children, mode, modified } => {
            fs::create_dir(path).expect("folder");
            children.iter().for_each(|(name, child)| make(&path.join(name), child));
            tree::set_modified(path, *modified);
            tree::set_mode(path, *mode);
        }
        Node::Link(target) => std::os::unix::fs::symlink(target, path).expect("link"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn every_tree_comes_back_as_it_was(children in prop::collection::btree_map(name(), node(), 0..6)) {
        let folder = TempDir::new().expect("folder");
        let source = folder.path().join("tree");
        make(&source, &Node::Folder { children, mode: 0o755, modified: 1_000_000_000 });
        let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
        let sealed = seal_to(SoftKey::shared(), &source, &envelope);
        prop_assert_eq!(sealed.envelope_bytes, envelope.metadata().expect("there").len());
        let extracted = extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
        prop_assert_eq!(
            (sealed.entries, sealed.content_bytes, sealed.content_bytes),
            (extracted.entries, extracted.content_bytes, counted(&out))
        );

        let umask = umask();
        let mut expected = tree::read(&source);
        for found in expected.values_mut().filter(|found| found.mode & 0o170_000 != 0o120_000) {
            found.mode &= !umask;
        }
        prop_assert_eq!(expected, tree::read(&out.join("tree")));
    }
}

fn counted(folder: &Path) -> u64 {
    let files = tree::read(folder).into_values().filter(|found| found.mode & 0o170_000 == 0o100_000);
    files.map(|found| found.content.len() as u64).sum()
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).expect("umask");
    u32::from_str_radix(line.trim(), 8).expect("octal")
}

#[test]
fn thousands_of_files_and_deep_folders_come_back() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("many");
    for n in 0..3_000 {
        tree::write(&source.join(format!("{}/{n}", n % 50)), format!("file {n}").as_bytes());
    }
    let deep: String = (0..200).map(|n| format!("d{n}/")).collect();
    tree::write(&source.join(deep).join("bottom"), b"deep");
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(SoftKey::shared(), &source, &envelope);
    extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
    assert_eq!(tree::read(&source), tree::read(&out.join("many")));
}

#[test]
fn more_entries_than_16_bits_can_count_come_back() {
    // In memory if possible: a disk takes minutes for so many folders.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new()).expect("folder");
    let source = folder.path().join("many");
    (0..66_000).for_each(|n| fs::create_dir_all(source.join(format!("{}/{n}", n % 256))).expect("folder"));
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    let sealed = seal_to(SoftKey::shared(), &source, &envelope);
    assert_eq!(sealed.entries, 66_257);
    extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
    assert_eq!(tree::read(&source), tree::read(&out.join("many")));
}

#[test]
fn set_user_id_is_never_restored() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("tool");
    tree::write(&source, b"#!/bin/sh");
    tree::set_mode(&source, 0o6755);
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(SoftKey::shared(), &source, &envelope);
    extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
    assert_eq!(tree::read(&out)[Path::new("tool")].mode, 0o100_755);
}

#[test]
fn only_takes_what_matches_and_a_second_run_adds_to_it() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    for name in ["a.txt", "b.md", "sub/c.txt", "sub/d.md"] {
        tree::write(&source.join(name), name.as_bytes());
    }
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(SoftKey::shared(), &source, &envelope);
    let only = |globs: &[&str]| {
        let mut job = extract_job(&envelope, &out);
        job.only = globs.iter().map(ToString::to_string).collect();
        extract(&job, SoftKey::shared(), &Silent)
    };
    only(&["docs/*.txt"]).expect("one");
    assert_eq!(tree::contents(&out).concat(), b"a.txt");
    only(&["docs/sub", "**/b.md"]).expect("the others");
    assert_eq!(tree::read(&source), tree::read(&out.join("docs")));

    let taken = only(&["docs/b.md"]).expect_err("is there");
    assert!(taken.kind == Kind::Local && taken.what.contains("docs/b.md"), "{taken}");
    let nothing = only(&["nothing"]).expect_err("no match");
    assert_eq!(nothing.kind, Kind::Local);
    assert_eq!(only(&["[a"]).expect_err("no glob").kind, Kind::Usage);
}

#[test]
fn existing_files_are_never_overwritten() {
    let key = SoftKey::new(&[]);
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("a"), b"new");
    tree::write(&source.join("b"), b"new");
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(&key, &source, &envelope);
    tree::write(&out.join("docs/b"), b"old");
    let error = extract_to(&key, &envelope, &out).expect_err("is there");
    assert!(error.what.contains("docs/b") && error.hint.contains("-C"), "{error:?}");
    assert_eq!(tree::contents(&out).concat(), b"old");

    // The same for a link that would lead the files elsewhere.
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("folder");
    fs::remove_dir_all(out.join("docs")).expect("removed");
    std::os::unix::fs::symlink(&elsewhere, out.join("docs")).expect("link");
    extract_to(&key, &envelope, &out).expect_err("is a link");
    assert!(tree::is_empty(&elsewhere));

    let sealed_again = seal(&seal_job(&key, &[&source], &envelope), &Silent).expect_err("is there");
    assert_eq!(sealed_again.kind, Kind::Local);
}

/// Stops after this many bytes.
struct StopAfter(u64, AtomicU64);

impl Progress for StopAfter {
    fn total(&self, _: u64) {}
    fn advance(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::SeqCst);
    }
    fn interrupted(&self) -> bool {
        self.1.load(Ordering::SeqCst) >= self.0
    }
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("large"), &tree::noise(8_000_000));
    (0..20).for_each(|n| tree::write(&source.join(format!("small {n}")), b"small"));
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    let stop = |bytes| StopAfter(bytes, AtomicU64::new(0));
    let interrupted = seal(&seal_job(SoftKey::shared(), &[&source], &envelope), &stop(2_000_000));
    assert_eq!(interrupted.expect_err("interrupted").kind, Kind::Interrupted);
    assert_eq!(fs::read_dir(&folder).expect("listed").count(), 1);

    seal_to(SoftKey::shared(), &source, &envelope);
    for bytes in [0, 2_000_000, 8_000_000, 8_000_050] {
        let job = extract_job(&envelope, &out);
        let error = extract(&job, SoftKey::shared(), &stop(bytes)).expect_err("interrupted");
        assert_eq!(error.kind, Kind::Interrupted);
        assert!(!out.exists(), "the folder we made goes too");
    }
}

#[test]
fn progress_adds_up_to_its_total() {
    struct Sum(AtomicU64, AtomicU64);
    impl Progress for Sum {
        fn total(&self, bytes: u64) {
            self.0.store(bytes, Ordering::SeqCst);
        }
        fn advance(&self, bytes: u64) {
            self.1.fetch_add(bytes, Ordering::SeqCst);
        }
        fn interrupted(&self) -> bool {
            false
        }
    }
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("large noise"), &tree::noise(3_000_000));
    tree::write(&source.join("large text"), &tree::text(3_000_000));
    tree::write(&source.join("small"), b"small");
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    let sealing = Sum(AtomicU64::new(0), AtomicU64::new(0));
    seal(&seal_job(SoftKey::shared(), &[&source], &envelope), &sealing).expect("sealed");
    let extracting = Sum(AtomicU64::new(0), AtomicU64::new(0));
    extract(&extract_job(&envelope, &out), SoftKey::shared(), &extracting).expect("extracted");
    for sum in [sealing, extracting] {
        assert_eq!((sum.0.into_inner(), sum.1.into_inner()), (6_000_005, 6_000_005));
    }
}

#[test]
fn only_one_file_goes_to_standard_output() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("a"), b"a");
    tree::write(&source.join("b"), b"b");
    let envelope = folder.path().join("e.mtd");
    let key = SoftKey::new(&[]);
    seal_to(&key, &source, &envelope);
    let mut job = extract_job(&envelope, Path::new("unused"));
    job.output = ExtractTo::Stdout;
    assert_eq!(extract(&job, &key, &Silent).expect_err("two").kind, Kind::Usage);
    job.only = vec!["docs".to_owned()];
    assert_eq!(extract(&job, &key, &Silent).expect_err("two").kind, Kind::Usage);
}

#[test]
fn listing_tells_what_would_be_extracted_and_writes_nothing() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("docs");
    tree::write(&source.join("a"), b"12345");
    tree::write(&source.join("b"), b"b");
    let envelope = folder.path().join("e.envelope");
    seal_to(SoftKey::shared(), &source, &envelope);
    let mut job = extract_job(&envelope, Path::new("unused"));
    job.output = ExtractTo::List;
    let listed = |job: &ExtractJob| {
        let report = extract(job, SoftKey::shared(), &Silent).expect("listed");
        assert_eq!(report.entries, report.listed.len() as u64);
        report.listed.into_iter().map(|entry| (entry.path, entry.size)).collect::<Vec<_>>()
    };
    let paths: Vec<_> = listed(&job).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["docs/", "docs/a", "docs/b"]);
    job.only = vec!["docs/a".to_owned()];
    assert_eq!(listed(&job), [("docs/a".to_owned(), 5)]);
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 2);
}

#[test]
fn an_envelope_is_not_written_where_there_is_no_folder() {
    let folder = TempDir::new().expect("folder");
    let mut job = seal_job(SoftKey::shared(), &[folder.path()], &folder.path().join("missing/e.mtd"));
    assert_eq!(seal(&job, &Silent).expect_err("no folder").kind, Kind::Local);
    job.output = SealTo::File("/".into());
    assert_eq!(seal(&job, &Silent).expect_err("no name").kind, Kind::Local);
    assert!(tree::is_empty(folder.path()));
}
