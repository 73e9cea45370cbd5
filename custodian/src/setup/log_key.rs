//! The log's key: made at set-up, or later by `custodian log-key`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use custodian_proto::tlog::VerifierKey;
use tracing::warn;

use super::{
    files::{self, Mode},
    parts::start_tokens,
};
use crate::{
    config::Config,
    ledger::Ledger,
    log::{Log, make_log_key},
    pki::DeviceCa,
    token::{Pool, Token},
    trouble::Trouble,
};

/// Where the public key goes, beside the configuration.
pub(super) const PATH: &str = "keys/log.pub";

/// How long the token may take to generate it.
const GENERATION: Duration = Duration::from_secs(30);

/// Makes a log key for an existing configuration. Returns what the operator is to do with it.
pub async fn log_key(config: &Path, name: &str, out: &Path) -> Result<String, Trouble> {
    let path = config;
    let config = Config::read(path)?;
    let tokens = start_tokens(&config, Vec::new()).await?;
    let made = make(tokens.as_ref(), name, out).await;
    tokens.shutdown().await;
    let verifier = made?;
    let out = out.canonicalize().unwrap_or_else(|_| out.to_owned());
    Ok(format!(
        "{verifier}\n\n\
         The log {log} has a key now. Put this into {config}, and give the file to auditors:\n\n\
         [log]\n\
         key = \"{out}\"",
        log = verifier.name(),
        config = path.display(),
        out = out.display(),
    ))
}

/// Where a set-up in this folder has its log's public key.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(PATH)
}

/// Makes a log key in the token, and the file with its public half.
pub(super) async fn make(token: &dyn Token, host: &str, out: &Path) -> Result<VerifierKey, Trouble> {
    let what = "cannot make the log's key";
    // Before the key: it could not be taken back.
    if out.exists() {
        return Err(Trouble::new(what, format!("{} exists", out.display()))
            .hint("nothing is ever overwritten: choose another file"));
    }
    let made = make_log_key(token, host, Instant::now() + GENERATION).await;
    let verifier = made.map_err(|error| Trouble::new(what, error))?;
    files::create(out, format!("{verifier}\n").as_bytes(), Mode::Public)?;
    Ok(verifier)
}

/// The log of a configuration. Its key may be in a token that is away: then records are not signed for until that is back.
pub(super) async fn open(
    config: &Config,
    ledger: &Arc<dyn Ledger>,
    tokens: &Arc<Pool>,
    ca: &DeviceCa,
) -> Result<Arc<Log>, Trouble> {
    let Some(path) = &config.log_key else {
        return Err(Trouble::new("cannot sign the log", "the configuration has no [log] table")
            .hint("make a key: custodian log-key --config FILE --name HOST --out keys/log.pub"));
    };
    let what = format!("cannot use the log key {}", path.display());
    let text = fs::read_to_string(path).map_err(|error| Trouble::new(&what, error))?;
    let verifier: VerifierKey = text.parse().map_err(|error| Trouble::new(&what, error))?;
    let token: Arc<dyn Token> = tokens.clone();
    let opened =
        Log::open(Arc::clone(ledger), Arc::clone(&token), verifier.clone(), config.token_deadline).await;
    let log = match (opened, tokens.away()) {
        (Err(error), Some(away)) => {
            warn!(%error, token = %away, "the log's key may be in the token that is away; without it records are not signed for");
            Log::of_key(Arc::clone(ledger), token, verifier, config.token_deadline)
        }
        (opened, _) => opened,
    };
    let log = log.map_err(|error| {
        Trouble::new(&what, error)
            .hint("its private half must be in the token: is this the token that init used?")
    })?;
    let log = log.watched_by(config.log_witnesses.clone());
    if log.key() == ca.key() {
        return Err(Trouble::new(&what, "it is the device CA's key, and a key has one purpose")
            .hint("make a key of its own: custodian log-key"));
    }
    Ok(Arc::new(log))
}
