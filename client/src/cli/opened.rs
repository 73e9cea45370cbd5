//! `custodianctl audit opened`: what a device or a user opened. The damage, when one of them was in the wrong hands.

use std::collections::{BTreeMap, BTreeSet};

use custodian_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    audit::Format,
    connection::Connection,
    csv,
    output::{Style, print},
    search::{FilterArgs, ProofArgs},
    view::id_of,
    when::{local, parse_instant, rfc3339},
};
use crate::{error::Result, interrupt::Interrupt, remote::audit::Order};

/// How many claimed names of one file are kept.
const MOST_NAMES: usize = 10;

/// List every file that a device or a user opened: who must be told if it was in the wrong hands
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).multiple(true).args(["device", "of_user"])))]
pub(super) struct OpenedArgs {
    /// laptop-7 or devices/laptop-7
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// anna or users/anna
    #[arg(long = "user", value_name = "ID")]
    of_user: Option<String>,
    /// From this time on: 2026-11-03T14:05:00Z, 2026-11-03, or how long ago: 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    until: Option<Timestamp>,
    /// For other programs
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json")]
    format: Option<Format>,
    #[command(flatten)]
    style: Style,
    #[command(flatten)]
    proof: ProofArgs,
}

/// One file: one wrapped key.
#[derive(Serialize)]
struct Opened {
    wrapped_key_sha256: String,
    key: String,
    /// Not verified: what clients said.
    claimed_names: BTreeSet<String>,
    users: BTreeSet<String>,
    devices: BTreeSet<String>,
    times: u64,
    first: Option<String>,
    last: Option<String>,
    first_sequence: u64,
    last_sequence: u64,
    #[serde(skip)]
    last_time: Option<prost_types::Timestamp>,
}

impl Opened {
    fn by(record: &v1::Record) -> Self {
        Self {
            wrapped_key_sha256: record.wrapped_key_sha256.clone(),
            key: record.key.clone(),
            claimed_names: BTreeSet::new(),
            users: BTreeSet::new(),
            devices: BTreeSet::new(),
            times: 0,
            first: rfc3339(record.time.as_ref()),
            last: None,
            first_sequence: record.sequence,
            last_sequence: 0,
            last_time: None,
        }
    }

    fn again(&mut self, record: v1::Record) {
        self.times += 1;
        self.last = rfc3339(record.time.as_ref());
        self.last_sequence = record.sequence;
        self.last_time = record.time;
        self.users.insert(record.user);
        self.devices.insert(record.device);
        let name = record.claims.map(|claims| claims.file_name).unwrap_or_default();
        if !name.is_empty() && self.claimed_names.len() < MOST_NAMES {
            self.claimed_names.insert(name);
        }
    }

    fn cells(&self) -> Vec<String> {
        let ids =
            |names: &BTreeSet<String>| names.iter().map(|name| id_of(name)).collect::<Vec<_>>().join(" ");
        vec![
            self.wrapped_key_sha256.clone(),
            self.times.to_string(),
            local(self.last_time.as_ref()),
            ids(&self.users),
            ids(&self.devices),
            id_of(&self.key).chars().take(8).collect(),
            self.claimed_names.iter().cloned().collect::<Vec<_>>().join(", "),
        ]
    }

    fn csv(&self) -> String {
        let names =
            |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        let (times, first, last) =
            (self.times.to_string(), self.first_sequence.to_string(), self.last_sequence.to_string());
        csv::row([
            self.wrapped_key_sha256.as_str(),
            &self.key,
            &names(&self.claimed_names),
            &names(&self.users),
            &names(&self.devices),
            &times,
            self.first.as_deref().unwrap_or_default(),
            self.last.as_deref().unwrap_or_default(),
            &first,
            &last,
        ])
    }
}

const HEADER: [&str; 7] = ["WRAPPED KEY", "TIMES", "LAST", "USERS", "DEVICES", "KEY", "CLAIMED NAMES"];

const CSV_HEADER: [&str; 10] = [
    "wrapped_key_sha256",
    "key",
    "claimed_names",
    "users",
    "devices",
    "times",
    "first",
    "last",
    "first_sequence",
    "last_sequence",
];

impl OpenedArgs {
    /// Reads all that was released to them, and tells it file by file, in the order of the first time.
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let filter = FilterArgs {
            of_user: self.of_user,
            device: self.device,
            of_key: None,
            file_sha256: None,
            outcome: Some("OK".to_owned()),
            operation: Some("Unwrap".to_owned()),
            of_break_glass: false,
            since: self.since,
            until: self.until,
        };
        let mut files: BTreeMap<String, Opened> = BTreeMap::new();
        let all = (Order::OldestFirst, usize::MAX);
        self.proof.read((connection, interrupt), filter, all, |record| {
            let opened = files.entry(record.wrapped_key_sha256.clone());
            opened.or_insert_with(|| Opened::by(&record)).again(record);
            Ok(())
        })?;
        let mut files: Vec<Opened> = files.into_values().collect();
        files.sort_by_key(|opened| opened.first_sequence);
        match self.format {
            Some(Format::Csv) => {
                let rows: String = files.iter().map(Opened::csv).collect();
                print(&(csv::row(CSV_HEADER) + &rows)).map(drop)
            }
            Some(Format::Jsonl) => {
                let style = Style::LINES;
                for opened in &files {
                    if style.next(opened, |_| String::new())?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
            None => self.style.many(&files, &HEADER, Opened::cells),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_opened_twice_is_one_file_with_all_its_claimed_names() {
        let record = |sequence, name: &str| v1::Record {
            sequence,
            user: "users/anna".into(),
            device: "devices/laptop-7".into(),
            wrapped_key_sha256: "ab".into(),
            claims: Some(v1::Claims { file_name: name.into(), ..v1::Claims::default() }),
            ..v1::Record::default()
        };
        let mut opened = Opened::by(&record(3, "a.mtd"));
        opened.again(record(3, "a.mtd"));
        opened.again(record(9, "=b.mtd"));
        assert_eq!((opened.times, opened.first_sequence, opened.last_sequence), (2, 3, 9));
        assert_eq!(opened.cells()[6], "=b.mtd, a.mtd");
        assert!(opened.csv().contains("\"'=b.mtd; a.mtd\""), "{}", opened.csv());
    }
}
