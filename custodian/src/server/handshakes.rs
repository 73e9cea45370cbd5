//! Handshakes that came to nothing, and their records.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;
use rustls::CertificateError;

use super::tls::Newcomers;
use crate::{
    authority::Floodgate,
    custody::Denial,
    ledger::{Intent, Ledger, Outcome},
};

/// Refused handshakes a minute that are recorded one by one: of one network, and of all.
pub(super) const RECORDED_EACH: u32 = 30;
const RECORDED_ALL: u32 = 600;

/// Records refused handshakes.
pub(super) struct Handshakes {
    ledger: Arc<dyn Ledger>,
    gate: Floodgate<IpAddr>,
}

impl Handshakes {
    pub(super) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, gate: Floodgate::new(RECORDED_EACH, RECORDED_ALL) }
    }

    /// Begins a new minute. How many refusals of the old one were not recorded.
    pub(super) fn roll(&self) -> u64 {
        self.gate.roll()
    }

    /// Self-signed certificates are let in only while an invitation is open.
    pub(super) async fn expects_newcomers(&self) -> Newcomers {
        match self.ledger.has_open_invitation(Timestamp::now()).await {
            Ok(true) => Newcomers::Expected,
            Ok(false) => Newcomers::Refused,
            Err(error) => {
                tracing::warn!("cannot read the invitations: {error}");
                Newcomers::Refused
            }
        }
    }

    /// Records a refused handshake. One that came to nothing for another reason is not an attempt: a port scan, a health
    /// probe, a client that does not trust us.
    pub(super) async fn failed(&self, ip: IpAddr, certificate: Option<[u8; 32]>, error: &io::Error) {
        let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some((refusal, error)) = error.and_then(|error| Some((refusal(error)?, error))) else {
            tracing::debug!(%ip, "a handshake came to nothing: {error:?}");
            return;
        };
        let ip = ip.to_canonical();
        if !self.gate.admit(network(ip)) {
            return;
        }
        let denial = Denial::Refused { refusal, detail: error.to_string() };
        record(self.ledger.as_ref(), "Connect", ip, certificate, denial).await;
    }
}

/// Records what happened outside any call.
pub(super) async fn record(
    ledger: &dyn Ledger,
    operation: &'static str,
    ip: IpAddr,
    certificate: Option<[u8; 32]>,
    denial: Denial,
) {
    let attempt = ledger.begin(Intent { certificate, ..Intent::of_nobody(operation, ip) });
    let told = match &denial {
        Denial::Refused { refusal, detail } => format!("{refusal}: {detail}"),
        other => other.to_string(),
    };
    if let Err(Denial::Failed(fault)) = ledger.settle(attempt, Outcome::Denied(denial)).await {
        tracing::error!(%ip, operation, "a refusal is not recorded ({told}): {fault}");
    }
}

/// What a failed handshake refused, if it was this side that refused, and for who the peer is.
fn refusal(error: &rustls::Error) -> Option<Refusal> {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Some(Refusal::CertificateExpired),
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::PeerIncompatible(_) => Some(Refusal::CertificateRefused),
        _ => None,
    }
}

/// What one stranger has without effort: an IPv4 address, or a /64 of IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}
