//! Certificates of people, and who they are.

use custodian_proto::{
    email::Email,
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, certificate_service_client::CertificateServiceClient},
};

use super::{Remote, session::Signed};
use crate::{
    error::Result,
    person::{Directory, Found},
};

/// All of these fail as any call does: refused, unreachable, interrupted. Names are `users/ID` and `certificates/SERIAL`.
impl Remote {
    /// Records who a user is.
    ///
    /// # Errors
    /// Those of any call.
    pub fn set_identity(
        &self,
        user: &str,
        email: &Email,
        level: v1::IdentityLevel,
        evidence: &str,
    ) -> Result<v1::Identity> {
        let (user, email, evidence) = (user.to_owned(), email.to_string(), evidence.to_owned());
        let what = format!("cannot record who {user} is");
        let request = v1::SetIdentityRequest { user, email, level: level.into(), evidence };
        Ok(self.call(&what, async |service| client(service).set_identity(request.clone()).await)?)
    }

    /// Who a user is.
    ///
    /// # Errors
    /// Those of any call; nobody recorded it.
    pub fn identity(&self, user: &str) -> Result<v1::Identity> {
        let request = v1::GetIdentityRequest { user: user.to_owned() };
        let what = format!("cannot show who {user} is");
        Ok(self.call(&what, async |service| client(service).get_identity(request.clone()).await)?)
    }

    /// Has the custodian certify the key of a request (PKCS#10, DER). If an address is given, it must be the recorded one.
    ///
    /// # Errors
    /// Those of any call.
    pub fn request_certificate(
        &self,
        usage: v1::CertificateUse,
        certificate_request: &[u8],
        email: Option<&Email>,
    ) -> Result<v1::Certificate> {
        let request = v1::RequestCertificateRequest {
            r#use: usage.into(),
            certificate_request: certificate_request.to_vec(),
            email: email.map(Email::to_string).unwrap_or_default(),
        };
        Ok(self.call("cannot get a certificate", async |service| {
            client(service).request_certificate(request.clone()).await
        })?)
    }

    /// Certificates, newest first: of one user, or all that we may see.
    ///
    /// # Errors
    /// Those of any call.
    pub fn certificates(&self, user: Option<&str>) -> Result<Vec<v1::Certificate>> {
        let mut certificates = Vec::new();
        let mut page_token = String::new();
        let user = user.unwrap_or_default().to_owned();
        loop {
            let request =
                v1::ListCertificatesRequest { page_size: MAX_PAGE_SIZE, page_token, user: user.clone() };
            let page = self.call("cannot list certificates", async |service| {
                client(service).list_certificates(request.clone()).await
            })?;
            certificates.extend(page.certificates);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(certificates);
            }
        }
    }

    /// One certificate, with its issuer.
    ///
    /// # Errors
    /// Those of any call.
    pub fn certificate(&self, name: &str) -> Result<v1::Certificate> {
        let request = v1::GetCertificateRequest { name: name.to_owned() };
        Ok(self.call("cannot show the certificate", async |service| {
            client(service).get_certificate(request.clone()).await
        })?)
    }

    /// Ends a certificate.
    ///
    /// # Errors
    /// Those of any call.
    pub fn revoke_certificate(
        &self,
        name: &str,
        why: v1::RevocationReason,
        reason: &str,
    ) -> Result<v1::Certificate> {
        let (name, reason) = (name.to_owned(), reason.to_owned());
        let request = v1::RevokeCertificateRequest { name, reason, revocation: why.into() };
        Ok(self.call("cannot revoke the certificate", async |service| {
            client(service).revoke_certificate(request.clone()).await
        })?)
    }

    /// The certificates of whoever has this address.
    ///
    /// # Errors
    /// Those of any call.
    pub fn find_certificates(
        &self,
        email: &Email,
        usage: v1::CertificateUse,
    ) -> Result<v1::FindCertificatesResponse> {
        let request = v1::FindCertificatesRequest { email: email.to_string(), r#use: usage.into() };
        let what = format!("cannot find the certificate of {email}");
        Ok(self.call(&what, async |service| client(service).find_certificates(request.clone()).await)?)
    }

    /// The revocation list of the people's CA. With a number of days, one that is signed now, and calls for the next one then.
    ///
    /// # Errors
    /// Those of any call.
    pub fn people_revocation_list(&self, days: Option<u32>) -> Result<v1::PeopleRevocationList> {
        let request = v1::GetPeopleRevocationListRequest { days: days.unwrap_or_default() };
        Ok(self.call("cannot get the revocation list", async |service| {
            client(service).get_people_revocation_list(request).await
        })?)
    }
}

impl Directory for Remote {
    fn find(&self, email: &Email) -> Result<Found> {
        let found = self.find_certificates(email, v1::CertificateUse::Encrypt)?;
        let list = self.people_revocation_list(None)?;
        let certificates = found.certificates.into_iter().map(|one| one.certificate).collect();
        Ok(Found { certificates, issuer: found.issuer, list: list.crl })
    }
}

fn client(service: Signed) -> CertificateServiceClient<Signed> {
    CertificateServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}
