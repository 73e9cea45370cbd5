//! Whether somebody whom we trust vouches for a certificate: path validation (RFC 5280 §6) by `rustls-webpki`, with our own
//! anchors, and revocation lists (RFC 5280 §6.3). The one place where that is done: for signers, for time-stamping authorities,
//! and for people to seal to. What a certificate is for, each of them looks at itself.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy,
    ExtendedKeyUsageValidator, KeyPurposeIdIter, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::{
    error::{Error, Kind, Result},
    signed::pem,
};

/// Largest revocation list, in bytes.
const MAX_LIST_LEN: u64 = 64 * 1024 * 1024;

/// A certificate, and all that speaks for or against it. All in DER.
pub(crate) struct Chain<'a> {
    /// The certificate.
    pub(crate) leaf: &'a [u8],
    /// Others that may lie between it and an authority.
    pub(crate) others: &'a [Vec<u8>],
    /// Whom we trust.
    pub(crate) authorities: &'a [Vec<u8>],
    /// Revocation lists. If there are any, one must be from the authority that issued the certificate.
    pub(crate) lists: &'a [Vec<u8>],
}

/// What to do with a revocation list that called for the next one by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndedLists {
    /// Nobody knows what was revoked since: refused.
    Refuse,
    /// It is looked into all the same.
    LookInto,
}

/// What the certificate is for was checked before; what a CA's says of it does not narrow that.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> std::result::Result<(), webpki::Error> {
        Ok(())
    }
}

impl Chain<'_> {
    /// Checks that one of the authorities vouched for the certificate at a time, and that none of the lists has it.
    ///
    /// # Errors
    /// The first reason why not. Whoever asked has words for it.
    pub(crate) fn check(
        &self,
        time: SystemTime,
        ended: EndedLists,
    ) -> std::result::Result<(), webpki::Error> {
        let authorities: Vec<_> = self.authorities.iter().map(|der| certificate(der)).collect();
        let anchors =
            authorities.iter().map(anchor_from_trusted_cert).collect::<std::result::Result<Vec<_>, _>>()?;
        let lists = self
            .lists
            .iter()
            .map(|der| BorrowedCertRevocationList::from_der(der).map(CertRevocationList::from))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let leaf = certificate(self.leaf);
        let leaf = EndEntityCert::try_from(&leaf)?;
        let others: Vec<_> = self.others.iter().map(|der| certificate(der)).collect();
        let path = |revocation| {
            let verified = leaf.verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                &others,
                unix(time),
                AnyPurpose,
                revocation,
                None,
            );
            verified.map(drop)
        };
        path(None)?;

        let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
        let Ok(revocation) = RevocationOptionsBuilder::new(&lists) else { return Ok(()) };
        let revocation = revocation
            .with_depth(RevocationCheckDepth::EndEntity)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(match ended {
                EndedLists::Refuse => ExpirationPolicy::Enforce,
                EndedLists::LookInto => ExpirationPolicy::Ignore,
            });
        path(Some(revocation.build()))
    }
}

/// Reads a revocation list, PEM or DER.
pub(crate) fn revocation_list(file: &Path) -> Result<Vec<u8>> {
    let cannot = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot read the revocation list {}", file.display()), why)
    };
    let len = fs::metadata(file).map_err(|why| cannot(&why))?.len();
    if len > MAX_LIST_LEN {
        return Err(cannot(&format!("it is longer than {MAX_LIST_LEN} bytes")));
    }
    let bytes = fs::read(file).map_err(|why| cannot(&why))?;
    pem::decode(bytes, &["X509 CRL"]).map_err(|why| cannot(&why))
}

fn certificate(der: &[u8]) -> CertificateDer<'_> {
    CertificateDer::from(der)
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
