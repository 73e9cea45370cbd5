//! A person's private key in a file: PKCS #8 in PEM (RFC 7468), under a passphrase (PBES2, RFC 8018) or without one.

use std::path::Path;

use aws_lc_rs::rand;
use custodian_proto::secret::Secret;
use der::{Decode, SecretDocument, pem::LineEnding};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, pkcs5::pbes2};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Kind, Result},
    password::PasswordSource,
    private_file,
};

const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// OWASP's number for PBKDF2 with HMAC-SHA-256: guessing a passphrase should take long. Not scrypt, which OpenSSL 3 reads
/// only if it is told.
const ITERATIONS: u32 = 600_000;

/// Reads a private key: PKCS #8, DER. `passphrase` is asked only if the file is under one.
///
/// # Errors
/// [`Kind::Local`] if the file cannot be read, other users can read it, it holds no such key, or the passphrase is wrong.
pub fn read(path: &Path, passphrase: &PasswordSource) -> Result<SecretDocument> {
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot use the key {}", path.display()), why)
    };
    let bytes = private_file::read(path, &cannot)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| cannot(&NO_KEY))?;
    let (label, key) = SecretDocument::from_pem(text).map_err(|_| cannot(&NO_KEY))?;
    match label {
        PLAIN => Ok(key),
        ENCRYPTED => {
            let info = EncryptedPrivateKeyInfoRef::from_der(key.as_bytes()).map_err(|why| cannot(&why))?;
            let name = format!("passphrase of {}", path.display());
            let passphrase = passphrase.read(&name)?;
            info.decrypt(passphrase.expose()).map_err(|_| {
                cannot(&"the passphrase is wrong, or the file is damaged")
                    .hint("try again; --passphrase-file FILE reads it")
            })
        }
        _ => Err(cannot(&NO_KEY)),
    }
}

const NO_KEY: &str = "it is no private key in PKCS #8 (PEM)";

/// A private key (PKCS #8, DER) as the text of such a file.
///
/// # Errors
/// [`Kind::Local`] if it is none, or the system gives no random numbers.
pub fn text(key: &[u8], passphrase: Option<&Secret>) -> Result<Zeroizing<String>> {
    let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, "cannot write the private key", why);
    let info = PrivateKeyInfoRef::from_der(key).map_err(|why| cannot(&why))?;
    let (label, key) = match passphrase {
        None => (PLAIN, SecretDocument::encode_msg(&info).map_err(|why| cannot(&why))?),
        Some(passphrase) => {
            let (mut salt, mut iv) = ([0; 16], [0; 16]);
            for random in [&mut salt, &mut iv] {
                rand::fill(random).map_err(|_| cannot(&"the system gives no random numbers"))?;
            }
            let under = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ITERATIONS, &salt, iv);
            let under = under.map_err(|why| cannot(&why))?;
            (ENCRYPTED, info.encrypt_with_params(under, passphrase.expose()).map_err(|why| cannot(&why))?)
        }
    };
    key.to_pem(label, LineEnding::LF).map_err(|why| cannot(&why))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn file(folder: &Path, name: &str, text: &str, mode: u32) -> std::path::PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_key_comes_back_with_its_passphrase_only_and_openssl_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let passphrase = Secret::new("correct horse battery".to_owned());
        let right = PasswordSource::File(file(folder.path(), "right", "correct horse battery\n", 0o600));
        let wrong = PasswordSource::File(file(folder.path(), "wrong", "another horse battery\n", 0o600));

        let plain = file(folder.path(), "plain", &text(&key.serialize_der(), None).unwrap(), 0o600);
        let closed = text(&key.serialize_der(), Some(&passphrase)).unwrap();
        let closed = file(folder.path(), "closed", &closed, 0o600);
        let bytes =
            |path: &Path, from| read(path, from).map(|key| key.as_bytes().to_vec()).map_err(|e| e.why);
        // Asked for only where it is needed.
        assert_eq!(bytes(&plain, &wrong), Ok(key.serialize_der()));
        assert_eq!(bytes(&closed, &right), Ok(key.serialize_der()));
        assert!(bytes(&closed, &wrong).unwrap_err().contains("passphrase is wrong"));
        let mut openssl = Command::new("openssl");
        openssl.args(["pkey", "-noout", "-passin", "pass:correct horse battery", "-in"]).arg(&closed);
        assert!(openssl.status().unwrap().success());

        fs::set_permissions(&plain, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(bytes(&plain, &right).unwrap_err().contains("other users"));
        for junk in ["", "junk", "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"] {
            let junk = file(folder.path(), "junk", junk, 0o600);
            assert_eq!(bytes(&junk, &right), Err(NO_KEY.to_owned()));
        }
    }
}
