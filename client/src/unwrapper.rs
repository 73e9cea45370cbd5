//! Who turns a wrapped key into a file key: the custodian, or in tests a software key.

use custodian_proto::{
    key::{FileKey, WrappedKey},
    v1::Claims,
};

use crate::error::Result;

/// Unwraps file keys, one at a time.
pub trait Unwrapper: Send + Sync {
    /// Unwraps one. `claims` is what the log will say about the file.
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey>;

    /// Which of an envelope's wrapped keys to ask for: the index, or an error that names the keys that would do. The
    /// answer is usually the first one whose wrapping key the custodian has.
    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize>;
}
