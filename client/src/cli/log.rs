//! `custodianctl audit verify|prove|export` and `envelope verify-receipt`: checking the log with its public key.

use std::path::PathBuf;

use custodian_proto::tlog::{Cosignature, Receipt, VerifierKey};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    connection::Connection,
    message::note,
    output::{Style, print},
    view::RecordView,
    when::{local, parse_instant, rfc3339},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    log::{
        Memory, Part, Proven, Removal, Retention, Source, compare, export, forget, prove_receipt,
        read_log_key, read_receipt, read_witness_key, require_cosignatures, verify, write_receipt,
    },
    progress::Progress,
};

/// The public key to check with.
#[derive(Debug, clap::Args)]
pub(super) struct LogKey {
    /// The log's public key: the custodian's keys/log.pub
    #[arg(long, value_name = "FILE", env = "CUSTODIAN_LOG_KEY")]
    log_key: PathBuf,
}

impl LogKey {
    fn read(&self) -> Result<VerifierKey> {
        read_log_key(&self.log_key)
    }
}

/// Who must have cosigned.
#[derive(Debug, clap::Args)]
pub(super) struct Witnesses {
    /// A witness's public key: NAME+ID+KEY, or a file with it. Once for each witness
    #[arg(long = "witness", value_name = "KEY")]
    keys: Vec<String>,
    /// How many of them must have cosigned the checkpoint [default: all]
    #[arg(long, value_name = "K", requires = "keys")]
    quorum: Option<usize>,
}

#[derive(Serialize)]
struct CosignatureView {
    witness: String,
    time: Option<String>,
}

impl Witnesses {
    /// The cosignatures of a checkpoint; the failure if they are too few.
    fn check(&self, note: &str) -> Result<Vec<Cosignature>> {
        let keys = self.keys.iter().map(|key| read_witness_key(key)).collect::<Result<Vec<_>>>()?;
        let quorum = self.quorum.unwrap_or(keys.len());
        if quorum > keys.len() || (quorum == 0 && !keys.is_empty()) {
            let why = format!("{quorum} of {} witnesses is no quorum", keys.len());
            return Err(Error::new(Kind::Usage, "cannot check the cosignatures", why));
        }
        require_cosignatures(note, &keys, quorum)
    }
}

fn cosigned_by(cosignatures: &[Cosignature]) -> String {
    let by =
        |cosignature: &Cosignature| format!("{} at {}", cosignature.name, local(Some(&time_of(cosignature))));
    cosignatures.iter().map(by).collect::<Vec<_>>().join(", ")
}

fn time_of(cosignature: &Cosignature) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: i64::try_from(cosignature.time).unwrap_or(i64::MAX), nanos: 0 }
}

fn views(cosignatures: Vec<Cosignature>) -> Vec<CosignatureView> {
    let view = |cosignature: Cosignature| CosignatureView {
        time: rfc3339(Some(&time_of(&cosignature))),
        witness: cosignature.name,
    };
    cosignatures.into_iter().map(view).collect()
}

/// Check that the log is the one that was signed, that it only grew, and that no record was changed
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// An export to check offline; without it, the log of the custodian
    folder: Option<PathBuf>,
    /// Read only the records after the checkpoint that was remembered
    #[arg(long)]
    new: bool,
    /// Where the last checkpoint is remembered [default: ~/.local/state/custodian/log-ID.checkpoint]
    #[arg(long, value_name = "FILE", env = "CUSTODIAN_LOG_STATE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    key: LogKey,
    #[command(flatten)]
    witnesses: Witnesses,
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct VerifiedView {
    log: String,
    size: u64,
    root: String,
    records_checked: u64,
    begins_with: Option<u64>,
    cosignatures: Vec<CosignatureView>,
    /// Payloads that are not there any more, on purpose.
    records_removed: u64,
    removals: Vec<Removal>,
    state: String,
}

impl VerifyArgs {
    /// Verifies, and remembers what verified.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let key = self.key.read()?;
        let memory = match &self.state {
            Some(path) => Memory::at(path),
            None => Memory::usual(&key)?,
        };
        let known = memory.recall(&key)?;
        let part = match &known {
            Some(known) if self.new => Part::After(known.size),
            _ => Part::All,
        };
        let remote;
        let source = match &self.folder {
            Some(folder) => Source::Folder(folder),
            None => {
                remote = connection.connect(interrupt)?;
                Source::Custodian(&remote)
            }
        };
        let verified = verify(source, &key, known.as_ref(), part, &Quiet(interrupt))?;
        let cosignatures = self.witnesses.check(&verified.note)?;
        memory.remember(&verified.note)?;
        let checkpoint = &verified.checkpoint;
        let view = VerifiedView {
            log: checkpoint.origin.clone(),
            size: checkpoint.size,
            root: checkpoint.root.to_string(),
            records_checked: verified.records,
            begins_with: verified.begins_with,
            cosignatures: views(cosignatures.clone()),
            records_removed: verified.removed,
            removals: self.folder.as_deref().map(Retention::read).transpose()?.unwrap_or_default().removals,
            state: memory.path().display().to_string(),
        };
        let grown = match verified.begins_with {
            Some(size) => format!("from the {size} records that were remembered, none of which changed"),
            None => "nothing was remembered: from now on, this checkpoint is".to_owned(),
        };
        let facts = [
            ("log", view.log.clone()),
            ("signed", format!("{} records, root {}", view.size, view.root)),
            ("checked", format!("{} records: each is the one that was logged", view.records_checked)),
            ("grown", grown),
            ("cosigned by", cosigned_by(&cosignatures)),
            ("removed", removed(&view)),
            ("remembered in", view.state.clone()),
        ];
        self.style.one(&view, &facts)
    }
}

