//! `custodian check`: would this configuration serve?

use std::path::Path;

use jiff::Timestamp;

use super::{Parts, files};
use crate::{config::Config, pki::peer::CertificateFacts, token::Token as _, trouble::Trouble};

/// What is in order, a line each; or the first thing that is not.
///
/// Starts a worker and logs in to the token, once: a wrong PIN costs one try.
pub async fn check(path: &Path) -> Result<Vec<String>, Trouble> {
    let config = Config::read(path)?;
    let mut lines = vec![format!("configuration  {}", path.display())];
    let now = Timestamp::now();
    lines.push(format!("server         certificate valid until {}", valid(&config.tls_certificate, now)?));
    lines.push(format!("device CA      certificate valid until {}", valid(&config.ca_certificate, now)?));
    let parts = Parts::assemble(&config).await?;
    lines.push(format!(
        "ledger         {}, {} records",
        config.ledger.display(),
        *parts.ledger.last_sequence().borrow()
    ));
    lines.push(format!("log            {}", parts.log.verifier().name()));
    let survey = parts.token.survey(parts.custodian.token_deadline()).await;
    let survey = survey.map_err(|error| Trouble::new("cannot look into the token", error))?;
    lines.push(format!("token          {} ({}), {}", survey.label, survey.model, survey.wrapping));
    let keys = parts.ledger.keys(None, custodian_proto::limits::MAX_PAGE_SIZE).await;
    for key in keys.map_err(|error| Trouble::new("cannot read the ledger", error))? {
        if !survey.keys.iter().any(|held| held.id == key.id) {
            let why = survey.unserved.join("; ");
            parts.token.shutdown().await;
            return Err(Trouble::new(
                format!("the wrapping key {} ({})", key.id, key.label),
                if why.is_empty() { "is not in the token".into() } else { format!("is not served: {why}") },
            )
            .hint("is this the right token? the ledger knows the key, and nothing was deleted"));
        }
        lines.push(format!(
            "key            {} {} RSA-{}, {}",
            key.id,
            key.label,
            key.modulus_bits,
            key.state.name()
        ));
    }
    lines.extend(survey.unserved.iter().map(|why| format!("not served     {why}")));
    lines.extend(survey.remarks.iter().map(|remark| format!("remark         {remark}")));
    parts.token.shutdown().await;
    Ok(lines)
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
