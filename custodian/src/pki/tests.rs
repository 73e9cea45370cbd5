use std::{fs, process::Command};

use custodian_proto::key::KeyWrapping;
use rcgen::{KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};

use super::{peer::CertificateFacts, *};
use crate::{
    authority::{KeyPurpose, KeyStep, SigningScheme, WrappingKey},
    ledger::contract::world,
    token::memory::MemoryToken,
};

async fn ca(wrapping: KeyWrapping) -> DeviceCa {
    DeviceCa::create(Arc::new(MemoryToken::new(wrapping)), "Example", 10).await.unwrap()
}

fn openssl(args: &[&str], files: &[(&str, &[u8])]) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, der) in files {
        fs::write(dir.path().join(name), pem(der)).unwrap();
    }
    let output = Command::new("openssl").args(args).current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn pem(der: &[u8]) -> String {
    der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).unwrap()
}

fn text(der: &[u8]) -> String {
    openssl(&["x509", "-in", "it.pem", "-noout", "-text"], &[("it.pem", der)])
}

#[tokio::test]
async fn the_ca_certifies_devices_that_openssl_accepts() {
    let ca = ca(KeyWrapping::OaepSha1).await;
    let key = KeyPair::generate().unwrap();
    let id = "laptop-7".parse().unwrap();
    let device =
        ca.issue_device(&id, &key.subject_public_key_info(), Validity::days(90).unwrap()).await.unwrap();

    let verify = ["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "ca.pem", "it.pem"];
    openssl(&verify, &[("ca.pem", ca.certificate()), ("it.pem", &device)]);
    let said = text(ca.certificate());
    for part in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "O = Example", "CN = Example device CA"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    let said = text(&device);
    for part in ["CN = laptop-7", "TLS Web Client Authentication", "CA:FALSE", "Authority Key Identifier"] {
        assert!(said.contains(part), "{part} in {said}");
    }

    let facts = CertificateFacts::read(&device).unwrap();
    assert_eq!(facts.spki.0, <[u8; 32]>::from(Sha256::digest(key.subject_public_key_info())));
    assert_eq!(facts.sha256, <[u8; 32]>::from(Sha256::digest(&device)));
    assert_eq!(facts.common_name, "laptop-7");
    assert!(facts.not_before < Timestamp::now());
    let days = facts.not_after.duration_since(Timestamp::now()).as_hours() / 24;
    assert!((89..=90).contains(&days), "{days}");
}

#[tokio::test]
async fn the_server_certificate_has_its_names() {
    let ca = ca(KeyWrapping::OaepSha1).await;
    let key = KeyPair::generate().unwrap().subject_public_key_info();
    let names = ["custodian.example".to_owned(), "192.0.2.7".to_owned(), "::1".to_owned()];
    let server = ca.issue_server(&names, &key, Validity::days(30).unwrap()).await.unwrap();
    for name in
        [["-verify_hostname", "custodian.example"], ["-verify_ip", "192.0.2.7"], ["-verify_ip", "::1"]]
    {
        let verify = [
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            "ca.pem",
            name[0],
            name[1],
            "it.pem",
        ];
        openssl(&verify, &[("ca.pem", ca.certificate()), ("it.pem", &server)]);
    }
    assert!(ca.issue_server(&[], &key, Validity::days(1).unwrap()).await.is_err());
    assert!(ca.issue_server(&["ä".to_owned()], &key, Validity::days(1).unwrap()).await.is_err());
}

#[tokio::test]
async fn a_wrapping_certificate_says_its_id_and_how_to_wrap() {
    for wrapping in [KeyWrapping::OaepSha1, KeyWrapping::OaepSha512] {
        let token = Arc::new(MemoryToken::new(wrapping));
        let ca = DeviceCa::create(token.clone(), "Example", 10).await.unwrap();
        let kind = KeyKind::RsaUnwrap { modulus_bits: 2048 };
        let template = KeyTemplate { label: "invoices".to_owned(), kind };
        let key = token.generate(template, Instant::now() + GENERATE_LIMIT).await.unwrap();
        let certificate =
            ca.certify_wrapping_key(&key, "invoices", Validity::years(2).unwrap()).await.unwrap();

        let verify = ["verify", "-x509_strict", "-purpose", "smimeencrypt", "-CAfile", "ca.pem", "it.pem"];
        openssl(&verify, &[("ca.pem", ca.certificate()), ("it.pem", &certificate)]);
        let said = text(&certificate);
        let ski = hex::encode_upper(key.id.as_bytes());
        assert!(said.replace(':', "").contains(&ski), "{ski} in {said}");
        assert!(said.contains("X509v3 Key Usage: critical\n                Key Encipherment"), "{said}");
        assert!(said.contains("S/MIME Capabilities"), "{said}");
        let capabilities = capabilities::der(wrapping).unwrap();
        assert!(certificate.windows(capabilities.len()).any(|window| window == capabilities));
        assert!(
            ca.certify_wrapping_key(&signing(&*token).await, "x", Validity::days(1).unwrap()).await.is_err()
        );
    }
}

fn wrapping_key(key: &TokenKey, certificate: Vec<u8>, now: Timestamp) -> WrappingKey {
    let certified = CertificateFacts::read(&certificate).unwrap();
    let periods = (certified.not_before, certified.not_after);
    WrappingKey {
        id: key.id,
        purpose: KeyPurpose::Unwrap(key.wrapping.unwrap()),
        certificate,
        created: now,
        life: world::life(periods.0, periods.1, None),
        ..world::key("partners")
    }
}

#[tokio::test]
async fn gpg_accepts_the_certificate_of_a_key_for_openpgp() {
    let token = Arc::new(MemoryToken::new(KeyWrapping::OaepSha1));
    let ca = DeviceCa::create(token.clone(), "Example", 10).await.unwrap();
    let kind = KeyKind::RsaOpenPgp { modulus_bits: 2048 };
    let template = KeyTemplate { label: "partners".to_owned(), kind };
    let key = token.generate(template, Instant::now() + GENERATE_LIMIT).await.unwrap();
    let validity = Validity::years(2).unwrap();
    let certificate = ca.certify_wrapping_key(&key, "partners", validity).await.unwrap();
    assert!(text(&certificate).contains("Data Encipherment"), "nobody seals a file key to this one");
    let now = Timestamp::now();
    let active = wrapping_key(&key, certificate, now);
    let fingerprint = hex::encode_upper(openpgp::fingerprint(&active).unwrap());

    let step = |step| WrappingKey { life: active.life.step(step, now).unwrap(), ..active.clone() };
    for (key, validity) in [
        (active.clone(), "-"),
        (step(KeyStep::Suspend), "-"),
        (step(KeyStep::Deactivate), "r"),
        (step(KeyStep::Compromise), "r"),
    ] {
        let draft = openpgp::Draft::new(&key, &ca, now).unwrap();
        assert!(draft.to_be_signed().iter().all(|(signer, _)| *signer == ca.key()));
        let listed = listed_by_gpg(&[&made(&draft, &*token).await]);
        assert!(listed.contains(&format!("fpr:::::::::{fingerprint}:")), "{listed}");
        assert!(listed.contains(&format!(":partners v1 (Custodian, key {})", key.id)), "{listed}");
        let signatures = listed.matches("\nsig:!:").count() + listed.matches("\nrev:!:").count();
        assert_eq!(signatures, draft.to_be_signed().len(), "{listed}");
        let subkey: Vec<_> =
            listed.lines().find(|line| line.starts_with("sub")).unwrap().split(':').collect();
        assert_eq!((subkey[1], subkey[2], subkey[11]), (validity, "2048", "e"), "{listed}");
        assert_eq!(subkey[6], active.life.wraps().until().as_second().to_string(), "{listed}");
    }
}

/// The certificate, signed by the token.
async fn made(draft: &openpgp::Draft, token: &dyn Token) -> Vec<u8> {
    let mut signatures = Vec::new();
    for (signer, message) in draft.to_be_signed() {
        assert_eq!(message[0], 0x99, "no certificate, no attestation, no attributes of CMS");
        signatures.push(token.sign(signer, &message, Instant::now() + TOKEN_LIMIT).await.unwrap());
    }
    assert!(draft.finish(&signatures[1..]).is_err());
    draft.finish(&signatures).unwrap()
}

/// What gpg says of these certificates, imported one after the other, and of their signatures.
fn listed_by_gpg(certificates: &[&[u8]]) -> String {
    let home = tempfile::tempdir().unwrap();
    let gpg = |args: &[&str]| {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--no-tty", "--homedir", "."]).args(args);
        let output = command.current_dir(home.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for certificate in certificates {
        fs::write(home.path().join("it.pgp"), certificate).unwrap();
        gpg(&["--import", "it.pgp"]);
    }
    gpg(&["--check-sigs", "--with-colons", "--with-subkey-fingerprint"])
}

#[tokio::test]
async fn gpg_accepts_the_certificate_of_a_signing_key_which_says_itself_whose_it_is() {
    let token = Arc::new(MemoryToken::new(KeyWrapping::OaepSha1));
    let ca = DeviceCa::create(token.clone(), "Example", 10).await.unwrap();
    let template = KeyTemplate { label: "letters".to_owned(), kind: KeyKind::EcdsaP256Sign };
    let key = token.generate(template, Instant::now() + GENERATE_LIMIT).await.unwrap();
    let certificate = ca.certify_signing_key(&key, "letters", Validity::years(2).unwrap()).await.unwrap();
    let certified = CertificateFacts::read(&certificate).unwrap();
    let now = Timestamp::now();
    let made_at = now - SignedDuration::from_hours(48);
    let active = WrappingKey {
        id: key.id,
        purpose: KeyPurpose::Sign(SigningScheme::EcdsaP256),
        certificate,
        created: made_at,
        updated: now - SignedDuration::from_hours(24),
        life: world::life(made_at, certified.not_after, None),
        ..world::key("letters")
    };
    let fingerprint = hex::encode_upper(openpgp::fingerprint(&active).unwrap());
    let of_certificate = hex::encode_upper(openpgp::certificate_fingerprint(&active, &ca).unwrap());
    let step = |step| WrappingKey { life: active.life.step(step, now).unwrap(), ..active.clone() };
    let destroyed = WrappingKey {
        life: step(KeyStep::Compromise).life.step(KeyStep::Destroy, now).unwrap(),
        ..active.clone()
    };
    let (until, ended) = (active.life.wraps().until().as_second(), active.updated.as_second() + 1);
    let first = made(&openpgp::Draft::new(&active, &ca, now).unwrap(), &*token).await;
    for (key, validity, end, signers) in [
        (active.clone(), "-", until, &[ca.key(), ca.key(), key.id][..]),
        (step(KeyStep::Deactivate), "e", ended, &[ca.key(), ca.key(), key.id]),
        (step(KeyStep::Compromise), "r", until, &[ca.key(), ca.key(), ca.key()]),
        (destroyed.clone(), "r", until, &[ca.key(), ca.key(), ca.key()]),
    ] {
        let draft = openpgp::Draft::new(&key, &ca, now).unwrap();
        let asked: Vec<_> = draft.to_be_signed().into_iter().map(|(signer, _)| signer).collect();
        assert_eq!(asked, signers);
        // To who has the first one already, the later is news.
        let certificate = made(&draft, &*token).await;
        for known in [&[&certificate[..]][..], &[&first, &certificate]] {
            let listed = listed_by_gpg(known);
            for fingerprint in [&fingerprint, &of_certificate] {
                assert!(listed.contains(&format!("fpr:::::::::{fingerprint}:")), "{listed}");
            }
            assert!(!listed.contains("\nsig:-") && !listed.contains("\nsig:%"), "{listed}");
            let subkey: Vec<_> =
                listed.lines().find(|line| line.starts_with("sub")).unwrap().split(':').collect();
            assert_eq!((subkey[1], subkey[3], subkey[11]), (validity, "19", "s"), "{listed}");
            assert_eq!(subkey[6], end.to_string(), "{listed}");
        }
    }
    // RFC 9580 §5.2.3.31: after these reasons (0: none; 2: compromised) no signature of the key is good, whenever it was made.
    for (key, reason) in [(step(KeyStep::Compromise), &b"\x1d\x02"[..]), (destroyed, b"\x1d\x00destroyed")] {
        let (_, revocation) = openpgp::Draft::new(&key, &ca, now).unwrap().to_be_signed().swap_remove(1);
        assert!(revocation.windows(reason.len()).any(|bytes| bytes == reason));
    }
    // Nobody can date a signature into a time when the key could not sign yet.
    let later = WrappingKey { life: world::life(now, certified.not_after, None), ..active.clone() };
    let signed = |key: &WrappingKey| {
        let (_, certification) = openpgp::Draft::new(key, &ca, now).unwrap().to_be_signed().swap_remove(0);
        // Version, type, algorithm, hash; the length of the hashed part; the subpacket of the time.
        let begins = certification.windows(4).position(|bytes| bytes == [4, 0x13, 19, 8]).unwrap();
        i64::from(u32::from_be_bytes(certification[begins + 8..][..4].try_into().unwrap()))
    };
    assert_eq!(signed(&later) - signed(&active), 48 * 3_600);
    let refused = |key: &WrappingKey| openpgp::Draft::new(key, &ca, now).err().unwrap();
    assert_eq!(refused(&step(KeyStep::Suspend)).code(), "KEY_SUSPENDED");
    let rsa = WrappingKey { purpose: KeyPurpose::Sign(SigningScheme::RsaPss), ..active.clone() };
    assert_eq!((refused(&rsa).code(), openpgp::fingerprint(&rsa)), ("STATE_CONFLICT", None));
    let stamps = WrappingKey { purpose: KeyPurpose::Timestamp, ..active };
    assert_eq!((refused(&stamps).code(), openpgp::fingerprint(&stamps)), ("STATE_CONFLICT", None));
}

#[tokio::test]
async fn openpgp_has_no_certificate_for_other_keys_and_for_those_that_have_not_begun() {
    let ca = ca(KeyWrapping::OaepSha1).await;
    let now = Timestamp::now();
    let oaep = world::key("main");
    assert_eq!(openpgp::fingerprint(&oaep), None);
    let refused = |key: &WrappingKey| openpgp::Draft::new(key, &ca, now).err().unwrap().code().to_owned();
    assert_eq!(refused(&oaep), "STATE_CONFLICT");
    let life = world::life(now + SignedDuration::from_hours(1), now + SignedDuration::from_hours(2), None);
    let early = WrappingKey { purpose: KeyPurpose::Unwrap(KeyWrapping::OpenPgp), life, ..oaep };
    assert_eq!(refused(&early), "KEY_NOT_ACTIVE");
}

async fn signing(token: &dyn Token) -> TokenKey {
    let survey = token.survey(Instant::now() + TOKEN_LIMIT).await.unwrap();
    survey.keys.into_iter().find(|key| key.kind == KeyKind::EcdsaP256Sign).unwrap()
}

#[tokio::test]
async fn a_ca_opens_only_with_its_own_token() {
    let token = Arc::new(MemoryToken::new(KeyWrapping::OaepSha1));
    let ca = DeviceCa::create(token.clone(), "Example", 10).await.unwrap();
    let again = DeviceCa::open(token.clone(), ca.certificate().to_vec()).await.unwrap();
    assert_eq!(again.key(), ca.key());

    let other = Arc::new(MemoryToken::new(KeyWrapping::OaepSha1));
    let error = DeviceCa::open(other, ca.certificate().to_vec()).await.err().unwrap().to_string();
    assert!(error.contains(&ca.key().to_string()), "{error}");

    let key = KeyPair::generate().unwrap().subject_public_key_info();
    let device = ca.issue_device(&"a".parse().unwrap(), &key, Validity::days(1).unwrap()).await.unwrap();
    for no_ca in [device, b"garbage".to_vec()] {
        assert!(DeviceCa::open(token.clone(), no_ca).await.is_err());
    }
}

#[tokio::test]
async fn nothing_outlives_the_ca() {
    let ca = DeviceCa::create(Arc::new(MemoryToken::new(KeyWrapping::OaepSha1)), "Example", 1).await.unwrap();
    let key = KeyPair::generate().unwrap().subject_public_key_info();
    let device = ca.issue_device(&"a".parse().unwrap(), &key, Validity::years(5).unwrap()).await.unwrap();
    let end = |der: &[u8]| CertificateFacts::read(der).unwrap().not_after;
    assert_eq!(end(&device), end(ca.certificate()));
}

#[tokio::test]
async fn serial_numbers_do_not_repeat() {
    let serials: std::collections::HashSet<_> =
        (0..1_000).map(|_| random_serial().unwrap().to_bytes()).collect();
    assert_eq!(serials.len(), 1_000);
    assert!(serials.iter().all(|serial| serial.len() == 16 && serial[0] < 0x80));
}

#[test]
fn what_is_no_certificate_is_refused() {
    for bad in [&b""[..], b"garbage", &[0x30; MAX + 1]] {
        assert!(CertificateFacts::read(bad).is_err());
    }
}

const MAX: usize = peer::MAX_CERTIFICATE_LEN;
