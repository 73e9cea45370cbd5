//! `envelope verify`: offline.

use std::path::PathBuf;

use super::{
    accept::AcceptArgs,
    inspect::local_input,
    output::Style,
    progress::{Bar, Talk},
    timestamp::{TrustArgs, stamped_facts, verify_file},
};
use crate::{
    error::Result,
    interrupt::Interrupt,
    settings::Settings,
    timestamp::Stamped,
    verify::{Sender, Verification, VerifyJob, verify_stamped},
};

/// Tell who signed a file, when, and to whom it is encrypted
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The file; - for standard input
    file: PathBuf,
    /// Its signature (CMS in DER or PEM, or OpenPGP). [default: the one that an envelope carries; else FILE.p7s, FILE.sig or
    /// FILE.asc, beside the file]
    #[arg(long, value_name = "FILE.p7s")]
    signature: Option<PathBuf>,
    /// Verify its timestamp (RFC 3161) instead, which is in this file
    #[arg(long, value_name = "FILE.tsr", conflicts_with = "signature")]
    timestamp: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    accept: AcceptArgs,
    #[command(flatten)]
    style: Style,
    #[command(flatten)]
    talk: Talk,
}

/// Verifies.
pub(super) fn run(args: &VerifyArgs, interrupt: &Interrupt) -> Result<()> {
    let settings = Settings::load(Settings::default())?;
    let trusted = args.trust.load(&settings)?;
    if let Some(timestamp) = &args.timestamp {
        let bar = Bar::start(args.talk, interrupt);
        let stamped = verify_file(&local_input(&args.file), timestamp, &trusted, &bar);
        bar.clear();
        let stamped = stamped?;
        return args.style.one(&stamped, &stamped_facts(&stamped));
    }
    let accept = args.accept.accept(&settings)?;
    let job = VerifyJob { file: local_input(&args.file), signature: args.signature.clone(), accept };
    let bar = Bar::start(args.talk, interrupt);
    let found = verify_stamped(&job, &trusted, &bar);
    bar.clear();
    let found = found?;
    args.style.one(&found, &facts(&found))
}

fn facts(found: &Verification) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(envelope) = &found.envelope {
        facts.extend(envelope.recipients.iter().map(|recipient| ("encrypted to", recipient.name())));
        facts.extend(envelope.other_recipients.iter().map(|other| ("encrypted to", other.clone())));
    }
    facts.extend(sender_facts(&found.signer));
    match (&found.timestamp, &found.timestamp_does_not_count) {
        (Some(stamped), _) => facts.extend(stamped_facts(stamped)),
        (None, Some(why)) => facts.push(("timestamped", format!("it does not count: {why}"))),
        (None, None) => facts.push(("timestamped", "no".to_owned())),
    }
    facts
}

/// Who signed, and when, in one line.
pub(super) fn signed_by(sender: &Sender, stamped: Option<&Stamped>) -> String {
    let when = stamped.map(|stamped| format!(", timestamped {} by {}", stamped.time, stamped.authority));
    let whose = match (sender.standing, sender.addressed) {
        ("unknown", _) => ", who is not known here (--accept-from)",
        ("not verified", _) => ", which is not verified (--accept-from its certificate)",
        (_, Some(false)) => {
            "; the signature does not say to whom: somebody who was meant may have sent it on"
        }
        _ => "",
    };
    format!("signed by {}{}{whose}", name_of(sender), when.unwrap_or_default())
}

fn in_brackets(emails: &[String]) -> String {
    if emails.is_empty() { String::new() } else { format!(" <{}>", emails.join(", ")) }
}

/// The name, with the addresses that are not in it.
fn name_of(sender: &Sender) -> String {
    let emails: Vec<String> =
        sender.emails.iter().filter(|email| !sender.subject.contains(*email)).cloned().collect();
    format!("{}{}", sender.subject, in_brackets(&emails))
}

/// What is told of a sender, a line for each fact.
pub(super) fn sender_facts(sender: &Sender) -> Vec<(&'static str, String)> {
    let claimed = sender.signed.as_ref().map(|time| format!("{time}, as the signer says"));
    let level = match (sender.identity_level, sender.standing) {
        (Some(level), _) => format!("{level}: {}", level.meaning()),
        (None, "unknown") => "not checked".to_owned(),
        (None, _) if sender.openpgp_key.is_some() => "OpenPGP certificates name no level".to_owned(),
        (None, _) => "its certificate names no level".to_owned(),
    };
    let accepted = match sender.standing {
        "pinned" => "this certificate or its key is pinned",
        "vouched for" => "a CA that is accepted vouches for it",
        _ => {
            "nobody said who is: anybody can make such a certificate (--accept-from, or [accept] in the settings)"
        }
    };
    let certificate = match (&sender.openpgp_key, &sender.serial, &sender.issuer) {
        (Some(fingerprint), ..) => format!("OpenPGP {fingerprint}"),
        (None, Some(serial), Some(issuer)) => format!("{serial} of {issuer}"),
        (None, ..) => String::new(),
    };
    vec![
        ("signed by", name_of(sender)),
        ("signing key", sender.key_id.map(|id| id.to_string()).unwrap_or_default()),
        ("certificate", certificate),
        ("signature", sender.algorithm.clone()),
        ("signed at", claimed.unwrap_or_else(|| "the signer does not say".to_owned())),
        ("identity", level),
        ("accepted", accepted.to_owned()),
    ]
}
