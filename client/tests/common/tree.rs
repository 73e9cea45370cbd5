//! Folders of files: made, and read back to be compared.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What is under a name: mode and time with the content of a file, the target of a link, or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) mode: u32,
    pub(crate) modified: i64,
    pub(crate) content: Vec<u8>,
}

/// All that is beneath a folder, by relative path.
pub(crate) fn read(folder: &Path) -> BTreeMap<PathBuf, Found> {
    let mut found = BTreeMap::new();
    if folder.exists() {
        read_into(folder, folder, &mut found);
    }
    found
}

fn read_into(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Found>) {
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("entry").path();
        let metadata = path.symlink_metadata().expect("metadata");
        let content = if metadata.is_symlink() {
            path.read_link().expect("link").into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(&path).expect("content")
        } else {
            read_into(root, &path, found);
            Vec::new()
        };
        let name = path.strip_prefix(root).expect("beneath").to_owned();
        found.insert(name, Found { mode: metadata.mode(), modified: metadata.mtime(), content });
    }
}

/// Contents only: what AE-2 itself authenticates.
pub(crate) fn contents(folder: &Path) -> Vec<Vec<u8>> {
    let mut contents: Vec<_> = read(folder).into_values().map(|found| found.content).collect();
    contents.sort();
    contents
}

/// Whether nothing at all is there.
pub(crate) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

pub(crate) fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    fs::write(path, content).expect("written");
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

pub(crate) fn set_modified(path: &Path, seconds: i64) {
    let time = if seconds < 0 {
        std::time::UNIX_EPOCH - std::time::Duration::from_secs(seconds.unsigned_abs())
    } else {
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs())
    };
    fs::File::open(path).and_then(|file| file.set_modified(time)).expect("time");
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    aws_lc_rs::rand::fill(&mut bytes).expect("random");
    bytes
}

/// Text that compresses.
pub(crate) fn text(len: usize) -> Vec<u8> {
    (0..)
        .flat_map(|n: u64| format!("line {n} of a text that compresses well\n").into_bytes())
        .take(len)
        .collect()
}
