//! Sign as a service: a digest is signed in the token, by a key that does nothing else, and never without a record.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_proto::v1::{self, KeyUse, SignatureAlgorithm};
use sha2::{Digest, Sha256, Sha384, Sha512};
use softhsm_tests::{Dev, Person, Ran, Wire, run};
use tonic_types::StatusExt;

const TEXT: &[u8] = b"what is agreed";

fn key(dev: &Dev, args: &[&str]) -> Ran {
    dev.ctl(Person::Admin, [&["key"], args].concat())
}

/// `keys/KEY_ID` of a new key.
fn create(dev: &Dev, args: &[&str]) -> String {
    let shown = key(dev, &[&["create", "--json"], args].concat()).expect(0).json();
    shown["name"].as_str().unwrap().to_owned()
}

fn digest_of(algorithm: SignatureAlgorithm) -> Vec<u8> {
    match algorithm {
        SignatureAlgorithm::RsaPssSha384 => Sha384::digest(TEXT).to_vec(),
        SignatureAlgorithm::RsaPssSha512 => Sha512::digest(TEXT).to_vec(),
        _ => Sha256::digest(TEXT).to_vec(),
    }
}

/// Asks for a signature; the refusal by its code.
async fn sign(
    wire: &Wire,
    key: &str,
    algorithm: SignatureAlgorithm,
    digest: Vec<u8>,
) -> Result<v1::SignResponse, (String, String)> {
    let claims = v1::Claims { file_name: "contract.pdf".into(), ..v1::Claims::default() };
    let request =
        v1::SignRequest { key: key.to_owned(), algorithm: algorithm.into(), digest, claims: Some(claims) };
    match wire.custody().sign(wire.request(request)).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => {
            let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
            Err((reason.unwrap_or_default(), status.message().to_owned()))
        }
    }
}

fn code<T>(outcome: Result<T, (String, String)>) -> String {
    outcome.map_or_else(|(code, _)| code, |_| "OK".to_owned())
}

/// The key's certificate, and a file with its public key.
fn certificate(dev: &Dev, label: &str) -> (PathBuf, PathBuf) {
    let folder = dev.scratch("certificates");
    let (certificate, public) = (folder.join(format!("{label}.crt")), folder.join(format!("{label}.pub")));
    key(dev, &["cert", label, "-o", certificate.to_str().unwrap()]).expect(0);
    let shown = run(Command::new("openssl").args(["x509", "-noout", "-pubkey", "-in"]).arg(&certificate));
    fs::write(&public, shown.expect(0).stdout).unwrap();
    (certificate, public)
}

/// Whether openssl takes this for a signature of [`TEXT`].
fn openssl_verifies(dev: &Dev, public: &Path, algorithm: SignatureAlgorithm, signature: &[u8]) -> Ran {
    let folder = dev.scratch("openssl");
    let (text, file) = (folder.join("text"), folder.join("signature"));
    fs::write(&text, TEXT).unwrap();
    fs::write(&file, signature).unwrap();
    let (hash, options): (_, &[&str]) = match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => ("-sha256", &[]),
        SignatureAlgorithm::RsaPssSha384 => ("-sha384", &["rsa_padding_mode:pss", "rsa_pss_saltlen:digest"]),
        SignatureAlgorithm::RsaPssSha512 => ("-sha512", &["rsa_padding_mode:pss", "rsa_pss_saltlen:digest"]),
        _ => ("-sha256", &["rsa_padding_mode:pss", "rsa_pss_saltlen:digest"]),
    };
    let mut command = Command::new("openssl");
    command.args(["dgst", hash, "-verify"]).arg(public).arg("-signature").arg(file);
    for option in options {
        command.args(["-sigopt", option]);
    }
    run(command.arg(text))
}

