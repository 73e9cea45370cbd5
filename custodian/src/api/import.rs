//! Keys that are in the token and not in the ledger: made by ceremony, or left over.

use custodian_proto::{key::KeyId, v1};

use super::{Api, call::invalid, new_key::NewKey};
use crate::{
    authority::WrappingKey,
    custody::Denial,
    pki::foreign::WrappingCertificate,
    token::{KeyKind, Survey, TokenKey},
};

/// Which key to take up.
pub(super) enum Source {
    /// That of this certificate, which senders have or will have.
    Certificate(Vec<u8>),
    /// This one; the device CA certifies it.
    Key(KeyId),
}

impl Api {
    /// Takes up a key pair that the token serves. `new` says what it is to be, but for version and size.
    pub(super) async fn take_up(&self, source: Source, new: NewKey) -> Result<WrappingKey, Denial> {
        let survey = self.look_into_token().await?;
        let newest = self.custodian.ledger().key_by_label(&new.label).await?;
        let version = newest.map_or(1, |newest| newest.version.saturating_add(1));
        match source {
            Source::Key(id) => {
                let (key, modulus_bits) = served(&survey, id)?;
                let new = NewKey { version, modulus_bits, ..new };
                new.certify_for(key, &self.ca, self.lifetimes.wrapping_key_days).await
            }
            Source::Certificate(der) => {
                let certificate = WrappingCertificate::read(&der)
                    .map_err(|error| invalid(format!("certificate: {error}")))?;
                let (key, modulus_bits) = served(&survey, certificate.key)?;
                if let Some(wrapping) = key.wrapping {
                    certificate.suits(wrapping).map_err(|why| invalid(format!("certificate: {why}")))?;
                }
                let new = NewKey { version, modulus_bits, ..new };
                new.with_certificate(key, der, &certificate.facts)
            }
        }
    }

    /// The key pairs that could be taken up, and those that the token does not serve.
    pub(super) async fn unused_keys(&self) -> Result<v1::ListUnusedKeysResponse, Denial> {
        let survey = self.look_into_token().await?;
        let mut keys = Vec::new();
        for key in &survey.keys {
            let KeyKind::RsaUnwrap { modulus_bits } = key.kind else { continue };
            if self.custodian.ledger().key(key.id).await?.is_none() {
                keys.push(v1::UnusedKey {
                    name: key.id.resource_name(),
                    token_label: key.label.clone(),
                    modulus_bits,
                    uris: self.custodian.token().uris(key.id),
                });
            }
        }
        Ok(v1::ListUnusedKeysResponse { keys, unserved: survey.unserved })
    }

    /// Anew: keys may have been made with other tools since the start.
    async fn look_into_token(&self) -> Result<Survey, Denial> {
        Ok(self.custodian.token().survey(self.custodian.token_deadline()).await?)
    }
}

/// The wrapping key of this id and the size of its modulus; or what is to be said to an administrator.
fn served(survey: &Survey, id: KeyId) -> Result<(&TokenKey, u32), Denial> {
    let found = survey.keys.iter().find(|key| key.id == id);
    if let Some((key, KeyKind::RsaUnwrap { modulus_bits })) = found.map(|key| (key, key.kind)) {
        return Ok((key, modulus_bits));
    }
    let unserved = match survey.unserved.as_slice() {
        [] => String::new(),
        reasons => format!("; not served: {}", reasons.join("; ")),
    };
    Err(invalid(format!("the token serves no wrapping key {id}{unserved}")))
}
