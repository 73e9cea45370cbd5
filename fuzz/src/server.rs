//! What the server reads: certificate requests, certificates, the token worker's messages, URIs, configuration, policies.

use custodian::{
    authority::Policy,
    config::Config,
    pki::{csr, foreign::WrappingCertificate, peer::CertificateFacts},
    token::try_worker_messages,
};
use custodian_proto::{
    key::KeyWrapping,
    pkcs11::{KeyUri, TokenUri},
    tsp::TimeStampReq,
};

/// A certificate request of a workstation.
pub(crate) fn csr(bytes: &[u8]) {
    csr::verify(bytes).ok();
}

/// A request for a timestamp.
pub(crate) fn timestamp_query(bytes: &[u8]) {
    if let Ok((request, hash)) = TimeStampReq::read(bytes) {
        assert_eq!(
            request.message_imprint.digest().len(),
            hash.size(),
            "a request that was read has a digest"
        );
    }
}

/// A certificate: of a peer, or of a wrapping key that another CA issued.
pub(crate) fn certificate(bytes: &[u8]) {
    CertificateFacts::read(bytes).ok();
    if let Ok(certificate) = WrappingCertificate::read(bytes) {
        KeyWrapping::ALL.into_iter().for_each(|wrapping| {
            certificate.suits(wrapping).ok();
        });
    }
}

/// What goes between the network process and the worker, in both directions.
pub(crate) fn worker(bytes: &[u8]) {
    try_worker_messages(bytes);
}

/// A PKCS#11 URI, of a token or of a key in one.
pub(crate) fn pkcs11_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(uri) = TokenUri::parse(text) {
        assert_eq!(TokenUri::parse(&uri.to_string()), Ok(uri), "a URI that was read is read again");
    }
    KeyUri::parse(text).map(drop).ok();
}

/// The texts of an administrator: a configuration, a policy.
pub(crate) fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    Config::try_text(text).ok();
    Policy::parse(1, text).map(drop).ok();
}
