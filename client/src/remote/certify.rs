//! A person's key, made here, and a certificate for it.

use std::path::{Path, PathBuf};

use custodian_proto::{email::Email, secret::Secret, v1};
use der::Decode;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use zeroize::Zeroizing;

use super::{
    Remote,
    enroll::{NewFile, pem, private_folder, request_for},
};
use crate::{
    error::{Error, Kind, Result},
    person::key_file,
};

const WHAT: &str = "cannot get a certificate";

/// What was made.
#[derive(Clone, Debug)]
pub struct Certified {
    /// What the custodian knows of it.
    pub certificate: v1::Certificate,
    /// The new private key. It was never anywhere else.
    pub key: PathBuf,
    /// The certificate; of a key that signs, with that of the CA behind it.
    pub cert: PathBuf,
}

/// Makes a key here and has the custodian certify it. Writes `sign.key` and `sign.crt`, or `encrypt.key` and `encrypt.crt`
/// into `folder`. Overwrites nothing.
///
/// # Errors
/// A file that exists already, a custodian that cannot be reached or refuses. Nothing is left in `folder` then.
pub fn certify(
    remote: &Remote,
    usage: v1::CertificateUse,
    email: Option<&Email>,
    folder: &Path,
    passphrase: Option<&Secret>,
) -> Result<Certified> {
    let name = if usage == v1::CertificateUse::Encrypt { "encrypt" } else { "sign" };
    // Every file is made before the custodian is asked: one in the way costs no certificate.
    private_folder(folder).map_err(ours)?;
    let mut key_file = NewFile::create(&folder.join(format!("{name}.key")), 0o600).map_err(ours)?;
    let mut cert_file = NewFile::create(&folder.join(format!("{name}.crt")), 0o644).map_err(ours)?;
    let key = match usage {
        // 3,072 bits: 128 bits of security (NIST SP 800-57 part 1, table 2).
        v1::CertificateUse::Encrypt => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        _ => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
    };
    let key = key.map_err(|why| Error::new(Kind::Local, WHAT, why))?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    key_file.write(key_file::text(&pkcs8, passphrase)?.as_bytes()).map_err(ours)?;

    let request = request_for(&key).map_err(ours)?;
    let certificate = remote.request_certificate(usage, &request, email)?;
    check(&certificate, &key)?;
    let mut chain = pem(&certificate.certificate).map_err(ours)?;
    // Who verifies a signature wants the chain; who seals to a certificate, that one alone.
    if usage == v1::CertificateUse::Sign {
        chain.push_str(&pem(&certificate.issuer).map_err(ours)?);
    }
    cert_file.write(chain.as_bytes()).map_err(ours)?;
    Ok(Certified { certificate, key: key_file.keep(), cert: cert_file.keep() })
}

/// A certificate of another key would be of no use to us, and of some to whoever has that one.
fn check(certificate: &v1::Certificate, key: &KeyPair) -> Result<()> {
    let wrong = |why: &str| Error::new(Kind::Integrity, WHAT, why).hint("tell the administrators");
    let parsed = x509_cert::Certificate::from_der(&certificate.certificate)
        .map_err(|_| wrong("the custodian's answer is no certificate"))?;
    let spki = parsed.tbs_certificate().subject_public_key_info();
    if spki.subject_public_key.raw_bytes() != key.public_key_raw() {
        return Err(wrong("the custodian certified another key than ours"));
    }
    Ok(())
}

fn ours(error: Error) -> Error {
    Error { what: WHAT.to_owned(), ..error }
}
