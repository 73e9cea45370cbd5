//! The worker's keys: found once, checked, and kept by id with their handles.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use cryptoki::{
    error::Error,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use custodian_proto::{
    key::{KeyId, KeyWrapping},
    sign::{DigestToSign, Hash, SignatureAlgorithm},
};
use der::Encode;

use super::{
    KeyKind, KeyTemplate, TokenKey,
    attributes::{Failed, Inspected, inspect, public_key_of},
    describe::uri,
    grip::Grip,
    listed::Listed,
    mechanism::{self, Canary, decrypting},
    pkcs11::Hands,
    public::{PublicKey, edwards25519},
    rv::{Failure, Sense},
};

/// The least time between two questions to a key's canary because of what callers sent.
const CANARY_REST: Duration = Duration::from_millis(100);

/// A key that is served.
pub(super) struct ServedKey {
    pub(super) key: TokenKey,
    pub(super) handle: ObjectHandle,
    /// The wrappings it unwraps: all that the token can do. A token that learns a stronger one (a newer module) must
    /// still open what was sealed before.
    wrappings: Vec<KeyWrapping>,
    canary: Option<Canary>,
    pulse: Mutex<Pulse>,
}

/// When a key gave signs of life.
#[derive(Clone, Copy, Default)]
struct Pulse {
    /// It did what it should.
    well: Option<Instant>,
    /// Its canary was asked.
    asked: Option<Instant>,
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
    pub(super) fn find(hands: &Hands, old: &HashMap<KeyId, Arc<ServedKey>>) -> Result<Self, Failure> {
        let listed = Listed::of(&hands.session, ObjectClass::PRIVATE_KEY)
            .map_err(|failure| failure.of("the token does not list its keys"))?;
        let mut unserved = Vec::new();
        let mut passed = Vec::new();
        for handle in listed.handles() {
            match inspect(&hands.session, handle) {
                Ok(inspected) => passed.push((handle, inspected)),
                Err(Failed::Unfit(reason)) => unserved.push(reason),
                Err(Failed::Unread(failure)) => {
                    unserved.extend(listed.unless_gone(handle, only_this(failure))?);
                }
            }
        }
        let passed = without_doubles(passed, old, &mut unserved);

        let rsa = passed.iter().filter(|(_, one)| matches!(one.public.kind, KeyKind::RsaUnwrap { .. }));
        let mut wrappings = Vec::new();
        for (handle, one) in rsa {
            let found = wrappings_of_key(hands, *handle, &one.public.spki);
            wrappings = listed.unless_gone(*handle, found)?.unwrap_or_default();
            if !wrappings.is_empty() {
                break;
            }
        }
        if wrappings.is_empty() {
            wrappings = wrappings_of_token(&hands.session)?;
        }
        if wrappings.is_empty() {
            return Err(Failure::new(
                Sense::Ambiguous,
                "the token can do no RSA-OAEP with an empty label: it cannot unwrap file keys",
            ));
        }

        let mut served = HashMap::new();
        for (handle, inspected) in passed {
            let id = inspected.public.id;
            let key = match old.get(&id).filter(|known| known.handle == handle) {
                Some(known) => Arc::clone(known),
                None => match ServedKey::new(hands, handle, inspected, &wrappings) {
                    Ok(key) => Arc::new(key),
                    Err(failure) => {
                        unserved.extend(listed.unless_gone(handle, only_this(failure))?);
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
    ) -> Result<Self, Failure> {
        let Inspected { label, cka_id, public } = inspected;
        let uri = uri(&hands.token, &label, &cka_id);
        let wrappings = match public.kind {
            KeyKind::RsaPssSign { .. } | KeyKind::EcdsaP256Sign | KeyKind::Ed25519Sign => Vec::new(),
            KeyKind::RsaUnwrap { .. } => wrappings.to_vec(),
            // For which of the two it was made, the ledger says and every permit.
            KeyKind::RsaOpenPgp { .. } => vec![KeyWrapping::OpenPgp, KeyWrapping::Pkcs1],
        };
        let wrapping = wrappings.first().copied();
        let canary = match wrapping {
            None => None,
            Some(strongest) => Some(Canary::new(&public.spki, strongest).ok_or_else(|| {
                let text =
                    format!("key {label:?} ({}): nothing can be encrypted to its public key", public.id);
                Failure::new(Sense::Ambiguous, text)
            })?),
        };
        let key = TokenKey { id: public.id, label, kind: public.kind, wrapping, spki: public.spki, uri };
        let served = Self { key, handle, wrappings, canary, pulse: Mutex::default() };
        // Twice: a key is not left out because of one stumble.
        match served.ask_canary(hands).or_else(|_| served.ask_canary(hands)) {
            Ok(()) => Ok(served),
            Err(failure) => Err(failure.of(served.name())),
        }
    }

    /// How errors name it.
    pub(super) fn name(&self) -> String {
        format!("key {:?} ({})", self.key.label, self.key.id)
    }

    /// Whether it unwraps what was wrapped like this.
    pub(super) fn unwraps(&self, wrapping: KeyWrapping) -> bool {
        self.wrappings.contains(&wrapping)
    }

    /// The key just did what it should.
    pub(super) fn did_well(&self) {
        self.pulse().well = Some(Instant::now());
    }

    /// Whether the key still works. Asked after every failure, before anybody is blamed. `since` is when the thing that
    /// failed began.
    ///
    /// Whatever a caller may be behind costs a canary every [`CANARY_REST`] at most: bad ciphertexts at any rate must not
    /// keep the token from its work. The rest of them take the last answer.
    pub(super) fn is_well(
        &self,
        grip: &mut Grip<'_>,
        failure: &Failure,
        since: Instant,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut pulse = self.pulse();
        let rests = pulse.asked.is_some_and(|at| at.elapsed() < CANARY_REST);
        let perhaps_the_callers = failure.could_be_the_callers() && failure.sense.may_be_of_one();
        if pulse.well.is_some_and(|at| at > since) || (rests && perhaps_the_callers) {
            return Ok(());
        }
        pulse.asked = Some(Instant::now());
        drop(pulse);
        // What has not passed until now has had its time.
        let deadline = if failure.sense == Sense::Transient { Instant::now() } else { deadline };
        grip.steadily(deadline, |hands| self.ask_canary(hands))
    }

    fn ask_canary(&self, hands: &Hands) -> Result<(), Failure> {
        let (Some(canary), Some(wrapping)) = (&self.canary, self.key.wrapping) else {
            return Ok(());
        };
        let decrypted = hands.decrypt(self.handle, wrapping, canary.ciphertext());
        let plaintext = decrypted.map_err(|failure| failure.of("it does not decrypt a test ciphertext"))?;
        if !canary.sings(&plaintext) {
            return Err(Failure::new(Sense::ModuleBroken, "it decrypts a test ciphertext to something else"));
        }
        self.did_well();
        Ok(())
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure that concerns one key leaves that key out: the reason. One that concerns the session, the login or the whole
/// token says nothing of a key.
fn only_this(failure: Failure) -> Result<String, Failure> {
    if failure.sense.may_be_of_one() { Ok(failure.to_string()) } else { Err(failure) }
}

/// Which of several private keys with the same public key is meant, nobody can say: none of them is served, but one that
/// is served already stays.
fn without_doubles(
    passed: Vec<(ObjectHandle, Inspected)>,
    old: &HashMap<KeyId, Arc<ServedKey>>,
    unserved: &mut Vec<String>,
) -> Vec<(ObjectHandle, Inspected)> {
    let mut of_key: BTreeMap<KeyId, Vec<_>> = BTreeMap::new();
    for one in passed {
        of_key.entry(one.1.public.id).or_default().push(one);
    }
    let mut single = Vec::new();
    for (id, mut same) in of_key {
        if same.len() > 1 {
            let names: Vec<_> = same
                .iter()
                .map(|(_, one)| format!("{:?} with CKA_ID {}", one.label, hex::encode(&one.cka_id)))
                .collect();
            unserved.push(format!(
                "key {id}: the token has {} private keys of this one public key: {}. Delete all but one: pkcs11-tool \
                 --module MODULE --login --delete-object --type privkey, with --label or --id",
                names.len(),
                names.join(", ")
            ));
            let known = old.get(&id).map(|known| known.handle);
            same.retain(|(handle, _)| Some(*handle) == known);
        }
        single.append(&mut same);
    }
    single
}

/// Every wrapping that this key really unwraps.
fn wrappings_of_key(hands: &Hands, handle: ObjectHandle, spki: &[u8]) -> Result<Vec<KeyWrapping>, Failure> {
    let works = |wrapping: KeyWrapping| -> Result<bool, Failure> {
        let Some(canary) = Canary::new(spki, wrapping) else { return Ok(false) };
        match hands.decrypt(handle, wrapping, canary.ciphertext()) {
            Ok(plaintext) => Ok(canary.sings(&plaintext)),
            Err(failure) => only_this(failure).map(|_| false),
        }
    };
    let mut wrappings = Vec::new();
    for wrapping in KeyWrapping::OAEP {
        // Twice: what was sealed with a wrapping that is not found here is refused for as long as this worker lives.
        if works(wrapping)? || works(wrapping)? {
            wrappings.push(wrapping);
        }
    }
    Ok(wrappings)
}

/// Every wrapping that the token says it can do, asked without a key of its own: with a public key that lives as long
/// as the session.
fn wrappings_of_token(session: &Session) -> Result<Vec<KeyWrapping>, Failure> {
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
    let key = match session.create_object(&template) {
        Ok(key) => key,
        Err(error) => return only_this(error.into()).map(|_| Vec::new()),
    };
    let works = |wrapping: &KeyWrapping| session.encrypt(&decrypting(*wrapping), key, &[7; 32]).is_ok();
    let wrappings = KeyWrapping::OAEP.into_iter().filter(works).collect();
    // It goes with the session if not now.
    drop(session.destroy_object(key));
    Ok(wrappings)
}

/// Generates a key pair, checks it and leaves nothing behind if it fails. The session must be one that can make
/// objects that stay.
pub(super) fn generate(hands: &Hands, template: &KeyTemplate) -> Result<ServedKey, Failure> {
    let session = &hands.session;
    let (public, private) = match make_pair(session, template) {
        Ok(pair) => pair,
        Err(error) => {
            let what = format!("the token does not generate the key {:?}", template.label);
            return Err(Failure::from(error).of(what));
        }
    };
    let made = finish(hands, public, private);
    if made.is_err() {
        for object in [private, public] {
            if let Err(error) = session.destroy_object(object) {
                let what = format!(
                    "the token made a key {:?} that is of no use and does not delete it",
                    template.label
                );
                return Err(Failure::from(error).of(what));
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
    let unwraps = template.kind.unwraps();
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
        KeyKind::RsaUnwrap { modulus_bits }
        | KeyKind::RsaOpenPgp { modulus_bits }
        | KeyKind::RsaPssSign { modulus_bits } => {
            public.push(Attribute::ModulusBits(u64::from(modulus_bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
        KeyKind::EcdsaP256Sign => {
            let curve = const_oid::db::rfc5912::SECP_256_R_1.to_der().map_err(|_| Error::InvalidValue)?;
            public.push(Attribute::EcParams(curve));
            Mechanism::EccKeyPairGen
        }
        KeyKind::Ed25519Sign => {
            public.push(Attribute::EcParams(edwards25519().map_err(|_| Error::InvalidValue)?));
            Mechanism::EccEdwardsKeyPairGen
        }
    };
    session.generate_key_pair(&how, &public, &private)
}

/// Gives both halves the id that follows from the public key, and checks what was made (law 7).
fn finish(hands: &Hands, public: ObjectHandle, private: ObjectHandle) -> Result<ServedKey, Failure> {
    let mut inspected = inspect(&hands.session, private).map_err(|failed| match failed {
        Failed::Unfit(reason) => Failure::new(Sense::Ambiguous, reason),
        Failed::Unread(failure) => failure,
    })?;
    inspected.cka_id = inspected.public.id.as_bytes().to_vec();
    let id = [Attribute::Id(inspected.cka_id.clone())];
    for object in [public, private] {
        hands
            .session
            .update_attributes(object, &id)
            .map_err(|error| Failure::from(error).of("the token does not give the new key its id"))?;
    }
    // Encrypting may work where decrypting does not: only now can we be sure.
    let unwraps = matches!(inspected.public.kind, KeyKind::RsaUnwrap { .. });
    let wrappings =
        if unwraps { wrappings_of_key(hands, private, &inspected.public.spki)? } else { Vec::new() };
    if unwraps && wrappings.is_empty() {
        return Err(Failure::new(Sense::Ambiguous, "the new key does not unwrap a test ciphertext"));
    }
    if matches!(inspected.public.kind, KeyKind::RsaPssSign { .. }) {
        try_to_sign(hands, private, &inspected.public)?;
    }
    ServedKey::new(hands, private, inspected, &wrappings)
}

/// Tokens make keys for PSS that they cannot use.
fn try_to_sign(hands: &Hands, private: ObjectHandle, public: &PublicKey) -> Result<(), Failure> {
    let cannot = |failure: Failure| failure.of("the token cannot sign with RSASSA-PSS (CKM_RSA_PKCS_PSS)");
    let algorithm = SignatureAlgorithm::RsaPss(Hash::Sha256);
    let mut random = vec![0; algorithm.hash().size()];
    rand::fill(&mut random).map_err(|_| cannot(Error::NotSupported.into()))?;
    let digest = DigestToSign::new(public.id, algorithm, random);
    let digest = digest.ok_or_else(|| cannot(Error::InvalidValue.into()))?;
    let signature = hands.sign_digest(private, &digest).map_err(|error| cannot(error.into()))?;
    match signature.filter(|signature| mechanism::verifies_digest(&public.spki, &digest, signature)) {
        Some(_) => Ok(()),
        None => Err(cannot(Failure::new(Sense::Ambiguous, "its signature does not verify"))),
    }
}

/// Destroys every object of a key pair, served or not. How many that were.
pub(super) fn destroy(session: &Session, id: KeyId) -> Result<usize, Failure> {
    let cannot = |failure: Failure| failure.of(format!("the key {id} is not destroyed"));
    let id_of = |class, handle| match class {
        ObjectClass::PRIVATE_KEY => Ok(public_key_of(session, handle)?.map(|public| public.id)),
        _ => Ok(public_id(session, handle)?),
    };
    // All are found before the first is destroyed: what cannot be read costs nothing then. Private keys first: without them,
    // the public ones are no harm.
    let mut found = Vec::new();
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let listed = Listed::of(session, class).map_err(cannot)?;
        let mut its = Vec::new();
        for handle in listed.handles() {
            let read = listed.unless_gone(handle, id_of(class, handle)).map_err(cannot)?;
            if read.flatten() == Some(id) {
                its.push(handle);
            }
        }
        found.push((listed, its));
    }
    let mut destroyed = 0;
    for (listed, its) in &found {
        for handle in its {
            let gone = session.destroy_object(*handle).map_err(Failure::from);
            listed.unless_gone(*handle, gone).map_err(cannot)?;
            destroyed += 1;
        }
    }
    Ok(destroyed)
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
        (_, (Some(params), Some(point))) => {
            PublicKey::p256(&params, &point).or_else(|_| PublicKey::ed25519(&params, &point))
        }
        _ => return Ok(None),
    };
    Ok(public.ok().map(|public| public.id))
}
