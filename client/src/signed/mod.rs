//! Signatures: CMS SignedData (RFC 5652 §5, RFC 8551), over content of any length. `docs/formats/signature.md` is the
//! specification.
//!
//! Reading order: [`Signer`] is who signs, [`Algorithm`] how, [`LocalSigner`] one whose key is in a file, [`TokenSigner`] one whose
//! key is in a PKCS #11 token; [`sign_detached`]
//! and [`Enclosing`] write a signature, [`SignedData`] reads one; [`Signature::verify`] tells whether it is right, and
//! [`Accept`] whether that person counts.

mod accept;
mod algorithm;
mod attributes;
mod certificate;
mod content;
mod foreign;
mod local;
mod openpgp;
mod pbes2;
pub(crate) mod pem;
mod pkcs12;
mod read;
mod scheme;
mod signer;
mod token;
mod verify;
mod vouched;
mod write;

pub use accept::{Accept, AcceptTable, Choice, Rules, Standing};
pub use algorithm::Algorithm;
pub use certificate::SignerCertificate;
pub use content::{hash_of, read_signature};
pub(crate) use foreign::verify_content;
pub use local::LocalSigner;
pub use read::SignedData;
pub use signer::{Signer, Signing};
pub use token::{Login, TokenSigner};
pub use verify::Signature;
pub(crate) use vouched::check_path;
pub use write::{Enclosing, sign_detached};

/// What signatures are of. SHA-1 is none of them.
pub use custodian_proto::sign::Hash;
