//! What several benches need.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod steps;

use std::{
    env, fs,
    fs::File,
    io::Write,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, KeyType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use softhsm_tests::{Dev, Person, Wire, sealed_key, without_budgets};

/// A custodian without budgets: they are for people, not for benches. They are charged all the same.
pub fn dev_without_budgets() -> Dev {
    let dev = Dev::start();
    let path = dev.dir().join("custodian.toml");
    let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    without_budgets(&mut config);
    fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    Dev::signal(dev.pid(), "HUP");
    dev
}

/// Runs `custodian` on one half of the cores, and gives what it made to `callers` on the other. What a thread starts, other threads
/// and processes, stays on its cores. Nothing is run where there is one core only.
pub fn apart<T>(custodian: impl FnOnce() -> T, callers: impl FnOnce(T)) {
    let all = sched_getaffinity(None).unwrap();
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    let (of_callers, of_custodian) = cores.split_at(cores.len() / 2);
    if of_callers.is_empty() {
        println!("there is one core only: not measured with callers on cores of their own");
        return;
    }
    keep_to(of_custodian);
    let made = custodian();
    keep_to(of_callers);
    callers(made);
    keep_to(&cores);
}

fn keep_to(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).unwrap();
}

/// So many connections, with a session each.
pub async fn wires(dev: &Dev, count: usize) -> Vec<Wire> {
    let first = Wire::login(dev, Person::Operator).await;
    let mut wires = Vec::new();
    for _ in 1..count {
        let wire = Wire::connect(dev, &softhsm_tests::Identity::of(dev, Person::Operator)).await.unwrap();
        wires.push(wire.with_token(first.token()));
    }
    wires.insert(0, first);
    wires
}

/// Wrapped keys, each with the name of its wrapping key.
pub struct Pool {
    keys: Vec<(String, Vec<u8>)>,
    next: AtomicUsize,
}

impl Pool {
    pub fn of(dev: &Dev) -> Arc<Self> {
        let keys = (0..256).map(|_| sealed_key(&dev.certificate(), &[1; 32])).collect();
        Arc::new(Self { keys, next: AtomicUsize::new(0) })
    }

    pub fn next(&self) -> &(String, Vec<u8>) {
        &self.keys[self.next.fetch_add(1, Ordering::Relaxed) % self.keys.len()]
    }
}

/// Callers who ask again as soon as they have an answer.
#[derive(Clone, Copy)]
pub struct Load {
    pub in_flight: usize,
    pub receipts: Receipts,
}

/// What is asked for beside a file key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Receipts {
    None,
    Each,
}

impl Load {
    /// Asks as long as `go_on` says. How long each answer took, the shortest first.
    pub async fn run(
        self,
        wires: &[Wire],
        pool: &Arc<Pool>,
        go_on: Arc<dyn Fn() -> bool + Send + Sync>,
    ) -> Vec<Duration> {
        let callers: Vec<_> = (0..self.in_flight)
            .map(|number| {
                let (wire, pool, go_on) =
                    (wires[number % wires.len()].clone(), Arc::clone(pool), Arc::clone(&go_on));
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while go_on() {
                        let (key, wrapped) = pool.next();
                        let asked = Instant::now();
                        if self.receipts == Receipts::Each {
                            let (released, receipt) =
                                wire.unwrap_with_receipt(key, wrapped.clone()).await.unwrap();
                            if receipt.is_empty() {
                                wire.receipt(released.sequence).await.unwrap();
                            }
                        } else {
                            wire.unwrap(key, wrapped.clone()).await.unwrap();
                        }
                        times.push(asked.elapsed());
                    }
                    times
                })
            })
            .collect();
        let mut times = Vec::new();
        for caller in callers {
            times.extend(caller.await.unwrap());
        }
        times.sort();
        times
    }
}

/// What one round of one way of asking came to.
pub struct Round {
    /// File keys a second.
    pub rate: f64,
    /// Processor seconds of the custodian, network process and worker, for one of them.
    pub cpu: f64,
    /// How long each call took, the shortest first.
    pub times: Vec<Duration>,
}

