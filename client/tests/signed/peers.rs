//! openssl verifies what we sign, and we verify what openssl signs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_client::{
    error::Result,
    extract::{Input, extract_from},
    progress::Silent,
    sign::{SignJob, SignTo, sign},
    signed::{Accept, AcceptTable, LocalSigner, Signing},
    verify::{Verification, VerifyJob, verify},
};

use custodian_proto::secret::Secret;

use crate::{
    common::{SoftKey, extract_job, run, tree},
    people::{KINDS, People, Person, opened},
};

/// Signs a file, and returns the signature.
pub(crate) fn signed(people: &People, key: &Path, content: &[u8]) -> (PathBuf, PathBuf) {
    let [file, signature] = ["content", "content.p7s"].map(|name| people.path(name));
    fs::write(&file, content).expect("written");
    if signature.exists() {
        fs::remove_file(&signature).expect("removed");
    }
    let signer = opened(key).expect("signer");
    let job = SignJob { file: Input::File(file.clone()), output: SignTo::File(signature.clone()) };
    assert_eq!(sign(&job, Signing::by(&signer), &Silent).expect("signed"), content.len() as u64);
    (file, signature)
}

pub(crate) fn verified(file: &Path, signature: &Path, accept: Accept) -> Result<Verification> {
    let (file, signature) = (Input::File(file.to_owned()), Some(signature.to_owned()));
    verify(&VerifyJob { file, signature, accept }, &Silent)
}

#[test]
fn openssl_verifies_what_we_sign() {
    let people = People::new();
    let content = tree::noise(3_000_000);
    for (kind, _) in KINDS {
        let key = people.issue(&Person { kind, ..Person::named(kind) });
        let (file, signature) = signed(&people, &key, &content);
        verified(&file, &signature, Accept::Anything).expect("verified by us");
        // OpenSSL 3.0 has Ed25519, but not in CMS.
        if kind == "ed25519" {
            continue;
        }
        let verify = |content: &Path| {
            let mut command = Command::new("openssl");
            command
                .args(["cms", "-verify", "-binary", "-inform", "DER", "-in"])
                .arg(&signature)
                .arg("-content");
            command.arg(content).arg("-CAfile").arg(people.root()).args(["-out", "/dev/null"]);
            command
        };
        run(&mut verify(&file));
        let other = people.path("other");
        fs::write(&other, &content[1..]).expect("written");
        assert!(!verify(&other).output().expect("runs").status.success(), "{kind}: other content");
    }
}

#[test]
fn what_is_signed_may_begin_like_an_envelope_and_be_none() {
    let people = People::new();
    let file = people.path("content");
    // The header of an OpenPGP packet (tag 9), and nothing that would make sense in one.
    fs::write(&file, [&[0xc9, 0xff, 0, 0x2d, 0xc6, 0xba][..], &tree::noise(3_000_000)].concat())
        .expect("written");
    people.issue(&Person { kind: "p256", ..Person::named("anna") });
    let signature = people.path("anna.p7s");
    let mut command = Command::new("openssl");
    command
        .args(["cms", "-sign", "-binary", "-outform", "DER", "-in"])
        .arg(&file)
        .arg("-out")
        .arg(&signature);
    command.arg("-signer").arg(people.path("anna.crt")).arg("-inkey").arg(people.path("anna.key"));
    run(&mut command);
    let found = verified(&file, &signature, Accept::Anything).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.signer.emails, ["anna@example.org"]);
    assert!(found.envelope.is_none());
}

#[test]
fn what_openssl_signs_is_verified() {
    let people = People::new();
    let file = people.path("content");
    fs::write(&file, tree::noise(3_000_000)).expect("written");
    let pss = &["-keyopt", "rsa_padding_mode:pss"];
    let short = &["-keyopt", "rsa_padding_mode:pss", "-keyopt", "rsa_pss_saltlen:-1"];
    let ways: [(&str, &[&str]); 9] = [
        ("rsa", &["-outform", "DER"]),
        ("rsa", &[pss.as_slice(), &["-outform", "DER"]].concat()),
        ("rsa", &[short.as_slice(), &["-outform", "DER", "-md", "sha512"]].concat()),
        ("rsa", &["-outform", "PEM", "-md", "sha384"]),
        ("p256", &["-outform", "DER"]),
        ("p256", &["-outform", "DER", "-md", "sha512"]),
        ("p384", &["-outform", "DER", "-md", "sha384", "-cades"]),
        ("p256", &["-outform", "PEM", "-cades"]),
        ("p256", &["-outform", "DER", "-keyid"]),
    ];
    for (n, (kind, options)) in ways.into_iter().enumerate() {
        let name = format!("{kind}-{n}");
        people.issue(&Person { kind, ..Person::named(&name) });
        let signature = people.path(&format!("{name}.p7s"));
        let mut command = Command::new("openssl");
        command.args(["cms", "-sign", "-binary", "-in"]).arg(&file).arg("-out").arg(&signature);
        command.arg("-signer").arg(people.path(&format!("{name}.crt")));
        command.arg("-inkey").arg(people.path(&format!("{name}.key"))).args(options);
        run(&mut command);
        let found = verified(&file, &signature, Accept::Anything);
        let found = found.unwrap_or_else(|error| panic!("{kind} {options:?}: {error}"));
        assert_eq!(found.signer.emails, [format!("{name}@example.org")]);

        let other = people.path("other");
        fs::write(&other, "other").expect("written");
        verified(&other, &signature, Accept::Anything).expect_err("other content");
    }
}

