//! Attempts per second that the ledger records durably, by the number of writers that wait for it at once, and the processor
//! time of each.
//!
//! `cargo bench -p custodian --bench ledger`. Each writer asks for a permit, as an unwrap does, and settles the attempt at
//! once: reading again what the permit was given on, charging the budgets, and writing the record. Every attempt is of
//! another file. What is missing of an unwrap is the network and the token.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

#[path = "common/mod.rs"]
mod common;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Target};
use common::Scene;

const SPAN: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = Rows::new("ledger");
    for writers in [1, 8, 64, 256] {
        let scene = Arc::new(Scene::new(&directory.path().join(format!("{writers}.db"))).await);
        let (began, cpu) = (Instant::now(), cpu_time());
        let tasks: Vec<_> = (0..writers).map(|_| tokio::spawn(write(Arc::clone(&scene), began))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / times.len() as f64;
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1_000.0;
        rows.add(format!("permit and durable record, {writers} at once"), rate, "1/s", Target::None);
        rows.add(format!("the same, {writers} at once: CPU of each"), cpu, "µs", Target::None);
        rows.add(format!("the same, {writers} at once: p50"), at(0.5), "ms", Target::None);
        rows.add(format!("the same, {writers} at once: p99"), at(0.99), "ms", Target::None);
    }
    rows.finish();
}

async fn write(scene: Arc<Scene>, began: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while began.elapsed() < SPAN {
        let start = Instant::now();
        scene.record_one().await;
        times.push(start.elapsed());
    }
    times
}

/// Processor time of this process: proc(5), fields 14 and 15, in 1/100 s.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
