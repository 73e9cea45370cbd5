//! The wrapping keys.

use std::str::FromStr;

use custodian_proto::{
    key::KeyId,
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, key_service_client::KeyServiceClient},
};
use jiff::Timestamp;

use super::{Remote, session::Signed, status::Failure};
use crate::error::{Error, Kind, Result};

/// How a person names a wrapping key: a whole key id, its beginning, or the label; with or without `keys/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WhichKey {
    /// The whole id.
    Id(KeyId),
    /// The beginning of an id, or a label, maybe with a version: `invoices@2`.
    Like(String),
}

impl FromStr for WhichKey {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let text = text.strip_prefix("keys/").unwrap_or(text);
        Ok(text.parse().map_or_else(|_| Self::Like(text.to_owned()), Self::Id))
    }
}

impl WhichKey {
    /// Finds the one key that is meant. A label beats the beginning of an id; a label without a version is that of the only
    /// one there is.
    fn among(&self, keys: &[v1::Key]) -> Result<KeyId> {
        let like = match self {
            Self::Id(id) => return Ok(*id),
            Self::Like(like) => like,
        };
        let what = format!("cannot find the key {like:?}");
        let lower = like.to_ascii_lowercase();
        let labelled: Vec<_> =
            keys.iter().filter(|key| key.label == *like || full_label(key) == *like).collect();
        let found = if labelled.is_empty() {
            keys.iter().filter(|key| !lower.is_empty() && id_text(key).starts_with(&lower)).collect()
        } else {
            labelled
        };
        match found.as_slice() {
            [key] => id_of(key, &what),
            [] => Err(unknown(what)),
            several => {
                let names: Vec<_> =
                    several.iter().map(|key| format!("{} ({})", full_label(key), id_text(key))).collect();
                Err(Error::new(Kind::Usage, what, format!("it may be any of {}", names.join(", ")))
                    .hint("give the version, as in invoices@2, or more of the id"))
            }
        }
    }

    /// Finds the key to seal to: of a label, the newest version that is active.
    fn to_seal_to(&self, keys: &[v1::Key]) -> Result<KeyId> {
        let Self::Like(label) = self else { return self.among(keys) };
        let versions = || keys.iter().filter(|key| key.label == *label);
        if versions().next().is_none() {
            return self.among(keys);
        }
        let what = format!("cannot choose a certificate of {label:?}");
        let active = versions().filter(|key| key.state() == v1::KeyState::Active);
        match active.max_by_key(|key| key.version) {
            Some(newest) => id_of(newest, &what),
            None => Err(Error::new(Kind::Refused, what, "no version of it is active")
                .hint("look at them: custodianctl key ls; or name a version, as in invoices@2")),
        }
    }
}

fn id_text(key: &v1::Key) -> &str {
    key.name.strip_prefix("keys/").unwrap_or_default()
}

fn id_of(key: &v1::Key, what: &str) -> Result<KeyId> {
    KeyId::from_resource_name(&key.name)
        .map_err(|error| Error::new(Kind::Unreachable, what, format!("{}: {error}", key.name)))
}

fn unknown(what: String) -> Error {
    Error::new(Kind::Refused, what, "the custodian has no key of that label or id")
        .hint("list them: custodianctl key ls")
}

/// How people tell a key from its other versions: `invoices@2`.
pub fn full_label(key: &v1::Key) -> String {
    format!("{}@{}", key.label, key.version)
}

/// What a new key is to be, beyond its label. Nothing: what the custodian usually makes.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// The size of the modulus.
    pub modulus_bits: Option<u32>,
    /// It waits to be activated by hand.
    pub pre_active: bool,
    /// From when envelopes are sealed to it.
    pub wrap_start: Option<Timestamp>,
    /// Until when envelopes are sealed to it.
    pub wrap_end: Option<Timestamp>,
    /// Until when it unwraps.
    pub unwrap_end: Option<Timestamp>,
    /// What it is made for.
    pub usage: v1::KeyUse,
    /// In which token: `tokens/hsm-1`.
    pub token: Option<String>,
}

/// Which key pair in the token to take up.
#[derive(Clone, Debug)]
pub enum ImportFrom {
    /// That of this certificate, DER.
    Certificate(Vec<u8>),
    /// This one; the custodian's CA certifies it.
    Key(KeyId),
}

