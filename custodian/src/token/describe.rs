//! What a token says of one of its keys: every attribute that matters, as it is said.

use std::fmt::Write as _;

use cryptoki::{
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session,
};

use super::rv::Failure;

/// What is asked, in the order of the answer.
const ASKED: [AttributeType; 20] = [
    AttributeType::Label,
    AttributeType::Id,
    AttributeType::KeyType,
    AttributeType::Modulus,
    AttributeType::Token,
    AttributeType::Private,
    AttributeType::Local,
    AttributeType::KeyGenMechanism,
    AttributeType::Sensitive,
    AttributeType::AlwaysSensitive,
    AttributeType::Extractable,
    AttributeType::NeverExtractable,
    AttributeType::Modifiable,
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::SignRecover,
    AttributeType::Unwrap,
    AttributeType::Derive,
    AttributeType::WrapWithTrusted,
    AttributeType::AllowedMechanisms,
];

/// What a token says of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyDescription {
    /// The token.
    pub token: TokenDescription,
    /// Its name for other programs: a PKCS#11 URI (RFC 7512).
    pub uri: String,
    /// What it says, by the standard's names: `CKA_SENSITIVE`. What it does not say is left out.
    pub attributes: Vec<(String, Said)>,
}

/// What a token says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TokenDescription {
    /// Its label.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
}

/// The value of an attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(u64),
    /// Text, a name of the standard, or bytes in hex.
    Text(String),
    /// Several names.
    Names(Vec<String>),
}

/// Reads what the token says of the key with this handle.
pub(super) fn attributes(session: &Session, handle: ObjectHandle) -> Result<Vec<(String, Said)>, Failure> {
    let said = session.get_attributes(handle, &ASKED)?;
    Ok(said.into_iter().filter_map(of_attribute).collect())
}

fn of_attribute(attribute: Attribute) -> Option<(String, Said)> {
    let name = attribute.attribute_type().to_string();
    Some(match attribute {
        Attribute::Label(label) => (name, Said::Text(String::from_utf8_lossy(&label).into_owned())),
        Attribute::Id(id) => (name, Said::Text(hex::encode(id))),
        Attribute::KeyType(key_type) => (name, Said::Text(key_type.to_string())),
        // The modulus itself stands in the certificate.
        Attribute::Modulus(modulus) => ("CKA_MODULUS_BITS".to_owned(), Said::Number(bits(&modulus))),
        Attribute::KeyGenMechanism(mechanism) => (name, Said::Text(mechanism.to_string())),
        Attribute::AllowedMechanisms(mechanisms) => {
            (name, Said::Names(mechanisms.iter().map(ToString::to_string).collect()))
        }
        Attribute::Token(flag)
        | Attribute::Private(flag)
        | Attribute::Local(flag)
        | Attribute::Sensitive(flag)
        | Attribute::AlwaysSensitive(flag)
        | Attribute::Extractable(flag)
        | Attribute::NeverExtractable(flag)
        | Attribute::Modifiable(flag)
        | Attribute::Decrypt(flag)
        | Attribute::Sign(flag)
        | Attribute::SignRecover(flag)
        | Attribute::Unwrap(flag)
        | Attribute::Derive(flag)
        | Attribute::WrapWithTrusted(flag) => (name, Said::Flag(flag)),
        _ => return None,
    })
}

/// The length of a number, big-endian, in bits.
fn bits(number: &[u8]) -> u64 {
    let leading = number.iter().take_while(|byte| **byte == 0).count();
    let rest = number.get(leading..).unwrap_or_default();
    let first = rest.first().map_or(8, |first| first.leading_zeros());
    (rest.len() as u64 * 8).saturating_sub(u64::from(first))
}

/// The PKCS#11 URI of a private key (RFC 7512 §2.3).
pub(super) fn uri(token: &TokenDescription, label: &str, cka_id: &[u8]) -> String {
    let mut uri = "pkcs11:".to_owned();
    let texts = [
        ("token", &*token.label),
        ("manufacturer", &token.manufacturer),
        ("model", &token.model),
        ("serial", &token.serial),
        ("object", label),
    ];
    for (name, value) in texts {
        if !value.is_empty() {
            encode(&mut uri, name, value);
        }
    }
    uri.push_str("id=");
    for byte in cka_id {
        percent(&mut uri, *byte);
    }
    uri.push_str(";type=private");
    uri
}

/// Appends `name=value;`. What RFC 7512 §2.3 does not surely allow is encoded.
fn encode(uri: &mut String, name: &str, value: &str) {
    uri.push_str(name);
    uri.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            percent(uri, byte);
        }
    }
    uri.push(';');
}

fn percent(uri: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    write!(uri, "%{byte:02X}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_of_rfc_7512() {
        let token = TokenDescription {
            label: "My token; 1".to_owned(),
            manufacturer: "Snake Oil, Inc.".to_owned(),
            model: String::new(),
            serial: "01ab".to_owned(),
        };
        assert_eq!(
            uri(&token, "rsa/1", &[0, 0x7f, b'a']),
            "pkcs11:token=My%20token%3B%201;manufacturer=Snake%20Oil%2C%20Inc.;serial=01ab;object=rsa%2F1;\
             id=%00%7F%61;type=private"
        );
    }

    #[test]
    fn lengths_are_counted_without_leading_zeros() {
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[0, 0]), 0);
        assert_eq!(bits(&[0, 0x80, 0]), 16);
        assert_eq!(bits(&[0x01, 0]), 9);
    }
}
