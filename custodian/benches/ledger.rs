//! Attempts per second that the ledger records durably, by the number of writers that wait for it at once.
//!
//! `cargo bench -p custodian --bench ledger`. Each writer begins an attempt, settles it at once and waits for that. The
//! standing is empty: the cost of reading it again is not in these figures.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use custodian::{
    authority::Standing,
    ledger::{Grant, Intent, Ledger, LedgerOptions, Missing, Outcome, SqliteLedger},
};
use sha2::Digest as _;
use uuid::Uuid;

const SPAN: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    println!(
        "writers  attempts/s  p50 ms  p99 ms   (begin and settle, each durable, in {})",
        directory.path().display()
    );
    for writers in [1, 8, 64, 256] {
        let path = directory.path().join(format!("{writers}.db"));
        let ledger = Arc::new(
            SqliteLedger::open(&path, LedgerOptions { missing: Missing::Create, ..Default::default() })
                .unwrap(),
        );
        let began = Instant::now();
        let tasks: Vec<_> = (0..writers).map(|_| tokio::spawn(write(Arc::clone(&ledger), began))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1_000.0;
        println!("{writers:>7}  {rate:>10.0}  {:>6.2}  {:>6.2}", at(0.5), at(0.99));
    }
}

async fn write(ledger: Arc<SqliteLedger>, began: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while began.elapsed() < SPAN {
        let start = Instant::now();
        let request_id = Uuid::now_v7();
        // Spread over the index as real ones are.
        let hash = sha2::Sha256::digest(request_id.as_bytes()).into();
        let attempt = ledger.begin(intent(request_id, hash));
        let grant = Grant { standing: Standing::default(), change: None };
        ledger.settle(attempt, Outcome::Granted(grant)).await.unwrap();
        times.push(start.elapsed());
    }
    times
}

fn intent(request_id: Uuid, wrapped_sha256: [u8; 32]) -> Intent {
    Intent {
        request_id,
        arrived: Instant::now(),
        operation: "Unwrap",
        factor: None,
        user: "users/anna".to_owned(),
        device: "devices/laptop-7".to_owned(),
        certificate: Some([7; 32]),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        key: custodian_proto::key::KeyId::from_bytes(&[5; 20]),
        wrapped_sha256: Some(wrapped_sha256),
        claims: Some(custodian_proto::v1::Claims {
            file_name: "quarterly-report-2026-Q3.mtd".to_owned(),
            file_size: 12_345_678,
            format: "mtd".to_owned(),
            reason: "ticket 4711".to_owned(),
        }),
        target: String::new(),
        reason: String::new(),
    }
}
