//! Handshakes that came to nothing, and their records.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;
use rustls::CertificateError;
use uuid::Uuid;

use super::tls::Newcomers;
use crate::{
    custody::Denial,
    ledger::{Intent, Ledger, Outcome},
};

/// A stranger must not be able to fill the log: from one address this many failures are recorded one by one within
/// [`WINDOW`]; further ones are counted, and the next record tells how many they were.
pub(super) const RECORDED: u32 = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once; beyond it the oldest windows are forgotten first.
const ADDRESSES: usize = 10_000;

/// Records refused handshakes.
pub(super) struct Handshakes {
    ledger: Arc<dyn Ledger>,
    windows: Mutex<HashMap<IpAddr, Window>>,
}

struct Window {
    began: Instant,
    failures: u32,
}

impl Handshakes {
    pub(super) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, windows: Mutex::default() }
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

    /// Records a failed handshake, unless the peer just went away or there are too many.
    pub(super) async fn failed(&self, ip: IpAddr, certificate: Option<[u8; 32]>, error: &io::Error) {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            tracing::debug!(%ip, "handshake: {error}");
            return;
        };
        let ip = ip.to_canonical();
        let Some(unrecorded) = self.count(ip) else { return };
        let refusal = match error {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Refusal::CertificateExpired,
            _ => Refusal::CertificateRefused,
        };
        let mut detail = error.to_string();
        if unrecorded > 0 {
            detail = format!("{detail} (and {unrecorded} earlier failures from this address)");
        }
        let attempt = self.ledger.begin(Intent {
            request_id: Uuid::now_v7(),
            arrived: Instant::now(),
            operation: "Connect",
            user: String::new(),
            device: String::new(),
            certificate,
            ip,
            key: None,
            wrapped_sha256: None,
            claims: None,
            target: String::new(),
            reason: String::new(),
        });
        let denial = Denial::Refused { refusal, detail };
        if let Err(Denial::Failed(fault)) = self.ledger.settle(attempt, Outcome::Denied(denial)).await {
            tracing::error!(%ip, "a refused handshake is not recorded: {fault}");
        }
    }

    /// Counts a failure. `Some`: record it, and this many before it were not recorded.
    fn count(&self, ip: IpAddr) -> Option<u32> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if windows.len() >= ADDRESSES && !windows.contains_key(&ip) {
            windows.retain(|_, window| now.duration_since(window.began) < WINDOW);
            if windows.len() >= ADDRESSES {
                windows.clear();
            }
        }
        let window = windows.entry(ip).or_insert(Window { began: now, failures: 0 });
        if now.duration_since(window.began) >= WINDOW {
            let unrecorded = window.failures.saturating_sub(RECORDED);
            *window = Window { began: now, failures: 1 };
            return Some(unrecorded);
        }
        window.failures += 1;
        (window.failures <= RECORDED).then_some(0)
    }
}
