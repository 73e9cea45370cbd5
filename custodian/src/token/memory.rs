//! A token in memory, for tests of what stands on a token. Real RSA, ECDSA and Ed25519; passes the contract.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use aws_lc_rs::{
    digest,
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeySize, OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PSS_SHA256,
        RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    openpgp,
    sign::{DigestToSign, Hash, SignatureAlgorithm},
};

use super::{
    Cage, Health, KeyDescription, KeyKind, KeyTemplate, Said, Survey, Token, TokenDescription, TokenError,
    TokenKey, mechanism::oaep_public,
};
use crate::{
    authority::{KeyTask, Permit},
    custody::Withheld,
};

/// A token in memory that unwraps one wrapping.
pub(crate) struct MemoryToken {
    wrapping: KeyWrapping,
    keys: Mutex<HashMap<KeyId, (TokenKey, Arc<Private>)>>,
}

enum Private {
    Rsa(OaepPrivateDecryptingKey),
    OpenPgp(Pkcs1PrivateDecryptingKey),
    Pss(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl MemoryToken {
    /// An empty one.
    pub(crate) fn new(wrapping: KeyWrapping) -> Self {
        Self { wrapping, keys: Mutex::default() }
    }

    /// Gives its RSA keys to another token, as a module would serve them that unwraps what that one does.
    pub(super) fn copy_to(&self, other: &Self) {
        for (id, (key, private)) in self.keys().iter() {
            let wrapping =
                key.wrapping.map(|own| if own == KeyWrapping::OpenPgp { own } else { other.wrapping });
            other.keys().insert(*id, (TokenKey { wrapping, ..key.clone() }, Arc::clone(private)));
        }
    }

    /// Unwraps, the permit having been used up.
    pub(super) fn decrypt(&self, wrapped: &WrappedKey, deadline: Instant) -> Result<FileKey, TokenError> {
        in_time(deadline)?;
        let keys = self.keys();
        let unknown = || TokenError::UnknownKey(wrapped.key_id());
        let (key, private) = keys.get(&wrapped.key_id()).ok_or_else(unknown)?;
        let both_pkcs1 = |own: KeyWrapping| own.is_pkcs1() && wrapped.wrapping().is_pkcs1();
        if key.wrapping.is_some_and(|own| own != wrapped.wrapping() && !both_pkcs1(own)) {
            return Err(TokenError::Rejected);
        }
        let ciphertext = wrapped.ciphertext();
        let file_key = match (&**private, oaep_public(wrapped.wrapping())) {
            (Private::Rsa(private), Some(algorithm)) => {
                let mut room = vec![0; private.min_output_size()];
                let plaintext = private.decrypt(algorithm, ciphertext, &mut room, None);
                plaintext.ok().and_then(FileKey::take)
            }
            (Private::OpenPgp(private), None) => {
                let mut room = vec![0; private.min_output_size()];
                let plaintext = private.decrypt(ciphertext, &mut room);
                match wrapped.wrapping() {
                    KeyWrapping::Pkcs1 => plaintext.ok().and_then(FileKey::take),
                    _ => plaintext.ok().and_then(openpgp::take_file_key),
                }
            }
            _ => return Err(unknown()),
        };
        file_key.ok_or(TokenError::Rejected)
    }

    /// Signs, the permit having been used up.
    pub(super) fn sign_a_digest(
        &self,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Vec<u8>, TokenError> {
        in_time(deadline)?;
        let keys = self.keys();
        let unknown = || TokenError::UnknownKey(digest.key_id());
        let (_, private) = keys.get(&digest.key_id()).ok_or_else(unknown)?;
        match (&**private, digest.algorithm()) {
            (Private::Pss(pair), SignatureAlgorithm::RsaPss(hash)) => {
                let (encoding, hash): (&'static dyn RsaEncoding, _) = match hash {
                    Hash::Sha256 => (&RSA_PSS_SHA256, &digest::SHA256),
                    Hash::Sha384 => (&RSA_PSS_SHA384, &digest::SHA384),
                    Hash::Sha512 => (&RSA_PSS_SHA512, &digest::SHA512),
                };
                let digest = digest::Digest::import_less_safe(digest.digest(), hash).expect("a digest");
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(encoding, &digest, &mut signature).expect("signing with a key in memory");
                Ok(signature)
            }
            (Private::Ec(pair), SignatureAlgorithm::EcdsaP256) => {
                let digest = digest::Digest::import_less_safe(digest.digest(), &digest::SHA256);
                let signature = pair.sign_digest(&digest.expect("a digest"));
                Ok(signature.expect("signing with a key in memory").as_ref().to_vec())
            }
            _ => Err(unknown()),
        }
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashMap<KeyId, (TokenKey, Arc<Private>)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Survey {
        let mut keys: Vec<_> = self.keys().values().map(|(key, _)| key.clone()).collect();
        keys.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
        Survey {
            label: "memory".to_owned(),
            model: "in memory".to_owned(),
            wrapping: self.wrapping,
            keys,
            unserved: Vec::new(),
            cage: Cage::default(),
            remarks: Vec::new(),
        }
    }
}

fn rsa_size(modulus_bits: u32) -> Result<KeySize, TokenError> {
    match modulus_bits {
        2048 => Ok(KeySize::Rsa2048),
        3072 => Ok(KeySize::Rsa3072),
        4096 => Ok(KeySize::Rsa4096),
        other => Err(TokenError::Unavailable(format!("no RSA keys of {other} bits"))),
    }
}

fn in_time(deadline: Instant) -> Result<(), TokenError> {
    if deadline > Instant::now() {
        Ok(())
    } else {
        Err(TokenError::Unavailable("the token did not answer in time".to_owned()))
    }
}

#[async_trait]
impl Token for MemoryToken {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        let standing =
            permit.redeem_for(KeyTask::Unwrap, wrapped.key_id()).ok_or(TokenError::NotPermitted)?;
        self.decrypt(wrapped, deadline).map(|key| Withheld::new(key, standing))
    }

    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        let standing = permit.redeem_to_sign(digest.key_id()).ok_or(TokenError::NotPermitted)?;
        self.sign_a_digest(digest, deadline).map(|signature| Withheld::new(signature, standing))
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        in_time(deadline)?;
        match self.keys().get(&key).map(|(_, private)| &**private) {
            Some(Private::Ec(pair)) => Ok(pair
                .sign(&SystemRandom::new(), message)
                .expect("signing with a key in memory")
                .as_ref()
                .to_vec()),
            Some(Private::Ed(pair)) => Ok(pair.sign(message).as_ref().to_vec()),
            _ => Err(TokenError::UnknownKey(key)),
        }
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        in_time(deadline)?;
        let (private, spki, wrapping) = match template.kind {
            KeyKind::RsaUnwrap { modulus_bits } | KeyKind::RsaOpenPgp { modulus_bits } => {
                let size = rsa_size(modulus_bits)?;
                let private = PrivateDecryptingKey::generate(size).expect("an RSA key");
                let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(&private.public_key()).expect("SPKI");
                let spki = spki.as_ref().to_vec();
                if matches!(template.kind, KeyKind::RsaOpenPgp { .. }) {
                    let private = Pkcs1PrivateDecryptingKey::new(private).expect("an RSA key");
                    (Private::OpenPgp(private), spki, Some(KeyWrapping::OpenPgp))
                } else {
                    let private = OaepPrivateDecryptingKey::new(private).expect("an RSA key");
                    (Private::Rsa(private), spki, Some(self.wrapping))
                }
            }
            KeyKind::RsaPssSign { modulus_bits } => {
                let size = rsa_size(modulus_bits)?;
                let pair = RsaKeyPair::generate(size).expect("an RSA key");
                let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("SPKI");
                let spki = spki.as_ref().to_vec();
                (Private::Pss(pair), spki, None)
            }
            KeyKind::EcdsaP256Sign => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("an EC key");
                let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("SPKI");
                let spki = spki.as_ref().to_vec();
                (Private::Ec(pair), spki, None)
            }
            KeyKind::Ed25519Sign => {
                let pair = Ed25519KeyPair::generate().expect("an Ed25519 key");
                let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("SPKI");
                let spki = spki.as_ref().to_vec();
                (Private::Ed(pair), spki, None)
            }
        };
        let info = spki::SubjectPublicKeyInfoRef::try_from(spki.as_slice()).expect("SPKI");
        let id = KeyId::of_public_key(info.subject_public_key.raw_bytes());
        let uri = format!("pkcs11:token=memory;id=%{};type=private", hex::encode(id.as_bytes()));
        let key = TokenKey { id, label: template.label, kind: template.kind, wrapping, spki, uri };
        self.keys().insert(id, (key.clone(), Arc::new(private)));
        Ok(key)
    }

    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        in_time(deadline)?;
        self.keys().remove(&key).map(drop).ok_or(TokenError::UnknownKey(key))
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        in_time(deadline)?;
        let keys = self.keys();
        let (known, _) = keys.get(&key).ok_or(TokenError::UnknownKey(key))?;
        let token = TokenDescription { label: "memory".to_owned(), ..TokenDescription::default() };
        // It is a token of software, and says so.
        let attributes = vec![("CKA_SENSITIVE".to_owned(), Said::Flag(false))];
        Ok(vec![KeyDescription { token, uri: known.uri.clone(), attributes }])
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        in_time(deadline)?;
        Ok(self.look())
    }

    fn health(&self) -> Health {
        Health { restarts: 0, trouble: None, last_survey: Some(Arc::new(self.look())) }
    }
}
