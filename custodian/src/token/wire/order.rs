//! What the supervisor tells the worker.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use custodian_proto::{
    key::{KeyId, KeyWrapping},
    sign::{DigestToSign, SignatureAlgorithm},
    v1,
};
use prost::{Message, Oneof};

use super::kind::{bits_of, kind_of, rsa_use, wrapping_of};
use crate::token::{CageConfig, KeyTemplate, PinSource, TokenConfig, TokenSelect, cage::CageSetup};

/// Supervisor to worker.
#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct ToWorker {
    #[prost(oneof = "Order", tags = "1, 2, 3")]
    pub(in crate::token) order: Option<Order>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(in crate::token) enum Order {
    #[prost(message, tag = "1")]
    Setup(Setup),
    #[prost(message, tag = "2")]
    Job(Job),
    /// The job of this id is no longer wanted. Answered as expired if it still waits, else when it is done.
    #[prost(uint64, tag = "3")]
    Cancel(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct Setup {
    #[prost(bytes = "vec", tag = "1")]
    module: Vec<u8>,
    #[prost(oneof = "Select", tags = "2, 3, 9")]
    select: Option<Select>,
    #[prost(oneof = "Pin", tags = "4, 5, 6")]
    pin: Option<Pin>,
    #[prost(uint32, tag = "7")]
    pub(in crate::token) threads: u32,
    #[prost(uint32, tag = "8")]
    pub(in crate::token) queue: u32,
    #[prost(message, optional, tag = "10")]
    cage: Option<CageSetup>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Select {
    #[prost(string, tag = "2")]
    Label(String),
    #[prost(string, tag = "3")]
    Serial(String),
    #[prost(uint64, tag = "9")]
    Slot(u64),
}

#[derive(Clone, PartialEq, Oneof)]
enum Pin {
    #[prost(bytes, tag = "4")]
    File(Vec<u8>),
    #[prost(string, tag = "5")]
    Credential(String),
    #[prost(message, tag = "6")]
    Prompt(()),
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct Job {
    #[prost(uint64, tag = "1")]
    pub(in crate::token) id: u64,
    /// What is left of the deadline, in microseconds.
    #[prost(uint64, tag = "2")]
    pub(in crate::token) remaining: u64,
    #[prost(oneof = "Task", tags = "3, 4, 5, 6, 7, 8, 9")]
    pub(in crate::token) task: Option<Task>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(in crate::token) enum Task {
    #[prost(message, tag = "3")]
    Unwrap(Unwrap),
    #[prost(message, tag = "4")]
    Sign(Sign),
    #[prost(message, tag = "5")]
    Generate(Generate),
    #[prost(message, tag = "6")]
    Survey(()),
    /// Destroy the key pair of this id.
    #[prost(bytes, tag = "7")]
    Destroy(Vec<u8>),
    /// Tell what the token says of the key of this id.
    #[prost(bytes, tag = "8")]
    Describe(Vec<u8>),
    #[prost(message, tag = "9")]
    SignDigest(SignDigest),
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct Unwrap {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::token) key: Vec<u8>,
    #[prost(enumeration = "v1::KeyWrapping", tag = "2")]
    wrapping: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(in crate::token) ciphertext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct Sign {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::token) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::token) message: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct SignDigest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(enumeration = "v1::SignatureAlgorithm", tag = "2")]
    algorithm: i32,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct Generate {
    #[prost(string, tag = "1")]
    label: String,
    /// As of [`bits_of`].
    #[prost(uint32, tag = "2")]
    modulus_bits: u32,
    /// As of [`rsa_use`].
    #[prost(uint32, tag = "3")]
    rsa_use: u32,
}

impl Setup {
    pub(in crate::token) fn new(config: &TokenConfig, threads: usize) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            module: config.module.as_os_str().as_bytes().to_vec(),
            select: Some(match &config.select {
                TokenSelect::Label(label) => Select::Label(label.clone()),
                TokenSelect::Serial(serial) => Select::Serial(serial.clone()),
                TokenSelect::Slot(number) => Select::Slot(*number),
            }),
            pin: Some(match &config.pin {
                PinSource::File(path) => Pin::File(path.as_os_str().as_bytes().to_vec()),
                PinSource::Credential(name) => Pin::Credential(name.clone()),
                PinSource::Prompt => Pin::Prompt(()),
            }),
            threads: count(threads),
            queue: count(config.queue),
            cage: Some((&config.cage).into()),
        }
    }

    pub(in crate::token) fn cage(&self) -> CageConfig {
        self.cage.clone().unwrap_or_default().into()
    }

    pub(in crate::token) fn module(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.module))
    }

    pub(in crate::token) fn select(&self) -> Option<TokenSelect> {
        Some(match self.select.clone()? {
            Select::Label(label) => TokenSelect::Label(label),
            Select::Serial(serial) => TokenSelect::Serial(serial),
            Select::Slot(number) => TokenSelect::Slot(number),
        })
    }

    pub(in crate::token) fn pin(&self) -> Option<PinSource> {
        Some(match self.pin.clone()? {
            Pin::File(path) => PinSource::File(PathBuf::from(OsString::from_vec(path))),
            Pin::Credential(name) => PinSource::Credential(name),
            Pin::Prompt(()) => PinSource::Prompt,
        })
    }
}

impl Unwrap {
    pub(in crate::token) fn new(key: KeyId, wrapping: KeyWrapping, ciphertext: Vec<u8>) -> Self {
        Self { key: key.as_bytes().to_vec(), wrapping: v1::KeyWrapping::from(wrapping).into(), ciphertext }
    }

    pub(in crate::token) fn key_wrapping(&self) -> Option<KeyWrapping> {
        wrapping_of(self.wrapping)
    }
}

impl SignDigest {
    pub(in crate::token) fn new(digest: &DigestToSign) -> Self {
        Self {
            key: digest.key_id().as_bytes().to_vec(),
            algorithm: v1::SignatureAlgorithm::from(digest.algorithm()).into(),
            digest: digest.digest().to_vec(),
        }
    }

    pub(in crate::token) fn digest(&self) -> Option<DigestToSign> {
        let algorithm = v1::SignatureAlgorithm::try_from(self.algorithm).ok()?;
        let algorithm = SignatureAlgorithm::try_from(algorithm).ok()?;
        DigestToSign::new(KeyId::from_bytes(&self.key)?, algorithm, self.digest.clone())
    }
}

impl From<&KeyTemplate> for Generate {
    fn from(template: &KeyTemplate) -> Self {
        let kind = template.kind;
        Self { label: template.label.clone(), modulus_bits: bits_of(kind), rsa_use: rsa_use(kind) }
    }
}

impl From<&Generate> for KeyTemplate {
    fn from(message: &Generate) -> Self {
        Self { label: message.label.clone(), kind: kind_of(message.modulus_bits, message.rsa_use) }
    }
}
