//! Whether anything takes longer the more there is: records, devices, users, keys.
//!
//!     cargo bench -p custodian --bench scale -- --records 10000000
//!
//! An attempt is what an unwrap is without network and token: permit, begin and settle, through the real authority and the
//! real ledger, each of another file, by many callers with many keys. The ledger is filled by its own code. Rounds on the
//! large ledger and on a small one alternate; medians and their ratio are printed. A million records unless told otherwise; ten
//! million take 10 GB beneath `target/`, which are removed.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

#[path = "common/mod.rs"]
mod common;
#[path = "scale/queries.rs"]
mod queries;
#[path = "scale/token.rs"]
mod token;
#[path = "scale/world.rs"]
mod world;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use bench_rows::{Rows, Target};
use custodian::{
    authority::{Caller, DeviceState, Need, Standing},
    ledger::{Certified, Change, Grant, Intent, Ledger, Outcome},
};
use custodian_proto::{
    key::{KeyId, KeyWrapping, WrappedKey},
    refusal::Refusal,
    v1::Claims,
};
use rustix::fs::{Advice, fadvise};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use common::LOCALHOST;
use world::{People, Scene, SlowYear};

const ROUNDS: usize = 7;

/// Attempts of a round, one after the other, and in a crowd.
const ALONE: u64 = 150;
const CROWDED: u64 = 3_000;
const CROWD: u64 = 64;

/// Attempts under way while a ledger is filled.
const FILLERS: u64 = 500;

const FLAT: Target = Target::AtMost(1.10);

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let records = argument("--records").or_else(|| env::var("RECORDS").ok());
    let records: u64 = records.map_or(1_000_000, |records| records.parse().unwrap());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    println!("{records} records, in {}", folder.display());

    let clock = SlowYear::of(records);
    let token = token::Made::new(&folder.join("token")).await;
    let [few, many, small, measured, large] =
        ["few", "many", "small", "measured", "large"].map(|name| folder.join(name));
    world::make(&few, People::FEW, &clock, &token.certificate).await;
    world::make(&many, People::MANY, &clock, &token.certificate).await;
    let mut bench = Bench { rsa: rsa_3072(), clock, rows: Rows::new("scale") };
    bench.rows.add("an RSA-3072 operation in software, for comparison", bench.rsa, "µs", Target::None);

    // Measuring makes records: what is small stays as it was made.
    copy(&few, &small);
    copy(&many, &measured);
    let people = "100 records, 10^5 devices, 10^4 users, 10^3 keys";
    bench.compare((&small, People::FEW), (&measured, People::MANY), people).await;
    copy(&many, &large);
    let mut size = 1_000;
    while size <= records {
        bench.fill(&large, size).await;
        copy(&many, &small);
        let subject = if size < 100_000 { &measured } else { &large };
        if subject == &measured {
            copy(&large, &measured);
        }
        bench.compare((&small, People::MANY), (subject, People::MANY), &format!("{size} records")).await;
        size *= 10;
    }
    bench.start_up(&large, records).await;
    queries::run(&large, records, &bench.clock, &mut bench.rows).await;
    bench.devices(&few, &many, &token).await;
    token.end().await;
    bench.rows.finish();
}

