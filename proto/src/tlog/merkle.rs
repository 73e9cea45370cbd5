//! RFC 6962 §2.1: the hashes of a Merkle tree, its root, and proofs about it.
//!
//! A tree is read through a function that gives the hash of a [`Node`]: only perfect subtrees are asked for, and those
//! never change once they are full.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::Flaw;

/// A SHA-256 hash of the tree. Shown as base64, as all the log's formats have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; Self::LEN]);

impl Hash {
    /// In bytes.
    pub const LEN: usize = 32;

    /// The root of the tree without entries.
    pub fn of_empty_tree() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// The hash of an entry: SHA-256 of 0x00 and the entry.
    pub fn of_entry(entry: &[u8]) -> Self {
        Self(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
    }

    /// The hash of two subtrees: SHA-256 of 0x01 and both.
    pub fn of_children(left: &Self, right: &Self) -> Self {
        // One buffer: an update for each part costs more than the copy.
        let mut input = [1; 1 + 2 * Self::LEN];
        input[1..=Self::LEN].copy_from_slice(&left.0);
        input[1 + Self::LEN..].copy_from_slice(&right.0);
        Self(Sha256::digest(input).into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// From exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From base64.
    pub fn from_base64(text: &str) -> Option<Self> {
        Self::from_bytes(&STANDARD.decode(text).ok()?)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A perfect subtree: of `2^level` entries, those from `index * 2^level` on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// 0: an entry.
    pub level: u32,
    /// Its place among those of its level.
    pub index: u64,
}

/// The root of a perfect subtree, from the hashes of the level at its bottom. `None` unless they are a power of two.
pub fn perfect_root(bottom: &[Hash]) -> Option<Hash> {
    if !bottom.len().is_power_of_two() {
        return None;
    }
    let mut row = bottom.to_vec();
    while row.len() > 1 {
        for pair in 0..row.len() / 2 {
            row[pair] = Hash::of_children(&row[2 * pair], &row[2 * pair + 1]);
        }
        row.truncate(row.len() / 2);
    }
    row.pop()
}

/// The root of the tree of the first `size` entries.
///
/// # Errors
/// Those of `read`.
pub fn root<E>(size: u64, read: &mut impl FnMut(Node) -> Result<Hash, E>) -> Result<Hash, E> {
    range(0, size, read)
}

/// The inclusion proof of the entry at `index` in the tree of `size` entries: PATH(m, D\[n\]). `index` must be less than
/// `size`; if it is not, the answer is empty and proves nothing.
///
/// # Errors
/// Those of `read`.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    read: &mut impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while index < size && end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range(middle, end, read)?);
            end = middle;
        } else {
            proof.push(range(start, middle, read)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `new` entries begins with the tree of `old` entries: PROOF(m, D\[n\]). Empty if that needs
/// none (`old` is 0, or `new`), and if `old` is greater.
///
/// # Errors
/// Those of `read`.
pub fn consistency<E>(
    old: u64,
    new: u64,
    read: &mut impl FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range(middle, end, read)?);
            end = middle;
        } else {
            proof.push(range(start, middle, read)?);
            start = middle;
        }
    }
    // The subtree that both have in common at the end; from 0 on it is the old root, which the verifier knows.
    if start > 0 {
        proof.push(range(start, end, read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that `entry` (its hash) is the one at `index` of the tree with this size and root: RFC 9162 §2.1.3.2.
///
/// # Errors
/// [`Flaw::NotIncluded`].
pub fn verify_inclusion(entry: Hash, index: u64, size: u64, root: &Hash, proof: &[Hash]) -> Result<(), Flaw> {
    let wrong = Flaw::NotIncluded(index);
    if index >= size {
        return Err(wrong);
    }
    let (mut at, mut last, mut hash) = (index, size - 1, entry);
    for sibling in proof {
        if last == 0 {
            return Err(wrong);
        }
        if at & 1 == 1 || at == last {
            hash = Hash::of_children(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = Hash::of_children(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last == 0 && hash == *root { Ok(()) } else { Err(wrong) }
}

/// Checks that the tree with the new size and root begins with the one of the old size and root: RFC 9162 §2.1.4.2.
///
/// # Errors
/// [`Flaw::NotConsistent`].
pub fn verify_consistency(
    (old, old_root): (u64, &Hash),
    (new, new_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), Flaw> {
    let holds = match old {
        0 => proof.is_empty() && *old_root == Hash::of_empty_tree(),
        _ if old == new => proof.is_empty() && old_root == new_root,
        _ if old > new => false,
        _ => leads_to_both((old, old_root), (new, new_root), proof),
    };
    if holds { Ok(()) } else { Err(Flaw::NotConsistent { old, new }) }
}

fn leads_to_both((old, old_root): (u64, &Hash), (new, new_root): (u64, &Hash), proof: &[Hash]) -> bool {
    let mut path = proof.iter();
    let seed = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(seed) = seed else { return false };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    let mut steps = 0;
    for sibling in path {
        if last == 0 {
            return false;
        }
        steps += 1;
        if at & 1 == 1 || at == last {
            old_hash = Hash::of_children(sibling, &old_hash);
            new_hash = Hash::of_children(sibling, &new_hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_hash = Hash::of_children(&new_hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    steps > 0 && last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// Where RFC 6962 splits a tree of more than one entry: the largest power of two that is smaller than its size.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// MTH(D\[start:end\]) of a range that splitting makes: a row of ever smaller perfect subtrees.
fn range<E>(start: u64, end: u64, read: &mut impl FnMut(Node) -> Result<Hash, E>) -> Result<Hash, E> {
    let mut subtrees = Vec::new();
    let mut at = start;
    while at < end {
        let level = (end - at).ilog2();
        subtrees.push(read(Node { level, index: at >> level })?);
        at += 1 << level;
    }
    let root = subtrees.into_iter().rev().reduce(|right, left| Hash::of_children(&left, &right));
    Ok(root.unwrap_or_else(Hash::of_empty_tree))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// RFC 6962 §2.1, word by word.
    pub(crate) fn mth(entries: &[Vec<u8>]) -> Hash {
        match entries {
            [] => Hash::of_empty_tree(),
            [entry] => Hash::of_entry(entry),
            _ => {
                let (left, right) = entries.split_at(half(entries.len()));
                Hash::of_children(&mth(left), &mth(right))
            }
        }
    }

    fn half(len: usize) -> usize {
        let mut k = 1;
        while 2 * k < len {
            k *= 2;
        }
        k
    }

    /// RFC 6962 §2.1.1.
    fn path(m: usize, entries: &[Vec<u8>]) -> Vec<Hash> {
        if entries.len() == 1 {
            return Vec::new();
        }
        let (left, right) = entries.split_at(half(entries.len()));
        let (mut proof, other) = if m < left.len() {
            (path(m, left), mth(right))
        } else {
            (path(m - left.len(), right), mth(left))
        };
        proof.push(other);
        proof
    }

    /// RFC 6962 §2.1.2.
    fn subproof(m: usize, entries: &[Vec<u8>], known: bool) -> Vec<Hash> {
        if m == entries.len() {
            return if known { Vec::new() } else { vec![mth(entries)] };
        }
        let (left, right) = entries.split_at(half(entries.len()));
        let (mut proof, other) = if m <= left.len() {
            (subproof(m, left, known), mth(right))
        } else {
            (subproof(m - left.len(), right, false), mth(left))
        };
        proof.push(other);
        proof
    }

    pub(crate) fn entries(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|number| format!("entry {number}").into_bytes()).collect()
    }

    fn reader(entries: &[Vec<u8>]) -> impl FnMut(Node) -> Result<Hash, Infallible> {
        |node| {
            let start = usize::try_from(node.index << node.level).unwrap();
            Ok(mth(&entries[start..start + (1 << node.level)]))
        }
    }

    /// The entries and hashes of Certificate Transparency's reference tree (transparency-dev/merkle, `testonly`).
    const REFERENCE: [(&str, &str); 8] = [
        ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (
            "606162636465666768696a6b6c6d6e6f",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ];

    #[test]
    fn roots_are_those_of_the_reference_tree() {
        let entries: Vec<Vec<u8>> = REFERENCE.iter().map(|(entry, _)| hex::decode(entry).unwrap()).collect();
        for (size, (_, expected)) in (1..).zip(REFERENCE) {
            let root = root(size, &mut reader(&entries)).unwrap();
            assert_eq!(hex::encode(root.as_bytes()), expected, "of {size} entries");
        }
        let empty = root(0, &mut reader(&entries)).unwrap();
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex::encode(empty.as_bytes()), expected);
    }

    #[test]
    fn proofs_are_those_of_rfc_6962_and_verify_for_every_pair_of_sizes() {
        let entries = entries(40);
        let roots: Vec<Hash> = (0..=entries.len()).map(|size| mth(&entries[..size])).collect();
        let mut read = reader(&entries);
        for size in 0..=entries.len() {
            assert_eq!(root(size as u64, &mut read), Ok(roots[size]));
            for index in 0..size {
                let proof = inclusion(index as u64, size as u64, &mut read).unwrap();
                assert_eq!(proof, path(index, &entries[..size]));
                let leaf = Hash::of_entry(&entries[index]);
                verify_inclusion(leaf, index as u64, size as u64, &roots[size], &proof).unwrap();
            }
            for old in 0..=size {
                let proof = consistency(old as u64, size as u64, &mut read).unwrap();
                if old > 0 {
                    assert_eq!(proof, subproof(old, &entries[..size], true), "{old} to {size}");
                }
                let (old, new) = ((old as u64, &roots[old]), (size as u64, &roots[size]));
                verify_consistency(old, new, &proof).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_not_in_the_tree_is_not_proven(
            size in 1_usize..300, seed in any::<u64>(), damage in any::<[u8; 3]>(),
        ) {
            let entries = entries(size);
            let index = (seed % size as u64) as usize;
            let root = mth(&entries);
            let leaf = Hash::of_entry(&entries[index]);
            let proof = inclusion(index as u64, size as u64, &mut reader(&entries)).unwrap();
            let (at, size) = (index as u64, size as u64);
            prop_assert!(verify_inclusion(leaf, at, size, &root, &proof).is_ok());

            let other = Hash::of_entry(b"another");
            prop_assert!(verify_inclusion(other, at, size, &root, &proof).is_err());
            prop_assert!(verify_inclusion(leaf, at, size, &other, &proof).is_err());
            for wrong in [at + 1, at.wrapping_sub(1), at ^ 1, size] {
                prop_assert!(verify_inclusion(leaf, wrong, size, &root, &proof).is_err());
            }
            let longer = [proof.as_slice(), &[other]].concat();
            prop_assert!(verify_inclusion(leaf, at, size, &root, &longer).is_err());
            if let Some(shorter) = proof.len().checked_sub(1) {
                prop_assert!(verify_inclusion(leaf, at, size, &root, &proof[..shorter]).is_err());
                let mut damaged = proof.clone();
                let place = usize::from(damage[0]) % damaged.len();
                damaged[place].0[usize::from(damage[1]) % 32] ^= damage[2].max(1);
                prop_assert!(verify_inclusion(leaf, at, size, &root, &damaged).is_err());
            }
        }

        #[test]
        fn a_log_that_was_rewritten_is_not_consistent(
            new in 2_usize..300, seed in any::<u64>(), changed in any::<u64>(),
        ) {
            let old = 1 + (seed % (new as u64 - 1)) as usize;
            let honest = entries(new);
            let mut forked = honest.clone();
            forked[(changed % old as u64) as usize] = b"changed".to_vec();
            let old_root = mth(&honest[..old]);
            let fork = mth(&forked);
            for proof in [
                consistency(old as u64, new as u64, &mut reader(&forked)).unwrap(),
                consistency(old as u64, new as u64, &mut reader(&honest)).unwrap(),
                Vec::new(),
            ] {
                prop_assert!(
                    verify_consistency((old as u64, &old_root), (new as u64, &fork), &proof).is_err()
                );
            }
            prop_assert!(verify_consistency((new as u64, &fork), (old as u64, &old_root), &[]).is_err());
        }
    }
}
