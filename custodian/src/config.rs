//! The configuration file: TOML, read once, checked once.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{
    api::{ApiLimits, Lifetimes},
    authority::Rules,
    server::ServerLimits,
    token::{PinSource, TokenConfig, TokenSelect},
    trouble::Trouble,
};

/// A checked configuration. Paths are absolute.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The server's certificate chain, PEM.
    pub tls_certificate: PathBuf,
    /// Its key, PEM.
    pub tls_key: PathBuf,
    /// The device CA's certificate, PEM. Its key is in the token.
    pub ca_certificate: PathBuf,
    /// The token.
    pub token: TokenConfig,
    /// How long one token operation may take.
    pub token_deadline: Duration,
    /// The ledger's file.
    pub ledger: PathBuf,
    /// How long a commit may take.
    pub ledger_deadline: Duration,
    /// The log's public key. Its private half is in the token. `None`: there is none yet.
    pub log_key: Option<PathBuf>,
    /// What can change while the custodian runs.
    pub rules: Rules,
    /// How many passwords are hashed at once.
    pub logins_at_once: usize,
    /// How long issued certificates are valid.
    pub lifetimes: Lifetimes,
    /// What is served at once.
    pub api_limits: ApiLimits,
    /// What the network takes at once.
    pub server_limits: ServerLimits,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
}