#[tokio::test]
async fn openssl_verifies_what_the_token_signed_and_the_log_has_the_digest() {
    let dev = Dev::start();
    let rsa = create(&dev, &["contracts", "--use", "sign", "--bits", "2048"]);
    let ecdsa = create(&dev, &["letters", "--use", "sign-ecdsa"]);
    let (rsa_certificate, rsa_public) = certificate(&dev, "contracts");
    let (ecdsa_certificate, ecdsa_public) = certificate(&dev, "letters");
    let wire = Wire::login(&dev, Person::Operator).await;
    let cases = [
        (&rsa, &rsa_public, SignatureAlgorithm::RsaPssSha256, "sha256"),
        (&rsa, &rsa_public, SignatureAlgorithm::RsaPssSha384, "sha384"),
        (&rsa, &rsa_public, SignatureAlgorithm::RsaPssSha512, "sha512"),
        (&ecdsa, &ecdsa_public, SignatureAlgorithm::EcdsaP256Sha256, "sha256"),
    ];
    let mut signed = Vec::new();
    for (key, public, algorithm, hash) in cases {
        let answer = sign(&wire, key, algorithm, digest_of(algorithm)).await.unwrap();
        openssl_verifies(&dev, public, algorithm, &answer.signature).expect(0);
        let mut bad = answer.signature.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_ne!(openssl_verifies(&dev, public, algorithm, &bad).code, Some(0));
        signed.push((answer, key, format!("{hash}:{}", hex::encode(digest_of(algorithm)))));
    }
    let records = Wire::records(&dev).await;
    for (answer, key, digest) in signed {
        let record = records.iter().find(|record| record.request_id == answer.request_id).unwrap();
        assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Sign", "OK"));
        assert_eq!((&record.digest, &record.key, record.sequence), (&digest, key, answer.sequence));
        assert_eq!(record.claims.as_ref().unwrap().file_name, "contract.pdf");
    }

    // The custodian's CA certified them, for signatures and for nothing else.
    for (certificate, kind) in [(&rsa_certificate, KeyUse::Sign), (&ecdsa_certificate, KeyUse::SignEcdsa)] {
        let ca = dev.dir().join("ca.crt");
        run(Command::new("openssl").args(["verify", "-CAfile"]).arg(&ca).arg(certificate)).expect(0);
        let text =
            run(Command::new("openssl").args(["x509", "-noout", "-ext", "keyUsage", "-in"]).arg(certificate));
        let text = text.expect(0).stdout;
        assert!(text.contains("Digital Signature, Non Repudiation") && !text.contains("Encipher"), "{text}");
        let name = if kind == KeyUse::Sign { &rsa } else { &ecdsa };
        let request = v1::GetKeyRequest { name: name.clone() };
        let key = wire.keys().get_key(wire.request(request)).await.unwrap().into_inner();
        assert_eq!((key.r#use(), key.wrapping()), (kind, v1::KeyWrapping::Unspecified));
        assert_eq!(key.chain.len(), 1, "its issuer");
    }
    let envelope = dev.scratch("sealed").join("text.mtd");
    let args =
        ["seal", "--to", rsa_certificate.to_str().unwrap(), "-o", envelope.to_str().unwrap(), "/dev/null"];
    dev.envelope(Person::Operator, args).expect(1).says("keyUsage lacks keyEncipherment");
    assert!(!envelope.exists());
}

#[tokio::test]
async fn every_refusal_has_its_name_and_its_record() {
    let dev = Dev::start();
    let algorithm = SignatureAlgorithm::RsaPssSha256;
    let label = create(&dev, &["contracts", "--use", "sign", "--bits", "2048"]);
    let sample = key(&dev, &["show", "sample", "--json"]).expect(0).json();
    let sample = sample["name"].as_str().unwrap().to_owned();
    let wire = Wire::login(&dev, Person::Operator).await;
    let auditor = Wire::login(&dev, Person::Auditor).await;
    let before = Wire::records(&dev).await.len();
    let mut expected = Vec::new();
    let digest = || digest_of(algorithm);

    for (wire, key, algorithm, digest, refusal) in [
        (&auditor, &label, algorithm, digest(), "ROLE_MISSING"),
        (&wire, &sample, algorithm, digest(), "WRONG_KEY_USE"),
        (&wire, &label, algorithm, digest()[1..].to_vec(), "INVALID_ARGUMENT"),
        (&wire, &label, algorithm, Vec::new(), "INVALID_ARGUMENT"),
        (&wire, &label, SignatureAlgorithm::RsaPssSha512, digest(), "INVALID_ARGUMENT"),
        (&wire, &label, SignatureAlgorithm::EcdsaP256Sha256, digest(), "INVALID_ARGUMENT"),
        (&wire, &label, SignatureAlgorithm::Unspecified, digest(), "INVALID_ARGUMENT"),
        (&wire, &format!("keys/{}", "0".repeat(40)), algorithm, digest(), "KEY_UNKNOWN"),
    ] {
        assert_eq!(code(sign(wire, key, algorithm, digest).await), refusal);
        expected.push(("Sign", refusal));
    }
    let short = sign(&wire, &label, algorithm, digest()[1..].to_vec()).await.unwrap_err().1;
    assert_eq!(short, "digest: must have 32 bytes for RSA-PSS-SHA256");
    expected.push(("Sign", "INVALID_ARGUMENT"));
    // A signing key unwraps nothing.
    let unwrapped = wire.unwrap(&label, vec![7; 256]).await.unwrap_err();
    assert_eq!(unwrapped.get_error_details().error_info().unwrap().reason, "WRONG_KEY_USE");
    expected.push(("Unwrap", "WRONG_KEY_USE"));

    let records = Wire::records(&dev).await;
    let found: Vec<_> = records[before..]
        .iter()
        .filter(|record| ["Sign", "Unwrap"].contains(&record.operation.as_str()))
        .map(|record| (record.operation.as_str(), record.outcome.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_signing_key_signs_while_it_is_active_and_its_next_version_takes_over() {
    let dev = Dev::start();
    let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
    let first = create(&dev, &["letters", "--use", "sign-ecdsa"]);
    let wire = Wire::login(&dev, Person::Operator).await;
    let signs = async |key: &str| code(sign(&wire, key, algorithm, digest_of(algorithm)).await);
    assert_eq!(signs(&first).await, "OK");
    key(&dev, &["suspend", "letters", "--reason", "holiday"]).expect(0);
    assert_eq!(signs(&first).await, "KEY_SUSPENDED");
    key(&dev, &["activate", "letters"]).expect(0);
    assert_eq!(signs(&first).await, "OK");

    let rotated = key(&dev, &["rotate", "letters", "--json"]).expect(0).json();
    assert_eq!((&rotated["use"], &rotated["version"]), (&"sign-ecdsa".into(), &2.into()));
    let second = rotated["name"].as_str().unwrap();
    assert_eq!(signs(&first).await, "KEY_DEACTIVATED");
    assert_eq!(signs(second).await, "OK");
    key(&dev, &["compromise", "letters@2", "--reason", "lost"]).expect(0);
    assert_eq!(signs(second).await, "KEY_COMPROMISED");

    key(&dev, &["create", "odd", "--use", "sign-ecdsa", "--bits", "2048"]).expect(3).says("has no modulus");
    key(&dev, &["create", "odd", "--use", "sign", "--unwrap-until", "900d"])
        .expect(3)
        .says("unwraps nothing");
    key(&dev, &["limit", "letters", "--unwrap-until", "never", "--reason", "x"]).expect(2);
    key(&dev, &["limit", "letters@1", "--unwrap-until", "never", "--reason", "x"])
        .expect(3)
        .says("WRONG_KEY_USE");
}

#[tokio::test]
async fn the_policy_decides_on_signing_apart_from_unwrapping() {
    let dev = Dev::start();
    let algorithm = SignatureAlgorithm::RsaPssSha256;
    let contracts = create(&dev, &["contracts", "--use", "sign", "--bits", "2048"]);
    let other = create(&dev, &["other", "--use", "sign", "--bits", "2048"]);
    let wire = Wire::login(&dev, Person::Operator).await;
    let file = dev.scratch("policies").join("policy.cedar");
    let shown = dev.ctl(Person::Admin, ["policy", "show"]).expect(0).stdout;
    let rule = "@id(\"no-contracts\") forbid (principal, action == Action::\"Sign\", resource)\n\
                when { resource is Key && resource.label == \"contracts\" };";
    fs::write(&file, format!("{shown}\n{rule}\n")).unwrap();
    dev.ctl(Person::Admin, ["policy", "apply", file.to_str().unwrap(), "--reason", "r"]).expect(0);
    assert_eq!(code(sign(&wire, &contracts, algorithm, digest_of(algorithm)).await), "POLICY_DENIED");
    assert_eq!(code(sign(&wire, &other, algorithm, digest_of(algorithm)).await), "OK");
    let records = Wire::records(&dev).await;
    let refused = records.iter().rfind(|record| record.outcome == "POLICY_DENIED").unwrap();
    assert!(refused.detail.contains("no-contracts"), "{}", refused.detail);
    assert_eq!(refused.operation, "Sign");
}

#[tokio::test]
async fn an_envelope_that_a_key_in_the_custodian_signed_is_opened_by_who_accepts_it() {
    let dev = Dev::start();
    let name = create(&dev, &["contracts", "--use", "sign", "--bits", "2048"]);
    create(&dev, &["letters", "--use", "sign-ecdsa"]);
    create(&dev, &["timestamps", "--use", "timestamp"]);
    let folder = dev.scratch("files");
    let path = |name: &str| folder.join(name).display().to_string();
    fs::write(path("contract.pdf"), TEXT).unwrap();
    let (sample, file) = (dev.certificate().display().to_string(), path("contract.pdf"));
    let envelope = |args: &[&str]| dev.envelope(Person::Operator, args);
    let [contracts, letters] =
        ["contracts", "letters"].map(|label| certificate(&dev, label).0.display().to_string());
    for (format, label) in [("mtd", "contracts"), ("sealed", "letters"), ("cms", "contracts")] {
        let (pinned, other) =
            if label == "letters" { (&letters, &contracts) } else { (&contracts, &letters) };
        let (sealed, with) = (path(format), format!("custodian:{label}"));
        let seal = ["seal", "--to", &sample, "--format", format, "--sign-with", &with, "--timestamp"];
        envelope(&[&seal[..], &["-o", &sealed, &file]].concat()).expect(0);
        let found = envelope(&["verify", "--json", &sealed, "--accept-from", pinned]).expect(0).json();
        assert_eq!(found["signer"]["standing"], "pinned");
        assert!(found["timestamp"]["time"].as_str().is_some_and(|time| time.starts_with("20")), "{found}");
        let out = path(&format!("{format}.out"));
        let extract = ["extract", &sealed, "-C", &out, "--accept-from", pinned];
        envelope(&extract).expect(0).says("signed by").says("timestamped 20");
        let content =
            fs::read(Path::new(&out).join(if format == "cms" { "cms.content" } else { "contract.pdf" }));
        assert_eq!(content.unwrap(), TEXT);
        // The custodian's key it is, and not just any.
        envelope(&["extract", &sealed, "-C", &out, "--accept-from", other]).expect(5).says("not accepted");
    }
    // What it signs is in the log, and who may not sign seals nothing signed.
    let records = Wire::records(&dev).await;
    let signed = records.iter().filter(|record| record.operation == "Sign" && record.outcome == "OK");
    assert_eq!(signed.clone().count(), 3);
    assert_eq!(signed.filter(|record| record.key == name).count(), 2);
    assert_eq!(records.iter().filter(|record| record.operation == "Timestamp").count(), 3);
    let none = path("none.mtd");
    let seal = ["seal", "--to", &sample, "-o", &none, "--sign-with", "custodian:contracts", &file];
    dev.envelope(Person::Auditor, seal).expect(3).says("ROLE_MISSING");
    assert!(!Path::new(&none).exists());
    envelope(&["seal", "--to", &sample, "-o", &none, "--timestamp", &file]).expect(2).says("--sign-with");
}
