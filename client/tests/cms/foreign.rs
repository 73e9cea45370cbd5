//! Messages of other writers that cannot be opened as they are: each is told apart, before a key is asked for.

use std::{fs, path::Path};

use custodian_client::{
    Error, Kind,
    envelope::cms::Unauthenticated,
    extract::{Input, extract},
    inspect::inspect,
    progress::Silent,
};
use tempfile::TempDir;

use crate::{
    common::{SoftKey, extract_job, tree},
    damage::Own,
    peers::encrypt,
};

fn refused(key: &SoftKey, folder: &Path) -> Error {
    let asked = key.asked();
    let job = extract_job(&folder.join("e.p7m"), &folder.join("out"));
    let error = extract(&job, &Own::of(key), &Silent).expect_err("refused");
    assert_eq!(key.asked(), asked, "a key was asked for");
    assert!(!folder.join("out").exists());
    error
}

#[test]
fn what_is_not_authenticated_is_opened_only_on_demand() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    for size in [0, 1, 15, 16, 17, 5_000, 3_000_000] {
        let content = tree::noise(size);
        fs::write(folder.path().join("f"), &content).expect("written");
        for form in [&["-outform", "DER"][..], &["-outform", "DER", "-stream"], &["-outform", "SMIME"]] {
            if size == 0 && form.contains(&"-stream") {
                // openssl 3.0 cannot write it.
                continue;
            }
            encrypt(key, folder.path(), &[&["-aes-256-cbc", "-keyid"][..], form].concat());
            let error = refused(key, folder.path());
            assert!(error.why.contains("not authenticated"), "{error}");
            assert!(error.hint.contains("--allow-unauthenticated"), "{}", error.hint);

            let out = folder.path().join("out");
            let mut job = extract_job(&folder.path().join("e.p7m"), &out);
            job.unauthenticated = Unauthenticated::Allow;
            let report = extract(&job, &Own::of(key), &Silent).expect("extracted");
            assert_eq!(report.content_bytes, size as u64);
            assert!(fs::read(out.join("e")).expect("there") == content, "{size} bytes, {form:?}");
            fs::remove_dir_all(&out).expect("removed");
        }
    }
}

#[test]
fn bad_padding_has_one_text_and_leaves_no_file() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    fs::write(folder.path().join("f"), tree::noise(1_000)).expect("written");
    encrypt(key, folder.path(), &["-aes-256-cbc", "-keyid", "-outform", "DER"]);
    let envelope = folder.path().join("e.p7m");
    let good = fs::read(&envelope).expect("read");
    let mut job = extract_job(&envelope, &folder.path().join("out"));
    job.unauthenticated = Unauthenticated::Allow;
    let mut texts = Vec::new();
    // The last byte of the block before the last one becomes the length of the padding.
    for flip in 1..=255u8 {
        let mut bad = good.clone();
        let at = bad.len() - 17;
        bad[at] ^= flip;
        fs::write(&envelope, bad).expect("written");
        match extract(&job, &Own::of(key), &Silent) {
            // 1,000 bytes are padded with eight 8s; a 1 in their place is padding, too.
            Ok(_) => fs::remove_dir_all(folder.path().join("out")).expect("removed"),
            Err(error) => {
                assert_eq!(error.kind, Kind::Integrity);
                texts.push(error.why);
            }
        }
        assert!(!folder.path().join("out").exists());
    }
    assert_eq!(texts.len(), 254);
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[test]
fn recipients_that_cannot_be_served_are_named_with_the_reason() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    fs::write(folder.path().join("f"), b"content").expect("written");
    for (args, why) in [
        (&["-aes-256-cbc", "-keyid", "-pwri_password", "secret"][..], "whoever knows a password"),
        (
            &[
                "-aes-256-cbc",
                "-keyid",
                "-secretkey",
                "000102030405060708090a0b0c0d0e0f",
                "-secretkeyid",
                "01",
            ],
            "a certain symmetric key",
        ),
    ] {
        encrypt(key, folder.path(), &[args, &["-outform", "DER"]].concat());
        let inspection = inspect(&Input::File(folder.path().join("e.p7m"))).expect("inspected");
        assert!(inspection.other_recipients.iter().any(|other| other.contains(why)), "{inspection:?}");
        if inspection.recipients.is_empty() {
            let error = refused(key, folder.path());
            assert!(error.kind == Kind::Local && error.why.contains(why), "{error}");
            assert!(error.hint.contains("rsa_padding_mode:oaep"), "{}", error.hint);
        }
    }
}

#[test]
fn keys_that_are_not_32_bytes_are_not_asked_for() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    fs::write(folder.path().join("f"), b"content").expect("written");
    for (cipher, name) in [
        ("-aes-128-gcm", "AES-128-GCM"),
        ("-aes-192-gcm", "AES-192-GCM"),
        ("-aes-128-cbc", "AES-128-CBC"),
        ("-aes-192-cbc", "AES-192-CBC"),
        ("-des3", "triple DES"),
    ] {
        encrypt(key, folder.path(), &[cipher, "-keyid", "-outform", "DER"]);
        let error = refused(key, folder.path());
        assert!(error.kind == Kind::Local && error.why.contains(name), "{error}");
        assert_eq!(inspect(&Input::File(folder.path().join("e.p7m"))).expect("inspected").encryption, name);
    }
}

#[test]
fn other_messages_are_told_what_they_are() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    for (bytes, why) in [
        (&b"From: a\nTo: b\n\nhello\n"[..], "a mail that is not encrypted"),
        (b"-----BEGIN CMS-----\nAAAA\n-----END CMS-----\n", "starts like a CMS message"),
        (b"-----BEGIN PGP SIGNATURE-----\n\n", "it is a PEM text"),
        // The beginning of a SignedData.
        (
            b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80\0\0\0\0",
            "starts like a CMS message",
        ),
        // DigestedData.
        (b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x05\xa0\x80\0\0\0\0", "not encrypted to anybody"),
    ] {
        fs::write(folder.path().join("e.p7m"), bytes).expect("written");
        let error = refused(key, folder.path());
        assert!(error.why.contains(why), "{error}");
    }
}

#[test]
fn a_file_key_in_pkcs1_v1_5_is_told_by_that_name_however_its_key_is_named() {
    let (folder, key) = (TempDir::new().expect("folder"), &SoftKey::new(&[]));
    fs::write(folder.path().join("f"), b"content").expect("written");
    for named in [&["-keyid"][..], &[]] {
        // What openssl does if nobody says otherwise.
        let pkcs1 = ["-aes-256-gcm", "-keyopt", "rsa_padding_mode:pkcs1", "-outform", "DER"];
        encrypt(key, folder.path(), &[&pkcs1[..], named].concat());
        let inspection = inspect(&Input::File(folder.path().join("e.p7m"))).expect("inspected");
        let [recipient] = inspection.recipients.as_slice() else { panic!("{inspection:?}") };
        assert_eq!(recipient.wrapping.name(), "RSA-PKCS1");
        assert_eq!(recipient.key_id.is_some(), !named.is_empty());
    }
}
