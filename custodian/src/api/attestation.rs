//! What is signed of a key: docs/formats/attestation.md.

use std::collections::BTreeMap;

use custodian_proto::key::KeyId;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    authority::WrappingKey,
    custody::{Denial, Fault},
    token::{KeyDescription, Said},
};

/// Says what the document is, and so that it is nothing else that this key ever signs: certificates begin with another
/// byte.
const TYPE: &str = "custodian-key-attestation/1";

/// JSON as RFC 8785 wants it: names sorted (ours are ASCII), no spaces, integers below 2^53 only.
#[derive(Serialize)]
#[serde(untagged)]
enum Json {
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&Said> for Json {
    fn from(said: &Said) -> Self {
        match said {
            Said::Flag(flag) => Self::Flag(*flag),
            Said::Number(number) => Self::Number(*number),
            Said::Text(text) => Self::Text(text.clone()),
            Said::Names(names) => Self::List(names.iter().map(|name| name.as_str().into()).collect()),
        }
    }
}

impl From<&KeyDescription> for Json {
    fn from(description: &KeyDescription) -> Self {
        let KeyDescription { token, uri, attributes } = description;
        let attributes = attributes.iter().map(|(name, said)| (name.clone(), said.into()));
        object([
            ("attributes", Self::Object(attributes.collect())),
            ("label", token.label.as_str().into()),
            ("manufacturer", token.manufacturer.as_str().into()),
            ("model", token.model.as_str().into()),
            ("serial", token.serial.as_str().into()),
            ("uri", uri.as_str().into()),
        ])
    }
}

fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
    Json::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The statement about a key.
pub(super) fn statement(
    key: &WrappingKey,
    described: &[KeyDescription],
    nonce: &[u8],
    signer: KeyId,
    now: Timestamp,
) -> Result<Vec<u8>, Denial> {
    let subject = object([
        ("id", Json::Text(key.id.to_string())),
        ("label", key.label.as_str().into()),
        ("state", key.life.state(now).name().into()),
        ("version", Json::Number(key.version.into())),
    ]);
    let statement = object([
        ("key", subject),
        ("nonce", Json::Text(hex::encode(nonce))),
        ("signer", Json::Text(signer.to_string())),
        ("time", Json::Text(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
        ("tokens", Json::List(described.iter().map(Json::from).collect())),
        ("type", TYPE.into()),
    ]);
    serde_json::to_vec(&statement)
        .map_err(|error| Fault::Internal(format!("an attestation does not encode: {error}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::contract::world, token::TokenDescription};

    #[test]
    fn the_statement_is_canonical_json() {
        let key = world::key("main");
        let token = TokenDescription { label: "hsm \"1\"".to_owned(), ..TokenDescription::default() };
        let attributes = vec![
            ("CKA_SENSITIVE".to_owned(), Said::Flag(true)),
            ("CKA_ALLOWED_MECHANISMS".to_owned(), Said::Names(vec!["CKM_RSA_PKCS_OAEP".to_owned()])),
            ("CKA_MODULUS_BITS".to_owned(), Said::Number(3072)),
        ];
        let described = KeyDescription { token, uri: "pkcs11:type=private".to_owned(), attributes };
        let now = world::now();
        let made = statement(&key, &[described], &[0xab], key.id, now).unwrap();
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ");
        let id = key.id;
        assert_eq!(
            String::from_utf8(made).unwrap(),
            format!(
                concat!(
                    r#"{{"key":{{"id":"{id}","label":"main","state":"active","version":1}},"nonce":"ab","#,
                    r#""signer":"{id}","time":"{time}","tokens":[{{"attributes":{{"#,
                    r#""CKA_ALLOWED_MECHANISMS":["CKM_RSA_PKCS_OAEP"],"CKA_MODULUS_BITS":3072,"#,
                    r#""CKA_SENSITIVE":true}},"label":"hsm \"1\"","manufacturer":"","model":"","serial":"","#,
                    r#""uri":"pkcs11:type=private"}}],"type":"custodian-key-attestation/1"}}"#,
                ),
                id = id,
                time = time
            )
        );
    }
}
