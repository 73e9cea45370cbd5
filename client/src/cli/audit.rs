//! `custodianctl audit`.

use clap::Subcommand;
use custodian_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    connection::Connection,
    log::{ExportArgs, ProveArgs, VerifyArgs},
    message::note,
    output::Style,
    view::{RecordView, device_name, id_of, user_name},
    when::{local, parse_instant, to_proto},
};
use crate::{
    error::Result,
    interrupt::Interrupt,
    remote::{
        Remote, WhichKey,
        audit::{Order, TailFrom},
    },
};

/// How much of a key id a table shows: enough to tell one custodian's keys apart.
const SHORT_KEY_LEN: usize = 8;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List records, oldest first
    Ls {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: usize,
        /// The newest ones first
        #[arg(long)]
        newest: bool,
        #[command(flatten)]
        style: Style,
        // Last: its help heading would cover what follows.
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Follow the log, until Ctrl-C. With --json: one object a line
    Tail {
        /// Start with the first record, not with the next one
        #[arg(long, conflicts_with = "after")]
        from_start: bool,
        /// Start after this sequence number
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<u64>,
        #[command(flatten)]
        style: Style,
        #[command(flatten)]
        filter: FilterArgs,
    },
    Verify(VerifyArgs),
    Prove(ProveArgs),
    Export(ExportArgs),
}

/// Which records: those that fit everything given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// anna or users/anna
    #[arg(long = "user", value_name = "ID")]
    of_user: Option<String>,
    /// laptop-7 or devices/laptop-7
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// A key's id, the beginning of it, or its label
    #[arg(long = "key", value_name = "KEY")]
    of_key: Option<WhichKey>,
    /// SHA-256 of the wrapped key, as envelope inspect shows it: it names the file
    #[arg(long, value_name = "HEX")]
    file_sha256: Option<String>,
    /// OK, a refusal's code such as DEVICE_REVOKED, or !OK for all that was not allowed
    #[arg(long, value_name = "CODE")]
    outcome: Option<String>,
    /// Unwrap, Login, RevokeDevice …
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Only attempts to break the glass: asked for, approved, done
    #[arg(long = "break-glass")]
    of_break_glass: bool,
    /// From this time on: 2026-11-03T14:05:00Z, 2026-11-03, or how long ago: 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    until: Option<Timestamp>,
}

impl FilterArgs {
    fn filter(self, remote: &Remote) -> Result<v1::RecordFilter> {
        let key = self.of_key.map(|key| remote.key_id(&key)).transpose()?;
        Ok(v1::RecordFilter {
            user: self.of_user.as_deref().map(user_name).unwrap_or_default(),
            device: self.device.as_deref().map(device_name).unwrap_or_default(),
            key: key.map(|key| key.resource_name()).unwrap_or_default(),
            wrapped_key_sha256: self.file_sha256.unwrap_or_default().to_ascii_lowercase(),
            operation: self.operation.unwrap_or_default(),
            outcome: self.outcome.unwrap_or_default(),
            break_glass: self.of_break_glass,
            start_time: self.since.map(to_proto),
            end_time: self.until.map(to_proto),
        })
    }
}

impl AuditCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Verify(args) => args.run(connection, interrupt),
            Self::Prove(args) => args.run(connection, interrupt),
            Self::Export(args) => args.run(connection, interrupt),
            Self::Ls { filter, limit, newest, style } => {
                let remote = connection.connect(interrupt)?;
                let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
                let found = remote.records(&filter.filter(&remote)?, order, limit)?;
                let listed: Vec<_> = found.records.iter().map(Listed::from).collect();
                style.many(&listed, &HEADER, |listed| cells(listed.record))?;
                if found.more {
                    note(&format!("there are more than these {limit}: give --limit, or filters"));
                }
                Ok(())
            }
            Self::Tail { filter, from_start, after, style } => {
                let remote = connection.connect(interrupt)?;
                let from = match after {
                    Some(sequence) => TailFrom::After(sequence),
                    None if from_start => TailFrom::Start,
                    None => TailFrom::Now,
                };
                let filter = filter.filter(&remote)?;
                remote.tail(&filter, from, |record| {
                    style.next(&Listed::from(&record), |listed| line(listed.record))
                })
            }
        }
    }
}

/// A record with its JSON beside it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    view: RecordView,
    #[serde(skip)]
    record: &'a v1::Record,
}

impl<'a> From<&'a v1::Record> for Listed<'a> {
    fn from(record: &'a v1::Record) -> Self {
        Self { view: record.into(), record }
    }
}

const HEADER: [&str; 9] = ["SEQ", "TIME", "USER", "DEVICE", "OPERATION", "OUTCOME", "IP", "KEY", "ABOUT"];

fn cells(record: &v1::Record) -> Vec<String> {
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    vec![
        record.sequence.to_string(),
        local(record.time.as_ref()),
        dash(id_of(&record.user)),
        dash(id_of(&record.device)),
        record.operation.clone(),
        record.outcome.clone(),
        dash(&record.peer_ip),
        dash(&id_of(&record.key).chars().take(SHORT_KEY_LEN).collect::<String>()),
        dash(&about(record)),
    ]
}

/// What the attempt was about. What nobody has verified is marked so.
fn about(record: &v1::Record) -> String {
    let mut parts: Vec<String> = Vec::new();
    if record.break_glass {
        parts.push("BREAK GLASS".to_owned());
    }
    if !record.target.is_empty() {
        parts.push(record.target.clone());
    }
    if let Some(claims) = &record.claims {
        if !claims.file_name.is_empty() {
            parts.push(format!("claimed: {}", claims.file_name));
        }
        if !claims.reason.is_empty() {
            parts.push(format!("claimed reason: {}", claims.reason));
        }
    }
    if !record.detail.is_empty() {
        parts.push(format!("({})", record.detail));
    }
    parts.join(" ")
}

fn line(record: &v1::Record) -> String {
    cells(record).join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> v1::Record {
        v1::Record {
            sequence: 7,
            operation: "Unwrap".into(),
            user: "users/anna".into(),
            device: "devices/laptop-7".into(),
            key: format!("keys/{}", "ab".repeat(20)),
            claims: Some(v1::Claims { file_name: "report.mtd".into(), ..v1::Claims::default() }),
            outcome: "OK".into(),
            ..v1::Record::default()
        }
    }

    #[test]
    fn a_file_name_is_marked_as_a_claim() {
        assert_eq!(about(&record()), "claimed: report.mtd");
    }

    #[test]
    fn a_record_shows_who_what_where_and_the_outcome() {
        let line = line(&record());
        for part in ["7", "anna", "laptop-7", "Unwrap", "OK", "abababab", "report.mtd"] {
            assert!(line.contains(part), "{line} lacks {part}");
        }
        assert!(!line.contains(&"ab".repeat(20)), "key ids are short in tables");
    }
}
