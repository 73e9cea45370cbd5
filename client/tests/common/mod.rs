//! What the tests of envelopes share: a recipient whose key is in software, jobs, and the other programs.

pub(crate) mod hostile;
pub(crate) mod tree;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use custodian_client::{
    Error, Kind,
    envelope::cms::{Protection, Unauthenticated},
    error::Result,
    extract::{ExtractJob, ExtractReport, ExtractTo, Input, Limits, extract},
    progress::Silent,
    seal::{SealJob, SealReport, SealTo, Symlinks, seal},
    unwrapper::{KeyName, Unwrapper},
};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    v1::Claims,
};
use tempfile::TempDir;

/// The password of archives that are not made by us.
pub(crate) const FOREIGN_PASSWORD: &str = "correct horse battery staple";

/// A recipient with its RSA key in software: the tests' custodian.
pub(crate) struct SoftKey {
    pub(crate) folder: TempDir,
    pub(crate) certificate: Vec<u8>,
    private: OaepPrivateDecryptingKey,
    asked: AtomicUsize,
    /// Keys unwrapped before: tests that damage an envelope in a thousand ways ask for the same one again and again.
    known: Mutex<HashMap<Vec<u8>, [u8; 32]>>,
}

impl SoftKey {
    /// A new one; `extensions` are those of `openssl req -addext`.
    pub(crate) fn new(extensions: &[&str]) -> Self {
        let folder = TempDir::new().expect("temporary folder");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]);
        command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&folder);
        for extension in extensions {
            command.args(["-addext", extension]);
        }
        run(&mut command);
        let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(&folder));
        let certificate = openssl(&["x509", "-in", "cert.pem", "-outform", "DER"]);
        let pkcs8 = openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-outform", "DER"]);
        let private = PrivateDecryptingKey::from_pkcs8(&pkcs8).and_then(|key| {
            OaepPrivateDecryptingKey::new(key).map_err(|_| unreachable!("every RSA key can do OAEP"))
        });
        Self {
            folder,
            certificate,
            private: private.expect("RSA key"),
            asked: AtomicUsize::new(0),
            known: Mutex::default(),
        }
    }

    /// One for all tests of a process.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<SoftKey> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(&[]))
    }

    /// How many keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A CIPHER.KEY that openssl makes.
    pub(crate) fn foreign_cipher_key(&self, hash: &str) -> Vec<u8> {
        let password = self.folder.path().join(format!("password-{hash}"));
        fs::write(&password, FOREIGN_PASSWORD).expect("written");
        run(Command::new("openssl")
            .args(["cms", "-encrypt", "-binary", "-aes-256-gcm", "-keyid", "-outform", "DER", "-in"])
            .arg(password)
            .args(["-recip", "cert.pem", "-keyopt", "rsa_padding_mode:oaep", "-keyopt"])
            .arg(format!("rsa_oaep_md:{hash}"))
            .current_dir(&self.folder))
    }
}

impl Unwrapper for SoftKey {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        assert_eq!(claims.format, crate::FORMAT.name());
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(key) = self.known.lock().expect("lock").get(wrapped.ciphertext()) {
            return Ok(FileKey::new(*key));
        }
        let algorithm = match wrapped.wrapping() {
            KeyWrapping::OpenPgp | KeyWrapping::Pkcs1 => panic!("a key that unwraps OAEP only"),
            KeyWrapping::OaepSha1 => &OAEP_SHA1_MGF1SHA1,
            KeyWrapping::OaepSha256 => &OAEP_SHA256_MGF1SHA256,
            KeyWrapping::OaepSha384 => &OAEP_SHA384_MGF1SHA384,
            KeyWrapping::OaepSha512 => &OAEP_SHA512_MGF1SHA512,
        };
        let mut plain = vec![0; self.private.min_output_size()];
        let refused = || Error::new(Kind::Integrity, "cannot unwrap", "rejected");
        let plain =
            self.private.decrypt(algorithm, wrapped.ciphertext(), &mut plain, None).map_err(|_| refused())?;
        let key = FileKey::take(plain).ok_or_else(refused)?;
        self.known.lock().expect("lock").insert(wrapped.ciphertext().to_vec(), *key.expose());
        Ok(key)
    }

    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        assert!(!wrapped.is_empty());
        Ok(0)
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        let id = Some(KeyId::of_public_key(&self.certificate));
        Ok(names.iter().map(|name| id.filter(|_| name.is_of_certificate(&self.certificate))).collect())
    }
}

/// Runs a program that must succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("program starts");
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub(crate) fn seal_job(key: &SoftKey, paths: &[&Path], envelope: &Path) -> SealJob {
    SealJob {
        recipients: vec![key.certificate.clone()],
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        format: crate::FORMAT,
        output: SealTo::File(envelope.to_owned()),
        stdin: None,
        symlinks: Symlinks::Keep,
        protection: Protection::Authenticated,
    }
}

pub(crate) fn seal_to(key: &SoftKey, path: &Path, envelope: &Path) -> SealReport {
    seal(&seal_job(key, &[path], envelope), &Silent).expect("sealed")
}

pub(crate) fn extract_job(envelope: &Path, folder: &Path) -> ExtractJob {
    ExtractJob {
        envelope: Input::File(envelope.to_owned()),
        output: ExtractTo::Folder(folder.to_owned()),
        only: Vec::new(),
        reason: "test".to_owned(),
        limits: Limits::default(),
        unauthenticated: Unauthenticated::Refuse,
    }
}

pub(crate) fn extract_to(key: &SoftKey, envelope: &Path, folder: &Path) -> Result<ExtractReport> {
    extract(&extract_job(envelope, folder), key, &Silent)
}
