//! The life of a workstation: renewal by itself, suspension with an end, revocation and what others learn of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use custodian_proto::v1;
use softhsm_tests::{Dev, Person, Ran, Wire, run};
use tokio_stream::StreamExt;
use tonic_types::StatusExt;

fn sealed(dev: &Dev) -> PathBuf {
    let source = dev.scratch("source").join("a");
    fs::write(&source, b"content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    envelope
}

/// Runs `envelope` as the operator with the device key and certificate of this folder.
fn with_identity(dev: &Dev, folder: &Path, args: &[&str]) -> Ran {
    let mut command = dev.command("envelope", Person::Operator);
    command.env("CUSTODIAN_CERT", folder.join("device.crt")).env("CUSTODIAN_KEY", folder.join("device.key"));
    run(command.args(args))
}

fn openssl(args: &[&str]) -> Ran {
    run(Command::new("openssl").args(args))
}

#[tokio::test]
async fn a_workstation_renews_its_own_certificate_and_the_old_one_is_good_for_nothing() {
    let dev = Dev::start();
    let envelope = sealed(&dev);
    let extract = ["extract", envelope.to_str().unwrap(), "--to-stdout"];
    dev.envelope(Person::Operator, extract).expect(0);
    let present = dev.dir().join("operator");
    let old = dev.scratch("old");
    for name in ["device.crt", "device.key"] {
        run(Command::new("cp").arg("-p").arg(present.join(name)).arg(&old)).expect(0);
    }
    let shown = |id: &str| dev.ctl(Person::Admin, ["device", "show", id, "--json"]).expect(0).json();
    let before = shown("operator-laptop");

    let renewed = dev.envelope(Person::Operator, ["renew", "--json"]).expect(0).json();
    assert_eq!(renewed["device"]["state"], "active");
    let after = shown("operator-laptop");
    assert_ne!(before["spki_sha256"], after["spki_sha256"]);
    assert_eq!((&before["enroll_time"], &after["state"]), (&after["enroll_time"], &"active".into()));
    for name in ["device.crt", "device.key"] {
        assert_ne!(fs::read(present.join(name)).unwrap(), fs::read(old.join(name)).unwrap(), "{name}");
        assert!(!present.join(format!("{name}.new")).exists());
    }
    // No administrator had to do anything; whoever kept a copy of the old key has nothing.
    assert_eq!(dev.envelope(Person::Operator, extract).expect(0).stdout, "content");
    with_identity(&dev, &old, &extract).expect(3).says("DEVICE_UNKNOWN");
    with_identity(&dev, &old, &["renew"]).expect(3).says("DEVICE_UNKNOWN");
    assert!(!old.join("device.key.new").exists());
    let records = Wire::records(&dev).await;
    let renewal = records.iter().find(|record| record.operation == "RenewDevice").unwrap();
    assert_eq!((renewal.outcome.as_str(), renewal.target.as_str()), ("OK", "devices/operator-laptop"));
    assert!(renewal.detail.contains(after["certificate_sha256"].as_str().unwrap()), "{}", renewal.detail);

    dev.ctl(Person::Admin, ["device", "suspend", "operator-laptop", "--reason", "test"]).expect(0);
    dev.envelope(Person::Operator, ["renew"]).expect(3).says("DEVICE_SUSPENDED");
}

#[test]
fn a_suspension_with_an_end_ends_by_itself() {
    let dev = Dev::start();
    let envelope = sealed(&dev);
    let extract = || dev.envelope(Person::Operator, ["extract", envelope.to_str().unwrap(), "--to-stdout"]);
    extract().expect(0);
    let suspend = |until: &str| {
        dev.ctl(
            Person::Admin,
            ["device", "suspend", "operator-laptop", "--until", until, "--reason", "a holiday", "--json"],
        )
    };
    suspend("10m").expect(0);
    extract().expect(3).says("DEVICE_SUSPENDED");
    dev.ctl(Person::Admin, ["device", "activate", "operator-laptop"]).expect(0);
    extract().expect(0);
    let suspended = suspend("3s").expect(0).json();
    assert!(suspended["suspend_end_time"].is_string());
    assert_eq!(suspended["stopped"]["sessions"], 1);
    // An event to wait for there is none but the time itself. The client tries until it is let in.
    let end = SystemTime::now() + Duration::from_secs(60);
    while extract().code != Some(0) {
        assert!(SystemTime::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
    let shown = dev.ctl(Person::Admin, ["device", "show", "operator-laptop", "--json"]).expect(0).json();
    assert_eq!((&shown["state"], &shown["suspend_end_time"]), (&"active".into(), &serde_json::Value::Null));
}

#[test]
fn the_revocation_list_is_one_that_openssl_takes_and_its_numbers_grow() {
    let dev = Dev::start();
    let folder = dev.scratch("crl");
    let ca = dev.dir().join("ca.crt");
    let old = folder.join("old-auditor.crt");
    fs::copy(dev.dir().join("auditor/device.crt"), &old).unwrap();
    let fetch = |person, name: &str| {
        let out = folder.join(name);
        dev.ctl(person, ["device", "crl", "--pem", "-o", out.to_str().unwrap()]).expect(0);
        out.to_str().unwrap().to_owned()
    };
    let verifies = |list: &str| {
        openssl(&["crl", "-in", list, "-CAfile", ca.to_str().unwrap(), "-noout"]).expect(0).says("verify OK");
    };
    let number = |list: &str| {
        let text = openssl(&["crl", "-in", list, "-noout", "-crlnumber"]).expect(0).stdout;
        let digits = text.trim().strip_prefix("crlNumber=").unwrap().trim_start_matches("0x").to_owned();
        u64::from_str_radix(&digits, 16).unwrap()
    };
    let judged = |list: &str, certificate: &Path| {
        let ca = ca.to_str().unwrap();
        let certificate = certificate.to_str().unwrap();
        openssl(&["verify", "-crl_check", "-CAfile", ca, "-CRLfile", list, certificate])
    };
    let device = |person: Person| dev.dir().join(person.name()).join("device.crt");

    let empty = fetch(Person::Admin, "empty.pem");
    verifies(&empty);
    judged(&empty, &device(Person::Operator)).expect(0);
    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "lost"]).expect(0);
    dev.envelope(Person::Auditor, ["renew"]).expect(0);
    let full = fetch(Person::Auditor, "full.pem");
    verifies(&full);
    assert!(number(&full) > number(&empty));
    let revoked = |list: &str, certificate: &Path| {
        let judged = judged(list, certificate).expect(2);
        assert!(format!("{}{}", judged.stdout, judged.stderr).contains("certificate revoked"), "{judged:?}");
    };
    revoked(&full, &device(Person::Operator));
    revoked(&full, &old);
    judged(&full, &device(Person::Auditor)).expect(0);
    judged(&full, &device(Person::Admin)).expect(0);

    dev.ctl(Person::Admin, ["device", "suspend", "auditor-laptop", "--reason", "test"]).expect(0);
    let held = fetch(Person::Admin, "held.pem");
    revoked(&held, &device(Person::Auditor));
    let text = openssl(&["crl", "-in", &held, "-noout", "-text"]).expect(0).stdout;
    for reason in ["Cessation Of Operation", "Superseded", "Certificate Hold"] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    dev.ctl(Person::Admin, ["device", "activate", "auditor-laptop"]).expect(0);
    judged(&fetch(Person::Admin, "again.pem"), &device(Person::Auditor)).expect(0);

    let out = folder.join("list.der");
    let der = ["device", "crl", "-o", out.to_str().unwrap(), "--days", "1"];
    dev.ctl(Person::Admin, der).expect(0);
    openssl(&["crl", "-inform", "DER", "-in", out.to_str().unwrap(), "-noout"]).expect(0);
    dev.ctl(Person::Admin, ["device", "crl", "-o", out.to_str().unwrap(), "--days", "91"])
        .expect(3)
        .says("90");
    dev.ctl(Person::Auditor, ["device", "suspend", "admin-laptop", "--reason", "no"])
        .expect(3)
        .says("ROLE_MISSING");
}

#[tokio::test]
async fn a_revocation_cuts_streams_and_tells_what_it_ended() {
    let dev = Dev::start();
    let auditor = Wire::login(&dev, Person::Auditor).await;
    let mut tails = Vec::new();
    for _ in 0..2 {
        let request = v1::TailRecordsRequest { from_start: true, ..Default::default() };
        let mut tail = auditor.audit().tail_records(auditor.request(request)).await.unwrap().into_inner();
        tail.next().await.unwrap().unwrap();
        tails.push(tail);
    }
    let admin = Wire::login(&dev, Person::Admin).await;
    let request = v1::RevokeDeviceRequest { name: "devices/auditor-laptop".into(), reason: "lost".into() };
    let device = admin.devices().revoke_device(admin.request(request)).await.unwrap().into_inner();
    let stopped = device.stopped.unwrap();
    assert_eq!((stopped.sessions, stopped.streams), (1, 2));
    assert!((1..5_000_000).contains(&stopped.duration_us), "{}", stopped.duration_us);
    for tail in &mut tails {
        let end = loop {
            match tail.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        let reason = end.unwrap().unwrap_err().get_error_details().error_info().unwrap().reason.clone();
        assert_eq!(reason, "DEVICE_REVOKED");
    }
    let said = dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "lost"]).expect(0);
    assert!(said.stdout.contains("0 sessions, 0 streams; it held within"), "{}", said.stdout);
}
