//! `custodian accept-ledger`: going on with a ledger that lost records. Never by itself, and never without a record.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use super::parts::{ledger_options, open_ledger};
use crate::{
    authority::Standing,
    config::Config,
    ledger::{Grant, Intent, Missing, Outcome, SqliteLedger},
    trouble::Trouble,
};

/// Accepts the ledger as it is, and records that. Returns what the operator is to do next.
pub async fn accept_ledger(path: &Path, reason: &str) -> Result<String, Trouble> {
    let config = Config::read(path)?;
    let what = format!("cannot accept the ledger {}", config.ledger.display());
    if reason.trim().is_empty() {
        return Err(Trouble::new(what, "there is no reason").hint("give one with --reason; it is recorded"));
    }
    let aside = SqliteLedger::accept_as_it_is(&config.ledger, ledger_options(&config, Missing::Refuse))
        .map_err(|error| Trouble::new(&what, error))?;
    let ledger = open_ledger(&config, Missing::Refuse)?;
    let before = *ledger.last_sequence().borrow();
    let lost = match &aside {
        Some(aside) => format!("what was remembered is in {}", aside.display()),
        None => "nothing was remembered".to_owned(),
    };
    let attempt = ledger.begin(Intent {
        reason: format!("accepted with {before} records; {lost}; {reason}"),
        ..Intent::of_nobody("AcceptLedger", IpAddr::V4(Ipv4Addr::LOCALHOST))
    });
    let grant = Grant { standing: Standing::default(), change: None };
    let settled = ledger.settle(attempt, Outcome::Granted(grant)).await;
    settled.map_err(|denial| Trouble::new("cannot record AcceptLedger", denial))?;
    Ok(format!(
        "The ledger with its {before} records is accepted; {lost}.\n\
         Before you serve: revoke again what was revoked since; and if records were lost, give the log a new key\n\
         (custodian log-key), since the old one has signed for them. Auditors will see that it is another log."
    ))
}
