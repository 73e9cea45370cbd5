//! Requests lost while worker processes are killed: two SoftHSM tokens with the same keys, under load.
//!
//!     cargo bench -p softhsm-tests --bench kills
//!
//! A hundred times a worker is killed with SIGKILL while the other serves. A request is lost if its caller gets no key.
//! Target: 0.

use std::time::Instant;

use bench_rows::{Rows, Target};
use softhsm_tests::{Dev, Load};

const KILLS: usize = 100;

/// Kills before the custodian is started anew: a worker that is killed again and again is started ever later.
const KILLS_EACH: usize = 10;

const CALLERS: usize = 8;

fn main() {
    tokio::runtime::Runtime::new().unwrap().block_on(run());
}

async fn run() {
    let mut dev = Dev::with_two_tokens();
    let (mut kills, mut received, mut lost, mut pauses) = (0, 0, Vec::new(), Vec::new());
    while kills < KILLS {
        let mut load = Load::start(&dev, CALLERS).await;
        load.received(50).await;
        for turn in 0..KILLS_EACH {
            let workers = both(&dev, &[], &mut load).await;
            // Now this token's, now the other's.
            let victim = workers[turn % 2];
            Dev::signal(victim, "KILL");
            let begun = Instant::now();
            both(&dev, &[victim], &mut load).await;
            pauses.push(begun.elapsed());
            kills += 1;
        }
        lost.extend(load.failures());
        received += load.stop().await.len();
        dev = Dev::start_in(dev.stop().0);
    }
    pauses.sort();
    let mut rows = Rows::new("kills");
    let what = format!("one of two workers killed, {kills} times under load");
    rows.add(format!("{what}: requests answered"), received as f64, "", Target::None);
    rows.add(format!("{what}: requests lost"), lost.len() as f64, "", Target::AtMost(0.0));
    rows.add(format!("{what}: until both serve, median"), pauses[kills / 2].as_secs_f64(), "s", Target::None);
    rows.add(
        format!("{what}: until both serve, longest"),
        pauses[kills - 1].as_secs_f64(),
        "s",
        Target::None,
    );
    rows.finish();
    for (number, why) in lost.iter().enumerate().take(10) {
        println!("  lost {}: {why}", number + 1);
    }
}

/// Both workers, once both serve and neither is one of these; the load goes on meanwhile.
async fn both(dev: &Dev, gone: &[u32], load: &mut Load) -> Vec<u32> {
    loop {
        let workers = dev.workers();
        if workers.len() == 2 && !workers.iter().any(|pid| gone.contains(pid)) && dev.all_tokens_serve() {
            return workers;
        }
        let before = load.count();
        load.received(before + 1).await;
    }
}
