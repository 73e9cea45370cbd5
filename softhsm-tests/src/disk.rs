//! A disk that fails as it is told: the custodian runs with `faulty-disk` preloaded.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use faulty_disk::Fault;
use tempfile::TempDir;

use crate::{faults::library, programs::bin};

/// What tells the disk under one custodian's ledger what to do.
pub struct Disk {
    control: PathBuf,
}

impl Disk {
    /// The command for a `custodian dev` in this folder whose ledger is on such a disk.
    pub fn under(folder: &TempDir) -> (Self, Command) {
        let dev = folder.path().join("dev");
        let control = folder.path().join("disk");
        let mut command = Command::new(bin("custodian"));
        command.arg("dev").arg("--dir").arg(&dev);
        command.env("LD_PRELOAD", library("faulty_disk"));
        command.env(faulty_disk::CONTROL, &control).env(faulty_disk::FILES, ledger(&dev));
        (Self { control }, command)
    }

    /// This goes wrong from now on.
    pub fn fails(&self, fault: Fault) {
        self.write(fault.name());
    }

    /// Nothing goes wrong from now on.
    pub fn works(&self) {
        self.write("");
    }

    /// Put into place at once: half a name would be no fault.
    fn write(&self, text: &str) {
        let new = self.control.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.control).unwrap();
    }
}

/// The beginning of the paths of the ledger's files.
fn ledger(dev: &Path) -> PathBuf {
    // As the kernel names them.
    dev.parent().unwrap().canonicalize().unwrap().join("dev/ledger.db")
}
