//! Messages made by another writer, `testdata/openpgp/write.py`: the sound ones open, and each of the others is refused at
//! the stage that its vector names.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_client::{
    Kind,
    extract::{Input, extract},
    inspect::inspect,
    progress::Silent,
};
use tempfile::TempDir;

use crate::{
    common::{extract_job, tree},
    vector::{Known, Vector},
};

/// Whether a stage comes before the recipients are looked at: then `inspect` refuses, too.
fn is_early(stage: &str) -> bool {
    match stage {
        "detection" | "armour" | "packet" | "protection" => true,
        "recipient" | "content" | "message" | "none" => false,
        other => panic!("{other} is no stage"),
    }
}

#[test]
fn each_vector_is_refused_at_its_stage() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../testdata/openpgp/vectors.json")).expect("vectors");
    assert!(vectors.len() > 130);
    let wrong: Vec<_> = vectors.iter().filter_map(|vector| Some((&vector.name, wrong(vector)?))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is not as the vector says.
fn wrong(vector: &Vector) -> Option<String> {
    let folder = TempDir::new().expect("folder");
    let (envelope, out) = (folder.path().join("f.gpg"), folder.path().join("out"));
    fs::write(&envelope, STANDARD.decode(&vector.envelope).expect("base64")).expect("written");
    let inspected = inspect(&Input::File(envelope.clone()));
    if inspected.is_err() != is_early(&vector.stage) {
        return Some(format!("inspect: {inspected:?}"));
    }
    let key = Known(hex::decode(&vector.file_key).expect("hex"));
    match extract(&extract_job(&envelope, &out), &key, &Silent) {
        Ok(_) if vector.stage == "none" && tree::read(&out).keys().collect::<Vec<_>>() == ["f"] => None,
        Ok(_) => Some(format!("was extracted: {:?}", tree::read(&out).keys())),
        Err(error) if vector.stage == "none" || !error.why.contains(&vector.says) => Some(error.to_string()),
        Err(error) if vector.stage == "content" && error.kind != Kind::Integrity => Some(error.to_string()),
        Err(_) if !tree::is_empty(&out) => Some("left files".to_owned()),
        Err(_) => None,
    }
}
