//! What every token promises. The double and the real one pass the same suite.

use std::time::{Duration, Instant};

use aws_lc_rs::{
    rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey},
    signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey},
};
use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    openpgp,
    sign::{DigestToSign, SignatureAlgorithm},
};

use super::{KeyKind, KeyTemplate, Token, TokenError, TokenKey, mechanism, memory::MemoryToken};
use crate::authority::{KeyTask, Permit, Standing};

pub(super) const FILE_KEY: [u8; 32] = [0x5e; 32];

pub(super) const RSA: KeyKind = KeyKind::RsaUnwrap { modulus_bits: 2048 };

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(super) fn template(label: &str, kind: KeyKind) -> KeyTemplate {
    KeyTemplate { label: label.to_owned(), kind }
}

/// Encrypts anything to a wrapping key, as the key wants it.
pub(super) fn encrypt(key: &TokenKey, plaintext: &[u8]) -> Vec<u8> {
    encrypt_as(key, key.wrapping.unwrap(), plaintext)
}

/// Encrypts anything to a wrapping key.
pub(super) fn encrypt_as(key: &TokenKey, wrapping: KeyWrapping, plaintext: &[u8]) -> Vec<u8> {
    mechanism::encrypt(&key.spki, wrapping, plaintext).unwrap()
}

pub(super) fn wrapped(key: &TokenKey, ciphertext: Vec<u8>) -> WrappedKey {
    WrappedKey::new(key.id, key.wrapping.unwrap(), ciphertext).unwrap()
}

/// Unwraps with a permit for tests.
pub(super) async fn unwrap(
    token: &dyn Token,
    wrapped: &WrappedKey,
    deadline: Instant,
) -> Result<[u8; 32], TokenError> {
    let permit = Permit::for_test(Standing { key: Some(wrapped.key_id()), ..Standing::default() });
    token.unwrap(permit, wrapped, deadline).await.map(|withheld| *withheld.reveal().expose())
}

/// The suite.
pub(super) async fn holds(token: &dyn Token) {
    let before = token.survey(soon()).await.unwrap();
    let key = token.generate(template("wrapping", RSA), soon()).await.unwrap();
    let signer = token.generate(template("signing", KeyKind::EcdsaP256Sign), soon()).await.unwrap();

    health_knows_every_key_without_a_survey(token, &before.keys, &key, &signer);
    generated_keys_are_what_was_asked_for(token, &before.keys, &key, &signer).await;
    law_3_a_permit_is_for_one_key(token, &key, &signer).await;
    file_keys_come_back(token, &key).await;
    bad_ciphertexts_have_one_answer(token, &key).await;
    keys_serve_one_purpose(token, &key, &signer).await;
    signatures_verify(token, &signer).await;
    digests_are_signed_by_keys_made_for_it(token, &key, &signer).await;
    past_deadlines_are_not_served(token, &key, &signer).await;
    keys_are_described_by_name(token, &key, &signer).await;
    openpgp_keys_unwrap_what_openpgp_wraps(token, &key).await;
    destroyed_keys_are_gone_and_not_missed(token, &before.keys, &key, &signer).await;
    keys_come_and_go_beside_each_other(token, &before.keys).await;
    ed25519_works_or_is_refused_cleanly(token).await;
    assert_eq!(token.health().trouble, None);
}

fn health_knows_every_key_without_a_survey(
    token: &dyn Token,
    before: &[TokenKey],
    key: &TokenKey,
    signer: &TokenKey,
) {
    let known = token.health().last_survey.unwrap();
    assert_eq!(known.keys.len(), before.len() + 2);
    assert!(known.keys.contains(key) && known.keys.contains(signer));
}

