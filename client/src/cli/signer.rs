//! Who signs: the flags, and the signer that they name.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use super::connection::Connection;
use crate::{
    envelope::openpgp::SigningKey,
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::{Remote, RemoteSigner, WhichKey},
    signed::{LocalSigner, Signer},
};

/// How to use the key.
#[derive(Debug, clap::Args)]
pub(super) struct SignerArgs {
    /// The signer's certificate and those up to its CA, PEM, if the file with the key does not have them
    #[arg(long, value_name = "FILE")]
    sign_cert: Option<PathBuf>,
    /// A file with the password of the file with the key; - for standard input. [default: ask, if there is one]
    #[arg(long, value_name = "F")]
    key_password_file: Option<PathBuf>,
}

impl SignerArgs {
    /// The signer. A custodian is the one of the settings.
    pub(super) fn open(&self, with: &With) -> Result<Box<dyn Signer>> {
        // A second interrupt beside that of the command: both hear of Ctrl-C.
        self.open_through(with, || Connection::default().connect(&Interrupt::listen()?))
    }

    /// An OpenPGP key.
    pub(super) fn open_openpgp(&self, with: &With) -> Result<SigningKey> {
        let With::File(file) = with else {
            let why = "OpenPGP envelopes are signed with an OpenPGP key, which is in a file";
            return Err(Error::new(Kind::Usage, "cannot sign", why)
                .hint("give what gpg --export-secret-keys writes, or choose another --format"));
        };
        if self.sign_cert.is_some() {
            let why = "an OpenPGP key has its certificate in the same file";
            return Err(Error::new(Kind::Usage, "cannot sign", why).hint("leave --sign-cert out"));
        }
        let source = PasswordSource::of(self.key_password_file.as_deref());
        SigningKey::open(file, &|| source.read(&format!("passphrase of {}", file.display())))
    }

    /// The signer, if it is in the custodian, over this connection.
    pub(super) fn open_through(
        &self,
        with: &With,
        custodian: impl FnOnce() -> Result<Remote>,
    ) -> Result<Box<dyn Signer>> {
        match with {
            With::Custodian(key) => Ok(Box::new(RemoteSigner::open(custodian()?, key)?)),
            With::File(file) => {
                let source = PasswordSource::of(self.key_password_file.as_deref());
                let password = || source.read(&format!("password of {}", file.display()));
                Ok(Box::new(LocalSigner::open(file, self.sign_cert.as_deref(), &password)?))
            }
        }
    }
}

/// Where a signing key is.
#[derive(Clone, Debug)]
pub(super) enum With {
    /// In a file.
    File(PathBuf),
    /// In the custodian: a label or an id.
    Custodian(WhichKey),
}

impl FromStr for With {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        // This program loads no library of somebody else into its process: keys in tokens are the custodian's business.
        if text.starts_with("pkcs11:") {
            return Err(
                "keys in PKCS #11 tokens cannot be used from here; give a file with the key".to_owned()
            );
        }
        if let Some(key) = text.strip_prefix("custodian:") {
            return match key.parse() {
                Ok(WhichKey::Like(like)) if like.is_empty() => {
                    Err("name the key: custodian:LABEL or custodian:ID".to_owned())
                }
                Ok(which) => Ok(Self::Custodian(which)),
                Err(never) => match never {},
            };
        }
        Ok(Self::File(Path::new(text).to_owned()))
    }
}
