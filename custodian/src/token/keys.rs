//! The worker's keys: found once, checked, and kept by id with their handles.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use cryptoki::{
    error::Error,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use custodian_proto::key::{KeyId, KeyWrapping};
use der::Encode;

use super::{
    KeyKind, KeyTemplate, TokenKey,
    attributes::{Failed, Inspected, inspect, public_key_of},
    mechanism::{self, Canary, oaep},
    pkcs11::Hands,
    public::PublicKey,
};

/// How long a key that just worked is believed to be well.
const TRUST: Duration = Duration::from_millis(100);

/// A key that is served.
pub(super) struct ServedKey {
    pub(super) key: TokenKey,
    pub(super) handle: ObjectHandle,
    /// The wrappings it unwraps: all that the token can do. A token that learns a stronger one (a newer module) must
    /// still open what was sealed before.
    wrappings: Vec<KeyWrapping>,
    canary: Option<Canary>,
    well: Mutex<Option<Instant>>,
}

/// What a token's keys are.
pub(super) struct KeyRing {
    /// What the token can unwrap, the strongest first; never empty.
    pub(super) wrappings: Vec<KeyWrapping>,
    pub(super) served: HashMap<KeyId, Arc<ServedKey>>,
    pub(super) unserved: Vec<String>,
}

impl KeyRing {
    /// Finds and checks every private key. `old` are the keys known to be well: they keep their canaries.
    ///
    /// # Errors
    /// If the token cannot be searched, or can do no OAEP at all.
    pub(super) fn find(hands: &Hands, old: &HashMap<KeyId, Arc<ServedKey>>) -> Result<Self, String> {
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
        let handles = hands
            .session
            .find_objects(&template)
            .map_err(|error| format!("the token does not list its keys: {error}"))?;
        let mut unserved = Vec::new();
        let mut passed = Vec::new();
        for handle in handles {
            match inspect(&hands.session, handle) {
                Ok(inspected) => passed.push((handle, inspected)),
                Err(Failed(reason)) => unserved.push(reason),
            }
        }

        let rsa = passed.iter().filter(|(_, one)| matches!(one.public.kind, KeyKind::RsaUnwrap { .. }));
        let wrappings = rsa
            .map(|(handle, one)| wrappings_of_key(hands, *handle, &one.public.spki))
            .find(|wrappings| !wrappings.is_empty())
            .unwrap_or_else(|| wrappings_of_token(&hands.session));
        if wrappings.is_empty() {
            return Err(
                "the token can do no RSA-OAEP with an empty label: it cannot unwrap file keys".to_owned()
            );
        }

        let mut served = HashMap::new();
        for (handle, inspected) in passed {
            let id = inspected.public.id;
            let key = match old.get(&id).filter(|known| known.handle == handle) {
                Some(known) => Arc::clone(known),
                None => match ServedKey::new(hands, handle, inspected, &wrappings) {
                    Ok(key) => Arc::new(key),
                    Err(reason) => {
                        unserved.push(reason);
                        continue;
                    }
                },
            };
            served.insert(id, key);
        }
        unserved.sort();
        Ok(Self { wrappings, served, unserved })
    }

    /// The served keys in order of their labels.
    pub(super) fn list(&self) -> Vec<TokenKey> {
        let mut keys: Vec<_> = self.served.values().map(|served| served.key.clone()).collect();
        keys.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
        keys
    }
}

impl ServedKey {
    fn new(
        hands: &Hands,
        handle: ObjectHandle,
        inspected: Inspected,
        wrappings: &[KeyWrapping],
    ) -> Result<Self, String> {
        let Inspected { label, public } = inspected;
        let wrappings = match public.kind {
            KeyKind::EcdsaP256Sign => Vec::new(),
            KeyKind::RsaUnwrap { .. } => wrappings.to_vec(),
        };
        let wrapping = wrappings.first().copied();
        let canary = match wrapping {
            None => None,
            Some(strongest) => Some(Canary::new(&public.spki, strongest).ok_or_else(|| {
                format!("key {label:?} ({}): nothing can be encrypted to its public key", public.id)
            })?),
        };
        let key = TokenKey { id: public.id, label, kind: public.kind, wrapping, spki: public.spki };
        let served = Self { key, handle, wrappings, canary, well: Mutex::new(None) };
        match served.ask_canary(hands) {
            Ok(()) => Ok(served),
            Err(reason) => Err(format!("key {:?} ({}): {reason}", served.key.label, served.key.id)),
        }
    }

