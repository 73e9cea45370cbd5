//! A copy of the log that grows, in the layout of C2SP tlog-tiles. What is there is never changed, but the checkpoint, which is
//! replaced by a later one.

use custodian_proto::tlog::{
    Checkpoint, Hash, Tile,
    tiles::{self, Edge, WIDTH, bundle_path},
};

use super::{
    CopyError,
    store::{CHECKPOINT, Store},
};

/// The copy, as far as it is written.
pub(super) struct Growing {
    store: Box<dyn Store>,
    edge: Edge,
    /// The entries of the bundle that is not full, as they stand in its file.
    bundle: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// The narrow bundle written last, if no checkpoint ends with it: it goes when a wider one is there.
    loose: Option<String>,
    /// The checkpoint that is there.
    note: Option<String>,
    /// Entries that were found there, and are ours: they are durable although the edge is not that far yet.
    found: u64,
}

impl Growing {
    /// The copy of a log whose first `found` entries are in it; `edge` is of those up to a full bundle.
    pub(super) fn new(store: Box<dyn Store>, edge: Edge, note: Option<String>, found: u64) -> Self {
        Self { found, store, edge, bundle: Vec::new(), ends: Vec::new(), loose: None, note }
    }

    /// Entries that it is worked up to.
    pub(super) fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Entries that are durable in it.
    pub(super) fn durable(&self) -> u64 {
        self.size().max(self.found)
    }

    /// The checkpoint that is in it.
    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// How many entries there are until the next full bundle.
    pub(super) fn room(&self) -> usize {
        WIDTH - self.ends.len()
    }

    /// Appends entries, at most as many as there is [`room`](Self::room) for.
    pub(super) fn append(&mut self, entries: &[Vec<u8>]) -> Result<(), CopyError> {
        let index = self.size() / WIDTH as u64;
        let hashes: Vec<Hash> = entries.iter().map(|entry| Hash::of_entry(entry)).collect();
        for entry in entries {
            let bundled = tiles::bundle([entry.as_slice()]);
            self.bundle.extend(bundled.map_err(|flaw| CopyError::Ledger(flaw.to_string()))?);
            self.ends.push(self.bundle.len());
        }
        let width = self.ends.len();
        let written = bundle_path(index, width);
        self.store.put(&written, &self.bundle)?;
        if let Some(narrower) = self.loose.take() {
            self.store.remove(&narrower)?;
        }
        if width == WIDTH {
            self.store.remove_narrow(&written)?;
            self.bundle.clear();
            self.ends.clear();
        } else {
            self.loose = Some(written);
        }
        let store = &mut self.store;
        let mut full = |tile: Tile, hashes: &[Hash]| {
            let file = tile.path(WIDTH);
            store.put(&file, &tiles::bytes(hashes))?;
            store.remove_narrow(&file)
        };
        hashes.into_iter().try_for_each(|hash| self.edge.push(hash, &mut full))?;
        self.store.is_still_there()
    }

    /// Puts a checkpoint in the place of the one that is there, with all that somebody needs to check it. Its entries must
    /// have been appended.
    pub(super) fn sign(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<(), CopyError> {
        let size = checkpoint.size;
        let width = Tile { level: 0, index: size / WIDTH as u64 }.width(size);
        if width > 0 && size / WIDTH as u64 == self.size() / WIDTH as u64 {
            let file = bundle_path(size / WIDTH as u64, width);
            self.store.put(&file, &self.bundle[..self.ends[width - 1]])?;
            if self.loose.as_ref() == Some(&file) {
                self.loose = None;
            }
        }
        for (tile, hashes) in self.edge.partial() {
            let width = tile.width(size);
            if let Some(hashes) = hashes.get(..width).filter(|hashes| !hashes.is_empty()) {
                self.store.put(&tile.path(width), &tiles::bytes(hashes))?;
            }
        }
        if self.store.checkpoint()? != self.note {
            let shown = self.store.shown();
            return Err(CopyError::Foreign(format!("{shown}/{CHECKPOINT}: somebody else changed it")));
        }
        self.store.write(CHECKPOINT, note.as_bytes())?;
        self.note = Some(note.to_owned());
        Ok(())
    }
}
