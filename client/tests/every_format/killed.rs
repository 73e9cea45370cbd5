//! kill -9 in the middle: the next run leaves nothing of it.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use custodian_client::{
    Kind,
    extract::{Input, extract},
    progress::Progress,
    seal::seal,
};
use tempfile::TempDir;

use crate::common::{SoftKey, extract_job, extract_to, seal_job, seal_to, tree};

/// Set in the child: which way to go, and where.
const CHILD: &str = "MTD_TEST_CHILD";

/// Says so when the first bytes are written, and then waits to be killed.
struct Stuck;

impl Progress for Stuck {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {
        println!("\nstuck");
        loop {
            thread::park();
        }
    }
    fn interrupted(&self) -> bool {
        false
    }
}

/// Not a promise: the body of the children of the tests below. Without its variable it has nothing to do.
#[test]
fn child_that_gets_stuck() {
    let Ok(folder) = env::var(CHILD) else { return };
    let folder = Path::new(&folder);
    let key = SoftKey::new(&[]);
    let (source, envelope) = (folder.join("source"), folder.join("e.mtd"));
    if envelope.exists() {
        let unwrapper = Given(fs::read(folder.join("file-key")).expect("file key"));
        let error =
            extract(&extract_job(&envelope, &folder.join("out")), &unwrapper, &Stuck).expect_err("is killed");
        panic!("{error}");
    }
    seal(&seal_job(&key, &[&source], &envelope), &Stuck).map(drop).expect("is killed");
}

/// A file key from a file, for the child.
struct Given(Vec<u8>);

impl custodian_client::unwrapper::Unwrapper for Given {
    fn unwrap(
        &self,
        _: &custodian_proto::key::WrappedKey,
        _: &custodian_proto::v1::Claims,
    ) -> custodian_client::error::Result<custodian_proto::key::FileKey> {
        custodian_proto::key::FileKey::take(&mut self.0.clone())
            .ok_or_else(|| custodian_client::Error::new(Kind::Local, "file key", "length"))
    }

    fn choose(&self, _: &[custodian_proto::key::WrappedKey]) -> custodian_client::error::Result<usize> {
        Ok(0)
    }
}

/// Runs the child until it is stuck in the middle, calls `meanwhile`, and kills it.
fn run_and_kill(folder: &Path, meanwhile: impl FnOnce()) {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "killed::child_that_gets_stuck", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let stdout = child.stdout.take().expect("pipe");
    let (told, stuck) = mpsc::channel();
    let reader = thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok);
        lines.filter(|line| line == "stuck").for_each(|_| told.send(()).expect("test waits"));
    });
    stuck.recv().expect("the child got stuck");
    meanwhile();
    child.kill().expect("killed");
    child.wait().expect("gone");
    reader.join().expect("reader");
}

/// Staging folders beneath a folder.
fn leftovers(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("entry").file_name());
    entries.filter(|name| name.to_string_lossy().starts_with(".envelope-")).count()
}

#[test]
fn law_8_the_next_run_sweeps_what_a_killed_extraction_left_but_not_what_a_live_one_uses() {
    let folder = TempDir::new().expect("folder");
    let (source, envelope, out) =
        (folder.path().join("source"), folder.path().join("e.mtd"), folder.path().join("out"));
    let secret = tree::noise(4_000_000);
    tree::write(&source.join("large"), &secret);
    let key = SoftKey::shared();
    seal_to(key, &source, &envelope);
    let remembering = Remembering(key, folder.path().join("file-key"));
    let elsewhere = extract_job(&envelope, &folder.path().join("elsewhere"));
    extract(&elsewhere, &remembering, &custodian_client::progress::Silent).expect("extracted");

    run_and_kill(folder.path(), || {
        assert_eq!(leftovers(&out), 1);
        assert!(!out.join("source").exists(), "nothing has its final name yet");
        // Another run in the same folder while the first one lives.
        let report = extract_to(key, &envelope, &out).expect("extracted");
        assert_eq!((report.swept, leftovers(&out)), (0, 1));
        fs::remove_dir_all(out.join("source")).expect("removed");
    });
    assert_eq!(leftovers(&out), 1);
    let report = extract_to(key, &envelope, &out).expect("extracted");
    assert_eq!((report.swept, leftovers(&out)), (1, 0));
    assert_eq!(tree::contents(&out), [vec![], secret]);
    assert!(inspect_works(&envelope));
}

#[test]
fn the_next_run_sweeps_what_a_killed_seal_left() {
    let folder = TempDir::new().expect("folder");
    let (source, envelope) = (folder.path().join("source"), folder.path().join("e.mtd"));
    tree::write(&source.join("large"), &tree::noise(8_000_000));
    run_and_kill(folder.path(), || assert_eq!(leftovers(folder.path()), 1));
    assert!(!envelope.exists());
    seal_to(SoftKey::shared(), &source, &envelope);
    assert_eq!(leftovers(folder.path()), 0);
    assert!(inspect_works(&envelope));
}

fn inspect_works(envelope: &Path) -> bool {
    custodian_client::inspect::inspect(&Input::File(envelope.to_owned())).is_ok()
}

/// The shared key, which writes the file key down for the child.
struct Remembering<'a>(&'a SoftKey, std::path::PathBuf);

impl custodian_client::unwrapper::Unwrapper for Remembering<'_> {
    fn unwrap(
        &self,
        wrapped: &custodian_proto::key::WrappedKey,
        claims: &custodian_proto::v1::Claims,
    ) -> custodian_client::error::Result<custodian_proto::key::FileKey> {
        let key = self.0.unwrap(wrapped, claims)?;
        fs::write(&self.1, key.expose()).expect("written");
        Ok(key)
    }

    fn choose(&self, wrapped: &[custodian_proto::key::WrappedKey]) -> custodian_client::error::Result<usize> {
        self.0.choose(wrapped)
    }
}
