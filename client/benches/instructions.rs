//! Sealing and opening, so and so often: for counting instructions (deploy/instructions.py), not for timing.
//!
//!     cargo bench -p custodian-client --bench instructions -- sealed TIMES

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{env, fs};

use common::{SoftKey, extract_to, tree};
use custodian_client::envelope::Format;

/// What the shared code makes.
const FORMAT: Format = Format::Sealed;

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [path, times] = &args[..] else { panic!("which path, and how often?") };
    assert_eq!(path, "sealed", "there is no other");
    let times: usize = times.parse().expect("a number");
    let folder = tempfile::tempdir().expect("folder");
    let (source, envelope, out) =
        (folder.path().join("source"), folder.path().join("envelope"), folder.path().join("out"));
    tree::write(&source.join("large"), &tree::noise(1 << 20));
    (0..16).for_each(|number| tree::write(&source.join(format!("small/{number}")), &tree::noise(4096)));
    let key = SoftKey::new(&[]);
    for _ in 0..times {
        common::seal_to(&key, &source, &envelope);
        extract_to(&key, &envelope, &out).expect("extracted");
        fs::remove_dir_all(&out).expect("removed");
        fs::remove_file(&envelope).expect("removed");
    }
}
