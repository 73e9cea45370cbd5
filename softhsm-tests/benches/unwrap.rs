//! Unwraps through the whole custodian, over mTLS and with durable records, against bare `C_Decrypt` of the same key in the
//! same module with two sessions: one caller, a few, many, on one connection and on several, with a receipt for each. Then at
//! half of the load: what a single unwrap waits for. Then under full load: how long a revocation takes. Then where the time goes, by
//! the custodian's own log.
//!
//!     cargo bench -p softhsm-tests --bench unwrap
//!
//! Client, custodian and worker share the machine's cores, but for one more half load at the end, where the callers have half of
//! the cores and the custodian the other. Rounds alternate; medians of the rounds' ratios are printed. Where
//! only the custodian's own CPU counts, the ratio is of processor time: that of a bare `C_Decrypt` to that of an unwrap in
//! network process and worker.

#[path = "common/mod.rs"]
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target};
use common::{Load, Pool, Receipts, Round, at, in_turn, millis, steps};
use custodian_proto::v1;
use softhsm_tests::{Dev, Identity, Person, Wire};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const REVOCATIONS: usize = 200;

/// One way of asking.
struct Way {
    name: &'static str,
    in_flight: usize,
    connections: usize,
    receipts: Receipts,
}

const fn way(name: &'static str, in_flight: usize, connections: usize, receipts: Receipts) -> Way {
    Way { name, in_flight, connections, receipts }
}

const WAYS: [Way; 6] = [
    way("1 in flight", 1, 1, Receipts::None),
    way("8 in flight", 8, 1, Receipts::None),
    way("64 in flight", 64, 1, Receipts::None),
    way("64 in flight, with receipts", 64, 1, Receipts::Each),
    way("64 in flight, 16 connections", 64, 16, Receipts::None),
    way("256 in flight, 16 connections", 256, 16, Receipts::None),
];

fn main() {
    // The module reads its configuration from the environment, so it runs in a process of its own.
    if let Some(bare) = common::bare_if_asked(ROUND) {
        println!("{bare}");
        return;
    }
    let dev = common::dev_without_budgets();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pool = Pool::of(&dev);
    let wires: Vec<Wire> = runtime.block_on(common::wires(&dev, 16));

    let serve = |way: &Way| runtime.block_on(serve(&dev, &wires[..way.connections], &pool, way));
    let (rounds, bare) = in_turn(ROUNDS, &WAYS, serve, || common::run_bare(&dev, &pool));

    let mut rows = Rows::new("unwrap");
    let name = |what: &str, way: &Way| format!("{what}, {}", way.name);
    for (way, rounds) in WAYS.iter().zip(&rounds) {
        let target = match (way.in_flight, way.connections, way.receipts) {
            (64, 1, Receipts::None) => Target::AtLeast(0.80),
            (64, 1, Receipts::Each) => Target::AtLeast(0.75),
            _ => Target::None,
        };
        let ratios = rounds.iter().zip(&bare).map(|(round, bare)| round.rate / bare.rate);
        rows.add(name("unwraps / bare C_Decrypt", way), Spread::of(ratios), "ratio", target);
    }
    for (way, rounds) in WAYS.iter().zip(&rounds) {
        let target = if way.name == "64 in flight" { Target::AtLeast(0.90) } else { Target::None };
        let ratios = rounds.iter().zip(&bare).map(|(round, bare)| bare.cpu / round.cpu);
        rows.add(name("the same, the custodian's CPU only", way), Spread::of(ratios), "ratio", target);
    }
    let with = rounds[3].iter().zip(&rounds[2]).map(|(with, without)| with.rate / without.rate);
    rows.add("with receipts / without, 64 in flight", Spread::of(with), "ratio", Target::AtLeast(0.95));
    for (way, rounds) in WAYS.iter().zip(&rounds) {
        for (share, what) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            let each = rounds.iter().map(|round| millis(at(&round.times, share)));
            rows.add(name(what, way), Spread::of(each), "ms", Target::None);
        }
    }

    let peak = Spread::of(rounds[2].iter().map(|round| round.rate)).median;
    let alone = Spread::of(bare.iter().map(|bare| millis(bare.alone))).median;
    let fsync = common::fsync(&dev);
    rows.add("one fsync of the ledger's disk", millis(fsync), "ms", Target::None);
    let half = runtime.block_on(paced(&wires, &pool, peak / 2.0));
    add_half_load(&mut rows, "half load", &half, alone, fsync);

    let mut times = runtime.block_on(revoke(&dev, &wires[..1], &pool));
    times.sort();
    for (share, what, target) in
        [(0.5, "p50", Target::None), (0.99, "p99", Target::AtMost(100.0)), (1.0, "most", Target::None)]
    {
        let name = format!("a revocation with 64 unwraps in flight, {what} of {REVOCATIONS}");
        rows.add(name, millis(at(&times, share)), "ms", target);
    }
    let mut folder = dev.kill();
    for (in_flight, name) in [(1, "1 in flight"), (64, "64 in flight")] {
        folder = steps::add(&mut rows, folder, name, async |wires| {
            let start = Instant::now();
            let load = Load { in_flight, receipts: Receipts::None };
            load.run(&wires[..1], &pool, Arc::new(move || start.elapsed() < ROUND)).await.len()
        });
    }
    steps::add(&mut rows, folder, "half load", async |wires| paced(wires, &pool, peak / 2.0).await.len());
    rows.add(
        "bare C_Decrypt, RSA-3072, 2 sessions",
        Spread::of(bare.iter().map(|bare| bare.rate)),
        "1/s",
        Target::None,
    );
    half_load_apart(&mut rows);
    rows.finish();
}

