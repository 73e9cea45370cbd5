//! Laying out a custodian: CA and first wrapping key in the token, certificates, first people with their devices, and
//! the configuration that ties them together.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use custodian_proto::secret::Secret;
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    files::{self, Mode},
    log_key,
    made::Made,
    parts::{open_ledger, start_tokens},
    people_ca,
};
use crate::{
    api::{GENERATION, NewKey, random_token},
    authority::{
        Device, DeviceId, DeviceState, FactorState, Groups, Invitation, PasswordState, Passwords, Role,
        SpkiHash, Standing, User, UserId,
    },
    config::{
        Config, RawApprovals, RawBudgets, RawCa, RawCertificates, RawConfig, RawFactor, RawLedger, RawLimits,
        RawLog, RawPasswords, RawSessions, RawTimestamps, RawTls, RawToken,
    },
    ledger::{Change, Grant, Intent, Ledger, Missing, Outcome},
    pki::{DeviceCa, PkiError, Validity, peer::CertificateFacts},
    token::Token,
    trouble::Trouble,
};

/// The CA must outlive the certificates it signs.
const CA_YEARS: u32 = 20;
const SERVER_DAYS: u32 = 825;

/// In characters: with ` device CA` behind it, it is a common name, which may have 64 (RFC 5280, appendix A.1).
const MAX_ORGANISATION: usize = 54;

/// What is to be laid out.
pub(super) struct Plan {
    /// The configuration to write. Everything else goes beside it.
    pub(super) config: PathBuf,
    pub(super) listen: SocketAddr,
    /// Names and addresses by which clients will know the server.
    pub(super) names: Vec<String>,
    /// Stands in the CA's name.
    pub(super) organisation: String,
    pub(super) token: RawToken,
    pub(super) ledger_deadline: SignedDuration,
    /// The label of the first wrapping key.
    pub(super) key_label: String,
    pub(super) people: Vec<Person>,
}

/// Somebody to begin with, and the device to begin on.
pub(super) struct Person {
    pub(super) user: UserId,
    pub(super) roles: Vec<Role>,
    pub(super) password: Secret,
    pub(super) device: DeviceId,
    /// Where `device.crt` and `device.key` go.
    pub(super) folder: PathBuf,
}

impl Plan {
    /// Makes everything. Nothing that exists is overwritten: what is in the way is named before anything is made.
    ///
    /// The configuration is written last: while it is missing, the set-up is not complete.
    pub(super) async fn lay_out(self, progress: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
        self.check()?;
        let folder = match self.config.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        files::folder(&folder)?;
        let folder = folder
            .canonicalize()
            .map_err(|error| Trouble::new(format!("cannot use the folder {}", folder.display()), error))?;
        self.refuse_to_overwrite(&folder)?;
        let text = toml::to_string(&self.raw_config())
            .map_err(|error| Trouble::new("cannot write the configuration", error))?;
        let config = Config::parse(&text, &self.config, &folder)?;

        progress("starting the token");
        let tokens = start_tokens(&config, Vec::new()).await?;
        let made = Made::new(tokens.clone());
        let laid = self
            .make(&config, &folder, made.clone(), progress)
            .await
            .and_then(|()| files::create(&self.config, text.as_bytes(), Mode::Public));
        if laid.is_err() {
            progress("destroying the keys that were made");
            made.take_back().await;
        }
        tokens.shutdown().await;
        laid
    }

    /// Finds what cannot work before anything is made.
    fn check(&self) -> Result<(), Trouble> {
        let trouble = |why: String| Trouble::new("cannot set up a custodian", why);
        if self.names.is_empty() {
            return Err(trouble("the server has no name".to_owned())
                .hint("give the DNS names or IP addresses that clients connect to"));
        }
        for name in &self.names {
            let host = name.strip_prefix("*.").unwrap_or(name);
            if ServerName::try_from(host).is_err() {
                return Err(trouble(format!("the server name {name:?} is no DNS name and no IP address")));
            }
        }
        let length = self.organisation.chars().count();
        if !(1..=MAX_ORGANISATION).contains(&length) || self.organisation.chars().any(char::is_control) {
            return Err(trouble(format!(
                "the organisation {:?} must have 1 to {MAX_ORGANISATION} printable characters",
                self.organisation
            )));
        }
        for person in &self.people {
            Passwords::check(&person.password, &person.user).map_err(|denial| {
                Trouble::new(format!("cannot set the password of {}", person.user), denial.detail())
            })?;
        }
        Ok(())
    }

