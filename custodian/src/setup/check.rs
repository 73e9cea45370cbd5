//! `custodian check`: would this configuration serve?

use std::path::Path;

use jiff::Timestamp;

use super::{Parts, files};
use crate::{
    authority::KeyState,
    config::Config,
    log::Place,
    pki::peer::CertificateFacts,
    token::{Token as _, TokenReport},
    trouble::Trouble,
};

/// What is in order, a line each; or the first thing that is not.
///
/// Starts a worker and logs in to the token, once: a wrong PIN costs one try.
pub async fn check(path: &Path) -> Result<Vec<String>, Trouble> {
    let config = Config::read(path)?;
    let mut lines = vec![format!("configuration  {}", path.display())];
    let now = Timestamp::now();
    lines.push(format!("server         certificate valid until {}", valid(&config.tls_certificate, now)?));
    lines.push(format!("device CA      certificate valid until {}", valid(&config.ca_certificate, now)?));
    if let Some(people) = &config.people_ca_certificate {
        lines.push(format!("people's CA    certificate valid until {}", valid(people, now)?));
    }
    let parts = Parts::assemble(&config).await?;
    lines.push(format!(
        "ledger         {}, {} records",
        config.ledger.display(),
        *parts.ledger.last_sequence().borrow()
    ));
    lines.push(format!("log            {}", parts.log.verifier().name()));
    if let Some(copy) = &config.log_copy {
        lines.push(second_place(&copy.place, &parts)?);
    }
    let looked = look(&parts, &mut lines).await;
    parts.tokens.shutdown().await;
    looked.map(|()| lines)
}

/// The copy of the log; the trouble if it cannot be written now.
fn second_place(place: &Place, parts: &Parts) -> Result<String, Trouble> {
    match parts.custodian.second_place().state().and_then(|state| state.trouble) {
        None => Ok(format!("second place   {place}")),
        Some(why) => Err(Trouble::new(format!("cannot copy the log to {place}"), why)
            .hint("the folder or bucket must be there, and this account must be able to write to it")),
    }
}

/// Every token, every key of the ledger.
async fn look(parts: &Parts, lines: &mut Vec<String>) -> Result<(), Trouble> {
    let survey = parts.tokens.survey(parts.custodian.token_deadline()).await;
    let survey = survey.map_err(|error| Trouble::new("cannot look into the token", error))?;
    let reports = parts.tokens.reports();
    for report in &reports {
        lines.push(token_line(report)?);
        let survey = report.health.last_survey.as_ref();
        lines.extend(survey.map(|survey| format!("its cage       {}", survey.cage)));
    }
    let keys = parts.ledger.keys(None, custodian_proto::limits::MAX_PAGE_SIZE).await;
    let keys = keys.map_err(|error| Trouble::new("cannot read the ledger", error))?;
    let unused = survey
        .keys
        .iter()
        .filter(|held| held.kind.modulus_bits().is_some() && !keys.iter().any(|key| key.id == held.id));
    let unused =
        unused.map(|held| format!("unused         {} {}: the ledger does not know it", held.id, held.label));
    let unused: Vec<_> = unused.collect();
    for key in keys {
        let held = |report: &&TokenReport| {
            let survey = report.health.last_survey.as_ref();
            survey.is_some_and(|survey| survey.keys.iter().any(|held| held.id == key.id))
        };
        let holders: Vec<_> = reports.iter().filter(held).map(|report| report.name.as_str()).collect();
        let state = key.life.state(Timestamp::now());
        if state == KeyState::Destroyed && !holders.is_empty() {
            lines.push(format!(
                "destroyed      {} {}: but still in the token; custodianctl key destroy tries again",
                key.id,
                key.full_label()
            ));
            continue;
        }
        if state != KeyState::Destroyed && holders.is_empty() {
            let why = survey.unserved.join("; ");
            return Err(Trouble::new(
                format!("the wrapping key {} ({})", key.id, key.label),
                if why.is_empty() { "is not in the token".into() } else { format!("is not served: {why}") },
            )
            .hint("is this the right token? the ledger knows the key, and nothing was deleted"));
        }
        let place = if reports.len() == 1 { String::new() } else { format!(", in {}", holders.join(", ")) };
        lines.push(format!(
            "key            {} {} RSA-{}, {}{place}",
            key.id,
            key.full_label(),
            key.modulus_bits,
            state.name()
        ));
    }
    lines.extend(unused);
    lines.extend(survey.unserved.iter().map(|why| format!("not served     {why}")));
    lines.extend(survey.remarks.iter().map(|remark| format!("remark         {remark}")));
    Ok(())
}

/// What there is to say of a token; the trouble if it does not serve.
fn token_line(report: &TokenReport) -> Result<String, Trouble> {
    let trouble = |why: &str| {
        Err(Trouble::new(format!("cannot use the token {} ({})", report.name, report.uri), why)
            .hint("the others would be served without it, and it would be tried again by itself"))
    };
    match (&report.health.last_survey, &report.health.trouble) {
        (Some(survey), None) => {
            let drained = if report.drain.is_some() { ", drained" } else { "" };
            Ok(format!(
                "token          {}: {} ({}), {}, {}{drained}",
                report.name, survey.label, survey.model, survey.wrapping, report.uri
            ))
        }
        (_, Some(why)) => trouble(why),
        (None, None) => trouble("it does not tell what it has"),
    }
}

/// Until when the certificate in this file is valid; it must be so now.
fn valid(path: &Path, now: Timestamp) -> Result<Timestamp, Trouble> {
    let trouble = |why: String| Trouble::new(format!("cannot use the certificate {}", path.display()), why);
    let facts = CertificateFacts::read(&files::certificates(path)?.remove(0))
        .map_err(|error| trouble(error.to_string()))?;
    if now < facts.not_before {
        return Err(trouble(format!("it is valid from {} on", facts.not_before)).hint("is the clock right?"));
    }
    if now >= facts.not_after {
        return Err(trouble(format!("it expired at {}", facts.not_after)).hint("replace it by a new one"));
    }
    Ok(facts.not_after)
}
