//! Sign keeps the laws that Unwrap keeps.

use super::*;
use crate::authority::{KeyPurpose, KeyTask, SigningScheme};

impl Scene {
    /// Adds a signing key.
    async fn has_signing_key(&self, label: &str, scheme: SigningScheme) -> KeyId {
        let kind = match scheme {
            SigningScheme::RsaPss => KeyKind::RsaPssSign { modulus_bits: 2048 },
            SigningScheme::EcdsaP256 => KeyKind::EcdsaP256Sign,
        };
        let template = KeyTemplate { label: label.to_owned(), kind };
        let token = self.custodian.token();
        let key = token.generate(template, Instant::now() + Duration::from_secs(60)).await.unwrap();
        let purpose = KeyPurpose::Sign(scheme);
        let metadata = WrappingKey { id: key.id, purpose, ..world::key(label) };
        World { ledger: Arc::clone(&self.ledger) }.done(Change::AddKey(metadata)).await;
        key.id
    }

    /// Signs with this key; what came of it, by its code. The log says the same.
    async fn signs(&self, key: KeyId, algorithm: SignatureAlgorithm) -> Result<Vec<u8>, &'static str> {
        let call = self.call().await;
        let id = call.request_id;
        let signed = self.custodian.sign(call, request(key, algorithm)).await;
        let outcome = signed.map(|signed| signed.signature).map_err(|denial| denial.code());
        let record = self.record_of(id).await.unwrap();
        let expected = outcome.as_ref().map_or_else(|code| *code, |_| OK);
        assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Sign", expected));
        let digest = format!("{}:{}", algorithm.hash().name(), "d1".repeat(algorithm.hash().size()));
        assert_eq!((record.digest, record.key), (digest, key.resource_name()));
        assert_eq!(record.claims.unwrap().file_name, "contract.pdf");
        assert!(record.wrapped_key_sha256.is_empty());
        outcome
    }
}

const PSS: SignatureAlgorithm = SignatureAlgorithm::RsaPss(Hash::Sha256);

fn request(key: KeyId, algorithm: SignatureAlgorithm) -> SignRequest {
    let digest = DigestToSign::new(key, algorithm, vec![0xd1; algorithm.hash().size()]).unwrap();
    SignRequest { digest, claims: Claims { file_name: "contract.pdf".into(), ..Claims::default() } }
}

