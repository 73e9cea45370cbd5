//! `-`: standard input is sealed as a file of its own, and no copy of it is written anywhere.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::common::{SoftKey, extract_to, run, tree};

const CHUNK: usize = 1024 * 1024;

/// `envelope seal --format FORMAT --to CERT ARGS…` with this on its standard input.
pub(crate) fn seal(key: &SoftKey, folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_envelope"))
        .args(["seal", "--format", crate::FORMAT.name(), "--to"])
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
fn what_comes_through_a_pipe_comes_back() {
    let key = SoftKey::shared();
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 17] {
        for content in [tree::text(size), tree::noise(size)] {
            let folder = TempDir::new().expect("folder");
            let sealed = seal(key, folder.path(), &["--name", "dump.sql", "-"], &content);
            assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
            let out = folder.path().join("out");
            extract_to(key, &folder.path().join(format!("dump.sql.{}", crate::FORMAT.name())), &out)
                .expect("extracted");
            assert!(fs::read(out.join("dump.sql")).expect("there") == content, "{size} bytes");
        }
    }
}

#[test]
fn standard_input_stands_beside_files() {
    let key = SoftKey::shared();
    let folder = TempDir::new().expect("folder");
    tree::write(&folder.path().join("notes/a"), b"a");
    let sealed = seal(key, folder.path(), &["-o", "e.mtd", "notes", "-"], b"piped");
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
    let out = folder.path().join("out");
    extract_to(key, &folder.path().join("e.mtd"), &out).expect("extracted");
    assert_eq!(fs::read(out.join("notes/a")).expect("there"), b"a");
    assert_eq!(fs::read(out.join("stdin")).expect("there"), b"piped");
}

#[test]
fn a_name_that_cannot_be_is_refused_and_nothing_is_left() {
    let key = SoftKey::shared();
    let folder = TempDir::new().expect("folder");
    for (args, exit, says) in [
        (&["-o", "e.mtd", "--name", "../x", "-"][..], 1, "--name"),
        (&["-"], 2, "--name"),
        (&["-o", "e.mtd", "-", "-"], 2, "more than once"),
        (&["-o", "e.mtd", "--name", "x", "file"], 2, "give - as a PATH"),
    ] {
        let refused = seal(key, folder.path(), args, b"content");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(exit), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(tree::is_empty(folder.path()), "{args:?}");
    }
}

#[test]
fn ctrl_c_is_heard_while_nothing_comes() {
    let key = SoftKey::shared();
    let folder = TempDir::new().expect("folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_envelope"))
        .args(["seal", "--format", crate::FORMAT.name(), "-o", "e.mtd", "-", "--to"])
        .arg(key.path("cert.pem"))
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    // More than a pipe holds: when this returns the job is reading.
    stdin.write_all(&tree::noise(CHUNK)).expect("read");
    run(Command::new("kill").args(["-s", "INT", &child.id().to_string()]));
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert!(tree::is_empty(folder.path()));
}

#[test]
fn a_hangup_that_nohup_ignores_stays_ignored() {
    let key = SoftKey::shared();
    let folder = TempDir::new().expect("folder");
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_envelope"), "seal", "-o", "e.mtd"])
        .args(["--format", crate::FORMAT.name(), "-", "--to"])
        .arg(key.path("cert.pem"))
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    // More than a pipe holds: when this returns the job is reading.
    stdin.write_all(&tree::noise(CHUNK)).expect("read");
    run(Command::new("kill").args(["-s", "HUP", &child.id().to_string()]));
    drop(stdin);
    assert!(child.wait().expect("ends").success());
    assert!(folder.path().join("e.mtd").exists());
}
