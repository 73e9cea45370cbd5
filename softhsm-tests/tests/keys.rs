//! The life of wrapping keys, over the real service.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_proto::v1;
use softhsm_tests::{Dev, Load, Person, Ran, Wire, bin, reason, run, sealed_key};

/// `custodianctl key …` of the administrator.
fn key(dev: &Dev, args: &[&str]) -> Ran {
    dev.ctl(Person::Admin, [&["key"], args].concat())
}

/// The certificate to seal to, in a file of its own.
fn certificate(dev: &Dev, which: &str) -> PathBuf {
    let path = dev.scratch("certificates").join(format!("{which}.crt"));
    if !path.exists() {
        key(dev, &["cert", which, "-o", path.to_str().unwrap()]).expect(0);
    }
    path
}

fn state(dev: &Dev, which: &str) -> String {
    key(dev, &["show", which, "--json"]).expect(0).json()["state"].as_str().unwrap().to_owned()
}

/// How many objects SoftHSM keeps for this custodian.
fn objects(dev: &Dev) -> usize {
    let tokens = fs::read_dir(dev.dir().join("tokens")).unwrap();
    let inside = tokens.flat_map(|token| fs::read_dir(token.unwrap().path()).unwrap());
    inside.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|it| it == "object")).count()
}

fn seal(dev: &Dev, certificate: &Path, source: &Path, envelope: &Path) -> Ran {
    let paths = [certificate, envelope, source].map(|path| path.to_str().unwrap());
    dev.envelope(Person::Operator, ["seal", "--to", paths[0], "-o", paths[1], paths[2]])
}

fn extract(dev: &Dev, envelope: &Path) -> Ran {
    dev.envelope(Person::Operator, ["extract", envelope.to_str().unwrap(), "--to-stdout"])
}

#[test]
fn after_a_rotation_the_old_opens_and_the_new_seals() {
    let dev = Dev::start();
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let [old, new] = ["old.mtd", "new.mtd"].map(|name| dev.scratch("sealed").join(name));
    seal(&dev, &dev.certificate(), &source, &old).expect(0);

    let rotated = key(&dev, &["rotate", "sample", "--bits", "2048", "--json"]).expect(0).json();
    assert_eq!((&rotated["version"], &rotated["state"]), (&2.into(), &"active".into()));
    assert_eq!(rotated["modulus_bits"], 2048);
    assert_eq!((state(&dev, "sample@1"), state(&dev, "sample@2")), ("deactivated".into(), "active".into()));
    key(&dev, &["show", "sample"]).expect(2).says("sample@1").says("sample@2");

    let newest = certificate(&dev, "sample");
    assert_eq!(fs::read(&newest).unwrap(), fs::read(certificate(&dev, "sample@2")).unwrap());
    assert_ne!(fs::read(&newest).unwrap(), fs::read(certificate(&dev, "sample@1")).unwrap());
    seal(&dev, &newest, &source, &new).expect(0);
    for envelope in [&old, &new] {
        assert_eq!(extract(&dev, envelope).expect(0).stdout, "content");
    }
    // Nothing leads back, and a label stays that of its versions.
    key(&dev, &["activate", "sample@1"]).expect(3).says("STATE_CONFLICT");
    key(&dev, &["create", "sample"]).expect(3).says("ALREADY_EXISTS");
    key(&dev, &["rotate", "nothing"]).expect(3).says("NOT_FOUND");
    let again = key(&dev, &["rotate", "sample", "--json"]).expect(0).json();
    assert_eq!((&again["version"], &again["modulus_bits"]), (&3.into(), &2048.into()), "as large as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compromised_key_is_refused_at_once_under_load_and_what_it_unwrapped_is_listed() {
    let dev = Dev::without_budgets();
    let admin = Wire::login(&dev, Person::Admin).await;
    let mut load = Load::start(&dev, 8).await;
    load.received(50).await;

    let (name, wrapped) = sealed_key(&dev.certificate(), &[9; 32]);
    let request = v1::CompromiseKeyRequest { name: name.clone(), reason: "found on a stick".into() };
    let compromised = admin.keys().compromise_key(admin.request(request)).await.unwrap().into_inner();
    assert_eq!(compromised.state(), v1::KeyState::Compromised);
    // From here on not one: this call begins after the other has returned.
    let operator = Wire::login(&dev, Person::Operator).await;
    assert_eq!(reason(&operator.unwrap(&name, wrapped).await.unwrap_err()), "KEY_COMPROMISED");
    let keys = load.stop().await;

    let records = Wire::records(&dev).await;
    let stopped = records.iter().find(|record| record.operation == "CompromiseKey").unwrap();
    assert_eq!((stopped.outcome.as_str(), stopped.detail.as_str()), ("OK", "found on a stick"));
    let unwraps = || records.iter().filter(|record| record.operation == "Unwrap");
    let after = || unwraps().filter(|record| record.sequence > stopped.sequence);
    assert!(after().all(|record| record.outcome != "OK"), "keys were released after it was compromised");
    assert!(after().any(|record| record.outcome == "KEY_COMPROMISED"), "the load did not go on");

    // The list is the log's, and holds every key that any caller received.
    let listed = key(&dev, &["unwrapped", "sample", "--json"]).expect(0).json();
    let listed: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| one["sequence"].as_u64().unwrap()).collect();
    let released: Vec<_> =
        unwraps().filter(|record| record.outcome == "OK").map(|record| record.sequence).collect();
    assert_eq!(listed, released);
    for received in keys {
        let record = records.iter().find(|record| record.request_id == received.request_id).unwrap();
        assert!(listed.contains(&record.sequence));
    }
    let table = dev.ctl(Person::Auditor, ["key", "unwrapped", "sample"]).expect(0).stdout;
    assert!(table.contains("test.mtd") && table.contains("operator-laptop"), "{table}");
    dev.ctl(Person::Operator, ["key", "unwrapped", "sample"]).expect(3).says("ROLE_MISSING");

    // For good. Again is no error; a new version takes its place.
    key(&dev, &["compromise", "sample", "--reason", "still"]).expect(0).says("key unwrapped");
    key(&dev, &["activate", "sample"]).expect(3).says("STATE_CONFLICT");
    key(&dev, &["rotate", "sample", "--bits", "2048"]).expect(0);
    assert_eq!(state(&dev, "sample@1"), "compromised");
}

