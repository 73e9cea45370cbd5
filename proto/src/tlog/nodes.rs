//! The nodes of a tree, from its tiles.

use std::collections::HashMap;

use super::{
    Flaw, Hash, Tile, malformed,
    merkle::Node,
    tiles::{HEIGHT, WIDTH},
};

/// A tree's nodes, from its tiles. Few tiles are loaded more than once.
pub struct Nodes<L> {
    load: L,
    subtrees: Subtrees,
}

impl<E: From<Flaw>, L: FnMut(Tile) -> Result<Vec<Hash>, E>> Nodes<L> {
    /// `load` gives the hashes of a tile: at least those that the tree of the size asked about has.
    pub fn new(load: L) -> Self {
        Self { load, subtrees: Subtrees::default() }
    }

    /// The hash of a node.
    ///
    /// # Errors
    /// Those of `load`, and a tile that is too narrow.
    pub fn hash(&mut self, node: Node) -> Result<Hash, E> {
        self.subtrees.hash(node, &mut self.load)
    }
}

/// Nodes of tiles, kept from one question to the next: a perfect subtree never changes, however much the tree grows. At most
/// 64 tiles, about 1 MiB; one more, and all are forgotten.
#[derive(Default, Debug)]
pub struct Subtrees {
    tiles: HashMap<Tile, Rows>,
}

/// The hashes of a tile, and above them the nodes of each level within it.
type Rows = [Vec<Hash>; HEIGHT as usize];

impl Subtrees {
    const MOST: usize = 64;

    /// The hash of a node. `load` gives the hashes of a tile, and is asked if this node is not known yet.
    ///
    /// # Errors
    /// Those of `load`, and a tile that is too narrow.
    pub fn hash<E: From<Flaw>>(
        &mut self,
        node: Node,
        mut load: impl FnMut(Tile) -> Result<Vec<Hash>, E>,
    ) -> Result<Hash, E> {
        let tile = Tile::with(node);
        let row = (node.level % HEIGHT) as usize;
        let place = (node.index % (WIDTH as u64 >> row)) as usize;
        if let Some(hash) = self.tiles.get(&tile).and_then(|rows| rows[row].get(place)) {
            return Ok(*hash);
        }
        let hashes = load(tile)?;
        if self.tiles.len() >= Self::MOST {
            self.tiles.clear();
        }
        let rows = self.tiles.entry(tile).or_default();
        grow(rows, hashes);
        let hash = rows[row].get(place).copied();
        hash.ok_or_else(|| malformed(format!("the tile {} has too few hashes", tile.path(WIDTH))).into())
    }
}

/// Hashes what the tile has more than before.
fn grow(rows: &mut Rows, hashes: Vec<Hash>) {
    if !hashes.starts_with(&rows[0]) {
        *rows = Rows::default();
    }
    rows[0] = hashes;
    for above in 1..rows.len() {
        let (below, row) = (&rows[above - 1], &rows[above]);
        let pairs = below.as_chunks::<2>().0;
        let more: Vec<_> =
            pairs[row.len()..].iter().map(|[left, right]| Hash::of_children(left, right)).collect();
        rows[above].extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::{merkle, tiles};

    #[test]
    fn subtrees_that_are_kept_serve_a_tree_that_grows() {
        let entries = merkle::tests::entries(700);
        let mut subtrees = Subtrees::default();
        let (mut loads, mut asked) = (0, 0);
        tiles::tests::grow(&entries, |size, store| {
            let read = &mut |node| {
                asked += 1;
                subtrees.hash(node, |tile| {
                    loads += 1;
                    Ok::<_, Flaw>(store[&tile].clone())
                })
            };
            let root = merkle::root(size, read).unwrap();
            for index in [0, size / 2, size - 1] {
                let proof = merkle::inclusion(index, size, read).unwrap();
                let entry = Hash::of_entry(&entries[index as usize]);
                merkle::verify_inclusion(entry, index, size, &root, &proof).unwrap();
            }
        });
        // Of a tile of entries each one, and of the tile of their roots each.
        assert!((700..750).contains(&loads) && asked > 20 * loads, "{loads} of {asked}");
    }

    #[test]
    fn subtrees_of_another_tile_do_not_stay() {
        let [one, two, three] = [b"1", b"2", b"3"].map(|entry| Hash::of_entry(entry));
        let mut subtrees = Subtrees::default();
        let mut hash = |level, index, tile: &[Hash]| {
            subtrees.hash(Node { level, index }, |_| Ok::<_, Flaw>(tile.to_vec()))
        };
        assert_eq!(hash(1, 0, &[one, two]).unwrap(), Hash::of_children(&one, &two));
        // Asked for what it did not have, it sees that the rest is not what it was.
        assert_eq!(hash(0, 2, &[two, one, three]).unwrap(), three);
        assert_eq!(hash(1, 0, &[]).unwrap(), Hash::of_children(&two, &one));
        // And a tile that lost some has them no more.
        assert!(hash(0, 3, &[two, one]).is_err());
        assert!(hash(0, 2, &[two, one]).is_err());
    }
}
