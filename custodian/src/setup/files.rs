//! Files of a set-up: never overwritten, secrets for the owner only.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::trouble::Trouble;

/// Who may read a new file.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// Everybody.
    Public,
    /// The owner.
    Secret,
}

/// Writes a file that must not exist yet, durably.
pub(super) fn create(path: &Path, content: &[u8], mode: Mode) -> Result<(), Trouble> {
    let bits = match mode {
        Mode::Public => 0o644,
        Mode::Secret => 0o600,
    };
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(bits).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| {
        Trouble::new(format!("cannot write {}", path.display()), error)
            .hint("nothing is ever overwritten: choose another folder, or move the old file away")
    })
}

/// Makes a folder for the owner only, if it is missing.
pub(super) fn folder(path: &Path) -> Result<(), Trouble> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Trouble::new(format!("cannot make the folder {}", path.display()), error))
}

/// A certificate as PEM.
pub(super) fn pem(der: &[u8]) -> Result<String, Trouble> {
    der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der)
        .map_err(|error| Trouble::new("cannot write a certificate as PEM", error))
}

/// The certificates of a PEM file, in its order. At least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let what = format!("cannot read the certificate {}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| Trouble::new(&what, error))?;
    if certificates.is_empty() {
        return Err(
            Trouble::new(what, "there is no certificate in it").hint("it must be PEM: BEGIN CERTIFICATE")
        );
    }
    Ok(certificates)
}

/// The private key of a PEM file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Trouble> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| Trouble::new(format!("cannot read the key {}", path.display()), error))
}
