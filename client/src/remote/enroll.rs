//! Enrolment: a one-time code and a new key become a device certificate.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use custodian_proto::{
    secret::Secret,
    v1::{self, device_service_client::DeviceServiceClient},
};
use der::{
    Decode,
    pem::{LineEnding, encode_string},
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{
    identity::{self, Identity},
    tls,
    wire::Wire,
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    settings::Settings,
};

const WHAT: &str = "cannot enrol this workstation";

/// What an enrolment made.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// What the custodian knows of this device now.
    pub device: v1::Device,
    /// The new private key. It was never anywhere else.
    pub key: PathBuf,
    /// The device certificate.
    pub cert: PathBuf,
    /// A copy of the CA that vouches for the custodian.
    pub ca: PathBuf,
    /// Settings that name these files; `None` if there were settings already, which stay as they are.
    pub settings: Option<PathBuf>,
}

/// Makes a key here, and has the custodian certify it. Writes into `folder`: `device.key`, `device.crt`, `ca.crt`, and
/// `client.toml` if there is none. Overwrites nothing.
///
/// # Errors
/// A missing setting, a file that exists already, an unreachable or untrusted custodian, a refused code. Nothing is left
/// in `folder` then.
pub fn enroll(settings: &Settings, code: &Secret, folder: &Path, interrupt: &Interrupt) -> Result<Enrolled> {
    let address = settings.address()?;
    let ca_source = settings.ca()?;
    let roots = identity::roots(ca_source)?;

    // Every file is made before the code is used up: a full disk or a file in the way costs no invitation.
    private_folder(folder)?;
    let mut key_file = NewFile::create(&folder.join("device.key"), 0o600)?;
    let mut cert_file = NewFile::create(&folder.join("device.crt"), 0o644)?;
    let ca_file = copy_of_ca(ca_source, &folder.join("ca.crt"))?;
    let settings_file = new_settings(settings, &folder.join("client.toml"))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(local)?;
    key_file.write(Zeroizing::new(key.serialize_pem()).as_bytes())?;

    let wire = Wire::open(address, tls::config(roots, self_signed(&key)?)?, interrupt.clone())?;
    let certificate_request = request_for(&key)?;
    let answer = wire.ask(WHAT, async |channel| {
        let code = code.expose().to_owned();
        let request = v1::EnrollRequest { code, certificate_request: certificate_request.clone() };
        DeviceServiceClient::new(channel).enroll(request).await
    })?;
    let device = answer.device.unwrap_or_default();
    check_certificate(&answer.certificate, &key)?;
    cert_file.write(pem(&answer.certificate)?.as_bytes())?;

    let (key, cert) = (key_file.keep(), cert_file.keep());
    let ca = match ca_file {
        CaFile::New(file) => file.keep(),
        CaFile::There(path) => path,
    };
    let settings = settings_file.map(NewFile::keep);
    Ok(Enrolled { device, key, cert, ca, settings })
}

/// The self-signed certificate that proves, during the handshake, that we hold the key of the request.
fn self_signed(key: &KeyPair) -> Result<Identity> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a workstation that wants to enrol");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(key).map_err(local)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Identity { chain: vec![certificate.der().clone()], key })
}

pub(super) fn request_for(key: &KeyPair) -> Result<Vec<u8>> {
    let request = CertificateParams::default().serialize_request(key).map_err(local)?;
    Ok(request.der().to_vec())
}

/// A certificate of another key would lock this workstation out later, without a word why.
pub(super) fn check_certificate(certificate: &[u8], key: &KeyPair) -> Result<()> {
    let wrong = |why: &str| Error::new(Kind::Integrity, WHAT, why).hint("tell the administrators");
    let certificate = x509_cert::Certificate::from_der(certificate)
        .map_err(|_| wrong("the custodian's answer is no certificate"))?;
    let spki = certificate.tbs_certificate().subject_public_key_info();
    if spki.subject_public_key.raw_bytes() != key.public_key_raw() {
        return Err(wrong("the custodian certified another key than ours"));
    }
    Ok(())
}

pub(super) fn pem(certificate: &[u8]) -> Result<String> {
    encode_string("CERTIFICATE", LineEnding::LF, certificate).map_err(local)
}

fn local(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, WHAT, error)
}

pub(super) fn private_folder(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| local(format!("cannot make the folder {}: {error}", folder.display())))
}

/// The copy of the CA in our folder.
enum CaFile {
    New(NewFile),
    There(PathBuf),
}

fn copy_of_ca(source: &Path, target: &Path) -> Result<CaFile> {
    let mut text = String::new();
    for certificate in identity::certificates(source)? {
        text.push_str(&pem(&certificate)?);
    }
    match fs::read_to_string(target) {
        Ok(there) if there == text => Ok(CaFile::There(target.to_owned())),
        _ if same_file(source, target) => Ok(CaFile::There(target.to_owned())),
        _ => {
            let mut file = NewFile::create(target, 0o644)?;
            file.write(text.as_bytes())?;
            Ok(CaFile::New(file))
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Names the new files, unless the person has settings already.
fn new_settings(settings: &Settings, path: &Path) -> Result<Option<NewFile>> {
    if path.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let mut lines = toml::Table::new();
    let mut add = |name: &str, value: &str| lines.insert(name.to_owned(), value.into());
    add("addr", &settings.address()?.to_string());
    add("ca", "ca.crt");
    add("cert", "device.crt");
    add("key", "device.key");
    if let Some(user) = &settings.user {
        add("user", user);
    }
    let mut file = NewFile::create(path, 0o600)?;
    file.write(lines.to_string().as_bytes())?;
    Ok(Some(file))
}

/// A file that was not there before, and is gone again if we do not finish.
pub(super) struct NewFile {
    path: PathBuf,
    file: File,
    fate: Fate,
}

#[derive(PartialEq, Eq)]
enum Fate {
    Remove,
    Keep,
}

impl NewFile {
    pub(super) fn create(path: &Path, mode: u32) -> Result<Self> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let file = opened.map_err(|error| {
            let cannot = local(format!("cannot write {}: {error}", path.display()));
            if error.kind() == io::ErrorKind::AlreadyExists {
                cannot.hint("nothing is overwritten: move it away, or give another folder with --out-dir")
            } else {
                cannot
            }
        })?;
        Ok(Self { path: path.to_owned(), file, fate: Fate::Remove })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_all());
        written.map_err(|error| local(format!("cannot write {}: {error}", self.path.display())))
    }

    pub(super) fn keep(mut self) -> PathBuf {
        self.fate = Fate::Keep;
        self.path.clone()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.fate == Fate::Remove {
            // We are failing already; the error that is told is the first one.
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_not_finished_is_gone_and_one_that_exists_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.key");
        drop(NewFile::create(&path, 0o600).unwrap());
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(NewFile::create(&path, 0o600).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_certificate_of_another_key_is_not_accepted() {
        let (ours, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate =
            |key: &KeyPair| CertificateParams::default().self_signed(key).unwrap().der().to_vec();
        assert!(check_certificate(&certificate(&ours), &ours).is_ok());
        assert!(check_certificate(&certificate(&other), &ours).is_err());
        assert!(check_certificate(b"junk", &ours).is_err());
    }
}
