//! What the token is known to have: the last good survey, and every key that was made since.
//!
//! A key that was served once is forgotten only if we destroy it: a module that has lost its token says "no keys".

use std::sync::{Arc, PoisonError, RwLock};

use custodian_proto::key::KeyId;

use super::{Survey, TokenKey};

/// What the token is known to have. Shared by the supervisor, the keeper and the line to the worker.
#[derive(Default)]
pub(super) struct Inventory(RwLock<Option<Arc<Survey>>>);

impl Inventory {
    /// The last survey, with the keys that were made since. `None` before the first.
    pub(super) fn last(&self) -> Option<Arc<Survey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The known keys that a worker which just started does not serve.
    pub(super) fn missing_from(&self, survey: &Survey) -> Vec<TokenKey> {
        let known = self.last();
        let known = known.iter().flat_map(|last| &last.keys);
        known.filter(|key| !survey.keys.iter().any(|served| served.id == key.id)).cloned().collect()
    }

    /// Takes over what a survey found. A key that was made while it was under way stays.
    pub(super) fn update(&self, mut survey: Survey) {
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for key in last.iter().flat_map(|last| &last.keys) {
            if !survey.keys.iter().any(|found| found.id == key.id) {
                survey.keys.push(key.clone());
            }
        }
        sort(&mut survey.keys);
        *last = Some(Arc::new(survey));
    }

    /// A key was made.
    pub(super) fn add(&self, key: &TokenKey) {
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(survey) = last.as_mut().map(Arc::make_mut) else { return };
        if !survey.keys.iter().any(|known| known.id == key.id) {
            survey.keys.push(key.clone());
            sort(&mut survey.keys);
        }
    }

    /// A key is about to be destroyed.
    pub(super) fn forget(&self, key: KeyId) {
        let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(survey) = last.as_mut().map(Arc::make_mut) {
            survey.keys.retain(|known| known.id != key);
        }
    }
}

/// As surveys list keys.
fn sort(keys: &mut [TokenKey]) {
    keys.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
}

#[cfg(test)]
mod tests {
    use custodian_proto::key::KeyWrapping;

    use super::*;
    use crate::token::{Cage, KeyKind};

    fn key(label: &str) -> TokenKey {
        TokenKey {
            id: KeyId::of_public_key(label.as_bytes()),
            label: label.to_owned(),
            kind: KeyKind::EcdsaP256Sign,
            wrapping: None,
            spki: Vec::new(),
        }
    }

    fn survey(keys: &[TokenKey]) -> Survey {
        Survey {
            label: "bench".to_owned(),
            model: "model".to_owned(),
            wrapping: KeyWrapping::OaepSha1,
            keys: keys.to_vec(),
            unserved: Vec::new(),
            cage: Cage::default(),
            remarks: Vec::new(),
        }
    }

    #[test]
    fn a_key_once_known_is_missed_until_it_is_found_again() {
        let inventory = Inventory::default();
        let [a, b, c] = ["a", "b", "c"].map(key);
        assert!(inventory.missing_from(&survey(&[])).is_empty(), "nothing is known yet");
        inventory.update(survey(std::slice::from_ref(&a)));
        inventory.add(&c);
        inventory.add(&c);
        // Was under way when c was made.
        inventory.update(survey(&[b.clone(), a.clone()]));
        assert_eq!(inventory.last().unwrap().keys, [a.clone(), b.clone(), c.clone()]);
        assert_eq!(inventory.missing_from(&survey(std::slice::from_ref(&b))), [a.clone(), c.clone()]);
        assert!(inventory.missing_from(&survey(&[c.clone(), b.clone(), a.clone()])).is_empty());
        inventory.forget(a.id);
        assert!(inventory.missing_from(&survey(&[b, c])).is_empty(), "what we destroy is not missed");
    }
}