fn proto(time: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    time.map(|time| prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

impl Remote {
    /// All wrapping keys, in the order of their ids.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn keys(&self) -> Result<Vec<v1::Key>> {
        let mut keys = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListKeysRequest { page_size: MAX_PAGE_SIZE, page_token };
            let page = self
                .call("cannot list keys", async |service| client(service).list_keys(request.clone()).await)?;
            keys.extend(page.keys);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(keys);
            }
        }
    }

    /// The id of the key a person means.
    ///
    /// # Errors
    /// None or several fit; and those of any call.
    pub fn key_id(&self, which: &WhichKey) -> Result<KeyId> {
        match which {
            WhichKey::Id(id) => Ok(*id),
            WhichKey::Like(_) => which.among(&self.keys()?),
        }
    }

    /// One wrapping key.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn key(&self, which: &WhichKey) -> Result<v1::Key> {
        Ok(self.find_key(&self.key_id(which)?, "cannot show the key")?)
    }

    /// The key to seal to: of a label, the newest version that is active.
    ///
    /// # Errors
    /// None is active, none or several fit; and those of any call.
    pub fn key_to_seal_to(&self, which: &WhichKey) -> Result<v1::Key> {
        let id = match which {
            WhichKey::Id(id) => *id,
            WhichKey::Like(_) => which.to_seal_to(&self.keys()?)?,
        };
        Ok(self.find_key(&id, "cannot show the key")?)
    }

    /// Generates a key pair in the token: version 1 of a new label.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn create_key(&self, label: &str, new: &NewKey) -> Result<v1::Key> {
        let request = v1::CreateKeyRequest {
            label: label.to_owned(),
            modulus_bits: new.modulus_bits.unwrap_or_default(),
            pre_active: new.pre_active,
            wrap_start_time: proto(new.wrap_start),
            wrap_end_time: proto(new.wrap_end),
            unwrap_end_time: proto(new.unwrap_end),
            r#use: new.usage.into(),
            token: new.token.clone().unwrap_or_default(),
        };
        let what = format!("cannot create the key {label}");
        Ok(self.call(&what, async |service| client(service).create_key(request.clone()).await)?)
    }

    /// Generates the next version of a key. How it begins is not asked: it is active at once.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn rotate_key(&self, label: &str, new: &NewKey) -> Result<v1::Key> {
        let request = v1::RotateKeyRequest {
            label: label.to_owned(),
            modulus_bits: new.modulus_bits.unwrap_or_default(),
            wrap_end_time: proto(new.wrap_end),
            unwrap_end_time: proto(new.unwrap_end),
        };
        let what = format!("cannot rotate the key {label}");
        Ok(self.call(&what, async |service| client(service).rotate_key(request.clone()).await)?)
    }

    /// Takes up a key pair that is in the token and that the ledger does not know. Of `new`, how it begins and until when it
    /// unwraps.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn import_key(&self, label: &str, source: &ImportFrom, new: &NewKey) -> Result<v1::Key> {
        let (certificate, name) = match source {
            ImportFrom::Certificate(der) => (der.clone(), String::new()),
            ImportFrom::Key(id) => (Vec::new(), id.resource_name()),
        };
        let request = v1::ImportKeyRequest {
            label: label.to_owned(),
            certificate,
            name,
            pre_active: new.pre_active,
            unwrap_end_time: proto(new.unwrap_end),
        };
        let what = format!("cannot import the key {label}");
        Ok(self.call(&what, async |service| client(service).import_key(request.clone()).await)?)
    }

    /// The key pairs in the token that can be imported, and those that it does not serve.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn unused_keys(&self) -> Result<v1::ListUnusedKeysResponse> {
        let ask = async |service| client(service).list_unused_keys(v1::ListUnusedKeysRequest {}).await;
        Ok(self.call("cannot list the token's unused keys", ask)?)
    }

    /// What the token says of a key, signed.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn attest_key(&self, which: &WhichKey, nonce: &[u8]) -> Result<v1::AttestKeyResponse> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot attest {name}");
        let request = v1::AttestKeyRequest { name, nonce: nonce.to_vec() };
        Ok(self.call(&what, async |service| client(service).attest_key(request.clone()).await)?)
    }

    /// The OpenPGP certificate of a key that was made for OpenPGP, binary.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn openpgp_certificate(&self, name: &str) -> Result<Vec<u8>> {
        let what = format!("cannot certify {name} for OpenPGP");
        let request = v1::ExportOpenPgpKeyRequest { name: name.to_owned() };
        let ask = async |service| client(service).export_open_pgp_key(request.clone()).await;
        Ok(self.call(&what, ask)?.certificate)
    }

    /// Lets a pre-active key begin, or a suspended one work again.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn activate_key(&self, which: &WhichKey) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot activate {name}");
        let request = v1::ActivateKeyRequest { name };
        Ok(self.call(&what, async |service| client(service).activate_key(request.clone()).await)?)
    }

    /// Stops unwrapping with a key for a while.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn suspend_key(&self, which: &WhichKey, reason: &str) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot suspend {name}");
        let request = v1::SuspendKeyRequest { name, reason: reason.to_owned() };
        Ok(self.call(&what, async |service| client(service).suspend_key(request.clone()).await)?)
    }

    /// Ends sealing to a key for good.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn deactivate_key(&self, which: &WhichKey, reason: &str) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot deactivate {name}");
        let request = v1::DeactivateKeyRequest { name, reason: reason.to_owned() };
        Ok(self.call(&what, async |service| client(service).deactivate_key(request.clone()).await)?)
    }

    /// Sets until when a key unwraps. `None`: no end.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn limit_key(
        &self,
        which: &WhichKey,
        unwrap_end: Option<Timestamp>,
        reason: &str,
    ) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot limit {name}");
        let request =
            v1::LimitKeyRequest { name, unwrap_end_time: proto(unwrap_end), reason: reason.to_owned() };
        Ok(self.call(&what, async |service| client(service).limit_key(request.clone()).await)?)
    }

    /// Stops a key for good: somebody else may have it.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn compromise_key(&self, which: &WhichKey, reason: &str) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot mark {name} as compromised");
        let request = v1::CompromiseKeyRequest { name, reason: reason.to_owned() };
        Ok(self.call(&what, async |service| client(service).compromise_key(request.clone()).await)?)
    }

    /// Destroys a key in the token. `confirm_label` is what the person typed to confirm it.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn destroy_key(&self, which: &WhichKey, confirm_label: &str, reason: &str) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot destroy {name}");
        let (confirm_label, reason) = (confirm_label.to_owned(), reason.to_owned());
        let request = v1::DestroyKeyRequest { name, confirm_label, reason };
        Ok(self.call(&what, async |service| client(service).destroy_key(request.clone()).await)?)
    }

    /// Everything that was ever unwrapped with a key, oldest first.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn unwrapped(&self, which: &WhichKey) -> Result<Vec<v1::Unwrapped>> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot list what was unwrapped with {name}");
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request =
                v1::ListUnwrappedRequest { name: name.clone(), page_size: MAX_PAGE_SIZE, page_token };
            let page =
                self.call(&what, async |service| client(service).list_unwrapped(request.clone()).await)?;
            all.extend(page.unwrapped);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    pub(super) fn find_key(&self, id: &KeyId, what: &str) -> std::result::Result<v1::Key, Failure> {
        let request = v1::GetKeyRequest { name: id.resource_name() };
        self.call(what, async |service| client(service).get_key(request.clone()).await)
    }
}

