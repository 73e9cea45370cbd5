//! Whether somebody whom we trust vouches for a certificate: path validation (RFC 5280 §6) by `rustls-webpki`, with our own
//! anchors, and revocation lists (RFC 5280 §6.3).

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy,
    ExtendedKeyUsageValidator, KeyPurposeIdIter, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::Signature;
use crate::error::{Error, Kind, Result};

/// What a signer's certificate is for was checked before; what a CA's says of it does not narrow that.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> std::result::Result<(), webpki::Error> {
        Ok(())
    }
}

/// Checks that one of these authorities vouched for the signer's certificate at a time, and that none of the revocation
/// lists has it. All in DER. If there are lists, one of them must be from the authority that issued the certificate, and,
/// if `time` is `now`, must not have ended.
///
/// # Errors
/// [`Kind::Integrity`] with the reason.
pub(super) fn check(
    signature: &Signature,
    authorities: &[Vec<u8>],
    lists: &[Vec<u8>],
    time: SystemTime,
    now: SystemTime,
) -> Result<()> {
    check_path(signature.certificate().der(), signature.others(), authorities, lists, time, now)
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
    now: SystemTime,
) -> Result<()> {
    let authorities: Vec<_> = authorities.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors =
        authorities.iter().map(anchor_from_trusted_cert).collect::<std::result::Result<Vec<_>, _>>();
    let anchors = anchors.map_err(not_vouched_for)?;
    let lists =
        lists.iter().map(|der| BorrowedCertRevocationList::from_der(der).map(CertRevocationList::from));
    let lists = lists.collect::<std::result::Result<Vec<_>, _>>().map_err(not_vouched_for)?;
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(not_vouched_for)?;
    let others: Vec<_> = others.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let path = |time, revocation| {
        leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &others,
            unix(time),
            AnyPurpose,
            revocation,
            None,
        )
        .map(drop)
        .map_err(not_vouched_for)
    };
    path(time, None)?;

    let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    let Ok(revocation) = RevocationOptionsBuilder::new(&lists) else { return Ok(()) };
    let revocation = revocation
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_status_policy(UnknownStatusPolicy::Deny)
        // Where certificates that ended pass, their CA may have none but lists that ended, too.
        .with_expiration_policy(if time == now {
            ExpirationPolicy::Enforce
        } else {
            ExpirationPolicy::Ignore
        });
    path(time, Some(revocation.build()))
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
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
