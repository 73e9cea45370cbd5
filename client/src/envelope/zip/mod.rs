//! ZIP as far as envelopes need it: PKWARE's APPNOTE 6.3, one file, Zip64, no comments on entries; stored or deflated, in
//! the clear or with WinZip's AE-2.

mod deflate;
mod directory;
mod entry;
mod layout;
mod time;
mod unpack;
mod writer;

pub(super) use deflate::{Deflater, Place};
pub(super) use directory::{Directory, MAX_CIPHER_KEY_LEN};
pub(super) use entry::{Compression, Data};
pub use entry::{Entry, EntryKind};
pub(super) use layout::{AE2_CODE_LEN, AE2_OVERHEAD, Ae2Code, starts_with_local};
pub(super) use unpack::{FileWriter, Inflater, MAX_TARGET_LEN, Unpacker, set_modified};
pub(super) use writer::{Body, NewEntry, Numbers, Sizes, end_of_directory};

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;
    use crate::extract::Limits;

    /// Writes an archive with one large, empty-looking entry into a sparse file.
    fn sparse(size: u64) -> (File, u64) {
        let file = tempfile::tempfile().expect("file");
        let entry = |name: &str, size, sealed_size, body| NewEntry {
            name: name.to_owned(),
            mode: 0o100_644,
            modified: 1_700_000_000,
            size,
            sealed_size,
            body,
            sizes: Sizes::Known,
        };
        let key = entry("KEY", 0, 0, Body::plain(0));
        let large = entry("large", size, size + AE2_OVERHEAD, Body::Sealed(Compression::Stored));
        let small = entry("small", 0, AE2_OVERHEAD, Body::Sealed(Compression::Stored));
        let (mut at, mut directory) = (0, Vec::new());
        for entry in [&key, &large, &small] {
            directory.extend(entry.central_header(at));
            let header = entry.local_header();
            file.write_all_at(&header, at).expect("written");
            at += header.len() as u64 + entry.sealed_size;
        }
        let end = end_of_directory(3, at, directory.len() as u64, b"comment");
        file.write_all_at(&[directory, end].concat(), at).expect("written");
        let len = file.metadata().expect("there").len();
        (file, len)
    }

    #[test]
    fn sizes_and_places_beyond_32_bits_survive() {
        let around = |limit: u64| limit - 3..limit + 3;
        let edges = around(0xf000_0000).chain(around(1 << 32)).chain([(1 << 32) - 200, 1 << 33, 1 << 40]);
        for size in edges {
            let (file, len) = sparse(size);
            let directory = Directory::read_with_first(&file, len, b"KEY", &Limits::default());
            let (directory, _) = directory.expect("reads");
            let [large, small] = directory.entries.as_slice() else { panic!("two entries") };
            assert_eq!((large.size, large.sealed_size), (size, size + AE2_OVERHEAD));
            assert_eq!(small.data.expect("sealed").at, after(large));
            assert_eq!(directory.comment, b"comment");
        }
    }

    /// Where the data of the last entry starts: its header with name, time and AES field follows the large entry.
    fn after(large: &Entry) -> u64 {
        large.data.expect("sealed").at + large.sealed_size + (30 + 5 + 9 + 11)
    }
}
