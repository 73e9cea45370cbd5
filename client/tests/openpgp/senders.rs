//! Who signed an OpenPGP message: nothing is released before that is known, and nobody passes for somebody else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use custodian_client::{
    Kind,
    error::Result,
    extract::{ExtractReport, extract_from},
    progress::Silent,
    seal::seal_signed_openpgp,
    signed::{Accept, AcceptTable, Choice},
};
use custodian_proto::openpgp::{fingerprint_v4, hashed_v4, packet};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    common::{extract_job, run, tree},
    gpg::{Gpg, job},
    person::Person,
};

pub(crate) struct Scene {
    pub(crate) folder: TempDir,
    pub(crate) gpg: Gpg,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().expect("folder"), gpg: Gpg::usual() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.path("file");
        fs::write(&path, content).expect("written");
        path
    }

    /// An envelope of ours that this person signed.
    fn sealed_by(&self, person: &Person, content: &[u8]) -> PathBuf {
        let envelope = self.path("sealed.gpg");
        fs::remove_file(&envelope).ok();
        let job = job(&[&self.gpg.certificate], &self.file(content), &envelope);
        seal_signed_openpgp(&job, &person.key(), &Silent).expect("sealed");
        envelope
    }

    /// What is inside an envelope of ours: announcement, file, signature.
    fn parts(&self, envelope: &Path) -> [Vec<u8>; 3] {
        let inside = self.gpg.inside(envelope);
        let mut rest = inside.as_slice();
        [0; 3].map(|_| {
            let (head, len) = match rest[1] {
                short @ 0..192 => (2, usize::from(short)),
                long @ 192..224 => (3, ((usize::from(long) - 192) << 8) + usize::from(rest[2]) + 192),
                _ => (6, u32::from_be_bytes(rest[2..6].try_into().expect("four")) as usize),
            };
            let (part, behind) = rest.split_at(head + len);
            rest = behind;
            part.to_vec()
        })
    }

    /// Extracts what somebody put inside the encryption.
    fn extract_inside(&self, inside: &[&[u8]], accept: &Accept) -> Result<ExtractReport> {
        let envelope = self.path("given.gpg");
        fs::remove_file(&envelope).ok();
        self.gpg.encrypt_inside(&inside.concat(), &envelope);
        self.extract(&envelope, accept)
    }

    /// Extracts, and sees to it that nothing is left if that fails.
    pub(crate) fn extract(&self, envelope: &Path, accept: &Accept) -> Result<ExtractReport> {
        let out = self.path("out");
        let result = extract_from(&extract_job(envelope, &out), accept, &self.gpg, &Silent);
        match &result {
            Ok(_) => fs::remove_dir_all(&out).expect("removed"),
            Err(_) => assert!(tree::is_empty(&out), "something was written: {:?}", tree::read(&out).keys()),
        }
        result
    }

    /// Why it is refused, and that it is for good.
    fn refused(&self, inside: &[&[u8]], accept: &Accept) -> String {
        let error = self.extract_inside(inside, accept).expect_err("refused");
        assert_eq!(error.kind, Kind::Integrity, "{error}");
        format!("{}: {}", error.what, error.why)
    }
}

#[test]
fn a_signature_of_ours_comes_back_and_tells_who_made_it_and_for_whom() {
    let (scene, anna) = (Scene::new(), Person::new("anna", "ed25519"));
    for content in [Vec::new(), b"content".to_vec(), tree::noise(3_000_000)] {
        let envelope = scene.sealed_by(&anna, &content);
        let sender = scene.extract(&envelope, &anna.pinned()).expect("extracted").sender.expect("signed");
        assert_eq!(sender.subject, "anna <anna@example.org>");
        assert_eq!((sender.standing, sender.addressed), ("pinned", Some(true)));
        assert_eq!(
            (sender.emails, sender.openpgp_key),
            (vec![anna.email.clone()], Some(anna.fingerprint.clone()))
        );
    }
    let envelope = scene.sealed_by(&anna, b"content");
    let sender = scene.extract(&envelope, &Accept::Anything).expect("extracted").sender.expect("signed");
    assert_eq!((sender.standing, sender.key_id), ("not verified", None));
    assert_eq!(sender.openpgp_key.expect("named"), anna.fingerprint);
}

#[test]
fn what_is_not_signed_by_who_is_accepted_is_not_released() {
    let (scene, anna, bert) = (Scene::new(), Person::new("anna", "ed25519"), Person::new("bert", "rsa2048"));
    let envelope = scene.sealed_by(&anna, b"content");
    let error = scene.extract(&envelope, &bert.pinned()).expect_err("not accepted");
    assert!(error.kind == Kind::Integrity && error.why.contains(&anna.fingerprint), "{error}");

    let [_, file, _] = scene.parts(&envelope);
    assert!(scene.refused(&[&file], &anna.pinned()).contains("not signed"), "stripped");
    let allowed = Accept::load(&AcceptTable { unsigned: Choice::Allow, ..anna.table() }).expect("rules");
    assert!(scene.extract_inside(&[&file], &allowed).expect("allowed").sender.is_none());
    scene.extract(&scene.sealed_by(&bert, b"content"), &allowed).expect_err("bert is not accepted");

    // Nobody who is accepted has an OpenPGP certificate: then not even the key is asked for.
    let asked = scene.gpg.asked();
    let keys = AcceptTable { keys: vec!["ab".repeat(20)], ..AcceptTable::default() };
    let error = scene.extract(&envelope, &Accept::load(&keys).expect("rules")).expect_err("refused");
    assert!(error.hint.contains("OpenPGP certificate") && scene.gpg.asked() == asked, "{error}");
}

