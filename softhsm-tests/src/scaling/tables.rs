//! The results, as tables in Markdown: what `docs/scaling.md` shows.

use super::{Commits, Inputs, Servers, Sojourns, arrivals, through_commits, through_servers};

/// Requests of one simulation.
const REQUESTS: usize = 200_000;
const SEED: u64 = 7;

/// Rates to plan for, unwraps a second.
const RATES: [f64; 3] = [1_000.0, 10_000.0, 100_000.0];

/// A network HSM of a larger class than the input `hsm`, RSA-3072 decryptions a second.
const LARGE_HSM: f64 = 3_000.0;

/// Cores of a node that is bought.
const NODE: f64 = 16.0;

/// Where the keys are.
#[derive(Clone, Copy)]
enum Token {
    /// In SoftHSM, on the node's own cores.
    Soft,
    /// In so many network HSMs of this rate.
    Network(usize, f64),
}

/// One custodian.
struct Node<'a> {
    inputs: &'a Inputs,
    cores: usize,
    token: Token,
}

impl Node<'_> {
    fn name(&self) -> String {
        match self.token {
            Token::Soft => format!("{} cores, SoftHSM", self.cores),
            Token::Network(count, rate) => format!("{} cores, {count} HSMs of {}/s", self.cores, whole(rate)),
        }
    }

    /// The cores, with SoftHSM's work on them if it is there.
    fn processor(&self) -> Servers {
        let token = match self.token {
            Token::Soft => self.inputs.seconds("rsa"),
            Token::Network(..) => 0.0,
        };
        Servers { count: self.cores, each: self.inputs.seconds("node") + token }
    }

    fn hsms(&self) -> Option<Servers> {
        match self.token {
            Token::Soft => None,
            Token::Network(count, rate) => Some(Servers { count, each: 1.0 / rate }),
        }
    }

    fn ledger(&self, rate: f64) -> Commits {
        let commits = commits(self.inputs);
        let before = self.before_the_ledger(rate) + commits.sojourn(rate);
        // Little's law: how many are under way. A quarter of them come in a quarter of the time that each takes.
        let crowd = rate * before > self.inputs.of("crowd");
        let gather = if crowd { self.inputs.seconds("gather").min(before / 4.0) } else { 0.0 };
        Commits { gather, ..commits }
    }

    /// Unwraps a second at which the first station ends.
    fn most(&self) -> f64 {
        let hsms = self.hsms().map_or(f64::INFINITY, |hsms| hsms.most());
        self.processor().most().min(hsms).min(commits(self.inputs).most())
    }

    fn before_the_ledger(&self, rate: f64) -> f64 {
        let trip = self.hsms().map_or(0.0, |hsms| hsms.sojourn(rate) + self.inputs.seconds("trip"));
        self.processor().sojourn(rate) + trip
    }

    /// Seconds an unwrap takes on average: the closed forms, added up.
    fn computed(&self, rate: f64) -> f64 {
        let second = second(self.inputs).map_or(0.0, |second| second.sojourn(rate));
        self.before_the_ledger(rate) + self.ledger(rate).sojourn(rate) + second
    }

    /// The same, request by request.
    fn simulated(&self, rate: f64) -> Sojourns {
        let arrived = arrivals(rate, REQUESTS, SEED);
        let mut ends = through_servers(&arrived, &self.processor());
        if let Some(hsms) = self.hsms() {
            let trip = self.inputs.seconds("trip");
            ends = through_servers(&ends, &hsms).into_iter().map(|end| end + trip).collect();
        }
        ends = through_commits(&ends, &self.ledger(rate));
        if let Some(second) = second(self.inputs) {
            ends = through_commits(&ends, &second);
        }
        Sojourns::of(&arrived, &ends)
    }
}

/// The ledger's commits where none waits for company: beside few, and where so many wait that each commit is full.
fn commits(inputs: &Inputs) -> Commits {
    Commits {
        gather: 0.0,
        fixed: inputs.seconds("fsync"),
        each: inputs.seconds("record"),
        most_in_one: inputs.of("group"),
    }
}

/// The second place, if there is one: it takes all records that wait at once.
fn second(inputs: &Inputs) -> Option<Commits> {
    let fixed = Some(inputs.seconds("second")).filter(|seconds| *seconds > 0.0)?;
    Some(Commits { gather: 0.0, fixed, each: 0.0, most_in_one: f64::INFINITY })
}

/// All tables, in the order of the document.
pub fn tables(inputs: &Inputs) -> Vec<String> {
    vec![the_inputs(inputs), ends(inputs), takes(inputs), stations(inputs), to_buy(inputs)]
}

fn the_inputs(inputs: &Inputs) -> String {
    let rows = inputs.all().iter().map(|input| {
        let value = format!("{} {}", input.value, input.unit);
        vec![
            format!("`--{}`", input.name),
            value.trim().to_owned(),
            input.what.to_owned(),
            input.from.to_owned(),
        ]
    });
    table(&["input", "value", "what", "from"], rows)
}

