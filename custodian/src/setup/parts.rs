//! From a configuration to the parts of a custodian.

use std::sync::Arc;

use jiff::SignedDuration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{files, log_key, people_ca};
use crate::{
    api::{Api, Signers},
    authority::{Authority, LoginThrottle, Passwords, Policy, PolicyText, SealingKey},
    config::{Config, SiemAddress},
    custody::Custodian,
    ledger::{Ledger, LedgerOptions, Missing, SqliteLedger},
    log::{Copier, CopyError, Cosigners, Log, SecondPlace},
    pki::DeviceCa,
    server::Tls,
    siem::{Siem, SiemConfig, SyslogTarget},
    token::{Drain, Pool, Token, WorkerCommand},
    trouble::Trouble,
};

/// A custodian that is ready to serve.
pub struct Parts {
    /// The services.
    pub api: Api,
    /// The sequences.
    pub custodian: Arc<Custodian>,
    /// The tokens.
    pub tokens: Arc<Pool>,
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// The device CA.
    pub ca: Arc<DeviceCa>,
    /// What signs checkpoints of the ledger's log.
    pub log: Arc<Log>,
    /// What copies the log to a second place, if there is one.
    pub copier: Option<Copier>,
    /// What sends the records to a SIEM, if there is one.
    pub siem: Option<Siem>,
    /// What new connections use.
    pub tls: watch::Sender<Arc<Tls>>,
    /// Cancelled: everything stops.
    pub shutdown: CancellationToken,
}

impl Parts {
    /// Starts the tokens' workers, opens the ledger, loads the certificates, and joins them.
    pub async fn assemble(config: &Config) -> Result<Self, Trouble> {
        let tls = load_tls(config, ca_certificate(config)?)?;
        let ledger = open_ledger(config, Missing::Refuse)?;
        let drains = ledger.drains().await.map_err(|error| Trouble::new("cannot read the ledger", error))?;
        let tokens = start_tokens(config, drains).await?;
        let token: Arc<dyn Token> = tokens.clone();
        let ca = Arc::new(open_ca(config, &tokens).await?);
        let log = log_key::open(config, &ledger, &tokens, &ca).await?;
        let people = people_ca::open(config, &tokens, &ca, &log).await?;
        let policy = policy_in_force(ledger.as_ref()).await?;
        let sealing = sealing_key(config, ledger.as_ref()).await?;
        let authority = Arc::new(Authority::new(Arc::clone(&ledger), config.rules, policy));
        let shutdown = CancellationToken::new();
        let within = SignedDuration::try_from(config.cosigners_within).unwrap_or(SignedDuration::MAX);
        authority.count_cosigners_by(Cosigners::of(Arc::clone(&log), within));
        let (copier, second_place) = open_copy(config, &ledger, &log).await?;
        let custodian = Custodian::with_second_place(
            authority,
            token,
            Arc::clone(&ledger),
            second_place,
            config.token_deadline,
        );
        let siem = open_siem(config, &ledger, &log)?;
        let siem_state = siem.as_ref().map(Siem::state);
        let api = Api::new(
            Arc::clone(&custodian),
            Arc::clone(&tokens),
            Passwords::new(config.logins_at_once),
            LoginThrottle::default(),
            Signers {
                ca: Arc::clone(&ca),
                people,
                log: Arc::clone(&log),
                siem: siem_state,
                timestamps: config.timestamps.clone(),
            },
            sealing,
            config.lifetimes,
            config.api_limits,
            shutdown.clone(),
        );
        let tls = watch::Sender::new(Arc::new(tls));
        Ok(Self { api, custodian, tokens, ledger, ca, log, copier, siem, tls, shutdown })
    }
}

/// The parts that can be changed while they serve.
pub(super) struct Reloadable {
    tls: watch::Sender<Arc<Tls>>,
    ca: Arc<DeviceCa>,
    custodian: Arc<Custodian>,
}

impl Parts {
    pub(super) fn reloadable(&self) -> Reloadable {
        Reloadable { tls: self.tls.clone(), ca: Arc::clone(&self.ca), custodian: Arc::clone(&self.custodian) }
    }
}

impl Reloadable {
    /// Puts the server's certificate and the rules of `config` in force, or changes nothing. The device CA stays: what
    /// enrols devices and what lets them in must be the same.
    pub(super) fn reload(&self, config: &Config) -> Result<(), Trouble> {
        let tls = load_tls(config, self.ca.certificate().to_vec())?;
        self.tls.send_replace(Arc::new(tls));
        self.custodian.authority().set_rules(config.rules);
        Ok(())
    }
}

/// The TLS material of a configuration.
fn load_tls(config: &Config, ca: Vec<u8>) -> Result<Tls, Trouble> {
    let chain = files::certificates(&config.tls_certificate)?;
    let key = files::private_key(&config.tls_key)?;
    Tls::new(chain, key, ca.into()).map_err(|error| {
        Trouble::new("cannot set up TLS", error).hint("check [tls] and [ca] in the configuration")
    })
}