async fn generated_keys_are_what_was_asked_for(
    token: &dyn Token,
    before: &[TokenKey],
    key: &TokenKey,
    signer: &TokenKey,
) {
    let survey = token.survey(soon()).await.unwrap();
    assert_eq!(token.health().last_survey.as_deref(), Some(&survey));
    assert_eq!(survey.keys.len(), before.len() + 2);
    assert!(survey.keys.contains(key) && survey.keys.contains(signer));
    assert_eq!((key.label.as_str(), key.kind, key.wrapping), ("wrapping", RSA, Some(survey.wrapping)));
    assert_eq!(
        (signer.label.as_str(), signer.kind, signer.wrapping),
        ("signing", KeyKind::EcdsaP256Sign, None)
    );
    for key in [key, signer] {
        let info = spki::SubjectPublicKeyInfoRef::try_from(key.spki.as_slice()).unwrap();
        assert_eq!(key.id, KeyId::of_public_key(info.subject_public_key.raw_bytes()));
    }
}

async fn law_3_a_permit_is_for_one_key(token: &dyn Token, key: &TokenKey, other: &TokenKey) {
    let wrapped = wrapped(key, encrypt(key, &FILE_KEY));
    for standing in [Standing::default(), Standing { key: Some(other.id), ..Standing::default() }] {
        let unwrapped = token.unwrap(Permit::for_test(standing), &wrapped, soon()).await;
        assert_eq!(unwrapped.map(drop), Err(TokenError::NotPermitted));
    }
}

async fn file_keys_come_back(token: &dyn Token, key: &TokenKey) {
    let wrapped = wrapped(key, encrypt(key, &FILE_KEY));
    assert_eq!(unwrap(token, &wrapped, soon()).await, Ok(FILE_KEY));
    assert_eq!(unwrap(token, &wrapped, soon()).await, Ok(FILE_KEY));
}

/// Laws 4 and 5.
async fn bad_ciphertexts_have_one_answer(token: &dyn Token, key: &TokenKey) {
    for (what, ciphertext) in bad_ciphertexts(key) {
        let bad = wrapped(key, ciphertext);
        assert_eq!(unwrap(token, &bad, soon()).await, Err(TokenError::Rejected), "{what}");
    }
    let other = KeyWrapping::OAEP.into_iter().find(|other| Some(*other) != key.wrapping).unwrap();
    let bad = WrappedKey::new(key.id, other, encrypt(key, &FILE_KEY)).unwrap();
    assert_eq!(unwrap(token, &bad, soon()).await, Err(TokenError::Rejected), "another wrapping");
    file_keys_come_back(token, key).await;
}

/// Laws 4 and 5, for the one kind of key that has PKCS#1 v1.5.
async fn openpgp_keys_unwrap_what_openpgp_wraps(token: &dyn Token, oaep: &TokenKey) {
    let kind = KeyKind::RsaOpenPgp { modulus_bits: 2048 };
    let key = token.generate(template("openpgp", kind), soon()).await.unwrap();
    assert_eq!((key.kind, key.wrapping), (kind, Some(KeyWrapping::OpenPgp)));
    let file_key = || FileKey::new(FILE_KEY);
    for good in [openpgp::wrapped_by_v3(&file_key()), openpgp::wrapped_by_v6(&file_key())] {
        assert_eq!(unwrap(token, &wrapped(&key, encrypt(&key, &good)), soon()).await, Ok(FILE_KEY));
    }

    let good = openpgp::wrapped_by_v3(&file_key());
    let changed = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        encrypt(&key, &bytes)
    };
    let whole = encrypt(&key, &good);
    for (what, ciphertext) in [
        ("garbage", vec![0x42; 256]),
        ("zeros", vec![0; 256]),
        ("more than the modulus", vec![0xff; 256]),
        ("short", whole[1..].to_vec()),
        ("another cipher", changed(0)),
        ("another key", changed(1)),
        ("another checksum", changed(34)),
        ("no checksum", encrypt(&key, &FILE_KEY)),
        ("nothing", encrypt(&key, &[])),
        ("AES-128", encrypt(&key, &[&[7], &[1; 16][..], &[0, 16]].concat())),
        ("padded with OAEP", encrypt_as(&key, KeyWrapping::OaepSha1, &good)),
    ] {
        let bad = wrapped(&key, ciphertext);
        assert_eq!(unwrap(token, &bad, soon()).await, Err(TokenError::Rejected), "{what}");
    }
    let as_oaep = encrypt_as(&key, KeyWrapping::OaepSha1, &FILE_KEY);
    let as_oaep = WrappedKey::new(key.id, KeyWrapping::OaepSha1, as_oaep).unwrap();
    assert_eq!(unwrap(token, &as_oaep, soon()).await, Err(TokenError::Rejected));
    let by_oaep_key = encrypt_as(oaep, KeyWrapping::OpenPgp, &good);
    let by_oaep_key = WrappedKey::new(oaep.id, KeyWrapping::OpenPgp, by_oaep_key).unwrap();
    assert_eq!(unwrap(token, &by_oaep_key, soon()).await, Err(TokenError::Rejected));
    assert_eq!(unwrap(token, &wrapped(&key, whole), soon()).await, Ok(FILE_KEY));
    such_keys_unwrap_bare_file_keys(token, &key, oaep).await;
    token.destroy(key.id, soon()).await.unwrap();
}

