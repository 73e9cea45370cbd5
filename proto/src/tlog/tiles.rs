//! C2SP tlog-tiles: a tree cut into tiles of 256 hashes, and its entries in bundles of as many.

use super::{
    Flaw, Hash, malformed,
    merkle::{self, Node, perfect_root},
    nodes::Nodes,
};

/// Hashes in a full tile, and entries in a full bundle.
pub const WIDTH: usize = 256;

/// Levels of the tree that one level of tiles spans.
pub(super) const HEIGHT: u32 = WIDTH.ilog2();

/// The longest entry that a bundle can hold, in bytes.
pub const MAX_ENTRY_LEN: usize = u16::MAX as usize;

/// A tile: up to 256 hashes beside each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tile {
    /// 0: hashes of entries. Above: each hash is the root of a full tile of the level below.
    pub level: u8,
    /// Its place among the tiles of its level.
    pub index: u64,
}

impl Tile {
    /// How many hashes it has in a tree of this size: 0 to 256.
    pub fn width(self, size: u64) -> usize {
        let hashes = size.checked_shr(HEIGHT * u32::from(self.level)).unwrap_or(0);
        let before = self.index.saturating_mul(WIDTH as u64);
        usize::try_from(hashes.saturating_sub(before)).map_or(WIDTH, |width| width.min(WIDTH))
    }

    /// All tiles of a tree of this size, level by level.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let levels = (0..8_u8).take_while(move |level| Self { level: *level, index: 0 }.width(size) > 0);
        levels.flat_map(move |level| {
            let hashes = size >> (HEIGHT * u32::from(level));
            (0..hashes.div_ceil(WIDTH as u64)).map(move |index| Self { level, index })
        })
    }

    /// Its path beneath the log's prefix: `tile/0/x001/x234/067.p/5`.
    pub fn path(self, width: usize) -> String {
        format!("tile/{}/{}", self.level, numbered(self.index, width))
    }

    /// The tile with this node in it.
    pub(super) fn with(node: Node) -> Self {
        let index = node.index >> (HEIGHT - node.level % HEIGHT);
        Self { level: u8::try_from(node.level / HEIGHT).unwrap_or(u8::MAX), index }
    }
}

/// The path of a bundle of entries beneath the log's prefix: `tile/entries/x001/x234/067`.
pub fn bundle_path(index: u64, width: usize) -> String {
    format!("tile/entries/{}", numbered(index, width))
}

fn numbered(index: u64, width: usize) -> String {
    let mut path = format!("{:03}", index % 1_000);
    let mut rest = index / 1_000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1_000);
        rest /= 1_000;
    }
    if width < WIDTH { format!("{path}.p/{width}") } else { path }
}

/// The hashes of a tile, from its bytes.
///
/// # Errors
/// If they are not 1 to 256 hashes.
pub fn hashes(bytes: &[u8]) -> Result<Vec<Hash>, Flaw> {
    let (hashes, rest) = bytes.as_chunks::<{ Hash::LEN }>();
    if !rest.is_empty() || !(1..=WIDTH).contains(&hashes.len()) {
        return Err(malformed(format!("a tile of {} bytes is no tile", bytes.len())));
    }
    Ok(hashes.iter().filter_map(|hash| Hash::from_bytes(hash)).collect())
}

