//! The transparency log's published formats, for the side that writes them and the side that checks them.
//!
//! RFC 6962 §2.1 (hashes and proofs) in [`merkle`], and of C2SP: `tlog-tiles` in [`tiles`], `signed-note` in [`note`],
//! `tlog-checkpoint` in [`checkpoint`], `tlog-proof` in [`receipt`], `tlog-cosignature` in [`cosignature`], and what is sent
//! of `tlog-witness` in [`witness`]. Nothing here knows what an entry means.

pub mod checkpoint;
pub mod cosignature;
pub mod merkle;
pub mod nodes;
pub mod note;
pub mod receipt;
pub mod tiles;
pub mod witness;

pub use checkpoint::Checkpoint;
pub use cosignature::{Cosignature, CosignerKey};
pub use merkle::Hash;
pub use note::VerifierKey;
pub use receipt::Receipt;
pub use tiles::Tile;

/// Why a text of the log is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It does not have the published form.
    #[error("{0}")]
    Malformed(String),
    /// The key we trust has not signed it.
    #[error("it is not signed by the log key {0}")]
    NotSigned(String),
    /// It says that the key we trust signed it, and that is not true.
    #[error("its signature by the log key {0} is wrong")]
    WrongSignature(String),
    /// The key we trust signed it, for a log of another name.
    #[error("it is a checkpoint of {found:?}, not of {expected:?}")]
    OtherLog {
        /// The name in the checkpoint.
        found: String,
        /// The name of the key.
        expected: String,
    },
    /// The entry is not in the tree at that place.
    #[error("the entry is not the one that the log has at index {0}")]
    NotIncluded(u64),
    /// The later tree does not begin with the earlier one.
    #[error("the log of {new} entries does not begin with the log of {old} entries that was signed before")]
    NotConsistent {
        /// Size of the earlier tree.
        old: u64,
        /// Size of the later one.
        new: u64,
    },
}

fn malformed(why: impl Into<String>) -> Flaw {
    Flaw::Malformed(why.into())
}
