//! Certificates of people: who says what is in them, who finds them, who takes them, and what they never open.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_proto::v1::{self, certificate_service_client::CertificateServiceClient};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use softhsm_tests::{Dev, Identity, Person, Ran, Wire, bin, run};
use tonic_types::StatusExt as _;

const EMAIL: &str = "alice@example.org";

/// Has the administrator record who the operator is.
fn record(dev: &Dev, user: &str, email: &str, level: &str) -> Ran {
    let evidence = ["--evidence", "passport"];
    let set = ["user", "identity", "set", user, "--email", email, "--level", level];
    dev.ctl(Person::Admin, [&set[..], &evidence].concat())
}

/// Asks for a certificate without a passphrase; the folder that the key and the certificate are in.
fn request(dev: &Dev, person: Person, usage: &str, folder: &str) -> (PathBuf, Ran) {
    let folder = dev.scratch("certificates").join(folder);
    let out = folder.to_str().unwrap();
    let args = ["certificate", "request", "--use", usage, "--no-passphrase", "-o", out, "--json"];
    (folder.clone(), dev.envelope(person, args))
}

/// A custodian where the operator is alice, with a key to be encrypted to.
fn with_alice() -> (Dev, PathBuf) {
    let dev = Dev::start();
    record(&dev, "operator", EMAIL, "V2").expect(0);
    let (folder, ran) = request(&dev, Person::Operator, "encrypt", "alice");
    ran.expect(0);
    (dev, folder)
}

fn seal(dev: &Dev, to: &str, more: &[&str], envelope: &str) -> (PathBuf, Ran) {
    let source = dev.scratch("source").join("report.txt");
    fs::write(&source, "for alice").unwrap();
    let envelope = dev.scratch("sealed").join(envelope);
    let args = ["seal", "--to", to, "-o", envelope.to_str().unwrap(), source.to_str().unwrap()];
    (envelope.clone(), dev.envelope(Person::Auditor, [&args[..], more].concat()))
}

fn extract(dev: &Dev, envelope: &Path, key: &Path, more: &[&str]) -> Ran {
    let (envelope, key) = (envelope.to_str().unwrap(), key.to_str().unwrap());
    dev.envelope(
        Person::Operator,
        [&["extract", envelope, "--to-stdout", "--own-key", key][..], more].concat(),
    )
}

fn openssl(args: &[&str]) -> Ran {
    run(Command::new("openssl").args(args))
}

fn certificates(dev: &Dev, person: Person) -> Vec<Value> {
    let listed = dev.ctl(person, ["certificate", "ls", "--json"]).expect(0).json();
    listed.as_array().unwrap().clone()
}

