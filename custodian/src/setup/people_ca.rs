//! The people's CA: made at set-up, or later by `custodian people-ca`.

use std::{path::Path, sync::Arc};

use tracing::warn;

use super::{
    files::{self, Mode},
    parts::start_tokens,
};
use crate::{
    config::Config,
    log::Log,
    pki::{DeviceCa, people::PeopleCa},
    token::{Pool, Token},
    trouble::Trouble,
};

/// The CA must outlive the certificates it signs.
const YEARS: u32 = 20;

/// Where its certificate goes, beside the configuration.
pub(super) const PATH: &str = "people-ca.crt";

/// Makes a people's CA for an existing configuration. Returns what the operator is to do with it.
pub async fn people_ca(config: &Path, organisation: &str, out: &Path) -> Result<String, Trouble> {
    let path = config;
    let config = Config::read(path)?;
    if let Some(there) = &config.people_ca_certificate {
        let why = format!("the configuration names one already: {}", there.display());
        return Err(Trouble::new("cannot make a people's CA", why)
            .hint("to begin anew, take [ca] people_certificate out of it: what the old one issued is good no more then"));
    }
    let tokens = start_tokens(&config, Vec::new()).await?;
    let made = make(tokens.clone(), organisation, out).await;
    tokens.shutdown().await;
    made?;
    let out = out.canonicalize().unwrap_or_else(|_| out.to_owned());
    Ok(format!(
        "The people's CA is made. Put this into {config}, and give the file to whoever is to trust people's certificates:\n\n\
         [ca]\n\
         people_certificate = \"{out}\"",
        config = path.display(),
        out = out.display(),
    ))
}

/// Makes a people's CA in the token, and the file with its certificate.
pub(super) async fn make(token: Arc<dyn Token>, organisation: &str, out: &Path) -> Result<(), Trouble> {
    let what = "cannot make the people's CA";
    // Before the key: it could not be taken back.
    if out.exists() {
        return Err(Trouble::new(what, format!("{} exists", out.display()))
            .hint("nothing is ever overwritten: choose another file"));
    }
    let people = PeopleCa::create(token, organisation, YEARS).await;
    let people = people.map_err(|error| Trouble::new(what, error))?;
    files::create(out, files::pem(people.certificate())?.as_bytes(), Mode::Public)
}

/// The people's CA of a configuration, if it has one. Its key may be in a token that is away: then nobody is certified until
/// that is back.
pub(super) async fn open(
    config: &Config,
    tokens: &Arc<Pool>,
    ca: &DeviceCa,
    log: &Log,
) -> Result<Option<Arc<PeopleCa>>, Trouble> {
    let Some(path) = &config.people_ca_certificate else { return Ok(None) };
    let what = format!("cannot use the people's CA {}", path.display());
    let certificate = files::certificates(path)?.remove(0).to_vec();
    let token: Arc<dyn Token> = tokens.clone();
    let people = match (PeopleCa::open(Arc::clone(&token), certificate.clone()).await, tokens.away()) {
        (Err(error), Some(away)) => {
            warn!(%error, token = %away, "the people's CA's key may be in the token that is away; without it nobody is certified");
            PeopleCa::of_certificate(token, certificate)
        }
        (opened, _) => opened,
    };
    let people = people.map_err(|error| {
        Trouble::new(&what, error).hint("its key must be in a token: is this the token in which it was made?")
    })?;
    // A person's certificate would let a device in.
    if people.key() == ca.key() || people.key() == log.key() {
        return Err(Trouble::new(
            &what,
            "it has the key of the device CA or of the log, and a key has one purpose",
        )
        .hint("make one of its own: custodian people-ca"));
    }
    Ok(Some(Arc::new(people)))
}