    /// Whether it unwraps what was wrapped like this.
    pub(super) fn unwraps(&self, wrapping: KeyWrapping) -> bool {
        self.wrappings.contains(&wrapping)
    }

    /// The key just did what it should.
    pub(super) fn did_well(&self) {
        *self.well.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the key still works. Asked after every failure: error codes do not tell whose fault it was.
    pub(super) fn is_well(&self, hands: &Hands) -> Result<(), String> {
        let well = *self.well.lock().unwrap_or_else(PoisonError::into_inner);
        if well.is_some_and(|at| at.elapsed() < TRUST) { Ok(()) } else { self.ask_canary(hands) }
    }

    fn ask_canary(&self, hands: &Hands) -> Result<(), String> {
        let (Some(canary), Some(wrapping)) = (&self.canary, self.key.wrapping) else {
            return Ok(());
        };
        match hands.decrypt(self.handle, wrapping, canary.ciphertext()) {
            Ok(plaintext) if canary.sings(&plaintext) => {
                self.did_well();
                Ok(())
            }
            Ok(_) => Err("it decrypts a test ciphertext to something else".to_owned()),
            Err(error) => Err(format!("it does not decrypt a test ciphertext: {error}")),
        }
    }
}

/// Every wrapping that this key really unwraps.
fn wrappings_of_key(hands: &Hands, handle: ObjectHandle, spki: &[u8]) -> Vec<KeyWrapping> {
    let works = |wrapping: &KeyWrapping| {
        Canary::new(spki, *wrapping).is_some_and(|canary| {
            hands
                .decrypt(handle, *wrapping, canary.ciphertext())
                .is_ok_and(|plaintext| canary.sings(&plaintext))
        })
    };
    KeyWrapping::ALL.into_iter().filter(works).collect()
}

/// Every wrapping that the token says it can do, asked without a key of its own: with a public key that lives as long
/// as the session.
fn wrappings_of_token(session: &Session) -> Vec<KeyWrapping> {
    // Any odd number of the right size serves as a modulus: what is encrypted here, nobody needs to decrypt.
    let template = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Encrypt(true),
        Attribute::Modulus(vec![0xc5; 256]),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ];
    let Ok(key) = session.create_object(&template) else {
        return Vec::new();
    };
    let works = |wrapping: &KeyWrapping| session.encrypt(&oaep(*wrapping), key, &[7; 32]).is_ok();
    let wrappings = KeyWrapping::ALL.into_iter().filter(works).collect();
    // It goes with the session if not now.
    drop(session.destroy_object(key));
    wrappings
}

/// Generates a key pair, checks it and leaves nothing behind if it fails. The session must be one that can make
/// objects that stay.
pub(super) fn generate(hands: &Hands, template: &KeyTemplate) -> Result<ServedKey, String> {
    let session = &hands.session;
    let (public, private) = match make_pair(session, template) {
        Ok(pair) => pair,
        Err(error) => {
            return Err(format!("the token does not generate the key {:?}: {error}", template.label));
        }
    };
    let made = finish(hands, public, private);
    if made.is_err() {
        for object in [private, public] {
            if let Err(error) = session.destroy_object(object) {
                return Err(format!(
                    "the token made a key {:?} that is of no use and does not delete it: {error}",
                    template.label
                ));
            }
        }
    }
    made
}