/// Writes the people's CA and a fresh revocation list, for openssl.
fn ca_and_list(dev: &Dev) -> (String, String) {
    let folder = dev.scratch("openssl");
    let (ca, list) = (folder.join("ca.pem"), folder.join("people.crl"));
    fs::write(&ca, dev.ctl(Person::Auditor, ["certificate", "ca"]).expect(0).stdout).unwrap();
    dev.ctl(Person::Auditor, ["certificate", "crl", "--pem", "-o", list.to_str().unwrap()]).expect(0);
    (ca.to_str().unwrap().to_owned(), list.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_certificate_says_what_an_administrator_recorded_and_openssl_accepts_it() {
    let dev = Dev::start();
    let (folder, ran) = request(&dev, Person::Operator, "sign", "early");
    ran.expect(3).says("IDENTITY_UNKNOWN");
    assert!(!folder.join("sign.key").exists(), "a key without a certificate was left");
    let set = ["user", "identity", "set", "operator", "--email", EMAIL, "--level", "V2"];
    dev.ctl(Person::Operator, set).expect(3).says("ROLE_MISSING");
    record(&dev, "operator", EMAIL, "V2").expect(0);
    record(&dev, "auditor", "ALICE@Example.org", "V1").expect(3).says("ALREADY_EXISTS");
    let other = ["--email", "bob@example.org"];
    let out = dev.scratch("certificates").join("other");
    let ask = ["certificate", "request", "--use", "sign", "--no-passphrase", "-o", out.to_str().unwrap()];
    dev.envelope(Person::Operator, [&ask[..], &other].concat()).expect(3).says(EMAIL);

    let (folder, ran) = request(&dev, Person::Operator, "sign", "alice");
    let made = ran.expect(0).json();
    assert_eq!((&made["certificate"]["level"], &made["certificate"]["use"]), (&"V2".into(), &"sign".into()));
    let (encrypt, ran) = request(&dev, Person::Operator, "encrypt", "alice");
    ran.expect(0);
    // Overwrites nothing.
    request(&dev, Person::Operator, "encrypt", "alice").1.expect(1).says("exists");
    let (ca, list) = ca_and_list(&dev);
    for (file, purpose) in
        [(folder.join("sign.crt"), "smimesign"), (encrypt.join("encrypt.crt"), "smimeencrypt")]
    {
        let file = file.to_str().unwrap();
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-crl_check",
            "-CAfile",
            &ca,
            "-CRLfile",
            &list,
            file,
        ])
        .expect(0);
        assert!(openssl(&["x509", "-noout", "-email", "-in", file]).expect(0).stdout.contains(EMAIL));
    }
    let key =
        openssl(&["pkey", "-noout", "-text", "-in", encrypt.join("encrypt.key").to_str().unwrap()]).expect(0);
    assert!(key.stdout.contains("3072 bit"), "{}", key.stdout);

    // Its owner and administrators see it; nobody else does.
    assert_eq!(certificates(&dev, Person::Operator).len(), 2);
    assert_eq!(certificates(&dev, Person::Admin).len(), 2);
    assert_eq!(certificates(&dev, Person::Auditor).len(), 0);
    let name = made["certificate"]["name"].as_str().unwrap().to_owned();
    dev.ctl(Person::Auditor, ["certificate", "show", &name]).expect(3).says("ROLE_MISSING");
    dev.ctl(Person::Auditor, ["certificate", "revoke", &name, "--reason", "x"])
        .expect(3)
        .says("ROLE_MISSING");
    dev.ctl(Person::Auditor, ["user", "identity", "show", "operator"]).expect(3).says("ROLE_MISSING");
    let shown =
        dev.ctl(Person::Operator, ["user", "identity", "show", "operator", "--json"]).expect(0).json();
    assert_eq!((&shown["email"], &shown["evidence"]), (&EMAIL.into(), &"passport".into()));

    let reason = ["--reason", "lost", "--why", "key-compromise"];
    dev.envelope(Person::Operator, [&["certificate", "revoke", &name][..], &reason].concat()).expect(0);
    let (ca, list) = ca_and_list(&dev);
    let file = folder.join("sign.crt");
    let verify = ["verify", "-crl_check", "-CAfile", &ca, "-CRLfile", &list, file.to_str().unwrap()];
    assert!(openssl(&verify).expect(2).stderr.contains("certificate revoked"));
    let text = openssl(&["crl", "-noout", "-text", "-in", &list]).expect(0).stdout;
    assert!(text.contains("Key Compromise"), "{text}");

    let records = Wire::records(&dev).await;
    let of = |operation: &str| -> Vec<(&str, &str)> {
        let of_it = records.iter().filter(|record| record.operation == operation);
        of_it.map(|record| (record.outcome.as_str(), record.detail.as_str())).collect()
    };
    let set = of("SetIdentity");
    assert!(set.contains(&("OK", "alice@example.org, V2; passport")), "{set:?}");
    assert_eq!(set.len(), 3);
    let requested = of("RequestCertificate");
    let outcomes: Vec<_> = requested.iter().map(|(outcome, _)| *outcome).collect();
    assert_eq!(outcomes, ["IDENTITY_UNKNOWN", "INVALID_ARGUMENT", "OK", "OK"]);
    assert!(requested[2].1.contains("to sign, alice@example.org, V2, SHA-256 "), "{}", requested[2].1);
    assert!(of("RevokeCertificate").contains(&("OK", "compromised; lost")), "{:?}", of("RevokeCertificate"));
}

