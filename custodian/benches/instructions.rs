//! The hot paths of the server, so and so often: for counting instructions (deploy/instructions.py), not for timing.
//!
//!     cargo bench -p custodian --bench instructions -- PATH TIMES

#![allow(clippy::panic, clippy::unwrap_used, reason = "a bench stops at the first error")]

#[path = "common/mod.rs"]
mod common;

use std::env;

use common::Scene;
use custodian::{authority::Need, ledger::Ledger as _};
use custodian_proto::key::{KeyWrapping, WrappedKey};
use uuid::Uuid;

/// Records that there are before receipts are made.
const RECORDS: u64 = 300;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [path, times] = &args[..] else { panic!("which path, and how often?") };
    let times: u64 = times.parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::new(&directory.path().join("ledger.db")).await;
    match path.as_str() {
        // Certificate, device, session, budgets, key and policy, as they are before the token is asked.
        "policy" => {
            let wrapped = WrappedKey::new(scene.key, KeyWrapping::OaepSha256, vec![7; 384]).unwrap();
            let intent = common::intent(Uuid::now_v7(), &wrapped, &scene.caller);
            for _ in 0..times {
                scene.authority.permit(&scene.caller, Need::Unwrap(&wrapped), &intent).await.ok().unwrap();
            }
        }
        // The same, and the durable record of it.
        "record" => {
            for _ in 0..times {
                scene.record_one().await;
            }
        }
        // The entry and its proof.
        "receipt" => {
            for _ in 0..RECORDS {
                scene.record_one().await;
            }
            for number in 0..times {
                scene.ledger.inclusion(number % RECORDS, RECORDS).await.unwrap().unwrap();
            }
        }
        other => panic!("there is no path {other}"),
    }
}
