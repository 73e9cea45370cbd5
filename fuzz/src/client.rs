//! What workstations read: envelopes, certificates to seal to, requests to approve.

use std::{fs::File, io::Write, path::Path, sync::OnceLock, time::SystemTime};

use custodian_client::{
    approval,
    envelope::{Format, Recipient, cms, detect, mtd, openpgp, sealed},
    extract::Limits,
    person::PersonCertificate,
    progress::Silent,
    remote::certificates_of,
    signed::{Choice, LocalSigner, Signature, SignedData},
    timestamp::{Token, TrustedAuthorities},
};
use custodian_proto::{
    approval::{Bound, Glass},
    key::FileKey,
    secret::Secret,
    v1,
};
use rustix::fs::MemfdFlags;

use crate::pack::{self, Maker};

/// What is enough for any input: a compressed gigabyte is no find.
fn limits() -> Limits {
    Limits { entries: 10_000, content_bytes: 4 << 20, ..Limits::default() }
}

/// The file key of `client/testdata/openpgp`: what is changed in those messages still decrypts to something.
const OPENPGP_KEY: [u8; 32] = [
    0xfc, 0x5e, 0x86, 0x41, 0xa3, 0xb0, 0x27, 0x32, 0x06, 0xf7, 0x4a, 0x86, 0x9f, 0xbd, 0x28, 0xda, 0x44,
    0x9d, 0x6f, 0x98, 0x1d, 0x4f, 0x88, 0x46, 0xc6, 0x67, 0xdb, 0x36, 0xe3, 0xaf, 0x0b, 0xc5,
];

fn memory_file() -> File {
    File::from(rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory"))
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = memory_file();
    file.write_all(bytes).expect("written");
    file
}

/// A signature, detached or with its content in it.
pub(crate) fn signature(bytes: &[u8]) {
    let Ok(signed) = SignedData::read(&bytes, bytes.len() as u64) else { return };
    Signature::check_nothing_else(&signed).ok();
    if let Ok(signature) = Signature::verify(&signed, SystemTime::now(), |hash| Ok(hash.of(bytes))) {
        let certificate = signature.certificate();
        let _told = (certificate.subject(), certificate.emails(), certificate.identity_level());
    }
}

/// An authority's answer, or a timestamp alone.
pub(crate) fn timestamp(bytes: &[u8]) {
    let Ok(token) = Token::of_answer(bytes) else { return };
    let authority = include_bytes!("../seeds/timestamp.crt").to_vec();
    token.verify(&TrustedAuthorities::new(vec![authority], Vec::new()), SystemTime::now()).map(drop).ok();
}

/// An envelope of any format, as far as it goes, with keys that do not fit.
pub(crate) fn envelope(bytes: &[u8]) {
    let (file, len) = (file_of(bytes), bytes.len() as u64);
    let out = memory_file();
    match detect(&file, len) {
        Err(_) => {}
        Ok(Format::Mtd) => {
            if let Ok(sealed) = mtd::read_header(&file, &limits()) {
                sealed.open(&FileKey::new([7; 32])).map(drop).ok();
            }
        }
        Ok(Format::Sealed) => {
            if let Ok(sealed) = sealed::read_header(&file, len) {
                sealed.open(pack::file_key(), &limits()).map(drop).ok();
            }
        }
        Ok(Format::Cms) => {
            let Ok(message) = cms::Message::new(&file, len) else { return };
            let Ok(sealed) = message.read_header() else { return };
            let told = (sealed.names(), sealed.encryption(), sealed.check(cms::Unauthenticated::Allow));
            if told.2.is_ok()
                && let Ok(opened) = sealed.open(FileKey::new([7; 32]))
            {
                opened.write_to(&out, &Silent).ok();
            }
        }
        Ok(Format::OpenPgp) => {
            let Ok(message) = openpgp::Message::new(&file, len) else { return };
            let Ok(sealed) = message.read_header(&Silent) else { return };
            if sealed.check().is_ok() {
                sealed
                    .open(FileKey::new(OPENPGP_KEY))
                    .write_to(&out, &limits(), Some(keyring()), &Silent)
                    .map(drop)
                    .ok();
            }
        }
    }
}

/// An archive inside a `sealed` envelope: its sender authenticated it, but nobody knows the sender.
pub(crate) fn sealed_inside(bytes: &[u8]) {
    static MAKER: OnceLock<Maker> = OnceLock::new();
    let envelope = MAKER.get_or_init(Maker::new).seal(bytes);
    let source = envelope.as_slice();
    let sealed = sealed::read_header(&source, source.len() as u64).expect("an envelope");
    let Ok(opened) = sealed.open(pack::file_key(), &limits()) else { return };
    opened.check_folders(opened.entries().iter()).ok();
    opened.entries().iter().for_each(|entry| {
        opened.link_target(entry).ok();
    });
    let files: Vec<_> = opened.entries().iter().filter(|entry| entry.size() < 4 << 20).take(16).collect();
    opened.write_files(&files, |_| Ok(memory_file()), &Silent).ok();
}

/// A CIPHER.KEY in a container that fits it.
pub(crate) fn cipher_key(bytes: &[u8]) {
    let envelope = pack::container(bytes, &[0; 72]);
    let source = envelope.as_slice();
    if let Ok(sealed) = sealed::read_header(&source, source.len() as u64) {
        sealed.open(pack::file_key(), &limits()).map(drop).ok();
    }
}

/// The certificate of somebody to seal to.
pub(crate) fn recipient(bytes: &[u8]) {
    Recipient::from_certificate(bytes, SystemTime::now()).map(drop).ok();
}

/// The OpenPGP certificate of somebody to seal to.
pub(crate) fn openpgp_recipient(bytes: &[u8]) {
    openpgp::Recipient::from_certificate(bytes, SystemTime::now()).map(drop).ok();
}

/// Whose OpenPGP signatures are verified: what is changed in the seeds is still of known keys.
fn keyring() -> &'static openpgp::Keyring {
    static KEYRING: OnceLock<openpgp::Keyring> = OnceLock::new();
    KEYRING.get_or_init(|| {
        let certificate = include_bytes!("../../client/testdata/openpgp/rfc9580/certificate.asc");
        openpgp::Keyring::read(certificate).expect("a certificate")
    })
}