/// What calls at half load take beyond what a `C_Decrypt` takes alone, ms.
fn add_half_load(rows: &mut Rows, name: &str, times: &[Duration], alone: f64, fsync: Duration) {
    for (share, what, most) in [(0.5, "p50", 0.3 + millis(fsync)), (0.99, "p99", 3.0)] {
        let beyond = millis(at(times, share)) - alone;
        rows.add(format!("{name}: {what} beyond C_Decrypt"), beyond, "ms", Target::AtMost(most));
    }
}

/// The same with callers on cores of their own, as they are on machines of their own.
fn half_load_apart(rows: &mut Rows) {
    let custodian = || {
        let dev = common::dev_without_budgets();
        let pool = Pool::of(&dev);
        let alone = millis(common::run_bare(&dev, &pool).alone);
        (dev, pool, alone)
    };
    common::apart(custodian, |(dev, pool, alone)| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let wires = runtime.block_on(common::wires(&dev, 16));
        let full = runtime.block_on(serve(&dev, &wires, &pool, &WAYS[4]));
        let half = runtime.block_on(paced(&wires, &pool, full.rate / 2.0));
        add_half_load(rows, "half load, callers on cores of their own", &half, alone, common::fsync(&dev));
    });
}

async fn serve(dev: &Dev, wires: &[Wire], pool: &Arc<Pool>, way: &Way) -> Round {
    let start = Instant::now();
    let load = Load { in_flight: way.in_flight, receipts: way.receipts };
    Round::of(dev, 1, load.run(wires, pool, Arc::new(move || start.elapsed() < ROUND))).await
}

/// Unwraps that come at this rate, whether the ones before are done or not. How long each took.
async fn paced(wires: &[Wire], pool: &Arc<Pool>, rate: f64) -> Vec<Duration> {
    let start = Instant::now();
    let mut calls = Vec::new();
    // Evenly random, as people come: the gaps between them are exponential.
    let mut due = Duration::ZERO;
    let mut dice = softhsm_tests::Dice::new(1);
    while due < 4 * ROUND {
        let share = (dice.number() >> 11) as f64 / (1_u64 << 53) as f64;
        due += Duration::from_secs_f64(-(1.0 - share).ln() / rate);
        tokio::time::sleep_until((start + due).into()).await;
        let (wire, pool) = (wires[calls.len() % wires.len()].clone(), Arc::clone(pool));
        calls.push(tokio::spawn(async move {
            let asked = Instant::now();
            let (key, wrapped) = pool.next();
            wire.unwrap(key, wrapped.clone()).await.unwrap();
            asked.elapsed()
        }));
    }
    let mut times = Vec::new();
    for call in calls {
        times.push(call.await.unwrap());
    }
    times.sort();
    times
}

/// How long each revocation of a device took that the administrator asked for while others unwrapped.
async fn revoke(dev: &Dev, wires: &[Wire], pool: &Arc<Pool>) -> Vec<Duration> {
    let admin = Wire::login(dev, Person::Admin).await;
    for number in 0..REVOCATIONS {
        Identity::enrolled(dev, &admin, &format!("lost-{number}")).await;
    }
    let running = Arc::new(AtomicBool::new(true));
    let (wires, pool, go_on) = (wires.to_vec(), Arc::clone(pool), Arc::clone(&running));
    let load = tokio::spawn(async move {
        let load = Load { in_flight: 64, receipts: Receipts::None };
        load.run(&wires, &pool, Arc::new(move || go_on.load(Ordering::Relaxed))).await
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut times = Vec::new();
    for number in 0..REVOCATIONS {
        let name = format!("devices/lost-{number}");
        let request = v1::RevokeDeviceRequest { name, reason: "lost".into() };
        let asked = Instant::now();
        admin.devices().revoke_device(admin.request(request)).await.unwrap();
        times.push(asked.elapsed());
    }
    running.store(false, Ordering::Relaxed);
    assert!(!load.await.unwrap().is_empty());
    times
}
