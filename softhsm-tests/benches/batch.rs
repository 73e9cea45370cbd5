//! Batches of 256 unwraps, over mTLS and with a durable record for each, against bare `C_Decrypt` of the same key in the same
//! module with two sessions.
//!
//!     cargo bench -p softhsm-tests --bench batch
//!
//! Client, custodian and worker share the machine's cores. Rounds alternate; medians of the rounds' ratios are printed. Where
//! only the custodian's own CPU counts, the ratio is of processor time, as in the bench `unwrap`.

#[path = "common/mod.rs"]
mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bench_rows::{Rows, Spread, Target};
use common::{Pool, Round, at, in_turn, millis};
use custodian_proto::v1;
use softhsm_tests::{Dev, Wire, unwrap_request};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const ITEMS: u64 = 256;

/// How many batches there are at once, each on a connection of its own.
const AT_ONCE: [usize; 2] = [1, 2];

fn main() {
    // The module reads its configuration from the environment, so it runs in a process of its own.
    if let Some(bare) = common::bare_if_asked(ROUND) {
        println!("{bare}");
        return;
    }
    let dev = common::dev_without_budgets();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pool = Pool::of(&dev);
    let wires: Vec<Wire> = runtime.block_on(common::wires(&dev, 2));

    let serve = |at_once: &usize| runtime.block_on(serve(&dev, &wires[..*at_once], &pool));
    let (rounds, bare) = in_turn(ROUNDS, &AT_ONCE, serve, || common::run_bare(&dev, &pool));

    let mut rows = Rows::new("batch");
    for (at_once, rounds) in AT_ONCE.iter().zip(&rounds) {
        let name = |what: &str| format!("{what}, batches of {ITEMS}, {at_once} at once");
        let target = if *at_once == 1 { Target::AtLeast(0.97) } else { Target::None };
        let ratios = rounds.iter().zip(&bare).map(|(round, bare)| round.rate / bare.rate);
        rows.add(name("unwraps / bare C_Decrypt"), Spread::of(ratios), "ratio", target);
        let ratios = rounds.iter().zip(&bare).map(|(round, bare)| bare.cpu / round.cpu);
        rows.add(name("the same, the custodian's CPU only"), Spread::of(ratios), "ratio", Target::None);
        let each = rounds.iter().map(|round| millis(at(&round.times, 0.5)));
        rows.add(name("a whole batch, p50"), Spread::of(each), "ms", Target::None);
    }
    rows.finish();
}

/// Batches, one after the other on each of these connections.
async fn serve(dev: &Dev, wires: &[Wire], pool: &Arc<Pool>) -> Round {
    let start = Instant::now();
    let calls = async {
        let one = |wire: &Wire| {
            let (wire, pool) = (wire.clone(), Arc::clone(pool));
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < ROUND {
                    let begun = Instant::now();
                    batch(&wire, &pool).await;
                    times.push(begun.elapsed());
                }
                times
            })
        };
        let mut times = Vec::new();
        for caller in wires.iter().map(one).collect::<Vec<_>>() {
            times.extend(caller.await.unwrap());
        }
        times.sort();
        times
    };
    Round::of(dev, ITEMS as usize, calls).await
}

async fn batch(wire: &Wire, pool: &Pool) {
    let items: Vec<_> = (0..ITEMS)
        .map(|reference| {
            let (key, wrapped) = pool.next();
            v1::UnwrapBatchRequest { reference, unwrap: Some(unwrap_request(key, wrapped.clone())) }
        })
        .collect();
    let (answers, end) = wire.unwrap_batch(tokio_stream::iter(items)).await.unwrap().rest().await;
    end.unwrap();
    assert_eq!(answers.len() as u64, ITEMS);
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
}