/// The file as it is written. Unknown names are errors; what is not given has a safe default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub(crate) listen: SocketAddr,
    #[serde(default)]
    pub(crate) reflection: bool,
    pub(crate) tls: RawTls,
    pub(crate) ca: RawCa,
    pub(crate) ledger: RawLedger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<RawLog>,
    #[serde(default)]
    pub(crate) sessions: RawSessions,
    #[serde(default)]
    pub(crate) budget: RawBudget,
    #[serde(default)]
    pub(crate) certificates: RawCertificates,
    #[serde(default)]
    pub(crate) limits: RawLimits,
    pub(crate) token: Vec<RawToken>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCa {
    pub(crate) certificate: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLedger {
    pub(crate) path: PathBuf,
    #[serde(default = "two_seconds")]
    #[serde(serialize_with = "friendly")]
    pub(crate) deadline: SignedDuration,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) key: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawSessions {
    #[serde(serialize_with = "friendly")]
    pub(crate) idle: SignedDuration,
    #[serde(serialize_with = "friendly")]
    pub(crate) lifetime: SignedDuration,
    pub(crate) logins_at_once: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawBudget {
    pub(crate) unwraps_per_user_and_hour: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawCertificates {
    pub(crate) device_days: u32,
    pub(crate) wrapping_key_days: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLimits {
    pub(crate) connections: usize,
    pub(crate) streams_per_connection: u32,
    pub(crate) calls: usize,
    pub(crate) tails: usize,
    #[serde(serialize_with = "friendly")]
    pub(crate) handshake: SignedDuration,
    #[serde(serialize_with = "friendly")]
    pub(crate) call: SignedDuration,
    #[serde(serialize_with = "friendly")]
    pub(crate) drain: SignedDuration,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawToken {
    pub(crate) module: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slot: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pin_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pin_credential: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pin_prompt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,
    #[serde(default = "queue")]
    pub(crate) queue: usize,
    #[serde(default = "five_seconds")]
    #[serde(serialize_with = "friendly")]
    pub(crate) deadline: SignedDuration,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) environment: BTreeMap<String, String>,
}

impl RawLedger {
    pub(crate) fn at(path: &str) -> Self {
        Self { path: path.into(), deadline: two_seconds() }
    }
}

impl RawToken {
    pub(crate) fn new(module: PathBuf, label: Option<String>, serial: Option<String>) -> Self {
        Self {
            module,
            label,
            serial,
            slot: None,
            pin_file: None,
            pin_credential: None,
            pin_prompt: false,
            threads: None,
            queue: queue(),
            deadline: five_seconds(),
            environment: BTreeMap::new(),
        }
    }
}

/// `10h` reads better than `PT10H`. Both are read.
fn friendly<S: serde::Serializer>(duration: &SignedDuration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{duration:#}"))
}

fn two_seconds() -> SignedDuration {
    SignedDuration::from_secs(2)
}

fn five_seconds() -> SignedDuration {
    SignedDuration::from_secs(5)
}

fn queue() -> usize {
    256
}

impl Default for RawSessions {
    fn default() -> Self {
        Self {
            idle: SignedDuration::from_mins(15),
            lifetime: SignedDuration::from_hours(10),
            logins_at_once: 2,
        }
    }
}

impl Default for RawBudget {
    fn default() -> Self {
        Self { unwraps_per_user_and_hour: 1_000 }
    }
}

impl Default for RawCertificates {
    fn default() -> Self {
        Self { device_days: 365, wrapping_key_days: 3650 }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            streams_per_connection: 64,
            calls: 512,
            tails: 64,
            handshake: SignedDuration::from_secs(10),
            call: SignedDuration::from_secs(30),
            drain: SignedDuration::from_secs(10),
        }
    }
}

impl Config {
    /// Reads and checks a configuration file. Relative paths are relative to the file's folder.
    pub fn read(path: &Path) -> Result<Self, Trouble> {
        let what = format!("cannot read the configuration {}", path.display());
        let text = fs::read_to_string(path).map_err(|error| {
            Trouble::new(&what, &error)
                .hint("give another path, or make one with: custodian init --config FILE")
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().map_err(|error| Trouble::new(&what, &error))?;
        Self::parse(&text, path, &folder)
    }

    /// Checks the text of a configuration that stands, or will stand, at `path`.
    pub(crate) fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, Trouble> {
        let trouble = |why: &str| {
            Trouble::new(format!("cannot use the configuration {}", path.display()), why)
                .hint("docs/operations.md lists every setting")
        };
        let raw: RawConfig = toml::from_str(text).map_err(|error| trouble(error.to_string().trim_end()))?;
        raw.check(folder).map_err(|why| trouble(&why))
    }
}

impl RawConfig {
    /// Every value makes sense, or one sentence that says which does not.
    fn check(mut self, folder: &Path) -> Result<Config, String> {
        let token = match self.token.len() {
            1 => self.token.remove(0),
            0 => return Err("a [[token]] table is missing".into()),
            _ => return Err("there is more than one [[token]] table, and this version serves one".into()),
        };
        let token_deadline = positive("token.deadline", token.deadline)?;
        if self.sessions.logins_at_once == 0 {
            return Err("sessions.logins_at_once: must be at least 1".into());
        }
        for (name, value) in [
            ("limits.connections", self.limits.connections),
            ("limits.streams_per_connection", self.limits.streams_per_connection as usize),
            ("limits.calls", self.limits.calls),
            ("budget.unwraps_per_user_and_hour", self.budget.unwraps_per_user_and_hour as usize),
            ("certificates.device_days", self.certificates.device_days as usize),
            ("certificates.wrapping_key_days", self.certificates.wrapping_key_days as usize),
        ] {
            if value == 0 {
                return Err(format!("{name}: must be at least 1"));
            }
        }
        positive("sessions.idle", self.sessions.idle)?;
        positive("sessions.lifetime", self.sessions.lifetime)?;
        Ok(Config {
            listen: self.listen,
            tls_certificate: folder.join(self.tls.certificate),
            tls_key: folder.join(self.tls.key),
            ca_certificate: folder.join(self.ca.certificate),
            token: token.check(folder)?,
            token_deadline,
            ledger: folder.join(self.ledger.path),
            ledger_deadline: positive("ledger.deadline", self.ledger.deadline)?,
            log_key: self.log.map(|log| folder.join(log.key)),
            rules: Rules {
                session_idle: self.sessions.idle,
                session_lifetime: self.sessions.lifetime,
                hourly_budget: self.budget.unwraps_per_user_and_hour,
            },
            logins_at_once: self.sessions.logins_at_once,
            lifetimes: Lifetimes {
                device_days: self.certificates.device_days,
                wrapping_key_days: self.certificates.wrapping_key_days,
            },
            api_limits: ApiLimits { calls: self.limits.calls, tails: self.limits.tails },
            server_limits: ServerLimits {
                connections: self.limits.connections,
                streams: self.limits.streams_per_connection,
                handshake: positive("limits.handshake", self.limits.handshake)?,
                call: positive("limits.call", self.limits.call)?,
                drain: positive("limits.drain", self.limits.drain)?,
            },
            reflection: self.reflection,
        })
    }
}

impl RawToken {
    fn check(self, folder: &Path) -> Result<TokenConfig, String> {
        if !self.module.is_absolute() {
            // A relative path would be searched for, and an attacker could put another library first.
            return Err(format!("token.module: {} is not an absolute path", self.module.display()));
        }
        let select = match (self.label, self.serial, self.slot) {
            (Some(label), None, None) => TokenSelect::Label(label),
            (None, Some(serial), None) => TokenSelect::Serial(serial),
            (None, None, Some(slot)) => TokenSelect::Slot(slot),
            _ => return Err("token: give one of label, serial and slot".into()),
        };
        let pin = match (self.pin_file, self.pin_credential, self.pin_prompt) {
            (Some(file), None, false) => PinSource::File(folder.join(file)),
            (None, Some(name), false) => PinSource::Credential(name),
            (None, None, true) => PinSource::Prompt,
            _ => return Err("token: give one of pin_file, pin_credential and pin_prompt = true".into()),
        };
        if self.queue == 0 || self.threads == Some(0) {
            return Err("token: queue and threads must be at least 1".into());
        }
        Ok(TokenConfig {
            module: self.module,
            select,
            pin,
            environment: self.environment,
            threads: self.threads,
            queue: self.queue,
        })
    }
}

fn positive(name: &str, duration: SignedDuration) -> Result<Duration, String> {
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{name}: must be more than nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        listen = "127.0.0.1:7443"
        tls = { certificate = "server.crt", key = "server.key" }
        ca = { certificate = "ca.crt" }
        ledger = { path = "ledger.db" }
        [[token]]
        module = "/usr/lib/softhsm/libsofthsm2.so"
        label = "custodian"
        pin_file = "pin"
    "#;

    fn read(text: &str) -> Result<Config, String> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.check(Path::new("/etc/custodian"))
    }

    #[test]
    fn the_least_configuration_has_safe_defaults() {
        let config = read(LEAST).map_err(|why| panic!("{why}")).unwrap();
        assert_eq!(config.tls_key, Path::new("/etc/custodian/server.key"));
        assert_eq!(config.rules.session_idle, SignedDuration::from_mins(15));
        assert!(!config.reflection);
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, named) in [
            ("pin_file = \"pin\"", "", "pin_file"),
            ("label = \"custodian\"", "label = \"a\"\nserial = \"b\"", "label, serial and slot"),
            ("/usr/lib/softhsm/libsofthsm2.so", "libsofthsm2.so", "absolute"),
            ("[[token]]", "[sessions]\nidle = \"0s\"\n[[token]]", "sessions.idle"),
            ("[[token]]", "[sessions]\nidel = \"1s\"\n[[token]]", "idel"),
            ("127.0.0.1:7443", "localhost", "listen"),
        ] {
            let Err(why) = read(&LEAST.replace(from, to)) else { panic!("accepted: {to}") };
            assert!(why.contains(named), "{why}");
        }
    }
}
