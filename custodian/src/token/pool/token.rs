//! The pool as a [`Token`].

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    sign::DigestToSign,
};

use super::{
    Pool,
    look::look,
    member::Miss,
    seat::Seat,
    usage::{DigestSigning, Signing, Unwrapping},
};
use crate::{
    authority::{KeyTask, Permit},
    custody::Withheld,
    token::{
        Health, KeyDescription, KeyTemplate, Survey, Token, TokenError, TokenKey, TokenName, even::even_out,
    },
};

#[async_trait]
impl Token for Pool {
    async fn unwrap(
        &self,
        permit: Permit,
        wrapped: &WrappedKey,
        deadline: Instant,
    ) -> Result<Withheld<FileKey>, TokenError> {
        let standing =
            permit.redeem_for(KeyTask::Unwrap, wrapped.key_id()).ok_or(TokenError::NotPermitted)?;
        let begun = tokio::time::Instant::now();
        let unwrapped = self.perform(&Unwrapping(wrapped), deadline).await;
        even_out(begun, &unwrapped).await;
        unwrapped.map(|key| Withheld::new(key, standing))
    }

    async fn sign_digest(
        &self,
        permit: Permit,
        digest: &DigestToSign,
        deadline: Instant,
    ) -> Result<Withheld<Vec<u8>>, TokenError> {
        let standing = permit.redeem_to_sign(digest.key_id()).ok_or(TokenError::NotPermitted)?;
        let signature = self.perform(&DigestSigning(digest), deadline).await?;
        Ok(Withheld::new(signature, standing))
    }

    async fn sign(&self, key: KeyId, message: &[u8], deadline: Instant) -> Result<Vec<u8>, TokenError> {
        self.perform(&Signing { key, message }, deadline).await
    }

    async fn generate(&self, template: KeyTemplate, deadline: Instant) -> Result<TokenKey, TokenError> {
        self.make(None, template, deadline).await
    }

    async fn generate_in(
        &self,
        name: &TokenName,
        template: KeyTemplate,
        deadline: Instant,
    ) -> Result<TokenKey, TokenError> {
        self.make(Some(name), template, deadline).await
    }

    /// In every token, drained or not, and by every worker: each must learn that the key is gone. A token that is away may
    /// still have it, which is an error.
    async fn destroy(&self, key: KeyId, deadline: Instant) -> Result<(), TokenError> {
        let mut destroyed = Err(TokenError::UnknownKey(key));
        let mut failed = None;
        for seat in &self.seats {
            // Until all its workers know: one that looked in between would miss the key.
            let _turn = seat.turns.change(deadline).await;
            for line in &seat.lines {
                let outcome = match line.member() {
                    Some(member) => {
                        let _counted = line.begin();
                        member.destroy(key, deadline).await
                    }
                    None => Err(Miss::Gone),
                };
                match outcome {
                    Ok(()) => destroyed = Ok(()),
                    Err(Miss::Error(TokenError::UnknownKey(_))) => {}
                    Err(miss) => failed = Some(self.named(seat, &TokenError::from(miss).to_string())),
                }
            }
        }
        match failed {
            Some(why) => Err(TokenError::Unavailable(why)),
            None => destroyed,
        }
    }

    async fn describe(&self, key: KeyId, deadline: Instant) -> Result<Vec<KeyDescription>, TokenError> {
        let (mut described, mut last) = (Vec::new(), TokenError::UnknownKey(key));
        for seat in &self.seats {
            // Any worker of a token can tell.
            for member in seat.lines.iter().filter_map(|line| line.member()) {
                match member.describe(key, deadline).await {
                    Ok(one) => {
                        described.push(one);
                        break;
                    }
                    Err(Miss::Error(TokenError::UnknownKey(_))) => break,
                    Err(miss) => last = miss.into(),
                }
            }
        }
        if described.is_empty() { Err(last) } else { Ok(described) }
    }

    fn uris(&self, key: KeyId) -> Vec<String> {
        let surveys: Vec<_> = self.seats.iter().filter_map(|seat| seat.survey()).collect();
        let keys = surveys.iter().flat_map(|survey| &survey.keys);
        keys.filter(|known| known.id == key).map(|known| known.uri.clone()).collect()
    }

    /// Looks into every token that is not drained. One that answers is enough; of the others it is said what is known.
    async fn survey(&self, deadline: Instant) -> Result<Survey, TokenError> {
        let lines: Vec<_> = self
            .seats
            .iter()
            .filter(|seat| !seat.is_drained())
            .flat_map(|seat| seat.lines.iter().cloned())
            .collect();
        let found = look(&lines, deadline).await;
        match (found, self.health().last_survey) {
            (Ok(()), Some(survey)) => Ok(Arc::unwrap_or_clone(survey)),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(TokenError::Unavailable("no token tells what it has".to_owned())),
        }
    }

    fn health(&self) -> Health {
        let mut health = Health::default();
        let mut troubles = Vec::new();
        let mut serves = false;
        let mut surveys = Vec::new();
        for seat in &self.seats {
            let one = seat.health();
            health.restarts = health.restarts.saturating_add(one.restarts);
            match (seat.is_drained(), one.trouble) {
                (true, _) => troubles.push(self.named(seat, "it is drained")),
                (false, Some(trouble)) => troubles.push(self.named(seat, &trouble)),
                (false, None) => serves = true,
            }
            surveys.extend(one.last_survey.map(|survey| (seat, survey)));
        }
        health.trouble = if serves { None } else { Some(troubles.join("; ")) };
        health.last_survey = self.merge(surveys);
        health
    }
}

impl Pool {
    /// What all tokens together are and have. New keys are made in the first.
    fn merge(&self, surveys: Vec<(&Arc<Seat>, Arc<Survey>)>) -> Option<Arc<Survey>> {
        let mut surveys = surveys.into_iter();
        let (first, merged) = surveys.next()?;
        if self.seats.len() == 1 {
            return Some(merged);
        }
        let mut merged = Arc::unwrap_or_clone(merged);
        for text in merged.unserved.iter_mut().chain(&mut merged.remarks) {
            *text = self.named(first, text);
        }
        let (mut labels, mut models) = (vec![merged.label.clone()], vec![merged.model.clone()]);
        for (seat, survey) in surveys {
            for (all, one) in [(&mut labels, &survey.label), (&mut models, &survey.model)] {
                if !all.contains(one) {
                    all.push(one.clone());
                }
            }
            for key in &survey.keys {
                if !merged.keys.iter().any(|known| known.id == key.id) {
                    merged.keys.push(key.clone());
                }
            }
            merged.unserved.extend(survey.unserved.iter().map(|reason| self.named(seat, reason)));
            merged.remarks.extend(survey.remarks.iter().map(|remark| self.named(seat, remark)));
        }
        merged.keys.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
        (merged.label, merged.model) = (labels.join(", "), models.join(", "));
        Some(Arc::new(merged))
    }
}
