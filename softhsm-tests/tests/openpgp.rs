//! OpenPGP through a custodian: gpg and Sequoia encrypt to a key in the token, and nobody has it but the token.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use custodian_proto::{key::FileKey, openpgp, v1};
use der::{Decode, Encode};
use softhsm_tests::{Dev, Person, Ran, Wire, run, sealed_key};
use tonic_types::StatusExt;

/// A custodian with a key for OpenPGP, and where its certificate is.
fn start() -> (Dev, PathBuf) {
    let dev = Dev::start();
    key(&dev, &["create", "pgp", "--openpgp", "--bits", "2048"]).expect(0);
    let certificate = dev.scratch("certificates").join("pgp.asc");
    key(&dev, &["export", "pgp", "--openpgp", "-o", certificate.to_str().unwrap()]).expect(0);
    (dev, certificate)
}

fn key(dev: &Dev, args: &[&str]) -> Ran {
    dev.ctl(Person::Admin, [&["key"], args].concat())
}

fn extract(dev: &Dev, envelope: &Path) -> Ran {
    let args = ["extract", envelope.to_str().unwrap(), "--to-stdout", "--reason", "case 17"];
    dev.envelope(Person::Operator, args)
}

fn gpg(dev: &Dev) -> Command {
    let home = dev.scratch("gpg");
    let mut command = Command::new("gpg");
    command.arg("--homedir").arg(home).args(["--batch", "--quiet", "--no-tty", "--trust-model", "always"]);
    command
}

fn write_text(dev: &Dev) -> (PathBuf, String) {
    let (path, text) = (dev.scratch("source").join("text"), "many words ".repeat(100_000));
    fs::write(&path, &text).unwrap();
    (path, text)
}

#[tokio::test]
async fn what_gpg_and_sequoia_encrypt_comes_out_of_the_custodian_and_the_log_says_openpgp() {
    let (dev, certificate) = start();
    let (source, text) = write_text(&dev);
    let shown = key(&dev, &["show", "pgp", "--json"]).expect(0).json();
    assert_eq!(shown["wrapping"], "RSA-PKCS1-OPENPGP");
    let fingerprint = shown["openpgp_fingerprint"].as_str().unwrap().to_owned();

    run(gpg(&dev).arg("--import").arg(&certificate)).expect(0);
    let listed = run(gpg(&dev).args(["--list-keys", "--with-colons", "--with-subkey-fingerprint"])).expect(0);
    assert!(listed.stdout.contains(&fingerprint), "{}", listed.stdout);
    let fields: Vec<Vec<&str>> = listed.stdout.lines().map(|line| line.split(':').collect()).collect();
    let uses: Vec<_> =
        fields.iter().filter(|line| ["pub", "sub"].contains(&line[0])).map(|line| line[11]).collect();
    assert_eq!(uses, ["cEC", "e"], "{}", listed.stdout);
    let checked = run(gpg(&dev).args(["--check-sigs", "--with-colons"])).expect(0);
    assert_eq!(checked.stdout.matches("\nsig:!:").count(), 2, "{}", checked.stdout);

    let folder = dev.scratch("sealed");
    for (name, args) in [
        ("by-name.gpg", &["--recipient", "pgp"][..]),
        ("by-fingerprint.gpg", &["--recipient", &fingerprint]),
        ("armoured.asc", &["--armor", "--recipient", "pgp"]),
        ("by-file.gpg", &["--recipient-file", certificate.to_str().unwrap()]),
    ] {
        let envelope = folder.join(name);
        run(gpg(&dev).args(args).arg("--output").arg(&envelope).arg("--encrypt").arg(&source)).expect(0);
        assert_eq!(extract(&dev, &envelope).expect(0).stdout, text, "{name}");
    }
    let envelope = folder.join("sequoia.pgp");
    run(Command::new("sq")
        .args(["encrypt", "--recipient-cert"])
        .arg(&certificate)
        .arg("--output")
        .arg(&envelope)
        .arg(&source))
    .expect(0);
    assert_eq!(extract(&dev, &envelope).expect(0).stdout, text);

    let args = ["inspect", envelope.to_str().unwrap(), "--json"];
    let inspected = dev.envelope(Person::Operator, args).expect(0).json();
    let recipient = &inspected["recipients"][0];
    assert!(fingerprint.ends_with(recipient["openpgp_key"].as_str().unwrap()), "{inspected}");
    let records = Wire::records(&dev).await;
    let named = |record: &&v1::Record| recipient["wrapped_key_sha256"] == record.wrapped_key_sha256;
    let record = records.iter().find(named).unwrap();
    assert_eq!((record.outcome.as_str(), record.claims.as_ref().unwrap().format.as_str()), ("OK", "openpgp"));
    assert!(records.iter().any(|record| record.operation == "ExportOpenPgpKey" && record.outcome == "OK"));
}

