//! Whom one can seal to.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use custodian_client::{
    Kind,
    envelope::{Recipient, cms::Protection},
    extract::Input,
    inspect::inspect,
    progress::Silent,
    seal::{SealJob, SealTo, Symlinks, seal},
};
use tempfile::TempDir;

use crate::common::{SoftKey, extract_to, run, seal_job, tree};

fn refused(certificate: Vec<u8>, mention: &str) {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("a");
    fs::write(&source, b"a").expect("written");
    let envelope = folder.path().join("e.mtd");
    let job = SealJob {
        recipients: vec![certificate],
        paths: vec![source],
        format: crate::FORMAT,
        output: SealTo::File(envelope.clone()),
        stdin: None,
        symlinks: Symlinks::Refuse,
        protection: Protection::Authenticated,
    };
    let error = seal(&job, &Silent).expect_err("refused");
    assert_eq!(error.kind, Kind::Local);
    assert!(error.to_string().contains(mention), "{error}");
    assert!(!envelope.exists());
}

/// A certificate made by `openssl req -x509` with these arguments.
fn certificate(args: &[&str]) -> Vec<u8> {
    let folder = TempDir::new().expect("folder");
    run(Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-subj", "/CN=test", "-keyout", "key.pem", "-outform", "DER"])
        .args(args)
        .current_dir(&folder))
}

#[test]
fn certificates_that_are_no_good_are_refused_with_the_reason() {
    refused(b"no certificate".to_vec(), "no X.509 certificate");
    refused(Vec::new(), "no X.509 certificate");
    refused(certificate(&["-newkey", "rsa:1024", "-days", "1"]), "2048 to 4096 bits");
    refused(certificate(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "1"]), "RSA key");
    let usage = ["-newkey", "rsa:2048", "-days", "1", "-addext", "keyUsage=digitalSignature"];
    refused(certificate(&usage), "keyEncipherment");
    let capabilities = ["-newkey", "rsa:2048", "-days", "1", "-addext", "1.2.840.113549.1.9.15=DER:0500"];
    refused(certificate(&capabilities), "S/MIME capabilities");
}

#[test]
fn a_certificate_counts_only_while_it_is_valid() {
    let certificate = &SoftKey::shared().certificate;
    let (now, ten_days) = (SystemTime::now(), Duration::from_secs(10 * 24 * 60 * 60));
    assert!(Recipient::from_certificate(certificate, now).is_ok());
    for (then, mention) in [(now + ten_days, "expired"), (now - ten_days, "begins at")] {
        let error = Recipient::from_certificate(certificate, then).err().expect("refused");
        assert!(
            error.kind == Kind::Local && error.why.contains(mention) && !error.hint.is_empty(),
            "{error:?}"
        );
    }
}

#[test]
fn a_key_that_may_encipher_keys_is_taken() {
    let key = SoftKey::new(&["keyUsage=critical,keyEncipherment"]);
    let folder = TempDir::new().expect("folder");
    fs::write(folder.path().join("a"), b"a").expect("written");
    seal(&seal_job(&key, &[&folder.path().join("a")], &folder.path().join("e.mtd")), &Silent)
        .expect("sealed");
}

#[test]
fn every_recipient_can_open_it_and_a_double_one_counts_once() {
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("a");
    fs::write(&source, b"for all of you").expect("written");
    let keys = [SoftKey::new(&[]), SoftKey::new(&[]), SoftKey::new(&["subjectKeyIdentifier=none"])];
    let envelope = folder.path().join("e.mtd");
    let mut job = seal_job(&keys[0], &[&source], &envelope);
    job.recipients = [0, 1, 0, 2].iter().map(|n: &usize| keys[*n].certificate.clone()).collect();
    seal(&job, &Silent).expect("sealed");
    let recipients = inspect(&Input::File(envelope.clone())).expect("inspected").recipients;
    assert_eq!(recipients.len(), 3);

    for (n, key) in keys.iter().enumerate() {
        let out = folder.path().join(format!("out {n}"));
        let opened = (0..3).filter(|index| {
            let chooser = Choosing { key, index: *index };
            let job = crate::common::extract_job(&envelope, &out);
            custodian_client::extract::extract(&job, &chooser, &Silent).is_ok()
        });
        assert_eq!(opened.count(), 1);
        assert_eq!(tree::contents(&out).concat(), b"for all of you");
    }
    extract_to(&SoftKey::new(&[]), &envelope, &folder.path().join("out")).expect_err("no recipient");
}

/// Asks for one wrapped key whoever it is for.
struct Choosing<'a> {
    key: &'a SoftKey,
    index: usize,
}

impl custodian_client::unwrapper::Unwrapper for Choosing<'_> {
    fn unwrap(
        &self,
        wrapped: &custodian_proto::key::WrappedKey,
        claims: &custodian_proto::v1::Claims,
    ) -> custodian_client::error::Result<custodian_proto::key::FileKey> {
        self.key.unwrap(wrapped, claims)
    }

    fn choose(&self, _: &[custodian_proto::key::WrappedKey]) -> custodian_client::error::Result<usize> {
        Ok(self.index)
    }
}

#[test]
fn nothing_to_seal_or_nobody_to_seal_to_is_a_usage_error() {
    let folder = TempDir::new().expect("folder");
    let envelope = folder.path().join("e.mtd");
    let mut job = seal_job(SoftKey::shared(), &[], &envelope);
    assert_eq!(seal(&job, &Silent).expect_err("nothing").kind, Kind::Usage);
    job.recipients.clear();
    assert_eq!(seal(&job, &Silent).expect_err("nobody").kind, Kind::Usage);
    assert!(tree::is_empty(folder.path()));
}