/// The bytes of a tile.
pub fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// A bundle of entries: each with its length in front, 16 bits, big-endian.
///
/// # Errors
/// If an entry is too long.
pub fn bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Flaw> {
    let mut bytes = Vec::new();
    for entry in entries {
        let len = u16::try_from(entry.len())
            .map_err(|_| malformed(format!("an entry of {} bytes is too long", entry.len())))?;
        bytes.extend(len.to_be_bytes());
        bytes.extend(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle.
///
/// # Errors
/// If its lengths do not fit together, or there are more than 256.
pub fn unbundle(mut bytes: &[u8]) -> Result<Vec<&[u8]>, Flaw> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let split = bytes.split_first_chunk::<2>();
        let split = split.and_then(|(len, rest)| rest.split_at_checked(u16::from_be_bytes(*len).into()));
        let Some((entry, rest)) = split.filter(|_| entries.len() < WIDTH) else {
            return Err(malformed("a bundle of entries ends in the middle of one, or has too many"));
        };
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

/// The right edge of a growing tree: the last tile of each level, which is not full.
#[derive(Clone, Default, Debug)]
pub struct Edge {
    size: u64,
    partial: Vec<Vec<Hash>>,
}

impl Edge {
    /// That of a tree of this size, from its tiles.
    ///
    /// # Errors
    /// Those of `load`; a tile that has not as many hashes as it must have.
    pub fn load<E: From<Flaw>>(
        size: u64,
        mut load: impl FnMut(Tile) -> Result<Vec<Hash>, E>,
    ) -> Result<Self, E> {
        let mut partial = Vec::new();
        for level in 0..8 {
            let hashes = size >> (HEIGHT * u32::from(level));
            if hashes == 0 {
                break;
            }
            let tile = Tile { level, index: hashes / WIDTH as u64 };
            let width = tile.width(size);
            let mut found = if width == 0 { Vec::new() } else { load(tile)? };
            if found.len() < width {
                return Err(malformed(format!("the tile {} has too few hashes", tile.path(width))).into());
            }
            found.truncate(width);
            partial.push(found);
        }
        Ok(Self { size, partial })
    }

    /// Entries in the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry's hash. Tiles that it fills go to `full`, and are no longer part of the edge.
    ///
    /// # Errors
    /// Those of `full`.
    pub fn push<E>(
        &mut self,
        entry: Hash,
        full: &mut impl FnMut(Tile, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.size += 1;
        let mut hash = entry;
        for level in 0_u8.. {
            if self.partial.len() == usize::from(level) {
                self.partial.push(Vec::with_capacity(WIDTH));
            }
            let hashes = &mut self.partial[usize::from(level)];
            hashes.push(hash);
            if hashes.len() < WIDTH {
                break;
            }
            let index = (self.size >> (HEIGHT * (u32::from(level) + 1))) - 1;
            full(Tile { level, index }, hashes)?;
            let Some(root) = perfect_root(hashes) else { break };
            hashes.clear();
            hash = root;
        }
        Ok(())
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let mut nodes = Nodes::new(|tile: Tile| {
            Ok::<_, Flaw>(self.partial.get(usize::from(tile.level)).cloned().unwrap_or_default())
        });
        // All that the root of a tree is made of is in the edge, or in the tiles' roots above it.
        merkle::root(self.size, &mut |node| nodes.hash(node)).unwrap_or_else(|_| Hash::of_empty_tree())
    }

    /// The tiles that are begun and not full.
    pub fn partial(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        let begun = (0_u8..).zip(&self.partial).filter(|(_, hashes)| !hashes.is_empty());
        begun.map(|(level, hashes)| {
            let index = self.size >> (HEIGHT * (u32::from(level) + 1));
            (Tile { level, index }, hashes.as_slice())
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn tile(level: u8, index: u64) -> Tile {
        Tile { level, index }
    }

    #[test]
    fn tiles_are_those_of_the_specifications_examples() {
        // "a tree of size 70,000 will be represented by …"
        let widths = |level| {
            let tiles = Tile::all(70_000).filter(move |tile| tile.level == level);
            tiles.map(|tile| tile.width(70_000)).collect::<Vec<_>>()
        };
        assert_eq!(widths(0), [vec![256; 273], vec![112]].concat());
        assert_eq!(widths(1), [256, 17]);
        assert_eq!(widths(2), [1]);
        assert_eq!(Tile::all(70_000).count(), 274 + 2 + 1);
        assert_eq!(Tile::all(256).map(|tile| tile.width(256)).collect::<Vec<_>>(), [256, 1]);
        assert_eq!(Tile::all(0).count(), 0);
        assert_eq!(tile(0, 1_234_067).path(256), "tile/0/x001/x234/067");
        assert_eq!(tile(3, 5).path(7), "tile/3/005.p/7");
        assert_eq!(bundle_path(1_000, 256), "tile/entries/x001/000");
        assert_eq!(bundle_path(0, 1), "tile/entries/000.p/1");
    }

    #[test]
    fn bundles_give_their_entries_back_and_nothing_else_is_one() {
        let entries: [&[u8]; 3] = [b"", b"a", &[7; MAX_ENTRY_LEN]];
        let bundled = bundle(entries).unwrap();
        assert_eq!(bundled[..5], [0, 0, 0, 1, b'a']);
        assert_eq!(unbundle(&bundled).unwrap(), entries);
        assert!(bundle([[0; MAX_ENTRY_LEN + 1].as_slice()]).is_err());
        for wrong in [&[0][..], &[0, 2, 1], &[0; 2 * 257]] {
            assert!(unbundle(wrong).is_err(), "{wrong:?}");
        }
        assert!(hashes(&[]).is_err() && hashes(&[0; 33]).is_err() && hashes(&[0; 32 * 257]).is_err());
    }

    /// Grows a tree to this size, and keeps its tiles as a store would.
    pub(in crate::tlog) fn grow(
        entries: &[Vec<u8>],
        mut at_size: impl FnMut(u64, &BTreeMap<Tile, Vec<Hash>>),
    ) {
        let mut store: BTreeMap<Tile, Vec<Hash>> = BTreeMap::new();
        let mut edge = Edge::default();
        for (size, entry) in (1..).zip(entries) {
            let keep = &mut |tile: Tile, hashes: &[Hash]| -> Result<(), Flaw> {
                store.insert(tile, hashes.to_vec());
                Ok(())
            };
            edge.push(Hash::of_entry(entry), keep).unwrap();
            store.extend(edge.partial().map(|(tile, hashes)| (tile, hashes.to_vec())));
            at_size(size, &store);
            if size % 7 == 0 || size % 256 < 2 {
                assert_eq!(edge.root(), merkle::tests::mth(&entries[..size as usize]), "{size}");
            }
            // A restart finds the same edge.
            edge = Edge::load(size, |tile| Ok::<_, Flaw>(store[&tile].clone())).unwrap();
            assert_eq!(edge.size(), size);
        }
    }

    #[test]
    fn a_tree_that_grows_tile_by_tile_has_the_roots_of_rfc_6962() {
        let entries = merkle::tests::entries(700);
        grow(&entries, |size, store| {
            for tile in Tile::all(size) {
                assert_eq!(store[&tile].len(), tile.width(size), "{tile:?} at {size}");
            }
            if size % 13 == 0 || size % 256 < 2 {
                let mut nodes = Nodes::new(|tile| Ok::<_, Flaw>(store[&tile].clone()));
                let root = merkle::root(size, &mut |node| nodes.hash(node)).unwrap();
                assert_eq!(root, merkle::tests::mth(&entries[..size as usize]), "{size}");
            }
        });
    }

    #[test]
    fn proofs_reach_over_the_borders_of_tiles() {
        let entries = merkle::tests::entries(700);
        grow(&entries, |size, store| {
            if ![255, 256, 257, 511, 600, 700].contains(&size) {
                return;
            }
            let mut nodes = Nodes::new(|tile| Ok::<_, Flaw>(store[&tile].clone()));
            let read = &mut |node| nodes.hash(node);
            let root = merkle::root(size, read).unwrap();
            for index in (0..size).step_by(37) {
                let proof = merkle::inclusion(index, size, read).unwrap();
                let entry = Hash::of_entry(&entries[index as usize]);
                merkle::verify_inclusion(entry, index, size, &root, &proof).unwrap();
                let old_root = merkle::root(index, read).unwrap();
                let proof = merkle::consistency(index, size, read).unwrap();
                merkle::verify_consistency((index, &old_root), (size, &root), &proof).unwrap();
            }
        });
    }

    #[test]
    fn a_store_that_lost_hashes_is_noticed() {
        let short = |_| Ok::<_, Flaw>(vec![Hash::of_entry(b"one")]);
        assert!(Edge::load(2, short).is_err());
        assert!(Nodes::new(short).hash(Node { level: 1, index: 0 }).is_err());
    }
}
