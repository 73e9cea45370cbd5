//! Other programs read what we seal, and we read what they seal: nobody depends on us for their data.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_client::{extract::Input, inspect::inspect};
use tempfile::TempDir;

use crate::common::{SoftKey, extract_to, run, seal_to, tree};

const SPECIFICATION: &str = include_str!("../../../docs/formats/sealed.md");

/// The Python that `deploy/python` makes, with python-cryptography.
fn python() -> Command {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python");
    assert!(python.exists(), "{} is missing: run deploy/python", python.display());
    Command::new(python)
}

/// A script of the specification.
fn script(language: &str) -> &'static str {
    let start = format!("```{language}\n");
    let script = SPECIFICATION.split(&start).nth(1).and_then(|rest| rest.split("```").next());
    script.expect("the specification has such a script")
}

/// A folder with something of everything.
fn sample(folder: &TempDir) -> PathBuf {
    let sample = folder.path().join("sample");
    tree::write(&sample.join("empty"), b"");
    tree::write(&sample.join("text.txt"), &tree::text(300_000));
    tree::write(&sample.join("noise.bin"), &tree::noise(70_000));
    tree::write(&sample.join("large text"), &tree::text(5_000_000));
    tree::write(&sample.join("large noise"), &tree::noise(3_333_333));
    tree::write(&sample.join("huge noise"), &tree::noise(20_000_001));
    tree::write(&sample.join("tief/tiefer/Grüße ☃.txt"), "schön".as_bytes());
    fs::create_dir(sample.join("empty folder")).expect("folder");
    std::os::unix::fs::symlink("tief/tiefer", sample.join("link")).expect("link");
    tree::set_mode(&sample.join("text.txt"), 0o640);
    tree::set_modified(&sample.join("text.txt"), 1_234_567_891);
    sample
}

/// Opens `envelope.sealed` in this folder with the commands of the specification. What was in it is in `opened` then.
///
/// OpenSSL before 3.0.22, and releases of the same time, cannot read a message with authenticated attributes.
fn open_with_others(folder: &Path, key: &SoftKey) {
    // The ZIP around it is sound for others, too: 7z tests every checksum.
    run(Command::new("7z").args(["t", "envelope.sealed"]).current_dir(folder));
    for file in ["key.pem", "cert.pem"] {
        fs::copy(key.path(file), folder.join(file)).expect("copied");
    }
    let tools = Path::new(python().get_program()).parent().expect("folder").to_owned();
    let usual = std::env::var_os("PATH").expect("PATH");
    let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&usual)));
    run(Command::new("bash")
        .args(["-euc", script("sh")])
        .env("PATH", path.expect("PATH"))
        .current_dir(folder));
    // Python's own reader checks every checksum, and both headers of every entry.
    let test = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).testzip())";
    for archive in ["envelope.sealed", "inside.zip"] {
        assert_eq!(run(python().args(["-c", test, archive]).current_dir(folder)), b"None\n");
    }
}

#[test]
fn openssl_python_and_7z_open_what_we_seal_with_the_commands_of_the_specification() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let sample = sample(&folder);
    seal_to(key, &sample, &folder.path().join("envelope.sealed"));
    open_with_others(folder.path(), key);

    let opened = tree::read(&folder.path().join("opened/sample"));
    let sealed = tree::read(&sample);
    assert_eq!(sealed.keys().collect::<Vec<_>>(), opened.keys().collect::<Vec<_>>());
    for (name, found) in &sealed {
        assert!(found.content == opened[name].content, "{}", name.display());
        assert_eq!(found.mode, opened[name].mode, "{}", name.display());
        // It does not set the times of links.
        assert!(
            found.modified == opened[name].modified || sample.join(name).is_symlink(),
            "{}",
            name.display()
        );
    }
}

#[test]
fn they_open_what_came_through_pipes() {
    let key = SoftKey::shared();
    for content in [tree::text(3_145_745), tree::noise(3_145_745)] {
        let folder = TempDir::new().expect("folder");
        let sealed = crate::pipes::seal(key, folder.path(), &["-o", "-", "-"], &content);
        fs::write(folder.path().join("envelope.sealed"), &sealed.stdout).expect("written");
        open_with_others(folder.path(), key);
        assert!(fs::read(folder.path().join("opened/stdin")).expect("there") == content);
    }
}

#[test]
fn we_open_what_python_sealed() {
    let key = SoftKey::shared();
    let writer = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sealed/write.py");
    for len in [0, 1, 100_000, 5_000_000] {
        let folder = TempDir::new().expect("folder");
        let (one, two) = (folder.path().join("noise"), folder.path().join("text"));
        tree::write(&one, &tree::noise(len));
        tree::write(&two, &tree::text(len));
        let (envelope, out) = (folder.path().join("e.sealed"), folder.path().join("out"));
        run(python().arg(&writer).arg(key.path("cert.pem")).args([&envelope, &one, &two]));
        let inspection = inspect(&Input::File(envelope.clone())).expect("inspected");
        assert_eq!((inspection.format, inspection.recipients.len()), ("sealed", 1));
        assert!(inspection.entries.is_none());
        extract_to(key, &envelope, &out).expect("extracted");
        for source in [&one, &two] {
            let name = source.file_name().expect("name");
            assert!(fs::read(out.join(name)).expect("read") == fs::read(source).expect("read"));
        }
    }
}
