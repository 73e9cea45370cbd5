//! What the standard's own examples say of signatures, and that ours verify.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    digest::{SHA512, digest},
    signature::Ed25519KeyPair,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_proto::{
    openpgp::{length, packet},
    secret::Secret,
};

use super::{
    armor,
    content::{Content, Target},
    packet::{LITERAL, PUBLIC_KEY, PUBLIC_SUBKEY, SIGNATURE as SIGNATURE_PACKET, USER_ID},
    s2k::MAX_MEMORY,
    secret_key::SigningKey,
    sign::Signing,
    signature::{SHA_512, kind, subpacket, trailer},
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

/// What the parts of the standard's own key of version 6 say of each other, made anew.
struct Parts {
    key: Ed25519KeyPair,
    /// The content of its packet.
    public: Vec<u8>,
}

/// RFC 9580 §5.2.3.29.
const CERTIFY: u8 = 1;
const SIGN: u8 = 2;

impl Parts {
    fn new() -> Self {
        let binary = armor::decode_block(SECRET, armor::SECRET_KEY).expect("armour");
        // The head, the public part of 42 bytes, one for "not encrypted", the seed.
        let (public, seed) = (binary[2..44].to_vec(), &binary[45..77]);
        Self { key: Ed25519KeyPair::from_seed_and_public_key(seed, &public[10..]).expect("a key"), public }
    }

    fn hashed(public: &[u8]) -> Vec<u8> {
        [&[0x9b], &(public.len() as u32).to_be_bytes()[..], public].concat()
    }

    /// A signature of version 6 over this, with these subpackets.
    fn signed(&self, kind: u8, about: &[u8], subpackets: &[(u8, &[u8])]) -> Vec<u8> {
        let mut area = Vec::new();
        for (kind, content) in subpackets {
            area.extend(length(content.len() + 1));
            area.push(*kind);
            area.extend(*content);
        }
        let hashed = [&[6, kind, 27, SHA_512], &(area.len() as u32).to_be_bytes()[..], &area].concat();
        let salt = [9; 32];
        let digest = digest(&SHA512, &[&salt, about, &hashed, &trailer(6, &hashed)].concat());
        let content = [&hashed, &[0; 4][..], &digest.as_ref()[..2], &[32], &salt].concat();
        packet(SIGNATURE_PACKET, &[&content, self.key.sign(digest.as_ref()).as_ref()].concat())
    }

    fn direct(&self, created: u32, more: &[(u8, &[u8])]) -> Vec<u8> {
        let created = created.to_be_bytes();
        let subpackets = [&[(subpacket::CREATED, &created[..])], more].concat();
        self.signed(kind::DIRECT_KEY, &Self::hashed(&self.public), &subpackets)
    }

    fn named(&self, created: u32, flags: u8) -> Vec<u8> {
        let name = b"Anna <anna@example.org>";
        let about = [&Self::hashed(&self.public), &[0xb4, 0, 0, 0, name.len() as u8][..], name].concat();
        let created = created.to_be_bytes();
        let subpackets = [(subpacket::CREATED, &created[..]), (subpacket::KEY_FLAGS, &[flags])];
        [packet(USER_ID, name), self.signed(*kind::CERTIFICATION.end(), &about, &subpackets)].concat()
    }

    /// The certificate with these packets behind the key, put to the test with the signature of the standard.
    fn judge(&self, packets: &[Vec<u8>]) -> Result<Signer, String> {
        let certificate = [packet(PUBLIC_KEY, &self.public), packets.concat()].concat();
        let keyring = Keyring::read(&certificate).map_err(|error| error.why)?;
        let found = detached(SIGNATURE, &TEXT, TEXT.len() as u64, Some(&keyring), &Silent).expect("read");
        right(&found, &keyring, Around::Nothing)
    }
}

/// When the key was made; the signature of the standard is a year younger.
const MADE: u32 = 0x6387_7fe3;

/// RFC 9580 §10.1.1.
#[test]
fn a_direct_key_signature_of_version_6_is_believed_and_no_user_id_against_it() {
    let parts = Parts::new();
    let flags = |flags: &'static [u8]| [(subpacket::KEY_FLAGS, flags)];
    let direct = parts.direct(MADE, &flags(&[CERTIFY | SIGN]));
    assert!(parts.judge(std::slice::from_ref(&direct)).is_ok());
    // What a user id says later of the same key does not count beside it; the name does.
    let signer = parts.judge(&[direct.clone(), parts.named(MADE + 9, CERTIFY)]).expect("right");
    assert_eq!(signer.emails, ["anna@example.org"]);
    let later = parts.direct(MADE + 5, &flags(&[CERTIFY]));
    let told = parts.judge(&[direct.clone(), later, parts.named(MADE + 9, CERTIFY | SIGN)]);
    assert!(told.expect_err("the newest says otherwise").contains("not for signing"));
    assert!(parts.judge(&[parts.named(MADE, CERTIFY | SIGN)]).is_ok(), "without one, the user id's counts");

    // An end, and something critical that nobody knows.
    let ends = [flags(&[CERTIFY | SIGN])[0], (subpacket::KEY_EXPIRES, &[0, 0, 0, 60])];
    assert!(parts.judge(&[parts.direct(MADE, &ends)]).expect_err("expired").contains("expired"));
    let unknown = [flags(&[CERTIFY | SIGN])[0], (0x80 | 100, &[])];
    assert!(
        parts.judge(&[parts.direct(MADE, &unknown)]).expect_err("not understood").contains("nothing in it")
    );
    // Not the key's own: every bit of it counts, but for the hint of the hash.
    let hint = direct.len() - 64 - 32 - 1 - 2..direct.len() - 64 - 32 - 1;
    for at in (2 + 8..direct.len()).filter(|at| !hint.contains(at)) {
        let mut bad = direct.clone();
        bad[at] ^= 1;
        assert!(parts.judge(&[bad]).is_err(), "byte {at}");
    }
}

#[test]
fn a_subkey_that_adopted_itself_signs_only_while_what_it_says_holds() {
    let parts = Parts::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as u32;
    let seed = [7; 32];
    let subkey = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key");
    let point = aws_lc_rs::signature::KeyPair::public_key(&subkey).as_ref().to_vec();
    let made = MADE.to_be_bytes();
    let public = [&[6], &made[..], &[27, 0, 0, 0, 32], &point].concat();
    let sub = Parts { key: subkey, public };
    let about = [Parts::hashed(&parts.public), Parts::hashed(&sub.public)].concat();
    let direct = parts.direct(MADE, &[(subpacket::KEY_FLAGS, &[CERTIFY])]);

    // A secret key with that subkey, as it is read to sign: it can if its certificate lets it.
    let can_sign = |back: &[(u8, &[u8])]| {
        let embedded = sub.signed(kind::PRIMARY_KEY_BINDING, &about, back);
        // Its head: the type and a length of two bytes.
        let embedded = &embedded[if embedded[1] < 192 { 2 } else { 3 }..];
        let binding = [
            (subpacket::CREATED, &made[..]),
            (subpacket::KEY_FLAGS, &[SIGN]),
            (subpacket::EMBEDDED_SIGNATURE, embedded),
        ];
        let binding = parts.signed(kind::SUBKEY_BINDING, &about, &binding);
        let secret = [&sub.public[..], &[0], &seed].concat();
        let primary = armor::decode_block(SECRET, armor::SECRET_KEY).expect("armour")[..77].to_vec();
        let whole = [primary, direct.clone(), packet(7, &secret), binding.clone()].concat();
        let certificate =
            [packet(PUBLIC_KEY, &parts.public), direct.clone(), packet(PUBLIC_SUBKEY, &sub.public), binding];
        Keyring::read(&certificate.concat()).expect("a certificate");
        open(&whole, None).map(drop).map_err(|error| error.why)
    };
    let created = (subpacket::CREATED, &made[..]);
    let (soon, later) = ((now + 9_000).to_be_bytes(), (now - MADE + 9_000).to_be_bytes());
    assert_eq!(can_sign(&[created]), Ok(()));
    assert_eq!(can_sign(&[created, (subpacket::EXPIRES, &later)]), Ok(()));
    for bad in [
        &[created, (subpacket::EXPIRES, &[0, 0, 0, 60])][..],
        &[(subpacket::CREATED, &soon)],
        &[created, (0x80 | 100, &[])],
        &[],
    ] {
        assert!(
            can_sign(bad).expect_err("it does not hold").contains("did not sign that it belongs"),
            "{bad:?}"
        );
    }
}
