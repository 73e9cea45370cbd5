//! openssl reads what we seal, and we read what openssl seals.

use std::{fs, path::Path, process::Command};

use custodian_client::{
    extract::{Input, extract},
    inspect::inspect,
    progress::Silent,
};
use tempfile::TempDir;

use crate::{
    common::{FOREIGN_PASSWORD, SoftKey, extract_job, extract_to, run, seal_to, tree},
    damage::Own,
    roundtrip::seal_stdin,
};

/// `openssl cms -encrypt` with these arguments, of a file `f` to a file `e.p7m`. With OAEP, if they do not say otherwise.
pub(crate) fn encrypt(key: &SoftKey, folder: &Path, args: &[&str]) {
    // Options of the key come behind the recipient, whom they are about.
    let (keyopts, args) = match args.iter().position(|arg| *arg == "-keyopt") {
        Some(at) => ([&args[at..at + 2]].concat(), [&args[..at], &args[at + 2..]].concat()),
        None => (vec!["-keyopt", "rsa_padding_mode:oaep"], args.to_vec()),
    };
    run(Command::new("openssl")
        .args(["cms", "-encrypt", "-binary", "-in", "f", "-out", "e.p7m"])
        .args(args)
        .arg("-recip")
        .arg(key.path("cert.pem"))
        .args(keyopts)
        .current_dir(folder));
}

pub(crate) fn decrypt(key: &SoftKey, envelope: &Path) -> Vec<u8> {
    run(Command::new("openssl")
        .args(["cms", "-decrypt", "-binary", "-inform", "DER", "-in"])
        .arg(envelope)
        .arg("-inkey")
        .arg(key.path("key.pem"))
        .arg("-recip")
        .arg(key.path("cert.pem")))
}

#[test]
fn openssl_opens_what_we_seal() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.p7m"));
    for size in [0, 1, 100, 70_000, 3_000_000] {
        let content = tree::noise(size);
        fs::write(&file, &content).expect("written");
        seal_to(key, &file, &envelope);
        assert!(decrypt(key, &envelope) == content, "a file of {size} bytes");
        let streamed = seal_stdin(key, folder.path(), &["-o", "-", "-"], &content);
        fs::write(&envelope, streamed.stdout).expect("written");
        assert!(decrypt(key, &envelope) == content, "a stream of {size} bytes");
        fs::remove_file(&envelope).expect("removed");
    }
}

#[test]
fn a_file_is_sealed_as_der() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (file, envelope) = (folder.path().join("f"), folder.path().join("f.p7m"));
    fs::write(&file, tree::noise(1_000)).expect("written");
    seal_to(key, &file, &envelope);
    let again = run(Command::new("openssl")
        .args(["cms", "-cmsout", "-inform", "DER", "-outform", "DER", "-in"])
        .arg(&envelope));
    assert!(again == fs::read(&envelope).expect("read"), "openssl would encode it otherwise");
}

#[test]
fn we_open_what_openssl_seals() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let own = Own::of(key);
    for size in [0, 11, 5_000, 3_000_000] {
        let content = tree::noise(size);
        fs::write(folder.path().join("f"), &content).expect("written");
        for form in ["DER", "PEM", "SMIME"] {
            for stream in [&[][..], &["-stream"]] {
                if size == 0 && !stream.is_empty() {
                    // openssl 3.0 cannot write it.
                    continue;
                }
                let args = [&["-aes-256-gcm", "-keyid", "-outform", form][..], stream].concat();
                encrypt(key, folder.path(), &args);
                let out = folder.path().join("out");
                let job = extract_job(&folder.path().join("e.p7m"), &out);
                extract(&job, &own, &Silent).unwrap_or_else(|why| panic!("{size} bytes, {args:?}: {why}"));
                assert!(fs::read(out.join("e")).expect("there") == content, "{size} bytes, {args:?}");
                fs::remove_dir_all(&out).expect("removed");
            }
        }
    }
}

#[test]
fn we_open_every_hash_that_openssl_has_for_oaep() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    for hash in ["sha1", "sha256", "sha384", "sha512"] {
        fs::write(folder.path().join("e.p7m"), key.foreign_cipher_key(hash)).expect("written");
        extract_to(key, &folder.path().join("e.p7m"), &folder.path().join(hash)).expect("extracted");
        assert_eq!(fs::read(folder.path().join(hash).join("e")).expect("there"), FOREIGN_PASSWORD.as_bytes());
    }
}

#[test]
fn a_key_may_be_named_by_its_certificate_but_not_by_anothers() {
    let (folder, key) = (TempDir::new().expect("folder"), SoftKey::shared());
    let (envelope, out) = (folder.path().join("e.p7m"), folder.path().join("out"));
    fs::write(folder.path().join("f"), b"hello").expect("written");
    // Without -keyid, openssl names the certificate.
    encrypt(key, folder.path(), &["-aes-256-gcm", "-outform", "DER"]);
    let inspected = inspect(&Input::File(envelope.clone())).expect("inspected");
    assert!(inspected.recipients[0].name().contains("CN=test"), "{:?}", inspected.recipients);
    extract_to(key, &envelope, &out).expect("extracted");
    assert_eq!(fs::read(out.join("e")).expect("there"), b"hello");

    let error = extract_to(&SoftKey::new(&[]), &envelope, &folder.path().join("other")).expect_err("refused");
    assert!(error.why.contains("KEY_UNKNOWN"), "{error}");
}
