//! Whom we seal to: certificates as gpg makes them, and what somebody may have done to them.

use std::time::{Duration, SystemTime};

use custodian_client::{Kind, envelope::openpgp::Recipient};

use crate::{common::run, gpg::Gpg};

fn recipient(certificate: &[u8]) -> Result<Recipient, custodian_client::Error> {
    Recipient::from_certificate(certificate, SystemTime::now())
}

#[test]
fn certificates_of_all_kinds_of_primary_keys_are_taken_binary_and_armoured() {
    for primary in ["rsa2048", "ed25519", "nistp256", "nistp384", "nistp521"] {
        let gpg = Gpg::new(primary, "rsa2048");
        let binary = recipient(&gpg.certificate).unwrap_or_else(|error| panic!("{primary}: {error}"));
        let armoured = recipient(&run(gpg.command().args(["--armor", "--export"]))).expect("armoured");
        assert_eq!(binary.fingerprint(), armoured.fingerprint());
    }
}

#[test]
fn the_newest_key_for_encrypting_is_taken_and_a_revoked_or_expired_one_never() {
    let gpg = Gpg::usual();
    let first = recipient(&gpg.certificate).expect("taken").fingerprint().to_vec();
    let later = SystemTime::now() + Duration::from_secs(2 * 366 * 24 * 3600);
    let error = Recipient::from_certificate(&gpg.certificate, later).err().expect("expired");
    assert!(error.why.contains("expired"), "{error}");
    let earlier = SystemTime::now() - Duration::from_secs(24 * 3600);
    assert!(Recipient::from_certificate(&gpg.certificate, earlier).is_err(), "it does not exist yet");

    // Revoke the subkey.
    let mut child = gpg
        .command()
        .args(["--command-fd", "0", "--passphrase", "", "--no-batch", "--edit-key", "test@example.org"])
        .args(["key 1", "revkey", "save"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("gpg starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), b"y\n0\n\ny\ny\ny\n")
        .expect("written");
    child.wait().expect("waited");
    let revoked = run(gpg.command().args(["--export"]));
    let error = recipient(&revoked).err().expect("revoked");
    assert!(error.why.contains("revoked") && error.why.contains(&hex::encode_upper(&first)), "{error}");
}

#[test]
fn a_subkey_that_the_primary_key_did_not_sign_is_never_taken() {
    let (gpg, other) = (Gpg::usual(), Gpg::usual());
    let parts = |certificate: &[u8]| -> Vec<(u8, Vec<u8>)> {
        let (mut rest, mut parts) = (certificate, Vec::new());
        while let [head, high, low, ..] = *rest {
            // gpg writes these in the old form with two bytes of length, or one.
            let (start, len) = match head & 3 {
                0 => (2, usize::from(high)),
                1 => (3, usize::from(u16::from_be_bytes([high, low]))),
                other => panic!("length of kind {other}"),
            };
            parts.push(((head >> 2) & 15, rest[..start + len].to_vec()));
            rest = &rest[start + len..];
        }
        parts
    };
    let (own, theirs) = (parts(&gpg.certificate), parts(&other.certificate));
    assert_eq!(own.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [6, 13, 2, 14, 2]);
    let put =
        |parts: &[&(u8, Vec<u8>)]| parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    assert!(recipient(&put(&[&own[0], &own[1], &own[2], &own[3], &own[4]])).is_ok());
    for (what, mixed) in [
        ("another's subkey with his signature", put(&[&own[0], &own[1], &own[2], &theirs[3], &theirs[4]])),
        ("another's subkey with our signature", put(&[&own[0], &own[1], &own[2], &theirs[3], &own[4]])),
        ("a subkey without a signature", put(&[&own[0], &own[1], &own[2], &own[3]])),
        ("another's user id", put(&[&own[0], &theirs[1], &theirs[2], &own[3], &own[4]])),
        ("no user id", put(&[&own[0], &own[3], &own[4]])),
        ("two certificates", [&gpg.certificate[..], &other.certificate].concat()),
        ("nothing", Vec::new()),
        ("no certificate", b"hello".to_vec()),
    ] {
        let error = recipient(&mixed).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert_eq!(error.kind, Kind::Local, "{what}: {error}");
    }
}

#[test]
fn every_flipped_bit_of_a_certificate_that_matters_is_noticed() {
    let gpg = Gpg::usual();
    let good = recipient(&gpg.certificate).expect("taken").fingerprint().to_vec();
    for bit in (0..gpg.certificate.len() * 8).step_by(7) {
        let mut bad = gpg.certificate.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Hints that nothing signs may change; the key may not.
        if let Ok(recipient) = recipient(&bad) {
            assert_eq!(recipient.fingerprint(), good, "bit {bit}");
        }
    }
}

#[test]
fn a_private_key_is_refused_and_an_elliptic_one_told_by_name() {
    let gpg = Gpg::new("ed25519", "cv25519");
    let error = recipient(&gpg.certificate).err().expect("no RSA");
    assert!(error.why.contains("no RSA key (algorithm 18)"), "{error}");
    let secret = run(gpg.command().args(["--passphrase", "", "--export-secret-keys"]));
    assert!(recipient(&secret).err().expect("private").why.contains("private"));
}
