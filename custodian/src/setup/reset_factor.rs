//! `custodian reset-factor`: the way back for an administrator whose second factor is lost, with its recovery codes, and whom
//! nobody else is left to help. Never by itself, and never without a record.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use super::parts::open_ledger;
use crate::{
    authority::{Standing, UserId},
    config::Config,
    ledger::{Change, Changed, Grant, Intent, Missing, Outcome},
    trouble::Trouble,
};

/// Takes a user's second factor and recovery codes away, ends the user's sessions, and records that. Returns what the
/// operator is to know.
pub async fn reset_factor(path: &Path, user: &str, reason: &str) -> Result<String, Trouble> {
    let what = format!("cannot reset the second factor of {user}");
    if reason.trim().is_empty() {
        return Err(Trouble::new(what, "there is no reason").hint("give one with --reason; it is recorded"));
    }
    let id: UserId = user.strip_prefix("users/").unwrap_or(user).parse().map_err(|error| {
        Trouble::new(&what, error).hint("users are named as custodianctl user ls shows them")
    })?;
    let config = Config::read(path)?;
    let ledger = open_ledger(&config, Missing::Refuse)?;
    let factor = ledger.factor(&id).await.map_err(|error| Trouble::new(&what, error))?;
    match factor {
        None => return Err(Trouble::new(what, "there is no such user")),
        Some(factor) if factor.secret.is_none() && factor.pending.is_none() => {
            return Err(Trouble::new(what, "the user has none"));
        }
        Some(_) => {}
    }
    let attempt = ledger.begin(Intent {
        target: id.resource_name(),
        reason: format!("reset on the custodian's machine: {reason}"),
        ..Intent::of_nobody("ResetFactor", IpAddr::V4(Ipv4Addr::LOCALHOST))
    });
    let change = Some(Change::ResetFactor { id: id.clone() });
    let settled =
        ledger.settle(attempt, Outcome::Granted(Grant { standing: Standing::default(), change })).await;
    let (release, changed) = settled.map_err(|denial| Trouble::new(&what, denial))?;
    tracing::warn!(user = %id, record = release.sequence(), "the second factor was reset on this machine");
    let needed = match changed {
        Changed::User(user) if user.factor.rule == crate::authority::FactorRule::Always => {
            "Until then, nothing else can be done in that user's sessions."
        }
        _ => "Until then, the password alone signs in.",
    };
    Ok(format!(
        "{id} has no second factor any more, and is signed out everywhere. Record {} says so.\n\
         At once, as {id}: envelope totp enroll. {needed}",
        release.sequence()
    ))
}
