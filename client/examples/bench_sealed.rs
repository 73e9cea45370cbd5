//! How fast sealed envelopes are made and opened: beside the limit (cipher and copy, nothing else), and beside age, gpg,
//! openssl and 7z, all on the same gibibyte in the same run.
//!
//! ```sh
//! cargo run --release -p custodian-client --example bench_sealed [FOLDER] [ROUNDS]
//! taskset -c 0 target/release/examples/bench_sealed      # on one core
//! ```
//!
//! FOLDER should be in memory (`/dev/shm`, the default; about 4 GiB are needed), so that no disk is measured. Each round
//! runs all programs one after the other; the medians of the rounds' ratios count. The limit is what a program would do that reads a file at all
//! cores, encrypts it by chunks, writes it, and does nothing else. Programs that are not installed are left out. The
//! recipient's key is in software here: one RSA operation per envelope, about a millisecond.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

#[allow(dead_code, reason = "shared by several programs; each uses a part of it")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target, peak_memory};
use common::{SoftKey, extract_to, seal_to, tree};
use custodian_client::workers;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

/// What the suites for every format run with.
const FORMAT: custodian_client::envelope::Format = custodian_client::envelope::Format::Sealed;

const LEN: u64 = 1 << 30;
const CHUNK: usize = 16 * 1024;
const BLOCK: usize = 16 * CHUNK;

fn main() {
    let mut args = env::args().skip(1);
    let place = args.next().unwrap_or_else(|| "/dev/shm".to_owned());
    let rounds: usize = args.next().map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let folder = tempfile::tempdir_in(place).expect("FOLDER can be written");
    let bench = Bench::new(folder.path());
    let peers = bench.peers();

    let mut times: BTreeMap<(usize, &str), Vec<Taken>> = BTreeMap::new();
    let mut note = |order, name, taken| times.entry((order, name)).or_default().push(taken);
    for _ in 0..rounds {
        note(0, "copy", bench.copied());
        note(1, "limit", bench.limit());
        note(2, OURS, bench.ours());
        for (order, peer) in (3..).zip(&peers) {
            note(order, peer.name, bench.peer(peer));
        }
    }
    let cores = workers::count();
    let mut rows = Rows::new(format!("sealed-{cores}"));
    let ours = &times[&(2, OURS)];
    let over = |theirs: &[Taken], which: fn(&Taken) -> Duration| {
        let ratios = theirs
            .iter()
            .zip(ours)
            .map(|(theirs, ours)| which(theirs).as_secs_f64() / which(ours).as_secs_f64());
        Spread::of(ratios)
    };
    for ((_, name), taken) in times.iter().filter(|((_, name), _)| *name != OURS) {
        let (seal, open) = match *name {
            "copy" => (Target::None, Target::None),
            "limit" => (Target::AtLeast(0.85), Target::AtLeast(0.85)),
            "age" => (Target::None, Target::AtLeast(2.5)),
            "openssl" => (Target::None, Target::AtLeast(10.0)),
            _ => (Target::AtLeast(1.0), Target::AtLeast(1.0)),
        };
        rows.add(
            format!("sealed, 1 GiB, {cores} cores: seal, {name} / ours"),
            over(taken, |taken| taken.seal),
            "ratio",
            seal,
        );
        rows.add(
            format!("sealed, 1 GiB, {cores} cores: open, {name} / ours"),
            over(taken, |taken| taken.open),
            "ratio",
            open,
        );
    }
    let memory = peak_memory();
    rows.add(format!("sealed, 1 GiB, {cores} cores: most memory"), memory, "MiB", Target::AtMost(64.0));
    rows.finish();
}

const OURS: &str = "envelope";

/// One round of one program.
#[derive(Clone, Copy)]
struct Taken {
    seal: Duration,
    open: Duration,
}

/// Another program: commands of bash.
struct Peer {
    name: &'static str,
    prepare: &'static str,
    seal: &'static str,
    open: &'static str,
}

const PEERS: [Peer; 4] = [
    Peer {
        name: "age",
        prepare: "age-keygen -o age.key 2> /dev/null",
        seal: "age -R <(age-keygen -y age.key) -o sealed source",
        open: "age -d -i age.key -o opened sealed",
    },
    Peer {
        name: "gpg",
        prepare: "mkdir -m 700 gpg; gpg --homedir gpg --batch --quiet --passphrase '' --quick-gen-key bench rsa3072 encr never",
        seal: "gpg --homedir gpg --batch --quiet --trust-model always --compress-algo none -r bench -o sealed -e source",
        open: "gpg --homedir gpg --batch --quiet -o opened -d sealed",
    },
    Peer {
        name: "openssl",
        prepare: "openssl req -x509 -newkey rsa:3072 -nodes -days 2 -subj /CN=b -keyout key.pem -out cert.pem 2> /dev/null",
        seal: "openssl cms -encrypt -binary -aes-256-gcm -outform DER -in source -out sealed cert.pem",
        open: "openssl cms -decrypt -inform DER -in sealed -inkey key.pem -recip cert.pem -out opened",
    },
    Peer {
        name: "7z",
        prepare: "true",
        seal: "7z a -tzip -mem=AES256 -mx0 -bd -ppassword sealed.zip source > /dev/null; mv sealed.zip sealed",
        open: "7z x -ppassword -bd -oout sealed > /dev/null; mv out/source opened; rmdir out",
    },
];

