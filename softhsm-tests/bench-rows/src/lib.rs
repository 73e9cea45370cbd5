//! What benches print and write: a figure a row. `deploy/bench` makes one table of all of them.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first error")]

use std::{env, fs, path::Path};

use serde::Serialize;

/// The folder that rows are written to, if the environment names one: a file for each bench.
const FOLDER: &str = "BENCH_ROWS";

/// The commit that is measured, if the environment names one.
const COMMIT: &str = "BENCH_COMMIT";

/// The rows of one bench. Printed and written by [`Rows::finish`].
#[derive(Serialize)]
pub struct Rows {
    bench: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    value: f64,
    /// The least and the most of the rounds that `value` is the median of.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<[f64; 2]>,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// This, or more.
    AtLeast(f64),
    /// This, or less.
    AtMost(f64),
    /// There is none: the figure only tells.
    None,
}

/// The most memory that this process had at once, in MiB: proc(5).
pub fn peak_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kib / 1_024.0
}

/// A median, with the least and the most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The least and the most.
    pub range: Option<[f64; 2]>,
}

impl Spread {
    /// Of some rounds; at least one.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        Self { median: rounds[rounds.len() / 2], range: Some([rounds[0], rounds[rounds.len() - 1]]) }
    }
}

impl From<f64> for Spread {
    fn from(median: f64) -> Self {
        Self { median, range: None }
    }
}

impl Rows {
    /// None yet, of the bench of this name.
    pub fn new(bench: impl Into<String>) -> Self {
        Self { bench: bench.into(), commit: env::var(COMMIT).ok(), rows: Vec::new() }
    }

    /// Adds a row. `unit` is `ratio`, `ms`, `1/s` or the like.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        value: impl Into<Spread>,
        unit: &'static str,
        target: Target,
    ) {
        let Spread { median, range } = value.into();
        let (target, met) = match target {
            Target::AtLeast(least) => (Some(format!("≥ {}", bound(least))), Some(median >= least)),
            Target::AtMost(most) => (Some(format!("≤ {}", bound(most))), Some(median <= most)),
            Target::None => (None, None),
        };
        self.rows.push(Row { name: name.into(), value: median, range, unit, target, met });
    }

    /// Prints the rows, and writes them into the folder of [`FOLDER`], if there is one.
    pub fn finish(self) {
        for Row { name, value, range, unit, target, met } in &self.rows {
            let range = range.map(|[least, most]| format!(" ({} to {})", short(least), short(most)));
            let value = format!("{} {unit}{}", short(*value), range.unwrap_or_default());
            let target = match (target, met) {
                (Some(target), Some(met)) => format!("{target}: {}", if *met { "met" } else { "NOT met" }),
                _ => String::new(),
            };
            println!("{name:<64} {value:<32} {target}");
        }
        if let Some(folder) = env::var_os(FOLDER) {
            let path = Path::new(&folder).join(format!("{}.json", self.bench));
            fs::write(path, serde_json::to_vec_pretty(&self).unwrap()).unwrap();
        }
    }
}

/// `0.8`, `100`.
fn bound(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Three digits that count, or more before the point.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        least if least >= 100.0 => 0,
        least if least >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}