/// The second place. One that cannot be reached now is tried again; one with another log in it is not written to.
async fn open_copy(
    config: &Config,
    ledger: &Arc<dyn Ledger>,
    log: &Arc<Log>,
) -> Result<(Option<Copier>, SecondPlace), Trouble> {
    let Some(copy) = config.log_copy.clone() else { return Ok((None, SecondPlace::none())) };
    let on_failure = copy.on_failure;
    let what = format!("cannot copy the log to {}", copy.place);
    let copier = Copier::open(Arc::clone(ledger), Arc::clone(log), copy).await;
    let copier = copier.map_err(|error| {
        let hint = match error {
            CopyError::Foreign(_) => "docs/operations.md, The second place",
            CopyError::Io { .. } | CopyError::Ledger(_) => "check [log.copy] in the configuration",
        };
        Trouble::new(what, error).hint(hint)
    })?;
    let second_place = SecondPlace::required(&copier, on_failure, config.ledger_deadline);
    Ok((Some(copier), second_place))
}

/// The stream of the records, if one is configured.
fn open_siem(config: &Config, ledger: &Arc<dyn Ledger>, log: &Log) -> Result<Option<Siem>, Trouble> {
    let Some(siem) = config.siem.clone() else { return Ok(None) };
    let what = "cannot send the records to the SIEM";
    let target = match siem.at {
        SiemAddress::Tcp(address) => SyslogTarget::Tcp(address),
        SiemAddress::Unix(path) => SyslogTarget::Unix(path),
        SiemAddress::Tls(address, ca) => {
            let trusted = crate::net::Tls::trusting_those_of(Some(&ca));
            SyslogTarget::Tls(
                address,
                trusted.map_err(|error| Trouble::new(what, error).hint("check siem.ca"))?,
            )
        }
    };
    let stream = SiemConfig { target, cursor: siem.cursor };
    let stream = Siem::open(Arc::clone(ledger), stream, log.verifier().name());
    stream.map(Some).map_err(|error| Trouble::new(what, error))
}

pub(super) fn open_ledger(config: &Config, missing: Missing) -> Result<Arc<dyn Ledger>, Trouble> {
    let ledger = SqliteLedger::open(&config.ledger, ledger_options(config, missing)).map_err(|error| {
        Trouble::new(format!("cannot open the ledger {}", config.ledger.display()), error)
    })?;
    Ok(Arc::new(ledger))
}

pub(super) fn ledger_options(config: &Config, missing: Missing) -> LedgerOptions {
    let (checkpoint, deadline) = (config.ledger_checkpoint.clone(), config.ledger_deadline);
    LedgerOptions { missing, checkpoint, deadline, ..LedgerOptions::default() }
}

/// The policy that the ledger keeps, or the one that comes with the program.
async fn policy_in_force(ledger: &dyn Ledger) -> Result<Policy, Trouble> {
    let text = ledger.policy().await.map_err(|error| Trouble::new("cannot read the policy", error))?;
    let text = text.unwrap_or_else(PolicyText::initial);
    Policy::in_force(text.version, &text.text).map_err(|error| {
        Trouble::new(format!("cannot use version {} of the policy", text.version), error)
            .hint("it was applied with another version of this program: start that one, and apply a policy that both take")
    })
}

/// The key of second factors. Made when there is none yet and nothing was sealed under one.
async fn sealing_key(config: &Config, ledger: &dyn Ledger) -> Result<SealingKey, Trouble> {
    let path = &config.second_factor_key;
    let what = format!("cannot use the key of second factors {}", path.display());
    if path.exists() {
        return SealingKey::read(path).map_err(|error| Trouble::new(what, error));
    }
    let sealed = ledger.has_factors().await.map_err(|error| Trouble::new("cannot read the ledger", error))?;
    if sealed {
        return Err(Trouble::new(what, "it is missing, and users have second factors that are sealed under it").hint(
            "restore it. If it is lost for good, put 32 random bytes there (chmod 600): codes of apps are good no more, \
             recovery codes are, and everybody enrols anew",
        ));
    }
    SealingKey::create(path).map_err(|error| Trouble::new(what, error))
}

/// Starts the tokens' workers. One token that serves is enough.
pub(super) async fn start_tokens(config: &Config, drains: Vec<Drain>) -> Result<Arc<Pool>, Trouble> {
    Pool::start(WorkerCommand::default(), config.tokens.clone(), drains)
        .await
        .map(Arc::new)
        .map_err(|error| Trouble::new("cannot use the token", error))
}

/// The device CA. Its key may be in a token that is away: then everything is served but enrolling and new keys.
async fn open_ca(config: &Config, tokens: &Arc<Pool>) -> Result<DeviceCa, Trouble> {
    let token: Arc<dyn Token> = tokens.clone();
    let error = match DeviceCa::open(Arc::clone(&token), ca_certificate(config)?).await {
        Ok(ca) => return Ok(ca),
        Err(error) => error,
    };
    if let Some(away) = tokens.away() {
        warn!(%error, token = %away, "the device CA's key may be in the token that is away; without it nobody enrols");
        if let Ok(ca) = DeviceCa::of_certificate(token, ca_certificate(config)?) {
            return Ok(ca);
        }
    }
    Err(Trouble::new(format!("cannot use the device CA {}", config.ca_certificate.display()), error)
        .hint("the CA's key must be in a token: is this the token that init used?"))
}

fn ca_certificate(config: &Config) -> Result<Vec<u8>, Trouble> {
    Ok(files::certificates(&config.ca_certificate)?.remove(0).to_vec())
}
