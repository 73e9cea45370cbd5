//! gpg and Sequoia read what we seal, and we read what they encrypt.

use std::{fs, process::Command};

use custodian_client::{
    Kind,
    extract::{ExtractTo, extract},
    inspect::inspect,
    progress::Silent,
    seal::seal,
};
use tempfile::TempDir;

use crate::{
    common::{extract_job, run, tree},
    gpg::{Gpg, job},
};

#[test]
fn gpg_opens_what_we_seal() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.gpg"));
    for size in [0, 1, 100, 70_000, 1_048_570, 1_048_576, 3_000_000] {
        let content = tree::noise(size);
        fs::write(&file, &content).expect("written");
        let report = seal(&job(&[&gpg.certificate], &file, &envelope), &Silent).expect("sealed");
        assert_eq!(report.envelope_bytes, fs::metadata(&envelope).expect("there").len());
        assert!(gpg.decrypt(&envelope) == content, "{size} bytes");
        fs::remove_file(&envelope).expect("removed");
    }
}

#[test]
fn we_open_what_gpg_encrypts() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    let text = "many words ".repeat(100_000).into_bytes();
    for (number, (content, args)) in [
        (text.clone(), &[][..]),
        (text.clone(), &["--armor"]),
        (text.clone(), &["-z", "0"]),
        (text.clone(), &["--compress-algo", "zip"]),
        (text.clone(), &["--compress-algo", "zlib", "-z", "9"]),
        (text, &["--set-filename", "../../evil", "--comment", "a: b", "--armor"]),
        (tree::noise(3_000_000), &[]),
        (tree::noise(3_000_000), &["--armor"]),
        (tree::noise(1_000), &["--symmetric", "--passphrase", "x"]),
        (Vec::new(), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let (file, out) = (folder.path().join("f"), folder.path().join(format!("out{number}")));
        let envelope = folder.path().join(format!("report{number}.pdf.gpg"));
        fs::write(&file, &content).expect("written");
        gpg.encrypt(&file, &envelope, args);
        let inspected =
            inspect(&custodian_client::extract::Input::File(envelope.clone())).expect("inspected");
        assert_eq!((inspected.format, inspected.recipients.len()), ("openpgp", 1));
        extract(&extract_job(&envelope, &out), &gpg, &Silent)
            .unwrap_or_else(|error| panic!("{args:?}: {error}"));
        let name = format!("report{number}.pdf");
        assert_eq!(tree::read(&out).keys().collect::<Vec<_>>(), [&name], "{args:?}");
        assert!(fs::read(out.join(name)).expect("read") == content, "{args:?}");
    }
}

#[test]
fn what_a_pipe_gave_to_gpg_and_what_it_signed_comes_out() {
    let gpg = Gpg::usual();
    run(gpg
        .command()
        .args(["--passphrase", "", "--quick-add-key"])
        .arg(primary(&gpg))
        .args(["rsa2048", "sign"]));
    let folder = TempDir::new().expect("folder");
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.gpg"));
    let content = tree::noise(500_000);
    fs::write(&file, &content).expect("written");
    let shell = format!(
        "cat '{}' | gpg --homedir '{}' --batch --quiet --no-tty --pinentry-mode loopback --passphrase '' \
         --trust-model always --sign --encrypt -r test@example.org > '{}'",
        file.display(),
        gpg.home.path().display(),
        envelope.display()
    );
    run(Command::new("sh").args(["-c", &shell]));
    let out = folder.path().join("out");
    extract(&extract_job(&envelope, &out), &gpg, &Silent).expect("extracted");
    assert!(fs::read(out.join("f")).expect("read") == content);
}

fn primary(gpg: &Gpg) -> String {
    let listed = run(gpg.command().args(["--list-keys", "--with-colons"]));
    let text = String::from_utf8_lossy(&listed).into_owned();
    let line = text.lines().find(|line| line.starts_with("fpr")).expect("a fingerprint");
    line.split(':').nth(9).expect("ten fields").to_owned()
}

#[test]
fn of_several_recipients_each_can_open_it() {
    let (folder, gpg, other) =
        (TempDir::new().expect("folder"), Gpg::usual(), Gpg::new("ed25519", "rsa3072"));
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.gpg"));
    fs::write(&file, b"hello").expect("written");
    let to = [gpg.certificate.as_slice(), &other.certificate, &gpg.certificate];
    seal(&job(&to, &file, &envelope), &Silent).expect("sealed");
    let inspected = inspect(&custodian_client::extract::Input::File(envelope.clone())).expect("inspected");
    assert_eq!(inspected.recipients.len(), 2, "each once");
    assert_eq!(gpg.decrypt(&envelope), b"hello");
    assert_eq!(other.decrypt(&envelope), b"hello");
    let out = folder.path().join("out");
    extract(&extract_job(&envelope, &out), &gpg, &Silent).expect("extracted");
    assert_eq!(fs::read(out.join("f")).expect("read"), b"hello");
}

