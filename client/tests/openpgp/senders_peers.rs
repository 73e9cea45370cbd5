//! gpg and Sequoia verify what we sign, and we verify what they sign.

use std::{fs, process::Command};

use custodian_client::{
    Kind,
    envelope::openpgp::SigningKey,
    extract::Input,
    progress::Silent,
    seal::seal_signed_openpgp,
    sign::{SignJob, SignTo, sign_openpgp},
    signed::Accept,
    verify::{Verification, VerifyJob, verify},
};

use crate::{
    common::{run, tree},
    gpg::job,
    person::{Person, passphrase},
    senders::Scene,
};

#[test]
fn we_verify_what_gpg_signs_and_encrypts() {
    let scene = Scene::new();
    let text = "many\nlines\r\n".repeat(20_000).into_bytes();
    for (kind, arguments) in [
        ("rsa3072", &["--digest-algo", "SHA256"][..]),
        ("rsa2048", &["--digest-algo", "SHA384", "-z", "0"]),
        ("rsa2048", &["--digest-algo", "SHA512", "--armor"]),
        ("ed25519", &[]),
        ("nistp256", &[]),
        ("nistp256", &["--digest-algo", "SHA512"]),
        ("nistp384", &["--compress-algo", "zip"]),
        ("nistp521", &[]),
        ("ed25519", &["--textmode"]),
        ("rsa2048", &["--textmode", "-z", "0"]),
    ] {
        for person in [Person::new("anna", kind), Person::with_subkey("bert", kind)] {
            let envelope = scene.path("signed.gpg");
            fs::remove_file(&envelope).ok();
            person.sign_to(&scene.gpg, &scene.file(&text), &envelope, arguments);
            let report = scene.extract(&envelope, &person.pinned());
            let sender = report.unwrap_or_else(|error| panic!("{kind} {arguments:?}: {error}")).sender;
            assert_eq!(sender.expect("signed").emails, [person.email.as_str()]);
        }
    }
}

#[test]
fn gpg_verifies_what_we_sign() {
    let scene = Scene::new();
    for kind in ["rsa2048", "rsa3072", "ed25519", "nistp256", "nistp384", "nistp521"] {
        for person in [Person::new("anna", kind), Person::with_subkey("bert", kind)] {
            let envelope = scene.path("sealed.gpg");
            fs::remove_file(&envelope).ok();
            let content = tree::noise(2_000_000);
            let job = job(&[&scene.gpg.certificate], &scene.file(&content), &envelope);
            seal_signed_openpgp(&job, &person.key(), &Silent).expect("sealed");
            run(scene.gpg.command().arg("--import").arg(person.certificate()));
            let mut decrypt = scene.gpg.command();
            decrypt.args(["--status-fd", "2", "--decrypt"]).arg(&envelope);
            let output = decrypt.output().expect("gpg starts");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && output.stdout == content, "{kind}: {said}");
            assert!(said.contains("GOODSIG") && said.contains(&person.fingerprint), "{kind}: {said}");
        }
    }
}

#[test]
fn a_key_with_a_passphrase_signs_if_that_is_right() {
    let anna = Person::with("anna", "rsa2048", "open sesame", &[]);
    let secret = anna.secret("open sesame");
    SigningKey::open(&secret, &passphrase("open sesame")).map(drop).expect("right");
    let error = SigningKey::open(&secret, &passphrase("open")).err().expect("wrong");
    assert!(error.kind == Kind::Local && error.why.contains("the passphrase is wrong"), "{error}");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("mode");
    let error = SigningKey::open(&secret, &passphrase("open sesame")).err().expect("others can read it");
    assert!(error.hint.contains("chmod 600"), "{error}");
    let error = SigningKey::open(&anna.certificate(), &passphrase("")).err().expect("no key");
    assert_eq!(error.kind, Kind::Local);
}

#[test]
fn sequoia_verifies_ours_and_we_verify_its() {
    let (scene, anna) = (Scene::new(), Person::new("anna", "ed25519"));
    let content = tree::noise(200_000);
    scene.file(&content);
    fs::copy(anna.certificate(), scene.path("anna.pgp")).expect("copied");
    fs::copy(anna.secret(""), scene.path("anna.key")).expect("copied");
    fs::write(scene.path("to.pgp"), &scene.gpg.certificate).expect("written");
    let secret = run(scene.gpg.command().args(["--passphrase", "", "--export-secret-keys"]));
    fs::write(scene.path("to.key"), secret).expect("written");
    let sq = |args: &[&str]| run(Command::new("sq").args(args).current_dir(&scene.folder));

    sq(&[
        "encrypt",
        "--recipient-cert",
        "to.pgp",
        "--signer-key",
        "anna.key",
        "--output",
        "theirs.pgp",
        "file",
    ]);
    let sender = scene.extract(&scene.path("theirs.pgp"), &anna.pinned()).expect("extracted").sender;
    assert_eq!(sender.expect("signed").addressed, Some(true), "Sequoia says for whom it is");

    let job = job(&[&scene.gpg.certificate], &scene.path("file"), &scene.path("ours.pgp"));
    seal_signed_openpgp(&job, &anna.key(), &Silent).expect("sealed");
    let opened = sq(&[
        "decrypt",
        "--recipient-key",
        "to.key",
        "--signer-cert",
        "anna.pgp",
        "--signatures",
        "1",
        "ours.pgp",
    ]);
    assert!(opened == content);
}

