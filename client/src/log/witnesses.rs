//! Witnesses: others who say that they saw the same log.

use std::{fs, path::Path};

use custodian_proto::tlog::{Cosignature, CosignerKey, Flaw, cosignature};

use super::broken;
use crate::error::{Error, Kind, Result};

/// Reads a witness's public key: the key itself, or the name of a file with it.
///
/// # Errors
/// [`Kind::Local`] if it is neither.
pub fn read_witness_key(text: &str) -> Result<CosignerKey> {
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot use the witness's key {text:?}"), why)
            .hint("custodianctl audit witness init printed it, and wrote it into witness.pub")
    };
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let found = fs::read_to_string(Path::new(text)).map_err(|error| cannot(&error))?;
    found.parse().map_err(|flaw: Flaw| cannot(&flaw))
}

/// The cosignatures of a checkpoint by these witnesses, at least `quorum` of them.
///
/// # Errors
/// [`Kind::Integrity`] if they are fewer.
pub fn require_cosignatures(
    note: &str,
    witnesses: &[CosignerKey],
    quorum: usize,
) -> Result<Vec<Cosignature>> {
    let what = "the checkpoint is not witnessed";
    let found = cosignature::cosignatures(note, witnesses).map_err(|flaw| broken(what, flaw))?;
    if found.len() >= quorum {
        return Ok(found);
    }
    let missing = witnesses.iter().map(CosignerKey::name);
    let missing: Vec<_> =
        missing.filter(|name| !found.iter().any(|cosignature| cosignature.name == *name)).collect();
    let why = format!("{} of {quorum} cosignatures are there, none by {}", found.len(), missing.join(", "));
    Err(broken(what, why).hint(
        "custodianctl status tells why a witness does not cosign. If it says that it has seen another log, keep both",
    ))
}