/// The mechanism cannot tell what a key with PKCS#1 v1.5 was made for: OpenPGP, or CMS. Each is asked for by name.
async fn such_keys_unwrap_bare_file_keys(token: &dyn Token, key: &TokenKey, oaep: &TokenKey) {
    let bare = |ciphertext| WrappedKey::new(key.id, KeyWrapping::Pkcs1, ciphertext).unwrap();
    let good = encrypt(key, &FILE_KEY);
    assert_eq!(unwrap(token, &bare(good.clone()), soon()).await, Ok(FILE_KEY));
    for (what, ciphertext) in [
        ("garbage", vec![0x42; 256]),
        ("zeros", vec![0; 256]),
        ("short", good[1..].to_vec()),
        ("31 bytes", encrypt(key, &[7; 31])),
        ("33 bytes", encrypt(key, &[7; 33])),
        ("AES-128", encrypt(key, &[7; 16])),
        ("nothing", encrypt(key, &[])),
        ("what OpenPGP wraps", encrypt(key, &openpgp::wrapped_by_v3(&FileKey::new(FILE_KEY)))),
        ("padded with OAEP", encrypt_as(key, KeyWrapping::OaepSha1, &FILE_KEY)),
    ] {
        assert_eq!(unwrap(token, &bare(ciphertext), soon()).await, Err(TokenError::Rejected), "{what}");
    }
    let by_oaep_key = encrypt_as(oaep, KeyWrapping::Pkcs1, &FILE_KEY);
    let by_oaep_key = WrappedKey::new(oaep.id, KeyWrapping::Pkcs1, by_oaep_key).unwrap();
    assert_eq!(unwrap(token, &by_oaep_key, soon()).await, Err(TokenError::Rejected));
    assert_eq!(unwrap(token, &bare(good), soon()).await, Ok(FILE_KEY));
}

pub(super) fn bad_ciphertexts(key: &TokenKey) -> Vec<(&'static str, Vec<u8>)> {
    let good = encrypt(key, &FILE_KEY);
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    let public = PublicEncryptingKey::from_der(&key.spki).unwrap();
    let public = Pkcs1PublicEncryptingKey::new(public).unwrap();
    let mut pkcs1 = vec![0; public.ciphertext_size()];
    public.encrypt(&FILE_KEY, &mut pkcs1).unwrap();
    vec![
        ("garbage", vec![0x42; good.len()]),
        ("zeros", vec![0; good.len()]),
        ("more than the modulus", vec![0xff; good.len()]),
        ("one bit wrong", damaged),
        ("one byte short", good[1..].to_vec()),
        ("one byte long", [&good[..], &[0]].concat()),
        ("one byte", vec![1]),
        ("31 bytes inside", encrypt(key, &[7; 31])),
        ("33 bytes inside", encrypt(key, &[7; 33])),
        ("nothing inside", encrypt(key, &[])),
        ("PKCS#1 v1.5 padding", pkcs1),
    ]
}

async fn keys_serve_one_purpose(token: &dyn Token, key: &TokenKey, signer: &TokenKey) {
    assert_eq!(token.sign(key.id, b"message", soon()).await, Err(TokenError::UnknownKey(key.id)));
    let ciphertext = encrypt(key, &FILE_KEY);
    for id in [signer.id, KeyId::of_public_key(b"no such key")] {
        let wrapped = WrappedKey::new(id, key.wrapping.unwrap(), ciphertext.clone()).unwrap();
        assert_eq!(unwrap(token, &wrapped, soon()).await, Err(TokenError::UnknownKey(id)));
    }
}