#[tokio::test]
async fn a_destroyed_key_is_gone_from_the_token_and_still_known() {
    let dev = Dev::start();
    let before = objects(&dev);
    key(&dev, &["create", "backups", "--bits", "2048"]).expect(0);
    assert_eq!(objects(&dev), before + 2);
    let operator = Wire::login(&dev, Person::Operator).await;
    let (name, wrapped) = sealed_key(&certificate(&dev, "backups"), &[4; 32]);
    operator.unwrap(&name, wrapped.clone()).await.unwrap();
    let worker = dev.worker();

    let destroy = |confirm: &str| {
        key(&dev, &["destroy", "backups", "--confirm", confirm, "--reason", "the year is over"])
    };
    destroy("backups").expect(3).says("STATE_CONFLICT");
    key(&dev, &["deactivate", "backups", "--reason", "the year is over"]).expect(0);
    operator.unwrap(&name, wrapped.clone()).await.unwrap();
    destroy("sample").expect(3).says("INVALID_ARGUMENT");
    assert_eq!(objects(&dev), before + 2);
    destroy("backups").expect(0);
    assert_eq!(objects(&dev), before, "both objects are gone");
    assert_eq!(reason(&operator.unwrap(&name, wrapped.clone()).await.unwrap_err()), "KEY_DESTROYED");
    assert_eq!(state(&dev, "backups"), "destroyed");
    // Once more changes nothing, and nobody else noticed.
    destroy("backups").expect(0);
    let (sample, good) = sealed_key(&dev.certificate(), &[5; 32]);
    operator.unwrap(&sample, good.clone()).await.unwrap();
    assert_eq!(dev.worker(), worker, "the worker was replaced");

    // Nor is it missed by the next start. An open connection would hold up the stop.
    drop(operator);
    let dev = Dev::start_in(dev.stop().0);
    let operator = Wire::login(&dev, Person::Operator).await;
    assert_eq!(reason(&operator.unwrap(&name, wrapped).await.unwrap_err()), "KEY_DESTROYED");
    operator.unwrap(&sample, good).await.unwrap();
    let records = Wire::records(&dev).await;
    let of_key: Vec<_> = records
        .iter()
        .filter(|record| record.key == name && record.operation.ends_with("Key"))
        .map(|record| (record.operation.as_str(), record.outcome.as_str()))
        .collect();
    assert_eq!(
        of_key,
        [
            ("CreateKey", "OK"),
            ("DestroyKey", "STATE_CONFLICT"),
            ("DeactivateKey", "OK"),
            ("DestroyKey", "INVALID_ARGUMENT"),
            ("DestroyKey", "OK"),
            ("EraseKey", "OK"),
            ("DestroyKey", "OK"),
            ("EraseKey", "OK"),
        ]
    );
}

