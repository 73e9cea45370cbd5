//! What can be sealed, and what is said about the rest.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use custodian_client::{
    Error, Kind,
    progress::{Progress, Silent},
    seal::{Symlinks, seal},
};
use tempfile::TempDir;

use crate::common::{SoftKey, extract_to, seal_job, seal_to, tree};

/// Seals a folder that must be refused, and checks that nothing is left.
fn refused(source: &Path, symlinks: Symlinks) -> Error {
    let folder = TempDir::new().expect("folder");
    let mut job = seal_job(SoftKey::shared(), &[source], &folder.path().join("e.mtd"));
    job.symlinks = symlinks;
    let error = seal(&job, &Silent).expect_err("refused");
    assert_eq!(error.kind, Kind::Local);
    assert!(tree::is_empty(folder.path()));
    error
}

#[test]
fn links_are_refused_or_kept_as_the_person_says() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("s");
    tree::write(&source.join("sub/a"), b"a");
    symlink("sub/a", source.join("link")).expect("link");
    let error = refused(&source, Symlinks::Refuse);
    assert!(error.what.contains("s/link") && error.hint.contains("keep"), "{error:?}");

    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(SoftKey::shared(), &source, &envelope);
    extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
    assert_eq!(out.join("s/link").read_link().expect("link"), Path::new("sub/a"));

    symlink("../../../outside", source.join("sub/out")).expect("link");
    let error = refused(&source, Symlinks::Keep);
    assert!(error.what.contains("sub/out") && error.why.contains("points out"), "{error:?}");
}

#[test]
fn what_is_no_file_is_named() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("s");
    fs::create_dir(&source).expect("folder");
    let _socket = UnixListener::bind(source.join("socket")).expect("socket");
    let error = refused(&source, Symlinks::Keep);
    assert!(error.what.contains("s/socket") && error.why.contains("a socket"), "{error:?}");
    assert!(refused(Path::new("/dev/null"), Symlinks::Keep).why.contains("a device"));
    assert!(refused(&folder.path().join("missing"), Symlinks::Keep).what.contains("missing"));
}

#[test]
fn names_that_could_not_be_extracted_are_not_sealed() {
    for (name, mention) in [
        (&b"back\\slash"[..], "backslash"),
        (b"new\nline", "control"),
        (b"\xff\xfe", "UTF-8"),
        (b"nul", "reserved"),
    ] {
        let folder = TempDir::new().expect("folder");
        let source = folder.path().join("s");
        fs::create_dir(&source).expect("folder");
        fs::write(source.join(std::ffi::OsStr::from_bytes(name)), b"x").expect("written");
        let error = refused(&source, Symlinks::Keep);
        assert!(error.why.contains(mention), "{error}");
    }
}

#[test]
fn names_that_differ_in_case_only_survive_where_the_file_system_tells_them_apart() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("s");
    tree::write(&source.join("Index.html"), b"upper");
    tree::write(&source.join("index.html"), b"lower");
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(SoftKey::shared(), &source, &envelope);
    extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
    assert_eq!(tree::read(&source), tree::read(&out.join("s")));
}

#[test]
fn two_paths_with_one_name_are_refused() {
    let folder = TempDir::new().expect("folder");
    tree::write(&folder.path().join("x/a"), b"1");
    tree::write(&folder.path().join("y/a"), b"2");
    let envelope = folder.path().join("e.mtd");
    let job =
        seal_job(SoftKey::shared(), &[&folder.path().join("x/a"), &folder.path().join("y/a")], &envelope);
    let error = seal(&job, &Silent).expect_err("twice");
    assert!(error.to_string().contains("twice"), "{error}");
}

#[test]
fn dots_at_the_end_of_a_path_stand_for_the_folders_name() {
    let folder = TempDir::new().expect("folder");
    tree::write(&folder.path().join("docs/sub/a"), b"a");
    for (n, path) in ["docs/sub/..", "docs/.", "docs/"].iter().enumerate() {
        let (envelope, out) = (folder.path().join(format!("{n}.mtd")), folder.path().join(format!("out{n}")));
        seal_to(SoftKey::shared(), &folder.path().join(path), &envelope);
        extract_to(SoftKey::shared(), &envelope, &out).expect("extracted");
        assert_eq!(tree::read(&folder.path().join("docs")), tree::read(&out.join("docs")), "{path}");
    }
}

/// Changes a file while the first bytes of it are being sealed.
struct Meddler<'a, F: Fn()>(&'a AtomicBool, F);

impl<F: Fn() + Send + Sync> Progress for Meddler<'_, F> {
    fn total(&self, _: u64) {
        (self.1)();
    }
    fn advance(&self, _: u64) {
        if !self.0.swap(true, Ordering::SeqCst) {
            (self.1)();
        }
    }
    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    for len in [10_000, 6_000_000] {
        for changed_len in [len / 2, len + 1] {
            let folder = TempDir::new().expect("folder");
            let source = folder.path().join("growing");
            fs::write(&source, tree::noise(len)).expect("written");
            let envelope = folder.path().join("e.mtd");
            // Between listing and reading.
            let never = AtomicBool::new(true);
            let change = || {
                fs::OpenOptions::new()
                    .write(true)
                    .open(&source)
                    .and_then(|file| file.set_len(changed_len as u64))
                    .expect("changed");
            };
            let job = seal_job(SoftKey::shared(), &[&source], &envelope);
            let error = seal(&job, &Meddler(&never, change)).expect_err("changed");
            assert!(error.what.contains("growing") && error.why.contains("changed"), "{error}");
            assert!(!envelope.exists());
        }
    }
}