#[test]
fn sha1_and_signatures_without_attributes_are_not_read() {
    let people = People::new();
    people.issue(&Person { kind: "rsa", ..Person::named("anna") });
    let [file, signature] = ["content", "content.p7s"].map(|name| people.path(name));
    fs::write(&file, "content").expect("written");
    for (options, says) in [
        (&["-md", "sha1"][..], "not known"),
        (&["-noattr"], "no signed attributes"),
        (&["-nocerts"], "certificate"),
    ] {
        let mut command = Command::new("openssl");
        command
            .args(["cms", "-sign", "-binary", "-outform", "DER", "-in"])
            .arg(&file)
            .arg("-out")
            .arg(&signature);
        command
            .arg("-signer")
            .arg(people.path("anna.crt"))
            .arg("-inkey")
            .arg(people.path("anna.key"))
            .args(options);
        run(&mut command);
        let error = verified(&file, &signature, Accept::Anything).expect_err("refused");
        assert!(error.why.contains(says), "{options:?}: {error}");
    }
}

#[test]
fn keys_from_files_with_a_password_sign() {
    let people = People::new();
    let file = people.path("content");
    fs::write(&file, "content").expect("written");
    people.issue(&Person { kind: "rsa", ..Person::named("anna") });
    let [key, certificate, chain] =
        ["anna.key", "anna.crt", "intermediate.crt"].map(|name| people.path(name));
    let openssl = |args: &[&str], out: &str| {
        let out = people.path(out);
        let mut command = Command::new("openssl");
        command
            .args(args)
            .arg("-inkey")
            .arg(&key)
            .arg("-passout")
            .arg("pass:correct horse")
            .arg("-out")
            .arg(&out);
        command.arg("-in").arg(&certificate).arg("-certfile").arg(&chain);
        run(&mut command);
        out
    };
    let encrypted = people.path("encrypted.pem");
    let mut command = Command::new("openssl");
    command
        .args(["pkcs8", "-topk8", "-passout", "pass:correct horse", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&encrypted);
    run(&mut command);
    let pem = [&encrypted, &certificate, &chain].map(|file| fs::read_to_string(file).expect("read")).concat();
    fs::write(&encrypted, pem).expect("written");
    let new = openssl(&["pkcs12", "-export"], "new.p12");
    let old_mac = openssl(&["pkcs12", "-export", "-macalg", "sha1", "-iter", "1000"], "mac.p12");
    let old = openssl(&["pkcs12", "-export", "-legacy"], "old.p12");

    let open = |path: &Path, password: &'static str| {
        LocalSigner::open(path, None, &|| Ok(Secret::new(password.to_owned())))
    };
    for path in [&encrypted, &new, &old_mac] {
        let signer = open(path, "correct horse").expect("opened");
        let signature = people.path("content.p7s");
        let job = SignJob { file: Input::File(file.clone()), output: SignTo::File(signature.clone()) };
        sign(&job, Signing::by(&signer), &Silent).expect("signed");
        verified(&file, &signature, Accept::Anything).expect("verified");
        fs::remove_file(signature).expect("removed");
        let error = open(path, "wrong horse").err().expect("wrong password");
        assert!(error.why.contains("password is wrong"), "{error}");
    }
    let error = open(&old, "correct horse").err().expect("RC2 or triple DES");
    assert!(error.why.contains("openssl pkcs12 -legacy"), "{error}");
    let damaged = fs::read(&new).expect("read");
    fs::write(&new, &damaged[..damaged.len() / 2]).expect("written");
    assert!(open(&new, "correct horse").is_err());
}

/// As mail programs put them into each other: the signed part is text around the encrypted one.
#[test]
fn what_openssl_encrypts_and_then_signs_is_opened() {
    let people = People::new();
    people.issue(&Person { kind: "rsa", ..Person::named("anna") });
    let key = SoftKey::new(&[]);
    let [file, inner] = ["content", "inner"].map(|name| people.path(name));
    fs::write(&file, tree::noise(300_000)).expect("written");
    for (inner_form, outer_form) in [("SMIME", "DER"), ("SMIME", "SMIME"), ("DER", "PEM")] {
        let signed = people.path(&format!("{inner_form}.{outer_form}.p7m"));
        let mut command = Command::new("openssl");
        command.args(["cms", "-encrypt", "-binary", "-aes-256-gcm", "-keyid", "-outform", inner_form, "-in"]);
        command.arg(&file).arg("-out").arg(&inner).arg("-recip").arg(key.path("cert.pem"));
        run(command.args(["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"]));
        let mut command = Command::new("openssl");
        command.args(["cms", "-sign", "-binary", "-nodetach", "-outform", outer_form, "-in"]).arg(&inner);
        command.arg("-signer").arg(people.path("anna.crt")).arg("-inkey").arg(people.path("anna.key"));
        run(command.arg("-out").arg(&signed));

        let accept = |name: &str| {
            let certificates = vec![people.path(&format!("{name}.crt"))];
            Accept::load(&AcceptTable { certificates, ..AcceptTable::default() }).expect("rules")
        };
        let out = people.path(&format!("out-{inner_form}-{outer_form}"));
        let asked = key.asked();
        let job = extract_job(&signed, &out);
        extract_from(&job, &accept("intermediate"), &key, &Silent).expect_err("somebody else");
        assert_eq!(key.asked(), asked);
        let report = extract_from(&job, &accept("anna"), &key, &Silent);
        let report = report.unwrap_or_else(|error| panic!("{inner_form} in {outer_form}: {error}"));
        assert_eq!(report.sender.expect("signed").emails, ["anna@example.org"]);
        assert_eq!(tree::contents(&out), [fs::read(&file).expect("read")]);
    }
}
