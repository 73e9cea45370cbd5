//! Where a log is read from: a custodian, or a folder in the layout of C2SP tlog-tiles.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use custodian_proto::tlog::{
    Hash, Tile,
    note::MAX_NOTE_LEN,
    tiles::{self, WIDTH, bundle_path},
};

use super::broken;
use crate::{
    error::{Error, Kind, Result},
    remote::Remote,
};

/// The name of the checkpoint in a folder.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// The longest bundle: 256 entries of the greatest length, each with 2 bytes in front.
const MAX_BUNDLE_LEN: u64 = WIDTH as u64 * (2 + tiles::MAX_ENTRY_LEN as u64);

/// Where a log is read from. Nothing it says is believed before it is checked.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A running custodian.
    Custodian(&'a Remote),
    /// An export.
    Folder(&'a Path),
}

impl Source<'_> {
    /// The newest signed checkpoint.
    pub(super) fn checkpoint(self) -> Result<String> {
        match self {
            Self::Custodian(remote) => remote.checkpoint(),
            Self::Folder(folder) => {
                let bytes = read(&folder.join(CHECKPOINT), MAX_NOTE_LEN as u64)?.ok_or_else(|| {
                    let what = format!("cannot read the log in {}", folder.display());
                    Error::new(Kind::Local, what, "there is no file named checkpoint")
                        .hint("custodianctl audit export makes such a folder")
                })?;
                String::from_utf8(bytes).map_err(|_| broken("cannot read the checkpoint", "it is no text"))
            }
        }
    }

    /// The first `width` hashes of a tile; fewer if there are not so many.
    pub(super) fn tile(self, tile: Tile, width: usize) -> Result<Vec<Hash>> {
        let bytes = match self {
            Self::Custodian(remote) => remote.tile(tile, width)?,
            Self::Folder(folder) => {
                let path = |width| folder.join(tile.path(width));
                let longest = (WIDTH * Hash::LEN) as u64;
                match read(&path(width), longest)? {
                    // A narrow tile may be gone once the full one is there.
                    None if width < WIDTH => read(&path(WIDTH), longest)?,
                    found => found,
                }
            }
        };
        let Some(bytes) = bytes else { return Ok(Vec::new()) };
        let what = format!("cannot read {}", tile.path(width));
        let mut hashes = tiles::hashes(&bytes).map_err(|flaw| broken(&what, flaw))?;
        hashes.truncate(width);
        Ok(hashes)
    }

    /// The first `width` entries of a bundle; fewer if there are not so many.
    pub(super) fn entries(self, index: u64, width: usize) -> Result<Vec<Vec<u8>>> {
        let bytes = match self {
            Self::Custodian(remote) => remote.entries(index, width)?,
            Self::Folder(folder) => {
                let path = |width| folder.join(bundle_path(index, width));
                match read(&path(width), MAX_BUNDLE_LEN)? {
                    None if width < WIDTH => read(&path(WIDTH), MAX_BUNDLE_LEN)?,
                    found => found,
                }
            }
        };
        let Some(bytes) = bytes else { return Ok(Vec::new()) };
        let entries = tiles::unbundle(&bytes);
        let entries =
            entries.map_err(|flaw| broken(&format!("cannot read {}", bundle_path(index, width)), flaw))?;
        Ok(entries.into_iter().take(width).map(<[u8]>::to_vec).collect())
    }
}

/// A file's bytes; `None` if there is none.
fn read(path: &PathBuf, longest: u64) -> Result<Option<Vec<u8>>> {
    let cannot =
        |why: &dyn std::fmt::Display| Error::new(Kind::Local, format!("cannot read {}", path.display()), why);
    match fs::metadata(path) {
        Ok(found) if found.len() > longest => Err(cannot(&"it is too long")),
        Ok(_) => fs::read(path).map(Some).map_err(|why| cannot(&why)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(cannot(&why)),
    }
}