async fn signatures_verify(token: &dyn Token, signer: &TokenKey) {
    let info = spki::SubjectPublicKeyInfoRef::try_from(signer.spki.as_slice()).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, info.subject_public_key.raw_bytes());
    for message in [b"".as_slice(), b"message", &[7; 100_000]] {
        let signature = token.sign(signer.id, message, soon()).await.unwrap();
        public.verify(message, &signature).unwrap();
    }
}

/// Laws 3 and 7.
async fn digests_are_signed_by_keys_made_for_it(token: &dyn Token, wrapping: &TokenKey, ecdsa: &TokenKey) {
    let kind = KeyKind::RsaPssSign { modulus_bits: 2048 };
    let pss = token.generate(template("pss", kind), soon()).await.unwrap();
    assert_eq!((pss.kind, pss.wrapping), (kind, None));
    assert!(token.survey(soon()).await.unwrap().keys.contains(&pss), "law 7: it is what it claims");
    for algorithm in SignatureAlgorithm::ALL {
        let to_sign =
            |key: KeyId| DigestToSign::new(key, algorithm, vec![0xd1; algorithm.hash().size()]).unwrap();
        for key in [&pss, ecdsa, wrapping] {
            let (digest, other) = (to_sign(key.id), to_sign(KeyId::of_public_key(b"no such key")));
            let signed = sign_digest(token, &digest, soon()).await;
            if !key.kind.signs_digests(algorithm) {
                assert_eq!(signed, Err(TokenError::UnknownKey(key.id)), "{algorithm}");
                continue;
            }
            let signature = signed.unwrap();
            assert!(mechanism::verifies_digest(&key.spki, &digest, &signature), "{algorithm}");
            let past = sign_digest(token, &digest, Instant::now()).await;
            assert!(matches!(past, Err(TokenError::Unavailable(_))));
            assert_eq!(sign_digest(token, &other, soon()).await, Err(TokenError::UnknownKey(other.key_id())));
            // Permits to unwrap and to wrap, and one for another key.
            for standing in [
                Standing { key: Some(key.id), ..Standing::default() },
                Standing { key: Some(key.id), task: KeyTask::Wrap, ..Standing::default() },
                Standing { key: Some(wrapping.id), task: KeyTask::Sign, ..Standing::default() },
            ] {
                let signed = token.sign_digest(Permit::for_test(standing), &digest, soon()).await;
                assert_eq!(signed.map(drop), Err(TokenError::NotPermitted));
            }
        }
    }
    // It unwraps nothing, and signs no message of ours.
    let ciphertext = encrypt_as(&pss, KeyWrapping::OaepSha1, &FILE_KEY);
    let wrapped = WrappedKey::new(pss.id, KeyWrapping::OaepSha1, ciphertext).unwrap();
    assert_eq!(unwrap(token, &wrapped, soon()).await, Err(TokenError::UnknownKey(pss.id)));
    assert_eq!(token.sign(pss.id, b"message", soon()).await, Err(TokenError::UnknownKey(pss.id)));
    token.destroy(pss.id, soon()).await.unwrap();
}

/// Signs with a permit for tests.
async fn sign_digest(
    token: &dyn Token,
    digest: &DigestToSign,
    deadline: Instant,
) -> Result<Vec<u8>, TokenError> {
    let (key, task) = (Some(digest.key_id()), KeyTask::Sign);
    let permit = Permit::for_test(Standing { key, task, ..Standing::default() });
    token.sign_digest(permit, digest, deadline).await.map(crate::custody::Withheld::reveal)
}