/// What follows this name on the command line.
fn argument(name: &str) -> Option<String> {
    env::args().skip_while(|argument| argument != name).nth(1)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What attempts cost on two ledgers.
#[derive(Default)]
struct Costs {
    /// Milliseconds of one alone, and of the slowest in a hundred of a crowd; processor time, µs, and what of it the committing
    /// thread takes.
    alone: Vec<f64>,
    slow: Vec<f64>,
    cpu: Vec<f64>,
    committing: Vec<f64>,
}

/// What all of it goes by.
struct Bench {
    /// Processor time of an RSA-3072 operation, µs.
    rsa: f64,
    clock: SlowYear,
    rows: Rows,
}

impl Bench {
    async fn compare(&mut self, small: (&Path, People), large: (&Path, People), what: &str) {
        let mut scenes = Vec::new();
        for (path, people) in [small, large] {
            scenes.push(Arc::new(Scene::open(path, people, &self.clock).await));
        }
        let mut costs = [Costs::default(), Costs::default()];
        for round in 0..=ROUNDS {
            // Whichever comes first finds the machine as the other left it.
            for turn in 0..2 {
                let which = (round + turn) % 2;
                let (scene, costs) = (&scenes[which], &mut costs[which]);
                let alone = alone(scene).await;
                let Crowded { cpu, committing, slow } = crowded(scene).await;
                // The first is to get warm.
                if round > 0 {
                    costs.alone.push(alone);
                    costs.cpu.push(cpu);
                    costs.committing.push(committing);
                    costs.slow.push(slow);
                }
            }
        }
        let [small, large] =
            costs.map(|costs| [costs.alone, costs.cpu, costs.slow, costs.committing].map(median));
        let ratio = |which: usize| large[which] / small[which];
        let with_rsa = (self.rsa + large[1]) / (self.rsa + small[1]);
        let mut row = |name: &str, value, unit, target| {
            self.rows.add(format!("{what}: {name}"), value, unit, target);
        };
        row("one attempt alone", large[0], "ms", Target::None);
        row("one attempt alone ÷ small", ratio(0), "ratio", FLAT);
        row("processor time of one of 64", large[1], "µs", Target::None);
        row("processor time of one of 64 ÷ small", ratio(1), "ratio", Target::None);
        row("the same with an RSA-3072 operation ÷ small", with_rsa, "ratio", FLAT);
        row("of it on the committing thread", large[3], "µs", Target::None);
        row("p99 of 64 at once", large[2], "ms", Target::None);
        row("p99 of 64 at once ÷ small", ratio(2), "ratio", Target::None);
    }
}

/// The median of attempts that are made one after the other, ms.
async fn alone(scene: &Scene) -> f64 {
    let mut times = Vec::new();
    for number in 0..ALONE {
        let begun = Instant::now();
        attempt(scene, number).await;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    median(times)
}

/// What an attempt in a crowd costs.
struct Crowded {
    /// Processor time, µs.
    cpu: f64,
    /// What of it the committing thread takes.
    committing: f64,
    /// What the slowest in a hundred takes, ms.
    slow: f64,
}

async fn crowded(scene: &Arc<Scene>) -> Crowded {
    let next = Arc::new(AtomicU64::new(0));
    let (cpu, committing) = (cpu_time(""), cpu_time("ledger-commit"));
    let tasks = (0..CROWD).map(|_| {
        let (scene, next) = (Arc::clone(scene), Arc::clone(&next));
        tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= CROWDED {
                    return times;
                }
                let begun = Instant::now();
                attempt(&scene, number).await;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / CROWDED as f64;
    let (cpu, committing) =
        (each(cpu_time("").saturating_sub(cpu)), each(cpu_time("ledger-commit").saturating_sub(committing)));
    times.sort_by(f64::total_cmp);
    Crowded { cpu, committing, slow: times[times.len() * 99 / 100] }
}

/// An unwrap without network and token.
async fn attempt(scene: &Scene, number: u64) {
    let request_id = Uuid::now_v7();
    let caller = &scene.callers[usize::try_from(mixed(number)).unwrap() % scene.callers.len()];
    let key = world::key(below(mixed(number + 1), scene.people.keys));
    // Spread over the index as real ones are.
    let mut ciphertext = [0; 384];
    ciphertext[..32].copy_from_slice(&Sha256::digest(request_id.as_bytes()));
    let wrapped = WrappedKey::new(key, KeyWrapping::OaepSha256, ciphertext.to_vec()).unwrap();
    let intent = intent(request_id, caller, key, wrapped.sha256());
    let attempt = scene.ledger.begin(intent);
    let permit = scene.authority.permit(caller, Need::Unwrap(&wrapped), attempt.intent()).await.ok().unwrap();
    let grant = Grant { standing: permit.redeem(), change: None };
    scene.ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
}

fn intent(request_id: Uuid, caller: &Caller, key: KeyId, file: [u8; 32]) -> Intent {
    Intent {
        key: Some(key),
        wrapped_sha256: Some(file),
        claims: Some(Claims {
            file_name: "quarterly-report-2026-Q3.mtd".to_owned(),
            file_size: 12_345_678,
            format: "mtd".to_owned(),
            reason: "ticket 4711".to_owned(),
        }),
        ..Intent::new(request_id, Instant::now(), "Unwrap", caller)
    }
}

impl Bench {
    /// Brings a ledger to so many records. A tenth of them are of one user, one device and one key; one in fifty is a login,
    /// one in a hundred is refused.
    async fn fill(&self, path: &Path, size: u64) {
        let scene = Arc::new(Scene::open(path, world::ONE_CALLER, &self.clock).await);
        let have = *scene.ledger.last_sequence().borrow();
        let begun = Instant::now();
        let next = Arc::new(AtomicU64::new(have));
        let tasks = (0..FILLERS).map(|_| {
            let (scene, next) = (Arc::clone(&scene), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= size {
                        return;
                    }
                    record(&scene, number).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let took = begun.elapsed().as_secs_f64();
        println!("filled to {size} records in {took:.0} s");
    }
}

/// One of them: recorded by the ledger as all are, but without a permit.
async fn record(scene: &Scene, number: u64) {
    let dice = mixed(number);
    let people = People::MANY;
    let pick = |of: u32, salt: u64| if dice.is_multiple_of(10) { 0 } else { below(mixed(dice ^ salt), of) };
    let is_login = mixed(dice ^ 5).is_multiple_of(50);
    let file = Sha256::digest(number.to_be_bytes()).into();
    let caller = &scene.callers[0];
    let intent = Intent {
        user: format!("users/{}", world::user(pick(people.users, 1))),
        device: format!("devices/{}", world::device(pick(people.devices, 2))),
        operation: if is_login { "Login" } else { "Unwrap" },
        ..intent(Uuid::now_v7(), caller, world::key(pick(people.keys, 3)), file)
    };
    let intent = match is_login {
        true => Intent { key: None, wrapped_sha256: None, claims: None, ..intent },
        false => intent,
    };
    let attempt = scene.ledger.begin(intent);
    if mixed(dice ^ 7).is_multiple_of(100) {
        let denied = Outcome::Denied(Refusal::UserDisabled.into());
        assert!(scene.ledger.settle(attempt, denied).await.is_err());
    } else {
        let grant = Grant { standing: Standing::default(), change: None };
        scene.ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
    }
}

impl Bench {
    /// Opening a ledger, and what a custodian reads of it before it serves.
    async fn start_up(&mut self, path: &Path, records: u64) {
        self.rows.add("memory (VmRSS) before", resident(), "MiB", Target::None);
        for (from, is_cold) in [("from the disk", true), ("from the page cache", false)] {
            if is_cold {
                forget(path);
            }
            let begun = Instant::now();
            let scene = Scene::open(path, world::ONE_CALLER, &self.clock).await;
            let ledger = &scene.ledger;
            ledger.drains().await.unwrap();
            ledger.policy().await.unwrap();
            ledger.has_factors().await.unwrap();
            ledger.tree_head(None).await.unwrap();
            attempt(&scene, 0).await;
            let took = begun.elapsed().as_secs_f64();
            let name = format!("{records} records: from the start to the first attempt, {from}");
            self.rows.add(name, took, "s", Target::AtMost(2.0));
        }
        let scene = Arc::new(Scene::open(path, People::MANY, &self.clock).await);
        self.rows.add("memory (VmRSS) with the ledger open", resident(), "MiB", Target::None);
        for _ in 0..ROUNDS {
            crowded(&scene).await;
        }
        self.rows.add("memory (VmRSS) after 20,000 attempts", resident(), "MiB", Target::None);
        let bytes = fs::metadata(path).unwrap().len() as f64;
        let each = bytes / *scene.ledger.last_sequence().borrow() as f64;
        self.rows.add("the ledger's file, a record", each, "B", Target::None);
    }

    /// What grows with devices: the list of those that are revoked, and stopping one.
    async fn devices(&mut self, few: &Path, many: &Path, token: &token::Made) {
        let rows = &mut self.rows;
        let scene = Arc::new(Scene::open(many, People::MANY, &self.clock).await);
        let begun = Instant::now();
        change(&scene, Change::ListRevoked).await;
        let revoked = scene.ledger.revoked(Certified::Devices).await.unwrap();
        let read = begun.elapsed().as_secs_f64() * 1e3;
        rows.add(format!("reading {} revoked certificates", revoked.len()), read, "ms", Target::None);
        let begun = Instant::now();
        let list = token.list(revoked).await;
        rows.add("making the list of them", begun.elapsed().as_secs_f64() * 1e3, "ms", Target::None);
        rows.add("its size", list.len() as f64 / 1024.0, "KiB", Target::None);

        let mut slow = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            slow[0].push(crowded(&scene).await.slow);
            let lists = {
                let scene = Arc::clone(&scene);
                tokio::spawn(async move {
                    loop {
                        change(&scene, Change::ListRevoked).await;
                        scene.ledger.revoked(Certified::Devices).await.unwrap();
                    }
                })
            };
            slow[1].push(crowded(&scene).await.slow);
            lists.abort();
            // It has the ledger open, too.
            assert!(lists.await.is_err());
        }
        let [without, with] = slow.map(median);
        rows.add("p99 of attempts while lists are read ÷ without", with / without, "ratio", Target::None);
        drop(scene);

        let few = Scene::open(few, People::FEW, &self.clock).await;
        let many = Scene::open(many, People::MANY, &self.clock).await;
        let mut times = [Vec::new(), Vec::new()];
        for state in [DeviceState::Suspended, DeviceState::Active].into_iter().cycle().take(200) {
            for (scene, times) in [&few, &many].into_iter().zip(&mut times) {
                let begun = Instant::now();
                let id = world::device(3).parse().unwrap();
                change(scene, Change::SetDeviceState { id, state, reason: String::new() }).await;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        let [few, many] = times.map(median);
        rows.add("stopping a device, of 10^5", many, "ms", Target::None);
        rows.add("stopping a device, of 10^5 ÷ of 10", many / few, "ratio", FLAT);
    }
}

async fn change(scene: &Scene, change: Change) {
    let attempt = scene.ledger.begin(Intent::of_nobody("Change", LOCALHOST));
    let grant = Grant { standing: Standing::default(), change: Some(change) };
    scene.ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
}

/// Processor time of an RSA-3072 OAEP decryption, µs.
fn rsa_3072() -> f64 {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
    let public = OaepPublicEncryptingKey::new(key.public_key()).unwrap();
    let mut wrapped = vec![0; public.ciphertext_size()];
    public.encrypt(&OAEP_SHA256_MGF1SHA256, &[1; 32], &mut wrapped, None).unwrap();
    let private = OaepPrivateDecryptingKey::new(key).unwrap();
    let mut file_key = vec![0; private.min_output_size()];
    let times = (0..300).map(|_| {
        let begun = Instant::now();
        private.decrypt(&OAEP_SHA256_MGF1SHA256, &wrapped, &mut file_key, None).unwrap();
        begun.elapsed().as_secs_f64() * 1e6
    });
    median(times.collect())
}

/// Copies a ledger that is closed, durably.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", ".checkpoint"] {
        let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        fs::copy(with(from), with(to)).unwrap();
        fs::File::open(with(to)).unwrap().sync_all().unwrap();
    }
}

/// Takes a ledger's file out of the page cache.
fn forget(path: &Path) {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

/// A number that looks like chance (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn below(dice: u64, limit: u32) -> u32 {
    u32::try_from(dice % u64::from(limit)).unwrap()
}

/// Processor time of the threads of this process whose names begin so: proc(5), schedstat, in ns.
fn cpu_time(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let ours = tasks.filter(|task| read(task.join("comm")).starts_with(name));
    let times =
        ours.filter_map(|task| read(task.join("schedstat")).split_whitespace().next()?.parse::<u64>().ok());
    Duration::from_nanos(times.sum())
}

/// Memory of this process that is there, MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