    async fn make(
        &self,
        config: &Config,
        folder: &Path,
        token: Arc<dyn Token>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), Trouble> {
        progress("making the device CA in the token");
        let ca = DeviceCa::create(Arc::clone(&token), &self.organisation, CA_YEARS)
            .await
            .map_err(|error| Trouble::new("cannot make the device CA", error))?;
        files::create(&config.ca_certificate, files::pem(ca.certificate())?.as_bytes(), Mode::Public)?;

        progress("making the people's CA in the token");
        people_ca::make(Arc::clone(&token), &self.organisation, &folder.join(people_ca::PATH)).await?;

        progress("certifying the server");
        let server = SoftKey::generate()?;
        let certificate = ca
            .issue_server(&self.names, &server.spki, days(SERVER_DAYS)?)
            .await
            .map_err(|error| Trouble::new("cannot certify the server", error))?;
        server.write(&config.tls_key)?;
        files::create(&config.tls_certificate, files::pem(&certificate)?.as_bytes(), Mode::Public)?;

        progress("making the log's key in the token");
        files::folder(&folder.join("keys"))?;
        log_key::make(token.as_ref(), &self.names[0], &log_key::path(folder)).await?;

        let ledger = open_ledger(config, Missing::Create)?;
        progress("making the first wrapping key in the token (RSA-3072)");
        let days_of_key = config.lifetimes.wrapping_key_days;
        let key = NewKey::first(self.key_label.clone())
            .make(token.as_ref(), &ca, days_of_key, Instant::now() + GENERATION)
            .await
            .map_err(|error| Trouble::new("cannot make the first wrapping key", error))?;
        let path = key_path(folder, &self.key_label);
        files::create(&path, files::pem(&key.certificate)?.as_bytes(), Mode::Public)?;
        settle(ledger.as_ref(), "CreateKey", Change::AddKey(key)).await?;

        for person in &self.people {
            progress(&format!("enrolling {} on {}", person.user, person.device));
            person.enroll(ledger.as_ref(), &ca, config).await?;
        }
        Ok(())
    }

    fn refuse_to_overwrite(&self, folder: &Path) -> Result<(), Trouble> {
        let named =
            ["ca.crt", people_ca::PATH, "server.crt", "server.key", "ledger.db", "ledger.db.checkpoint"]
                .map(|name| folder.join(name));
        let people = self
            .people
            .iter()
            .flat_map(|person| [person.folder.join("device.crt"), person.folder.join("device.key")]);
        let all = named.into_iter().chain(people).chain([
            self.config.clone(),
            key_path(folder, &self.key_label),
            log_key::path(folder),
        ]);
        match all.into_iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => {
                Err(Trouble::new("cannot set up a custodian", format!("{} exists", path.display()))
                    .hint("nothing is ever overwritten: choose another folder, or move the old files away"))
            }
        }
    }

    fn raw_config(&self) -> RawConfig {
        RawConfig {
            listen: self.listen,
            reflection: false,
            tls: RawTls { certificate: "server.crt".into(), key: "server.key".into() },
            ca: RawCa { certificate: "ca.crt".into(), people_certificate: Some(people_ca::PATH.into()) },
            ledger: RawLedger::at("ledger.db", self.ledger_deadline),
            log: Some(RawLog::of_key(log_key::PATH)),
            siem: None,
            sessions: RawSessions::default(),
            passwords: RawPasswords::default(),
            second_factor: RawFactor::default(),
            budgets: RawBudgets::default(),
            budget: None,
            approvals: RawApprovals::default(),
            certificates: RawCertificates::default(),
            timestamps: RawTimestamps::default(),
            limits: RawLimits::default(),
            token: vec![self.token.clone()],
        }
    }
}

