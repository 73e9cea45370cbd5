//! How fast CMS envelopes are opened and sealed, beside `openssl cms` on the same file in the same run.
//!
//! ```sh
//! cargo run --release -p custodian-client --example bench_cms [FOLDER] [ROUNDS] [MIB]
//! ```
//!
//! FOLDER should be in memory (`/dev/shm`, the default; about four times MIB are needed), so that no disk is measured. Each round
//! runs both programs one after the other; the medians count. A ratio above 1 means that we are faster. The recipient's key
//! is in software here: one RSA operation per envelope, about a millisecond.
//!
//! Needs `openssl`.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    env, fs,
    io::Write,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target, peak_memory};
use common::{SoftKey, extract_job, run, seal_to, tree};
use custodian_client::{envelope::cms::Unauthenticated, extract::extract, progress::Silent};

/// What is measured.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::Cms;

fn main() {
    let mut args = env::args().skip(1);
    let place = args.next().unwrap_or_else(|| "/dev/shm".to_owned());
    let mut number =
        |usual| args.next().map_or(usual, |number| number.parse().expect("ROUNDS and MIB are numbers"));
    let (rounds, mib) = (number(5), number(1024));
    let folder = tempfile::tempdir_in(place).expect("FOLDER can be written");
    let bench = Bench { folder: folder.path().to_owned(), key: SoftKey::new(&[]), rounds };
    let mut file = fs::File::create(bench.path("f")).expect("created");
    // Piece by piece: the peak of memory is to be that of sealing and opening.
    (0..mib).for_each(|_| file.write_all(&tree::noise(1 << 20)).expect("written"));

    let mut rows = Rows::new("cms");
    bench.seal(&mut rows);
    bench.open("ours", &[], &mut rows);
    bench.open("openssl's, GCM", &["-aes-256-gcm"], &mut rows);
    bench.open("openssl's in pieces, GCM", &["-aes-256-gcm", "-stream"], &mut rows);
    bench.open("openssl's, CBC", &["-aes-256-cbc"], &mut rows);
    rows.add(format!("cms, {mib} MiB: most memory"), peak_memory(), "MiB", Target::AtMost(64.0));
    rows.finish();
}

struct Bench {
    folder: PathBuf,
    key: SoftKey,
    rounds: usize,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn seal(&self, rows: &mut Rows) {
        let times = (0..self.rounds).map(|_| {
            let ours = timed(|| {
                seal_to(&self.key, &self.path("f"), &self.path("ours.p7m"));
            });
            fs::remove_file(self.path("ours.p7m")).expect("removed");
            let theirs = timed(|| self.encrypt(&["-aes-256-gcm"]));
            fs::remove_file(self.path("theirs.p7m")).expect("removed");
            (ours, theirs)
        });
        add(rows, "seal", times);
    }

    /// Envelopes that openssl makes with these arguments; ours, if there are none.
    fn open(&self, what: &str, args: &[&str], rows: &mut Rows) {
        let envelope = self.path("theirs.p7m");
        if args.is_empty() {
            seal_to(&self.key, &self.path("f"), &envelope);
        } else {
            self.encrypt(args);
        }
        let (out, plain) = (self.path("out"), self.path("plain"));
        let mut job = extract_job(&envelope, &out);
        job.unauthenticated = Unauthenticated::Allow;
        let times = (0..self.rounds).map(|_| {
            let ours = timed(|| {
                extract(&job, &self.key, &Silent).expect("extracted");
            });
            fs::remove_dir_all(&out).expect("removed");
            let theirs = timed(|| {
                drop(run(Command::new("openssl")
                    .args(["cms", "-decrypt", "-binary", "-inform", "DER", "-in"])
                    .arg(&envelope)
                    .arg("-inkey")
                    .arg(self.key.path("key.pem"))
                    .arg("-recip")
                    .arg(self.key.path("cert.pem"))
                    .arg("-out")
                    .arg(&plain)));
            });
            fs::remove_file(&plain).expect("removed");
            (ours, theirs)
        });
        add(rows, &format!("open {what}"), times);
        fs::remove_file(&envelope).expect("removed");
    }

    fn encrypt(&self, args: &[&str]) {
        run(Command::new("openssl")
            .args([
                "cms",
                "-encrypt",
                "-binary",
                "-keyid",
                "-outform",
                "DER",
                "-in",
                "f",
                "-out",
                "theirs.p7m",
            ])
            .args(args)
            .arg("-recip")
            .arg(self.key.path("cert.pem"))
            .args(["-keyopt", "rsa_padding_mode:oaep"])
            .current_dir(&self.folder));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn add(rows: &mut Rows, what: &str, times: impl Iterator<Item = (Duration, Duration)>) {
    let ratios = Spread::of(times.map(|(ours, theirs)| theirs.as_secs_f64() / ours.as_secs_f64()));
    rows.add(format!("cms: {what}, openssl / ours"), ratios, "ratio", Target::AtLeast(1.0));
}
