//! Full disks and folders that cannot be written: a clear message, and nothing is lost or left.

use std::{fs, path::Path, process::Command};

use custodian_client::{Kind, progress::Silent, seal::seal};
use tempfile::TempDir;

use crate::common::{SoftKey, extract_to, seal_job, seal_to, tree};

/// A file system of one megabyte, gone when dropped. `None` if this user may not mount.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = TempDir::new().expect("folder");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left_on_it() {
    let Some(disk) = SmallDisk::mount() else {
        // Said aloud, because then this promise is not tested here.
        eprintln!("not tested: mounting a file system needs root");
        return;
    };
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("source");
    tree::write(&source.join("large"), &tree::noise(3_000_000));
    tree::write(&source.join("small"), &tree::noise(1_000));
    let envelope = folder.path().join("e.mtd");
    seal_to(SoftKey::shared(), &source, &envelope);

    let error = extract_to(SoftKey::shared(), &envelope, disk.0.path()).expect_err("full");
    assert_eq!(error.kind, Kind::Local);
    assert!(error.hint.contains("full"), "{error:?}");
    assert!(tree::is_empty(disk.0.path()));

    let job = seal_job(SoftKey::shared(), &[&source], &disk.0.path().join("e.mtd"));
    let error = seal(&job, &Silent).expect_err("full");
    assert!(error.kind == Kind::Local && error.hint.contains("full"), "{error:?}");
    assert!(tree::is_empty(disk.0.path()));
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_a_key_is_asked_for() {
    let key = SoftKey::new(&[]);
    let folder = TempDir::new().expect("folder");
    let source = folder.path().join("a");
    fs::write(&source, b"a").expect("written");
    let envelope = folder.path().join("e.mtd");
    seal_to(&key, &source, &envelope);
    // /proc takes no new files from anybody; a file is no folder.
    for place in [Path::new("/proc/out"), Path::new("/proc"), source.as_path(), &source.join("below")] {
        let error = extract_to(&key, &envelope, place).expect_err("cannot be written");
        assert_eq!(error.kind, Kind::Local);
        assert!(error.to_string().contains(&*place.to_string_lossy()), "{error}");
    }
    assert_eq!(key.asked(), 0);
}