/// Where the certificate of a wrapping key goes.
pub(super) fn key_path(folder: &Path, label: &str) -> PathBuf {
    folder.join("keys").join(format!("{label}.crt"))
}

impl Person {
    async fn enroll(&self, ledger: &dyn Ledger, ca: &DeviceCa, config: &Config) -> Result<(), Trouble> {
        let trouble =
            |error: &dyn std::fmt::Display| Trouble::new(format!("cannot enrol {}", self.device), error);
        let key = SoftKey::generate()?;
        let certificate = ca
            .issue_device(&self.device, &key.spki, days(config.lifetimes.device_days)?)
            .await
            .map_err(|error| trouble(&error))?;
        let identity = CertificateFacts::read(&certificate).map_err(|error| trouble(&error))?;
        files::folder(&self.folder)?;
        key.write(&self.folder.join("device.key"))?;
        files::create(&self.folder.join("device.crt"), files::pem(&certificate)?.as_bytes(), Mode::Public)?;

        let now = Timestamp::now();
        // The same steps as over the network, so that the log begins with them.
        let code = random_token().map_err(|error| trouble(&error))?;
        let code_hash = Sha256::digest(code.expose()).into();
        let device = Device {
            id: self.device.clone(),
            spki: SpkiHash(Sha256::digest(&key.spki).into()),
            state: DeviceState::Enrolled,
            certificate,
            expires: identity.not_after,
            enrolled: now,
            updated: now,
            reason: String::new(),
            suspended_until: None,
            groups: Groups::default(),
        };
        let expires = now + SignedDuration::from_mins(1);
        let invitation = Invitation { code_hash, device: self.device.clone(), invited_by: None, expires };
        settle(ledger, "InviteDevice", Change::Invite(invitation)).await?;
        settle(ledger, "Enroll", Change::Enroll { code_hash, invited_by: None, device }).await?;
        let activate = Change::SetDeviceState {
            id: self.device.clone(),
            state: DeviceState::Active,
            reason: String::new(),
        };
        settle(ledger, "ActivateDevice", activate).await?;

        let password = Passwords::new(1).hash(self.password.clone(), &self.user).await.map_err(|denial| {
            Trouble::new(format!("cannot set the password of {}", self.user), denial.detail())
        })?;
        let user = User {
            id: self.user.clone(),
            roles: self.roles.iter().copied().collect(),
            disabled: false,
            disabled_until: None,
            password,
            password_state: PasswordState::Settled,
            factor: FactorState::default(),
            groups: Groups::default(),
            created: now,
            updated: now,
        };
        settle(ledger, "CreateUser", Change::CreateUser(user)).await
    }
}

fn days(days: u32) -> Result<Validity, Trouble> {
    Validity::days(days).map_err(|error: PkiError| Trouble::new("cannot certify", error))
}

/// Makes one change of the set-up, with its record.
async fn settle(ledger: &dyn Ledger, operation: &'static str, change: Change) -> Result<(), Trouble> {
    let attempt = ledger.begin(Intent {
        reason: "set-up".into(),
        ..Intent::of_nobody(operation, IpAddr::V4(Ipv4Addr::LOCALHOST))
    });
    let outcome = Outcome::Granted(Grant { standing: Standing::default(), change: Some(change) });
    let settled = ledger.settle(attempt, outcome).await;
    settled.map(drop).map_err(|denial| Trouble::new(format!("cannot record {operation}"), denial))
}

/// A P-256 key in a file: for TLS, where the token would be too slow for every handshake.
struct SoftKey {
    pem: Zeroizing<String>,
    spki: Vec<u8>,
}

impl SoftKey {
    fn generate() -> Result<Self, Trouble> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Trouble::new("cannot make a TLS key", error))?;
        Ok(Self { pem: Zeroizing::new(pair.serialize_pem()), spki: pair.subject_public_key_info() })
    }

    fn write(&self, path: &Path) -> Result<(), Trouble> {
        files::create(path, self.pem.as_bytes(), Mode::Secret)
    }
}
