//! `[siem]`: where records are sent.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSiem {
    pub(crate) syslog: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<PathBuf>,
}

impl RawSiem {
    pub(super) fn check(self, folder: &Path, ledger: &Path) -> Result<RawTarget, String> {
        let mut beside = ledger.as_os_str().to_owned();
        beside.push(".siem");
        let cursor = self.cursor.map_or_else(|| PathBuf::from(beside), |cursor| folder.join(cursor));
        let wrong = || {
            format!(
                "siem.syslog {:?}: give tcp://HOST:PORT, tls://HOST:PORT with ca, or unix:/PATH",
                self.syslog
            )
        };
        let (scheme, rest) = self.syslog.split_once(':').ok_or_else(wrong)?;
        let address = rest.strip_prefix("//").filter(|address| {
            address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        });
        let address = address.map(str::to_owned);
        let at = match (scheme, address, self.ca) {
            ("tcp", Some(address), None) => SiemAddress::Tcp(address),
            ("tls", Some(address), Some(ca)) => SiemAddress::Tls(address, folder.join(ca)),
            ("unix", None, None) if rest.starts_with('/') => SiemAddress::Unix(rest.into()),
            _ => return Err(wrong()),
        };
        Ok(RawTarget { at, cursor })
    }
}

/// Where the records of the log are sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SiemAddress {
    /// `HOST:PORT`
    Tcp(String),
    /// `HOST:PORT`, and the file of the CA that its certificate is of.
    Tls(String, PathBuf),
    /// A datagram socket.
    Unix(PathBuf),
}

/// A stream of the records, before its CA is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawTarget {
    /// Where to.
    pub at: SiemAddress,
    /// The file that says how far it is.
    pub cursor: PathBuf,
}
