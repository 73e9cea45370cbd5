//! `[[token]]`, one or more.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use custodian_proto::pkcs11::TokenUri;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{friendly, positive};
use crate::token::{
    CageConfig, MemberConfig, Network, PinSource, Programs, TokenConfig, TokenName, TokenSelect, select,
};

/// The name of a token that is the only one and was given none.
const ONLY_TOKEN: &str = "main";

/// Most workers of one token: they log in one after the other.
const MAX_WORKERS: usize = 64;

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

/// Every token has a name of its own.
pub(super) fn check_tokens(mut raw: Vec<RawToken>, folder: &Path) -> Result<Vec<MemberConfig>, String> {
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
                let select = select(uri);
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
