//! What `envelope sign`, `seal --sign-with`, `verify` and `extract` say of senders, and how they exit.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::{
    common::SoftKey,
    people::{People, Person},
};

/// Runs `envelope` in a folder that is its home as well.
fn envelope(people: &People, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envelope"));
    command.args(args).env_clear().env("HOME", people.folder.path()).current_dir(people.folder.path());
    command.output().expect("runs")
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("exit code"), text(&output.stdout), text(&output.stderr))
}

fn scene() -> People {
    let people = People::new();
    for name in ["anna", "bert"] {
        people.issue(&Person::named(name));
    }
    fs::write(people.path("report"), "content").expect("written");
    people
}

#[test]
fn verify_tells_each_fact_on_its_own_line() {
    let people = scene();
    assert_eq!(told(&envelope(&people, &["sign", "report", "--with", "anna.pem", "-q"])).0, 0);
    let again = told(&envelope(&people, &["sign", "report", "--with", "anna.pem"]));
    assert!(again.0 == 1 && again.2.contains("exists already"), "{again:?}");

    let (exit, out, _) = told(&envelope(&people, &["verify", "report"]));
    assert_eq!(exit, 0);
    for line in ["signed by:", "CN=anna <anna@example.org>", "timestamped:", "nobody said who is"] {
        assert!(out.contains(line), "{line} in {out}");
    }
    let (exit, out, _) = told(&envelope(&people, &["verify", "report", "--accept-from", "anna.crt"]));
    assert!(exit == 0 && out.contains("pinned"), "{out}");
    let (_, json, _) = told(&envelope(&people, &["verify", "report", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let key = json["signer"]["key_id"].as_str().expect("key");
    assert_eq!(told(&envelope(&people, &["verify", "report", "--accept-from", key])).0, 0);

    let (exit, out, err) = told(&envelope(&people, &["verify", "report", "--accept-from", "bert.crt"]));
    assert!(exit == 5 && out.is_empty() && err.contains("CN=anna, who is not accepted"), "{err}");
    fs::copy(people.path("report.p7s"), people.path("report.sig")).expect("copied");
    let (exit, _, err) = told(&envelope(&people, &["verify", "report"]));
    assert!(exit == 2 && err.contains("report.sig both are there"), "{err}");
    assert_eq!(told(&envelope(&people, &["verify", "report", "--signature", "report.p7s"])).0, 0);
    fs::remove_file(people.path("report.sig")).expect("removed");
    fs::write(people.path("report"), "Content").expect("written");
    let (exit, _, err) = told(&envelope(&people, &["verify", "report"]));
    assert!(exit == 5 && err.contains("not what was signed"), "{err}");
    let (exit, _, err) = told(&envelope(&people, &["verify", "anna.crt"]));
    assert!(exit == 1 && err.contains("neither anna.crt.p7s nor anna.crt.sig exists"), "{err}");
}

#[test]
fn a_sealed_and_signed_envelope_tells_to_whom_and_by_whom() {
    let people = scene();
    let key = SoftKey::new(&[]);
    let to = key.path("cert.pem").display().to_string();
    for format in ["mtd", "sealed", "cms"] {
        let args = [
            "seal",
            "-q",
            "--to",
            &to,
            "--format",
            format,
            "-o",
            format,
            "--sign-with",
            "anna.pem",
            "report",
        ];
        let sealed = told(&envelope(&people, &args));
        assert_eq!(sealed.0, 0, "{sealed:?}");
        let (exit, out, err) = told(&envelope(&people, &["verify", format, "--accept-from", "anna.crt"]));
        assert!(
            exit == 0 && out.contains("encrypted to:") && out.contains("CN=anna"),
            "{format}: {out}{err}"
        );
        let (_, out, _) = told(&envelope(&people, &["inspect", format]));
        assert!(out.contains("envelope verify"), "{format}: {out}");
    }
    let args = ["seal", "--to", &to, "-o", "none", "--sign-with", "pkcs11:token=x", "report"];
    let (exit, _, err) = told(&envelope(&people, &args));
    assert!(exit == 2 && err.contains("PKCS #11"), "{err}");
}

/// There is no place for the sender's mark in such an envelope.
#[test]
fn a_signed_legacy_envelope_says_what_its_signature_is_worth() {
    let people = scene();
    let key = SoftKey::new(&[]);
    let to = key.path("cert.pem").display().to_string();
    let seal = |more: &[&str]| {
        let args = [&["seal", "-q", "--to", &to, "--format", "cms"][..], more, &["report"]].concat();
        let (exit, _, err) = told(&envelope(&people, &args));
        assert_eq!(exit, 0, "{err}");
        err
    };
    let says = "take the signature away";
    assert!(seal(&["-o", "old", "--legacy", "--sign-with", "anna.pem"]).contains(says));
    assert!(!seal(&["-o", "unsigned", "--legacy"]).contains(says));
    assert!(!seal(&["-o", "new", "--sign-with", "anna.pem"]).contains(says));
    // It is a signature as any other while it is there.
    assert_eq!(told(&envelope(&people, &["verify", "old", "--accept-from", "anna.crt"])).0, 0);
    assert_eq!(told(&envelope(&people, &["verify", "old", "--accept-from", "bert.crt"])).0, 5);
}

/// Exit code 5 comes before anything that has to do with a custodian: none is even configured here.
#[test]
fn extract_refuses_who_is_not_accepted_before_it_looks_for_a_custodian() {
    let people = scene();
    let key = SoftKey::new(&[]);
    let to = key.path("cert.pem").display().to_string();
    let seal = |more: &[&str]| {
        let args = [&["seal", "-q", "--to", &to][..], more, &["report"]].concat();
        assert_eq!(told(&envelope(&people, &args)).0, 0);
    };
    seal(&["-o", "signed", "--sign-with", "anna.pem"]);
    seal(&["-o", "unsigned"]);
    let exit = |args: &[&str]| told(&envelope(&people, &[&["extract", "-C", "out"], args].concat()));
    for (args, says) in [
        (&["signed", "--accept-from", "bert.crt"][..], "CN=anna"),
        (&["unsigned", "--accept-from", "anna.crt"], "--accept-unsigned"),
    ] {
        let (code, _, err) = exit(args);
        assert!(code == 5 && err.contains(says), "{args:?}: {err}");
    }
    // These get as far as to need one.
    for args in [&["unsigned"][..], &["signed"], &["signed", "--accept-from", "anna.crt"]] {
        assert_eq!(exit(args).0, 2, "{args:?}");
    }

    let settings = people.path(".config/custodian");
    fs::create_dir_all(&settings).expect("folder");
    let anna = Path::new("../../anna.crt");
    fs::write(settings.join("client.toml"), format!("[accept]\ncertificates = ['{}']\n", anna.display()))
        .expect("written");
    assert_eq!((exit(&["signed"]).0, exit(&["unsigned"]).0), (2, 5));
    assert_eq!(exit(&["unsigned", "--accept-unsigned"]).0, 2);
    assert_eq!(exit(&["signed", "--accept-from", "bert.crt"]).0, 5);
    assert!(!people.path("out").exists());
}