#[test]
fn what_we_seal_to_its_certificate_comes_back() {
    let (dev, certificate) = start();
    let (source, text) = write_text(&dev);
    let envelope = dev.scratch("sealed").join("text.gpg");
    let to = certificate.to_str().unwrap();
    let seal = |format: &str, to: &str| {
        let args = [
            "seal",
            "--format",
            format,
            "--to",
            to,
            "-o",
            envelope.to_str().unwrap(),
            source.to_str().unwrap(),
        ];
        dev.envelope(Person::Operator, args)
    };
    seal("openpgp", to).expect(0);
    let args = ["inspect", envelope.to_str().unwrap()];
    assert!(dev.envelope(Person::Operator, args).expect(0).stdout.contains("AES-256-GCM"));
    assert_eq!(extract(&dev, &envelope).expect(0).stdout, text);

    // Each kind of certificate is for its formats.
    fs::remove_file(&envelope).unwrap();
    seal("openpgp", dev.certificate().to_str().unwrap()).expect(1).says("OpenPGP certificate");
    seal("cms", to).expect(1);
    key(&dev, &["cert", "pgp"]).expect(2).says("--openpgp");
    key(&dev, &["cert", "sample", "--openpgp"]).expect(3).says("STATE_CONFLICT");
    assert!(!envelope.exists());
}

