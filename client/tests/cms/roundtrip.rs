//! What comes out is what went in.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use custodian_client::{
    Kind,
    extract::{ExtractTo, Input, extract},
    inspect::inspect,
    progress::{Progress, Silent},
    seal::seal,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::{SoftKey, extract_job, extract_to, seal_job, seal_to, tree};

const PIECE: usize = 1024 * 1024;
const SIZES: [usize; 12] =
    [0, 1, 15, 16, 17, 4096, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 17, 9 * PIECE];

/// `envelope seal --format cms ARGS…` with this on its standard input.
pub(crate) fn seal_stdin(key: &SoftKey, folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_envelope"))
        .args(["seal", "--format", "cms", "--to"])
        .arg(key.path("cert.pem"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output().expect("ends");
    feeding.join().expect("fed");
    output
}

#[test]
fn a_file_of_any_size_comes_back() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("report.pdf"), folder.path().join("report.pdf.p7m"));
    for size in SIZES {
        let content = tree::noise(size);
        fs::write(&file, &content).expect("written");
        let report = seal_to(key, &file, &envelope);
        assert_eq!((report.entries, report.content_bytes), (1, size as u64));
        assert_eq!(report.envelope_bytes, fs::metadata(&envelope).expect("there").len());
        let out = folder.path().join("out");
        let report = extract_to(key, &envelope, &out).expect("extracted");
        assert_eq!((report.entries, report.content_bytes), (1, size as u64));
        assert!(fs::read(out.join("report.pdf")).expect("there") == content, "{size} bytes");
        fs::remove_dir_all(&out).and_then(|()| fs::remove_file(&envelope)).expect("removed");
    }
}

#[test]
fn the_one_file_is_listed_without_a_key() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::new(&[]));
    let (file, envelope) = (folder.path().join("report.pdf"), folder.path().join("report.pdf.p7m"));
    fs::write(&file, b"12345").expect("written");
    seal_to(&key, &file, &envelope);
    let mut job = extract_job(&envelope, Path::new("unused"));
    job.output = ExtractTo::List;
    let listed = extract(&job, &key, &Silent).expect("listed").listed;
    let listed: Vec<_> = listed.into_iter().map(|entry| (entry.path, entry.size)).collect();
    assert_eq!(listed, [("report.pdf".to_owned(), 5)]);
    assert_eq!(key.asked(), 0);
    job.only = vec!["another".to_owned()];
    assert_eq!(extract(&job, &key, &Silent).expect_err("no entry").kind, Kind::Local);
}

#[test]
fn what_comes_through_a_pipe_comes_back() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    for size in SIZES {
        let content = tree::noise(size);
        let sealed = seal_stdin(key, folder.path(), &["--name", "dump.sql", "-"], &content);
        assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
        let (envelope, out) = (folder.path().join("dump.sql.p7m"), folder.path().join("out"));
        extract_to(key, &envelope, &out).expect("extracted");
        assert!(fs::read(out.join("dump.sql")).expect("there") == content, "{size} bytes");
        fs::remove_dir_all(&out).and_then(|()| fs::remove_file(&envelope)).expect("removed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_content_comes_back(content in prop::collection::vec(any::<u8>(), 0..100_000)) {
        let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
        let (file, envelope) = (folder.path().join("f"), folder.path().join("f.p7m"));
        fs::write(&file, &content).expect("written");
        seal_to(key, &file, &envelope);
        extract_to(key, &envelope, &folder.path().join("out")).expect("extracted");
        prop_assert_eq!(fs::read(folder.path().join("out/f")).expect("there"), content);
    }
}