#[tokio::test]
async fn law_1_the_record_is_there_when_the_signature_is() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let rsa = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
    let ecdsa = scene.has_signing_key("ecdsa", SigningScheme::EcdsaP256).await;
    for algorithm in SignatureAlgorithm::ALL {
        let key = if algorithm == SignatureAlgorithm::EcdsaP256 { ecdsa } else { rsa };
        assert!(!scene.signs(key, algorithm).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn law_2_a_revocation_while_the_token_signs_wins() {
    let scene = Scene::new(Meanwhile::Revoked).await;
    let key = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
    assert_eq!(scene.signs(key, PSS).await, Err(Refusal::DeviceRevoked.code()));
}

#[tokio::test]
async fn law_2_a_key_that_stops_while_the_token_signs_has_signed_nothing() {
    for (state, refusal) in [
        (KeyState::Suspended, Refusal::KeySuspended),
        (KeyState::Deactivated, Refusal::KeyDeactivated),
        (KeyState::Compromised, Refusal::KeyCompromised),
    ] {
        let scene = Scene::new(Meanwhile::Stepped(state)).await;
        let key = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
        assert_eq!(scene.signs(key, PSS).await, Err(refusal.code()));
    }
}

#[tokio::test]
async fn a_key_does_what_it_was_made_for_and_nothing_else() {
    let scene = Scene::new(Meanwhile::Unthinkable).await;
    let signing = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
    let wrapping = scene.wrapped.key_id();
    assert_eq!(scene.signs(wrapping, PSS).await, Err(Refusal::WrongKeyUse.code()));
    assert_eq!(
        scene.signs(signing, SignatureAlgorithm::EcdsaP256).await,
        Err(Refusal::InvalidArgument.code())
    );
    let call = scene.call().await;
    let wrapped = WrappedKey::new(signing, KeyWrapping::OaepSha256, vec![1; 256]).unwrap();
    let request = UnwrapRequest { wrapped, claims: Claims::default() };
    let denial = scene.custodian.unwrap(call.clone(), request).await.err();
    assert_eq!(denial.map(|denial| denial.code()), Some(Refusal::WrongKeyUse.code()));
    assert_eq!(scene.record_of(call.request_id).await.unwrap().outcome, Refusal::WrongKeyUse.code());
    assert_eq!(scene.signs(KeyId::of_public_key(b"none"), PSS).await, Err(Refusal::KeyUnknown.code()));
}

#[tokio::test]
async fn a_signature_costs_what_the_unwrap_of_a_new_file_costs() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let key = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
    scene.limited(world::hourly(2));
    assert!(scene.custodian.unwrap(scene.call().await, scene.request()).await.is_ok());
    assert!(scene.signs(key, PSS).await.is_ok());
    assert_eq!(scene.signs(key, PSS).await, Err(Refusal::BudgetExhausted.code()));
    let mut files = Budgets::UNLIMITED;
    files.key.hour.files = 2;
    let scene = Scene::new(Meanwhile::Nothing).await;
    let key = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
    scene.limited(files);
    // The same digest again is a further file.
    assert!(scene.signs(key, PSS).await.is_ok() && scene.signs(key, PSS).await.is_ok());
    assert_eq!(scene.signs(key, PSS).await, Err(Refusal::BudgetExhausted.code()));
}

#[tokio::test]
async fn law_3_a_permit_to_unwrap_is_none_to_sign() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let key = scene.has_signing_key("pss", SigningScheme::RsaPss).await;
    let SignRequest { digest, .. } = request(key, PSS);
    for task in [KeyTask::Unwrap, KeyTask::Wrap, KeyTask::Sign] {
        let call = scene.call().await;
        let need = match task {
            KeyTask::Unwrap => Need::Unwrap(&scene.wrapped),
            KeyTask::Wrap => Need::Wrap(scene.wrapped.key_id()),
            KeyTask::Sign | KeyTask::Timestamp => Need::Sign(&digest),
        };
        let permit = scene.custodian.authority().permit(&call.caller, need, &call.intent("Sign")).await;
        let signed =
            scene.custodian.token().sign_digest(permit.unwrap(), &digest, scene.custodian.token_deadline());
        assert_eq!(signed.await.is_ok(), task == KeyTask::Sign, "{task:?}");
    }
}

#[tokio::test]
async fn the_policy_says_what_is_signed() {
    let scene = Scene::new(Meanwhile::Nothing).await;
    let key = scene.has_signing_key("contracts", SigningScheme::RsaPss).await;
    let other = scene.has_signing_key("other", SigningScheme::RsaPss).await;
    let text = format!(
        "{}\n@id(\"no-contracts\") forbid (principal, action == Action::\"Sign\", resource) when \
         {{ resource is Key && resource.label == \"contracts\" }};",
        PolicyText::initial().text
    );
    let policy = PolicyText { version: 1, text: text.clone(), ..PolicyText::initial() };
    let world = World { ledger: Arc::clone(&scene.ledger) };
    world.done(Change::ApplyPolicy { policy, approvers: 0 }).await;
    scene.custodian.authority().set_policy(Policy::parse(1, &text).unwrap());
    assert_eq!(scene.signs(key, PSS).await, Err(Refusal::PolicyDenied.code()));
    assert!(scene.signs(other, PSS).await.is_ok());
    assert!(scene.custodian.unwrap(scene.call().await, scene.request()).await.is_ok());
}
