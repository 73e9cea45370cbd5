//! How fast OpenPGP messages are opened and sealed, beside `gpg` and `sq` on the same file in the same run.
//!
//! ```sh
//! cargo run --release -p custodian-client --example bench_openpgp [FOLDER] [ROUNDS] [MIB]
//! ```
//!
//! FOLDER should be in memory (`/dev/shm`, the default; about four times MIB are needed), so that no disk is measured. Each round
//! runs all programs one after the other; the medians of the rounds' ratios count. A ratio above 1 means that we are faster. All encrypt to the
//! same RSA key with AES-256, and none compresses: the content is noise. Our file key is unwrapped by a `gpg` of its own, once for
//! each message: some 20 ms that count as ours.
//!
//! Needs `gpg`. `sq` is left out if it is not installed, or if its options are others.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
#[path = "../tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/openpgp/gpg.rs"]
mod gpg;

use std::{
    env,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target, peak_memory};
use common::{extract_job, run, tree};
use custodian_client::{extract::extract, progress::Silent, seal::seal};
use gpg::{Gpg, job};

/// What is measured.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::OpenPgp;

fn main() {
    let mut args = env::args().skip(1);
    let place = args.next().unwrap_or_else(|| "/dev/shm".to_owned());
    let mut number =
        |usual| args.next().map_or(usual, |number| number.parse().expect("ROUNDS and MIB are numbers"));
    let (rounds, mib) = (number(5), number(1024));
    let folder = tempfile::tempdir_in(place).expect("FOLDER can be written");
    let bench = Bench::new(folder.path(), rounds);
    let peers = bench.peers();
    let mut file = File::create(bench.path("f")).expect("created");
    // Piece by piece: the peak of memory is to be that of sealing and opening.
    (0..mib).for_each(|_| file.write_all(&tree::noise(1 << 20)).expect("written"));
    drop(file);

    let mut rows = Rows::new("openpgp");
    bench.seal(&peers, &mut rows);
    bench.open("ours", &peers, |envelope| bench.seal_ours(envelope), &mut rows);
    for peer in &peers {
        bench.open(&format!("{}'s", peer.name), &peers, |envelope| bench.encrypt(peer, envelope), &mut rows);
    }
    let memory = peak_memory();
    rows.add(format!("openpgp, {mib} MiB: most memory"), memory, "MiB", Target::AtMost(64.0));
    rows.finish();
}

/// Another program: its arguments before the file's name, which comes last, and before that the output's.
struct Peer {
    name: &'static str,
    encrypt: Vec<String>,
    decrypt: Vec<String>,
}

struct Bench {
    folder: PathBuf,
    gpg: Gpg,
    rounds: usize,
}

impl Bench {
    fn new(folder: &Path, rounds: usize) -> Self {
        let bench = Self { folder: folder.to_owned(), gpg: Gpg::usual(), rounds };
        fs::write(bench.path("cert.pgp"), &bench.gpg.certificate).expect("written");
        let secret = run(bench.gpg.command().args(["--passphrase", "", "--export-secret-keys"]));
        fs::write(bench.path("secret.pgp"), secret).expect("written");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Those that encrypt and decrypt a small file.
    fn peers(&self) -> Vec<Peer> {
        let home = self.gpg.home.path().to_str().expect("UTF-8").to_owned();
        let gpg = ["gpg", "--homedir", &home, "--batch", "--quiet", "--no-tty"];
        let all_of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let encrypt = ["--cipher-algo", "AES256", "--compress-algo", "none", "--trust-model", "always"];
        let peers = [
            Peer {
                name: "gpg",
                encrypt: all_of(
                    &[&gpg[..], &encrypt, &["-r", "test@example.org", "--encrypt", "--output"]].concat(),
                ),
                decrypt: all_of(&[&gpg[..], &["--decrypt", "--output"]].concat()),
            },
            Peer {
                name: "sq",
                encrypt: all_of(&[
                    "sq",
                    "encrypt",
                    "--binary",
                    "--compression",
                    "none",
                    "--recipient-cert",
                    "cert.pgp",
                    "--output",
                ]),
                decrypt: all_of(&["sq", "decrypt", "--recipient-key", "secret.pgp", "--output"]),
            },
        ];
        fs::write(self.path("small"), "small").expect("written");
        let works = |peer: &Peer| {
            let (sealed, opened) = (self.path("small.pgp"), self.path("opened"));
            let works = self.runs(&peer.encrypt, &sealed, &self.path("small"))
                && self.runs(&peer.decrypt, &opened, &sealed);
            for left in [sealed, opened] {
                fs::remove_file(left).ok();
            }
            assert!(works || peer.name != "gpg", "gpg does not encrypt and decrypt");
            works
        };
        peers.into_iter().filter(works).collect()
    }

    fn runs(&self, command: &[String], out: &Path, file: &Path) -> bool {
        let (program, args) = command.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(args).arg(out).arg(file).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn encrypt(&self, peer: &Peer, envelope: &Path) {
        assert!(self.runs(&peer.encrypt, envelope, &self.path("f")), "{} does not encrypt", peer.name);
    }

    fn seal_ours(&self, envelope: &Path) {
        seal(&job(&[&self.gpg.certificate], &self.path("f"), envelope), &Silent).expect("sealed");
    }

    fn seal(&self, peers: &[Peer], rows: &mut Rows) {
        let envelope = self.path("e.pgp");
        let times = (0..self.rounds).map(|_| {
            let ours = timed(|| self.seal_ours(&envelope));
            fs::remove_file(&envelope).expect("removed");
            let theirs = peers.iter().map(|peer| {
                let theirs = timed(|| self.encrypt(peer, &envelope));
                fs::remove_file(&envelope).expect("removed");
                theirs
            });
            (ours, theirs.collect())
        });
        add(rows, "seal", peers, &times.collect::<Vec<_>>());
    }

    /// A message that is made so, opened by all.
    fn open(&self, what: &str, peers: &[Peer], make: impl Fn(&Path), rows: &mut Rows) {
        let (envelope, out, plain) = (self.path("e.pgp"), self.path("out"), self.path("plain"));
        make(&envelope);
        let times = (0..self.rounds).map(|_| {
            let ours =
                timed(|| drop(extract(&extract_job(&envelope, &out), &self.gpg, &Silent).expect("opened")));
            fs::remove_dir_all(&out).expect("removed");
            let theirs = peers.iter().map(|peer| {
                let theirs = timed(|| {
                    assert!(self.runs(&peer.decrypt, &plain, &envelope), "{} does not decrypt", peer.name);
                });
                fs::remove_file(&plain).expect("removed");
                theirs
            });
            (ours, theirs.collect())
        });
        add(rows, &format!("open {what}"), peers, &times.collect::<Vec<_>>());
        fs::remove_file(&envelope).expect("removed");
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Each peer's times over ours of the same round.
fn add(rows: &mut Rows, what: &str, peers: &[Peer], times: &[(Duration, Vec<Duration>)]) {
    for (number, peer) in peers.iter().enumerate() {
        let ratios =
            Spread::of(times.iter().map(|(ours, theirs)| theirs[number].as_secs_f64() / ours.as_secs_f64()));
        rows.add(format!("openpgp: {what}, {} / ours", peer.name), ratios, "ratio", Target::AtLeast(1.0));
    }
}
