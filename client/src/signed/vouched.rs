//! Who vouches for a signer, in words for whoever reads the signature. The check itself is [`crate::chain`]'s.

use std::time::SystemTime;

use super::Signature;
use crate::{
    chain::{Chain, EndedLists},
    error::{Error, Kind, Result},
};

/// Checks that one of these authorities vouched for the signer's certificate at a time, and that none of the revocation
/// lists has it. All in DER. If there are lists, one of them must be from the authority that issued the certificate; `ended`
/// says whether it may have ended at that time.
///
/// # Errors
/// [`Kind::Integrity`] with the reason.
pub(super) fn check(
    signature: &Signature,
    authorities: &[Vec<u8>],
    lists: &[Vec<u8>],
    time: SystemTime,
    ended: EndedLists,
) -> Result<()> {
    check_path(signature.certificate().der(), signature.others(), authorities, lists, time, ended)
}

/// The same for any certificate, with others that may lie between it and an authority.
///
/// # Errors
/// [`Kind::Integrity`] with the reason.
pub(crate) fn check_path(
    leaf: &[u8],
    others: &[Vec<u8>],
    authorities: &[Vec<u8>],
    lists: &[Vec<u8>],
    time: SystemTime,
    ended: EndedLists,
) -> Result<()> {
    Chain { leaf, others, authorities, lists }.check(time, ended).map_err(not_vouched_for)
}

fn not_vouched_for(why: webpki::Error) -> Error {
    use webpki::Error as E;
    let (why, hint) = match why {
        E::UnknownIssuer => {
            ("none of the accepted CAs issued its certificate", "ask the sender for the whole chain")
        }
        E::CertRevoked => ("its certificate was revoked", "ask the sender what happened"),
        E::UnknownRevocationStatus => (
            "no revocation list of the CA that issued its certificate is there",
            "add it to crls in [accept]",
        ),
        E::CrlExpired { .. } => ("the revocation list ended", "get the CA's present one"),
        E::CertExpired { .. } => (
            "its certificate, or that of a CA, ended",
            "ask for a fresh copy; or set expired = \"allow\" in [accept]",
        ),
        E::CaUsedAsEndEntity => ("its certificate is that of a CA", "pin it instead: --accept-from"),
        other => return Error::new(Kind::Integrity, "nobody vouches for the sender", other),
    };
    Error::new(Kind::Integrity, "nobody vouches for the sender", why).hint(hint)
}
