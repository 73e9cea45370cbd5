//! Exporting a log in the layout of C2SP tlog-tiles: a copy that others can check with their own tools, and that grows with
//! the log.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use custodian_proto::tlog::{
    Checkpoint, Hash, Tile, VerifierKey, merkle,
    tiles::{self, WIDTH, bundle_path},
};

use super::{
    Source, broken,
    memory::write_file,
    source::CHECKPOINT,
    verify::{consistent, nodes},
};
use crate::{
    error::{Error, Kind, Result},
    progress::{self, Progress},
};

/// What fails in here.
const WHAT: &str = "cannot export the log";

/// What an export added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// What the export has now.
    pub checkpoint: Checkpoint,
    /// The size it had before.
    pub before: u64,
}

/// Brings `folder` up to the newest checkpoint of `source`. What is there already is not read again; what an earlier run
/// did not finish is finished. The checkpoint is written last.
///
/// # Errors
/// [`Kind::Integrity`] if the log is not signed by `key`, does not begin with the one in the folder, or has records that were
/// not logged; then the folder's checkpoint stays.
pub fn export(
    source: Source<'_>,
    folder: &Path,
    key: &VerifierKey,
    progress: &dyn Progress,
) -> Result<Exported> {
    let note = source.checkpoint()?;
    let checkpoint = Checkpoint::open(&note, key).map_err(|flaw| broken(WHAT, flaw))?;
    let there = Source::Folder(folder);
    let before = if folder.join(CHECKPOINT).exists() {
        let before = Checkpoint::open(&there.checkpoint()?, key)
            .map_err(|flaw| broken(WHAT, format!("the checkpoint in {}: {flaw}", folder.display())))?;
        consistent(source, &before, &checkpoint)?;
        before.size
    } else {
        0
    };
    let mut tree = nodes(source, checkpoint.size);
    let root = merkle::root(checkpoint.size, &mut |node| tree.hash(node)).map_err(|broken| broken.0)?;
    if root != checkpoint.root {
        return Err(broken(WHAT, "the tree of the log is not the one that was signed"));
    }
    let first_new = before / WIDTH as u64;
    progress.total(checkpoint.size - before);
    for tile in Tile::all(checkpoint.size) {
        progress::check(progress)?;
        let width = tile.width(checkpoint.size);
        let path = folder.join(tile.path(width));
        // The level below has been compared hash by hash; this one follows from it.
        if tile.level > 0 {
            if !path.exists() {
                let hashes = source.tile(tile, width)?;
                write(&path, &tiles::bytes(&hashes))?;
            }
        } else if tile.index >= first_new {
            export_bundle(source, folder, tile, width)?;
            progress.advance(width as u64);
        }
        if width == WIDTH {
            remove_partial(folder, tile)?;
        }
    }
    // Cheap, and it finds a source that told other tiles than those its root is of.
    let mut tree = nodes(there, checkpoint.size);
    let root = merkle::root(checkpoint.size, &mut |node| tree.hash(node)).map_err(|broken| broken.0)?;
    if root != checkpoint.root {
        return Err(broken(WHAT, "the exported tree is not the one that was signed"));
    }
    write(&folder.join(CHECKPOINT), note.as_bytes())?;
    Ok(Exported { checkpoint, before })
}

/// Entries and their hashes, which must fit.
fn export_bundle(source: Source<'_>, folder: &Path, tile: Tile, width: usize) -> Result<()> {
    let (hashes_path, entries_path) =
        (folder.join(tile.path(width)), folder.join(bundle_path(tile.index, width)));
    if width == WIDTH && hashes_path.exists() && entries_path.exists() {
        return Ok(());
    }
    let entries = source.entries(tile.index, width)?;
    let hashes = source.tile(tile, width)?;
    let first = tile.index * WIDTH as u64 + 1;
    let differs = entries.iter().zip(&hashes).position(|(entry, hash)| Hash::of_entry(entry) != *hash);
    let differs = differs.or_else(|| Some(entries.len().min(hashes.len())).filter(|len| *len < width));
    if let Some(place) = differs {
        let why = format!("record {} is missing, or not the one that was logged", first + place as u64);
        return Err(broken(WHAT, why).hint("custodianctl audit verify tells more"));
    }
    let bundle = tiles::bundle(entries.iter().map(Vec::as_slice)).map_err(|flaw| broken(WHAT, flaw))?;
    write(&entries_path, &bundle)?;
    write(&hashes_path, &tiles::bytes(&hashes))
}

/// Narrow tiles and bundles whose full ones are there.
fn remove_partial(folder: &Path, tile: Tile) -> Result<()> {
    let mut full = vec![folder.join(tile.path(WIDTH))];
    if tile.level == 0 {
        full.push(folder.join(bundle_path(tile.index, WIDTH)));
    }
    for full in full {
        let mut partial = full.into_os_string();
        partial.push(".p");
        let partial = PathBuf::from(partial);
        match fs::remove_dir_all(&partial) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                let what = format!("cannot remove {}", partial.display());
                return Err(Error::new(Kind::Local, what, why));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot = |why: io::Error| Error::new(Kind::Local, format!("cannot write {}", path.display()), why);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(cannot)?;
    write_file(path, folder, bytes).map_err(cannot)
}
