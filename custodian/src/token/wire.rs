//! What supervisor and worker say to each other: messages on a socket pair, each after its length (4 bytes, big-endian).
//!
//! The first order is the setup, the first report says how it went. Then jobs are pipelined and answered in any order.
//! What carries a file key has no `Debug` (law 9).

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping},
    limits::FILE_KEY_LEN,
    sign::{DigestToSign, SignatureAlgorithm},
    v1,
};
use prost::{
    DecodeError, Message, Oneof,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};
use zeroize::{Zeroize, Zeroizing};

use super::{
    CageConfig, KeyDescription, KeyKind, KeyTemplate, PinSource, Said, StartError, Survey, TokenConfig,
    TokenDescription, TokenKey, TokenSelect,
    cage::{CageMessage, CageSetup},
};

/// Longest message: a survey of more than ten thousand keys.
const MAX_FRAME: usize = 16 * 1024 * 1024;

/// The one field of [`FileKeyMessage`].
const FILE_KEY_TAG: u32 = 1;

/// Bytes of the length before each message.
pub(super) const HEADER: usize = 4;

/// Encodes a message with its length. Overwritten when dropped: an answer carries a file key.
pub(super) fn frame(message: &impl Message) -> Zeroizing<Vec<u8>> {
    let body = Zeroizing::new(message.encode_to_vec());
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER + body.len()));
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// Reads a length.
pub(super) fn frame_len(header: [u8; HEADER]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the token worker is too long"));
    }
    Ok(length)
}

/// A message that makes no sense: parent and child are of different versions.
pub(super) fn nonsense() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the token worker and the custodian do not understand each other: are they of the same version?",
    )
}

/// Takes these bytes for messages, in both directions, and does nothing with them: for the fuzz target (law 11).
pub fn try_worker_messages(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let Some((body, rest)) = frame_len(*header).ok().and_then(|len| rest.split_at_checked(len)) else {
            return;
        };
        bytes = rest;
        match ToWorker::decode(body).ok().and_then(|message| message.order) {
            Some(Order::Setup(setup)) => drop((setup.select(), setup.pin(), setup.cage(), setup.module())),
            Some(Order::Job(Job { task: Some(Task::Unwrap(unwrap)), .. })) => drop(unwrap.key_wrapping()),
            Some(Order::Job(Job { task: Some(Task::Generate(one)), .. })) => drop(KeyTemplate::from(&one)),
            Some(Order::Job(_) | Order::Cancel(_)) | None => {}
        }
        match FromWorker::decode(body).ok().and_then(|message| message.report) {
            Some(Report::Ready(survey)) => drop(survey.into_survey()),
            Some(Report::Answer(Answer { outcome: Some(outcome), .. })) => match outcome {
                Outcome::FileKey(key) => drop(key.into_key()),
                Outcome::Key(key) => drop(key.into_key()),
                Outcome::Survey(survey) => drop(survey.into_survey()),
                Outcome::Described(description) => drop(description.into_description()),
                _ => {}
            },
            Some(Report::NotReady(_) | Report::Answer(_) | Report::Sick(_)) | None => {}
        }
    }
}