fn verified(scene: &Scene, accept: Accept) -> custodian_client::error::Result<Verification> {
    let file = Input::File(scene.path("file"));
    verify(&VerifyJob { file, signature: None, accept }, &Silent)
}

#[test]
fn a_detached_signature_of_gpg_is_verified() {
    let (scene, anna, bert) = (Scene::new(), Person::new("anna", "rsa2048"), Person::new("bert", "ed25519"));
    let file = scene.file(b"content\n");
    for (person, arguments, name) in [
        (&anna, &[][..], "file.sig"),
        (&bert, &["--armor"], "file.asc"),
        (&bert, &["--textmode"], "file.sig"),
    ] {
        let signature = scene.path(name);
        let mut sign = person.gpg();
        sign.args(arguments).args(["--detach-sign", "--output"]).arg(&signature).arg(&file);
        run(&mut sign);
        let found = verified(&scene, person.pinned()).expect("verified");
        assert_eq!((found.signer.emails, found.signer.addressed), (vec![person.email.clone()], None));
        let stranger = if person.email == anna.email { &bert } else { &anna };
        let error = verified(&scene, stranger.pinned()).expect_err("somebody else");
        assert!(error.kind == Kind::Integrity && error.why.contains(&person.fingerprint), "{error}");
        let error = verified(&scene, Accept::Anything).expect_err("nobody gave the certificate");
        assert!(error.kind == Kind::Local && error.hint.contains("--accept-from"), "{error}");
        scene.file(b"Content\n");
        let error = verified(&scene, person.pinned()).expect_err("changed");
        assert!(error.kind == Kind::Integrity && error.why.contains("not what was signed"), "{error}");
        scene.file(b"content\n");
        fs::remove_file(&signature).expect("removed");
    }
}

#[test]
fn gpg_and_sequoia_verify_our_detached_signatures_and_so_do_we() {
    let scene = Scene::new();
    for kind in ["rsa2048", "ed25519", "nistp256", "nistp384", "nistp521"] {
        for content in [tree::noise(2_500_000), Vec::new()] {
            let person = Person::with_subkey("anna", kind);
            let (file, signature) = (scene.file(&content), scene.path("file.sig"));
            let job = SignJob { file: Input::File(file.clone()), output: SignTo::File(signature.clone()) };
            assert_eq!(sign_openpgp(&job, &person.key(), &Silent).expect("signed"), content.len() as u64);
            let found = verified(&scene, person.pinned()).expect("verified");
            assert_eq!((found.signer.emails, found.signer.addressed), (vec![person.email.clone()], None));

            run(scene.gpg.command().arg("--import").arg(person.certificate()));
            let mut verify = scene.gpg.command();
            verify.args(["--status-fd", "2", "--verify"]).arg(&signature).arg(&file);
            let output = verify.output().expect("gpg starts");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && said.contains("GOODSIG"), "{kind}: {said}");
            assert!(said.contains(&person.fingerprint), "{kind}: {said}");
            let mut verify = Command::new("sq");
            verify.args(["verify", "--signer-cert"]).arg(person.certificate());
            run(verify.arg("--detached").arg(&signature).arg(&file));

            let again = sign_openpgp(&job, &person.key(), &Silent).expect_err("it is there");
            assert!(again.why.contains("exists already"), "{again}");
            scene.file(&[&content[..], b"."].concat());
            let error = verified(&scene, person.pinned()).expect_err("changed");
            assert!(error.kind == Kind::Integrity && error.why.contains("not what was signed"), "{error}");
            fs::remove_file(&signature).expect("removed");
        }
    }
}

#[test]
fn a_signature_taken_out_of_an_encrypted_message_is_no_signature_of_a_file() {
    let (scene, anna) = (Scene::new(), Person::new("anna", "ed25519"));
    let envelope = scene.path("sealed.gpg");
    let job = job(&[&scene.gpg.certificate], &scene.file(b"content"), &envelope);
    seal_signed_openpgp(&job, &anna.key(), &Silent).expect("sealed");
    let inside = scene.gpg.inside(&envelope);
    let start = inside.iter().rposition(|byte| *byte == 0xc2).expect("a signature");
    let start = inside.windows(7).rposition(|window| window == b"content").map_or(start, |at| at + 7);
    fs::write(scene.path("file.sig"), &inside[start..]).expect("written");
    let error = verified(&scene, anna.pinned()).expect_err("for somebody");
    assert!(error.what.contains("somebody else"), "{error}");

    fs::copy(&envelope, scene.path("file")).expect("copied");
    fs::remove_file(scene.path("file.sig")).expect("removed");
    let error = verified(&scene, anna.pinned()).expect_err("it is inside");
    assert!(error.hint.contains("envelope extract"), "{error}");
}