/// Not every token can do it: the log then has an ECDSA key.
async fn ed25519_works_or_is_refused_cleanly(token: &dyn Token) {
    let before = token.survey(soon()).await.unwrap().keys.len();
    let Ok(key) = token.generate(template("ed", KeyKind::Ed25519Sign), soon()).await else {
        assert_eq!(token.survey(soon()).await.unwrap().keys.len(), before, "nothing is left behind");
        return;
    };
    assert_eq!((key.kind, key.wrapping), (KeyKind::Ed25519Sign, None));
    let info = spki::SubjectPublicKeyInfoRef::try_from(key.spki.as_slice()).unwrap();
    let public = UnparsedPublicKey::new(&ED25519, info.subject_public_key.raw_bytes());
    for message in [b"".as_slice(), b"message", &[7; 100_000]] {
        public.verify(message, &token.sign(key.id, message, soon()).await.unwrap()).unwrap();
    }
    token.destroy(key.id, soon()).await.unwrap();
    assert_eq!(token.survey(soon()).await.unwrap().keys.len(), before);
}

async fn past_deadlines_are_not_served(token: &dyn Token, key: &TokenKey, signer: &TokenKey) {
    let past = Instant::now();
    let wrapped = wrapped(key, encrypt(key, &FILE_KEY));
    assert!(matches!(unwrap(token, &wrapped, past).await, Err(TokenError::Unavailable(_))));
    assert!(matches!(token.sign(signer.id, b"", past).await, Err(TokenError::Unavailable(_))));
    let count = token.survey(soon()).await.unwrap().keys.len();
    assert!(matches!(token.generate(template("late", RSA), past).await, Err(TokenError::Unavailable(_))));
    assert_eq!(token.survey(soon()).await.unwrap().keys.len(), count);
}

async fn keys_are_described_by_name(token: &dyn Token, key: &TokenKey, signer: &TokenKey) {
    for one in [key, signer] {
        let described = token.describe(one.id, soon()).await.unwrap();
        assert!(!described.is_empty());
        let uris: Vec<_> = described.iter().map(|described| described.uri.clone()).collect();
        assert_eq!(token.uris(one.id), uris);
        for described in described {
            assert!(described.uri.starts_with("pkcs11:token=") && described.uri.ends_with(";type=private"));
            assert!(described.attributes.iter().any(|(name, _)| name == "CKA_SENSITIVE"));
        }
    }
    let nobody = KeyId::of_public_key(b"no such key");
    assert_eq!(token.describe(nobody, soon()).await, Err(TokenError::UnknownKey(nobody)));
    assert!(token.uris(nobody).is_empty());
}

async fn destroyed_keys_are_gone_and_not_missed(
    token: &dyn Token,
    before: &[TokenKey],
    key: &TokenKey,
    signer: &TokenKey,
) {
    let wrapped = wrapped(key, encrypt(key, &FILE_KEY));
    let restarts = token.health().restarts;
    for gone in [key, signer] {
        token.destroy(gone.id, soon()).await.unwrap();
        assert_eq!(token.destroy(gone.id, soon()).await, Err(TokenError::UnknownKey(gone.id)));
        assert!(!token.health().last_survey.unwrap().keys.contains(gone));
    }
    assert_eq!(unwrap(token, &wrapped, soon()).await, Err(TokenError::UnknownKey(key.id)));
    assert_eq!(token.survey(soon()).await.unwrap().keys, before);
    assert_eq!(token.health().restarts, restarts, "a key that we destroyed is no fault");
}

async fn keys_come_and_go_beside_each_other(token: &dyn Token, before: &[TokenKey]) {
    let restarts = token.health().restarts;
    let come_and_go = async |name: &str| {
        for _ in 0..12 {
            let key = token.generate(template(name, KeyKind::EcdsaP256Sign), soon()).await.unwrap();
            assert_eq!(token.destroy(key.id, soon()).await, Ok(()));
        }
    };
    let look = async || {
        for _ in 0..12 {
            let keys = token.survey(soon()).await.unwrap().keys;
            assert!(before.iter().all(|key| keys.contains(key)));
        }
    };
    tokio::join!(come_and_go("one"), come_and_go("two"), come_and_go("three"), look());
    assert_eq!(token.survey(soon()).await.unwrap().keys, before);
    assert_eq!(token.health().restarts, restarts, "a key that somebody destroyed is no fault");
}

#[tokio::test]
async fn the_double_keeps_the_contract() {
    for wrapping in KeyWrapping::OAEP {
        holds(&MemoryToken::new(wrapping)).await;
    }
}
