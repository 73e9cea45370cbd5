//! Envelopes made by another writer, `testdata/sealed/write.py`: the sound ones open, and each of the others is refused at
//! the stage that its vector names.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_client::{
    extract::{Input, extract},
    inspect::inspect,
    progress::Silent,
};
use tempfile::TempDir;

use crate::{
    common::{extract_job, tree},
    vector::{Known, Vector},
};

/// Whether a stage comes before a key is asked for: then `inspect` refuses, too.
fn is_early(stage: &str) -> bool {
    match stage {
        "detection" | "container" | "cipher key" => true,
        "secret" | "commitment" | "length" | "chunk" | "archive" | "none" => false,
        other => panic!("{other} is no stage"),
    }
}

#[test]
fn each_vector_is_refused_at_its_stage() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../testdata/sealed/vectors.json")).expect("vectors");
    assert!(vectors.len() > 70);
    let wrong: Vec<_> = vectors.iter().filter_map(|vector| Some((&vector.name, wrong(vector)?))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is not as the vector says.
fn wrong(vector: &Vector) -> Option<String> {
    let folder = TempDir::new().expect("folder");
    let (envelope, out) = (folder.path().join("e.sealed"), folder.path().join("out"));
    fs::write(&envelope, STANDARD.decode(&vector.envelope).expect("base64")).expect("written");
    let inspected = inspect(&Input::File(envelope.clone()));
    if inspected.is_err() != is_early(&vector.stage) {
        return Some(format!("inspect: {inspected:?}"));
    }
    let key = Known(hex::decode(&vector.file_key).expect("hex"));
    match extract(&extract_job(&envelope, &out), &key, &Silent) {
        Ok(_) if vector.stage == "none" => None,
        Ok(_) => Some("was extracted".to_owned()),
        Err(error) if vector.stage == "none" || !error.why.contains(&vector.says) => Some(error.why),
        Err(_) if !tree::is_empty(&out) => Some("left files".to_owned()),
        Err(_) => None,
    }
}
