//! Checking a whole log, or what was added to it.

use custodian_proto::tlog::{
    Checkpoint, Flaw, Hash, Tile, VerifierKey, merkle,
    nodes::Nodes,
    tiles::{Edge, WIDTH},
};

use super::{Retention, Source, broken};
use crate::{
    error::{Error, Result},
    progress::{self, Progress},
};

/// What fails in here.
const WHAT: &str = "the log does not verify";

/// How many changed records are named.
const MOST_NAMED: usize = 10;

/// Which records are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All.
    All,
    /// Those after this many; the others must be the ones that the remembered checkpoint covers.
    After(u64),
}

/// A log that is the one that was signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The note that says so.
    pub note: String,
    /// Records that were read and are right.
    pub records: u64,
    /// Records whose payload was removed under retention; their hashes are right.
    pub removed: u64,
    /// The size of the earlier log that this one begins with, if one was known.
    pub begins_with: Option<u64>,
}

/// Checks that the log is signed by `key`, that it begins with the log of the checkpoint `known`, and that each record of
/// `part` is the one that was logged.
///
/// # Errors
/// [`Kind::Integrity`](crate::error::Kind::Integrity), naming what is wrong; those of reading.
pub fn verify(
    source: Source<'_>,
    key: &VerifierKey,
    known: Option<&Checkpoint>,
    part: Part,
    progress: &dyn Progress,
) -> Result<Verified> {
    verify_each(source, key, known, part, progress, &mut |_, _| Ok(()))
}

/// The same. Each record that is read goes to `each`, with its number: to be believed only once this has returned `Ok`.
pub(super) fn verify_each(
    source: Source<'_>,
    key: &VerifierKey,
    known: Option<&Checkpoint>,
    part: Part,
    progress: &dyn Progress,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Verified> {
    let note = source.checkpoint()?;
    let checkpoint = Checkpoint::open(&note, key)
        .map_err(|flaw| broken("the log's checkpoint is not to be trusted", flaw).hint(KEY_HINT))?;
    if let Some(known) = known {
        consistent(source, known, &checkpoint)?;
    }
    let start = match part {
        Part::All => 0,
        Part::After(size) => size.min(checkpoint.size) / WIDTH as u64 * WIDTH as u64,
    };
    progress.total(checkpoint.size - start);
    let retention = match source {
        Source::Folder(folder) => Retention::read(folder)?,
        Source::Custodian(_) => Retention::default(),
    };
    let mut check = Check::new(source, start, checkpoint.size, retention)?;
    for index in start / WIDTH as u64..checkpoint.size.div_ceil(WIDTH as u64) {
        progress::check(progress)?;
        let width = Tile { level: 0, index }.width(checkpoint.size);
        check.bundle(source, index, width, each)?;
        progress.advance(width as u64);
    }
    let removed = check.removed;
    check.end(&checkpoint)?;
    let begins_with = known.map(|known| known.size);
    Ok(Verified { records: checkpoint.size - start - removed, checkpoint, note, removed, begins_with })
}

const KEY_HINT: &str =
    "is this the log key of that custodian? if it is, somebody forged the checkpoint: keep a copy of it";

/// Checks that the log begins with the one known.
pub(super) fn consistent(source: Source<'_>, known: &Checkpoint, now: &Checkpoint) -> Result<()> {
    let evidence = "keep both checkpoints: they are evidence. Compare with the copies of other auditors";
    if known.size > now.size {
        let why = format!(
            "it has {} records, but {} were signed before: it was cut, or an old copy is in its place",
            now.size, known.size
        );
        return Err(broken(WHAT, why).hint(evidence));
    }
    let mut nodes = nodes(source, now.size);
    let proof = merkle::consistency(known.size, now.size, &mut |node| nodes.hash(node));
    let proof = proof.map_err(|broken| broken.0)?;
    merkle::verify_consistency((known.size, &known.root), (now.size, &now.root), &proof)
        .map_err(|flaw| broken(WHAT, format!("{flaw}: it was rewritten")).hint(evidence))
}

/// The nodes of the log's tree, as the source tells them.
pub(super) fn nodes<'a>(
    source: Source<'a>,
    size: u64,
) -> Nodes<impl FnMut(Tile) -> std::result::Result<Vec<Hash>, Broken> + 'a> {
    Nodes::new(move |tile: Tile| Ok(source.tile(tile, tile.width(size))?))
}

