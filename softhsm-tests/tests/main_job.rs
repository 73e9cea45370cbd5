//! The README's first promise: one command does the main job for real.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use softhsm_tests::{Dev, Person, Wire, bin, run};

#[test]
fn the_quickstart_does_what_the_readme_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart");
    let temporary = tempfile::tempdir().unwrap();
    let programs = bin("custodian");
    let ran = run(Command::new(script)
        .arg("/usr/share/doc/openssl")
        .env("CUSTODIAN_BIN", programs.parent().unwrap())
        .env("TMPDIR", temporary.path()))
    .expect(0);
    for promised in ["byte for byte", "refused (exit code 3)", "DEVICE_REVOKED", "All of it worked"] {
        assert!(ran.stdout.contains(promised) || ran.stderr.contains(promised), "{promised:?} in {ran:?}");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "files were left behind");
}

#[tokio::test]
async fn a_folder_comes_back_byte_for_byte_and_the_log_names_it() {
    let dev = Dev::start();
    let source = dev.scratch("source");
    let folder = source.join("Ablage ä");
    fs::create_dir_all(folder.join("leer")).unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    fs::write(folder.join("text"), "many words ".repeat(100_000)).unwrap();
    fs::write(folder.join("script"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("script"), fs::Permissions::from_mode(0o750)).unwrap();
    let random: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(folder.join("random"), random).unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&folder, &envelope);

    let opened = dev.scratch("opened");
    dev.envelope(
        Person::Operator,
        [
            "extract".as_ref(),
            envelope.as_os_str(),
            "-C".as_ref(),
            opened.as_os_str(),
            "--reason".as_ref(),
            "audit 7".as_ref(),
        ],
    )
    .expect(0);
    run(Command::new("diff").arg("-r").arg(&source).arg(&opened)).expect(0);
    let mode = fs::metadata(opened.join("Ablage ä/script")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);

    let inspected =
        dev.envelope(Person::Operator, ["inspect".as_ref(), envelope.as_os_str(), "--json".as_ref()]);
    let inspected = inspected.expect(0).json();
    let named = inspected["recipients"][0]["wrapped_key_sha256"].as_str().unwrap().to_owned();
    let records = Wire::records(&dev).await;
    let record = records.iter().find(|record| record.wrapped_key_sha256 == named).unwrap();
    assert_eq!((record.outcome.as_str(), record.user.as_str()), ("OK", "users/operator"));
    let claims = record.claims.as_ref().unwrap();
    assert_eq!((claims.file_name.as_str(), claims.reason.as_str()), ("a.mtd", "audit 7"));
    assert_eq!(claims.file_size, fs::metadata(&envelope).unwrap().len());
}

#[test]
fn dev_can_be_stopped_and_started_again_with_the_same_keys() {
    let dev = Dev::start();
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder);
    let shown =
        dev.envelope(Person::Operator, ["extract".as_ref(), envelope.as_os_str(), "--to-stdout".as_ref()]);
    assert_eq!(shown.expect(0).stdout, "content");
}
