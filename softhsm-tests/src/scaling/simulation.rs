//! The same stations, request by request. Nothing here knows the closed forms.

use super::{Commits, Servers};
use crate::Dice;

/// Times of arrival, seconds: `count` requests that come by chance, `rate` a second.
pub fn arrivals(rate: f64, count: usize, seed: u64) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let mut now = 0.0;
    (0..count)
        .map(|_| {
            // Never 0, whose logarithm is none.
            let chance = dice.between(1, 1 << 53) as f64 / (1_u64 << 53) as f64;
            now -= chance.ln() / rate;
            now
        })
        .collect()
}

/// When each of them leaves the servers: the first that is free takes who is first in the line.
pub fn through_servers(arrivals: &[f64], servers: &Servers) -> Vec<f64> {
    let mut ends: Vec<f64> = Vec::with_capacity(arrivals.len());
    for (number, arrival) in arrivals.iter().enumerate() {
        // All take the same time: whoever began so many before this one is the next to be done.
        let free = number.checked_sub(servers.count).map_or(0.0, |before| ends[before]);
        ends.push(arrival.max(free) + servers.each);
    }
    ends
}

/// When the commit of each of them ends.
pub fn through_commits(arrivals: &[f64], commits: &Commits) -> Vec<f64> {
    let mut ends = Vec::with_capacity(arrivals.len());
    let mut free = 0.0_f64;
    while ends.len() < arrivals.len() {
        let first = ends.len();
        let begins = free.max(arrivals[first]) + commits.gather;
        let waiting = arrivals[first..].iter().take_while(|arrival| **arrival <= begins);
        let taken = waiting.take(commits.most_in_one as usize).count();
        free = begins + commits.fixed + commits.each * taken as f64;
        ends.extend(std::iter::repeat_n(free, taken));
    }
    ends
}

/// How long requests were there.
pub struct Sojourns {
    sorted: Vec<f64>,
}

impl Sojourns {
    /// From when they came and left; the first tenth, before there were lines, does not count.
    pub fn of(arrivals: &[f64], ends: &[f64]) -> Self {
        let times = arrivals.iter().zip(ends).skip(arrivals.len() / 10).map(|(arrival, end)| end - arrival);
        let mut sorted: Vec<f64> = times.collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    /// Seconds on average.
    pub fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }

    /// Seconds that so many (0.99) are not above.
    pub fn at(&self, share: f64) -> f64 {
        self.sorted[(self.sorted.len() as f64 * share) as usize]
    }
}
