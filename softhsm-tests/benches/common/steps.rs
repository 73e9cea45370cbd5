//! Where the time of an unwrap goes, as the custodian itself tells it: one line of its log for each step.

use std::{process::Command, time::Duration};

use bench_rows::{Rows, Target};
use softhsm_tests::{Dev, Wire, bin};
use tempfile::TempDir;

use super::{at, millis, wires};

const CONNECTIONS: usize = 16;

/// Spans of the custodian, and what they are.
const STEPS: [(&str, &str); 4] = [
    ("identify", "who asks"),
    ("permit", "policy and budgets"),
    ("token", "queue and token"),
    ("settle", "commit"),
];

/// Adds rows for a load, which gives how many unwraps it made. `folder` is that of a custodian that has ended, and is one
/// again.
pub fn add(
    rows: &mut Rows,
    folder: TempDir,
    load_name: &str,
    load: impl AsyncFnOnce(&[Wire]) -> usize,
) -> TempDir {
    let mut command = Command::new(bin("custodian"));
    command.args(["dev", "--dir"]).arg(folder.path().join("dev"));
    command.env("CUSTODIAN_LOG", "custodian::api=trace,custodian::custody=trace");
    let dev = Dev::start_as(folder, command);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let served = runtime.block_on(async { load(&wires(&dev, CONNECTIONS).await).await });
    assert!(served > 0);
    let (folder, ran) = dev.stop();
    for (span, what) in STEPS {
        let mut times: Vec<_> = ran.stderr.lines().filter_map(|line| closed(line, span)).collect();
        assert!(times.len() >= served, "the log has {} of {served} steps {span}", times.len());
        times.sort();
        for (share, percentile) in [(0.5, "p50"), (0.99, "p99")] {
            let name = format!("of it {span} ({what}), {percentile}, {load_name}");
            rows.add(name, millis(at(&times, share)), "ms", Target::None);
        }
    }
    folder
}

/// How long the span of this line was open: `… TRACE permit: …: close time.busy=81.2µs time.idle=1.05ms`.
fn closed(line: &str, span: &str) -> Option<Duration> {
    let (_, times) = line.split_once(&format!(" {span}: "))?.1.split_once("close time.busy=")?;
    let (busy, idle) = times.split_once(" time.idle=")?;
    Some(duration(busy)? + duration(idle)?)
}

/// `1.05ms`
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_alphabetic() || c == 'µ')?;
    let seconds = match &text[unit..] {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(text[..unit].parse::<f64>().ok()? * seconds))
}
