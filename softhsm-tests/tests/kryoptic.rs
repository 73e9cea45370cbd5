//! A custodian on another module: Kryoptic wraps stronger than SoftHSM 2.6 and locks after ten wrong PINs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use softhsm_tests::{Dev, Person, Ran, bin, run};
use tempfile::TempDir;

/// As `deploy/kryoptic` builds it.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/kryoptic/release/libkryoptic_pkcs11.so");

/// Wrong PINs until Kryoptic locks.
const TRIES: usize = 10;

const PIN: &str = "correct horse";

/// A folder with a Kryoptic token in it.
fn folder() -> TempDir {
    assert!(Path::new(MODULE).exists(), "{MODULE} is missing: run deploy/kryoptic, which builds it");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let conf = format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {:?}\n", path.join("token.sql"));
    fs::write(path.join("kryoptic.conf"), conf).unwrap();
    write_pin(path, PIN);
    run(Command::new(bin("custodian"))
        .args(["init-token", "--label", "second", "--module", MODULE, "--so-pin-file"])
        .arg(path.join("pin"))
        .arg("--pin-file")
        .arg(path.join("pin"))
        .env("KRYOPTIC_CONF", path.join("kryoptic.conf")))
    .expect(0);
    folder
}

fn write_pin(folder: &Path, pin: &str) {
    fs::write(folder.join("pin"), pin).unwrap();
    fs::set_permissions(folder.join("pin"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// The custodian of this folder, made if it is not there.
fn start(folder: TempDir) -> Dev {
    let mut command = Command::new(bin("custodian"));
    command
        .args(["dev", "--token-label", "second", "--module", MODULE, "--dir"])
        .arg(folder.path().join("dev"))
        .arg("--pin-file")
        .arg(folder.path().join("pin"))
        .env("KRYOPTIC_CONF", folder.path().join("kryoptic.conf"));
    Dev::start_as(folder, command)
}

/// `custodian check` or `custodian serve` with the configuration that `dev` left.
fn custodian(job: &str, folder: &Path) -> Ran {
    run(Command::new(bin("custodian"))
        .args([job, "--config"])
        .arg(folder.join("dev/custodian.toml"))
        .env("KRYOPTIC_CONF", folder.join("kryoptic.conf")))
}

/// What openssl says of the CMS message in an archive.
fn cipher_key(archive: &Path, scratch: &Path) -> String {
    run(Command::new("7z").arg("e").arg(archive).arg("CIPHER.KEY").current_dir(scratch)).expect(0);
    let printed = run(Command::new("openssl")
        .args(["cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", "CIPHER.KEY"])
        .current_dir(scratch));
    printed.expect(0).stdout
}

#[test]
fn a_file_comes_back_from_the_strongest_wrapping_that_the_token_can_do() {
    let dev = start(folder());
    let source: PathBuf = dev.scratch("source").join("words");
    fs::write(&source, "many words ".repeat(10_000)).unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);

    let inspected =
        dev.envelope(Person::Operator, ["inspect".as_ref(), envelope.as_os_str(), "--json".as_ref()]);
    let inspected = inspected.expect(0).json();
    assert_eq!(inspected["recipients"][0]["wrapping"], "RSA-OAEP-SHA512");
    let printed = cipher_key(&envelope, &dev.scratch("cms"));
    let (_, algorithm) = printed.split_once("rsaesOaep").expect(&printed);
    let (algorithm, _) = algorithm.split_once("encryptedKey").unwrap();
    assert_eq!(algorithm.matches("sha512").count(), 2, "as hash and in mgf1: {algorithm}");
    assert!(algorithm.contains("mgf1"), "{algorithm}");

    let opened = dev.scratch("opened");
    let extract = ["extract".as_ref(), envelope.as_os_str(), "-C".as_ref(), opened.as_os_str()];
    dev.envelope(Person::Operator, extract).expect(0);
    assert_eq!(fs::read(opened.join("words")).unwrap(), fs::read(&source).unwrap());

    // The keys are in the token, not in the process.
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = start(folder);
    let extract = ["extract".as_ref(), envelope.as_os_str(), "--to-stdout".as_ref()];
    assert_eq!(dev.envelope(Person::Operator, extract).expect(0).stdout, fs::read_to_string(source).unwrap());
}

#[test]
fn a_wrong_pin_costs_one_try_a_start_and_a_locked_token_says_so() {
    let (folder, ran) = start(folder()).stop();
    ran.expect(0);
    let path = folder.path();
    write_pin(path, "battery staple");
    for tries in 1..TRIES {
        let ran = custodian(if tries % 2 == 0 { "check" } else { "serve" }, path).expect(1);
        // What Kryoptic's flags tell. A second try in any start would come too early.
        let ran = ran.says("refuses the PIN as wrong").says(match TRIES - tries {
            1 => "ONE try is left",
            2 | 3 => "Fewer tries are left",
            _ => "The token does not say how many tries are left",
        });
        assert!(!ran.stderr.contains("battery"), "the PIN is nobody's business: {}", ran.stderr);
    }
    custodian("serve", path).expect(1).says("is locked after too many wrong tries");
    write_pin(path, PIN);
    for job in ["check", "serve"] {
        custodian(job, path).expect(1).says("is locked").says("The security officer can set it anew");
    }
}