struct Bench {
    folder: PathBuf,
    key: SoftKey,
}

impl Bench {
    fn new(folder: &Path) -> Self {
        let mut source = File::create(folder.join("source")).expect("created");
        (0..LEN >> 20).for_each(|_| source.write_all(&tree::noise(1 << 20)).expect("written"));
        Self { folder: folder.to_owned(), key: SoftKey::new(&[]) }
    }

    fn peers(&self) -> Vec<Peer> {
        PEERS.into_iter().filter(|peer| self.shell(peer.prepare)).collect()
    }

    fn shell(&self, command: &str) -> bool {
        let mut bash = Command::new("bash");
        bash.args(["-euc", command]).current_dir(&self.folder).stdin(Stdio::null()).stderr(Stdio::null());
        bash.status().expect("bash").success()
    }

    fn peer(&self, peer: &Peer) -> Taken {
        let timed = |command| timed(|| assert!(self.shell(command), "{} failed", peer.name));
        let taken = Taken { seal: timed(peer.seal), open: timed(peer.open) };
        self.clean(&["sealed", "opened"]);
        taken
    }

    fn clean(&self, names: &[&str]) {
        names.iter().for_each(|name| fs::remove_file(self.folder.join(name)).expect("removed"));
    }

    fn ours(&self) -> Taken {
        let (envelope, out) = (self.folder.join("e.sealed"), self.folder.join("out"));
        let seal = timed(|| {
            seal_to(&self.key, &self.folder.join("source"), &envelope);
        });
        let open = timed(|| {
            extract_to(&self.key, &envelope, &out).expect("extracted");
        });
        fs::remove_dir_all(out).expect("removed");
        self.clean(&["e.sealed"]);
        Taken { seal, open }
    }

    /// A copy by all cores.
    fn copied(&self) -> Taken {
        let taken = timed(|| self.pipeline("source", "sealed", BLOCK, BLOCK, |_, _| {}));
        self.clean(&["sealed"]);
        Taken { seal: taken, open: taken }
    }

    /// Cipher and copy by all cores, and nothing else.
    fn limit(&self) -> Taken {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("key"));
        let nonce = |number: u64| {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        // Tags stand behind the content of their block, where they cost no copy.
        let tags = 16 * BLOCK / CHUNK;
        let seal = timed(|| {
            self.pipeline("source", "sealed", BLOCK, BLOCK + tags, |number, block| {
                let (content, tags) = block.split_at_mut(BLOCK);
                for (index, (chunk, room)) in (0..).zip(content.chunks_mut(CHUNK).zip(tags.chunks_mut(16))) {
                    let tag = key.seal_in_place_separate_tag(nonce(number * 16 + index), Aad::empty(), chunk);
                    room.copy_from_slice(tag.expect("sealed").as_ref());
                }
            });
        });
        let open = timed(|| {
            self.pipeline("sealed", "opened", BLOCK + tags, BLOCK, |number, block| {
                let (content, tags) = block.split_at_mut(BLOCK);
                for (index, (chunk, tag)) in (0..).zip(content.chunks_mut(CHUNK).zip(tags.chunks(16))) {
                    let tag = Tag::try_from(tag).expect("16 bytes");
                    let nonce = nonce(number * 16 + index);
                    key.open_in_place_separate_tag(nonce, Aad::empty(), tag, chunk, 0..).expect("opened");
                }
            });
        });
        self.clean(&["sealed", "opened"]);
        Taken { seal, open }
    }

    /// Reads blocks, works on them, and writes them, by position, on all cores.
    fn pipeline(
        &self,
        from: &str,
        to: &str,
        read: usize,
        write: usize,
        work: impl Fn(u64, &mut [u8]) + Sync,
    ) {
        let source = File::open(self.folder.join(from)).expect("opened");
        let out = File::create(self.folder.join(to)).expect("created");
        let next = AtomicU64::new(0);
        let run = || {
            let mut block = vec![0; read.max(write)];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= LEN / BLOCK as u64 {
                    return;
                }
                source.read_exact_at(&mut block[..read], number * read as u64).expect("read");
                work(number, &mut block);
                out.write_all_at(&block[..write], number * write as u64).expect("written");
            }
        };
        thread::scope(|scope| (0..workers::count()).for_each(|_| drop(scope.spawn(run))));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
