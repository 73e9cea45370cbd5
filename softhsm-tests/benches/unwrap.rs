//! Unwraps through the whole custodian, over mTLS and with durable records: alone, with a receipt for each, and against bare
//! `C_Decrypt` of the same key in the same module with two sessions. Then, under the same load, how long a revocation takes.
//!
//!     cargo bench -p softhsm-tests --bench unwrap
//!
//! Client, custodian and worker share the machine's cores. Rounds alternate; medians and the medians of the rounds' ratios
//! are printed.

use std::{
    env,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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
    session::UserType,
    types::AuthPin,
};
use custodian_proto::v1;
use softhsm_tests::{Dev, Identity, Person, Wire, sealed_key, without_budgets};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const IN_FLIGHT: usize = 64;
const POOL: usize = 256;
const REVOCATIONS: usize = 200;

fn main() {
    // The module reads its configuration from the environment, so it runs in a process of its own.
    if let Ok(wrapped) = env::var("BENCH_WRAPPED") {
        println!("{}", bare(&wrapped));
        return;
    }
    let dev = Dev::start();
    // Budgets are for people, not for benches. They are charged all the same.
    let path = dev.dir().join("custodian.toml");
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    without_budgets(&mut config);
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    Dev::signal(dev.pid(), "HUP");

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pool: Pool = Arc::new((0..POOL).map(|_| sealed_key(&dev.certificate(), &[1; 32])).collect());
    let wire = runtime.block_on(Wire::login(&dev, Person::Operator));
    let mut rounds = Vec::new();
    println!("round  unwraps/s  with receipts/s  bare C_Decrypt/s, 2 sessions");
    for number in 1..=ROUNDS {
        // Whichever comes first finds the machine as the others left it: let each be it.
        let mut rates = [0.0; 3];
        for turn in 0..3 {
            let which = (number + turn) % 3;
            rates[which] = match which {
                0 => runtime.block_on(serve(&wire, &pool, Receipts::None)),
                1 => runtime.block_on(serve(&wire, &pool, Receipts::Each)),
                _ => run_bare(&dev.dir(), &pool[0].1),
            };
        }
        println!("{number:>5}  {:>9.0}  {:>15.0}  {:>28.0}", rates[0], rates[1], rates[2]);
        rounds.push(rates);
    }
    let over = |one: usize, other: usize| {
        let mut ratios: Vec<_> = rounds.iter().map(|rates| rates[one] / rates[other]).collect();
        ratios.sort_by(f64::total_cmp);
        format!("{:.2} ({:.2} to {:.2})", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1])
    };
    println!("unwraps / bare                 {}", over(0, 2));
    println!("with receipts / without        {}", over(1, 0));
    println!("with receipts / bare           {}", over(1, 2));
    println!("{IN_FLIGHT} in flight on one connection, RSA-3072; the client's CPU is on the same cores");
    let mut times = runtime.block_on(revoke(&dev, &wire, &pool));
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1_000.0;
    println!(
        "a revocation under this load, {} of them: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        times.len(),
        at(0.5),
        at(0.99),
        times[times.len() - 1].as_secs_f64() * 1_000.0
    );
}

/// Wrapped keys, each with the name of its wrapping key.
type Pool = Arc<Vec<(String, Vec<u8>)>>;

/// What is asked for beside a file key.
#[derive(Clone, Copy)]
enum Receipts {
    None,
    Each,
}

/// Unwraps a second.
async fn serve(wire: &Wire, pool: &Pool, receipts: Receipts) -> f64 {
    let start = Instant::now();
    let done = load(wire, pool, receipts, Arc::new(move || start.elapsed() < ROUND)).await;
    done as f64 / start.elapsed().as_secs_f64()
}

/// Asks for keys with so many callers at once, as long as `go_on` says. How many there were.
async fn load(
    wire: &Wire,
    pool: &Pool,
    receipts: Receipts,
    go_on: Arc<dyn Fn() -> bool + Send + Sync>,
) -> u64 {
    let next = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (wire, pool, next, done, go_on) =
                (wire.clone(), Arc::clone(pool), Arc::clone(&next), Arc::clone(&done), Arc::clone(&go_on));
            tokio::spawn(async move {
                while go_on() {
                    let (key, wrapped) = &pool[next.fetch_add(1, Ordering::Relaxed) % POOL];
                    match receipts {
                        Receipts::None => drop(wire.unwrap(key, wrapped.clone()).await.unwrap()),
                        Receipts::Each => {
                            let answer = wire.unwrap_with_receipt(key, wrapped.clone()).await;
                            assert!(!answer.unwrap().1.is_empty());
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    done.load(Ordering::Relaxed)
}

/// How long each revocation of a device took that the administrator asked for while others unwrapped.
async fn revoke(dev: &Dev, operator: &Wire, pool: &Pool) -> Vec<Duration> {
    let admin = Wire::login(dev, Person::Admin).await;
    for number in 0..REVOCATIONS {
        Identity::enrolled(dev, &admin, &format!("lost-{number}")).await;
    }
    let running = Arc::new(AtomicBool::new(true));
    let (operator, pool, go_on) = (operator.clone(), Arc::clone(pool), Arc::clone(&running));
    let load = tokio::spawn(async move {
        load(&operator, &pool, Receipts::None, Arc::new(move || go_on.load(Ordering::Relaxed))).await
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut times = Vec::new();
    for number in 0..REVOCATIONS {
        let name = format!("devices/lost-{number}");
        let request = v1::RevokeDeviceRequest { name, reason: "lost".into() };
        let asked = Instant::now();
        admin.devices().revoke_device(admin.request(request)).await.unwrap();
        times.push(asked.elapsed());
    }
    running.store(false, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
    times
}

fn run_bare(dir: &Path, wrapped: &[u8]) -> f64 {
    let output = Command::new(env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", dir.join("softhsm2.conf"))
        .env("BENCH_PIN_FILE", dir.join("token.pin"))
        .env("BENCH_WRAPPED", hex::encode(wrapped))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// `C_Decrypt`s a second with two sessions, each on a thread of its own.
fn bare(wrapped: &str) -> f64 {
    let wrapped = hex::decode(wrapped).unwrap();
    let module = Pkcs11::new("/usr/lib/softhsm/libsofthsm2.so").unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == "custodian-dev"));
    let slot = slot.unwrap();
    let pin = std::fs::read_to_string(env::var("BENCH_PIN_FILE").unwrap()).unwrap();
    let keeper = module.open_ro_session(slot).unwrap();
    keeper.login(UserType::User, Some(&AuthPin::new(pin.trim().into()))).unwrap();
    let key = keeper
        .find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)])
        .unwrap()[0];
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (session, wrapped, done) =
                (module.open_ro_session(slot).unwrap(), wrapped.clone(), Arc::clone(&done));
            thread::spawn(move || {
                let oaep =
                    PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, PkcsOaepSource::empty());
                let mechanism = Mechanism::RsaPkcsOaep(oaep);
                while start.elapsed() < ROUND {
                    assert_eq!(session.decrypt(&mechanism, key, &wrapped).unwrap().len(), 32);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}
