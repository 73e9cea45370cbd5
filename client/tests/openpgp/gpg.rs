//! GnuPG with a key of its own: somebody who writes and reads OpenPGP, and in these tests the custodian, too.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use custodian_client::{
    Error, Kind,
    envelope::cms::Protection,
    error::Result,
    seal::{SealJob, SealTo, Symlinks},
    unwrapper::{KeyName, Unwrapper},
};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    openpgp::{mpi, packet},
    v1::Claims,
};
use tempfile::TempDir;

use crate::common::run;

/// A key ring with one RSA key.
pub(crate) struct Gpg {
    pub(crate) home: TempDir,
    pub(crate) certificate: Vec<u8>,
    /// Of the key that is encrypted to.
    fingerprint: Vec<u8>,
    /// Of the certificate.
    pub(crate) primary: Vec<u8>,
    asked: AtomicUsize,
    known: Mutex<HashMap<Vec<u8>, [u8; 32]>>,
}

impl Gpg {
    /// With keys of these kinds, as `gpg --quick-generate-key` names them.
    pub(crate) fn new(primary: &str, subkey: &str) -> Self {
        let home = TempDir::new().expect("temporary folder");
        let gpg = |args: &[&str]| run(command(home.path()).args(["--passphrase", ""]).args(args));
        gpg(&["--quick-generate-key", "Test <test@example.org>", primary, "cert", "1y"]);
        let listed = gpg(&["--list-keys", "--with-colons"]);
        let primary = field(&listed, "fpr");
        gpg(&["--quick-add-key", &primary, subkey, "encr", "1y"]);
        let listed = gpg(&["--list-keys", "--with-colons"]);
        let fingerprint = hex::decode(field(&listed, "fpr")).expect("hex");
        let certificate = gpg(&["--export"]);
        let primary = hex::decode(primary).expect("hex");
        Self { home, certificate, fingerprint, primary, asked: AtomicUsize::new(0), known: Mutex::default() }
    }

    /// With RSA keys.
    pub(crate) fn usual() -> Self {
        Self::new("rsa2048", "rsa2048")
    }

    /// A command with this key ring.
    pub(crate) fn command(&self) -> Command {
        command(self.home.path())
    }

    /// `gpg --encrypt` of a file to this key, with these arguments.
    pub(crate) fn encrypt(&self, file: &Path, out: &Path, args: &[&str]) {
        let mut command = self.command();
        command.args(args).args(["--encrypt", "--trust-model", "always", "--recipient", "test@example.org"]);
        run(command.arg("--output").arg(out).arg(file));
    }

    pub(crate) fn decrypt(&self, envelope: &Path) -> Vec<u8> {
        run(self.command().arg("--decrypt").arg(envelope))
    }

    /// How many keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn key_id() -> KeyId {
        KeyId::of_public_key(b"gpg's")
    }

    /// What gpg finds in a wrapped key, if it is made the beginning of a message.
    fn session_key(&self, wrapped: &WrappedKey) -> Option<[u8; 32]> {
        let id = self.fingerprint.last_chunk::<8>().expect("fingerprint");
        let pkesk = packet(1, &[&[3], &id[..], &[1], &mpi(wrapped.ciphertext())].concat());
        let message = [pkesk, packet(18, &[&[1], &[7; 60][..]].concat())].concat();
        let file = tempfile::NamedTempFile::new_in(self.home.path()).expect("temporary file");
        fs::write(file.path(), message).expect("written");
        let output = self
            .command()
            .args(["--show-session-key", "--output", "/dev/null", "--yes", "--decrypt"])
            .arg(file.path())
            .output()
            .expect("gpg starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, key) = said.split_once("session key: '9:")?;
        hex::decode(key.get(..64)?).ok()?.try_into().ok()
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).status().ok();
    }
}

pub(crate) fn command(home: &Path) -> Command {
    let mut command = Command::new("gpg");
    command.arg("--homedir").arg(home).args([
        "--batch",
        "--quiet",
        "--no-tty",
        "--pinentry-mode",
        "loopback",
    ]);
    command
}

/// The last field 10 of a line of this kind.
pub(crate) fn field(listed: &[u8], kind: &str) -> String {
    let text = String::from_utf8_lossy(listed);
    let line = text.lines().rfind(|line| line.starts_with(kind)).expect("a line");
    line.split(':').nth(9).expect("ten fields").to_owned()
}

impl Unwrapper for Gpg {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        assert_eq!((claims.format.as_str(), wrapped.wrapping()), ("openpgp", KeyWrapping::OpenPgp));
        assert_eq!(wrapped.ciphertext().len(), 256);
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut known = self.known.lock().expect("lock");
        if let Some(key) = known.get(wrapped.ciphertext()) {
            return Ok(FileKey::new(*key));
        }
        let key = self.session_key(wrapped);
        let key = key.ok_or_else(|| Error::new(Kind::Integrity, "cannot unwrap", "rejected"))?;
        known.insert(wrapped.ciphertext().to_vec(), key);
        Ok(FileKey::new(key))
    }

    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        assert!(wrapped.iter().all(|wrapped| wrapped.key_id() == Self::key_id()));
        Ok(0)
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        Ok(names.iter().map(|name| name.is_of(&self.fingerprint).then(Self::key_id)).collect())
    }

    fn openpgp_fingerprints(&self, _: KeyId) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.primary.clone(), self.fingerprint.clone()])
    }
}

/// What seals this file to these certificates.
pub(crate) fn job(certificates: &[&[u8]], file: &Path, envelope: &Path) -> SealJob {
    SealJob {
        recipients: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
        paths: vec![PathBuf::from(file)],
        format: crate::FORMAT,
        output: SealTo::File(envelope.to_owned()),
        stdin: None,
        symlinks: Symlinks::Refuse,
        protection: Protection::Authenticated,
    }
}