#[test]
fn the_content_has_the_name_of_the_envelope_without_its_suffix() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    let file = folder.path().join("f");
    fs::write(&file, b"content").expect("written");
    for (envelope, content) in [
        ("report.pdf.p7m", "report.pdf"),
        ("REPORT.PDF.P7M", "REPORT.PDF"),
        ("a.cms", "a"),
        ("b.p7e", "b"),
        ("letter.eml", "letter.eml.content"),
        ("plain", "plain.content"),
        (".p7m", ".p7m.content"),
    ] {
        let (envelope, out) = (folder.path().join(envelope), folder.path().join("out"));
        seal_to(key, &file, &envelope);
        extract_to(key, &envelope, &out).expect("extracted");
        assert_eq!(fs::read(out.join(content)).expect("there"), b"content");
        assert_eq!(fs::read_dir(&out).expect("listed").count(), 1);

        let asked = key.asked();
        let refused = extract_to(key, &envelope, &out).expect_err("it is there already");
        assert!(refused.kind == Kind::Local && refused.hint.contains("-C"), "{refused}");
        assert_eq!(key.asked(), asked, "a key for nothing");
        fs::remove_dir_all(&out).expect("removed");
    }
}

/// Ctrl-C after the first bytes.
#[derive(Default)]
struct CtrlC(AtomicBool);

impl Progress for CtrlC {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {
        self.0.store(true, Ordering::SeqCst);
    }
    fn interrupted(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn an_interruption_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope, out) =
        (folder.path().join("f"), folder.path().join("f.p7m"), folder.path().join("out"));
    fs::write(&file, tree::noise(64 * PIECE)).expect("written");
    let stopped = seal(&seal_job(key, &[&file], &envelope), &CtrlC::default()).expect_err("stopped");
    assert_eq!(stopped.kind, Kind::Interrupted);
    assert_eq!(fs::read_dir(&folder).expect("listed").count(), 1, "only the file itself");

    seal_to(key, &file, &envelope);
    let stopped = extract(&extract_job(&envelope, &out), key, &CtrlC::default()).expect_err("stopped");
    assert_eq!(stopped.kind, Kind::Interrupted);
    assert!(!out.exists());
}

#[test]
fn every_recipient_can_open_it() {
    let folder = TempDir::new().expect("folder");
    let keys = [SoftKey::new(&[]), SoftKey::new(&[])];
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.p7m"));
    fs::write(&file, b"content").expect("written");
    let mut job = seal_job(&keys[0], &[&file], &envelope);
    job.recipients.push(keys[1].certificate.clone());
    seal(&job, &Silent).expect("sealed");

    let inspection = inspect(&Input::File(envelope.clone())).expect("inspected");
    assert_eq!((inspection.format, inspection.recipients.len()), ("cms", 2));
    assert_eq!(inspection.encryption, "AES-256-GCM");
    let entries = inspection.entries.expect("not secret");
    assert_eq!((entries.len(), &*entries[0].path, entries[0].size), (1, "f", 7));

    for (n, key) in keys.iter().enumerate() {
        let out = folder.path().join(format!("out{n}"));
        extract(&extract_job(&envelope, &out), &crate::damage::Own::of(key), &Silent).expect("extracted");
        assert_eq!(fs::read(out.join("f")).expect("there"), b"content");
    }
}

#[test]
fn anything_but_one_file_is_refused_with_the_cure() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (one, other, envelope) =
        (folder.path().join("one"), folder.path().join("sub/other"), folder.path().join("e.p7m"));
    tree::write(&one, b"1");
    tree::write(&other, b"2");
    for paths in [&[&*one, &*other][..], &[&folder.path().join("sub")]] {
        let refused = seal(&seal_job(key, paths, &envelope), &Silent).expect_err("refused");
        assert_eq!(refused.kind, Kind::Usage);
        assert!(refused.hint.contains("--format mtd"), "{}", refused.hint);
        assert!(!envelope.exists());
    }
    let refused = seal_stdin(key, folder.path(), &["-o", "e.p7m", "one", "-"], b"x");
    assert_eq!(refused.status.code(), Some(2));
    assert!(!envelope.exists());
}

#[test]
fn more_than_one_message_can_hold_is_refused_before_a_byte_is_read() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("huge"), folder.path().join("huge.p7m"));
    fs::File::create(&file).and_then(|file| file.set_len(1 << 36)).expect("a sparse file");
    let refused = seal(&seal_job(key, &[&file], &envelope), &Silent).expect_err("refused");
    assert!(refused.why.contains("64 GiB") && refused.hint.contains("--format mtd"), "{refused}");
    fs::remove_file(&file).expect("removed");
    assert!(tree::is_empty(folder.path()));
}
