//! Connections: what a handshake costs, and what those cost that only stay open.
//!
//!     cargo bench -p softhsm-tests --bench connections
//!
//! Needs a file descriptor for each connection, here and in the custodian: `ulimit -n 12000` for ten thousand. With fewer it opens fewer, and says so.

#[path = "common/mod.rs"]
mod common;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target};
use common::{Pool, at, cpu, millis};
use softhsm_tests::{Dev, Identity, Person, Wire};
use tokio::runtime::Runtime;

/// Connections to hold.
const IDLE: usize = 10_000;

/// Of one device: what the custodian lets in.
const OF_ONE: usize = 32;

const HANDSHAKES: usize = 2_000;
const AT_ONCE: usize = 16;

fn main() {
    let dev = common::dev_without_budgets();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut rows = Rows::new("connections");
    let admin = runtime.block_on(Wire::login(&dev, Person::Admin));
    let idle = IDLE.min(most_files().saturating_sub(200));
    let devices = idle.div_ceil(OF_ONE - 1);
    let devices: Vec<_> = (0..devices)
        .map(|number| {
            let id = format!("desk-{number}");
            Arc::new(runtime.block_on(Identity::enrolled(&dev, &admin, &id)))
        })
        .collect();

    let before = cpu(dev.pid());
    let start = Instant::now();
    handshakes(&runtime, &dev, &devices);
    let (took, spent) = (start.elapsed().as_secs_f64(), cpu(dev.pid()) - before);
    let count = HANDSHAKES as f64;
    rows.add("handshakes, TLS 1.3, both sides with P-256 certificates", count / took, "1/s", Target::None);
    rows.add("the custodian's CPU for one", spent / count * 1_000.0, "ms", Target::None);

    let pool = Pool::of(&dev);
    let wire = runtime.block_on(Wire::login(&dev, Person::Operator));
    let quiet = runtime.block_on(unwraps(&wire, &pool));
    let empty = resident(dev.pid());
    let held = runtime.block_on(hold(&dev, &devices, idle));
    let full = resident(dev.pid());
    rows.add("idle connections held", held.len() as f64, "", Target::AtLeast(IDLE as f64));
    let each = (full - empty) as f64 / held.len() as f64;
    rows.add("memory of the custodian for 1,000 of them", each * 1_000.0 / 1_048_576.0, "MiB", Target::None);
    let crowded = runtime.block_on(unwraps(&wire, &pool));
    let ratio = millis(at(&crowded, 0.5)) / millis(at(&quiet, 0.5));
    rows.add("an unwrap beside them / alone, p50", Spread::from(ratio), "ratio", Target::AtMost(1.1));
    rows.finish();
}

/// Opens connections and drops them, several at once.
fn handshakes(runtime: &Runtime, dev: &Dev, devices: &[Arc<Identity>]) {
    let next = AtomicUsize::new(0);
    let one = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= HANDSHAKES {
            return;
        }
        runtime.block_on(Wire::connect(dev, &devices[number % devices.len()])).unwrap();
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(one))));
}

async fn hold(dev: &Dev, devices: &[Arc<Identity>], count: usize) -> Vec<Wire> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        held.push(Wire::connect(dev, &devices[number % devices.len()]).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    held
}

async fn unwraps(wire: &Wire, pool: &Pool) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..500 {
        let (key, wrapped) = pool.next();
        let asked = Instant::now();
        wire.unwrap(key, wrapped.clone()).await.unwrap();
        times.push(asked.elapsed());
    }
    times.sort();
    times
}

/// How many files this process may have open: proc(5). The custodian has the same limit.
fn most_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}

/// Bytes of memory that a process has: proc(5).
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024
}