#[test]
fn a_signature_that_was_taken_away_exchanged_or_put_elsewhere_is_refused() {
    let (scene, anna, bert) = (Scene::new(), Person::new("anna", "ed25519"), Person::new("bert", "ed25519"));
    let [announced, file, signature] = scene.parts(&scene.sealed_by(&anna, b"content"));
    let [berts_announced, other_file, berts] = scene.parts(&scene.sealed_by(&bert, b"Content"));
    let accept = anna.pinned();
    scene.extract_inside(&[&announced, &file, &signature], &accept).expect("as it was");
    for (inside, why) in [
        (vec![&announced, &file], "is not there"),
        (vec![&file, &signature], "nothing announces it"),
        (vec![&announced, &other_file, &signature], "not what was signed"),
        (vec![&signature, &other_file], "not what was signed"),
        (vec![&announced, &file, &berts], &bert.fingerprint),
        (vec![&berts_announced, &other_file, &berts], &bert.fingerprint),
        (vec![&berts_announced, &other_file, &signature], "another one than was announced"),
    ] {
        let inside: Vec<_> = inside.into_iter().map(Vec::as_slice).collect();
        let refused = scene.refused(&inside, &accept);
        assert!(refused.contains(why), "{why}: {refused}");
    }
    // The old form, signature first; and two signers, of whom one is accepted.
    scene.extract_inside(&[&signature, &file], &accept).expect("the old form");
    let [berts_announced, _, berts] = scene.parts(&scene.sealed_by(&bert, b"content"));
    let both = [&berts_announced[..], &announced, &file, &signature, &berts];
    let sender = scene.extract_inside(&both, &accept).expect("one of two").sender.expect("signed");
    assert_eq!(sender.emails, ["anna@example.org"]);
}

#[test]
fn every_changed_bit_of_a_signature_is_refused() {
    let (scene, anna) = (Scene::new(), Person::new("anna", "ed25519"));
    let [announced, file, signature] = scene.parts(&scene.sealed_by(&anna, b"content"));
    let accept = anna.pinned();
    // What nothing signs: the issuer once more, the beginning of the hash, and how many bits the two numbers have.
    let number = |at: usize| usize::from(u16::from_be_bytes([signature[at], signature[at + 1]]));
    let unhashed = 8 + number(6);
    let first = unhashed + 2 + number(unhashed) + 2;
    let second = first + 2 + number(first).div_ceil(8);
    for bit in (16..signature.len() * 8).step_by(5) {
        let mut changed = signature.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let byte = bit / 8;
        let hint = (unhashed..first + 2).contains(&byte) || (second..second + 2).contains(&byte);
        let result = scene.extract_inside(&[&announced, &file, &changed], &accept);
        assert!(result.is_err() || hint, "bit {bit} of {}", hex::encode(&signature));
    }
}

#[test]
fn what_was_signed_for_somebody_else_is_refused() {
    let (scene, anna, other) = (Scene::new(), Person::new("anna", "ed25519"), Gpg::usual());
    // To another, who encrypts the same again for us.
    let envelope = scene.path("others.gpg");
    let job = job(&[&other.certificate], &scene.file(b"You are dismissed"), &envelope);
    seal_signed_openpgp(&job, &anna.key(), &Silent).expect("sealed");
    let inside = other.inside(&envelope);
    let refused = scene.refused(&[&inside], &anna.pinned());
    assert!(
        refused.contains("somebody else") && refused.contains(&hex::encode_upper(&other.primary)),
        "{refused}"
    );
    // gpg 2.2 does not say for whom, and that is told.
    anna.sign_to(&scene.gpg, &scene.file(b"x"), &scene.path("gpgs.gpg"), &[]);
    let sender = scene.extract(&scene.path("gpgs.gpg"), &anna.pinned()).expect("extracted").sender;
    assert_eq!(sender.expect("signed").addressed, Some(false));
}