#[test]
fn who_is_not_meant_is_told_whose_key_it_is() {
    let (folder, gpg, other) = (TempDir::new().expect("folder"), Gpg::usual(), Gpg::usual());
    let (file, envelope, out) =
        (folder.path().join("f"), folder.path().join("f.gpg"), folder.path().join("out"));
    fs::write(&file, b"hello").expect("written");
    other.encrypt(&file, &envelope, &[]);
    let asked = gpg.asked();
    let error = extract(&extract_job(&envelope, &out), &gpg, &Silent).expect_err("refused");
    assert_eq!((error.kind, gpg.asked()), (Kind::Refused, asked));
    assert!(error.why.contains("KEY_UNKNOWN") && !out.exists(), "{error}");
}

#[test]
fn what_cannot_be_opened_is_refused_by_name_and_no_key_is_asked_for() {
    let folder = TempDir::new().expect("folder");
    let ecc = Gpg::new("ed25519", "cv25519");
    let (file, out) = (folder.path().join("f"), folder.path().join("out"));
    fs::write(&file, b"hello").expect("written");
    let gpg = Gpg::usual();
    let asked = gpg.asked();
    let encrypt = |name: &str, gpg: &Gpg, args: &[&str]| {
        let envelope = folder.path().join(name);
        gpg.encrypt(&file, &envelope, args);
        envelope
    };
    let symmetric = folder.path().join("symmetric");
    run(gpg.command().args(["--passphrase", "x", "--symmetric", "--output"]).arg(&symmetric).arg(&file));
    let plain = folder.path().join("plain");
    run(gpg.command().args(["--store", "--output"]).arg(&plain).arg(&file));
    let certificate = folder.path().join("cert");
    fs::write(&certificate, &gpg.certificate).expect("written");
    for (envelope, why) in [
        (encrypt("ecdh", &ecc, &[]), "by ECDH"),
        (encrypt("hidden", &gpg, &["--throw-keyids"]), "not named"),
        (symmetric, "a password"),
        (plain, "no format known here"),
        (certificate, "no format known here"),
    ] {
        let error = extract(&extract_job(&envelope, &out), &gpg, &Silent).expect_err(why);
        assert!(error.why.contains(why), "{why}: {error}");
        assert_eq!((error.kind, out.exists()), (Kind::Local, false));
    }
    assert_eq!(gpg.asked(), asked);
    let bzip2 = encrypt("bzip2", &gpg, &["--compress-algo", "bzip2"]);
    let error = extract(&extract_job(&bzip2, &out), &gpg, &Silent).expect_err("bzip2");
    assert!(error.why.contains("bzip2") && !out.join("bzip2.content").exists(), "{error}");
    let aes128 = encrypt("aes128", &gpg, &["--cipher-algo", "AES128"]);
    assert_eq!(
        extract(&extract_job(&aes128, &out), &gpg, &Silent).expect_err("AES-128").what,
        "cannot unwrap"
    );
}

#[test]
fn it_can_be_listed_without_a_key_and_goes_to_standard_output() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("notes.txt.asc"));
    fs::write(&file, b"hello").expect("written");
    gpg.encrypt(&file, &envelope, &["--armor"]);
    let (mut job, asked) = (extract_job(&envelope, folder.path()), gpg.asked());
    job.output = ExtractTo::List;
    let listed = extract(&job, &gpg, &Silent).expect("listed").listed;
    assert_eq!(listed.into_iter().map(|entry| entry.path).collect::<Vec<_>>(), ["notes.txt"]);
    assert_eq!(gpg.asked(), asked);
}

#[test]
fn sequoia_reads_ours_and_we_read_its() {
    let (folder, gpg) = (TempDir::new().expect("folder"), Gpg::usual());
    let path = |name: &str| folder.path().join(name);
    let content = tree::noise(300_000);
    fs::write(path("f"), &content).expect("written");
    fs::write(path("cert.pgp"), &gpg.certificate).expect("written");
    let secret = run(gpg.command().args(["--passphrase", "", "--export-secret-keys"]));
    fs::write(path("secret.pgp"), secret).expect("written");
    let sq = |args: &[&str]| run(Command::new("sq").args(args).current_dir(&folder));
    sq(&["encrypt", "--recipient-cert", "cert.pgp", "--output", "theirs.pgp", "f"]);
    let out = path("out");
    extract(&extract_job(&path("theirs.pgp"), &out), &gpg, &Silent).expect("extracted");
    assert!(fs::read(out.join("theirs")).expect("read") == content);

    seal(&job(&[&gpg.certificate], &path("f"), &path("ours.pgp")), &Silent).expect("sealed");
    let opened = sq(&["decrypt", "--recipient-key", "secret.pgp", "ours.pgp"]);
    assert!(opened == content);
}
