//! Who signs: the flags, and the signer that they name.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use custodian_proto::{
    pkcs11::{self, KeyUri},
    secret::Secret,
};

use super::message::note;
use crate::{
    envelope::openpgp::SigningKey,
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    remote::{Remote, RemoteSigner, WhichKey, openpgp_signer},
    signed::{LocalSigner, Login, Signer, TokenSigner},
};

/// How to use the key.
#[derive(Debug, clap::Args)]
pub(super) struct SignerArgs {
    /// The signer's certificate and those up to its CA, PEM, if the file or the token with the key does not have them
    #[arg(long, value_name = "FILE")]
    sign_cert: Option<PathBuf>,
    /// A file with the password of the file with the key, or with the PIN of its token; - for standard input. [default: ask,
    /// if there is one]
    #[arg(long, value_name = "F")]
    key_password_file: Option<PathBuf>,
}

/// Formats of signatures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum SignatureFormat {
    /// Detached, in DER: openssl cms verifies it
    Cms,
    /// Detached, binary: gpg and sq verify it
    #[value(name = "openpgp")]
    OpenPgp,
}

/// Who signs.
pub(super) enum AnySigner {
    Cms(Box<dyn Signer>),
    OpenPgp(Box<SigningKey>),
}

impl SignerArgs {
    /// Who signs in this format; if the key is in the custodian, over this connection.
    pub(super) fn open(
        &self,
        format: SignatureFormat,
        with: &With,
        custodian: impl FnOnce() -> Result<Remote>,
        interrupt: &Interrupt,
    ) -> Result<AnySigner> {
        Ok(match format {
            SignatureFormat::Cms => AnySigner::Cms(self.open_cms(with, custodian, interrupt)?),
            SignatureFormat::OpenPgp => AnySigner::OpenPgp(Box::new(self.open_openpgp(with, custodian)?)),
        })
    }

    fn open_openpgp(&self, with: &With, custodian: impl FnOnce() -> Result<Remote>) -> Result<SigningKey> {
        let usage = |why: &str| Error::new(Kind::Usage, "cannot sign", why);
        if self.sign_cert.is_some() {
            return Err(usage("OpenPGP knows no X.509 certificates").hint("leave --sign-cert out"));
        }
        match with {
            With::File(file) => {
                let source = PasswordSource::of(self.key_password_file.as_deref());
                SigningKey::open(file, &|| source.read(&format!("passphrase of {}", file.display())))
            }
            With::Custodian(key) => openpgp_signer(custodian()?, key),
            With::Token(_) => Err(usage("keys on smart cards sign the other formats only").hint(
                "give what gpg --export-secret-keys writes, or custodian:LABEL, or choose another --format",
            )),
        }
    }

    fn open_cms(
        &self,
        with: &With,
        custodian: impl FnOnce() -> Result<Remote>,
        interrupt: &Interrupt,
    ) -> Result<Box<dyn Signer>> {
        match with {
            With::Custodian(key) => Ok(Box::new(RemoteSigner::open(custodian()?, key)?)),
            With::Token(uri) => {
                let wrong = |why| Error::new(Kind::Usage, "cannot use this PKCS #11 URI", why);
                let uri = uri.as_ref().map_err(wrong)?;
                let pin = |login: &Login| self.pin(uri, login);
                Ok(Box::new(TokenSigner::open(uri, self.sign_cert.as_deref(), &pin, interrupt)?))
            }
            With::File(file) => {
                let source = PasswordSource::of(self.key_password_file.as_deref());
                let password = || source.read(&format!("password of {}", file.display()));
                Ok(Box::new(LocalSigner::open(file, self.sign_cert.as_deref(), &password)?))
            }
        }
    }

    /// The PIN of a token: of the flag, of the URI, or asked for.
    fn pin(&self, uri: &KeyUri, login: &Login) -> Result<Option<Secret>> {
        let name = match login {
            Login::NotNeeded => return Ok(None),
            Login::AtTheReader(label) => {
                note(&format!("type the PIN of the token {label:?} at its reader"));
                return Ok(None);
            }
            Login::WithPin(name) => name,
        };
        let file = self.key_password_file.as_deref().or(uri.token.pin_file.as_deref());
        let read = PasswordSource::of(file).read(name);
        read.map(Some).map_err(|error| match error.hint.is_empty() {
            true => error,
            false => {
                error.hint("give it in a file: --key-password-file F, or pin-source=file:PATH in the URI")
            }
        })
    }
}

/// Where a signing key is.
#[derive(Clone, Debug)]
pub(super) enum With {
    /// In a file.
    File(PathBuf),
    /// In a PKCS #11 token; or what is wrong with the URI. clap would show the URI, which may have a PIN in it, beside that.
    Token(std::result::Result<Box<KeyUri>, String>),
    /// In the custodian: a label or an id.
    Custodian(WhichKey),
}

impl FromStr for With {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text.starts_with(pkcs11::SCHEME) {
            return Ok(Self::Token(KeyUri::parse(text).map(Box::new)));
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
