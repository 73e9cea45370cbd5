use std::{fs, process::Command};

use custodian_proto::identity::IdentityLevel;
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};

use super::*;
use crate::{authority::Why, ledger::contract::world, token::memory::MemoryToken};

fn person(level: IdentityLevel) -> Person {
    Person {
        user: world::user_id("anna"),
        email: "anna@example.org".parse().unwrap(),
        level,
        evidence: String::new(),
        since: Timestamp::now(),
    }
}

async fn ca() -> PeopleCa {
    PeopleCa::create(Arc::new(MemoryToken::new(KeyWrapping::OaepSha1)), "Example", 10).await.unwrap()
}

/// What openssl says, and whether it is content.
fn openssl(args: &[&str], files: &[(&str, &str, &[u8])]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, label, der) in files {
        let pem = der::pem::encode_string(label, der::pem::LineEnding::LF, der).unwrap();
        fs::write(dir.path().join(name), pem).unwrap();
    }
    let output = Command::new("openssl").args(args).current_dir(dir.path()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn openssl_accepts_peoples_certificates_and_their_revocation_list() {
    let ca = ca().await;
    let days = || Validity::days(90).unwrap();
    let (sign, encrypt) = (
        KeyPair::generate().unwrap(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap(),
    );
    let person = person(IdentityLevel::V3);
    let issue = async |key: &KeyPair, usage| {
        ca.issue(&person, usage, &key.subject_public_key_info(), days()).await.unwrap()
    };
    let signing = issue(&sign, CertificateUse::Sign).await;
    let encryption = issue(&encrypt, CertificateUse::Encrypt).await;
    let now = Timestamp::now();
    let revoked = RevokedCertificate { certificate: signing.clone(), since: now, why: Why::NotTrueAnyMore };
    let list = async |number, revoked: Vec<RevokedCertificate>| {
        ca.revocation_list(number, revoked, now, now + jiff::SignedDuration::from_hours(24)).await.unwrap()
    };
    let (empty, full) = (list(1, Vec::new()).await, list(2, vec![revoked]).await);
    let verify = |purpose, certificate: &[u8], list: &[u8]| {
        let args = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-crl_check",
            "-CAfile",
            "ca",
            "-CRLfile",
            "crl",
            "it",
        ];
        let files = [
            ("ca", "CERTIFICATE", ca.certificate()),
            ("crl", "X509 CRL", list),
            ("it", "CERTIFICATE", certificate),
        ];
        openssl(&args, &files)
    };
    for (purpose, certificate) in [("smimesign", &signing), ("smimeencrypt", &encryption)] {
        let (good, said) = verify(purpose, certificate, &empty);
        assert!(good, "{said}");
    }
    // A key has one use, and neither is for TLS.
    for (purpose, certificate) in [
        ("smimeencrypt", &signing),
        ("smimesign", &encryption),
        ("sslclient", &signing),
        ("sslserver", &signing),
    ] {
        assert!(!verify(purpose, certificate, &empty).0, "{purpose}");
    }
    let (good, said) = verify("smimesign", &signing, &full);
    assert!(!good && said.contains("certificate revoked"), "{said}");
    assert!(verify("smimeencrypt", &encryption, &full).0);

    let text =
        |der: &[u8]| openssl(&["x509", "-in", "it", "-noout", "-text"], &[("it", "CERTIFICATE", der)]).1;
    let said = text(&signing);
    let policy = format!("Policy: {}", IdentityLevel::V3.policy_oid());
    for part in [
        "CN = anna",
        "email:anna@example.org",
        "Digital Signature, Non Repudiation",
        "E-mail Protection",
        &policy,
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(said.matches("Policy:").count(), 1);
    let said = text(&encryption);
    assert!(said.contains("Key Encipherment") && !said.contains("Digital Signature"), "{said}");
    let said = text(ca.certificate());
    for part in ["CA:TRUE, pathlen:0", "CN = Example people CA", "E-mail Protection"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let (serial, key) = serial_and_key(&encryption).unwrap();
    assert!(text(&encryption).replace([':', '\n', ' '], "").contains(&serial.to_string()), "{serial}");
    assert_eq!(key, issue::key_id(&encrypt.subject_public_key_info()).unwrap());
}