impl Round {
    /// Of calls that each bring so many file keys.
    pub async fn of(dev: &Dev, keys: usize, calls: impl Future<Output = Vec<Duration>>) -> Self {
        let (before, start) = (used(dev), Instant::now());
        let times = calls.await;
        let (took, done) = (start.elapsed().as_secs_f64(), (times.len() * keys) as f64);
        Self { rate: done / took, cpu: (used(dev) - before) / done, times }
    }
}

/// Processor seconds of network process and worker.
pub fn used(dev: &Dev) -> f64 {
    cpu(dev.pid()) + cpu(dev.worker().unwrap())
}

/// So many rounds of each way, and of bare `C_Decrypt`. Whichever comes first finds the machine as the others left it: each is
/// it in turn.
pub fn in_turn<W>(
    count: usize,
    ways: &[W],
    mut round: impl FnMut(&W) -> Round,
    mut bare: impl FnMut() -> Bare,
) -> (Vec<Vec<Round>>, Vec<Bare>) {
    let mut rounds: Vec<Vec<Round>> = ways.iter().map(|_| Vec::new()).collect();
    let mut alone = Vec::new();
    for number in 0..count {
        for turn in 0..=ways.len() {
            let which = (number + turn) % (ways.len() + 1);
            match ways.get(which) {
                Some(way) => rounds[which].push(round(way)),
                None => alone.push(bare()),
            }
        }
    }
    (rounds, alone)
}

/// What bare `C_Decrypt` did.
pub struct Bare {
    /// A second, with two sessions.
    pub rate: f64,
    /// Processor seconds for one.
    pub cpu: f64,
    /// The time of one, with nothing beside.
    pub alone: Duration,
}

/// Measures it in a process of its own, with the module's configuration.
pub fn run_bare(dev: &Dev, pool: &Pool) -> Bare {
    let output = Command::new(env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", dev.dir().join("softhsm2.conf"))
        .env("BENCH_PIN_FILE", dev.dir().join("token.pin"))
        .env("BENCH_WRAPPED", hex::encode(&pool.keys[0].1))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    Bare { rate: numbers[0], cpu: numbers[1], alone: Duration::from_secs_f64(numbers[2]) }
}

/// In the process that [`run_bare`] starts: what it reads.
pub fn bare_if_asked(round: Duration) -> Option<String> {
    let wrapped = hex::decode(env::var("BENCH_WRAPPED").ok()?).unwrap();
    let module = Pkcs11::new("/usr/lib/softhsm/libsofthsm2.so").unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let mut slots = module.get_slots_with_token().unwrap().into_iter();
    let slot =
        slots.find(|slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == "custodian-dev"));
    let slot = slot.unwrap();
    let pin = fs::read_to_string(env::var("BENCH_PIN_FILE").unwrap()).unwrap();
    let keeper = module.open_ro_session(slot).unwrap();
    keeper.login(UserType::User, Some(&AuthPin::new(pin.trim().into()))).unwrap();
    let key = keeper
        .find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)])
        .unwrap()[0];
    let decrypt = |session: &Session| {
        let oaep = PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, PkcsOaepSource::empty());
        assert_eq!(session.decrypt(&Mechanism::RsaPkcsOaep(oaep), key, &wrapped).unwrap().len(), 32);
    };
    let mut alone: Vec<_> = (0..50)
        .map(|_| {
            let start = Instant::now();
            decrypt(&keeper);
            start.elapsed()
        })
        .collect();
    alone.sort();
    let before = cpu(std::process::id());
    let start = Instant::now();
    let done: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let session = module.open_ro_session(slot).unwrap();
                let decrypt = &decrypt;
                scope.spawn(move || {
                    let mut done = 0;
                    while start.elapsed() < round {
                        decrypt(&session);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let (took, spent) = (start.elapsed().as_secs_f64(), cpu(std::process::id()) - before);
    Some(format!("{} {} {}", done as f64 / took, spent / done as f64, alone[25].as_secs_f64()))
}

/// Processor seconds that a process has used, all its threads together: proc(5).
pub fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which may have spaces: user time is the 12th, system time the 13th.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

/// The median of an appended page made durable, where the ledger is.
pub fn fsync(dev: &Dev) -> Duration {
    let path = dev.scratch("fsync").join("file");
    let mut file = File::create(&path).unwrap();
    let mut times: Vec<_> = (0..100)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[1; 4096]).unwrap();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[50]
}

/// The time that this share of them stays within.
pub fn at(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
