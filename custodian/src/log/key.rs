//! The log's key: Ed25519, or ECDSA on P-256 where the token cannot.

use std::time::Instant;

use custodian_proto::{
    key::KeyId,
    tlog::{Flaw, VerifierKey},
};

use crate::token::{KeyKind, KeyTemplate, Token, TokenError};

/// CKA_LABEL of log keys.
const LABEL: &str = "log";

/// Why the log has no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogKeyError {
    /// The token did not answer, or did not generate.
    #[error("the token did not do it: {0}")]
    Token(#[from] TokenError),
    /// The name or the key is of no use.
    #[error("{0}")]
    Flaw(#[from] Flaw),
    /// The token has no such key, or does not serve it.
    #[error("{0}")]
    NotServed(String),
}

/// Makes a log key in the token: Ed25519, which every witness knows, or ECDSA if the token cannot. The log's name is the host's
/// with a part of the key's id behind it: no two logs share one.
///
/// # Errors
/// If the token generates neither.
pub async fn make_log_key(
    token: &dyn Token,
    host: &str,
    deadline: Instant,
) -> Result<VerifierKey, LogKeyError> {
    let template = |kind| KeyTemplate { label: LABEL.to_owned(), kind };
    let key = match token.generate(template(KeyKind::Ed25519Sign), deadline).await {
        Ok(key) => key,
        // Tokens say in many ways that they do not know it. What else fails, fails again.
        Err(error) => {
            tracing::info!("the log's key is an ECDSA key, as the token makes no Ed25519 key: {error}");
            token.generate(template(KeyKind::EcdsaP256Sign), deadline).await?
        }
    };
    let id = key.id.to_string();
    let name = format!("{}/log-{}", host.trim_start_matches("*."), id.get(..8).unwrap_or(&id));
    Ok(VerifierKey::of_spki(&name, &key.spki)?)
}

/// The id of the log's key, without a look into the token.
pub(super) fn id(verifier: &VerifierKey) -> Result<KeyId, LogKeyError> {
    let bad = |why: &str| LogKeyError::NotServed(format!("the log key {}: {why}", verifier.name()));
    let spki = verifier.spki();
    let info =
        spki::SubjectPublicKeyInfoRef::try_from(spki.as_slice()).map_err(|_| bad("it is no public key"))?;
    Ok(KeyId::of_public_key(info.subject_public_key.raw_bytes()))
}

/// The id of the log's key, which the token must serve for signing.
pub(super) async fn find(
    token: &dyn Token,
    verifier: &VerifierKey,
    deadline: Instant,
) -> Result<KeyId, LogKeyError> {
    let not_served = |why: &str| LogKeyError::NotServed(format!("the log key {}: {why}", verifier.name()));
    let spki = verifier.spki();
    let survey = token.survey(deadline).await?;
    match survey.keys.iter().find(|key| key.spki == spki) {
        Some(key) if key.kind.signs() => Ok(key.id),
        Some(_) => Err(not_served("it is not a signing key")),
        None => Err(not_served(&match survey.unserved.as_slice() {
            [] => format!("the token {:?} has no such key", survey.label),
            reasons => {
                format!("the token {:?} serves no such key. Not served: {}", survey.label, reasons.join("; "))
            }
        })),
    }
}
