//! The configuration file: TOML, read once, checked once.

mod budgets;
mod log;
mod siem;
mod timestamps;
mod token;

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

pub use self::siem::{RawTarget, SiemAddress};
pub(crate) use self::{
    budgets::RawBudgets,
    log::RawLog,
    timestamps::RawTimestamps,
    token::{RawNetwork, RawToken},
};
use self::{log::check_witnesses, siem::RawSiem, token::check_tokens};
use crate::{
    api::{ApiLimits, Lifetimes},
    authority::{ApprovalRules, LEAST_FOR_BREAK_GLASS, PasswordState, Rules},
    log::{CopyConfig, WitnessConfig},
    server::ServerLimits,
    token::MemberConfig,
    trouble::Trouble,
    tsa::TsaRules,
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
    /// The people's CA's certificate, PEM. Its key is in the token. `None`: nobody is certified.
    pub people_ca_certificate: Option<PathBuf>,
    /// The tokens, at least one. New keys are made in the first that serves.
    pub tokens: Vec<MemberConfig>,
    /// How long one token operation may take, whichever tokens are tried.
    pub token_deadline: Duration,
    /// The ledger's file.
    pub ledger: PathBuf,
    /// The file that remembers the log's last checkpoint. `None`: beside the ledger.
    pub ledger_checkpoint: Option<PathBuf>,
    /// The key under which the ledger keeps second factors.
    pub second_factor_key: PathBuf,
    /// How long a commit may take.
    pub ledger_deadline: Duration,
    /// The log's public key. Its private half is in the token. `None`: there is none yet.
    pub log_key: Option<PathBuf>,
    /// Where a copy of the log is kept. `None`: nowhere.
    pub log_copy: Option<CopyConfig>,
    /// Where records are sent. `None`: nowhere.
    pub siem: Option<RawTarget>,
    /// Who cosigns the log.
    pub log_witnesses: Vec<WitnessConfig>,
    /// How old a cosignature may be for a policy to count it.
    pub cosigners_within: Duration,
    /// What can change while the custodian runs.
    pub rules: Rules,
    /// How many passwords are hashed at once.
    pub logins_at_once: usize,
    /// How long issued certificates are valid.
    pub lifetimes: Lifetimes,
    /// What timestamps go by.
    pub timestamps: TsaRules,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) siem: Option<RawSiem>,
    #[serde(default)]
    pub(crate) sessions: RawSessions,
    #[serde(default)]
    pub(crate) passwords: RawPasswords,
    #[serde(default)]
    pub(crate) second_factor: RawFactor,
    #[serde(default)]
    pub(crate) budgets: RawBudgets,
    /// What `budgets` was before. Read to say so.
    #[serde(default, skip_serializing)]
    pub(crate) budget: Option<toml::Table>,
    #[serde(default)]
    pub(crate) approvals: RawApprovals,
    #[serde(default)]
    pub(crate) certificates: RawCertificates,
    #[serde(default)]
    pub(crate) timestamps: RawTimestamps,
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
    /// Without it nobody gets a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) people_certificate: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLedger {
    pub(crate) path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<PathBuf>,
    #[serde(default = "two_seconds")]
    #[serde(serialize_with = "friendly")]
    pub(crate) deadline: SignedDuration,
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

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawFactor {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawPasswords {
    pub(crate) change_given: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawApprovals {
    #[serde(serialize_with = "friendly")]
    pub(crate) lifetime: SignedDuration,
    pub(crate) break_glass: u32,
    #[serde(serialize_with = "friendly")]
    pub(crate) break_glass_lifetime: SignedDuration,
}

impl RawApprovals {
    fn check(&self) -> Result<ApprovalRules, String> {
        let enough = NonZeroU32::new(self.break_glass).filter(|number| number.get() >= LEAST_FOR_BREAK_GLASS);
        let least = || format!("approvals.break_glass: must be at least {LEAST_FOR_BREAK_GLASS}");
        Ok(ApprovalRules {
            lifetime: within_a_year("approvals.lifetime", self.lifetime)?,
            break_glass: enough.ok_or_else(least)?,
            break_glass_lifetime: within_a_year("approvals.break_glass_lifetime", self.break_glass_lifetime)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawCertificates {
    pub(crate) device_days: u32,
    pub(crate) wrapping_key_days: u32,
    pub(crate) person_days: u32,
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

impl RawLedger {
    pub(crate) fn at(path: &str, deadline: SignedDuration) -> Self {
        Self { path: path.into(), checkpoint: None, deadline }
    }
}

/// `10h` reads better than `PT10H`. Both are read.
fn friendly<S: serde::Serializer>(duration: &SignedDuration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{duration:#}"))
}

/// How long a commit may take, if nothing else is said.
pub(crate) fn two_seconds() -> SignedDuration {
    SignedDuration::from_secs(2)
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

impl Default for RawApprovals {
    fn default() -> Self {
        let ApprovalRules { lifetime, break_glass, break_glass_lifetime } = ApprovalRules::default();
        Self { lifetime, break_glass: break_glass.get(), break_glass_lifetime }
    }
}

impl Default for RawCertificates {
    fn default() -> Self {
        Self { device_days: 365, wrapping_key_days: 3650, person_days: 365 }
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

    /// Whether this text would be a configuration. For the fuzz target: nothing is read.
    #[doc(hidden)]
    pub fn try_text(text: &str) -> Result<Self, Trouble> {
        Self::parse(text, Path::new("custodian.toml"), Path::new("/"))
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
        let ledger = folder.join(self.ledger.path);
        let siem = self.siem.map(|siem| siem.check(folder, &ledger)).transpose()?;
        let log = self.log.unwrap_or_else(|| RawLog::of_key(""));
        let log_key = Some(log.key).filter(|key| !key.as_os_str().is_empty()).map(|key| folder.join(key));
        let log_copy = log.copy.map(|copy| copy.check(folder)).transpose()?;
        let log_witnesses = check_witnesses(&log.witness, folder)?;
        let tokens = check_tokens(std::mem::take(&mut self.token), folder)?;
        let room_of_tokens = tokens.iter().map(MemberConfig::room).fold(0, usize::saturating_add);
        let token_deadline = tokens.iter().map(|token| token.deadline).max().unwrap_or_default();
        if self.budget.is_some() {
            return Err(
                "[budget] is now [budgets]: unwraps_per_user_and_hour = N is unwraps_per_hour = N in \
                        [budgets.user], which has more limits beside it"
                    .into(),
            );
        }
        if self.sessions.logins_at_once == 0 {
            return Err("sessions.logins_at_once: must be at least 1".into());
        }
        for (name, value) in [
            ("limits.connections", self.limits.connections),
            ("limits.streams_per_connection", self.limits.streams_per_connection as usize),
            ("limits.calls", self.limits.calls),
            ("certificates.device_days", self.certificates.device_days as usize),
            ("certificates.wrapping_key_days", self.certificates.wrapping_key_days as usize),
            ("certificates.person_days", self.certificates.person_days as usize),
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
            people_ca_certificate: self.ca.people_certificate.map(|path| folder.join(path)),
            tokens,
            token_deadline,
            second_factor_key: match self.second_factor.key {
                Some(path) => folder.join(path),
                None => ledger.with_file_name("second-factor.key"),
            },
            ledger,
            siem,
            ledger_checkpoint: self.ledger.checkpoint.map(|path| folder.join(path)),
            ledger_deadline: positive("ledger.deadline", self.ledger.deadline)?,
            log_key,
            log_copy,
            log_witnesses,
            cosigners_within: positive("log.cosigners_within", log.cosigners_within)?,
            rules: Rules {
                session_idle: self.sessions.idle,
                session_lifetime: self.sessions.lifetime,
                budgets: self.budgets.check()?,
                given_passwords: match self.passwords.change_given {
                    true => PasswordState::MustChange,
                    false => PasswordState::Settled,
                },
                approvals: self.approvals.check()?,
            },
            logins_at_once: self.sessions.logins_at_once,
            lifetimes: Lifetimes {
                device_days: self.certificates.device_days,
                wrapping_key_days: self.certificates.wrapping_key_days,
                person_days: self.certificates.person_days,
            },
            timestamps: self.timestamps.check()?,
            api_limits: ApiLimits {
                calls: self.limits.calls,
                asking_token: room_of_tokens,
                tails: self.limits.tails,
            },
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

fn positive(name: &str, duration: SignedDuration) -> Result<Duration, String> {
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{name}: must be more than nothing")),
    }
}

fn within_a_year(name: &str, duration: SignedDuration) -> Result<SignedDuration, String> {
    positive(name, duration)?;
    if duration > SignedDuration::from_hours(366 * 24) {
        return Err(format!("{name}: at most 366 days"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests;
