//! The committed signed envelopes, each with the stage at which it must be refused.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_client::{
    error::Result,
    extract::extract_from,
    progress::Silent,
    signed::{Accept, AcceptTable},
    unwrapper::{KeyName, Unwrapper},
};
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use serde::Deserialize;
use tempfile::TempDir;

use crate::common::extract_job;

#[derive(Deserialize)]
struct Vector {
    name: String,
    /// `none`: it is sound.
    stage: String,
    says: String,
    file_key: String,
    envelope: String,
}

/// Unwraps to a key that is known, and counts.
struct Known(Vec<u8>, AtomicUsize);

impl Unwrapper for Known {
    fn unwrap(&self, _: &WrappedKey, _: &Claims) -> Result<FileKey> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(FileKey::take(&mut self.0.clone()).expect("file key"))
    }

    fn choose(&self, _: &[WrappedKey]) -> Result<usize> {
        Ok(0)
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        Ok(vec![None; names.len()])
    }
}

/// Extracts with only these people accepted, or whoever. Tells whether the key was asked for, too.
fn extracted(vector: &Vector, accepted: &[&str]) -> (Result<String>, bool) {
    let folder = TempDir::new().expect("folder");
    let [envelope, out] = ["envelope", "out"].map(|name| folder.path().join(name));
    fs::write(&envelope, STANDARD.decode(&vector.envelope).expect("base64")).expect("written");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/signed");
    let certificates = accepted.iter().map(|name| data.join(format!("{name}.crt"))).collect();
    let accept = match accepted {
        [] => Accept::Anything,
        _ => Accept::load(&AcceptTable { certificates, ..AcceptTable::default() }).expect("rules"),
    };
    let key = Known(hex::decode(&vector.file_key).expect("hex"), AtomicUsize::new(0));
    let report = extract_from(&extract_job(&envelope, &out), &accept, &key, &Silent);
    assert_eq!(report.is_ok(), out.exists(), "{}", vector.name);
    let signer = report.map(|report| report.sender.map(|sender| sender.subject).unwrap_or_default());
    (signer, key.1.into_inner() > 0)
}

#[test]
fn every_vector_fails_at_its_stage() {
    let vectors = include_str!("../../testdata/signed/vectors.json");
    let vectors: Vec<Vector> = serde_json::from_str(vectors).expect("JSON");
    assert!(vectors.len() >= 30, "{}", vectors.len());
    for vector in &vectors {
        let name = &vector.name;
        // Who sends another's envelope as his own must be accepted himself, or it would not get so far.
        let accepted: &[&str] = match vector.stage.as_str() {
            "mark" | "content" => &["anna", "bert"],
            _ => &["anna"],
        };
        let (signer, asked) = extracted(vector, accepted);
        let says = match (&signer, vector.stage.as_str()) {
            (Ok(signer), "none") => signer.clone(),
            (Err(error), _) => format!("{}: {}", error.what, error.why),
            (Ok(_), _) => panic!("{name}: it was opened"),
        };
        assert!(says.contains(&vector.says), "{name}: {says}");
        assert_eq!(asked, matches!(vector.stage.as_str(), "none" | "content"), "{name}");
        if vector.stage == "stripped" {
            let (signer, asked) = extracted(vector, &[]);
            let error = signer.expect_err("missed, whoever is accepted");
            assert!(error.why.contains("taken away") && !asked, "{name}: {error}");
        }
    }
}
