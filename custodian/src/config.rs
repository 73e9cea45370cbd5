//! The configuration file: TOML, read once, checked once.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{
    api::{ApiLimits, Lifetimes},
    authority::{
        Amounts, ApprovalRules, Budget, Budgets, Guesses, LEAST_FOR_BREAK_GLASS, PasswordState, Rules,
    },
    log::{CopyConfig, OnFailure, WitnessConfig},
    server::ServerLimits,
    token::{
        CageConfig, MemberConfig, Network, PinSource, Programs, TokenConfig, TokenName, TokenSelect, TokenUri,
    },
    trouble::Trouble,
};

/// The name of a token that is the only one and was given none.
const ONLY_TOKEN: &str = "main";

/// Most workers of one token: a wrong PIN is tried by each that starts again.
const MAX_WORKERS: usize = 64;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<PathBuf>,
    #[serde(default = "two_seconds")]
    #[serde(serialize_with = "friendly")]
    pub(crate) deadline: SignedDuration,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) key: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copy: Option<RawCopy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) witness: Vec<RawWitness>,
    #[serde(default = "ten_minutes")]
    #[serde(serialize_with = "friendly")]
    pub(crate) cosigners_within: SignedDuration,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWitness {
    pub(crate) key: String,
    pub(crate) url: String,
}

impl RawWitness {
    fn check(&self) -> Result<WitnessConfig, String> {
        let key = self.key.parse().map_err(|flaw| format!("log.witness.key: {flaw}"))?;
        let url = self.url.parse().map_err(|why| format!("log.witness.url: {why}"))?;
        Ok(WitnessConfig { key, url })
    }
}

/// Each witness counts once.
fn check_witnesses(raw: &[RawWitness]) -> Result<Vec<WitnessConfig>, String> {
    let mut witnesses: Vec<WitnessConfig> = Vec::new();
    for witness in raw {
        let witness = witness.check()?;
        if witnesses
            .iter()
            .any(|other| other.key.is_of(&witness.key) || other.key.name() == witness.key.name())
        {
            return Err(format!("log.witness: {} is given twice", witness.key.name()));
        }
        witnesses.push(witness);
    }
    Ok(witnesses)
}

impl RawLog {
    pub(crate) fn of_key(path: &str) -> Self {
        Self { key: path.into(), copy: None, witness: Vec::new(), cosigners_within: ten_minutes() }
    }
}

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
    fn check(self, folder: &Path, ledger: &Path) -> Result<RawTarget, String> {
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCopy {
    pub(crate) directory: PathBuf,
    pub(crate) on_failure: RawOnFailure,
}

/// `"require"` or `{ lag = 1000 }`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawOnFailure {
    Require,
    Lag(u64),
}

impl RawCopy {
    fn check(self, folder: &Path) -> CopyConfig {
        let on_failure = match self.on_failure {
            RawOnFailure::Require => OnFailure::Require,
            RawOnFailure::Lag(records) => OnFailure::Lag(records),
        };
        CopyConfig { directory: folder.join(self.directory), on_failure }
    }
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
pub(crate) struct RawBudgets {
    pub(crate) bad_files_per_hour: u32,
    #[serde(serialize_with = "friendly")]
    pub(crate) lock: SignedDuration,
    pub(crate) user: RawBudget,
    pub(crate) device: RawBudget,
    pub(crate) key: RawBudget,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawBudget {
    pub(crate) files_per_hour: Option<u32>,
    pub(crate) files_per_day: Option<u32>,
    pub(crate) unwraps_per_hour: Option<u32>,
    pub(crate) unwraps_per_day: Option<u32>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) module: Option<PathBuf>,
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
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(crate) workers: usize,
    #[serde(default = "queue")]
    pub(crate) queue: usize,
    #[serde(default = "five_seconds")]
    #[serde(serialize_with = "friendly")]
    pub(crate) deadline: SignedDuration,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) cage: RawCage,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawCage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    pub(crate) write: Vec<PathBuf>,
    pub(crate) network: RawNetwork,
    pub(crate) programs: bool,
}

/// `true`, `false` or ports.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawNetwork {
    All(bool),
    Ports(Vec<u16>),
}

impl Default for RawNetwork {
    fn default() -> Self {
        Self::All(false)
    }
}

impl RawCage {
    fn check(self, folder: &Path) -> CageConfig {
        CageConfig {
            user: self.user,
            write: self.write.into_iter().map(|path| folder.join(path)).collect(),
            network: match self.network {
                RawNetwork::All(true) => Network::Any,
                RawNetwork::All(false) => Network::None,
                RawNetwork::Ports(ports) if ports.is_empty() => Network::None,
                RawNetwork::Ports(ports) => Network::Ports(ports),
            },
            programs: if self.programs { Programs::Allowed } else { Programs::Refused },
        }
    }
}

