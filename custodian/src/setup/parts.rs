//! From a configuration to the parts of a custodian.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{files, log_key};
use crate::{
    api::{Api, Signers},
    authority::{Authority, LoginRate, LoginThrottle, Passwords, Policy, PolicyText},
    config::Config,
    custody::Custodian,
    ledger::{Ledger, LedgerOptions, Missing, SqliteLedger},
    log::Log,
    pki::DeviceCa,
    server::Tls,
    token::{Supervisor, Token, WorkerCommand},
    trouble::Trouble,
};

/// A custodian that is ready to serve.
pub struct Parts {
    /// The services.
    pub api: Api,
    /// The sequences.
    pub custodian: Arc<Custodian>,
    /// The token's supervisor.
    pub token: Arc<Supervisor>,
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// The device CA.
    pub ca: Arc<DeviceCa>,
    /// What signs checkpoints of the ledger's log.
    pub log: Arc<Log>,
    /// What new connections use.
    pub tls: watch::Sender<Arc<Tls>>,
    /// Cancelled: everything stops.
    pub shutdown: CancellationToken,
}

impl Parts {
    /// Starts the token's worker, opens the ledger, loads the certificates, and joins them.
    pub async fn assemble(config: &Config) -> Result<Self, Trouble> {
        let tls = load_tls(config, ca_certificate(config)?)?;
        let ledger = open_ledger(config, Missing::Refuse)?;
        let supervisor = start_token(config).await?;
        let token: Arc<dyn Token> = supervisor.clone();
        let certificate = ca_certificate(config)?;
        let ca = DeviceCa::open(Arc::clone(&token), certificate).await.map_err(|error| {
            Trouble::new(format!("cannot use the device CA {}", config.ca_certificate.display()), error)
                .hint("the CA's key must be in the token: is this the token that init used?")
        })?;
        let ca = Arc::new(ca);
        let policy = policy_in_force(ledger.as_ref()).await?;
        let log = log_key::open(config, &ledger, &token, &ca).await?;
        let authority = Arc::new(Authority::new(Arc::clone(&ledger), config.rules, policy));
        let shutdown = CancellationToken::new();
        let custodian = Custodian::new(authority, token, Arc::clone(&ledger), config.token_deadline);
        let api = Api::new(
            Arc::clone(&custodian),
            Passwords::new(config.logins_at_once),
            LoginThrottle::new(LoginRate::PER_USER, LoginRate::PER_DEVICE),
            Signers { ca: Arc::clone(&ca), log: Arc::clone(&log) },
            config.lifetimes,
            config.api_limits,
            shutdown.clone(),
        );
        Ok(Self {
            api,
            custodian,
            token: supervisor,
            ledger,
            ca,
            log,
            tls: watch::Sender::new(Arc::new(tls)),
            shutdown,
        })
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

pub(super) fn open_ledger(config: &Config, missing: Missing) -> Result<Arc<dyn Ledger>, Trouble> {
    let options = LedgerOptions { missing, deadline: config.ledger_deadline, ..LedgerOptions::default() };
    let ledger = SqliteLedger::open(&config.ledger, options).map_err(|error| {
        Trouble::new(format!("cannot open the ledger {}", config.ledger.display()), error)
    })?;
    Ok(Arc::new(ledger))
}

/// The policy that the ledger keeps, or the one that comes with the program.
async fn policy_in_force(ledger: &dyn Ledger) -> Result<Policy, Trouble> {
    let text = ledger.policy().await.map_err(|error| Trouble::new("cannot read the policy", error))?;
    let text = text.unwrap_or_else(PolicyText::initial);
    Policy::parse(text.version, &text.text).map_err(|error| {
        Trouble::new(format!("cannot use version {} of the policy", text.version), error)
            .hint("it was applied with another version of this program: start that one, and apply a policy that both take")
    })
}

pub(super) async fn start_token(config: &Config) -> Result<Arc<Supervisor>, Trouble> {
    Supervisor::start(WorkerCommand::default(), config.token.clone())
        .await
        .map(Arc::new)
        .map_err(|error| Trouble::new("cannot use the token", error))
}

fn ca_certificate(config: &Config) -> Result<Vec<u8>, Trouble> {
    Ok(files::certificates(&config.ca_certificate)?.remove(0).to_vec())
}
