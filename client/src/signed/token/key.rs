//! A private key in a token, with its certificates.

use cryptoki::object::{Attribute, AttributeType, CertificateType, KeyType, ObjectClass, ObjectHandle};
use custodian_proto::pkcs11::{Encoded, KeyUri};
use der::{
    Decode, Sequence,
    asn1::{OctetStringRef, UintRef},
};

use super::{cannot_sign, card::Card, way::Way};
use crate::{
    error::Result,
    signed::{Algorithm, SignerCertificate, scheme},
};

/// Most certificates of a token that are looked at.
const MAX_CERTIFICATES: usize = 64;

/// A key that signs.
#[derive(Clone)]
pub(super) struct Key {
    handle: ObjectHandle,
    way: Way,
    /// Whether the PIN is wanted before each signature.
    pub(super) pin_each_time: bool,
    pub(super) algorithm: Algorithm,
    /// Its own first, then those up to a root; DER.
    pub(super) certificates: Vec<Vec<u8>>,
}

/// What a token says of a key.
struct Found {
    handle: ObjectHandle,
    label: Vec<u8>,
    id: Vec<u8>,
    pin_each_time: bool,
    kind: Option<KeyType>,
    public: Public,
}

/// What a token says of the public half, to compare with certificates.
enum Public {
    /// The modulus, without zeros in front.
    Rsa(Vec<u8>),
    /// The point, as it stands in a certificate.
    Ec(Vec<u8>),
    /// Nothing. What the key signs will tell.
    Untold,
}

impl Key {
    /// Finds the one key that the URI names, and its certificates: those given, or those of the token.
    pub(super) fn find(card: &Card, uri: &KeyUri, given: Option<Vec<Vec<u8>>>) -> Result<Self> {
        let found = the_one(card, uri)?;
        let certificates = match given {
            Some(given) => chosen(&found, given).ok_or_else(not_its_own)?,
            None => certificates_of(card, &found)?,
        };
        let leaf = certificates.first().ok_or_else(|| no_certificate(&found))?;
        let leaf = SignerCertificate::from_der(leaf)?;
        leaf.check_usage()?;
        let named = format!("the key {}", shown(&found));
        let algorithm = scheme::algorithm_of(leaf.public_key()).ok_or_else(|| {
            cannot_sign(format!(
                "{named} is of a kind that is not known here: RSA, ECDSA P-256 and P-384 are"
            ))
        })?;
        if !suits(found.kind, algorithm) {
            return Err(not_its_own());
        }
        let way = Way::of(algorithm, &card.mechanisms()?, found.pin_each_time)
            .map_err(|why| cannot_sign(format!("{named} cannot be used: {why}")))?;
        Ok(Self { handle: found.handle, way, pin_each_time: found.pin_each_time, algorithm, certificates })
    }

    /// Signs a message.
    pub(super) fn sign(&self, card: &Card, message: &[u8]) -> Result<Vec<u8>> {
        let failed = |why: cryptoki::error::Error| {
            cannot_sign(format!("the token {:?} made no signature: {why}", card.label()))
        };
        let (session, mechanism, input) = (card.session(), self.way.mechanism(), self.way.input(message));
        let raw = if self.pin_each_time {
            session.sign_init(&mechanism, self.handle).map_err(failed)?;
            card.show_pin_again()?;
            session.sign_update(&input).map_err(failed)?;
            session.sign_final().map_err(failed)?
        } else {
            session.sign(&mechanism, self.handle, &input).map_err(failed)?
        };
        self.way
            .output(raw)
            .ok_or_else(|| cannot_sign("what the token made has not the length of a signature"))
    }
}

fn the_one(card: &Card, uri: &KeyUri) -> Result<Found> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    template.extend(uri.object.iter().map(|label| Attribute::Label(label.clone().into_bytes())));
    template.extend(uri.id.iter().map(|id| Attribute::Id(id.clone())));
    let unreadable =
        |why| cannot_sign(format!("the keys of the token {:?} cannot be listed: {why}", card.label()));
    let mut found = Vec::new();
    for handle in card.session().find_objects(&template).map_err(unreadable)? {
        found.extend(Found::read(card, handle).map_err(unreadable)?);
    }
    let all = found.iter().map(shown).collect::<Vec<_>>().join(", ");
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => {
            Err(cannot_sign(format!("several keys of the token {:?} fit: {all}", card.label()))
                .hint("name one with object or id"))
        }
        (None, _) => Err(cannot_sign(format!("no private key of the token {:?} fits", card.label()))
            .hint("pkcs11-tool --module MODULE --login --list-objects lists them")),
    }
}

