//! Seeded faults under load: whatever the module does, the laws hold, and the service comes back by itself (law 6).
//!
//! | environment | |
//! |---|---|
//! | `SCHEDULES` | how many; without it, as many as fit into `SCHEDULE_SECONDS` (40) |
//! | `SCHEDULE_SEED` | only this one; again and again if `SCHEDULES` is given, since threads never run twice alike |

use std::{
    collections::HashMap,
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use custodian_proto::{refusal::fault, v1};
use sha2::{Digest, Sha256};
use softhsm_tests::{
    Act, Dev, Dice, Done, Faults, Function, Person, Schedule, Wire, sealed_key, without_budgets,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

/// The deadline of one token operation.
const DEADLINE: Duration = Duration::from_millis(500);

/// The same with two tokens: as long as another can do it, a token gets half of the time.
const DEADLINE_OF_TWO: Duration = Duration::from_secs(2);

/// How long after its deadline a call may be answered: the deadline of a commit.
const COMMIT: Duration = Duration::from_secs(2);

/// How long a record may take to be seen.
const SEEN: Duration = Duration::from_secs(10);

/// How long the service may take to come back: a hang is noticed after its deadline and half a second; a worker pauses
/// for a second at most before it is replaced, and a new one that hangs gets two seconds.
const BACK: Duration = Duration::from_secs(6);

/// One in so many wrapped keys is garbage.
const GARBAGE: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_module_does_the_laws_hold_and_the_service_comes_back() {
    Plan::of_environment().carry_out(Bench::with(Tokens::One).await, Schedule::of).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_one_of_two_modules_does_no_request_is_lost() {
    Plan::of_environment().carry_out(Bench::with(Tokens::Two).await, Schedule::of_one_of_two).await;
}

/// Which schedules.
struct Plan {
    first: u64,
    only: Option<u64>,
    count: Option<usize>,
    time: Duration,
}

impl Plan {
    fn of_environment() -> Self {
        let number = |name| env::var(name).ok().map(|text: String| text.parse::<u64>().expect(name));
        let only = number("SCHEDULE_SEED");
        let count = number("SCHEDULES").or(only.map(|_| 1)).map(|count| count as usize);
        let time = Duration::from_secs(number("SCHEDULE_SECONDS").unwrap_or(40));
        Self { first: only.unwrap_or(1), only, count, time }
    }

    async fn carry_out(&self, mut bench: Bench, schedule: impl Fn(u64) -> Schedule) {
        let begun = Instant::now();
        let mut tally = Tally::default();
        let mut seed = self.first;
        while self.goes_on(&tally, begun) {
            let schedule = schedule(seed);
            if let Err(why) = bench.run(&schedule, &mut tally).await {
                bench.broken(&schedule, &why);
            }
            seed += u64::from(self.only.is_none());
        }
        println!("{:?}: {tally} in {:?}", bench.tokens, begun.elapsed());
        bench.end(&tally).await;
    }

    fn goes_on(&self, tally: &Tally, begun: Instant) -> bool {
        match self.count {
            Some(count) => tally.back.len() < count,
            None => begun.elapsed() < self.time,
        }
    }
}

/// What happened in all.
#[derive(Default)]
struct Tally {
    calls: usize,
    served: usize,
    faults: usize,
    /// How long the service took to come back, by schedule.
    back: Vec<Duration>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut back = self.back.clone();
        back.sort_unstable();
        let at = |share: f64| back.get((back.len() as f64 * share) as usize).or(back.last());
        write!(
            f,
            "{} schedules, {} faults, {} calls, {} of them served; back after {:?} (median), {:?} (99 of 100), {:?} (most)",
            back.len(),
            self.faults,
            self.calls,
            self.served,
            at(0.5).unwrap_or(&Duration::ZERO),
            at(0.99).unwrap_or(&Duration::ZERO),
            back.last().unwrap_or(&Duration::ZERO),
        )
    }
}

/// Of how many one fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tokens {
    /// It alone: while it fails, calls may find the token unavailable.
    One,
    /// Another has the same keys: every call is served.
    Two,
}

impl Tokens {
    fn deadline(self) -> Duration {
        match self {
            Self::One => DEADLINE,
            Self::Two => DEADLINE_OF_TWO,
        }
    }
}

/// A custodian with a token that fails as it is told, and the log as an auditor sees it grow.
struct Bench {
    tokens: Tokens,
    dev: Dev,
    faults: Faults,
    caller: Caller,
    log: Streaming<v1::Record>,
}

/// What one call came to.
struct Answer {
    request_id: String,
    wrapped_sha256: String,
    /// As records have it: `OK`, or the reason.
    outcome: String,
    took: Duration,
    /// Whether a good wrapped key was called bad.
    blamed: bool,
}

impl Bench {
    async fn with(tokens: Tokens) -> Self {
        let dev = match tokens {
            Tokens::One => Dev::start(),
            Tokens::Two => Dev::with_two_tokens(),
        };
        let mut faults = None;
        let folder = dev.reconfigured(|config, folder| {
            without_budgets(config);
            config["sessions"].as_table_mut().unwrap().insert("idle".into(), "10h".into());
            for token in config["token"].as_array_mut().unwrap() {
                let token = token.as_table_mut().unwrap();
                token.insert("deadline".into(), format!("{}ms", tokens.deadline().as_millis()).into());
                // Before the first only.
                faults.get_or_insert_with(|| Faults::before(token, folder.join("faults")));
            }
        });
        let dev = Dev::start_in(folder);
        let auditor = Wire::login(&dev, Person::Auditor).await;
        let filter = v1::RecordFilter { operation: "Unwrap".into(), ..Default::default() };
        let tail = v1::TailRecordsRequest { filter: Some(filter), from_start: true, ..Default::default() };
        let log = auditor.audit().tail_records(auditor.request(tail)).await.unwrap().into_inner();
        let caller = Caller::new(&dev).await;
        Self { tokens, dev, faults: faults.unwrap(), caller, log }
    }

    /// One schedule. The error says which law was broken.
    async fn run(&mut self, schedule: &Schedule, tally: &mut Tally) -> Result<(), String> {
        let stop = Arc::new(AtomicBool::new(false));
        let generation = self.faults.set(schedule.control.clone());
        let mut callers = JoinSet::new();
        for number in 0..schedule.callers {
            let (caller, stop) = (self.caller.clone(), Arc::clone(&stop));
            let dice = Dice::new(schedule.seed << 8 | number);
            callers.spawn(async move { caller.call_until(&stop, dice).await });
        }
        tokio::time::sleep(schedule.load).await;
        stop.store(true, Ordering::SeqCst);
        self.faults.clear();
        let ended = Instant::now();

        let mut answers = Vec::new();
        let mut dice = Dice::new(!schedule.seed);
        loop {
            let answer = self.caller.call(&dice.file_key()).await?;
            let served = answer.outcome == "OK";
            answers.push(answer);
            let workers = self.faults.workers();
            if workers.len() > 1 {
                return Err(format!("there are {} workers: {workers:?}", workers.len()));
            }
            let deeds = self.faults.deeds_of(generation);
            let hangs = deeds.iter().any(|deed| deed.done.act == Act::Hang && workers.contains(&deed.pid));
            if served && !hangs && !workers.is_empty() {
                break;
            }
            if ended.elapsed() > BACK {
                let last = &answers[answers.len() - 1].outcome;
                return Err(format!("the service is not back: {last}, workers {workers:?}"));
            }
        }
        let back = ended.elapsed();
        // The other serves meanwhile. The next schedule begins with both.
        while self.tokens == Tokens::Two && !self.dev.all_tokens_serve() {
            answers.push(self.caller.call(&dice.file_key()).await?);
            if ended.elapsed() > BACK + DEADLINE_OF_TWO {
                return Err(format!("the token is not back: {:?}", self.dev.tokens()));
            }
        }
        while let Some(called) = callers.join_next().await {
            answers.extend(called.unwrap()?);
        }
        let deeds = self.faults.deeds_of(generation);
        // No module tells a bad ciphertext from its own failure: so it has to fail twice, with the ciphertext at hand.
        let blamed = answers.iter().filter(|answer| answer.blamed).count();
        let codes = deeds.iter().filter(|deed| is_a_code_at_work(&deed.done)).count();
        if 2 * blamed > codes {
            return Err(format!("{blamed} good keys were called bad after {codes} errors"));
        }
        let lost = answers.iter().filter(|answer| answer.outcome == fault::TOKEN_UNAVAILABLE).count();
        if self.tokens == Tokens::Two && lost > 0 {
            return Err(format!("{lost} requests were lost"));
        }
        tally.back.push(back);
        tally.faults += deeds.len();
        tally.calls += answers.len();
        tally.served += answers.iter().filter(|answer| answer.outcome == "OK").count();
        self.compare(&answers).await
    }

    /// Every answer has a record that says the same, and every record belongs to an answer.
    async fn compare(&mut self, answers: &[Answer]) -> Result<(), String> {
        let mut waiting: HashMap<_, _> = answers.iter().map(|a| (a.request_id.as_str(), a)).collect();
        while !waiting.is_empty() {
            let next = timeout(SEEN, self.log.message()).await;
            let next = next.map_err(|_| format!("{} answers have no record", waiting.len()))?;
            let record = next.map_err(|status| status.to_string())?.ok_or("the log ended")?;
            let Some(answer) = waiting.remove(record.request_id.as_str()) else {
                return Err(format!("nobody was answered what this record says: {record:?}"));
            };
            if record.outcome != answer.outcome || record.wrapped_key_sha256 != answer.wrapped_sha256 {
                return Err(format!("answered {}, recorded {record:?}", answer.outcome));
            }
        }
        match answers.iter().map(|answer| answer.took).max() {
            Some(most) if most > self.tokens.deadline() + COMMIT => Err(format!("an answer took {most:?}")),
            _ => Ok(()),
        }
    }

    /// The whole log once more, and nothing is left behind.
    async fn end(self, tally: &Tally) {
        let records = Wire::records(&self.dev).await;
        for (index, record) in records.iter().enumerate() {
            assert_eq!(record.sequence, index as u64 + 1, "the log has a gap");
        }
        let unwraps = records.iter().filter(|record| record.operation == "Unwrap");
        assert_eq!(unwraps.count(), tally.calls);
        let (_folder, ran) = self.dev.stop();
        ran.expect(0);
        assert!(self.faults.workers().is_empty(), "workers are left behind");
    }

    fn broken(self, schedule: &Schedule, why: &str) -> ! {
        let (_folder, ran) = self.dev.stop();
        let lines: Vec<_> = ran.stderr.lines().collect();
        let log = lines[lines.len().saturating_sub(40)..].join("\n");
        let Schedule { seed, callers, load, control } = schedule;
        let test = match self.tokens {
            Tokens::One => "the_module_does",
            Tokens::Two => "one_of_two",
        };
        let faults: String = control.faults.iter().map(|fault| format!("  {fault:?}\n")).collect();
        panic!(
            "schedule {seed}: {why}\n\
             {callers} callers for {load:?}; {:?}\n{faults}\
             again: SCHEDULE_SEED={seed} SCHEDULES=20 cargo nextest run -p softhsm-tests --test schedules {test}\n\
             the custodian's log:\n{log}",
            control.token
        );
    }
}

fn is_a_code_at_work(done: &Done) -> bool {
    done.function == Function::Decrypt && matches!(done.act, Act::Return(_) | Act::DoThenReturn(_))
}

/// Calls as the operator, and judges each answer.
#[derive(Clone)]
struct Caller {
    wire: Wire,
    certificate: std::path::PathBuf,
}

impl Caller {
    async fn new(dev: &Dev) -> Self {
        Self { wire: Wire::login(dev, Person::Operator).await, certificate: dev.certificate() }
    }

    async fn call_until(&self, stop: &AtomicBool, mut dice: Dice) -> Result<Vec<Answer>, String> {
        let mut answers = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let file_key = dice.file_key();
            let garbage = dice.once_in(GARBAGE);
            answers.push(if garbage {
                self.call_with_garbage(dice.file_key()).await?
            } else {
                self.call(&file_key).await?
            });
        }
        Ok(answers)
    }

    /// A good wrapped key: its own file key comes back, or the token is unavailable.
    async fn call(&self, file_key: &[u8; 32]) -> Result<Answer, String> {
        let (key, wrapped) = sealed_key(&self.certificate, file_key);
        let (answer, received) = self.ask(&key, wrapped).await?;
        match received {
            Some(received) if received != file_key => Err("a wrong key was returned".into()),
            Some(_) => Ok(answer),
            None => match answer.outcome.as_str() {
                fault::TOKEN_UNAVAILABLE => Ok(answer),
                "WRAPPED_KEY_REJECTED" => Ok(Answer { blamed: true, ..answer }),
                other => Err(format!("a good key: {other}")),
            },
        }
    }

    /// Never answered with a key.
    async fn call_with_garbage(&self, start: [u8; 32]) -> Result<Answer, String> {
        let (key, mut wrapped) = sealed_key(&self.certificate, &start);
        wrapped[8..40].copy_from_slice(&start);
        let (answer, received) = self.ask(&key, wrapped).await?;
        match answer.outcome.as_str() {
            "WRAPPED_KEY_REJECTED" | fault::TOKEN_UNAVAILABLE if received.is_none() => Ok(answer),
            other => Err(format!("garbage: {other}")),
        }
    }

    async fn ask(&self, key: &str, wrapped: Vec<u8>) -> Result<(Answer, Option<Vec<u8>>), String> {
        let wrapped_sha256 = hex::encode(Sha256::digest(&wrapped));
        let begun = Instant::now();
        let answer = self.wire.unwrap(key, wrapped).await;
        let took = begun.elapsed();
        match answer {
            Ok(released) => {
                let answer = Answer {
                    request_id: released.request_id,
                    wrapped_sha256,
                    outcome: "OK".into(),
                    took,
                    blamed: false,
                };
                Ok((answer, Some(released.file_key)))
            }
            Err(status) => {
                let (request_id, outcome) = explained(&status)?;
                Ok((Answer { request_id, wrapped_sha256, outcome, took, blamed: false }, None))
            }
        }
    }
}

/// The request and the reason, which every refusal and fault names; and when to come back, if it is ours.
fn explained(status: &Status) -> Result<(String, String), String> {
    let details = status.get_error_details();
    match (details.request_info(), details.error_info()) {
        (Some(_), Some(_)) if status.code() == Code::Unavailable && details.retry_info().is_none() => {
            Err(format!("does not say when to come back: {status:?}"))
        }
        (Some(request), Some(error)) => Ok((request.request_id.clone(), error.reason.clone())),
        _ => Err(format!("an answer that explains nothing: {status:?}")),
    }
}