#[test]
fn keys_that_are_made_at_the_same_moment_get_a_second_of_their_own() {
    let (dev, _) = start();
    let create = |label: &str| {
        let mut command = dev.command("custodianctl", Person::Admin);
        command.args(["key", "create", label, "--openpgp", "--bits", "2048", "--json"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    dev.ctl(Person::Admin, ["login"]).expect(0);
    let made: Vec<_> = ["one", "two", "three"].map(create).into_iter().collect();
    let seconds: std::collections::BTreeSet<String> = made
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let key: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            key["create_time"].as_str().unwrap()[..19].to_owned()
        })
        .collect();
    assert_eq!(seconds.len(), 3, "{seconds:?}");
}

#[test]
fn after_a_rotation_the_old_opens_and_a_compromised_one_nobody_encrypts_to() {
    let (dev, old) = start();
    let (source, text) = write_text(&dev);
    let encrypt = |certificate: &Path, name: &str| {
        let envelope = dev.scratch("sealed").join(name);
        let mut command = gpg(&dev);
        command
            .arg("--recipient-file")
            .arg(certificate)
            .arg("--output")
            .arg(&envelope)
            .arg("--encrypt")
            .arg(&source);
        (run(&mut command), envelope)
    };
    let (ran, sealed_before) = encrypt(&old, "old.gpg");
    ran.expect(0);
    key(&dev, &["rotate", "pgp"]).expect(0);
    let new = dev.scratch("certificates").join("new.asc");
    key(&dev, &["export", "pgp", "--openpgp", "-o", new.to_str().unwrap()]).expect(0);
    let (ran, sealed_after) = encrypt(&new, "new.gpg");
    ran.expect(0);
    for envelope in [&sealed_before, &sealed_after] {
        assert_eq!(extract(&dev, envelope).expect(0).stdout, text);
    }

    key(&dev, &["compromise", "pgp@2", "--reason", "test"]).expect(0);
    extract(&dev, &sealed_after).expect(3).says("KEY_COMPROMISED");
    let revoked = dev.scratch("certificates").join("revoked.asc");
    key(&dev, &["export", "pgp@2", "--openpgp", "-o", revoked.to_str().unwrap()]).expect(0);
    let (ran, _) = encrypt(&revoked, "never.gpg");
    assert_ne!(ran.code, Some(0));
    let args = ["seal", "--format", "openpgp", "--to", revoked.to_str().unwrap(), source.to_str().unwrap()];
    dev.envelope(Person::Operator, args).expect(1).says("revoked");
}

#[tokio::test]
async fn law_5_whatever_is_wrong_with_a_wrapped_key_has_one_answer_and_is_charged() {
    let (dev, _) = start();
    let operator = Wire::login(&dev, Person::Operator).await;
    let keys = operator.keys().list_keys(operator.request(v1::ListKeysRequest::default())).await.unwrap();
    let keys = keys.into_inner().keys;
    let pgp = keys.iter().find(|key| key.label == "pgp").unwrap();
    let certificate = x509_cert::Certificate::from_der(&pgp.certificate).unwrap();
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().unwrap();
    let encrypt = |plaintext: &[u8]| {
        let public = Pkcs1PublicEncryptingKey::new(PublicEncryptingKey::from_der(&spki).unwrap()).unwrap();
        let mut ciphertext = vec![0; public.ciphertext_size()];
        public.encrypt(plaintext, &mut ciphertext).unwrap();
        ciphertext
    };
    let ask = async |key: &str, wrapping: v1::KeyWrapping, wrapped_key: Vec<u8>| {
        let claims = Some(v1::Claims { format: "openpgp".into(), ..Default::default() });
        let request = v1::UnwrapRequest {
            key: key.to_owned(),
            wrapping: wrapping.into(),
            wrapped_key,
            claims,
            with_receipt: false,
        };
        operator.custody().unwrap(operator.request(request)).await.map(|answer| answer.into_inner().file_key)
    };
    let good = openpgp::wrapped_by_v3(&FileKey::new([7; 32]));
    let as_pgp = v1::KeyWrapping::RsaPkcs1Openpgp;
    assert_eq!(ask(&pgp.name, as_pgp, encrypt(&good)).await.unwrap(), [7; 32]);

    let changed = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        encrypt(&bytes)
    };
    let told = ask(&pgp.name, as_pgp, vec![3; 256]).await.unwrap_err().message().to_owned();
    let (sample, wrapped_to_sample) = sealed_key(&dev.certificate(), &[7; 32]);
    for (what, key, wrapping, wrapped) in [
        ("garbage", &pgp.name, as_pgp, vec![0x42; 256]),
        ("zeros", &pgp.name, as_pgp, vec![0; 256]),
        ("another cipher", &pgp.name, as_pgp, changed(0)),
        ("another checksum", &pgp.name, as_pgp, changed(34)),
        ("a bare file key", &pgp.name, as_pgp, encrypt(&[7; 32])),
        ("nothing", &pgp.name, as_pgp, encrypt(&[])),
        ("too short", &pgp.name, as_pgp, vec![1; 255]),
        ("OAEP asked of a key for OpenPGP", &pgp.name, v1::KeyWrapping::RsaOaepSha1, encrypt(&good)),
        ("OpenPGP asked of a key for OAEP", &sample, as_pgp, wrapped_to_sample),
    ] {
        let status = ask(key, wrapping, wrapped).await.expect_err(what);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "WRAPPED_KEY_REJECTED", "{what}");
        assert_eq!(status.message(), told, "{what}");
    }
}

/// A key ring with a key that signs and one that is encrypted to, both of this person.
fn person(dev: &Dev, name: &str) {
    let generate = |args: &[&str]| run(loopback(dev).args(args)).expect(0);
    let user = format!("{name} <{name}@example.org>");
    generate(&["--quick-generate-key", &user, "ed25519", "sign", "1y"]);
    let listed = run(gpg(dev).args(["--list-keys", "--with-colons", name])).expect(0).stdout;
    let line = listed.lines().find(|line| line.starts_with("fpr")).unwrap();
    generate(&["--quick-add-key", line.split(':').nth(9).unwrap(), "rsa2048", "encr", "1y"]);
}

fn loopback(dev: &Dev) -> Command {
    let mut command = gpg(dev);
    command.args(["--pinentry-mode", "loopback", "--passphrase", ""]);
    command
}

