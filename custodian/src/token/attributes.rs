//! Law 7: a key is served only if its attributes say that it never left and never will, and that it has one purpose.

use cryptoki::{
    mechanism::MechanismType,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{
    KeyKind, mechanism,
    public::PublicKey,
    rv::{Failure, said},
};

/// What is read of a private key.
const READ: [AttributeType; 20] = [
    AttributeType::KeyType,
    AttributeType::Label,
    AttributeType::Id,
    AttributeType::AllowedMechanisms,
    AttributeType::Sensitive,
    AttributeType::AlwaysSensitive,
    AttributeType::Extractable,
    AttributeType::NeverExtractable,
    AttributeType::Local,
    AttributeType::Private,
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::SignRecover,
    AttributeType::Unwrap,
    AttributeType::Derive,
    AttributeType::Modulus,
    AttributeType::PublicExponent,
    AttributeType::EcParams,
    AttributeType::AlwaysAuthenticate,
    AttributeType::Token,
];

/// What every key must be.
const PROVENANCE: [(AttributeType, bool); 6] = [
    (AttributeType::Sensitive, true),
    (AttributeType::AlwaysSensitive, true),
    (AttributeType::Extractable, false),
    (AttributeType::NeverExtractable, true),
    (AttributeType::Local, true),
    (AttributeType::Private, true),
];

/// Every use a private key can have.
const PURPOSES: [AttributeType; 5] = [
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::SignRecover,
    AttributeType::Unwrap,
    AttributeType::Derive,
];

/// A private key that passed.
pub(super) struct Inspected {
    pub(super) label: String,
    /// CKA_ID: what other tools know it by.
    pub(super) cka_id: Vec<u8>,
    pub(super) public: PublicKey,
}

/// A private key that failed.
pub(super) enum Failed {
    /// It is not what it must be: which key, and why.
    Unfit(String),
    /// The token did not say what it is.
    Unread(Failure),
}

struct Attributes(Vec<Attribute>);

/// Checks one private key.
pub(super) fn inspect(session: &Session, handle: ObjectHandle) -> Result<Inspected, Failed> {
    let attributes = session
        .get_attributes(handle, &READ)
        .map(Attributes)
        .map_err(|error| Failed::Unread(Failure::from(error).of("a key whose attributes cannot be read")))?;
    let label = attributes.label();
    let id = attributes.id();
    let fail =
        |reason: String| Failed::Unfit(format!("key {label:?} (CKA_ID {}): {reason}", hex::encode(&id)));

    attributes.check_provenance().map_err(fail)?;
    let mut public = attributes.public_key(session, &id).map_err(fail)?;
    public.kind = attributes.made_for(public.kind);
    attributes.check_purpose(public.kind).map_err(fail)?;
    Ok(Inspected { label, cka_id: id, public })
}

/// The public half of a private key, whatever else it is. `None`: of a kind that is not served.
pub(super) fn public_key_of(session: &Session, handle: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let attributes = session.get_attributes(handle, &READ).map(Attributes)?;
    let id = attributes.id();
    Ok(attributes.public_key(session, &id).ok())
}

impl Attributes {
    fn check_provenance(&self) -> Result<(), String> {
        for (attribute, wanted) in PROVENANCE {
            match self.flag(attribute) {
                Some(flag) if flag == wanted => {}
                Some(flag) => return Err(format!("{attribute} is {flag}")),
                None => return Err(format!("{attribute} is not given")),
            }
        }
        Ok(())
    }

    /// An RSA key that was made for PKCS#1 v1.5, and for nothing else, is one of OpenPGP (law 5); one that was made for PSS
    /// signs.
    fn made_for(&self, kind: KeyKind) -> KeyKind {
        match (kind, self.mechanisms()) {
            (KeyKind::RsaUnwrap { modulus_bits }, Some([MechanismType::RSA_PKCS])) => {
                KeyKind::RsaOpenPgp { modulus_bits }
            }
            (KeyKind::RsaUnwrap { modulus_bits }, Some([MechanismType::RSA_PKCS_PSS])) => {
                KeyKind::RsaPssSign { modulus_bits }
            }
            (kind, _) => kind,
        }
    }

    fn mechanisms(&self) -> Option<&[MechanismType]> {
        self.0.iter().find_map(|attribute| match attribute {
            Attribute::AllowedMechanisms(mechanisms) => Some(mechanisms.as_slice()),
            _ => None,
        })
    }

    fn check_purpose(&self, kind: KeyKind) -> Result<(), String> {
        let purpose = match kind {
            KeyKind::RsaUnwrap { .. } | KeyKind::RsaOpenPgp { .. } => AttributeType::Decrypt,
            KeyKind::RsaPssSign { .. } | KeyKind::EcdsaP256Sign | KeyKind::Ed25519Sign => AttributeType::Sign,
        };
        for attribute in PURPOSES {
            // Modules leave out uses that the key type does not have.
            let flag = self.flag(attribute).unwrap_or(false);
            if flag != (attribute == purpose) {
                return Err(format!("{attribute} is {flag}: it must have the one purpose {purpose}"));
            }
        }
        let allowed = mechanism::allowed(kind);
        match self.mechanisms() {
            Some([one]) if *one == allowed => Ok(()),
            Some(mechanisms) => {
                let named: Vec<_> = mechanisms.iter().map(ToString::to_string).collect();
                Err(format!("CKA_ALLOWED_MECHANISMS is [{}] and not [{allowed}]", named.join(", ")))
            }
            None => Err("CKA_ALLOWED_MECHANISMS is not given".to_owned()),
        }
    }

    fn public_key(&self, session: &Session, id: &[u8]) -> Result<PublicKey, String> {
        let key_type = self.0.iter().find_map(|attribute| match attribute {
            Attribute::KeyType(key_type) => Some(*key_type),
            _ => None,
        });
        match key_type {
            Some(KeyType::RSA) => {
                let modulus = self.bytes(AttributeType::Modulus).ok_or("CKA_MODULUS is not given")?;
                let exponent =
                    self.bytes(AttributeType::PublicExponent).ok_or("CKA_PUBLIC_EXPONENT is not given")?;
                PublicKey::rsa(modulus, exponent)
            }
            Some(KeyType::EC) => {
                let params = self.bytes(AttributeType::EcParams).ok_or("CKA_EC_PARAMS is not given")?;
                PublicKey::p256(params, &ec_point(session, KeyType::EC, id)?)
            }
            Some(KeyType::EC_EDWARDS) => {
                let params = self.bytes(AttributeType::EcParams).ok_or("CKA_EC_PARAMS is not given")?;
                PublicKey::ed25519(params, &ec_point(session, KeyType::EC_EDWARDS, id)?)
            }
            _ => Err("it is neither an RSA nor an EC key".to_owned()),
        }
    }

    fn label(&self) -> String {
        String::from_utf8_lossy(self.bytes(AttributeType::Label).unwrap_or_default()).into_owned()
    }

    fn id(&self) -> Vec<u8> {
        self.bytes(AttributeType::Id).unwrap_or_default().to_vec()
    }

    fn bytes(&self, wanted: AttributeType) -> Option<&[u8]> {
        self.0.iter().filter(|attribute| attribute.attribute_type() == wanted).find_map(|attribute| {
            match attribute {
                Attribute::Label(bytes)
                | Attribute::Id(bytes)
                | Attribute::Modulus(bytes)
                | Attribute::PublicExponent(bytes)
                | Attribute::EcParams(bytes) => Some(bytes.as_slice()),
                _ => None,
            }
        })
    }

    fn flag(&self, wanted: AttributeType) -> Option<bool> {
        self.0.iter().filter(|attribute| attribute.attribute_type() == wanted).find_map(|attribute| {
            match attribute {
                Attribute::Sensitive(flag)
                | Attribute::AlwaysSensitive(flag)
                | Attribute::Extractable(flag)
                | Attribute::NeverExtractable(flag)
                | Attribute::Local(flag)
                | Attribute::Private(flag)
                | Attribute::Decrypt(flag)
                | Attribute::Sign(flag)
                | Attribute::SignRecover(flag)
                | Attribute::Unwrap(flag)
                | Attribute::Derive(flag) => Some(*flag),
                _ => None,
            }
        })
    }
}

/// A private EC key does not know its point: the public key of the same CKA_ID does.
fn ec_point(session: &Session, key_type: KeyType, id: &[u8]) -> Result<Vec<u8>, String> {
    let template = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(true),
        Attribute::Id(id.to_vec()),
    ];
    let found = session.find_objects(&template).map_err(|error| said(&error))?;
    let [handle] = found[..] else {
        return Err(format!("{} public keys have its CKA_ID instead of one", found.len()));
    };
    let attributes =
        session.get_attributes(handle, &[AttributeType::EcPoint]).map_err(|error| said(&error))?;
    attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        })
        .ok_or_else(|| "CKA_EC_POINT is not given".to_owned())
}