fn today() -> openpgp::When {
    openpgp::When { now: SystemTime::now(), expired: Choice::Refuse }
}

/// OpenPGP signatures in a file of their own.
pub(crate) fn openpgp_signature(bytes: &[u8]) {
    const TEXT: &[u8] = b"What we need from the grocery store:\n\n- tofu\n- vegetables\n- noodles\n";
    let _told = openpgp::is_signature(bytes);
    let Ok(found) = openpgp::detached(bytes, &TEXT, TEXT.len() as u64, Some(keyring()), &Silent) else {
        return;
    };
    let _told = (found.first_key(), found.first_created());
    keyring().check(&found, openpgp::Around::Nothing, today()).ok();
}

/// OpenPGP certificates of signers, with a signature that may be theirs.
pub(crate) fn openpgp_signer(bytes: &[u8]) {
    let _told = openpgp::is_certificate(bytes);
    let Ok(keyring) = openpgp::Keyring::read(bytes) else { return };
    let signature = include_bytes!("../../client/testdata/openpgp/rfc9580/signature.asc");
    let found = openpgp::detached(signature, &&b"x"[..], 1, Some(&keyring), &Silent).expect("a signature");
    keyring.check(&found, openpgp::Around::Nothing, today()).map(drop).ok();
}

/// A person's own OpenPGP key, with the passphrase of the seeds that have one, and a MiB to hash it in.
pub(crate) fn openpgp_key(bytes: &[u8]) {
    let passphrase = || Ok(Secret::new("correct horse battery staple".to_owned()));
    let _told = openpgp::is_secret_key(bytes);
    openpgp::SigningKey::from_bytes(bytes, SystemTime::now(), 1 << 10, &passphrase).map(drop).ok();
}

/// A person's own key in PKCS #12 or PEM, with a password that fits to the seeds.
pub(crate) fn signer_key(bytes: &[u8]) {
    let password = || Ok(Secret::new("password".to_owned()));
    LocalSigner::read(bytes, Path::new("key"), None, &password).map(drop).ok();
}

/// The certificate of a person, whom the custodian vouches for.
pub(crate) fn person(bytes: &[u8]) {
    let Ok(certificate) = PersonCertificate::read(bytes) else { return };
    let _told = (certificate.key_id(), certificate.serial(), certificate.level());
    let email = "anna@example.org".parse().expect("an address");
    certificate.check(&email, bytes, &[bytes.to_vec()], SystemTime::now()).ok();
}

/// A file that is given to `--to`.
pub(crate) fn certificates(bytes: &[u8]) {
    let Ok(found) = certificates_of(bytes, Path::new("cert")) else { return };
    for der in found {
        Recipient::from_certificate(&der, SystemTime::now()).map(drop).ok();
    }
}

/// A request to approve: the first byte chooses the operation.
pub(crate) fn approval(bytes: &[u8]) {
    let Some((first, request)) = bytes.split_first() else { return };
    let operations = ["Unwrap", "SetRoles", "LimitKey", "ApplyPolicy", "CreateInvitation", "CreateKey"];
    let operation = operations[usize::from(*first) % operations.len()];
    let (user, device) = ("users/anna", "devices/laptop-7");
    let bound = Bound { operation, user, device, glass: Glass::Whole, message: request };
    let shown = v1::Approval {
        request_sha256: custodian_hex(&bound.sha256()),
        operation: operation.to_owned(),
        user: user.to_owned(),
        device: device.to_owned(),
        request: request.to_vec(),
        ..v1::Approval::default()
    };
    approval::fields(&shown).map(drop).ok();
}

fn custodian_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
