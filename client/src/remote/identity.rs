//! Who vouches for whom: the roots we trust, our own certificate and key.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use der::Decode;
use jiff::Timestamp;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Largest certificate or key file, in bytes.
const MAX_FILE_LEN: u64 = 1024 * 1024;
/// What a certificate in PEM begins with, after any text before it.
const PEM_MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// This device's certificate chain and private key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both. The key must be readable by its owner alone.
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self> {
        Ok(Self { chain: certificates_in(cert)?, key: private_key(key)? })
    }

    /// The device's own certificate.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        // `certificates_in` never returns an empty list.
        &self.chain[0]
    }
}

/// The certificates that may vouch for the custodian. Not the system's: no public CA has a say here.
pub(super) fn roots(ca: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(ca)? {
        roots.add(certificate).map_err(|error| {
            Error::new(Kind::Local, format!("cannot trust {}", ca.display()), error)
                .hint("CUSTODIAN_CA must be a CA certificate")
        })?;
    }
    Ok(roots)
}

/// The certificates of a PEM file, or the one of a DER file, in DER. At least one.
///
/// # Errors
/// The file cannot be read, or there is no certificate in it.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    Ok(certificates_in(path)?.into_iter().map(|certificate| certificate.to_vec()).collect())
}

/// When the first certificate of a file ends.
///
/// # Errors
/// The file cannot be read, or there is no certificate in it.
pub fn expiry(path: &Path) -> Result<Timestamp> {
    let cannot = |why: &str| Error::new(Kind::Local, format!("cannot read {}", path.display()), why);
    let certificates = certificates_in(path)?;
    let certificate = certificates.first().and_then(|der| x509_cert::Certificate::from_der(der).ok());
    let certificate = certificate.ok_or_else(|| cannot("it is no X.509 certificate"))?;
    let seconds = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    let ends = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    ends.ok_or_else(|| cannot("its validity is beyond all time"))
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let cannot = |why: String| Error::new(Kind::Local, format!("cannot read {}", path.display()), why);
    certificates_of(&read(path).map_err(cannot)?, path)
}

/// The certificates in what a file of this name holds: PEM, or one in DER. At least one.
///
/// # Errors
/// There is no certificate in it.
pub fn certificates_of(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let cannot = |why: String| Error::new(Kind::Local, format!("cannot read {}", path.display()), why);
    let is_pem = bytes.windows(PEM_MARK.len()).any(|window| window == PEM_MARK);
    // A DER certificate is a SEQUENCE.
    if !is_pem && bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            Err(cannot("there is no certificate in it".into()).hint("it must be an X.509 certificate in PEM"))
        }
        Err(error) => Err(cannot(error.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let cannot = |why: String| Error::new(Kind::Local, format!("cannot use the key {}", path.display()), why);
    let found = fs::metadata(path).map_err(|error| cannot(error.to_string()))?;
    if found.permissions().mode() & 0o077 != 0 {
        return Err(cannot("other users of this machine can read it".into())
            .hint(format!("chmod 600 {}, and enrol anew if somebody may have copied it", path.display())));
    }
    let bytes = read(path).map_err(&cannot)?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| cannot(error.to_string()).hint("it must be an unencrypted private key in PEM"))
}

fn read(path: &Path) -> std::result::Result<Zeroizing<Vec<u8>>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if found.len() > MAX_FILE_LEN {
        return Err(format!("it is longer than {MAX_FILE_LEN} bytes"));
    }
    // The whole length at once: no copy of a key stays behind in a buffer that was too small.
    let mut bytes = Zeroizing::new(Vec::with_capacity(found.len() as usize + 1));
    file.take(MAX_FILE_LEN).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.key");
        fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = private_key(&path).unwrap_err();
            assert!(error.hint.contains("chmod 600"), "{mode:o}: {}", error.hint);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(private_key(&path).is_ok());
    }

    #[test]
    fn a_certificate_is_read_from_pem_and_from_der() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("a.crt"), rcgen::KeyPair::generate().unwrap());
        let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let forms =
            [made.der().to_vec(), made.pem().into_bytes(), format!("0 s:CN=a\n{}", made.pem()).into_bytes()];
        for form in forms {
            fs::write(&path, form).unwrap();
            assert_eq!(certificates(&path).unwrap(), [made.der().to_vec()]);
        }
    }

    #[test]
    fn a_file_without_certificate_is_an_error_not_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        for content in ["", "hello\n", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, content).unwrap();
            assert_eq!(certificates(&path).unwrap_err().kind, Kind::Local);
        }
    }
}
