//! `custodian reset-policy`: the way back from a policy that nobody is left to replace. Never by itself, and never without a
//! record.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use jiff::Timestamp;

use super::parts::open_ledger;
use crate::{
    authority::{PolicyText, Standing},
    config::Config,
    ledger::{Change, Grant, Intent, Missing, Outcome},
    trouble::Trouble,
};

/// Puts the policy that comes with the program in force again, and records that. Returns what the operator is to know.
pub async fn reset_policy(path: &Path, reason: &str) -> Result<String, Trouble> {
    let what = "cannot reset the policy";
    if reason.trim().is_empty() {
        return Err(Trouble::new(what, "there is no reason").hint("give one with --reason; it is recorded"));
    }
    let config = Config::read(path)?;
    let ledger = open_ledger(&config, Missing::Refuse)?;
    let current = ledger.policy().await.map_err(|error| Trouble::new(what, error))?;
    let version = current.map_or(0, |policy| policy.version).saturating_add(1);
    let reason = format!("reset on the custodian's machine: {reason}");
    let (applied, applied_by) = (Timestamp::now(), None);
    let policy = PolicyText { version, applied, applied_by, reason: reason.clone(), ..PolicyText::initial() };
    let intent = Intent { reason, ..Intent::of_nobody("ApplyPolicy", IpAddr::V4(Ipv4Addr::LOCALHOST)) };
    let attempt = ledger.begin(intent);
    // It asks for no approvals.
    let change = Some(Change::ApplyPolicy { policy, approvers: 0 });
    let settled =
        ledger.settle(attempt, Outcome::Granted(Grant { standing: Standing::default(), change })).await;
    settled.map_err(|denial| Trouble::new(what, denial))?;
    Ok(format!(
        "Version {version} is in force: the policy that comes with the program, with which one administrator can do everything.\n\
         The versions before are kept: custodianctl policy ls"
    ))
}
