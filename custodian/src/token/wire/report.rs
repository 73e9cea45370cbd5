//! What the worker tells the supervisor.

use custodian_proto::{key::KeyId, v1};
use prost::{Message, Oneof};

use super::{
    file_key::FileKeyMessage,
    kind::{bits_of, kind_of, rsa_use, wrapping_of},
};
use crate::token::{KeyDescription, Said, StartError, Survey, TokenDescription, TokenKey, cage::CageMessage};

/// Worker to supervisor.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(in crate::token) struct FromWorker {
    #[prost(oneof = "Report", tags = "1, 2, 3, 4")]
    pub(in crate::token) report: Option<Report>,
}

#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
pub(in crate::token) enum Report {
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
pub(in crate::token) struct NotReady {
    /// Whether the token refused the PIN.
    #[prost(bool, tag = "1")]
    pin: bool,
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(in crate::token) struct Answer {
    #[prost(uint64, tag = "1")]
    pub(in crate::token) id: u64,
    #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub(in crate::token) outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
pub(in crate::token) enum Outcome {
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

#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct KeyMessage {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    label: String,
    /// As of [`bits_of`].
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
pub(in crate::token) struct Description {
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
pub(in crate::token) struct SurveyMessage {
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
    pub(in crate::token) fn into_key(self) -> Option<TokenKey> {
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
    pub(in crate::token) fn into_description(self) -> Option<KeyDescription> {
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
    pub(in crate::token) fn into_survey(self) -> Option<Survey> {
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