/// Asks for so many revocation lists at once: the numbers of those that came, and how many were refused for want of room.
async fn lists(wire: &Wire, count: usize, days: u32) -> (Vec<u64>, usize) {
    let asked: Vec<_> = (0..count)
        .map(|_| {
            let mut service = CertificateServiceClient::new(wire.channel());
            let request = wire.request(v1::GetPeopleRevocationListRequest { days });
            tokio::spawn(async move { service.get_people_revocation_list(request).await })
        })
        .collect();
    let (mut numbers, mut refused) = (Vec::new(), 0);
    for list in asked {
        match list.await.unwrap() {
            Ok(list) => numbers.push(list.into_inner().number),
            Err(status) => {
                let info = status.get_error_details().error_info().unwrap().reason.clone();
                assert_eq!(info, "OVERLOADED");
                refused += 1;
            }
        }
    }
    (numbers, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_many_revocation_lists_takes_no_room_from_others() {
    let dev = Dev::start();
    let wire = Wire::login(&dev, Person::Operator).await;
    // One is made for all who ask at the same time.
    let (numbers, refused) = lists(&wire, 100, 0).await;
    assert_eq!((numbers.len(), refused), (100, 0));
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
    // Each is made for whoever asks: a few at once.
    let (mut numbers, refused) = lists(&wire, 100, 5).await;
    assert!(refused > 0 && !numbers.is_empty(), "{} were made", numbers.len());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len() + refused, 100, "each has a number of its own");
}

#[tokio::test]
async fn the_policy_can_forbid_that_people_get_certificates() {
    let (dev, _) = with_alice();
    let file = dev.scratch("policies").join("policy.cedar");
    let shown = dev.ctl(Person::Admin, ["policy", "show"]).expect(0).stdout;
    let rule = "@id(\"in-the-office\") forbid (principal, action == Action::\"RequestCertificate\", resource)\n\
                unless { context.device in DeviceGroup::\"office\" };";
    fs::write(&file, format!("{shown}\n{rule}\n")).unwrap();
    dev.ctl(Person::Admin, ["policy", "apply", file.to_str().unwrap(), "--reason", "r"]).expect(0);
    request(&dev, Person::Operator, "sign", "elsewhere").1.expect(3).says("POLICY_DENIED");
    dev.ctl(Person::Admin, ["device", "groups", "operator-laptop", "office"]).expect(0);
    request(&dev, Person::Operator, "sign", "office").1.expect(0);
    let records = Wire::records(&dev).await;
    let refused = records.iter().find(|record| record.outcome == "POLICY_DENIED").unwrap();
    assert_eq!(refused.operation, "RequestCertificate");
    assert!(refused.detail.contains("in-the-office"), "{}", refused.detail);
}

#[tokio::test]
async fn a_persons_certificate_lets_nobody_in() {
    let (dev, folder) = with_alice();
    let (signing, ran) = request(&dev, Person::Operator, "sign", "alice");
    ran.expect(0);
    let mut shown = Vec::new();
    for (folder, name) in [(&signing, "sign"), (&folder, "encrypt")] {
        let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
        shown.push(Identity { certificate, key });
    }
    // While no invitation is open, and while one is: then strangers get as far as Enroll.
    for invited in [false, true] {
        if invited {
            dev.ctl(Person::Admin, ["device", "invite", "laptop-7"]).expect(0);
        }
        for identity in &shown {
            let refused = Wire::shake_hands(&dev, identity).await.unwrap_err();
            assert!(refused.to_string().contains("alert"), "{refused}");
        }
    }
    // Not even with the key of a device: it is not certified for a person.
    let records = Wire::records(&dev).await;
    let refused = records.iter().filter(|record| record.outcome == "CERTIFICATE_REFUSED").count();
    assert_eq!(refused, 4);
}

#[test]
fn what_is_sealed_to_an_address_its_owner_opens_without_the_custodian() {
    let (dev, folder) = with_alice();
    let key = folder.join("encrypt.key");
    for format in ["sealed", "mtd", "cms"] {
        let (envelope, ran) = seal(&dev, EMAIL, &["--format", format], &format!("report.{format}"));
        ran.expect(0);
        assert_eq!(extract(&dev, &envelope, &key, &[]).expect(0).stdout, "for alice");
        // The custodian has no such key.
        let args = ["extract", envelope.to_str().unwrap(), "--to-stdout"];
        dev.envelope(Person::Operator, args).expect(3).says("KEY_UNKNOWN");
    }
    seal(&dev, EMAIL, &["--format", "openpgp"], "report.gpg").1.expect(2).says("X.509");
    // Upper case is the same address; a file of that name goes first.
    seal(&dev, "Alice@Example.ORG", &[], "upper.mtd").1.expect(0);
    seal(&dev, "bob@example.org", &[], "bob.mtd").1.expect(3).says("no certificate to encrypt to");
    seal(&dev, "sample@nowhere@", &[], "none.mtd").1.expect(1);

    // What openssl encrypts, by the certificate's issuer and serial number.
    let certificate = folder.join("encrypt.crt");
    let source = dev.scratch("source").join("report.txt");
    let message = dev.scratch("sealed").join("openssl.p7m");
    openssl(&[
        "cms",
        "-encrypt",
        "-binary",
        "-aes-256-gcm",
        "-outform",
        "DER",
        "-in",
        source.to_str().unwrap(),
        "-out",
        message.to_str().unwrap(),
        "-recip",
        certificate.to_str().unwrap(),
        "-keyopt",
        "rsa_padding_mode:oaep",
        "-keyopt",
        "rsa_oaep_md:sha256",
    ])
    .expect(0);
    assert_eq!(extract(&dev, &message, &key, &[]).expect(0).stdout, "for alice");

    // Somebody else's key opens nothing, and leaves nothing.
    record(&dev, "admin", "admin@example.org", "V1").expect(0);
    let (other, ran) = request(&dev, Person::Admin, "encrypt", "admin");
    ran.expect(0);
    let (envelope, ran) = seal(&dev, EMAIL, &["--format", "sealed"], "second.sealed");
    ran.expect(0);
    let refused = extract(&dev, &envelope, &other.join("encrypt.key"), &[]).expect(3);
    assert_eq!(refused.stdout, "");
    extract(&dev, &message, &other.join("encrypt.key"), &[]).expect(5);
}

#[test]
fn a_key_under_a_passphrase_opens_with_it_alone() {
    let dev = Dev::start();
    record(&dev, "operator", EMAIL, "V2").expect(0);
    let (right, wrong) = (dev.scratch("secrets").join("right"), dev.scratch("secrets").join("wrong"));
    fs::write(&right, "correct horse battery").unwrap();
    fs::write(&wrong, "another horse battery").unwrap();
    let folder = dev.scratch("certificates").join("alice");
    let (right, out) = (right.to_str().unwrap(), folder.to_str().unwrap());
    let args = ["certificate", "request", "--use", "encrypt", "-o", out, "--passphrase-file", right];
    dev.envelope(Person::Operator, args).expect(0);
    let key = folder.join("encrypt.key");
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let (envelope, ran) = seal(&dev, EMAIL, &["--format", "sealed"], "report.sealed");
    ran.expect(0);
    extract(&dev, &envelope, &key, &["--passphrase-file", wrong.to_str().unwrap()])
        .expect(1)
        .says("passphrase is wrong");
    assert_eq!(extract(&dev, &envelope, &key, &["--passphrase-file", right]).expect(0).stdout, "for alice");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    extract(&dev, &envelope, &key, &["--passphrase-file", right]).expect(1).says("other users");
}

#[test]
fn what_a_person_signs_openssl_verifies_up_to_the_peoples_ca() {
    let dev = Dev::start();
    record(&dev, "operator", EMAIL, "V2").expect(0);
    let passphrase = dev.scratch("secrets").join("passphrase");
    fs::write(&passphrase, "correct horse battery").unwrap();
    let folder = dev.scratch("certificates").join("alice");
    let (passphrase, out) = (passphrase.to_str().unwrap(), folder.to_str().unwrap());
    let args = ["certificate", "request", "--use", "sign", "-o", out, "--passphrase-file", passphrase];
    dev.envelope(Person::Operator, args).expect(0);
    let file = dev.scratch("source").join("report.txt");
    fs::write(&file, "by alice").unwrap();
    let (key, cert) = (folder.join("sign.key"), folder.join("sign.crt"));
    let (file, key, cert) = (file.to_str().unwrap(), key.to_str().unwrap(), cert.to_str().unwrap());
    let sign = ["sign", file, "--with", key, "--sign-cert", cert, "--key-password-file", passphrase];
    dev.envelope(Person::Operator, sign).expect(0);
    let (ca, _) = ca_and_list(&dev);
    let signature = format!("{file}.p7s");
    let verify = [
        "cms",
        "-verify",
        "-binary",
        "-inform",
        "DER",
        "-in",
        &signature,
        "-content",
        file,
        "-CAfile",
        &ca,
        "-purpose",
        "smimesign",
    ];
    assert_eq!(openssl(&verify).expect(0).stdout, "by alice");
}

#[test]
fn a_revoked_certificate_is_not_sealed_to_and_another_one_only_if_accepted() {
    let (dev, _) = with_alice();
    seal(&dev, EMAIL, &[], "first.mtd").1.expect(0).says("first use");
    let name = certificates(&dev, Person::Operator)[0]["name"].as_str().unwrap().to_owned();
    dev.ctl(Person::Admin, ["certificate", "revoke", &name, "--reason", "phone stolen"]).expect(0);
    let (envelope, ran) = seal(&dev, EMAIL, &[], "second.mtd");
    ran.expect(3).says("no certificate to encrypt to");
    assert!(!envelope.exists());
    let (second, ran) = request(&dev, Person::Operator, "encrypt", "second");
    ran.expect(0);
    seal(&dev, EMAIL, &[], "second.mtd")
        .1
        .expect(3)
        .says("another certificate than before")
        .says("--accept-new-certificate");
    let (envelope, ran) = seal(&dev, EMAIL, &["--accept-new-certificate"], "second.mtd");
    ran.expect(0).says("takes the place of");
    assert_eq!(extract(&dev, &envelope, &second.join("encrypt.key"), &[]).expect(0).stdout, "for alice");
    seal(&dev, EMAIL, &[], "third.mtd").1.expect(0);

    // Another person at that address: the old certificate goes, and what is remembered says so.
    record(&dev, "operator", "a.smith@example.org", "V2").expect(0);
    record(&dev, "admin", EMAIL, "V1").expect(0);
    request(&dev, Person::Admin, "encrypt", "admin").1.expect(0);
    seal(&dev, EMAIL, &[], "fourth.mtd").1.expect(3).says("another certificate than before");
    let states: Vec<_> = certificates(&dev, Person::Admin)
        .iter()
        .map(|one| one["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["good", "revoked", "revoked"]);
    // Nobody seals to who has left.
    dev.ctl(Person::Admin, ["user", "disable", "operator", "--reason", "left"]).expect(0);
    seal(&dev, "a.smith@example.org", &[], "fifth.mtd").1.expect(3);
}

#[test]
fn while_the_custodian_is_away_a_remembered_certificate_is_sealed_to_for_a_while() {
    let (dev, folder) = with_alice();
    seal(&dev, EMAIL, &[], "first.mtd").1.expect(0);
    let source = dev.scratch("source").join("report.txt");
    // The port of a custodian that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let away = |to: &str, envelope: &str, more: &[&str]| {
        let envelope = dev.scratch("sealed").join(envelope);
        let args =
            ["seal", "--to", to, "--addr", &gone, "-o", envelope.to_str().unwrap(), source.to_str().unwrap()];
        dev.envelope(Person::Auditor, [&args[..], more].concat())
    };
    away(EMAIL, "away.mtd", &[]).expect(0).says("cannot be reached");
    let envelope = dev.scratch("sealed").join("away.mtd");
    assert_eq!(extract(&dev, &envelope, &folder.join("encrypt.key"), &[]).expect(0).stdout, "for alice");
    // Not for ever.
    let pins = dev.dir().parent().unwrap().join(".config/custodian/pins");
    let pin = fs::read_dir(pins).unwrap().next().unwrap().unwrap().path();
    let mut remembered: Value = serde_json::from_str(&fs::read_to_string(&pin).unwrap()).unwrap();
    remembered["asked"] = "2026-01-01T00:00:00Z".into();
    fs::write(&pin, remembered.to_string()).unwrap();
    away(EMAIL, "late.mtd", &[]).expect(6).says("not within 7 days");
    away("bob@example.org", "bob.mtd", &[]).expect(6);
    // Certificates in files need nobody.
    let certificate = folder.join("encrypt.crt");
    away(certificate.to_str().unwrap(), "file.mtd", &[]).expect(0);
}

#[test]
fn a_custodian_without_a_peoples_ca_gets_one_later() {
    let folder = Dev::configured(|config, folder| {
        config["ca"].as_table_mut().unwrap().remove("people_certificate").unwrap();
        fs::remove_file(folder.join("dev/people-ca.crt")).unwrap();
    });
    let dev = Dev::start_in(folder);
    record(&dev, "operator", EMAIL, "V2").expect(0);
    request(&dev, Person::Operator, "sign", "early").1.expect(3).says("STATE_CONFLICT");
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let config = folder.path().join("dev/custodian.toml");
    let out = folder.path().join("dev/people-ca.crt");
    let make = || {
        let mut command = Command::new(bin("custodian"));
        command.args(["people-ca", "--organisation", "Example", "--config"]).arg(&config);
        run(command.arg("--out").arg(&out))
    };
    let said = make().expect(0);
    assert!(said.stdout.contains("people_certificate = "), "{}", said.stdout);
    make().expect(1).says("exists");
    let mut text: toml::Table = fs::read_to_string(&config).unwrap().parse().unwrap();
    text["ca"].as_table_mut().unwrap().insert("people_certificate".into(), "people-ca.crt".into());
    fs::write(&config, toml::to_string(&text).unwrap()).unwrap();
    make().expect(1).says("names one already");
    // The device CA is no people's CA.
    let mut wrong = text.clone();
    wrong["ca"].as_table_mut().unwrap().insert("people_certificate".into(), "ca.crt".into());
    fs::write(&config, toml::to_string(&wrong).unwrap()).unwrap();
    let check = || run(Command::new(bin("custodian")).args(["check", "--config"]).arg(&config));
    check().expect(1).says("a key has one purpose");
    fs::write(&config, toml::to_string(&text).unwrap()).unwrap();
    let checked = check().expect(0).stdout;
    assert!(checked.contains("people's CA"), "{checked}");
    let dev = Dev::start_in(folder);
    request(&dev, Person::Operator, "sign", "alice").1.expect(0);
}