fn client(service: Signed) -> KeyServiceClient<Signed> {
    KeyServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(start: &str, label: &str, version: u32, state: v1::KeyState) -> v1::Key {
        let name = format!("keys/{start}{}", "0".repeat(40 - start.len()));
        v1::Key { name, label: label.into(), version, state: state.into(), ..v1::Key::default() }
    }

    fn which(text: &str) -> WhichKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_named_by_id_prefix_or_label_and_never_guessed() {
        let active = v1::KeyState::Active;
        let keys = [
            key("ab11", "payroll", 1, active),
            key("ab22", "archive", 1, active),
            key("cd33", "ab", 1, active),
            key("ee44", "payroll", 2, active),
        ];
        let find = |text: &str| which(text).among(&keys).map(|id| id.to_string()[..4].to_owned());
        assert_eq!(find(id_text(&keys[0])).unwrap(), "ab11");
        assert_eq!(find(&keys[1].name).unwrap(), "ab22");
        assert_eq!(find("ab1").unwrap(), "ab11");
        assert_eq!(find("AB2").unwrap(), "ab22");
        assert_eq!(find("archive").unwrap(), "ab22");
        assert_eq!(find("archive@1").unwrap(), "ab22");
        assert_eq!(find("ab").unwrap(), "cd33", "a label beats a prefix");
        assert_eq!(find("payroll@2").unwrap(), "ee44");
        let several = find("payroll").unwrap_err();
        assert_eq!(several.kind, Kind::Usage, "which version?");
        assert!(several.to_string().contains("payroll@1"), "{several}");
        assert_eq!(find("a").unwrap_err().kind, Kind::Usage, "ambiguous");
        assert_eq!(find("ff").unwrap_err().kind, Kind::Refused);
        assert_eq!(find("payroll@3").unwrap_err().kind, Kind::Refused);
        assert_eq!(find("").unwrap_err().kind, Kind::Refused);
    }

    #[test]
    fn what_is_sealed_to_is_the_newest_active_version() {
        use v1::KeyState::{Active, Compromised, Deactivated, PreActive};
        let keys = [
            key("11", "payroll", 1, Deactivated),
            key("22", "payroll", 2, Active),
            key("33", "payroll", 3, Compromised),
            key("44", "payroll", 4, PreActive),
            key("55", "stopped", 1, Compromised),
        ];
        let choose = |text: &str| which(text).to_seal_to(&keys).map(|id| id.to_string()[..2].to_owned());
        assert_eq!(choose("payroll").unwrap(), "22");
        assert_eq!(choose("payroll@1").unwrap(), "11", "who names a version gets it");
        assert_eq!(choose("33").unwrap(), "33");
        assert_eq!(choose("stopped").unwrap_err().kind, Kind::Refused);
    }
}