#[test]
fn a_key_that_is_expired_or_revoked_does_not_count() {
    let scene = Scene::new();
    let old = Person::with("old", "rsa2048", "", &["--faked-system-time", "20200101T000000"]);
    let signed = |when: &str| {
        let out = old.path("signed");
        fs::remove_file(&out).ok();
        let mut sign = old.gpg();
        sign.args(["--faked-system-time", when, "--ignore-valid-from", "-z", "0", "--sign", "--output"]);
        run(sign.arg(&out).arg(scene.file(b"content")));
        fs::read(out).expect("read")
    };
    let in_time = signed("20200601T000000");
    assert!(scene.refused(&[&in_time], &old.pinned()).contains("expired"));
    scene.extract_inside(&[&in_time], &old.pinned_if_expired()).expect("the signer is believed");
    old.revoke();
    assert!(scene.refused(&[&in_time], &old.pinned_if_expired()).contains("revoked"));

    let anna = Person::new("anna", "nistp256");
    let envelope = scene.sealed_by(&anna, b"content");
    scene.extract(&envelope, &anna.pinned()).expect("good");
    anna.revoke();
    let error = scene.extract(&envelope, &anna.pinned()).expect_err("revoked");
    assert!(error.kind == Kind::Integrity && error.why.contains("revoked"), "{error}");
}

#[test]
fn weak_hashes_verify_nothing() {
    let (scene, anna) = (Scene::new(), Person::new("anna", "rsa2048"));
    for hash in ["SHA1", "RIPEMD160", "SHA224"] {
        let envelope = scene.path(hash);
        anna.sign_to(&scene.gpg, &scene.file(b"content"), &envelope, &["--digest-algo", hash]);
        let error = scene.extract(&envelope, &anna.pinned()).expect_err(hash);
        assert!(error.kind == Kind::Integrity && error.why.contains("nothing is verified with"), "{error}");
        scene.extract(&envelope, &Accept::Anything).expect("nobody said who is accepted");
    }
}

/// A certificate that claims a signing subkey of somebody else: his own primary key signed that it is his.
fn adopting(subkey: &[u8], flags: u8) -> Vec<u8> {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let created = 1_600_000_000_u32.to_be_bytes();
    let primary = [&[4], &created[..], &[27], key.public_key().as_ref()].concat();
    let name = b"mallory <mallory@example.org>";
    let signature = |kind: u8, about: &[u8], flags: u8| {
        let issuer = [&[22, 33, 4], &fingerprint_v4(&primary)[..]].concat();
        let area = [&[5, 2], &created[..], &issuer, &[2, 27, flags]].concat();
        let hashed = [&[4, kind, 27, 8, 0, area.len() as u8], &area[..]].concat();
        let len = (hashed.len() as u32).to_be_bytes();
        let digest = Sha256::digest([about, &hashed, &[4, 0xff], &len].concat());
        let made = key.sign(&digest);
        packet(2, &[&hashed, &[0, 0][..], &digest[..2], made.as_ref()].concat())
    };
    let about_name = [&hashed_v4(&primary), &[0xb4, 0, 0, 0, name.len() as u8][..], name].concat();
    let about_subkey = [hashed_v4(&primary), hashed_v4(subkey)].concat();
    [
        packet(6, &primary),
        packet(13, name),
        signature(0x13, &about_name, 0x03),
        packet(14, subkey),
        signature(0x18, &about_subkey, flags),
    ]
    .concat()
}

#[test]
fn nobody_adopts_anothers_signing_key() {
    let (scene, anna) = (Scene::new(), Person::with_subkey("anna", "ed25519"));
    let envelope = scene.sealed_by(&anna, b"content");
    let sender = scene.extract(&envelope, &anna.pinned()).expect("hers").sender.expect("signed");
    assert_eq!(
        sender.openpgp_key,
        Some(anna.fingerprint.clone()),
        "named by the certificate, not by the subkey"
    );

    // Her subkey, as gpg exports it: the second packet of a key, with a length of one byte.
    let exported = run(anna.gpg().args(["--export", &anna.email]));
    let start = exported.windows(2).rposition(|two| two[0] == 0xb8 && two[1] == 51).expect("a subkey");
    let mallorys = adopting(&exported[start + 2..start + 2 + 51], 0x02);
    let path = scene.path("mallory.pgp");
    fs::write(&path, mallorys).expect("written");
    let table = AcceptTable { certificates: vec![path], ..AcceptTable::default() };
    let error = scene.extract(&envelope, &Accept::load(&table).expect("rules")).expect_err("not hers");
    assert!(error.why.contains("did not sign that it belongs"), "{error}");
}

#[test]
fn a_key_for_something_else_signs_nothing() {
    let (scene, gpg) = (Scene::new(), Gpg::usual());
    // Its primary key only certifies; gpg is made to sign with it all the same.
    let table = AcceptTable { certificates: vec![gpg.certificate_file()], ..AcceptTable::default() };
    let out = scene.path("signed");
    let mut sign = gpg.command();
    sign.args(["--passphrase", "", "-z", "0", "--sign", "--output"]).arg(&out).arg(scene.file(b"content"));
    assert!(!sign.output().expect("gpg starts").status.success(), "gpg does not do it either");
    let accept = Accept::load(&table).expect("rules");
    let [_, file, _] = scene.parts(&scene.sealed_by(&Person::new("anna", "ed25519"), b"content"));
    assert!(scene.refused(&[&file], &accept).contains("not signed"));
}
