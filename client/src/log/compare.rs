//! Comparing two copies of a log. Both are signed by the same key, so if one does not begin with the other, the log's owner told
//! two people different things, and the two checkpoints prove it.

use std::path::Path;

use custodian_proto::tlog::{Checkpoint, Tile, VerifierKey, merkle, tiles::WIDTH};

use super::{Source, broken, verify::nodes};
use crate::{
    error::Result,
    progress::{self, Progress},
};

/// What fails in here.
const WHAT: &str = "the copies do not fit together";

/// Two copies of one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compared {
    /// The copy with fewer records, or the first one.
    pub shorter: Checkpoint,
    /// The copy that begins with it.
    pub longer: Checkpoint,
}

/// Checks that both copies are signed by `key`, and that one begins with the other.
///
/// # Errors
/// [`Kind::Integrity`](crate::error::Kind::Integrity) if not, with the first record that differs; those of reading.
pub fn compare((one, other): (&Path, &Path), key: &VerifierKey, progress: &dyn Progress) -> Result<Compared> {
    let signed = |folder: &Path| {
        let checkpoint = Checkpoint::open(&Source::Folder(folder).checkpoint()?, key);
        checkpoint.map_err(|flaw| broken(WHAT, format!("the checkpoint in {}: {flaw}", folder.display())))
    };
    let (first, second) = (signed(one)?, signed(other)?);
    let ((shorter, short), (longer, long)) = if first.size <= second.size {
        ((first, one), (second, other))
    } else {
        ((second, other), (first, one))
    };
    // Each copy must be what its own checkpoint says: else it proves nothing.
    for (checkpoint, folder) in [(&shorter, short), (&longer, long)] {
        let mut tree = nodes(Source::Folder(folder), checkpoint.size);
        let root = merkle::root(checkpoint.size, &mut |node| tree.hash(node)).map_err(|broken| broken.0)?;
        if root != checkpoint.root {
            let why = format!("the tree in {} is not the one that its checkpoint is of", folder.display());
            return Err(broken(WHAT, why).hint("custodianctl audit verify tells more of that copy"));
        }
    }
    let mut tree = nodes(Source::Folder(long), longer.size);
    let begins = merkle::root(shorter.size, &mut |node| tree.hash(node)).map_err(|broken| broken.0)?;
    if begins == shorter.root {
        return Ok(Compared { shorter, longer });
    }
    let differs = match first_difference((short, &shorter), (long, &longer), progress)? {
        Some(record) => format!("the first record that differs is {record}"),
        None => "their trees differ above the records".to_owned(),
    };
    let why = format!(
        "{} ({} records) does not begin with {} ({} records), and both are signed by the log: {differs}",
        long.display(),
        longer.size,
        short.display(),
        shorter.size
    );
    Err(broken(WHAT, why).hint("keep both folders: together they prove that the log was forked or rewritten"))
}

/// The number of the first record that both have and that is not the same.
fn first_difference(
    (short, shorter): (&Path, &Checkpoint),
    (long, longer): (&Path, &Checkpoint),
    progress: &dyn Progress,
) -> Result<Option<u64>> {
    for index in 0..shorter.size.div_ceil(WIDTH as u64) {
        progress::check(progress)?;
        let tile = Tile { level: 0, index };
        let ours = Source::Folder(short).tile(tile, tile.width(shorter.size))?;
        let theirs = Source::Folder(long).tile(tile, tile.width(longer.size))?;
        if let Some(place) = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs) {
            return Ok(Some(index * WIDTH as u64 + place as u64 + 1));
        }
    }
    Ok(None)
}
