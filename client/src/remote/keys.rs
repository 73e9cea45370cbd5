//! The wrapping keys.

use std::str::FromStr;

use custodian_proto::{
    key::KeyId,
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, key_service_client::KeyServiceClient},
};

use super::{Remote, session::Signed, status::Failure};
use crate::error::{Error, Kind, Result};

/// How a person names a wrapping key: a whole key id, its beginning, or the label; with or without `keys/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WhichKey {
    /// The whole id.
    Id(KeyId),
    /// The beginning of an id, or a label.
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
    /// Finds the one key that is meant. A label beats the beginning of an id.
    fn among(&self, keys: &[v1::Key]) -> Result<KeyId> {
        let like = match self {
            Self::Id(id) => return Ok(*id),
            Self::Like(like) => like,
        };
        let what = format!("cannot find the key {like:?}");
        let lower = like.to_ascii_lowercase();
        let id_of = |key: &v1::Key| key.name.strip_prefix("keys/").unwrap_or_default().to_owned();
        let labelled: Vec<_> = keys.iter().filter(|key| key.label == *like).collect();
        let found = if labelled.is_empty() {
            keys.iter().filter(|key| !lower.is_empty() && id_of(key).starts_with(&lower)).collect()
        } else {
            labelled
        };
        match found.as_slice() {
            [key] => KeyId::from_resource_name(&key.name)
                .map_err(|error| Error::new(Kind::Unreachable, what, format!("{}: {error}", key.name))),
            [] => Err(Error::new(Kind::Refused, what, "the custodian has no key of that label or id")
                .hint("list them: custodianctl key ls")),
            several => {
                let ids: Vec<_> = several.iter().map(|key| id_of(key)).collect();
                Err(Error::new(Kind::Usage, what, format!("it may be any of {}", ids.join(", ")))
                    .hint("give more of the id"))
            }
        }
    }
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

    /// Generates a key pair in the token. `None`: the custodian's default size.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn create_key(&self, label: &str, modulus_bits: Option<u32>) -> Result<v1::Key> {
        let request =
            v1::CreateKeyRequest { label: label.to_owned(), modulus_bits: modulus_bits.unwrap_or_default() };
        let what = format!("cannot create the key {label}");
        Ok(self.call(&what, async |service| client(service).create_key(request.clone()).await)?)
    }

    /// Stops unwrapping with a key.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn suspend_key(&self, which: &WhichKey, reason: &str) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot suspend {name}");
        let request = v1::SuspendKeyRequest { name, reason: reason.to_owned() };
        Ok(self.call(&what, async |service| client(service).suspend_key(request.clone()).await)?)
    }

    /// Lets a suspended key unwrap again.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn activate_key(&self, which: &WhichKey) -> Result<v1::Key> {
        let name = self.key_id(which)?.resource_name();
        let what = format!("cannot activate {name}");
        let request = v1::ActivateKeyRequest { name };
        Ok(self.call(&what, async |service| client(service).activate_key(request.clone()).await)?)
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

    #[test]
    fn a_key_is_named_by_id_prefix_or_label_and_never_guessed() {
        let ids = ["ab11", "ab22", "cd33"].map(|start| format!("{start}{}", "0".repeat(36)));
        let label = |index: usize| ["payroll", "archive", "ab"][index].to_owned();
        let keys: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| v1::Key {
                name: format!("keys/{id}"),
                label: label(index),
                ..v1::Key::default()
            })
            .collect();
        let find = |text: &str| text.parse::<WhichKey>().unwrap().among(&keys).map(|id| id.to_string());
        assert_eq!(find(&ids[0]).unwrap(), ids[0]);
        assert_eq!(find(&format!("keys/{}", ids[1])).unwrap(), ids[1]);
        assert_eq!(find("ab1").unwrap(), ids[0]);
        assert_eq!(find("AB2").unwrap(), ids[1]);
        assert_eq!(find("archive").unwrap(), ids[1]);
        assert_eq!(find("ab").unwrap(), ids[2], "a label beats a prefix");
        assert_eq!(find("a").unwrap_err().kind, Kind::Usage, "ambiguous");
        assert_eq!(find("ee").unwrap_err().kind, Kind::Refused);
        assert_eq!(find("").unwrap_err().kind, Kind::Refused);
    }
}
