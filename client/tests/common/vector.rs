//! Envelopes that another writer made, each with the stage at which it must be refused.

use custodian_client::{
    Error, Kind,
    error::Result,
    unwrapper::{KeyName, Unwrapper},
};
use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    /// `none`: it is sound.
    pub(crate) stage: String,
    pub(crate) says: String,
    pub(crate) file_key: String,
    pub(crate) envelope: String,
}

/// Unwraps to a key that is known, whoever is named.
pub(crate) struct Known(pub(crate) Vec<u8>);

impl Unwrapper for Known {
    fn unwrap(&self, _: &WrappedKey, _: &Claims) -> Result<FileKey> {
        FileKey::take(&mut self.0.clone()).ok_or_else(|| Error::new(Kind::Local, "vector", "no file key"))
    }

    fn choose(&self, _: &[WrappedKey]) -> Result<usize> {
        Ok(0)
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        Ok(vec![Some(KeyId::of_public_key(b"known")); names.len()])
    }
}
