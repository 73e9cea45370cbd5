//! Somebody who signs with GnuPG.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_client::{
    Error, Kind,
    envelope::openpgp::SigningKey,
    signed::{Accept, AcceptTable, Choice},
};
use custodian_proto::secret::Secret;
use tempfile::TempDir;

use crate::{
    common::run,
    gpg::{Gpg, command, field},
};

/// A key ring with one key that signs.
pub(crate) struct Person {
    home: TempDir,
    pub(crate) fingerprint: String,
    pub(crate) email: String,
}

impl Person {
    /// With a primary key of this kind that signs, as `gpg --quick-generate-key` names it.
    pub(crate) fn new(name: &str, kind: &str) -> Self {
        Self::with(name, kind, "", &[])
    }

    /// With this passphrase, and these arguments when the key is made.
    pub(crate) fn with(name: &str, kind: &str, passphrase: &str, more: &[&str]) -> Self {
        let home = TempDir::new().expect("temporary folder");
        let email = format!("{name}@example.org");
        let mut generate = command(home.path());
        generate.args(more).args(["--passphrase", passphrase, "--quick-generate-key"]);
        run(generate.arg(format!("{name} <{email}>")).args([kind, "sign", "1y"]));
        let listed = run(command(home.path()).args(["--list-keys", "--with-colons"]));
        Self { fingerprint: field(&listed, "fpr"), home, email }
    }

    /// With another key that signs, beneath a primary key that only certifies.
    pub(crate) fn with_subkey(name: &str, kind: &str) -> Self {
        let home = TempDir::new().expect("temporary folder");
        let email = format!("{name}@example.org");
        let gpg = |args: &[&str]| run(command(home.path()).args(["--passphrase", ""]).args(args));
        gpg(&["--quick-generate-key", &format!("{name} <{email}>"), "ed25519", "cert", "1y"]);
        let fingerprint = field(&gpg(&["--list-keys", "--with-colons"]), "fpr");
        // Without more, a subkey on such a curve would be for encrypting.
        let kind = if kind.starts_with("nistp") { format!("{kind}/ecdsa") } else { kind.to_owned() };
        gpg(&["--quick-add-key", &fingerprint, &kind, "sign", "1y"]);
        Self { home, fingerprint, email }
    }

    pub(crate) fn gpg(&self) -> Command {
        let mut gpg = command(self.home.path());
        gpg.args(["--passphrase", "", "--trust-model", "always"]);
        gpg
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The certificate, in a file.
    pub(crate) fn certificate(&self) -> PathBuf {
        let path = self.path("certificate.asc");
        fs::write(&path, run(self.gpg().args(["--armor", "--export", &self.email]))).expect("written");
        path
    }

    /// What `gpg --export-secret-keys` writes, in a file.
    pub(crate) fn secret(&self, passphrase: &str) -> PathBuf {
        let path = self.path("secret.key");
        let mut export = command(self.home.path());
        export.args(["--passphrase", passphrase, "--export-secret-keys", &self.email]);
        fs::write(&path, run(&mut export)).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    /// The key, for us.
    pub(crate) fn key(&self) -> SigningKey {
        let never = || Err(Error::new(Kind::Local, "asked", "for a passphrase"));
        SigningKey::open(&self.secret(""), &never).expect("a key")
    }

    /// Signs and encrypts a file, as `gpg` does it with these arguments.
    pub(crate) fn sign_to(&self, to: &Gpg, file: &Path, out: &Path, more: &[&str]) {
        run(self.gpg().arg("--import").arg(to.certificate_file()));
        let mut sign = self.gpg();
        sign.args(more).args(["--sign", "--encrypt", "--local-user", &self.email]);
        sign.args(["--recipient", "test@example.org", "--output"]).arg(out).arg(file);
        run(&mut sign);
    }

    /// Accepted, and nobody else.
    pub(crate) fn pinned(&self) -> Accept {
        Accept::load(&self.table()).expect("rules")
    }

    pub(crate) fn table(&self) -> AcceptTable {
        AcceptTable { certificates: vec![self.certificate()], ..AcceptTable::default() }
    }

    pub(crate) fn pinned_if_expired(&self) -> Accept {
        Accept::load(&AcceptTable { expired: Choice::Allow, ..self.table() }).expect("rules")
    }

    /// Takes its key back.
    pub(crate) fn revoke(&self) {
        let made = self.path(&format!("openpgp-revocs.d/{}.rev", self.fingerprint));
        let text = fs::read_to_string(made).expect("made with the key").replace(":-----BEGIN", "-----BEGIN");
        fs::write(self.path("revocation"), text).expect("written");
        run(self.gpg().arg("--import").arg(self.path("revocation")));
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).status().ok();
    }
}

/// A passphrase that is told when it is asked for.
pub(crate) fn passphrase(text: &'static str) -> impl Fn() -> custodian_client::error::Result<Secret> {
    move || Ok(Secret::new(text.to_owned()))
}

impl Gpg {
    /// The certificate, in a file.
    pub(crate) fn certificate_file(&self) -> PathBuf {
        let path = self.home.path().join("certificate");
        fs::write(&path, &self.certificate).expect("written");
        path
    }

    /// What is inside the encryption.
    pub(crate) fn inside(&self, envelope: &Path) -> Vec<u8> {
        let out = self.home.path().join("inside");
        run(self.command().args(["--yes", "--unwrap", "--output"]).arg(&out).arg(envelope));
        fs::read(out).expect("read")
    }

    /// Encrypts this, as it is.
    pub(crate) fn encrypt_inside(&self, inside: &[u8], envelope: &Path) {
        let file = self.home.path().join("inside");
        fs::write(&file, inside).expect("written");
        self.encrypt(&file, envelope, &["--yes", "--no-literal", "-z", "0"]);
    }
}