impl Found {
    /// `None` if it signs nothing.
    fn read(card: &Card, handle: ObjectHandle) -> std::result::Result<Option<Self>, cryptoki::error::Error> {
        let wanted = [
            AttributeType::Label,
            AttributeType::Id,
            AttributeType::Sign,
            AttributeType::AlwaysAuthenticate,
            AttributeType::KeyType,
            AttributeType::Modulus,
            AttributeType::EcPoint,
        ];
        let mut found = Self {
            handle,
            label: Vec::new(),
            id: Vec::new(),
            pin_each_time: false,
            kind: None,
            public: Public::Untold,
        };
        for attribute in card.session().get_attributes(handle, &wanted)? {
            match attribute {
                Attribute::Label(label) => found.label = label,
                Attribute::Id(id) => found.id = id,
                Attribute::Sign(false) => return Ok(None),
                Attribute::AlwaysAuthenticate(always) => found.pin_each_time = always,
                Attribute::KeyType(kind) => found.kind = Some(kind),
                Attribute::Modulus(modulus) if !modulus.is_empty() => {
                    found.public = Public::Rsa(without_zeros(&modulus).to_vec());
                }
                Attribute::EcPoint(point) if !point.is_empty() => found.public = Public::ec(&point),
                _ => {}
            }
        }
        // Of a key on a curve, the point is often with the public object alone.
        if matches!(found.public, Public::Untold) && !found.id.is_empty() {
            let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(found.id.clone())];
            for public in card.session().find_objects(&template)? {
                for attribute in card.session().get_attributes(public, &[AttributeType::EcPoint])? {
                    if let Attribute::EcPoint(point) = attribute
                        && !point.is_empty()
                    {
                        found.public = Public::ec(&point);
                    }
                }
            }
        }
        Ok(Some(found))
    }
}

/// RFC 8017 appendix A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

impl Public {
    /// PKCS #11 wants an OCTET STRING around the point; not every module puts one there.
    fn ec(point: &[u8]) -> Self {
        let inside = <&OctetStringRef>::from_der(point).map(OctetStringRef::as_bytes);
        Self::Ec(inside.unwrap_or(point).to_vec())
    }

    /// Whether this is the key of a certificate. `None`: nobody knows yet.
    fn is_of(&self, certificate: &SignerCertificate) -> Option<bool> {
        let bits = certificate.public_key().subject_public_key.as_bytes().unwrap_or_default();
        match self {
            Self::Rsa(modulus) => {
                let key = RsaPublicKey::from_der(bits);
                Some(key.is_ok_and(|key| key.modulus.as_bytes() == modulus))
            }
            Self::Ec(point) => Some(point == bits),
            Self::Untold => None,
        }
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Whether a key of this kind signs so. Not every module sees to that: SoftHSM 2.6 crashes with an RSA mechanism for a key on a
/// curve.
fn suits(kind: Option<KeyType>, algorithm: Algorithm) -> bool {
    match algorithm {
        Algorithm::RsaPss(_) => kind == Some(KeyType::RSA),
        Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => kind == Some(KeyType::EC),
        Algorithm::Ed25519 => false,
    }
}

/// The certificates of a file, the key's own in front. If the token does not tell the public key, the first counts as its own.
fn chosen(key: &Found, mut given: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let fits = |der: &Vec<u8>| {
        SignerCertificate::from_der(der).is_ok_and(|one| key.public.is_of(&one) == Some(true))
    };
    let index = match key.public {
        Public::Untold => 0,
        _ => given.iter().position(fits)?,
    };
    given.get_mut(..=index)?.rotate_right(1);
    Some(given)
}

/// The key's certificate in the token, and those of the token that lead from it to a root.
fn certificates_of(card: &Card, key: &Found) -> Result<Vec<Vec<u8>>> {
    let unreadable = |why: cryptoki::error::Error| {
        cannot_sign(format!("the certificates of the token {:?} cannot be read: {why}", card.label()))
    };
    let template =
        [Attribute::Class(ObjectClass::CERTIFICATE), Attribute::CertificateType(CertificateType::X_509)];
    let mut own = None;
    let mut others = Vec::new();
    for handle in
        card.session().find_objects(&template).map_err(unreadable)?.into_iter().take(MAX_CERTIFICATES)
    {
        let (mut der, mut id) = (Vec::new(), Vec::new());
        let wanted = [AttributeType::Value, AttributeType::Id];
        for attribute in card.session().get_attributes(handle, &wanted).map_err(unreadable)? {
            match attribute {
                Attribute::Value(value) => der = value,
                Attribute::Id(value) => id = value,
                _ => {}
            }
        }
        // What cannot be read is no help; another one may be.
        let Ok(certificate) = SignerCertificate::from_der(&der) else { continue };
        // PKCS #11 §4.6: the same CKA_ID means the same key. A renewed card may have an old one of that id, too.
        let is_own = !id.is_empty() && id == key.id && key.public.is_of(&certificate) != Some(false);
        if is_own
            && own.as_ref().is_none_or(|own: &SignerCertificate| own.validity() < certificate.validity())
        {
            others.extend(own.replace(certificate));
        } else {
            others.push(certificate);
        }
    }
    let own = own.ok_or_else(|| no_certificate(key))?;
    Ok(path(own, others))
}

/// From a certificate towards its root, which is left out: whoever verifies has it.
fn path(own: SignerCertificate, mut others: Vec<SignerCertificate>) -> Vec<Vec<u8>> {
    let mut path = vec![own];
    while let Some(last) = path.last() {
        let issuer = last.issuer();
        let next = others.iter().position(|one| one.subject() == issuer && one.subject() != one.issuer());
        let Some(next) = next else { break };
        path.push(others.swap_remove(next));
    }
    path.iter().map(|one| one.der().to_vec()).collect()
}

fn not_its_own() -> crate::Error {
    cannot_sign("none of the certificates is that of the key")
        .hint("name the key's own certificate: --sign-cert FILE")
}

fn no_certificate(key: &Found) -> crate::Error {
    cannot_sign(format!("the token has no certificate of the key {} (the same CKA_ID)", shown(key)))
        .hint("name the file that has it, with those up to its CA: --sign-cert FILE")
}

fn shown(key: &Found) -> String {
    format!("object={};id={}", Encoded(&key.label), Encoded(&key.id))
}
