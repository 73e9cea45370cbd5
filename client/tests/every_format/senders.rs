//! Signed envelopes: who sealed them is known before anybody is asked for a key, and nobody can pass another's off.

use std::{fs, io::Write, path::Path, process::Command, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_client::{
    Kind,
    envelope::Format,
    error::Result,
    extract::{ExtractReport, Input, extract_from},
    progress::Silent,
    seal::seal_signed,
    signed::{Accept, AcceptTable, Choice, Enclosing, Hash, LocalSigner, Signer, Signing, sign_detached},
    verify::{VerifyJob, verify},
};
use tempfile::TempDir;

use crate::{
    common::{SoftKey, extract_job, extract_to, run, seal_job, seal_to, tree},
    people::{People, Person, opened},
};

pub(crate) struct Scene {
    pub(crate) people: People,
    pub(crate) key: SoftKey,
    pub(crate) folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let people = People::new();
        for name in ["anna", "bert"] {
            people.issue(&Person::named(name));
        }
        Self { people, key: SoftKey::new(&[]), folder: TempDir::new().expect("folder") }
    }

    pub(crate) fn signer(&self, name: &str) -> LocalSigner {
        opened(&self.people.path(&format!("{name}.pem"))).expect("signer")
    }

    /// An envelope that this person signed.
    pub(crate) fn sealed_by(&self, name: &str, content: &[u8]) -> Vec<u8> {
        let [source, envelope] = ["source", "signed"].map(|name| self.folder.path().join(name));
        tree::write(&source, content);
        let signer = self.signer(name);
        let job = seal_job(&self.key, &[&source], &envelope);
        let report = seal_signed(&job, Signing::by(&signer), &Silent);
        let bytes = fs::read(&envelope).expect("read");
        assert_eq!(report.expect("sealed").envelope_bytes, bytes.len() as u64);
        fs::remove_file(envelope).expect("removed");
        bytes
    }

    /// Extracts, and sees to it that no key is asked for and nothing is written if that fails.
    pub(crate) fn extract(&self, envelope: &[u8], accept: &Accept) -> Result<ExtractReport> {
        let [file, out] = ["given", "out"].map(|name| self.folder.path().join(name));
        fs::write(&file, envelope).expect("written");
        let asked = self.key.asked();
        let result = extract_from(&extract_job(&file, &out), accept, &self.key, &Silent);
        if result.is_err() {
            assert_eq!(self.key.asked(), asked, "a key was asked for");
            assert!(!out.exists(), "something was written");
        } else {
            fs::remove_dir_all(out).expect("removed");
        }
        result
    }

    pub(crate) fn pinned(&self, names: &[&str]) -> Accept {
        let certificates = names.iter().map(|name| self.people.path(&format!("{name}.crt"))).collect();
        Accept::load(&AcceptTable { certificates, ..AcceptTable::default() }).expect("rules")
    }
}

const MARK: &[u8] = b"\nCMS1 ";

fn place_of(part: &[u8], whole: &[u8]) -> usize {
    whole.windows(part.len()).rposition(|window| window == part).expect("there")
}

/// The envelope as it was before it was signed.
pub(crate) fn stripped(signed: &[u8]) -> Vec<u8> {
    if crate::FORMAT == Format::Cms {
        // The message inside starts with a SEQUENCE whose length has two bytes, and its type.
        let id = [0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x17];
        let start = place_of(&id, signed) - 4;
        let len = 4 + usize::from(u16::from_be_bytes([signed[start + 2], signed[start + 3]]));
        return signed[start..start + len].to_vec();
    }
    let end = place_of(b"PK\x05\x06", signed);
    let mark = place_of(MARK, signed);
    let mut bare = signed[..mark].to_vec();
    bare[end + 20..end + 22].copy_from_slice(&((mark - end - 22) as u16).to_le_bytes());
    bare
}

/// The envelope with this person's signature of this time.
pub(crate) fn attached(bare: &[u8], signing: Signing<'_>, time: SystemTime) -> Vec<u8> {
    if crate::FORMAT == Format::Cms {
        let mut out = Vec::new();
        let mut enclosing = Enclosing::start(&mut out, signing).expect("started");
        enclosing.write_all(bare).expect("written");
        enclosing.finish(time).expect("signed");
        return out;
    }
    let digest = Hash::Sha256.of(bare);
    let signature = sign_detached(signing, &digest, time).expect("signed");
    with_comment(bare, STANDARD.encode(signature).as_bytes())
}

fn with_comment(bare: &[u8], signature: &[u8]) -> Vec<u8> {
    let end = place_of(b"PK\x05\x06", bare);
    let mut signed = [bare, MARK, signature].concat();
    let len = (signed.len() - end - 22) as u16;
    signed[end + 20..end + 22].copy_from_slice(&len.to_le_bytes());
    signed
}

#[test]
fn a_signed_envelope_comes_back_and_tells_who_signed_it() {
    let scene = Scene::new();
    for len in [0, 100, 3_000_000] {
        let signed = scene.sealed_by("anna", &tree::noise(len));
        let report = scene.extract(&signed, &scene.pinned(&["anna"])).expect("extracted");
        assert_eq!(report.sender.expect("signed").emails, ["anna@example.org"]);
        let unknown = scene.extract(&signed, &Accept::Anything).expect("extracted").sender.expect("signed");
        assert_eq!(unknown.standing, "unknown");

        let file = scene.folder.path().join("verified");
        fs::write(&file, &signed).expect("written");
        let job = VerifyJob { file: Input::File(file), signature: None, accept: scene.pinned(&["anna"]) };
        let found = verify(&job, &Silent).expect("verified");
        assert_eq!(found.signer.subject, "CN=anna");
        assert_eq!(found.envelope.expect("an envelope").recipients.len(), 1);
    }
}

