//! `envelope inspect`: offline, never asks for a key.

use std::path::{Path, PathBuf};

use indicatif::HumanBytes;

use super::output::{Style, print, table};
use crate::{
    error::Result,
    extract::Input,
    inspect::{Entry, Inspection, inspect},
    web::{Access, Location, Plain},
};

/// Show what an envelope tells without a key: format, recipients, sizes
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The envelope; - for standard input. A sealed one may be an https:// URL or s3://BUCKET/KEY
    file: PathBuf,
    #[command(flatten)]
    web: Web,
    #[command(flatten)]
    style: Style,
}

/// Inspects.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let found = inspect(&input(&args.file, &args.web)?)?;
    args.style.one(&found, &facts(&found))?;
    match &found.entries {
        Some(entries) if args.style.is_for_people() && !entries.is_empty() => {
            let rows: Vec<_> = entries.iter().map(entry_row).collect();
            let text = table(&ENTRY_COLUMNS, &rows);
            print(&format!("\n{text}")).map(drop)
        }
        _ => Ok(()),
    }
}

/// What the table of entries shows.
pub(super) const ENTRY_COLUMNS: [&str; 5] = ["SIZE", "SEALED", "MODIFIED", "MODE", "PATH"];

/// How envelopes on the network are reached.
#[derive(Debug, clap::Args)]
pub(super) struct Web {
    /// Certificates (PEM) that may vouch for the server of an https:// envelope, instead of those of the system
    #[arg(long, value_name = "FILE")]
    https_ca: Option<PathBuf>,
    /// Fetch from http:// too, not only from this machine: whoever is on the way sees who fetches which envelope
    #[arg(long)]
    allow_http: bool,
}

/// `-` is standard input, and a URL is a URL.
pub(super) fn input(file: &Path, web: &Web) -> Result<Input> {
    match file.to_str().and_then(Location::parse) {
        Some(location) => {
            let plain = if web.allow_http { Plain::Allowed } else { Plain::LoopbackOnly };
            Ok(Input::Web(location?, Access { ca: web.https_ca.clone(), plain }))
        }
        None => Ok(local_input(file)),
    }
}

/// `-` is standard input, and everything else a file.
pub(super) fn local_input(file: &Path) -> Input {
    if file == Path::new("-") { Input::Stdin } else { Input::File(file.to_owned()) }
}

fn facts(found: &Inspection) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("format", found.format.to_owned()),
        ("size", format!("{} ({} bytes)", HumanBytes(found.envelope_bytes), found.envelope_bytes)),
    ];
    for recipient in &found.recipients {
        facts.push(("sealed to", format!("{} ({})", recipient.name(), recipient.wrapping)));
        facts.push(("in the log as", recipient.wrapped_key_sha256.clone()));
    }
    facts.extend(found.other_recipients.iter().map(|other| ("not served", other.clone())));
    facts.push(("encryption", found.encryption.clone()));
    if found.sender_mark.is_some() {
        facts.push(("signed", "by its sender; envelope verify tells who that is".to_owned()));
    }
    facts.push(match &found.entries {
        Some(entries) => {
            let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
            ("entries", format!("{}, {}", entries.len(), HumanBytes(bytes)))
        }
        None => ("entries", "secret".to_owned()),
    });
    facts
}

/// An entry as a row of a table.
pub(super) fn entry_row(entry: &Entry) -> Vec<String> {
    vec![
        entry.size.to_string(),
        entry.sealed_size.to_string(),
        entry.modified.clone().unwrap_or_default(),
        entry.mode.map(|mode| format!("{:04o}", mode & 0o7777)).unwrap_or_default(),
        entry.path.clone(),
    ]
}
