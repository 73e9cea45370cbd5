//! The Merkle tree over the log (RFC 6962), kept as the tiles of C2SP tlog-tiles.
//!
//! Entry `n` of the tree is the record of sequence number `n + 1`. The tiles are written in the transaction that writes
//! the records.

use custodian_proto::tlog::{
    Flaw, Hash, Tile, merkle,
    nodes::{Nodes, Subtrees},
    tiles::{self, Edge, WIDTH},
};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::OpenError;
use crate::ledger::{Included, LedgerError, TreeHead};

/// Why the tree cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    /// The database did not do it.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// It is not as it must be.
    #[error("{0}")]
    Broken(String),
}

/// The right edge of the tree.
///
/// # Errors
/// If there are more or fewer entries in the tree than records.
pub(super) fn edge(connection: &Connection) -> Result<Edge, TreeError> {
    let records = records(connection)?;
    let entries = size(connection)?;
    if records != entries {
        return Err(TreeError::Broken(format!(
            "the log has {records} records, but its tree has {entries}: somebody changed the file"
        )));
    }
    Edge::load(records, |tile| hashes(connection, tile))
}

/// Appends entries to the tree. The edge is not to be used any more if this fails, or if the transaction does.
pub(super) fn append(tx: &Connection, edge: &mut Edge, entries: &[Hash]) -> Result<(), TreeError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut keep = |tile: Tile, hashes: &[Hash]| -> Result<(), TreeError> {
        let mut insert =
            tx.prepare_cached("INSERT OR REPLACE INTO tiles (level, idx, hashes) VALUES (?, ?, ?)")?;
        insert.execute(params![tile.level, tile.index.cast_signed(), tiles::bytes(hashes)])?;
        Ok(())
    };
    let filled = edge.size() % WIDTH as u64 + entries.len() as u64 >= WIDTH as u64;
    for entry in entries {
        edge.push(*entry, &mut keep)?;
    }
    // The levels above change only when a tile below is full.
    let begun = edge.partial().filter(|(tile, _)| tile.level == 0 || filled);
    for (tile, hashes) in begun {
        keep(tile, hashes)?;
    }
    Ok(())
}

/// Builds the tree of a log that has none yet.
pub(super) fn build(tx: &Connection) -> Result<(), TreeError> {
    let mut edge = Edge::default();
    let mut records = tx.prepare("SELECT entry FROM records ORDER BY seq")?;
    let mut records = records.query([])?;
    let mut leaves = Vec::new();
    while let Some(row) = records.next()? {
        leaves.push(Hash::of_entry(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?));
        if leaves.len() == WIDTH {
            append(tx, &mut edge, &leaves)?;
            leaves.clear();
        }
    }
    append(tx, &mut edge, &leaves)
}

/// The root of the first `size` entries, or of all, from one state of the ledger.
pub(super) fn head(connection: &Connection, size: Option<u64>) -> Result<TreeHead, TreeError> {
    head_within(&*connection.unchecked_transaction()?, size)
}

/// The same within a transaction that there is already, or where nobody writes.
pub(super) fn head_within(connection: &Connection, size: Option<u64>) -> Result<TreeHead, TreeError> {
    let size = match size {
        Some(size) => size,
        None => records(connection)?,
    };
    let mut nodes = Nodes::new(|tile| hashes(connection, tile));
    let root = merkle::root(size, &mut |node| nodes.hash(node))?;
    Ok(TreeHead { size, root })
}

/// The entry at `index`, and the proof that it is among the first `size` ones. `None` if there is none.
///
/// The receipts of one checkpoint share most of their proofs: what was hashed for one serves the others. The entry is always
/// read from the log, so a proof from before shows that somebody changed it. That a tile was changed shows elsewhere: at the
/// next checkpoint, or in an audit.
pub(super) fn inclusion(
    connection: &Connection,
    subtrees: &mut Subtrees,
    index: u64,
    size: u64,
) -> Result<Option<Included>, TreeError> {
    let Some(entry) = entries(connection, index, 1)?.pop() else { return Ok(None) };
    let mut node = |node| subtrees.hash(node, |tile| hashes(connection, tile));
    let proof = merkle::inclusion(index, size, &mut node)?;
    Ok(Some(Included { entry, proof }))
}

/// The proof that the tree of the first `new` entries begins with that of the first `old` ones.
pub(super) fn consistency(connection: &Connection, old: u64, new: u64) -> Result<Vec<Hash>, TreeError> {
    let state = connection.unchecked_transaction()?;
    let mut nodes = Nodes::new(|tile| hashes(&state, tile));
    merkle::consistency(old, new, &mut |node| nodes.hash(node))
}

/// The hashes of a tile, as many as there are. Empty if there are none.
pub(super) fn hashes(connection: &Connection, tile: Tile) -> Result<Vec<Hash>, TreeError> {
    let mut select = connection.prepare_cached("SELECT hashes FROM tiles WHERE level = ? AND idx = ?")?;
    let found = select
        .query_row(params![tile.level, tile.index.cast_signed()], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    found.map_or(Ok(Vec::new()), |bytes| Ok(tiles::hashes(&bytes)?))
}

/// The bytes of entries, from the one at `first` on, at most `count`. Ends where one is missing.
pub(super) fn entries(connection: &Connection, first: u64, count: u32) -> rusqlite::Result<Vec<Vec<u8>>> {
    let sql = "SELECT seq, entry FROM records WHERE seq > ? ORDER BY seq LIMIT ?";
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map(params![first.cast_signed(), count], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut entries = Vec::new();
    for (row, expected) in rows.zip(first + 1..) {
        let (sequence, entry): (i64, Vec<u8>) = row?;
        if sequence.unsigned_abs() != expected {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The number of the last record.
pub(super) fn records(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(seq), 0) FROM records";
    let last: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(last.unsigned_abs())
}

/// Entries in the tree, by its last tile.
fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT idx, length(hashes) FROM tiles WHERE level = 0 ORDER BY idx DESC LIMIT 1";
    let last = connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    Ok(last.optional()?.map_or(0, |(index, bytes)| {
        index.unsigned_abs() * WIDTH as u64 + bytes.unsigned_abs() / Hash::LEN as u64
    }))
}

impl From<Flaw> for TreeError {
    fn from(flaw: Flaw) -> Self {
        Self::Broken(format!("the log's tree is damaged: {flaw}"))
    }
}

impl From<TreeError> for LedgerError {
    fn from(error: TreeError) -> Self {
        Self(error.to_string())
    }
}

impl From<TreeError> for OpenError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Sqlite(error) => error.into(),
            TreeError::Broken(why) => Self::Damaged(why),
        }
    }
}