fn make_pair(session: &Session, template: &KeyTemplate) -> Result<(ObjectHandle, ObjectHandle), Error> {
    // Until the real id is known, one that no other key has: it ties the two halves together.
    let mut id = vec![0; KeyId::LEN];
    rand::fill(&mut id).map_err(|_| Error::NotSupported)?;
    let both = [
        Attribute::Token(true),
        Attribute::Label(template.label.clone().into_bytes()),
        Attribute::Id(id),
        Attribute::Derive(false),
    ];
    let unwraps = matches!(template.kind, KeyKind::RsaUnwrap { .. });
    // Every usage is said: what is not said, some modules allow.
    let mut public = both.to_vec();
    public.extend([
        Attribute::Private(false),
        Attribute::Encrypt(unwraps),
        Attribute::Verify(!unwraps),
        Attribute::Wrap(false),
    ]);
    let mut private = both.to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Decrypt(unwraps),
        Attribute::Sign(!unwraps),
        Attribute::SignRecover(false),
        Attribute::Unwrap(false),
        Attribute::AllowedMechanisms(vec![mechanism::allowed(template.kind)]),
    ]);
    let how = match template.kind {
        KeyKind::RsaUnwrap { modulus_bits } => {
            public.push(Attribute::ModulusBits(u64::from(modulus_bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
        KeyKind::EcdsaP256Sign => {
            let curve = const_oid::db::rfc5912::SECP_256_R_1.to_der().map_err(|_| Error::InvalidValue)?;
            public.push(Attribute::EcParams(curve));
            Mechanism::EccKeyPairGen
        }
    };
    session.generate_key_pair(&how, &public, &private)
}

/// Gives both halves the id that follows from the public key, and checks what was made (law 7).
fn finish(hands: &Hands, public: ObjectHandle, private: ObjectHandle) -> Result<ServedKey, String> {
    let inspected = inspect(&hands.session, private).map_err(|Failed(reason)| reason)?;
    let id = [Attribute::Id(inspected.public.id.as_bytes().to_vec())];
    for object in [public, private] {
        hands
            .session
            .update_attributes(object, &id)
            .map_err(|error| format!("the token does not give the new key its id: {error}"))?;
    }
    // Encrypting may work where decrypting does not: only now can we be sure.
    let unwraps = matches!(inspected.public.kind, KeyKind::RsaUnwrap { .. });
    let wrappings =
        if unwraps { wrappings_of_key(hands, private, &inspected.public.spki) } else { Vec::new() };
    if unwraps && wrappings.is_empty() {
        return Err("the new key does not unwrap a test ciphertext".to_owned());
    }
    ServedKey::new(hands, private, inspected, &wrappings)
}

/// Destroys every object of a key pair, served or not. How many private keys that were. Public keys go first: as long as
/// the private one is there, this can be tried again.
pub(super) fn destroy(session: &Session, id: KeyId) -> Result<usize, String> {
    let cannot = |error: Error| format!("the token does not destroy the key {id}: {error}");
    let token = Attribute::Token(true);
    let privates = session
        .find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), token.clone()])
        .map_err(cannot)?
        .into_iter()
        .filter(|handle| public_key_of(session, *handle).is_ok_and(|public| public.id == id))
        .collect::<Vec<_>>();
    for public in session.find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY), token]).map_err(cannot)? {
        if public_id(session, public).map_err(cannot)? == Some(id) {
            session.destroy_object(public).map_err(cannot)?;
        }
    }
    for private in &privates {
        session.destroy_object(*private).map_err(cannot)?;
    }
    Ok(privates.len())
}

/// The id of a public key in the token. `None`: it is of a kind that is not served.
fn public_id(session: &Session, handle: ObjectHandle) -> Result<Option<KeyId>, Error> {
    let read = [
        AttributeType::Modulus,
        AttributeType::PublicExponent,
        AttributeType::EcParams,
        AttributeType::EcPoint,
    ];
    let (mut rsa, mut ec) = ((None, None), (None, None));
    for attribute in session.get_attributes(handle, &read)? {
        match attribute {
            Attribute::Modulus(bytes) => rsa.0 = Some(bytes),
            Attribute::PublicExponent(bytes) => rsa.1 = Some(bytes),
            Attribute::EcParams(bytes) => ec.0 = Some(bytes),
            Attribute::EcPoint(bytes) => ec.1 = Some(bytes),
            _ => {}
        }
    }
    let public = match (rsa, ec) {
        ((Some(modulus), Some(exponent)), _) => PublicKey::rsa(&modulus, &exponent),
        (_, (Some(params), Some(point))) => PublicKey::p256(&params, &point),
        _ => return Ok(None),
    };
    Ok(public.ok().map(|public| public.id))
}
