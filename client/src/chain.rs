//! Whether somebody whom we trust vouches for a certificate: path validation (RFC 5280 §6) by `rustls-webpki`, with our own
//! anchors, and revocation lists (RFC 5280 §6.3). The one place where that is done: for signers, for time-stamping authorities,
//! and for people to seal to. What a certificate is for, each of them looks at itself.

use std::{
    fs,
    path::Path,
    slice,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy,
    ExtendedKeyUsageValidator, KeyPurposeIdIter, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath, anchor_from_trusted_cert,
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
    /// Revocation lists. If there are any, one must be from the authority that issued the certificate. Their order does not matter.
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
    /// Checks that one of the authorities vouched for the certificate at a time, and that none of the lists has it. Of the lists
    /// that the authority which issued it signed, one must be good at that time; another that ended beside it does no harm, unless
    /// it has the certificate. A list that only says that it is from that authority counts as a stranger's.
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
        let verified = path(&leaf, &anchors, &others, time, None)?;

        if lists.is_empty() {
            return Ok(());
        }
        // The lists are looked into along this path only: what fails on another, such as an expired twin of a CA's certificate, would
        // be told in the place of what a list says.
        let anchor = slice::from_ref(verified.anchor());
        let between: Vec<_> = verified.intermediate_certificates().map(|one| one.der()).collect();
        // Of several lists it is given, webpki looks at the first that speaks for the certificate only. So it is given each alone.
        let look = |list: &CertRevocationList<'_>, ended| {
            let alone = [list];
            let revocation = RevocationOptionsBuilder::new(&alone)
                .map_err(|_| webpki::Error::UnknownRevocationStatus)?
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ended)
                .build();
            path(&leaf, anchor, &between, time, Some(revocation)).map(drop)
        };
        let mut status = Err(webpki::Error::UnknownRevocationStatus);
        for list in &lists {
            match look(list, ended.policy()) {
                Ok(()) => status = Ok(()),
                // It is not its issuer's: by name, or by key.
                Err(
                    webpki::Error::UnknownRevocationStatus | webpki::Error::InvalidCrlSignatureForPublicKey,
                ) => {}
                Err(list_ended @ webpki::Error::CrlExpired { .. }) => {
                    // What it has was revoked all the same.
                    look(list, ExpirationPolicy::Ignore)?;
                    status = status.or(Err(list_ended));
                }
                Err(error) => return Err(error),
            }
        }
        status
    }
}

/// A path from the certificate to one of the anchors (RFC 5280 §6).
fn path<'p>(
    leaf: &'p EndEntityCert<'_>,
    anchors: &'p [TrustAnchor<'_>],
    others: &'p [CertificateDer<'p>],
    time: SystemTime,
    revocation: Option<RevocationOptions<'_>>,
) -> std::result::Result<VerifiedPath<'p>, webpki::Error> {
    leaf.verify_for_usage(ALL_VERIFICATION_ALGS, anchors, others, unix(time), AnyPurpose, revocation, None)
}

impl EndedLists {
    fn policy(self) -> ExpirationPolicy {
        match self {
            Self::Refuse => ExpirationPolicy::Enforce,
            Self::LookInto => ExpirationPolicy::Ignore,
        }
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
