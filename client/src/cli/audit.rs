//! `custodianctl audit`.

use clap::{Subcommand, ValueEnum};
use custodian_proto::v1;
use serde::Serialize;

use super::{
    connection::Connection,
    csv,
    log::{CompareArgs, ExportArgs, ForgetArgs, ProveArgs, VerifyArgs},
    message::note,
    opened::OpenedArgs,
    output::{Style, print},
    search::{FilterArgs, ProofArgs},
    view::{RecordView, id_of},
    when::local,
    witness::WitnessCommand,
};
use crate::{
    error::Result,
    interrupt::Interrupt,
    remote::audit::{Order, TailFrom},
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
        /// For other programs
        #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json")]
        format: Option<Format>,
        #[command(flatten)]
        style: Style,
        // Last: their help headings would cover what follows.
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        proof: ProofArgs,
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
    Opened(OpenedArgs),
    Verify(VerifyArgs),
    /// Watch logs from another machine, and cosign them
    #[command(subcommand)]
    Witness(WitnessCommand),
    Prove(ProveArgs),
    Export(ExportArgs),
    Compare(CompareArgs),
    Forget(ForgetArgs),
}

/// What a list is written as, for other programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// RFC 4180, with a header. Text that a spreadsheet would compute has an apostrophe in front
    Csv,
    /// A JSON object on each line
    Jsonl,
}

impl AuditCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Verify(args) => args.run(connection, interrupt),
            Self::Prove(args) => args.run(connection, interrupt),
            Self::Export(args) => args.run(connection, interrupt),
            Self::Forget(args) => args.run(interrupt),
            Self::Compare(args) => args.run(interrupt),
            Self::Witness(command) => command.run(interrupt),
            Self::Opened(args) => args.run(connection, interrupt),
            Self::Ls { filter, limit, newest, format, style, proof } => {
                let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
                let mut records = Vec::new();
                let more = proof.read((connection, interrupt), filter, (order, limit), |record| {
                    records.push(record);
                    Ok(())
                })?;
                list(&records, format, style)?;
                if more {
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
                let filter = filter.filter(|key| remote.key_id(key))?;
                remote.tail(&filter, from, |record| {
                    style.next(&Listed::from(&record), |listed| line(listed.record))
                })
            }
        }
    }
}

fn list(records: &[v1::Record], format: Option<Format>, style: Style) -> Result<()> {
    let listed = records.iter().map(Listed::from);
    match format {
        None => style.many(&listed.collect::<Vec<_>>(), &HEADER, |listed| cells(listed.record)),
        Some(Format::Jsonl) => {
            for listed in listed {
                if Style::LINES.next(&listed, |_| String::new())?.is_break() {
                    break;
                }
            }
            Ok(())
        }
        Some(Format::Csv) => {
            let rows: String = listed.map(|listed| listed.view.csv()).collect();
            print(&(csv::row(RecordView::CSV_HEADER) + &rows)).map(drop)
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