/// Where one custodian ends.
fn ends(inputs: &Inputs) -> String {
    let hsm = inputs.of("hsm");
    let nodes = [
        (inputs.of("cores") as usize, Token::Soft),
        (8, Token::Soft),
        (32, Token::Soft),
        (4, Token::Network(2, hsm)),
        (8, Token::Network(8, LARGE_HSM)),
        (32, Token::Network(16, LARGE_HSM)),
    ];
    let rows = nodes.map(|(cores, token)| {
        let node = Node { inputs, cores, token };
        let (processor, ledger) = (node.processor().most(), commits(inputs).most());
        let hsms = node.hsms().map(|hsms| hsms.most());
        let first = match (hsms, token) {
            (Some(hsms), _) if hsms <= processor && hsms <= ledger => "the HSMs",
            _ if ledger < processor => "the ledger",
            (_, Token::Soft) => "the cores: RSA in software",
            _ => "the cores",
        };
        let hsms = hsms.map_or("on the cores".to_owned(), whole);
        vec![node.name(), whole(processor), hsms, whole(ledger), format!("{}/s: {first}", whole(node.most()))]
    });
    table(&["one custodian", "cores", "token", "ledger", "ends at"], rows)
}

/// How long an unwrap takes, the busier it is.
fn takes(inputs: &Inputs) -> String {
    let nodes = [
        Node { inputs, cores: inputs.of("cores") as usize, token: Token::Soft },
        Node { inputs, cores: 8, token: Token::Network(8, LARGE_HSM) },
    ];
    let mut rows = Vec::new();
    for node in &nodes {
        for busy in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let rate = node.most() * busy;
            let (computed, simulated) = (node.computed(rate), node.simulated(rate));
            let ms = |seconds: f64| format!("{:.2}", seconds * 1e3);
            rows.push(vec![
                node.name(),
                format!("{}/s ({:.0} %)", whole(rate), busy * 100.0),
                ms(computed),
                ms(simulated.mean()),
                ms(simulated.at(0.5)),
                ms(simulated.at(0.99)),
            ]);
        }
    }
    let head = ["one custodian", "load", "mean ms, computed", "mean ms, simulated", "p50", "p99"];
    table(&head, rows)
}

/// How busy each station would be.
fn stations(inputs: &Inputs) -> String {
    let soft = Node { inputs, cores: NODE as usize, token: Token::Soft };
    let lean = Node { inputs, cores: NODE as usize, token: Token::Network(1, inputs.of("hsm")) };
    let ledger = commits(inputs);
    let rows = RATES.map(|rate| {
        let share = |most: f64| format!("{:.0} %", 100.0 * rate / most);
        let stations = [
            ("RSA in software", soft.processor().most()),
            ("cores", lean.processor().most()),
            ("ledger", ledger.most()),
        ];
        let fits = |most: f64| rate / most <= inputs.of("busy") / 100.0;
        let too_busy: Vec<_> =
            stations.iter().filter(|(_, most)| !fits(*most)).map(|(name, _)| *name).collect();
        let first = if too_busy.is_empty() { "nothing".to_owned() } else { too_busy.join(", ") };
        let mut row = vec![format!("{}/s", whole(rate))];
        row.extend(stations.map(|(_, most)| share(most)));
        row.push(first);
        row
    });
    let cores = format!("{} cores with SoftHSM", whole(NODE));
    table(&["unwraps", &cores, "the same with network HSMs", "one ledger", "too busy"], rows)
}

/// What it takes.
fn to_buy(inputs: &Inputs) -> String {
    let busy = inputs.of("busy") / 100.0;
    let ledger = commits(inputs).most();
    let rows = RATES.map(|rate| {
        let with_one_spare = |each: f64| format!("{} + 1", whole((rate / (each * busy)).ceil()));
        let ledgers = (rate / (ledger * busy)).ceil();
        let ledgers = match ledgers {
            ledgers if ledgers <= 1.0 => "one is enough".to_owned(),
            ledgers => format!("{} times what one does", whole(ledgers)),
        };
        vec![
            format!("{}/s", whole(rate)),
            with_one_spare(inputs.of("hsm")),
            with_one_spare(LARGE_HSM),
            with_one_spare(NODE / inputs.seconds("node")),
            ledgers,
        ]
    });
    let small = format!("HSMs of {}/s", whole(inputs.of("hsm")));
    let large = format!("HSMs of {}/s", whole(LARGE_HSM));
    let nodes = format!("nodes of {} cores", whole(NODE));
    table(&["unwraps", &small, &large, &nodes, "ledger"], rows)
}

/// 12,345
fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number);
    let mut spelled = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            spelled.push(',');
        }
        spelled.push(digit);
    }
    spelled
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    text.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    rows.into_iter().for_each(|row| text.push_str(&line(&row)));
    text
}