#[tokio::test]
async fn a_key_begins_by_date_or_by_hand_and_stops_unwrapping_by_date() {
    let dev = Dev::start();
    let operator = Wire::login(&dev, Person::Operator).await;
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let sealed = dev.scratch("sealed");

    key(&dev, &["create", "later", "--bits", "2048", "--wrap-from", "7d"]).expect(0);
    assert_eq!(state(&dev, "later"), "pre-active");
    key(&dev, &["cert", "later"]).expect(3).says("no version of it is active");
    seal(&dev, &certificate(&dev, "later@1"), &source, &sealed.join("later.mtd")).expect(1).says("begins at");
    let (name, wrapped) = sealed_key(&certificate(&dev, "later@1"), &[1; 32]);
    assert_eq!(reason(&operator.unwrap(&name, wrapped).await.unwrap_err()), "KEY_NOT_ACTIVE");
    key(&dev, &["activate", "later"]).expect(3).says("STATE_CONFLICT");

    key(&dev, &["create", "checked", "--bits", "2048", "--pre-active"]).expect(0);
    let (name, wrapped) = sealed_key(&certificate(&dev, "checked@1"), &[2; 32]);
    assert_eq!(reason(&operator.unwrap(&name, wrapped.clone()).await.unwrap_err()), "KEY_NOT_ACTIVE");
    key(&dev, &["activate", "checked"]).expect(0);
    operator.unwrap(&name, wrapped.clone()).await.unwrap();

    let limit = |until: &str| {
        key(&dev, &["limit", "checked", "--unwrap-until", until, "--reason", "retention"]).expect(0)
    };
    limit("2y");
    operator.unwrap(&name, wrapped.clone()).await.unwrap();
    limit("never");
    operator.unwrap(&name, wrapped).await.unwrap();
    let wrong = ["create", "wrong", "--wrap-until", "2y", "--unwrap-until", "1y"];
    key(&dev, &wrong).expect(3).says("INVALID_ARGUMENT");
}

/// A key whose period for sealing ends soon after `source` was sealed to it, and its certificate. A slow machine gets more time.
fn sealed_in_a_brief_period(dev: &Dev, source: &Path, envelope: &Path) -> (String, PathBuf) {
    let sealed = (0..7).map(|power| 3 << power).find_map(|seconds| {
        let (label, period) = (format!("brief-{seconds}"), format!("{seconds}s"));
        key(dev, &["create", &label, "--bits", "2048", "--wrap-until", &period]).expect(0);
        let certificate = certificate(dev, &format!("{label}@1"));
        (seal(dev, &certificate, source, envelope).code == Some(0)).then_some((label, certificate))
    });
    sealed.expect("three minutes are not enough to seal")
}

#[tokio::test]
async fn past_its_period_nothing_is_sealed_to_a_key_and_the_old_still_opens() {
    let dev = Dev::start();
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let [old, new] = ["old.mtd", "new.mtd"].map(|name| dev.scratch("sealed").join(name));
    let (brief, certificate) = sealed_in_a_brief_period(&dev, &source, &old);
    // Its own date deactivates it, nobody's hand: each look takes a while, so this is no busy loop.
    while state(&dev, &brief) == "active" {}
    assert_eq!(state(&dev, &brief), "deactivated");
    // The certificate's last second is one of the period.
    let refused = loop {
        let ran = seal(&dev, &certificate, &source, &new);
        if ran.code != Some(0) {
            break ran;
        }
        fs::remove_file(&new).unwrap();
    };
    refused.expect(1).says("its period for sealing ended at");
    assert_eq!(extract(&dev, &old).expect(0).stdout, "content");
    // Unwrapping ends by a date of its own.
    key(&dev, &["limit", &brief, "--unwrap-until", "1s", "--reason", "retention"]).expect(0);
    let refused = loop {
        let ran = extract(&dev, &old);
        if ran.code != Some(0) {
            break ran;
        }
    };
    refused.expect(3).says("KEY_EXPIRED");
}

