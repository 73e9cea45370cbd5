//! `--legacy`: what is for programs that cannot read AES-GCM, and says that it is weaker.

use std::{fs, process::Command};

use custodian_client::{
    Kind,
    envelope::cms::{Protection, Unauthenticated},
    extract::{Input, extract},
    inspect::inspect,
    progress::Silent,
    seal::seal,
};
use tempfile::TempDir;

use crate::{
    common::{SoftKey, extract_job, run, seal_job, tree},
    peers::decrypt,
    roundtrip::seal_stdin,
};

/// Around blocks and pieces.
const SIZES: [usize; 9] = [0, 1, 15, 16, 17, 70_000, (1 << 20) - 1, 1 << 20, 3_000_000];

#[test]
fn openssl_opens_it_and_we_open_it_only_on_demand() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope, out) =
        (folder.path().join("f"), folder.path().join("f.p7m"), folder.path().join("out"));
    for size in SIZES {
        let content = tree::noise(size);
        fs::write(&file, &content).expect("written");
        let mut job = seal_job(key, &[&file], &envelope);
        job.protection = Protection::Legacy;
        let report = seal(&job, &Silent).expect("sealed");
        assert_eq!(report.content_bytes, size as u64);
        assert_eq!(report.envelope_bytes, fs::metadata(&envelope).expect("there").len());
        assert_eq!(inspect(&Input::File(envelope.clone())).expect("inspected").encryption, "AES-256-CBC");
        assert!(decrypt(key, &envelope) == content, "a file of {size} bytes");

        let mut job = extract_job(&envelope, &out);
        let error = extract(&job, key, &Silent).expect_err("refused");
        assert!(error.hint.contains("--allow-unauthenticated"), "{error}");
        job.unauthenticated = Unauthenticated::Allow;
        extract(&job, key, &Silent).expect("extracted");
        assert!(fs::read(out.join("f")).expect("there") == content, "{size} bytes");
        fs::remove_dir_all(&out).expect("removed");

        let streamed = seal_stdin(key, folder.path(), &["--legacy", "-o", "-", "-"], &content);
        fs::write(&envelope, streamed.stdout).expect("written");
        assert!(decrypt(key, &envelope) == content, "a stream of {size} bytes");
        extract(&job, key, &Silent).expect("extracted");
        assert!(fs::read(out.join("f")).expect("there") == content, "a stream of {size} bytes");
        fs::remove_dir_all(&out).expect("removed");
        fs::remove_file(&envelope).expect("removed");
    }
}

#[test]
fn a_file_is_sealed_as_der() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.p7m"));
    fs::write(&file, tree::noise(1_000)).expect("written");
    let mut job = seal_job(key, &[&file], &envelope);
    job.protection = Protection::Legacy;
    seal(&job, &Silent).expect("sealed");
    let again = run(Command::new("openssl")
        .args(["cms", "-cmsout", "-inform", "DER", "-outform", "DER", "-in"])
        .arg(&envelope));
    assert!(again == fs::read(&envelope).expect("read"), "openssl would encode it otherwise");
}

#[test]
fn it_warns_even_if_it_is_to_be_quiet_and_is_never_written_without_the_flag() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    for (args, warns) in [(&["--legacy", "--quiet", "-o", "-", "-"][..], true), (&["-o", "-", "-"], false)] {
        let sealed = seal_stdin(key, folder.path(), args, b"content");
        let said = String::from_utf8(sealed.stderr).expect("text");
        assert_eq!(said.contains("warning: --legacy"), warns, "{said}");
        fs::write(folder.path().join("e.p7m"), sealed.stdout).expect("written");
        let encryption = inspect(&Input::File(folder.path().join("e.p7m"))).expect("inspected").encryption;
        assert_eq!(encryption == "AES-256-CBC", warns);
    }
}

#[test]
fn other_formats_have_no_legacy_form() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let file = folder.path().join("f");
    fs::write(&file, b"content").expect("written");
    for format in ["mtd", "sealed"] {
        let sealed = Command::new(env!("CARGO_BIN_EXE_envelope"))
            .args(["seal", "--format", format, "--legacy", "--to"])
            .arg(key.path("cert.pem"))
            .args(["-o", "e", "f"])
            .current_dir(&folder)
            .output()
            .expect("ran");
        assert_eq!(sealed.status.code(), Some(i32::from(Kind::Usage.exit_code())));
        assert!(!folder.path().join("e").exists());
    }
}
