//! Retention: payloads of old records leave a copy of the log, and their hashes stay. All proofs go on to hold, and what is
//! gone is told from what is missing.
//!
//! In the folder's file `retention` stands what was removed, when, by whom and why, one JSON object on each line. In a bundle,
//! a removed entry has the length 0, which no record has.

use std::{fs, io, ops::RangeInclusive, path::Path};

use custodian_proto::{
    tlog::{
        Tile, VerifierKey,
        tiles::{self, WIDTH, bundle_path},
    },
    v1,
};
use jiff::Timestamp;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{Part, Source, broken, memory::write_durably, verify};
use crate::{
    error::{Error, Kind, Result},
    progress::{self, Progress},
};

/// The list's name.
const LIST: &str = "retention";

/// The longest list that is read, in bytes.
const MAX_LIST_LEN: u64 = 16 * 1024 * 1024;

/// What fails in here.
const WHAT: &str = "cannot remove payloads from the copy";

/// One removal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Removal {
    /// When it was done.
    pub time: Timestamp,
    /// Who did it, as they said.
    pub by: String,
    /// Why, as they said.
    pub reason: String,
    /// The first record.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// All that was removed from a folder.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Retention {
    /// In the order in which it was done.
    pub removals: Vec<Removal>,
}

impl Retention {
    /// The list of a folder; empty if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(LIST);
        let what = format!("cannot read {}", path.display());
        let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, &what, why);
        match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_LIST_LEN => return Err(cannot(&"it is too long")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(cannot(&error)),
        }
        let text = fs::read_to_string(&path).map_err(|error| cannot(&error))?;
        let removals =
            text.lines().map(|line| serde_json::from_str(line).map_err(|error| broken(&what, error)));
        Ok(Self { removals: removals.collect::<Result<_>>()? })
    }

    /// Whether this record's payload was removed, by the list.
    pub fn covers(&self, sequence: u64) -> bool {
        self.removals.iter().any(|removal| (removal.first..=removal.last).contains(&sequence))
    }
}

/// Removes the payloads of records from before `before`, in whole bundles of 256, from a copy that verifies. Returns what was
/// removed now; `None` if there was nothing to remove.
///
/// # Errors
/// As [`verify`](super::verify): what does not verify is evidence, and stays; those of writing.
pub fn forget(
    folder: &Path,
    key: &VerifierKey,
    before: Timestamp,
    (by, reason): (&str, &str),
    progress: &dyn Progress,
) -> Result<Option<Removal>> {
    let source = Source::Folder(folder);
    let verified = verify(source, key, None, Part::All, progress)?;
    let mut retention = Retention::read(folder)?;
    let nothing =
        tiles::bundle([[].as_slice(); WIDTH]).map_err(|flaw| Error::new(Kind::Local, WHAT, flaw))?;
    let mut old: Option<RangeInclusive<u64>> = None;
    for index in 0..verified.checkpoint.size / WIDTH as u64 {
        progress::check(progress)?;
        let first = index * WIDTH as u64 + 1;
        let last = first + WIDTH as u64 - 1;
        let entries = source.entries(index, WIDTH)?;
        if retention.covers(first) {
            // An earlier run may have been cut off between the list and the bundles.
            if entries.iter().any(|entry| !entry.is_empty()) {
                put(folder, &bundle_path(index, WIDTH), &nothing)?;
            }
            continue;
        }
        // Times need not follow the numbers, but removing ends at the first bundle that is not all old.
        if !entries.iter().all(|entry| is_before(entry, before)) {
            break;
        }
        old = Some(old.map_or(first, |old| *old.start())..=last);
    }
    let Some(old) = old else { return Ok(None) };
    let removal = Removal {
        time: Timestamp::now(),
        by: by.to_owned(),
        reason: reason.to_owned(),
        first: *old.start(),
        last: *old.end(),
    };
    // The list first: what is gone without being on it would be missing.
    retention.removals.push(removal.clone());
    let lines = retention.removals.iter().map(|removal| Ok(serde_json::to_string(removal)? + "\n"));
    let lines: String =
        lines.collect::<serde_json::Result<_>>().map_err(|error| Error::new(Kind::Local, WHAT, error))?;
    put(folder, LIST, lines.as_bytes())?;
    for index in (removal.first - 1) / WIDTH as u64..removal.last / WIDTH as u64 {
        debug_assert_eq!(Tile { level: 0, index }.width(verified.checkpoint.size), WIDTH);
        put(folder, &bundle_path(index, WIDTH), &nothing)?;
    }
    Ok(Some(removal))
}

fn is_before(entry: &[u8], before: Timestamp) -> bool {
    let time = v1::Record::decode(entry).ok().and_then(|record| record.time);
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()).is_some_and(|time| time < before)
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let within = path.parent().unwrap_or(folder);
    write_durably(&path, within, bytes)
        .map_err(|error| Error::new(Kind::Local, format!("cannot write {}", path.display()), error))
}
