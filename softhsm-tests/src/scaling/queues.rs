//! Closed forms: what a request waits on average.

/// So many servers that each take the same time for every request: cores of a node, sessions of an HSM (M/D/c).
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    /// How many.
    pub count: usize,
    /// Seconds for one request.
    pub each: f64,
}

impl Servers {
    /// Requests a second beyond which the line grows for ever.
    pub fn most(&self) -> f64 {
        self.count as f64 / self.each
    }

    /// Seconds from arrival to end, on average, at `rate` requests a second. Infinite if that is too much.
    ///
    /// The wait of M/M/c (Erlang C), halved, with Cosmetatos' correction for constant times: exact for one server, within a
    /// percent or two for more.
    pub fn sojourn(&self, rate: f64) -> f64 {
        let (count, busy) = (self.count as f64, rate * self.each / self.count as f64);
        if busy >= 1.0 {
            return f64::INFINITY;
        }
        let exponential = self.waits(rate) * self.each / (count * (1.0 - busy));
        let correction =
            (1.0 - busy) * (count - 1.0) * ((4.0 + 5.0 * count).sqrt() - 2.0) / (16.0 * busy * count);
        // Where next to nobody waits, the correction is out of its range.
        self.each + 0.5 * exponential * (1.0 + correction.min(1.0))
    }

    /// The share of requests that wait, in M/M/c: Erlang C, by way of Erlang B, which stays small.
    fn waits(&self, rate: f64) -> f64 {
        let load = rate * self.each;
        let mut blocked = 1.0;
        for server in 1..=self.count {
            blocked = load * blocked / (server as f64 + load * blocked);
        }
        let busy = load / self.count as f64;
        blocked / (1.0 - busy * (1.0 - blocked))
    }
}

/// One at a time serves all that wait: a commit, a write to the second place.
#[derive(Clone, Copy, Debug)]
pub struct Commits {
    /// Seconds that one waits for company before it begins.
    pub gather: f64,
    /// Seconds that each takes, whatever is in it.
    pub fixed: f64,
    /// Seconds that each request in it adds.
    pub each: f64,
    /// Most requests in one.
    pub most_in_one: f64,
}

impl Commits {
    /// Requests a second beyond which the line grows for ever.
    pub fn most(&self) -> f64 {
        if self.gather + self.fixed + self.each == 0.0 {
            return f64::INFINITY;
        }
        self.most_in_one / (self.gather + self.fixed + self.each * self.most_in_one)
    }

    /// Seconds from arrival to end, on average, at `rate` requests a second. Infinite if that is too much.
    ///
    /// A commit that ends finds nobody with probability e^(-λF), F being what it took; then the next that comes begins
    /// another. Who comes while one gathers is served by it, who comes while it is written by the next. F itself depends on
    /// how many are in one: the fixed point of the averages.
    pub fn sojourn(&self, rate: f64) -> f64 {
        if rate >= self.most() {
            return f64::INFINITY;
        }
        let mut takes = self.fixed;
        for _ in 0..1_000 {
            takes = self.fixed + self.each * self.in_one(rate, takes);
        }
        let (gathering, writing, nobody) = (rate * self.gather, rate * takes, (-rate * takes).exp());
        let whole = self.gather + takes;
        let waited =
            gathering * (self.gather / 2.0 + takes) + writing * (takes / 2.0 + whole) + nobody * whole;
        waited / (gathering + writing + nobody)
    }

    /// Requests in a commit that takes so long, on average.
    fn in_one(&self, rate: f64, takes: f64) -> f64 {
        (rate * (self.gather + takes) + (-rate * takes).exp()).min(self.most_in_one)
    }
}