/// Supervisor to worker.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ToWorker {
    #[prost(oneof = "Order", tags = "1, 2, 3")]
    pub(super) order: Option<Order>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Order {
    #[prost(message, tag = "1")]
    Setup(Setup),
    #[prost(message, tag = "2")]
    Job(Job),
    /// The job of this id is no longer wanted. Answered as expired if it still waits, else when it is done.
    #[prost(uint64, tag = "3")]
    Cancel(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Setup {
    #[prost(bytes = "vec", tag = "1")]
    module: Vec<u8>,
    #[prost(oneof = "Select", tags = "2, 3, 9")]
    select: Option<Select>,
    #[prost(oneof = "Pin", tags = "4, 5, 6")]
    pin: Option<Pin>,
    #[prost(uint32, tag = "7")]
    pub(super) threads: u32,
    #[prost(uint32, tag = "8")]
    pub(super) queue: u32,
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
pub(super) struct Job {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// What is left of the deadline, in microseconds.
    #[prost(uint64, tag = "2")]
    pub(super) remaining: u64,
    #[prost(oneof = "Task", tags = "3, 4, 5, 6, 7, 8, 9")]
    pub(super) task: Option<Task>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Task {
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
pub(super) struct Unwrap {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(enumeration = "v1::KeyWrapping", tag = "2")]
    wrapping: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) ciphertext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Sign {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) message: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignDigest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(enumeration = "v1::SignatureAlgorithm", tag = "2")]
    algorithm: i32,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Generate {
    #[prost(string, tag = "1")]
    label: String,
    /// As of [`bits_of`].
    #[prost(uint32, tag = "2")]
    modulus_bits: u32,
    /// As of [`rsa_use`].
    #[prost(uint32, tag = "3")]
    rsa_use: u32,
}

/// Worker to supervisor.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct FromWorker {
    #[prost(oneof = "Report", tags = "1, 2, 3, 4")]
    pub(super) report: Option<Report>,
}

#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
pub(super) enum Report {
    #[prost(message, tag = "1")]
    Ready(SurveyMessage),
    #[prost(message, tag = "2")]
    NotReady(NotReady),
    #[prost(message, tag = "3")]
    Answer(Answer),
    /// The token no longer does what it did: replace this worker.
    #[prost(string, tag = "4")]
    Sick(String),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NotReady {
    /// Whether the token refused the PIN.
    #[prost(bool, tag = "1")]
    pin: bool,
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct Answer {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub(super) outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
pub(super) enum Outcome {
    #[prost(message, tag = "2")]
    FileKey(FileKeyMessage),
    #[prost(bytes, tag = "3")]
    Signature(Vec<u8>),
    #[prost(message, tag = "4")]
    Key(KeyMessage),
    #[prost(message, tag = "5")]
    Survey(SurveyMessage),
    #[prost(message, tag = "6")]
    Rejected(()),
    #[prost(message, tag = "7")]
    UnknownKey(()),
    #[prost(message, tag = "8")]
    Busy(()),
    #[prost(message, tag = "9")]
    Expired(()),
    #[prost(string, tag = "10")]
    Failed(String),
    #[prost(message, tag = "11")]
    Destroyed(()),
    #[prost(message, tag = "12")]
    Described(Description),
}

/// A file key. Written by hand: prost decodes `bytes` through a buffer that nobody overwrites (law 9).
#[derive(Clone, PartialEq, Default)]
pub(super) struct FileKeyMessage(Zeroizing<Vec<u8>>);

impl FileKeyMessage {
    pub(super) fn new(key: &FileKey) -> Self {
        Self(Zeroizing::new(key.expose().to_vec()))
    }

    /// The key, if it is one.
    pub(super) fn into_key(mut self) -> Option<FileKey> {
        FileKey::take(&mut self.0)
    }
}

impl Message for FileKeyMessage {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::bytes::encode(FILE_KEY_TAG, &*self.0, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if (tag, wire_type) != (FILE_KEY_TAG, WireType::LengthDelimited) {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let len = usize::try_from(encoding::decode_varint(buf)?).unwrap_or(usize::MAX);
        if len != FILE_KEY_LEN || buf.remaining() < FILE_KEY_LEN {
            // No file key, and found to be none when it is taken.
            self.clear();
            buf.advance(len.min(buf.remaining()));
            return Ok(());
        }
        self.0.resize(FILE_KEY_LEN, 0);
        buf.copy_to_slice(&mut self.0);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        encoding::bytes::encoded_len(FILE_KEY_TAG, &*self.0)
    }

    fn clear(&mut self) {
        self.0.zeroize();
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyMessage {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    label: String,
    /// 0 for ECDSA P-256.
    #[prost(uint32, tag = "3")]
    modulus_bits: u32,
    #[prost(enumeration = "v1::KeyWrapping", tag = "4")]
    wrapping: i32,
    #[prost(bytes = "vec", tag = "5")]
    spki: Vec<u8>,
    #[prost(string, tag = "6")]
    uri: String,
    /// As of [`rsa_use`].
    #[prost(uint32, tag = "7")]
    rsa_use: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Description {
    #[prost(string, tag = "1")]
    label: String,
    #[prost(string, tag = "2")]
    manufacturer: String,
    #[prost(string, tag = "3")]
    model: String,
    #[prost(string, tag = "4")]
    serial: String,
    #[prost(string, tag = "5")]
    uri: String,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<AttributeMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(oneof = "SaidMessage", tags = "2, 3, 4, 5")]
    said: Option<SaidMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum SaidMessage {
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(uint64, tag = "3")]
    Number(u64),
    #[prost(string, tag = "4")]
    Text(String),
    #[prost(message, tag = "5")]
    Names(Names),
}

#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SurveyMessage {
    #[prost(string, tag = "1")]
    label: String,
    #[prost(string, tag = "2")]
    model: String,
    #[prost(enumeration = "v1::KeyWrapping", tag = "3")]
    wrapping: i32,
    #[prost(message, repeated, tag = "4")]
    keys: Vec<KeyMessage>,
    #[prost(string, repeated, tag = "5")]
    unserved: Vec<String>,
    #[prost(message, optional, tag = "9")]
    cage: Option<CageMessage>,
    #[prost(string, repeated, tag = "6")]
    remarks: Vec<String>,
}

impl Setup {
    pub(super) fn new(config: &TokenConfig, threads: usize) -> Self {
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

    pub(super) fn cage(&self) -> CageConfig {
        self.cage.clone().unwrap_or_default().into()
    }

    pub(super) fn module(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.module))
    }

    pub(super) fn select(&self) -> Option<TokenSelect> {
        Some(match self.select.clone()? {
            Select::Label(label) => TokenSelect::Label(label),
            Select::Serial(serial) => TokenSelect::Serial(serial),
            Select::Slot(number) => TokenSelect::Slot(number),
        })
    }

    pub(super) fn pin(&self) -> Option<PinSource> {
        Some(match self.pin.clone()? {
            Pin::File(path) => PinSource::File(PathBuf::from(OsString::from_vec(path))),
            Pin::Credential(name) => PinSource::Credential(name),
            Pin::Prompt(()) => PinSource::Prompt,
        })
    }
}

impl Unwrap {
    pub(super) fn new(key: KeyId, wrapping: KeyWrapping, ciphertext: Vec<u8>) -> Self {
        Self { key: key.as_bytes().to_vec(), wrapping: v1::KeyWrapping::from(wrapping).into(), ciphertext }
    }

    pub(super) fn key_wrapping(&self) -> Option<KeyWrapping> {
        wrapping_of(self.wrapping)
    }
}

impl SignDigest {
    pub(super) fn new(digest: &DigestToSign) -> Self {
        Self {
            key: digest.key_id().as_bytes().to_vec(),
            algorithm: v1::SignatureAlgorithm::from(digest.algorithm()).into(),
            digest: digest.digest().to_vec(),
        }
    }

    pub(super) fn digest(&self) -> Option<DigestToSign> {
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

impl From<&StartError> for NotReady {
    fn from(error: &StartError) -> Self {
        Self { pin: matches!(error, StartError::Pin(_)), text: error.to_string() }
    }
}

impl From<NotReady> for StartError {
    fn from(message: NotReady) -> Self {
        if message.pin { Self::Pin(message.text) } else { Self::Token(message.text) }
    }
}

impl From<&TokenKey> for KeyMessage {
    fn from(key: &TokenKey) -> Self {
        Self {
            id: key.id.as_bytes().to_vec(),
            label: key.label.clone(),
            modulus_bits: bits_of(key.kind),
            wrapping: key.wrapping.map_or(0, |wrapping| v1::KeyWrapping::from(wrapping).into()),
            spki: key.spki.clone(),
            uri: key.uri.clone(),
            rsa_use: rsa_use(key.kind),
        }
    }
}

impl KeyMessage {
    pub(super) fn into_key(self) -> Option<TokenKey> {
        Some(TokenKey {
            id: KeyId::from_bytes(&self.id)?,
            kind: kind_of(self.modulus_bits, self.rsa_use),
            wrapping: wrapping_of(self.wrapping),
            label: self.label,
            spki: self.spki,
            uri: self.uri,
        })
    }
}

impl From<KeyDescription> for Description {
    fn from(description: KeyDescription) -> Self {
        let KeyDescription { token, uri, attributes } = description;
        let TokenDescription { label, manufacturer, model, serial } = token;
        let attributes = attributes.into_iter().map(|(name, said)| {
            let said = match said {
                Said::Flag(flag) => SaidMessage::Flag(flag),
                Said::Number(number) => SaidMessage::Number(number),
                Said::Text(text) => SaidMessage::Text(text),
                Said::Names(names) => SaidMessage::Names(Names { names }),
            };
            AttributeMessage { name, said: Some(said) }
        });
        Self { label, manufacturer, model, serial, uri, attributes: attributes.collect() }
    }
}

impl Description {
    pub(super) fn into_description(self) -> Option<KeyDescription> {
        let attributes = self.attributes.into_iter().map(|attribute| {
            let said = match attribute.said? {
                SaidMessage::Flag(flag) => Said::Flag(flag),
                SaidMessage::Number(number) => Said::Number(number),
                SaidMessage::Text(text) => Said::Text(text),
                SaidMessage::Names(Names { names }) => Said::Names(names),
            };
            Some((attribute.name, said))
        });
        Some(KeyDescription {
            attributes: attributes.collect::<Option<_>>()?,
            token: TokenDescription {
                label: self.label,
                manufacturer: self.manufacturer,
                model: self.model,
                serial: self.serial,
            },
            uri: self.uri,
        })
    }
}

impl From<&Survey> for SurveyMessage {
    fn from(survey: &Survey) -> Self {
        Self {
            label: survey.label.clone(),
            model: survey.model.clone(),
            wrapping: v1::KeyWrapping::from(survey.wrapping).into(),
            keys: survey.keys.iter().map(Into::into).collect(),
            unserved: survey.unserved.clone(),
            cage: Some((&survey.cage).into()),
            remarks: survey.remarks.clone(),
        }
    }
}

impl SurveyMessage {
    pub(super) fn into_survey(self) -> Option<Survey> {
        Some(Survey {
            wrapping: wrapping_of(self.wrapping)?,
            label: self.label,
            model: self.model,
            keys: self.keys.into_iter().map(KeyMessage::into_key).collect::<Option<_>>()?,
            unserved: self.unserved,
            cage: self.cage.unwrap_or_default().into(),
            remarks: self.remarks,
        })
    }
}

fn wrapping_of(number: i32) -> Option<KeyWrapping> {
    KeyWrapping::try_from(v1::KeyWrapping::try_from(number).ok()?).ok()
}

/// An RSA modulus has more bits than any of the numbers that stand for other keys.
fn bits_of(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::RsaUnwrap { modulus_bits }
        | KeyKind::RsaOpenPgp { modulus_bits }
        | KeyKind::RsaPssSign { modulus_bits } => modulus_bits,
        KeyKind::EcdsaP256Sign => 0,
        KeyKind::Ed25519Sign => 1,
    }
}

/// What an RSA key is for.
fn rsa_use(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::RsaOpenPgp { .. } => 1,
        KeyKind::RsaPssSign { .. } => 2,
        KeyKind::RsaUnwrap { .. } | KeyKind::EcdsaP256Sign | KeyKind::Ed25519Sign => 0,
    }
}

fn kind_of(modulus_bits: u32, rsa_use: u32) -> KeyKind {
    match (modulus_bits, rsa_use) {
        (0, _) => KeyKind::EcdsaP256Sign,
        (1, _) => KeyKind::Ed25519Sign,
        (modulus_bits, 1) => KeyKind::RsaOpenPgp { modulus_bits },
        (modulus_bits, 2) => KeyKind::RsaPssSign { modulus_bits },
        (modulus_bits, _) => KeyKind::RsaUnwrap { modulus_bits },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(report: &[u8]) -> Option<FileKey> {
        match FromWorker::decode(report).unwrap().report {
            Some(Report::Answer(Answer { id: 5, outcome: Some(Outcome::FileKey(key)) })) => key.into_key(),
            _ => None,
        }
    }

    /// A report with an answer of these bytes, as another program would write it.
    fn report(key: &[u8]) -> Vec<u8> {
        let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2, bytes.len() as u8], bytes].concat();
        let answer = [vec![1 << 3, 5], field(2, &field(1, key))].concat();
        field(3, &answer)
    }

    #[test]
    fn law_4_only_32_bytes_come_through_as_a_file_key() {
        let key = FileKey::new([7; 32]);
        let answer = Answer { id: 5, outcome: Some(Outcome::FileKey(FileKeyMessage::new(&key))) };
        let framed = frame(&FromWorker { report: Some(Report::Answer(answer)) });
        assert_eq!(framed[HEADER..], report(&[7; 32]));
        assert_eq!(decoded(&framed[HEADER..]).unwrap().expose(), &[7; 32]);
        for len in (0..100).filter(|len| *len != 32) {
            assert!(decoded(&report(&vec![7; len])).is_none(), "{len} bytes");
        }
    }
}
