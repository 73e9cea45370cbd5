//! Unwraps through the whole custodian, over mTLS and with durable records, against bare `C_Decrypt` of the same key in
//! the same module with two sessions.
//!
//!     cargo bench -p softhsm-tests --bench unwrap
//!
//! Client, custodian and worker share the machine's cores. Rounds alternate; medians and their ratio are printed.

use std::{
    env,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
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
use softhsm_tests::{Dev, Person, Wire, sealed_key, without_budgets};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const IN_FLIGHT: usize = 64;
const POOL: usize = 256;

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
    let pool: Arc<Vec<_>> = Arc::new((0..POOL).map(|_| sealed_key(&dev.certificate(), &[1; 32])).collect());
    let wire = runtime.block_on(Wire::login(&dev, Person::Operator));
    let (mut served, mut bare) = (Vec::new(), Vec::new());
    println!("round  custodian/s   bare C_Decrypt/s, 2 sessions   ratio");
    for round in 1..=ROUNDS {
        let one = runtime.block_on(serve(&wire, &pool));
        let other = run_bare(&dev.dir(), &pool[0].1);
        println!("{round:>5}  {one:>11.0}   {other:>28.0}   {:.2}", one / other);
        served.push(one);
        bare.push(other);
    }
    let ratio = median(&mut served) / median(&mut bare);
    println!("median {:>11.0}   {:>28.0}   {ratio:.2}", median(&mut served), median(&mut bare));
    println!("{IN_FLIGHT} in flight on one connection, RSA-3072; the client's CPU is on the same cores");
}

async fn serve(wire: &Wire, pool: &Arc<Vec<(String, Vec<u8>)>>) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let callers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (wire, pool, next, done) =
                (wire.clone(), Arc::clone(pool), Arc::clone(&next), Arc::clone(&done));
            tokio::spawn(async move {
                while start.elapsed() < ROUND {
                    let (key, wrapped) = &pool[next.fetch_add(1, Ordering::Relaxed) % POOL];
                    wire.unwrap(key, wrapped.clone()).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
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

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
