//! Each target for some seconds: its seeds, then changes of them that follow from a number. The coverage-guided fuzzer is
//! another matter (`README.md`); this one needs nothing but the compiler.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use fuzz::TARGETS;
use softhsm_tests::Dice;

/// Seconds for each target. FUZZ_SECONDS sets others.
const SECONDS: u64 = 2;
/// The first number. FUZZ_SEED sets another.
const SEED: u64 = 17;

/// Longest input that changes lead to, in bytes.
const LONGEST: usize = 64 * 1024;
/// No input may take longer. Far more than any does: the machine may be busy.
const SLOW: Duration = Duration::from_secs(5);
/// No input may take more memory, in KiB.
const LARGE: u64 = 192 * 1024;

/// One target with its inputs.
struct Trial {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    /// Where the input is while it is tried: still there if the process ends with it.
    path: PathBuf,
    file: File,
}

impl Trial {
    fn new(name: &'static str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(!seeds.is_empty(), "{} has no seeds", folder.display());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.input"));
        let file = File::create(&path).unwrap();
        Self { name, seeds, path, file }
    }

    fn run(&self) {
        let number = |name: &str, usual| env::var(name).map_or(usual, |text| text.parse().unwrap());
        let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", SECONDS));
        let mut dice = Dice::new(number("FUZZ_SEED", SEED));
        self.seeds.iter().for_each(|seed| self.check(seed));
        let mut tried = 0u64;
        while Instant::now() < end {
            let input = self.changed(&mut dice);
            self.check(&input);
            tried += 1;
        }
        println!("{}: {} seeds, {tried} changes", self.name, self.seeds.len());
        fs::remove_file(&self.path).unwrap();
    }

    fn check(&self, input: &[u8]) {
        // Not truncated to nothing: some file systems write that to the disk.
        self.file.write_all_at(input, 0).unwrap();
        self.file.set_len(input.len() as u64).unwrap();
        // The peak from here on: proc(5), clear_refs.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let (memory, since) = (peak(), Instant::now());
        let sound = catch_unwind(AssertUnwindSafe(|| fuzz::run(self.name, input))).is_ok();
        let (taken, memory) = (since.elapsed(), peak().saturating_sub(memory));
        let kept = format!("{}: the input is kept in {}", self.name, self.path.display());
        assert!(sound, "a panic. {kept}");
        assert!(taken < SLOW, "{taken:?}. {kept}");
        assert!(memory < LARGE, "{memory} KiB. {kept}");
    }

    /// A seed with a few changes of the kind that parsers stumble over.
    fn changed(&self, dice: &mut Dice) -> Vec<u8> {
        let pick = |dice: &mut Dice| &self.seeds[index(dice, self.seeds.len())];
        let mut input = pick(dice).clone();
        for _ in 0..dice.between(1, 5) {
            let at = index(dice, input.len() + 1);
            let end = (at + dice.between(1, 16) as usize).min(input.len());
            match dice.between(0, 8) {
                0 => input.truncate(at),
                1 => drop(input.drain(at..end)),
                2 => {
                    let part = input[at..end].to_vec();
                    input.splice(at..at, part.repeat(dice.between(1, 40) as usize));
                }
                3 => {
                    let other = pick(dice);
                    let from = index(dice, other.len() + 1);
                    input.truncate(at);
                    input.extend(&other[from..]);
                }
                4 => {
                    let bytes = edge(dice);
                    let end = (at + bytes.len()).min(input.len());
                    input.splice(at..end, bytes);
                }
                5 => {
                    let byte = dice.number() as u8;
                    input.insert(at, byte);
                }
                _ if at < input.len() => {
                    let byte = dice.number() as u8;
                    input[at] = if dice.once_in(2) { input[at] ^ 1 << (byte & 7) } else { byte };
                }
                _ => {}
            }
        }
        input.truncate(LONGEST);
        input
    }
}

fn index(dice: &mut Dice, len: usize) -> usize {
    (dice.number() % len.max(1) as u64) as usize
}

/// A number at the edge of some type, in either order.
fn edge(dice: &mut Dice) -> Vec<u8> {
    let number =
        dice.one_of(&[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 1 << 31, (1 << 32) - 1, 1 << 63, u64::MAX]);
    let len = dice.one_of(&[1, 2, 4, 8]);
    let bytes = number.to_be_bytes();
    let mut bytes = bytes[8 - len..].to_vec();
    if dice.once_in(2) {
        bytes.reverse();
    }
    bytes
}

/// The greatest resident memory, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                Trial::new(stringify!($name)).run();
            }
        )*

        #[test]
        fn every_target_is_tried_here_and_by_libfuzzer() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
            let manifest = include_str!("../libfuzzer/Cargo.toml");
            for (name, _) in TARGETS {
                assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}");
            }
        }
    };
}

targets!(
    mtd,
    sealed,
    sealed_inside,
    cipher_key,
    cms,
    smime,
    openpgp,
    signature,
    timestamp,
    recipient,
    openpgp_recipient,
    openpgp_signature,
    openpgp_signer,
    openpgp_key,
    signer_key,
    person,
    certificates,
    approval,
    checkpoint,
    tiles,
    proofs,
    timestamp_query,
    csr,
    certificate,
    worker,
    pkcs11_uri,
    settings
);
