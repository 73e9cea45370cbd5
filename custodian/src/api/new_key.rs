//! Making a key: a key pair in the token, and a certificate for it.

use std::time::{Duration, Instant};

use custodian_proto::{key::KeyWrapping, limits::DEFAULT_MODULUS_BITS, refusal::Refusal};
use jiff::Timestamp;

use super::{Api, call::invalid};
use crate::{
    authority::{BadPeriods, Beginning, KeyLife, KeyPurpose, SigningScheme, WrapPeriod, WrappingKey},
    custody::{Denial, Fault, discard},
    pki::{DeviceCa, Validity, peer::CertificateFacts},
    token::{KeyKind, KeyTemplate, Token, TokenKey, TokenName},
};

/// RSA-4096 may take a token many seconds.
pub(crate) const GENERATION: Duration = Duration::from_secs(60);

/// What a new key is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    pub(crate) label: String,
    pub(crate) version: u32,
    pub(crate) modulus_bits: u32,
    pub(crate) usage: KeyUse,
    /// `None`: in the first token that serves.
    pub(crate) token: Option<TokenName>,
    pub(crate) beginning: Beginning,
    /// `None`: now.
    pub(crate) wraps_from: Option<Timestamp>,
    /// `None`: after the days that the configuration says.
    pub(crate) wraps_until: Option<Timestamp>,
    /// `None`: no end.
    pub(crate) unwraps_until: Option<Timestamp>,
}

/// What a key is made for, and never anything else (laws 5 and 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyUse {
    Oaep,
    OpenPgp,
    Pkcs1,
    Sign(SigningScheme),
    Timestamp,
}

impl KeyUse {
    /// That of a key with this purpose.
    pub(super) fn of(purpose: KeyPurpose) -> Self {
        match purpose {
            KeyPurpose::Unwrap(KeyWrapping::OpenPgp) => Self::OpenPgp,
            KeyPurpose::Unwrap(KeyWrapping::Pkcs1) => Self::Pkcs1,
            KeyPurpose::Unwrap(_) => Self::Oaep,
            KeyPurpose::Sign(scheme) => Self::Sign(scheme),
            KeyPurpose::Timestamp => Self::Timestamp,
        }
    }

    /// The size of the modulus that it has if nobody says otherwise; 0 if it is no RSA key.
    pub(super) fn default_bits(self) -> u32 {
        match self {
            Self::Oaep | Self::OpenPgp | Self::Pkcs1 | Self::Sign(SigningScheme::RsaPss) => {
                DEFAULT_MODULUS_BITS
            }
            Self::Sign(SigningScheme::EcdsaP256) | Self::Timestamp => 0,
        }
    }

    /// As [`KeyPurpose::has_openpgp_certificate`].
    fn has_openpgp_certificate(self) -> bool {
        match self {
            Self::OpenPgp | Self::Sign(SigningScheme::EcdsaP256) => true,
            Self::Oaep | Self::Pkcs1 | Self::Sign(SigningScheme::RsaPss) | Self::Timestamp => false,
        }
    }

    fn purpose(self, key: &TokenKey) -> Result<KeyPurpose, Denial> {
        let wrapping = || key.wrapping.ok_or_else(|| Fault::Internal("the key has no wrapping".into()));
        match self {
            Self::Oaep | Self::OpenPgp => Ok(KeyPurpose::Unwrap(wrapping()?)),
            // In the token it looks like one for OpenPGP.
            Self::Pkcs1 => Ok(KeyPurpose::Unwrap(KeyWrapping::Pkcs1)),
            Self::Sign(scheme) => Ok(KeyPurpose::Sign(scheme)),
            Self::Timestamp => Ok(KeyPurpose::Timestamp),
        }
    }

    fn kind(self, modulus_bits: u32) -> KeyKind {
        match self {
            Self::Oaep => KeyKind::RsaUnwrap { modulus_bits },
            Self::OpenPgp | Self::Pkcs1 => KeyKind::RsaOpenPgp { modulus_bits },
            Self::Sign(SigningScheme::RsaPss) => KeyKind::RsaPssSign { modulus_bits },
            Self::Sign(SigningScheme::EcdsaP256) | Self::Timestamp => KeyKind::EcdsaP256Sign,
        }
    }
}

impl NewKey {
    /// A first version with nothing special about it.
    pub(crate) fn first(label: String) -> Self {
        Self {
            label,
            version: 1,
            modulus_bits: DEFAULT_MODULUS_BITS,
            usage: KeyUse::Oaep,
            token: None,
            beginning: Beginning::OnItsDate,
            wraps_from: None,
            wraps_until: None,
            unwraps_until: None,
        }
    }

    /// Refuses what its use does not have.
    pub(super) fn checked(self) -> Result<Self, Denial> {
        if self.usage.default_bits() == 0 && self.modulus_bits != 0 {
            return Err(invalid("modulus_bits: a key on the curve P-256 has no modulus"));
        }
        if matches!(self.usage, KeyUse::Sign(_) | KeyUse::Timestamp) && self.unwraps_until.is_some() {
            return Err(invalid(
                "unwrap_end_time: a signing key unwraps nothing; it signs until wrap_end_time",
            ));
        }
        Ok(self)
    }

