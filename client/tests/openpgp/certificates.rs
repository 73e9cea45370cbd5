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

    let error = recipient(&with_subkey_revoked(&gpg)).err().expect("revoked");
    assert!(error.why.contains("revoked") && error.why.contains(&hex::encode_upper(&first)), "{error}");
}

/// Its certificate after its owner revoked the subkey.
fn with_subkey_revoked(gpg: &Gpg) -> Vec<u8> {
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
    run(gpg.command().args(["--export"]))
}

#[test]
fn a_revocation_that_cannot_be_verified_is_believed_and_a_forged_one_is_not() {
    const SUBKEY_REVOCATION: u8 = 0x28;
    let gpg = Gpg::usual();
    let mut packets = parts(&with_subkey_revoked(&gpg));
    let revokes =
        |(tag, packet): &(u8, Vec<u8>)| *tag == 2 && packet[body_start(packet) + 1] == SUBKEY_REVOCATION;
    let revocation = packets.iter().position(revokes).expect("a revocation");
    let whole =
        |packets: &[(u8, Vec<u8>)]| packets.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    let start = body_start(&packets[revocation].1);
    assert!(recipient(&whole(&packets)).is_err());

    // Its last bit is another: the key did not make it.
    let mut forged = packets.clone();
    *forged[revocation].1.last_mut().expect("bytes") ^= 1;
    assert!(recipient(&whole(&forged)).is_ok(), "forged");
    // SHA-1, as years ago; it may be good or not.
    packets[revocation].1[start + 3] = 2;
    let error = recipient(&whole(&packets)).err().expect("believed");
    assert!(error.why.contains("revoked"), "{error}");

    // As PGP wrote it in the last century, of this key and of another one.
    let primary = primary_key_id(&gpg);
    for (issuer, taken) in [(primary, false), ([7; 8], true)] {
        let old = [&[3, 5, SUBKEY_REVOCATION, 1, 2, 3, 4], &issuer[..], &[1, 2, 0, 0, 0, 8, 255]].concat();
        let mut packets = parts(&gpg.certificate);
        packets.insert(4, (2, [&[0x88, u8::try_from(old.len()).expect("short")], &old[..]].concat()));
        assert_eq!(recipient(&whole(&packets)).is_ok(), taken);
    }
}

/// What the fingerprint of the primary key ends with.
fn primary_key_id(gpg: &Gpg) -> [u8; 8] {
    let listed = String::from_utf8(run(gpg.command().args(["--with-colons", "--list-keys"]))).expect("text");
    let line = listed.lines().find(|line| line.starts_with("pub:")).expect("a primary key");
    let id = hex::decode(line.split(':').nth(4).expect("its id")).expect("hex");
    id.try_into().expect("eight bytes")
}

/// The packets of a certificate as gpg writes it: with heads of the old form and one or two bytes of length.
fn parts(certificate: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut rest, mut parts) = (certificate, Vec::new());
    while let [head, ..] = *rest {
        let len = body_start(rest) + body_len(rest);
        parts.push(((head >> 2) & 15, rest[..len].to_vec()));
        rest = &rest[len..];
    }
    parts
}

fn body_start(packet: &[u8]) -> usize {
    2 + usize::from(packet[0] & 3)
}

fn body_len(packet: &[u8]) -> usize {
    match packet[0] & 3 {
        0 => usize::from(packet[1]),
        1 => usize::from(u16::from_be_bytes([packet[1], packet[2]])),
        other => panic!("length of kind {other}"),
    }
}

#[test]
fn a_subkey_that_the_primary_key_did_not_sign_is_never_taken() {
    let (gpg, other) = (Gpg::usual(), Gpg::usual());
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