#[test]
fn every_changed_bit_of_a_signed_envelope_is_refused_before_a_key_is_asked_for() {
    let scene = Scene::new();
    let sound = scene.sealed_by("anna", b"content");
    let pinned = scene.pinned(&["anna"]);
    let passes = |bit: &usize| {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        scene.extract(&damaged, if bit.is_multiple_of(2) { &pinned } else { &Accept::Anything }).is_ok()
    };
    let passed: Vec<_> = (0..sound.len() * 8).filter(passes).map(|bit| (bit / 8, bit % 8)).collect();
    assert!(passed.is_empty(), "{passed:?} of {}", sound.len());
    for len in 0..sound.len() {
        assert!(scene.extract(&sound[..len], &pinned).is_err(), "{len}");
    }
}

#[test]
fn a_signature_that_was_taken_away_is_missed() {
    let scene = Scene::new();
    let bare = stripped(&scene.sealed_by("anna", b"content"));
    let error = scene.extract(&bare, &Accept::Anything).expect_err("missed");
    assert!(error.kind == Kind::Integrity && error.why.contains("taken away"), "{error}");
    let error = scene.extract(&bare, &scene.pinned(&["anna"])).expect_err("unsigned");
    assert!(error.what.contains("not accepted"), "{error}");

    // It is sound but for that: who rubs out the mark as well changes what the key authenticates.
    let mark = Hash::Sha256.of(scene.signer("anna").certificates().first().expect("leaf"));
    assert_eq!(bare.windows(32).filter(|window| *window == mark).count(), 1);
}

#[test]
fn nobody_passes_anothers_envelope_off_as_his_own() {
    let scene = Scene::new();
    let bare = stripped(&scene.sealed_by("anna", b"content"));
    let [annas, berts] = ["anna", "bert"].map(|name| {
        let signer = scene.signer(name);
        attached(&bare, Signing::by(&signer), SystemTime::now())
    });
    let error = scene.extract(&berts, &scene.pinned(&["anna", "bert"])).expect_err("not his");
    assert!(error.kind == Kind::Integrity && error.why.contains("somebody else"), "{error}");
    scene.extract(&annas, &scene.pinned(&["anna", "bert"])).expect("hers");
}

#[test]
fn a_signature_of_another_envelope_is_refused() {
    let scene = Scene::new();
    let [one, other] = ["one", "other"].map(|content| scene.sealed_by("anna", content.as_bytes()));
    let swapped = if crate::FORMAT == Format::Cms {
        let (one_bare, other_bare) = (stripped(&one), stripped(&other));
        let start = place_of(&one_bare, &one);
        assert!(one_bare.len() + 2 == other_bare.len());
        let same_len = stripped(&scene.sealed_by("anna", b"two"));
        let mut swapped = one.clone();
        swapped[start..start + one_bare.len()].copy_from_slice(&same_len);
        swapped
    } else {
        with_comment(&stripped(&one), &other[place_of(MARK, &other) + MARK.len()..])
    };
    let error = scene.extract(&swapped, &Accept::Anything).expect_err("another's");
    assert!(error.why.contains("not what was signed"), "{error}");
}

#[test]
fn only_accepted_senders_envelopes_are_opened() {
    let scene = Scene::new();
    let annas = scene.sealed_by("anna", b"content");
    let error = scene.extract(&annas, &scene.pinned(&["bert"])).expect_err("not accepted");
    assert!(error.kind == Kind::Integrity && error.why.contains("CN=anna"), "{error}");

    let [source, envelope, out] =
        ["plain", "unsigned", "unsigned.out"].map(|name| scene.folder.path().join(name));
    tree::write(&source, b"content");
    seal_to(&scene.key, &source, &envelope);
    let unsigned = fs::read(&envelope).expect("read");
    scene.extract(&unsigned, &scene.pinned(&["anna"])).expect_err("unsigned");
    let table = AcceptTable {
        certificates: vec![scene.people.path("anna.crt")],
        unsigned: Choice::Allow,
        ..AcceptTable::default()
    };
    let allowed = Accept::load(&table).expect("rules");
    scene.extract(&unsigned, &allowed).expect("allowed");
    assert!(scene.extract(&unsigned, &allowed).expect("allowed").sender.is_none());
    extract_to(&scene.key, &envelope, &out).expect("nobody said who is accepted");
    assert!(Path::new(&out).exists());
}

#[test]
fn openssl_verifies_a_signed_envelope() {
    let scene = Scene::new();
    let signed = scene.sealed_by("anna", b"content");
    let bare = stripped(&signed);
    let [message, content, out] = ["message", "content", "out"].map(|name| scene.people.path(name));
    let mut command = Command::new("openssl");
    command.args(["cms", "-verify", "-binary", "-inform", "DER", "-in"]).arg(&message);
    command.arg("-CAfile").arg(scene.people.root()).arg("-out").arg(&out);
    if crate::FORMAT == Format::Cms {
        fs::write(&message, &signed).expect("written");
    } else {
        let signature = STANDARD.decode(&signed[place_of(MARK, &signed) + MARK.len()..]).expect("base64");
        fs::write(&message, signature).expect("written");
        fs::write(&content, &bare).expect("written");
        command.arg("-content").arg(&content);
    }
    run(&mut command);
    assert_eq!(fs::read(&out).expect("read"), bare);
}
