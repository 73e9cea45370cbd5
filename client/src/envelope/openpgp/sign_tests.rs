//! What the standard's own examples say of signatures, and that ours verify.

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_proto::{openpgp::packet, secret::Secret};

use super::{
    content::{Content, Target},
    packet::LITERAL,
    s2k::MAX_MEMORY,
    secret_key::SigningKey,
    sign::Signing,
    signatures::{Signatures, detached},
    signer::{Addressed, Around, Keyring, Signer, Verdict, When},
};
use crate::{Kind, error::Error, extract::Limits, progress::Silent, signed::Choice};

const CERTIFICATE: &[u8] = include_bytes!("../../../testdata/openpgp/rfc9580/certificate.asc");
const SECRET: &[u8] = include_bytes!("../../../testdata/openpgp/rfc9580/secret.asc");
const LOCKED: &[u8] = include_bytes!("../../../testdata/openpgp/rfc9580/locked.asc");
const SIGNATURE: &[u8] = include_bytes!("../../../testdata/openpgp/rfc9580/signature.asc");
const INLINE: &str = include_str!("../../../testdata/openpgp/rfc9580/inline.asc");
const TEXT: &[u8] = b"What we need from the grocery store:\n\n- tofu\n- vegetables\n- noodles\n";

fn keyring() -> Keyring {
    Keyring::read(CERTIFICATE).expect("a certificate")
}

fn content(message: &[u8], keyring: &Keyring) -> Content {
    let out = tempfile::tempfile().expect("temporary file");
    let limits = Limits::default();
    Target::new(&out, &limits, message.len() as u64, Some(keyring), &Silent).take(message).expect("taken")
}

fn right(signatures: &Signatures, keyring: &Keyring, around: Around<'_>) -> Result<Signer, String> {
    let when = When { now: SystemTime::now(), expired: Choice::Refuse };
    let mut verdicts: Vec<_> = keyring.verify_all(signatures, around, when).collect();
    match (verdicts.pop(), verdicts.len()) {
        (Some(Verdict::Right(signer)), 0) => Ok(signer),
        (Some(Verdict::Wrong(error) | Verdict::Unfit(error)), 0) => Err(error.why),
        (Some(Verdict::Odd(why) | Verdict::Unknown(why)), 0) => Err(why),
        _ => Err("not one".to_owned()),
    }
}

#[test]
fn the_signed_text_of_the_standard_verifies_and_another_does_not() {
    let keyring = keyring();
    for (text, good) in [(TEXT.to_vec(), true), ([TEXT, b"\n"].concat(), false), (TEXT[1..].to_vec(), false)]
    {
        let found = detached(SIGNATURE, &text.as_slice(), text.len() as u64, Some(&keyring), &Silent);
        let signer = right(&found.expect("read"), &keyring, Around::Nothing);
        assert_eq!(signer.is_ok(), good, "{signer:?}");
        if let Ok(signer) = signer {
            assert_eq!(signer.certificate.len(), 32);
            assert_eq!(
                (signer.algorithm.as_str(), signer.addressed),
                ("Ed25519 with SHA-512", Addressed::ToNobody)
            );
        }
    }
}

#[test]
fn the_message_of_the_standard_verifies_with_its_certificate_only() {
    let base64: String = INLINE.lines().skip(2).take_while(|line| !line.starts_with('-')).collect();
    let message = STANDARD.decode(base64).expect("base64");
    let found = content(&message, &keyring());
    assert_eq!(found.len, TEXT.len() as u64);
    let signer = right(&found.signatures, &keyring(), Around::Encryption(&[])).expect("right");
    assert_eq!(signer.addressed, Addressed::NotSaid);

    let unknown = content(&message, &Keyring::default()).signatures;
    assert_eq!(unknown.first_key(), Some(hex::encode_upper(&signer.certificate)));
    let key = right(&unknown, &Keyring::default(), Around::Encryption(&[])).expect_err("unknown");
    assert_eq!(Some(key), unknown.first_key());

    // One more character in the text: right behind the head of the literal packet.
    let mut changed = message.clone();
    let at = changed.windows(4).position(|window| window == b"What").expect("there");
    changed[at] ^= 1;
    let error = right(&content(&changed, &keyring()).signatures, &keyring(), Around::Encryption(&[]));
    assert!(error.expect_err("wrong").contains("not what was signed"));
    // The same signature without what announces it.
    let error =
        right(&content(&message[2 + 70..], &keyring()).signatures, &keyring(), Around::Encryption(&[]));
    assert!(error.expect_err("odd").contains("nothing announces it"));
    // Announced only.
    let len = message.len() - 2 - 152;
    let error = right(&content(&message[..len], &keyring()).signatures, &keyring(), Around::Encryption(&[]));
    assert!(error.expect_err("odd").contains("is not there"));
}

#[test]
fn a_key_of_version_6_signs_and_its_certificate_verifies() {
    assert_signs(&open(SECRET, None).expect("a key"));
}

fn open(bytes: &[u8], passphrase: Option<&str>) -> Result<SigningKey, Error> {
    let passphrase = || match passphrase {
        Some(text) => Ok(Secret::new(text.to_owned())),
        None => Err(Error::new(Kind::Local, "x", "there is none")),
    };
    SigningKey::from_bytes(bytes, SystemTime::now(), MAX_MEMORY, &passphrase)
}

/// With a signature that the certificate of the standard verifies.
fn assert_signs(key: &SigningKey) {
    let mut signing = Signing::begin(key, &[]).expect("begun");
    let announcement = signing.announcement();
    signing.update(b"con");
    signing.update(b"tent");
    let signature = signing.finish(SystemTime::now()).expect("signed");
    let literal = packet(LITERAL, b"b\0\0\0\0\0content");
    let found = content(&[announcement, literal, signature].concat(), &keyring());
    let signer = right(&found.signatures, &keyring(), Around::Encryption(&[])).expect("right");
    assert_eq!(signer.algorithm, "Ed25519 with SHA-256");
}

/// RFC 9580 appendix A.5: Argon2 with 2 GiB, and OCB.
#[test]
fn the_locked_key_of_the_standard_signs_with_its_passphrase_only() {
    assert_signs(&open(LOCKED, Some("correct horse battery staple")).expect("a key"));
    let wrong = open(LOCKED, Some("correct horse battery")).err().expect("refused");
    assert!(wrong.why.contains("the passphrase is wrong"), "{wrong}");
    let unasked = || panic!("a passphrase that is not used is not asked for");
    let small = SigningKey::from_bytes(LOCKED, SystemTime::now(), 1 << 20, &unasked).err().expect("refused");
    assert!(small.why.contains("2048 MiB of memory (Argon2), and more than 1024 MiB"), "{small}");
}

#[test]
fn a_key_that_cannot_be_read_says_why() {
    let certificate = open(CERTIFICATE, None).err().expect("refused");
    assert!(certificate.why.contains("not PGP private key block"), "{certificate}");
    let no_passphrase = || Err(Error::new(Kind::Local, "x", "there is none"));
    let earlier = SigningKey::from_bytes(SECRET, SystemTime::UNIX_EPOCH, MAX_MEMORY, &no_passphrase);
    let earlier = earlier.err().expect("refused");
    assert!(earlier.why.contains("none of its keys can sign"), "{earlier}");
}
