//! Renewal: over its old certificate, a workstation gets one for a new key.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use custodian_proto::v1::{self, device_service_client::DeviceServiceClient};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use super::{
    enroll::{check_certificate, pem, request_for},
    identity::{self, Identity},
    tls,
    wire::Wire,
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    remote::Remote,
    settings::Settings,
};

const WHAT: &str = "cannot renew this workstation's certificate";

/// What a renewal came to.
pub enum Renewed {
    /// There is a new key and certificate in the places of the old ones.
    Now(Box<v1::Device>),
    /// An earlier renewal had been killed at its very end, and is complete now.
    Earlier,
}

/// Makes a new key, has the custodian certify it, and puts both files in the places of the old ones. From the custodian's answer
/// on the old ones are good for nothing; until then nothing is changed.
///
/// # Errors
/// A missing setting, a file that cannot be written, a custodian that cannot be reached or refuses.
pub fn renew(settings: &Settings, interrupt: &Interrupt) -> Result<Renewed> {
    let (key_path, cert_path) = (settings.key()?, settings.cert()?);
    let (new_key, new_cert) = (aside(key_path), aside(cert_path));
    if finish_earlier(key_path, &new_key, cert_path, &new_cert)? {
        return Ok(Renewed::Earlier);
    }
    let address = settings.address()?;
    let roots = identity::roots(settings.ca()?)?;
    let identity = Identity::read(cert_path, key_path)?;
    // On disk before the old key is given up; so is the room for the certificate.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(local)?;
    write(&new_key, 0o600, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    let old = fs::read(cert_path).map_err(|error| cannot(cert_path, &error))?;
    write(&new_cert, 0o644, &old)?;

    let certificate_request = request_for(&key)?;
    let wire = Wire::open(address, tls::config(roots, identity)?, interrupt.clone())?;
    let answer = wire.ask(WHAT, async |channel| {
        let request = v1::RenewDeviceRequest { certificate_request: certificate_request.clone() };
        DeviceServiceClient::new(channel).renew_device(request).await
    });
    let answer = answer.inspect_err(|failure| {
        // Without a refusal nobody knows whether it was done: the new key may be the one that counts.
        if failure.refusal.is_some() {
            fs::remove_file(&new_key).and_then(|()| fs::remove_file(&new_cert)).ok();
        }
    })?;
    check_certificate(&answer.certificate, &key)?;
    write(&new_cert, 0o644, pem(&answer.certificate)?.as_bytes())?;
    // The session was the old certificate's.
    Remote::forget_session(settings)?;
    put_in_place(&new_key, key_path)?;
    put_in_place(&new_cert, cert_path)?;
    Ok(Renewed::Now(Box::new(answer.device.unwrap_or_default())))
}

/// Puts in place what an earlier renewal left after the custodian's answer: a new certificate that fits a new key, whether or not
/// the key is in its place already.
fn finish_earlier(key: &Path, new_key: &Path, cert: &Path, new_cert: &Path) -> Result<bool> {
    let Ok(certificates) = identity::certificates(new_cert) else { return Ok(false) };
    let certificate = certificates.first().map(Vec::as_slice).unwrap_or_default();
    let fits = |path: &Path| {
        let text = fs::read_to_string(path).map(Zeroizing::new).ok();
        let pair = text.and_then(|text| KeyPair::from_pem(&text).ok());
        pair.is_some_and(|pair| check_certificate(certificate, &pair).is_ok())
    };
    if fits(new_key) {
        put_in_place(new_key, key)?;
    } else if !fits(key) || fs::read(cert).ok() == fs::read(new_cert).ok() {
        return Ok(false);
    }
    put_in_place(new_cert, cert)?;
    Ok(true)
}

/// Beside the file, so that it can take its place in one step.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let open = || {
        // What an earlier attempt left is of no use, and may have another mode.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    open().map_err(|error| cannot(path, &error))
}

fn put_in_place(new: &Path, path: &Path) -> Result<()> {
    fs::rename(new, path).map_err(|error| cannot(path, &error).hint("make it writable, and renew again"))
}

fn cannot(path: &Path, error: &io::Error) -> Error {
    local(format!("{}: {error}", path.display()))
}

fn local(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, WHAT, error)
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;

    use super::*;

    #[test]
    fn a_renewal_that_was_killed_after_the_answer_is_finished() {
        let pair = || {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
            (key.serialize_pem(), certificate)
        };
        let ((old_key, old_cert), (new_key, new_cert)) = (pair(), pair());
        // What is in key, key.new, crt and crt.new; and whether there is something to finish.
        let cases = [
            ([Some(&old_key), None, Some(&old_cert), None], false),
            ([Some(&old_key), Some(&new_key), Some(&old_cert), Some(&old_cert)], false),
            ([Some(&old_key), Some(&new_key), Some(&old_cert), Some(&new_cert)], true),
            ([Some(&new_key), None, Some(&old_cert), Some(&new_cert)], true),
            ([Some(&new_key), None, Some(&new_cert), None], false),
        ];
        for (index, (contents, finishes)) in cases.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let paths = ["key", "key.new", "crt", "crt.new"].map(|name| folder.path().join(name));
            for (path, content) in paths.iter().zip(contents) {
                if let Some(content) = content {
                    fs::write(path, content).unwrap();
                }
            }
            let [key, key_new, crt, crt_new] = &paths;
            assert_eq!(finish_earlier(key, key_new, crt, crt_new).unwrap(), finishes, "{index}");
            if finishes {
                assert_eq!(fs::read_to_string(key).unwrap(), new_key);
                assert_eq!(fs::read_to_string(crt).unwrap(), new_cert);
            } else {
                assert_eq!(fs::read_to_string(key).unwrap(), *contents[0].unwrap());
            }
        }
    }
}