/// What gpg exports, in a file that its owner alone can read.
fn exported(dev: &Dev, what: &str, name: &str) -> String {
    let path = dev.scratch("exported").join(format!("{name}{what}"));
    run(loopback(dev).args([what, "--output"]).arg(&path).arg(name)).expect(0);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn who_signed_is_verified_before_anything_is_written_and_so_is_for_whom() {
    let (dev, certificate) = start();
    let (source, text) = write_text(&dev);
    let source = source.to_str().unwrap();
    ["anna", "bert"].iter().for_each(|name| person(&dev, name));
    let annas = exported(&dev, "--export", "anna");
    let berts = exported(&dev, "--export", "bert");
    let key = exported(&dev, "--export-secret-keys", "anna");
    let folder = dev.scratch("signed");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let seal = |to: &str, out: &str| {
        let args = ["seal", "--format", "openpgp", "--to", to, "--sign-with", &key, "-o", out, source];
        dev.envelope(Person::Operator, args).expect(0);
    };
    let extract = |envelope: &str, from: &str| {
        let args = ["extract", envelope, "--to-stdout", "--accept-from", from];
        dev.envelope(Person::Operator, args)
    };

    seal(certificate.to_str().unwrap(), &path("ours.gpg"));
    let opened = extract(&path("ours.gpg"), &annas).expect(0);
    assert_eq!(opened.stdout, text);
    opened.says("signed by anna <anna@example.org>");
    let refused = extract(&path("ours.gpg"), &berts).expect(5);
    assert!(refused.stdout.is_empty());
    refused.says("not accepted");

    // Sequoia names whom it encrypts to by the primary key, which is the device CA's.
    let to = certificate.to_str().unwrap();
    run(Command::new("sq").args([
        "encrypt",
        "--recipient-cert",
        to,
        "--signer-key",
        &key,
        "--output",
        &path("sequoias.pgp"),
        source,
    ]))
    .expect(0);
    assert_eq!(extract(&path("sequoias.pgp"), &annas).expect(0).stdout, text);

    // Bert sends on what anna sent to him.
    seal(&berts, &path("to-bert.gpg"));
    run(gpg(&dev).args(["--unwrap", "--output", &path("inside"), &path("to-bert.gpg")])).expect(0);
    run(gpg(&dev).arg("--import").arg(&certificate)).expect(0);
    run(gpg(&dev)
        .args(["--no-literal", "-z", "0", "--recipient", "pgp", "--output", &path("sent-on.gpg")])
        .args(["--encrypt", &path("inside")]))
    .expect(0);
    let refused = extract(&path("sent-on.gpg"), &annas).expect(5);
    assert!(refused.stdout.is_empty());
    refused.says("somebody else");
    run(Command::new("gpgconf").arg("--homedir").arg(dev.scratch("gpg")).args(["--kill", "all"])).expect(0);
}

#[tokio::test]
async fn a_key_in_the_custodian_signs_what_gpg_and_sequoia_verify_and_so_do_we() {
    let (dev, certificate) = start();
    let (source, text) = write_text(&dev);
    let (source, to) = (source.to_str().unwrap(), certificate.to_str().unwrap());
    let folder = dev.scratch("signed");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let shown = key(&dev, &["create", "letters", "--use", "sign-ecdsa", "--json"]).expect(0).json();
    let fingerprint = shown["openpgp_fingerprint"].as_str().unwrap().to_owned();
    key(&dev, &["create", "others", "--use", "sign-ecdsa"]).expect(0);
    key(&dev, &["create", "contracts", "--use", "sign", "--bits", "2048"]).expect(0);
    let issued = |of: &str, name: &str| {
        key(&dev, &["export", of, "--openpgp", "-o", &path(name)]).expect(0);
        path(name)
    };
    let (letters, others) = (issued("letters", "letters.asc"), issued("others", "others.asc"));
    let seal = |who: Person, to: &str, with: &str, out: &str| {
        let args = ["seal", "--format", "openpgp", "--to", to, "--sign-with", with, "-o", out, source];
        dev.envelope(who, args)
    };
    let extract = |envelope: &str, from: &str| {
        let args = ["extract", envelope, "--to-stdout", "--accept-from", from];
        dev.envelope(Person::Operator, args)
    };

    // To the custodian, which opens it: the signer is known, and any other is not accepted.
    seal(Person::Operator, to, "custodian:letters", &path("ours.gpg")).expect(0);
    let opened = extract(&path("ours.gpg"), &letters).expect(0);
    assert_eq!(opened.stdout, text);
    opened.says("signed by letters v1 (Custodian, key ");
    let refused = extract(&path("ours.gpg"), &others).expect(5);
    assert!(refused.stdout.is_empty());
    refused.says("not accepted").says(&fingerprint);
    let records = Wire::records(&dev).await;
    let signed: Vec<_> = records.iter().filter(|record| record.operation == "Sign").collect();
    let [signed] = signed.as_slice() else { panic!("{} signatures", signed.len()) };
    assert_eq!((signed.outcome.as_str(), signed.claims.as_ref().unwrap().format.as_str()), ("OK", "openpgp"));
    assert!(signed.digest.starts_with("sha256:") && shown["name"] == signed.key, "{}", signed.digest);

    // To bert, who has gpg and Sequoia.
    person(&dev, "bert");
    let [bert, secret] = ["--export", "--export-secret-keys"].map(|what| exported(&dev, what, "bert"));
    seal(Person::Operator, &bert, "custodian:letters", &path("to-bert.gpg")).expect(0);
    let gpg_verifies = |expected: &[&str]| {
        let mut decrypt = loopback(&dev);
        decrypt.args(["--status-fd", "2", "--output", "-", "--decrypt", &path("to-bert.gpg")]);
        let ran = run(&mut decrypt);
        assert_eq!(ran.stdout, text, "{}", ran.stderr);
        expected.iter().for_each(|one| assert!(ran.stderr.contains(one), "{one}: {}", ran.stderr));
    };
    let sequoia_verifies = |signer: &str| {
        let mut decrypt = Command::new("sq");
        decrypt.args(["decrypt", "--recipient-key", &secret, "--signer-cert", signer, "--signatures", "1"]);
        run(decrypt.arg(path("to-bert.gpg")))
    };
    run(gpg(&dev).args(["--import", &letters])).expect(0);

    // A file that stands by itself, and its signature beside it.
    let sign = |more: &[&str]| {
        let args = [&["sign", source, "--format", "openpgp", "--with", "custodian:letters"], more].concat();
        dev.envelope(Person::Operator, args)
    };
    sign(&["--timestamp"]).expect(2).says("no place for a timestamp");
    sign(&[]).expect(0);
    let beside = format!("{source}.sig");
    let ran = run(gpg(&dev).args(["--status-fd", "2", "--verify", &beside, source]));
    assert!(ran.expect(0).stderr.contains("GOODSIG"));
    run(Command::new("sq").args(["verify", "--signer-cert", &letters, "--detached", &beside, source]))
        .expect(0);
    let verify = |from: &str| dev.envelope(Person::Operator, ["verify", source, "--accept-from", from]);
    assert!(verify(&letters).expect(0).stdout.contains("pinned"));
    verify(&others).expect(5).says("not accepted");

    gpg_verifies(&["GOODSIG", &fingerprint]);
    assert_eq!(sequoia_verifies(&letters).expect(0).stdout, text);
    assert_ne!(sequoia_verifies(&others).code, Some(0));

    // What it signed stays good when the next version took over; what the next signs is another's.
    key(&dev, &["rotate", "letters"]).expect(0);
    let before = issued("letters@1", "before.asc");
    assert_eq!(sequoia_verifies(&before).expect(0).stdout, text);
    run(gpg(&dev).args(["--import", &before])).expect(0);
    gpg_verifies(&["VALIDSIG", &fingerprint]);
    seal(Person::Operator, to, "custodian:letters", &path("next.gpg")).expect(0);
    extract(&path("next.gpg"), &letters).expect(5).says("not accepted");
    let next = issued("letters", "next.asc");
    assert_eq!(extract(&path("next.gpg"), &next).expect(0).stdout, text);

    // Once somebody else may have it, its certificate says so.
    key(&dev, &["compromise", "letters@2", "--reason", "lost"]).expect(0);
    let revoked = issued("letters@2", "revoked.asc");
    extract(&path("next.gpg"), &revoked).expect(5).says("revoked");
    key(&dev, &["suspend", "others", "--reason", "holiday"]).expect(0);
    key(&dev, &["export", "others@1", "--openpgp"]).expect(3).says("KEY_SUSPENDED");

    // Who may not sign seals nothing, nor does a key that signs in another way.
    let none = path("none.gpg");
    seal(Person::Operator, to, "custodian:others@1", &none).expect(3).says("KEY_SUSPENDED");
    key(&dev, &["activate", "others"]).expect(0);
    seal(Person::Auditor, to, "custodian:others", &none).expect(3).says("ROLE_MISSING");
    seal(Person::Operator, to, "custodian:contracts", &none).expect(2).says("--use sign-ecdsa");
    seal(Person::Operator, to, "custodian:pgp", &none).expect(3).says("WRONG_KEY_USE");
    key(&dev, &["export", "contracts", "--openpgp"]).expect(2).says("--use sign-ecdsa");
    assert!(!Path::new(&none).exists());
    run(Command::new("gpgconf").arg("--homedir").arg(dev.scratch("gpg")).args(["--kill", "all"])).expect(0);
}
