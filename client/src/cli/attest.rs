//! `custodianctl key attest`.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use custodian_proto::v1;
use der::pem::{LineEnding, encode_string};
use serde::Serialize;

use super::{key::write_new, message::note, output::print};
use crate::{
    error::{Error, Kind, Result},
    remote::{Remote, WhichKey},
};

/// Bytes of a nonce of ours.
const NONCE_LEN: usize = 16;

/// The two parts and whose key it was, for programs.
#[derive(Serialize)]
struct AttestationView<'a> {
    /// Exactly what is signed.
    statement: &'a str,
    /// Base64.
    signature: String,
    /// PEM.
    signer_certificate: String,
}

pub(super) fn run(
    remote: &Remote,
    key: &WhichKey,
    nonce: Option<Vec<u8>>,
    out: Option<PathBuf>,
) -> Result<()> {
    let nonce = match nonce {
        Some(nonce) => nonce,
        None => random()?,
    };
    let attested = remote.attest_key(key, &nonce)?;
    match out {
        Some(path) => write(&path, &attested),
        None => show(&attested),
    }
}

fn random() -> Result<Vec<u8>> {
    let mut nonce = vec![0; NONCE_LEN];
    rand::fill(&mut nonce)
        .map_err(|_| Error::new(Kind::Local, "cannot make a nonce", "the system gives no random numbers"))?;
    Ok(nonce)
}

fn write(path: &Path, attested: &v1::AttestKeyResponse) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sig");
    let signature = PathBuf::from(beside);
    for (file, content) in [(path, &attested.statement), (&signature, &attested.signature)] {
        write_new(file, content, format!("cannot write {}", file.display()))?;
    }
    note(&format!(
        "to verify: openssl dgst -sha256 -verify CA_PUBLIC_KEY -signature {} {}",
        signature.display(),
        path.display()
    ));
    Ok(())
}

fn show(attested: &v1::AttestKeyResponse) -> Result<()> {
    let cannot =
        |error: &dyn std::fmt::Display| Error::new(Kind::Local, "cannot print the attestation", error);
    let signer_certificate = encode_string("CERTIFICATE", LineEnding::LF, &attested.signer_certificate)
        .map_err(|error| cannot(&error))?;
    let view = AttestationView {
        statement: std::str::from_utf8(&attested.statement).map_err(|error| cannot(&error))?,
        signature: STANDARD.encode(&attested.signature),
        signer_certificate,
    };
    let text = serde_json::to_string_pretty(&view).map_err(|error| cannot(&error))?;
    print(&(text + "\n")).map(drop)
}
