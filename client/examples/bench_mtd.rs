//! How fast MTD envelopes are opened and sealed, beside 7z on the same files in the same run.
//!
//! ```sh
//! cargo run --release -p custodian-client --example bench_mtd [FOLDER] [ROUNDS] [WORD]
//! ```
//!
//! With WORD only the cases that have it in their name are run: `stored`, `files`, `deflated`. FOLDER should be in memory (`/dev/shm`, the default; about 4 GiB are needed), so that no disk is measured. Each round runs
//! both programs one after the other; the medians of the rounds' ratios count. A ratio above 1 means that we are faster. The seconds of processor time
//! tell how far to trust the ratio: they stay the same when other programs take our cores. The recipient's key is in
//! software here: one RSA operation per envelope, about a millisecond.
//!
//! Needs `openssl` and `7z`.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target};
use common::{SoftKey, extract_to, run, seal_to, tree};

/// What is measured.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::Mtd;

fn main() {
    let mut args = env::args().skip(1);
    let place = args.next().unwrap_or_else(|| "/dev/shm".to_owned());
    let rounds = args.next().map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let word = args.next().unwrap_or_default();
    let folder = tempfile::tempdir_in(place).expect("FOLDER can be written");
    let bench = Bench { folder: folder.path().to_owned(), key: SoftKey::new(&[]), rounds };

    let mut rows = Rows::new("mtd");
    let large = |source: &Path| tree::write(&source.join("1 GiB"), &tree::noise(1 << 30));
    let many = |source: &Path| {
        (0..10_000).for_each(|n| tree::write(&source.join(format!("{}/{n}", n % 100)), &tree::noise(4096)));
    };
    let text = |source: &Path| tree::write(&source.join("256 MiB"), &tree::text(256 << 20));
    let cases = [
        ("one stored entry of 1 GiB", large as fn(&Path)),
        ("10,000 files of 4 KiB", many),
        ("one deflated entry of 256 MiB", text),
    ];
    for (what, make) in cases.into_iter().filter(|(what, _)| what.contains(&word)) {
        let source = folder.path().join("source");
        make(&source);
        bench.compare(what, &source, &mut rows);
        fs::remove_dir_all(source).expect("removed");
    }
    rows.finish();
}

struct Bench {
    folder: PathBuf,
    key: SoftKey,
    rounds: usize,
}

impl Bench {
    fn compare(&self, what: &str, source: &Path, rows: &mut Rows) {
        let (envelope, out) = (self.folder.join("e.mtd"), self.folder.join("out"));
        let mut sealing = Times::default();
        let mut extracting = Times::default();
        for _ in 0..self.rounds {
            sealing.ours.push(timed(|| {
                seal_to(&self.key, source, &envelope);
            }));
            extracting.ours.push(timed(|| {
                extract_to(&self.key, &envelope, &out).expect("extracted");
            }));
            fs::remove_dir_all(&out).expect("removed");

            let password = self.password(&envelope);
            extracting.theirs.push(timed(|| {
                run(Command::new("7z")
                    .args(["x", "-y", "-bd"])
                    .arg(&password)
                    .arg(format!("-o{}", out.display()))
                    .arg(&envelope));
            }));
            fs::remove_dir_all(&out).expect("removed");
            fs::remove_file(&envelope).expect("removed");
            let level = if what.contains("deflated") { "-mx1" } else { "-mx0" };
            let archive = self.folder.join("7z.zip");
            sealing.theirs.push(timed(|| {
                run(Command::new("7z")
                    .args(["a", "-tzip", "-mem=AES256", level, &password])
                    .arg(&archive)
                    .arg(source));
            }));
            fs::remove_file(&archive).expect("removed");
        }
        let least = match what {
            "one stored entry of 1 GiB" => Target::AtLeast(1.6),
            "10,000 files of 4 KiB" => Target::AtLeast(2.0),
            _ => Target::None,
        };
        extracting.add_to(rows, &format!("mtd: extract {what}"), least);
        sealing.add_to(rows, &format!("mtd: seal {what}"), Target::None);
    }

    /// The archive's password, as an argument of 7z.
    fn password(&self, envelope: &Path) -> String {
        run(Command::new("7z")
            .args(["x", "-y"])
            .arg(envelope)
            .arg("CIPHER.KEY")
            .current_dir(&self.key.folder));
        let password = run(Command::new("openssl")
            .args([
                "cms",
                "-decrypt",
                "-inform",
                "DER",
                "-in",
                "CIPHER.KEY",
                "-inkey",
                "key.pem",
                "-recip",
                "cert.pem",
            ])
            .current_dir(&self.key.folder));
        format!("-p{}", String::from_utf8(password).expect("text"))
    }
}

#[derive(Default)]
struct Times {
    ours: Vec<Taken>,
    theirs: Vec<Taken>,
}

impl Times {
    fn add_to(&self, rows: &mut Rows, what: &str, target: Target) {
        let ratio = |by: fn(&Taken) -> Duration| {
            let rounds = self.ours.iter().zip(&self.theirs);
            Spread::of(rounds.map(|(ours, theirs)| by(theirs).as_secs_f64() / by(ours).as_secs_f64()))
        };
        rows.add(format!("{what}, 7z / ours"), ratio(|taken| taken.wall), "ratio", target);
        rows.add(
            format!("{what}, 7z / ours, processor time"),
            ratio(|taken| taken.cpu),
            "ratio",
            Target::None,
        );
    }
}

#[derive(Clone, Copy)]
struct Taken {
    wall: Duration,
    cpu: Duration,
}

fn timed(work: impl FnOnce()) -> Taken {
    let (start, cpu) = (Instant::now(), cpu_time());
    work();
    Taken { wall: start.elapsed(), cpu: cpu_time() - cpu }
}

/// Processor time of this process and of the children it waited for: proc(5), fields 14 to 17, in 1/100 s.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("proc");
    let (_, fields) = stat.rsplit_once(')').expect("command");
    let ticks = fields.split_whitespace().skip(11).take(4).map(|ticks| ticks.parse::<u64>().expect("number"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
