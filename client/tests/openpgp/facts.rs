//! `inspect --json` tells the same facts of all formats, under the same names.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{common::SoftKey, gpg::Gpg};

fn envelope(folder: &Path, args: &[&str]) -> Vec<u8> {
    let ran =
        Command::new(env!("CARGO_BIN_EXE_envelope")).args(args).current_dir(folder).output().expect("ran");
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    ran.stdout
}

fn names(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn every_format_tells_the_same_facts_under_the_same_names() {
    let (folder, key, gpg) = (TempDir::new().expect("folder"), SoftKey::shared(), Gpg::usual());
    fs::write(folder.path().join("f"), b"content").expect("written");
    fs::write(folder.path().join("gpg.key"), &gpg.certificate).expect("written");
    let x509 = key.path("cert.pem").display().to_string();
    let mut told = Vec::new();
    for (form, certificate, more) in [
        ("mtd", &*x509, &[][..]),
        ("sealed", &x509, &[]),
        ("cms", &x509, &[]),
        ("cms", &x509, &["--legacy"]),
        ("openpgp", "gpg.key", &[]),
    ] {
        let out = format!("{form}{}", more.len());
        envelope(
            folder.path(),
            &[&["seal", "--format", form, "--to", certificate, "-o", &out, "f"], more].concat(),
        );
        let json = envelope(folder.path(), &["inspect", "--json", &out]);
        let found: Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(found["format"], form);
        assert_eq!(found["envelope_bytes"], fs::metadata(folder.path().join(&out)).expect("there").len());
        assert_eq!(found["other_recipients"], Value::Array(Vec::new()), "{form}");
        assert_eq!(found["authenticated"], more.is_empty(), "{form}");
        assert!(found["encryption"].as_str().expect("text").contains("AES"), "{found}");
        let recipient = &found["recipients"][0];
        assert_eq!(recipient["wrapped_key_sha256"].as_str().expect("text").len(), 64);
        assert!(recipient["wrapping"].as_str().expect("text").starts_with("RSA-"));
        assert_eq!(recipient["key_id"].is_string(), form != "openpgp");
        assert_eq!(recipient["openpgp_key"].is_string(), form == "openpgp");
        assert_eq!(found["entries"].is_null(), form == "sealed", "only its list is secret");
        told.push(found);
    }
    for found in &told {
        assert_eq!(names(found), names(&told[0]), "{found}");
        assert_eq!(names(&found["recipients"][0]), names(&told[0]["recipients"][0]), "{found}");
        if let Some(entries) = found["entries"].as_array() {
            assert_eq!(names(&entries[0]), names(&told[0]["entries"][0]), "{found}");
        }
    }
}
