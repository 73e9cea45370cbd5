//! Sealing and opening, so and so often: for counting instructions (deploy/instructions.py), not for timing.
//!
//!     cargo bench -p custodian-client --bench instructions -- sealed|mtd TIMES

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{env, fs};

use common::{SoftKey, extract_to, tree};
use custodian_client::{envelope::Format, progress::Silent, seal::seal};

/// What the shared code makes if nothing else is said.
const FORMAT: Format = Format::Sealed;

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [format, times] = &args[..] else { panic!("which format, and how often?") };
    let times: usize = times.parse().expect("a number");
    let format = match format.as_str() {
        "sealed" => Format::Sealed,
        "mtd" => Format::Mtd,
        other => panic!("there is no path {other}"),
    };
    let folder = tempfile::tempdir().expect("folder");
    let (source, envelope, out) =
        (folder.path().join("source"), folder.path().join("envelope"), folder.path().join("out"));
    tree::write(&source.join("large"), &tree::noise(1 << 20));
    (0..16).for_each(|number| tree::write(&source.join(format!("small/{number}")), &tree::noise(4096)));
    let key = SoftKey::new(&[]);
    for _ in 0..times {
        let mut job = common::seal_job(&key, &[source.as_path()], &envelope);
        job.format = format;
        seal(&job, &Silent).expect("sealed");
        extract_to(&key, &envelope, &out).expect("extracted");
        fs::remove_dir_all(&out).expect("removed");
        fs::remove_file(&envelope).expect("removed");
    }
}