/// An error that a flaw can become.
pub(super) struct Broken(pub(super) Error);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Flaw> for Broken {
    fn from(flaw: Flaw) -> Self {
        Self(broken(WHAT, flaw))
    }
}

/// Two trees that grow side by side: one of the records that are read, one of the hashes that the log's tree has for them.
/// When a record is changed, the second one still leads to what was signed, and tells which record it is.
struct Check {
    of_records: Edge,
    of_hashes: Edge,
    /// Sequence numbers of records that are not what the tree has for them.
    changed: Vec<u64>,
    retention: Retention,
    removed: u64,
}

impl Check {
    /// Begins behind `start` records of a log that has `size`.
    fn new(source: Source<'_>, start: u64, size: u64, retention: Retention) -> Result<Self> {
        // As wide as they are now: narrower ones may be gone.
        let edge = Edge::load(start, |tile| source.tile(tile, tile.width(size)).map_err(Broken));
        let edge = edge.map_err(|broken| broken.0)?;
        Ok(Self { of_records: edge.clone(), of_hashes: edge, changed: Vec::new(), retention, removed: 0 })
    }

    fn bundle(
        &mut self,
        source: Source<'_>,
        index: u64,
        width: usize,
        each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let entries = source.entries(index, width)?;
        let first = index * WIDTH as u64 + 1;
        if entries.len() < width {
            let why = format!("record {} is missing, and it was signed for", first + entries.len() as u64);
            return Err(broken(WHAT, why));
        }
        let hashes = source.tile(Tile { level: 0, index }, width)?;
        if hashes.len() < width {
            let why = format!("the tree has no hash of record {}", first + hashes.len() as u64);
            return Err(broken(WHAT, why));
        }
        let ignore = &mut |_: Tile, _: &[Hash]| Ok::<_, Error>(());
        for (sequence, (entry, hash)) in (first..).zip(entries.iter().zip(hashes)) {
            let bytes = entry;
            if bytes.is_empty() {
                self.payload_is_removed(sequence)?;
                self.of_records.push(hash, ignore)?;
                self.of_hashes.push(hash, ignore)?;
                continue;
            }
            let entry = Hash::of_entry(bytes);
            if entry == hash {
                each(sequence, bytes)?;
            } else {
                self.changed.push(sequence);
            }
            self.of_records.push(entry, ignore)?;
            self.of_hashes.push(hash, ignore)?;
        }
        Ok(())
    }

    /// A record is never empty: its payload is gone. On purpose, if the list says so.
    fn payload_is_removed(&mut self, sequence: u64) -> Result<()> {
        if !self.retention.covers(sequence) {
            let why = format!(
                "the payload of record {sequence} is missing, and no removal is on the folder's retention list"
            );
            return Err(broken(WHAT, why));
        }
        self.removed += 1;
        Ok(())
    }

    fn end(self, checkpoint: &Checkpoint) -> Result<()> {
        if self.of_records.root() == checkpoint.root {
            return match self.changed.as_slice() {
                [] => Ok(()),
                // The records are right, but proofs of them would not be.
                [first, ..] => {
                    let why =
                        format!("the records are right, but the tree has another hash of record {first}");
                    Err(broken(WHAT, why))
                }
            };
        }
        let named: Vec<String> = self.changed.iter().take(MOST_NAMED).map(u64::to_string).collect();
        let more = match self.changed.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let why = if self.changed.is_empty() {
            "records and tree were both changed: they do not lead to what was signed".to_owned()
        } else if self.of_hashes.root() == checkpoint.root {
            format!("these records are not the ones that were logged: {}{more}", named.join(", "))
        } else {
            format!("records or the tree were changed, for these they differ: {}{more}", named.join(", "))
        };
        Err(broken(WHAT, why).hint("keep a copy; a backup or another auditor's export tells what it was"))
    }
}