#[tokio::test]
async fn of_many_that_create_one_label_at_once_one_leaves_a_pair_in_the_token() {
    let dev = Dev::start();
    let before = objects(&dev);
    let admin = Wire::login(&dev, Person::Admin).await;
    let create = || async {
        let request = v1::CreateKeyRequest { label: "one".into(), modulus_bits: 2048, ..Default::default() };
        admin.keys().create_key(admin.request(request)).await.map_err(|status| reason(&status))
    };
    let made = tokio::join!(create(), create(), create(), create());
    let made = [made.0, made.1, made.2, made.3];
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    assert!(made.iter().filter_map(|made| made.as_ref().err()).all(|reason| reason == "ALREADY_EXISTS"));
    assert_eq!(objects(&dev), before + 2);
    let (name, wrapped) = sealed_key(&certificate(&dev, "one"), &[6; 32]);
    let operator = Wire::login(&dev, Person::Operator).await;
    operator.unwrap(&name, wrapped).await.unwrap();
}

/// A custodian with a ledger of its own on the token of another, whose keys it does not know.
fn on_the_token_of(donor: &Path) -> Dev {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(bin("custodian"));
    command.env("SOFTHSM2_CONF", donor.join("softhsm2.conf"));
    command.args(["dev", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", "custodian-dev"]);
    command.arg("--pin-file").arg(donor.join("token.pin")).arg("--dir").arg(folder.path().join("dev"));
    Dev::start_as(folder, command)
}

#[test]
fn keys_that_the_ledger_does_not_know_are_imported_and_open_what_was_sealed_to_them() {
    let first = Dev::start();
    let source = first.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let [old, other] = ["old.mtd", "other.mtd"].map(|name| first.scratch("sealed").join(name));
    key(&first, &["create", "second", "--bits", "2048"]).expect(0);
    let second = certificate(&first, "second");
    seal(&first, &first.certificate(), &source, &old).expect(0);
    seal(&first, &second, &source, &other).expect(0);
    let (kept, ran) = first.stop();
    ran.expect(0);
    let donor = kept.path().join("dev");
    // Made by a tool that leaves other uses on.
    let mut pkcs11_tool = Command::new("pkcs11-tool");
    pkcs11_tool.env("SOFTHSM2_CONF", donor.join("softhsm2.conf"));
    pkcs11_tool.args(["--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", "custodian-dev"]);
    pkcs11_tool.args(["--login", "--pin", fs::read_to_string(donor.join("token.pin")).unwrap().trim()]);
    pkcs11_tool.args(["--keypairgen", "--key-type", "rsa:2048", "--label", "ceremony", "--usage-decrypt"]);
    run(pkcs11_tool.args(["--sensitive", "--allowed-mechanisms", "RSA-PKCS-OAEP"])).expect(0);

    let dev = on_the_token_of(&donor);
    extract(&dev, &old).expect(3).says("KEY_UNKNOWN");
    let unused = key(&dev, &["unused", "--json"]).expect(0).says("\"ceremony\"").says("CKA_SIGN is true");
    let unused = unused.json();
    let id_of = |label: &str| {
        let found = unused.as_array().unwrap().iter().find(|one| one["token_label"] == label).unwrap();
        found["name"].as_str().unwrap().trim_start_matches("keys/").to_owned()
    };
    assert_eq!(unused.as_array().unwrap().len(), 2, "{unused}");

    let sample = donor.join("keys/sample.crt");
    let no_key_of_ours = dev.dir().join("operator/device.crt");
    let import = |label: &str, cert: &Path| key(&dev, &["import", label, "--cert", cert.to_str().unwrap()]);
    import("old", &no_key_of_ours).expect(3).says("serves no wrapping key").says("CKA_SIGN is true");
    let imported = import("old", &sample).expect(0);
    assert!(imported.stdout.contains(&id_of("sample")), "{}", imported.stdout);
    assert_eq!(extract(&dev, &old).expect(0).stdout, "content");
    import("old", &sample).expect(3).says("ALREADY_EXISTS");

    // The other one, certified by this custodian: senders may go on with either certificate.
    key(&dev, &["import", "old", "--id", &id_of("second"), "--json"]).expect(0);
    assert_eq!((state(&dev, "old@1"), state(&dev, "old@2")), ("deactivated".into(), "active".into()));
    assert_eq!(extract(&dev, &other).expect(0).stdout, "content");
    let verify = run(Command::new("openssl")
        .args(["verify", "-CAfile"])
        .arg(dev.dir().join("ca.crt"))
        .arg(certificate(&dev, "old")));
    verify.expect(0);
    assert_eq!(key(&dev, &["unused", "--json"]).expect(0).json().as_array().unwrap().len(), 0);
}

#[test]
fn what_the_token_says_of_a_key_is_signed_and_openssl_verifies_it() {
    let dev = Dev::start();
    let shown = key(&dev, &["show", "sample", "--json"]).expect(0).json();
    let uri = shown["uris"][0].as_str().unwrap();
    let id = shown["name"].as_str().unwrap().trim_start_matches("keys/");
    assert!(uri.starts_with("pkcs11:token=custodian-dev;") && uri.contains(";object=sample;id=%"), "{uri}");

    let statement = dev.scratch("attested").join("sample.json");
    let out = statement.to_str().unwrap();
    let attest = ["key", "attest", "sample", "--nonce", "00ff", "--out", out];
    dev.ctl(Person::Operator, attest).expect(3).says("ROLE_MISSING");
    dev.ctl(Person::Auditor, attest).expect(0);
    let said: serde_json::Value = serde_json::from_slice(&fs::read(&statement).unwrap()).unwrap();
    assert_eq!((&said["nonce"], &said["key"]["id"]), (&"00ff".into(), &id.into()));
    let token = &said["tokens"][0];
    assert_eq!((&token["label"], &token["uri"]), (&"custodian-dev".into(), &uri.into()));
    let attributes = &token["attributes"];
    for (name, value) in [
        ("CKA_SENSITIVE", true),
        ("CKA_ALWAYS_SENSITIVE", true),
        ("CKA_EXTRACTABLE", false),
        ("CKA_NEVER_EXTRACTABLE", true),
        ("CKA_LOCAL", true),
        ("CKA_DECRYPT", true),
        ("CKA_SIGN", false),
        ("CKA_UNWRAP", false),
    ] {
        assert_eq!(attributes[name], value, "{name} in {attributes}");
    }
    assert_eq!(attributes["CKA_MODULUS_BITS"], 3072);
    assert_eq!(attributes["CKA_ID"], id);
    assert_eq!(attributes["CKA_ALLOWED_MECHANISMS"], serde_json::json!(["CKM_RSA_PKCS_OAEP"]));
    assert_eq!(attributes["CKA_KEY_GEN_MECHANISM"], "CKM_RSA_PKCS_KEY_PAIR_GEN");

    let public = dev.scratch("attested").join("ca.pub");
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-pubkey", "-in"]).arg(dev.dir().join("ca.crt"));
    fs::write(&public, run(&mut openssl).expect(0).stdout).unwrap();
    let verify = || {
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-verify"]).arg(&public).arg("-signature");
        run(openssl.arg(format!("{out}.sig")).arg(&statement))
    };
    assert!(verify().expect(0).stdout.contains("Verified OK"));
    let forged = fs::read_to_string(&statement)
        .unwrap()
        .replace("\"CKA_EXTRACTABLE\":false", "\"CKA_EXTRACTABLE\":true");
    fs::write(&statement, forged).unwrap();
    verify().expect(1);
}

#[test]
fn a_copy_of_the_softhsm_folder_brings_lost_keys_back() {
    let dev = Dev::start();
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    let (folder, ran) = dev.stop();
    ran.expect(0);
    let (tokens, copy) = (folder.path().join("dev/tokens"), folder.path().join("copy"));
    let copies = |from: &Path, to: &Path| run(Command::new("cp").arg("-a").arg(from).arg(to)).expect(0);
    copies(&tokens, &copy);
    fs::remove_dir_all(&tokens).unwrap();
    copies(&copy, &tokens);
    let dev = Dev::start_in(folder);
    assert_eq!(extract(&dev, &envelope).expect(0).stdout, "content");
}