impl RawLedger {
    pub(crate) fn at(path: &str) -> Self {
        Self { path: path.into(), checkpoint: None, deadline: two_seconds() }
    }
}

impl RawToken {
    pub(crate) fn new(module: PathBuf, label: Option<String>, serial: Option<String>) -> Self {
        Self {
            name: Some(ONLY_TOKEN.to_owned()),
            uri: None,
            module: Some(module),
            label,
            serial,
            slot: None,
            pin_file: None,
            pin_credential: None,
            pin_prompt: false,
            threads: None,
            workers: one(),
            queue: queue(),
            deadline: five_seconds(),
            environment: BTreeMap::new(),
            cage: RawCage::default(),
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

fn ten_minutes() -> SignedDuration {
    SignedDuration::from_mins(10)
}

fn five_seconds() -> SignedDuration {
    SignedDuration::from_secs(5)
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(workers: &usize) -> bool {
    *workers == one()
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

impl Default for RawBudgets {
    fn default() -> Self {
        Self {
            bad_files_per_hour: 20,
            lock: SignedDuration::from_mins(15),
            user: RawBudget::with_files(500, 2_000),
            device: RawBudget::with_files(1_000, 4_000),
            key: RawBudget::with_files(10_000, 40_000),
        }
    }
}

impl RawBudget {
    /// Each file may be opened twice.
    fn with_files(files_per_hour: u32, files_per_day: u32) -> Self {
        Self {
            files_per_hour: Some(files_per_hour),
            files_per_day: Some(files_per_day),
            unwraps_per_hour: Some(2 * files_per_hour),
            unwraps_per_day: Some(2 * files_per_day),
        }
    }

    /// `usual` says what is not given.
    fn check(self, of: &str, usual: Self) -> Result<Budget, String> {
        let limit = |name: &str, given: Option<u32>, usual: Option<u32>| match given.or(usual) {
            Some(limit) if limit > 0 => Ok(limit),
            _ => Err(format!("budgets.{of}.{name}: must be at least 1")),
        };
        Ok(Budget {
            hour: Amounts {
                files: limit("files_per_hour", self.files_per_hour, usual.files_per_hour)?,
                unwraps: limit("unwraps_per_hour", self.unwraps_per_hour, usual.unwraps_per_hour)?,
            },
            day: Amounts {
                files: limit("files_per_day", self.files_per_day, usual.files_per_day)?,
                unwraps: limit("unwraps_per_day", self.unwraps_per_day, usual.unwraps_per_day)?,
            },
        })
    }
}

impl RawBudgets {
    fn check(self) -> Result<Budgets, String> {
        if self.bad_files_per_hour == 0 {
            return Err("budgets.bad_files_per_hour: must be at least 1".into());
        }
        positive("budgets.lock", self.lock)?;
        let usual = Self::default();
        Ok(Budgets {
            user: self.user.check("user", usual.user)?,
            device: self.device.check("device", usual.device)?,
            key: self.key.check("key", usual.key)?,
            guesses: Guesses { per_hour: self.bad_files_per_hour, lock: self.lock },
        })
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
        let ledger = folder.join(self.ledger.path);
        let siem = self.siem.map(|siem| siem.check(folder, &ledger)).transpose()?;
        let log = self.log.unwrap_or_else(|| RawLog::of_key(""));
        let log_key = Some(log.key).filter(|key| !key.as_os_str().is_empty()).map(|key| folder.join(key));
        let log_copy = log.copy.map(|copy| copy.check(folder));
        let log_witnesses = check_witnesses(&log.witness)?;
        let tokens = check_tokens(std::mem::take(&mut self.token), folder)?;
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

/// Every token has a name of its own.
fn check_tokens(mut raw: Vec<RawToken>, folder: &Path) -> Result<Vec<MemberConfig>, String> {
    if raw.is_empty() {
        return Err("a [[token]] table is missing".into());
    }
    if let [only] = raw.as_mut_slice() {
        only.name.get_or_insert_with(|| ONLY_TOKEN.to_owned());
    }
    let mut tokens: Vec<MemberConfig> = Vec::new();
    for token in raw {
        let token = token.check(folder)?;
        if tokens.iter().any(|other| other.name == token.name) {
            return Err(format!("token {}: two [[token]] tables have this name", token.name));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

impl RawToken {
    fn check(self, folder: &Path) -> Result<MemberConfig, String> {
        let Some(name) = &self.name else {
            return Err("with several [[token]] tables, each needs a name = \"…\" of its own".into());
        };
        let name: TokenName = name.parse().map_err(|error| format!("token.name {name:?}: {error}"))?;
        let wrong = |why: &str| format!("token {name}: {why}");
        let uri = self.uri.as_deref().map(TokenUri::parse).transpose();
        let uri = uri.map_err(|why| wrong(&format!("uri: {why}")))?;
        let (named, label) = match &uri {
            None => (None, None),
            // Chosen by its serial, it must have the label, too.
            Some(uri) => {
                let select = uri.select();
                // Chosen by something else, it must have the label, too.
                let by_label = matches!(select, Some(TokenSelect::Label(_)));
                (select, uri.label.clone().filter(|_| !by_label))
            }
        };
        let select = match (named, self.label, self.serial, self.slot) {
            (Some(select), None, None, None) => select,
            (None, Some(label), None, None) => TokenSelect::Label(label),
            (None, None, Some(serial), None) => TokenSelect::Serial(serial),
            (None, None, None, Some(slot)) => TokenSelect::Slot(slot),
            _ => return Err(wrong("give one of label, serial and slot, or a uri that has it")),
        };
        let (in_uri, pin_in_uri) = uri.map(|uri| (uri.module, uri.pin_file)).unwrap_or_default();
        let module = match (self.module, in_uri) {
            (Some(module), None) | (None, Some(module)) => module,
            _ => return Err(wrong("give module, or a uri with module-path")),
        };
        if !module.is_absolute() {
            // A relative path would be searched for, and an attacker could put another library first.
            return Err(wrong(&format!(
                "module: {} is not an absolute path. A module is never searched for: give its full path, e.g. \
                 /usr/lib/softhsm/libsofthsm2.so",
                module.display()
            )));
        }
        let pin = match (self.pin_file.or(pin_in_uri), self.pin_credential, self.pin_prompt) {
            (Some(file), None, false) => PinSource::File(folder.join(file)),
            (None, Some(name), false) => PinSource::Credential(name),
            (None, None, true) => PinSource::Prompt,
            _ => {
                return Err(wrong(
                    "give one of pin_file (or pin-source in the uri), pin_credential and pin_prompt = true",
                ));
            }
        };
        if self.queue == 0 || self.threads == Some(0) {
            return Err(wrong("queue and threads must be at least 1"));
        }
        let workers = match NonZeroUsize::new(self.workers) {
            Some(workers) if self.workers <= MAX_WORKERS => workers,
            _ => return Err(wrong("workers must be 1 to 64")),
        };
        if self.workers > 1 && pin == PinSource::Prompt {
            return Err(wrong("several workers cannot all ask for the PIN: give pin_file or pin_credential"));
        }
        let deadline = positive(&format!("token {name}: deadline"), self.deadline)?;
        Ok(MemberConfig {
            name,
            token: TokenConfig {
                module,
                select,
                pin,
                environment: self.environment,
                threads: self.threads,
                queue: self.queue,
                cage: self.cage.check(folder),
            },
            label,
            workers,
            deadline,
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
        return Err(format!("{name}: may be 366 days"));
    }
    Ok(duration)
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
    fn a_limit_that_is_not_given_is_the_usual_one() {
        let given = LEAST.replace("[[token]]", "[budgets.device]\nfiles_per_hour = 7\n[[token]]");
        let [usual, given] = [LEAST, &given].map(|text| read(text).ok().unwrap().rules.budgets);
        let hour = Amounts { files: 7, ..usual.device.hour };
        assert_eq!(given, Budgets { device: Budget { hour, ..usual.device }, ..usual });
        assert_eq!(
            (usual.user.hour.unwraps, usual.user.day.files, usual.guesses.per_hour),
            (1_000, 2_000, 20)
        );
    }

    #[test]
    fn a_second_place_says_what_depends_on_it() {
        let with =
            |copy: &str| read(&LEAST.replace("[[token]]", &format!("[log]\nkey = \"k\"\n{copy}\n[[token]]")));
        let copy = |on_failure| Some(CopyConfig { directory: "/mnt/log".into(), on_failure });
        let given = |on_failure: &str| format!("[log.copy]\ndirectory = \"/mnt/log\"\n{on_failure}");
        let require = with(&given("on_failure = \"require\"")).ok().unwrap();
        assert_eq!(require.log_copy, copy(OnFailure::Require));
        assert_eq!(
            with(&given("on_failure = { lag = 50 }")).ok().unwrap().log_copy,
            copy(OnFailure::Lag(50))
        );
        assert_eq!(with("").ok().unwrap().log_copy, None);
        for wrong in
            ["", "on_failure = \"hope\"", "on_failure = { lag = -1 }", "on_failure = \"require\"\nlag = 3"]
        {
            assert!(with(&given(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn records_are_sent_to_tcp_tls_or_a_local_socket() {
        let with = |siem: &str| read(&LEAST.replace("[[token]]", &format!("[siem]\n{siem}\n[[token]]")));
        for (siem, at) in [
            ("syslog = \"tcp://siem:601\"", SiemAddress::Tcp("siem:601".into())),
            (
                "syslog = \"tls://[::1]:6514\"\nca = \"siem.crt\"",
                SiemAddress::Tls("[::1]:6514".into(), "/etc/custodian/siem.crt".into()),
            ),
            ("syslog = \"unix:/dev/log\"", SiemAddress::Unix("/dev/log".into())),
        ] {
            let cursor = "/etc/custodian/ledger.db.siem".into();
            assert_eq!(with(siem).ok().unwrap().siem, Some(RawTarget { at, cursor }));
        }
        for wrong in ["siem:601", "tcp://siem", "tcp://:601", "udp://siem:514", "tls://siem:6514", "unix:log"]
        {
            let Err(why) = with(&format!("syslog = {wrong:?}")) else { panic!("accepted: {wrong}") };
            assert!(why.contains("siem.syslog"), "{why}");
        }
    }

    #[test]
    fn several_tokens_have_names_of_their_own() {
        let second = |name: &str| {
            format!(
                "{}\n[[token]]\n{name}\nuri = \"pkcs11:token=b;serial=1f?module-path=/hsm.so&pin-source=file:/pin\"\nworkers = 3",
                LEAST.replace("[[token]]", "[[token]]\nname = \"one\"")
            )
        };
        let config = read(&second("name = \"two\"")).map_err(|why| panic!("{why}")).unwrap();
        let [one, two] = &config.tokens[..] else { panic!("two tokens") };
        assert_eq!((one.name.as_str(), one.workers.get(), &one.label), ("one", 1, &None));
        assert_eq!((two.name.as_str(), two.workers.get(), two.label.as_deref()), ("two", 3, Some("b")));
        assert_eq!(two.token.select, TokenSelect::Serial("1f".to_owned()));
        assert_eq!(two.token.module, Path::new("/hsm.so"));
        assert_eq!(two.token.pin, PinSource::File("/pin".into()));
        for (name, why) in [("", "needs a name"), ("name = \"one\"", "two [[token]] tables have this name")] {
            let error = read(&second(name)).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(read(LEAST).ok().unwrap().tokens[0].name.as_str(), "main");
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, named) in [
            ("pin_file = \"pin\"", "", "pin_file"),
            ("label = \"custodian\"", "label = \"a\"\nserial = \"b\"", "label, serial and slot"),
            (
                "label = \"custodian\"",
                "uri = \"pkcs11:token=a?pin-value=1\"",
                "token main: uri: it holds a PIN",
            ),
            ("label = \"custodian\"", "uri = \"pkcs11:token=a?module-path=/m.so\"", "module"),
            ("label = \"custodian\"", "label = \"a\"\nname = \"A b\"", "token.name \"A b\""),
            ("label = \"custodian\"", "label = \"a\"\nworkers = 0", "workers"),
            ("pin_file = \"pin\"", "pin_prompt = true\nworkers = 2", "ask for the PIN"),
            ("/usr/lib/softhsm/libsofthsm2.so", "libsofthsm2.so", "absolute"),
            ("[[token]]", "[sessions]\nidle = \"0s\"\n[[token]]", "sessions.idle"),
            ("[[token]]", "[sessions]\nidel = \"1s\"\n[[token]]", "idel"),
            ("127.0.0.1:7443", "localhost", "listen"),
            ("[[token]]", "[budget]\nunwraps_per_user_and_hour = 5\n[[token]]", "unwraps_per_hour = N"),
            ("[[token]]", "[budgets.key]\nfiles_per_day = 0\n[[token]]", "budgets.key.files_per_day"),
            ("[[token]]", "[budgets]\nlock = \"0s\"\n[[token]]", "budgets.lock"),
            ("[[token]]", "[budgets]\nbad_files_per_hour = 0\n[[token]]", "budgets.bad_files_per_hour"),
        ] {
            let Err(why) = read(&LEAST.replace(from, to)) else { panic!("accepted: {to}") };
            assert!(why.contains(named), "{why}");
        }
    }
}