    /// Generates it in the token and certifies it. What is not certified is destroyed again.
    pub(crate) async fn make(
        self,
        token: &dyn Token,
        ca: &DeviceCa,
        days: u32,
        deadline: Instant,
    ) -> Result<WrappingKey, Denial> {
        let validity = self.validity(days)?;
        // In the token, versions must be told apart, too. Labels have no dot.
        let label = match self.version {
            1 => self.label.clone(),
            version => format!("{}.v{version}", self.label),
        };
        let template = KeyTemplate { label, kind: self.usage.kind(self.modulus_bits) };
        let key = match &self.token {
            Some(name) => token.generate_in(name, template, deadline).await?,
            None => token.generate(template, deadline).await?,
        };
        if self.usage.has_openpgp_certificate() {
            next_second().await;
        }
        let id = key.id;
        match self.certify(&key, ca, validity).await {
            Ok(made) => Ok(made),
            Err(denial) => {
                discard(token, id, deadline).await;
                Err(denial)
            }
        }
    }

    /// Checked before there is a key.
    fn validity(&self, days: u32) -> Result<Validity, Denial> {
        let usual = Validity::days(days)?;
        let validity = Validity {
            not_before: self.wraps_from.unwrap_or(usual.not_before),
            not_after: self.wraps_until.unwrap_or(usual.not_after),
        };
        self.life(validity.not_before, validity.not_after)?;
        Ok(validity)
    }

    /// Certifies a key pair that the token has, for its usual period.
    pub(super) async fn certify_for(
        self,
        key: &TokenKey,
        ca: &DeviceCa,
        days: u32,
    ) -> Result<WrappingKey, Denial> {
        let validity = self.validity(days)?;
        self.certify(key, ca, validity).await
    }

    async fn certify(self, key: &TokenKey, ca: &DeviceCa, validity: Validity) -> Result<WrappingKey, Denial> {
        let certificate = match self.usage {
            KeyUse::Oaep | KeyUse::OpenPgp => ca.certify_wrapping_key(key, &self.label, validity).await?,
            KeyUse::Pkcs1 => {
                let key = TokenKey { wrapping: Some(KeyWrapping::Pkcs1), ..key.clone() };
                ca.certify_wrapping_key(&key, &self.label, validity).await?
            }
            KeyUse::Sign(_) => ca.certify_signing_key(key, &self.label, validity).await?,
            KeyUse::Timestamp => ca.certify_timestamp_key(key, &self.label, validity).await?,
        };
        // What the certificate says, not what was asked for: it may end earlier, with its CA.
        let facts = CertificateFacts::read(&certificate)
            .map_err(|error| Fault::Internal(format!("the certificate just issued: {error}")))?;
        self.with_certificate(key, certificate, &facts)
    }

    /// The metadata of a key with this certificate.
    pub(super) fn with_certificate(
        self,
        key: &TokenKey,
        certificate: Vec<u8>,
        facts: &CertificateFacts,
    ) -> Result<WrappingKey, Denial> {
        let purpose = self.usage.purpose(key)?;
        let now = Timestamp::now();
        Ok(WrappingKey {
            id: key.id,
            life: self.life(facts.not_before, facts.not_after)?,
            label: self.label,
            version: self.version,
            modulus_bits: self.modulus_bits,
            purpose,
            certificate,
            created: now,
            updated: now,
            reason: String::new(),
        })
    }

    fn life(&self, from: Timestamp, until: Timestamp) -> Result<KeyLife, Denial> {
        let life = WrapPeriod::new(from, until)
            .and_then(|wraps| KeyLife::begin(self.beginning, wraps, self.unwraps_until));
        life.map_err(|error: BadPeriods| invalid(format!("periods: {error}")))
    }
}

/// OpenPGP certificates are told from each other by the second in which the key was made. One key after the other, each gets
/// a second of its own this way.
async fn next_second() {
    let gone = Timestamp::now().subsec_nanosecond();
    let rest = 1_000_000_000 - u64::try_from(gone).unwrap_or_default();
    tokio::time::sleep(Duration::from_nanos(rest)).await;
}

impl Api {
    pub(super) async fn make(&self, new: NewKey) -> Result<WrappingKey, Denial> {
        if let Some(name) = &new.token
            && self.tokens.report(name).is_none()
        {
            let detail = format!("there is no token {name}: custodianctl token ls");
            return Err(Denial::Refused { refusal: Refusal::NotFound, detail });
        }
        // Two at once would get the same second.
        let _turn = match new.usage.has_openpgp_certificate() {
            true => Some(self.openpgp_turn.lock().await),
            false => None,
        };
        let deadline = self.custodian.token_deadline() + GENERATION;
        let days = self.lifetimes.wrapping_key_days;
        new.make(self.custodian.token().as_ref(), &self.ca, days, deadline).await
    }
}
