//! The certificate revocation list of the device CA (RFC 5280 §5), for others who take our device certificates. The
//! custodian itself looks into its ledger.

use std::sync::Arc;

use der::Decode;
use jiff::Timestamp;
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;

use super::{DeviceCa, PkiError, issue};
use crate::authority::{RevokedCertificate, Why};

impl DeviceCa {
    /// A list with this number, which the next one must exceed, of these certificates. It calls for the next one by
    /// `next_update`.
    ///
    /// # Errors
    /// If a certificate does not parse, or the token does not sign.
    pub async fn revocation_list(
        &self,
        number: u64,
        revoked: Vec<RevokedCertificate>,
        this_update: Timestamp,
        next_update: Timestamp,
    ) -> Result<Vec<u8>, PkiError> {
        // Ten thousand of them take a while, and calls are served on this thread.
        let entries = move || revoked.iter().map(entry).collect::<Result<Vec<_>, _>>();
        let revoked_certs = tokio::task::spawn_blocking(entries)
            .await
            .map_err(|error| PkiError::Invalid(format!("making the list was interrupted: {error}")))??;
        let params = CertificateRevocationListParams {
            this_update: issue::date(this_update)?,
            next_update: issue::date(next_update)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::PreSpecified(self.key.as_bytes().to_vec()),
        };
        let ca = issue::parse_ca(&self.certificate)?;
        let point = ca.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes().to_vec();
        let certificate = CertificateDer::from(self.certificate.clone());
        issue::sign(Arc::clone(&self.token), self.key, point, move |signer| {
            let list = params.signed_by(&Issuer::from_ca_cert_der(&certificate, signer)?)?;
            Ok(list.der().to_vec())
        })
        .await
    }
}

fn entry(revoked: &RevokedCertificate) -> Result<RevokedCertParams, PkiError> {
    let certificate = Certificate::from_der(&revoked.certificate)
        .map_err(|error| PkiError::Invalid(format!("a certificate in the ledger: {error}")))?;
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from_slice(certificate.tbs_certificate().serial_number().as_bytes()),
        revocation_time: issue::date(revoked.since)?,
        reason_code: Some(match revoked.why {
            Why::Revoked => RevocationReason::CessationOfOperation,
            Why::Suspended => RevocationReason::CertificateHold,
            Why::Replaced => RevocationReason::Superseded,
            Why::Compromised => RevocationReason::KeyCompromise,
            Why::NotTrueAnyMore => RevocationReason::AffiliationChanged,
        }),
        invalidity_date: None,
    })
}