/// What is not there any more, since when, and who did it.
fn removed(view: &VerifiedView) -> String {
    if view.records_removed == 0 {
        return String::new();
    }
    let each = view.removals.iter().map(|removal| {
        let Removal { time, by, reason, first, last } = removal;
        format!("{first} to {last} at {time} by {by} ({reason})")
    });
    let each: Vec<_> = each.collect();
    format!(
        "the payloads of {} records, under retention; their hashes are right: {}",
        view.records_removed,
        each.join(", ")
    )
}

/// Remove the payloads of old records from a copy of the log. Their hashes stay, so that everything still verifies
#[derive(Debug, clap::Args)]
pub(super) struct ForgetArgs {
    /// An export, or a second place
    folder: PathBuf,
    /// Records from before this time, in whole bundles of 256
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    before: Timestamp,
    /// Who does it; stands in the folder's retention list
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why; stands there as well
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    key: LogKey,
}

impl ForgetArgs {
    /// Removes.
    pub(super) fn run(&self, interrupt: &Interrupt) -> Result<()> {
        let said = (self.by.as_str(), self.reason.as_str());
        let removed = forget(&self.folder, &self.key.read()?, self.before, said, &Quiet(interrupt))?;
        note(&match removed {
            Some(Removal { first, last, .. }) => format!("removed the payloads of records {first} to {last}"),
            None => "there is no whole bundle of 256 records that old".to_owned(),
        });
        Ok(())
    }
}

/// Get the receipt of a record: proves offline that it is in the log
#[derive(Debug, clap::Args)]
pub(super) struct ProveArgs {
    /// The record's number
    #[arg(value_name = "SEQ")]
    sequence: u64,
    /// Where to write the receipt; without it, to standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ProveArgs {
    /// Asks for it.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let receipt = connection.connect(interrupt)?.receipt(self.sequence)?;
        match &self.output {
            Some(path) => write_receipt(path, &receipt),
            None => print(&receipt.to_string()).map(drop),
        }
    }
}

/// Copy the log into a folder that anybody can check with other tools, too: C2SP tlog-tiles. Run it again to add what is new
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The folder; made if it is missing
    folder: PathBuf,
    #[command(flatten)]
    key: LogKey,
}

impl ExportArgs {
    /// Exports.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let key = self.key.read()?;
        let remote = connection.connect(interrupt)?;
        let exported = export(Source::Custodian(&remote), &self.folder, &key, &Quiet(interrupt))?;
        let size = exported.checkpoint.size;
        note(&format!(
            "exported {} new records to {}, which has {size} now",
            size.saturating_sub(exported.before),
            self.folder.display()
        ));
        Ok(())
    }
}

/// Compare two copies of the log, offline: one must begin with the other
#[derive(Debug, clap::Args)]
pub(super) struct CompareArgs {
    /// An export, or a second place
    one: PathBuf,
    /// Another one
    other: PathBuf,
    #[command(flatten)]
    key: LogKey,
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct ComparedView {
    log: String,
    shorter: u64,
    longer: u64,
}

impl CompareArgs {
    /// Compares.
    pub(super) fn run(&self, interrupt: &Interrupt) -> Result<()> {
        let compared = compare((&self.one, &self.other), &self.key.read()?, &Quiet(interrupt))?;
        let (shorter, longer) = (compared.shorter.size, compared.longer.size);
        let view = ComparedView { log: compared.longer.origin, shorter, longer };
        let facts = [
            ("log", view.log.clone()),
            ("same", format!("the first {shorter} records; the longer copy has {longer}")),
        ];
        self.style.one(&view, &facts)
    }
}

/// Check a receipt, offline
#[derive(Debug, clap::Args)]
pub(super) struct VerifyReceiptArgs {
    /// The receipt
    receipt: PathBuf,
    #[command(flatten)]
    key: LogKey,
    #[command(flatten)]
    witnesses: Witnesses,
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct ProvenView {
    log: String,
    log_size: u64,
    cosignatures: Vec<CosignatureView>,
    record: RecordView,
}

impl VerifyReceiptArgs {
    /// Verifies, and tells what is proven.
    pub(super) fn run(&self) -> Result<()> {
        let key = self.key.read()?;
        let receipt: Receipt = read_receipt(&self.receipt)?;
        let Proven { record, checkpoint } = prove_receipt(&receipt, &key)?;
        let cosignatures = self.witnesses.check(&receipt.checkpoint)?;
        let claims = record.claims.clone().unwrap_or_default();
        let claimed = |text: String| if text.is_empty() { text } else { format!("{text} (claimed)") };
        let facts = [
            ("proven", format!("record {} of {}", record.sequence, checkpoint.origin)),
            ("time", local(record.time.as_ref())),
            ("operation", record.operation.clone()),
            ("outcome", record.outcome.clone()),
            ("user", record.user.clone()),
            ("device", record.device.clone()),
            ("address", record.peer_ip.clone()),
            ("key", record.key.clone()),
            ("wrapped key", record.wrapped_key_sha256.clone()),
            ("digest", record.digest.clone()),
            ("file", claimed(claims.file_name)),
            ("reason", claimed(claims.reason)),
            ("about", record.target.clone()),
            ("detail", record.detail.clone()),
            ("request", record.request_id.clone()),
            ("cosigned by", cosigned_by(&cosignatures)),
        ];
        let view = ProvenView {
            log: checkpoint.origin,
            log_size: checkpoint.size,
            cosignatures: views(cosignatures),
            record: RecordView::from(&record),
        };
        self.style.one(&view, &facts)
    }
}

/// Shows nothing, and stops at Ctrl-C.
pub(super) struct Quiet<'a>(pub(super) &'a Interrupt);

impl Progress for Quiet<'_> {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn interrupted(&self) -> bool {
        self.0.happened()
    }
}
