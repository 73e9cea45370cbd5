//! How long a rejection takes, by what is wrong with the ciphertext: does time tell anything (Bleichenbacher 1998, Marvin 2023)?
//!
//!     cargo build --release --workspace --bins
//!     cargo run --release -p softhsm-tests --example marvin -- [--samples N] [--seconds N] [--connections N]
//!
//! For a key with OAEP and one of OpenPGP (PKCS #1 v1.5), each through the whole custodian (mTLS, a record for each), and
//! through SoftHSM's bare `C_Decrypt` for comparison. Rounds of one ciphertext of each class, in an order drawn anew each
//! time, one after the other on one connection: until there are N samples of each class, or the seconds for that way are
//! over (the default: 100,000 and 60). A rejection waits for a step of 25 ms; several connections, 32 at most, use that time, and
//! are in each other's way: each sample tells a little less, and there are many more. The bare module gets 20 seconds at most.
//!
//! Samples of one round belong together, so each class is compared with the first by the differences within rounds: the sign
//! test, the signed-rank test of Wilcoxon, and the median of the differences with its confidence interval by bootstrap. That
//! is how tlsfuzzer does it (H. Kario, "Everlasting ROBOT: the Marvin attack", 2023). The second class is made like the first:
//! what it shows is what the method sees where nothing is to be seen.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use custodian_proto::{key::FileKey, openpgp, v1};
use der::{Decode, Encode};
use softhsm_tests::{Dev, Dice, Identity, Person, Wire, run, without_budgets};
use tokio::task::JoinSet;
use x509_cert::Certificate;

/// Ciphertexts of each class. Which one is sent is drawn: what one ciphertext takes by itself is no difference of classes.
const POOL: usize = 32;
/// Below this, after Bonferroni's correction, a difference is called one.
const ALPHA: f64 = 0.001;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 400;
/// Bytes of the modulus.
const K: usize = 256;

/// Tells this program to measure the bare module: its modes are in the environment, because the module is configured there.
const BARE: &str = "CUSTODIAN_MARVIN_BARE";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Oaep,
    Pkcs1,
}

/// Ciphertexts that have one thing wrong.
struct Class {
    name: &'static str,
    pool: Vec<Vec<u8>>,
}

fn main() -> ExitCode {
    if let Ok(order) = env::var(BARE) {
        bare(&order);
        return ExitCode::SUCCESS;
    }
    let number = |name: &str, usual: u64| {
        let mut arguments = env::args().skip_while(|argument| argument != name).skip(1);
        arguments
            .next()
            .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
    };
    let (samples, time) =
        (number("--samples", 100_000) as usize, Duration::from_secs(number("--seconds", 60)));
    let connections = number("--connections", 1);

    let dev = Dev::start();
    let path = dev.dir().join("custodian.toml");
    let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    // Budgets and locks are what really stops somebody who tries. Here they would stop the measurement.
    without_budgets(&mut config);
    fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    Dev::signal(dev.pid(), "HUP");
    let create = |label: &str, more: &[&str]| {
        let args = [&["key", "create", label, "--bits", "2048", "--json"][..], more].concat();
        dev.ctl(Person::Admin, args).expect(0);
    };
    create("oaep", &[]);
    create("pkcs1", &["--openpgp"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (wires, keys) = runtime.block_on(async {
        let wire = Wire::login(&dev, Person::Operator).await;
        let mut wires = vec![wire.clone()];
        while (wires.len() as u64) < connections {
            let another = Wire::connect(&dev, &Identity::of(&dev, Person::Operator)).await.unwrap();
            wires.push(another.with_token(wire.token()));
        }
        let listed = wire.keys().list_keys(wire.request(v1::ListKeysRequest::default())).await.unwrap();
        (wires, listed.into_inner().keys)
    });

    let mut sound = true;
    for (label, padding) in [("oaep", Padding::Oaep), ("pkcs1", Padding::Pkcs1)] {
        let key = keys.iter().find(|key| key.label == label).unwrap();
        let certificate = Certificate::from_der(&key.certificate).unwrap();
        let spki = certificate.tbs_certificate().subject_public_key_info().to_der().unwrap();
        let classes = classes(padding, &Public::new(&dev.scratch(label), &spki));

        let classes = Arc::new(classes);
        let rounds = runtime.block_on(through(&wires, key, &classes, samples, time));
        sound &= report(&format!("{label}: through the custodian"), &classes, &rounds);

        let rounds = run_bare(&dev, label, padding, &classes, samples, time.min(Duration::from_secs(20)));
        report(&format!("{label}: SoftHSM's bare C_Decrypt, for comparison"), &classes, &rounds);
    }
    let verdict = if sound { "no difference is seen" } else { "THERE IS A DIFFERENCE" };
    println!("Through the custodian: {verdict} (p < {ALPHA} after Bonferroni's correction would be one).");
    // Not by exit(): that would leave the custodian running.
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rounds through the custodian, on all connections at once.
async fn through(
    wires: &[Wire],
    key: &v1::Key,
    classes: &Arc<Vec<Class>>,
    samples: usize,
    time: Duration,
) -> Vec<Vec<f64>> {
    let end = Instant::now() + time;
    let rounds = Arc::new(Mutex::new(Vec::new()));
    // Rejections alone do not keep a session: it would end after 15 minutes.
    let wire = wires[0].clone();
    let keeping = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            wire.keys().list_keys(wire.request(v1::ListKeysRequest::default())).await.unwrap();
        }
    });
    let mut lanes = JoinSet::new();
    for wire in wires {
        let (wire, key) = (wire.clone(), key.clone());
        let (classes, rounds) = (Arc::clone(classes), Arc::clone(&rounds));
        lanes.spawn(async move {
            let mut dice = seeded();
            // What is warm afterwards is no class's doing.
            for class in classes.iter() {
                ask(&wire, &key, &class.pool[0]).await;
            }
            while locked(&rounds).len() < samples && Instant::now() < end {
                let mut round = vec![0.0; classes.len()];
                for class in shuffled(classes.len(), &mut dice) {
                    let ciphertext = classes[class].any(&mut dice);
                    round[class] = ask(&wire, &key, ciphertext).await.as_nanos() as f64;
                }
                locked(&rounds).push(round);
            }
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended.unwrap();
    }
    keeping.abort();
    let mut rounds = std::mem::take(&mut *locked(&rounds));
    assert!(!rounds.is_empty(), "too few seconds");
    rounds.truncate(samples);
    rounds
}

fn locked(rounds: &Mutex<Vec<Vec<f64>>>) -> MutexGuard<'_, Vec<Vec<f64>>> {
    rounds.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the custodian takes to reject it.
async fn ask(wire: &Wire, key: &v1::Key, ciphertext: &[u8]) -> Duration {
    let claims = Some(v1::Claims::default());
    let (key, wrapping, wrapped_key) = (key.name.clone(), key.wrapping, ciphertext.to_vec());
    let request = wire.request(v1::UnwrapRequest { key, wrapping, wrapped_key, claims, with_receipt: false });
    let begun = Instant::now();
    let answer = wire.custody().unwrap(request).await;
    let took = begun.elapsed();
    assert_eq!(answer.err().expect("rejected").code(), tonic::Code::InvalidArgument);
    took
}

/// A public key that encrypts blocks as they are, by openssl: well-kept libraries do not offer that.
struct Public {
    pem: PathBuf,
}

impl Public {
    fn new(folder: &Path, spki: &[u8]) -> Self {
        let (der, pem) = (folder.join("key.der"), folder.join("key.pem"));
        fs::write(&der, spki).unwrap();
        run(Command::new("openssl")
            .args(["pkey", "-pubin", "-inform", "DER", "-in"])
            .arg(&der)
            .arg("-out")
            .arg(&pem))
        .expect(0);
        Self { pem }
    }

    /// The block to the power of e.
    fn raw(&self, block: &[u8]) -> Vec<u8> {
        // Less than any modulus.
        assert!(block.len() == K && block[0] < 0x80);
        let mut child = Command::new("openssl")
            .args(["pkeyutl", "-encrypt", "-pubin", "-pkeyopt", "rsa_padding_mode:none", "-inkey"])
            .arg(&self.pem)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(block).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    }
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::fill(&mut bytes).unwrap();
    bytes
}

fn non_zero(len: usize) -> Vec<u8> {
    random(len).into_iter().map(|byte| byte.max(1)).collect()
}

fn classes(padding: Padding, public: &Public) -> Vec<Class> {
    let class = |name, block: &dyn Fn() -> Vec<u8>| Class {
        name,
        pool: (0..POOL).map(|_| public.raw(&block())).collect(),
    };
    // RFC 8017 §7.2.1, and §7.1.1.
    let pkcs1 = |start: [u8; 2], message: &[u8]| {
        [&start[..], &non_zero(K - 3 - message.len()), &[0], message].concat()
    };
    match padding {
        Padding::Pkcs1 => vec![
            class("random block", &|| [vec![0x7f], random(K - 1)].concat()),
            class("the same, control", &|| [vec![0x7f], random(K - 1)].concat()),
            class("00 02, no zero byte", &|| [vec![0, 2], non_zero(K - 2)].concat()),
            class("00 02, zero in the first 8", &|| {
                [&[0, 2][..], &non_zero(3), &[0], &non_zero(K - 6)].concat()
            }),
            class("00 01, block type 1", &|| pkcs1([0, 1], &random(35))),
            class("01 02, wrong version", &|| pkcs1([1, 2], &random(35))),
            class("padding right, nothing in it", &|| pkcs1([0, 2], &[])),
            class("padding right, 34 bytes", &|| pkcs1([0, 2], &random(34))),
            class("padding right, wrong length", &|| pkcs1([0, 2], &random(100))),
            class("padding right, wrong checksum", &|| {
                let mut message =
                    openpgp::wrapped_by_v3(&FileKey::new(random(32).try_into().unwrap())).to_vec();
                message[34] ^= 1;
                pkcs1([0, 2], &message)
            }),
        ],
        Padding::Oaep => vec![
            class("random block", &|| [vec![0x7f], random(K - 1)].concat()),
            class("the same, control", &|| [vec![0x7f], random(K - 1)].concat()),
            class("first byte 0, rest random", &|| [vec![0], random(K - 1)].concat()),
            class("another label", &|| oaep(&[1; 20], &random(32), 0)),
            class("first byte 1, else right", &|| oaep(&sha1(b""), &random(32), 1)),
            class("padding right, nothing in it", &|| oaep(&sha1(b""), &[], 0)),
            class("padding right, 31 bytes", &|| oaep(&sha1(b""), &random(31), 0)),
            class("padding right, 200 bytes", &|| oaep(&sha1(b""), &random(200), 0)),
        ],
    }
}

/// OAEP in SoftHSM knows no other hash.
fn sha1(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}

/// EME-OAEP with SHA-1 (RFC 8017 §7.1.1 step 2).
fn oaep(label_hash: &[u8], message: &[u8], first: u8) -> Vec<u8> {
    let mgf = |seed: &[u8], len: usize| -> Vec<u8> {
        (0u32..).flat_map(|counter| sha1(&[seed, &counter.to_be_bytes()].concat())).take(len).collect()
    };
    let xor = |left: &[u8], right: &[u8]| {
        left.iter().zip(right).map(|(one, other)| one ^ other).collect::<Vec<_>>()
    };
    let zeros = vec![0; K - 2 * 20 - 2 - message.len()];
    let block = [label_hash, &zeros, &[1], message].concat();
    let seed = random(20);
    let masked = xor(&block, &mgf(&seed, block.len()));
    let masked_seed = xor(&seed, &mgf(&masked, 20));
    [&[first][..], &masked_seed, &masked].concat()
}

impl Class {
    fn any(&self, dice: &mut Dice) -> &[u8] {
        &self.pool[dice.between(0, POOL as u64 - 1) as usize]
    }
}

fn seeded() -> Dice {
    Dice::new(u64::from_be_bytes(random(8).try_into().unwrap()))
}

/// Each of so many classes once.
fn shuffled(classes: usize, dice: &mut Dice) -> Vec<usize> {
    let mut order: Vec<_> = (0..classes).collect();
    for at in (1..classes).rev() {
        order.swap(at, dice.between(0, at as u64) as usize);
    }
    order
}

/// Prints a table. Whether no class differs from the first.
fn report(what: &str, classes: &[Class], rounds: &[Vec<f64>]) -> bool {
    println!("\n{what}: {} samples of each class", rounds.len());
    println!(
        "{:<32} {:>10} {:>24} {:>10} {:>10}",
        "class", "median µs", "median difference µs", "sign p", "ranks p"
    );
    let mut dice = Dice::new(1);
    let mut sound = true;
    for (index, class) in classes.iter().enumerate() {
        let median_of = median(&mut rounds.iter().map(|round| round[index]).collect::<Vec<_>>()) / 1e3;
        if index == 0 {
            println!("{:<32} {median_of:>10.1}", class.name);
            continue;
        }
        let differences: Vec<_> = rounds.iter().map(|round| round[index] - round[0]).collect();
        let (low, middle, high) = bootstrap(&differences, &mut dice);
        let (signs, ranks) = (sign_test(&differences), wilcoxon(&differences));
        let corrected = signs.min(ranks) * 2.0 * (classes.len() - 1) as f64;
        let mark = if corrected < ALPHA { "  differs" } else { "" };
        sound &= corrected >= ALPHA;
        let interval = format!("{:+.2} [{:+.2}, {:+.2}]", middle / 1e3, low / 1e3, high / 1e3);
        println!("{:<32} {median_of:>10.1} {interval:>24} {signs:>10.4} {ranks:>10.4}{mark}", class.name);
    }
    sound
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let len = values.len();
    if len.is_multiple_of(2) { (values[len / 2 - 1] + values[len / 2]) / 2.0 } else { values[len / 2] }
}

/// The median, and the interval that 95 % of resampled medians are in.
fn bootstrap(differences: &[f64], dice: &mut Dice) -> (f64, f64, f64) {
    let mut medians: Vec<_> = (0..RESAMPLES)
        .map(|_| {
            let mut sample: Vec<_> = differences
                .iter()
                .map(|_| differences[(dice.number() % differences.len() as u64) as usize])
                .collect();
            median(&mut sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share) as usize];
    (at(0.025), median(&mut differences.to_vec()), at(0.975))
}

/// Two-sided: as many are above as below. By the normal distribution.
fn sign_test(differences: &[f64]) -> f64 {
    let above = differences.iter().filter(|difference| **difference > 0.0).count() as f64;
    let below = differences.iter().filter(|difference| **difference < 0.0).count() as f64;
    let n = above + below;
    p_of((above - below).abs() / n.max(1.0).sqrt())
}

/// Two-sided: the differences are symmetric about zero. By the normal distribution; equal ones share their ranks.
fn wilcoxon(differences: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    sorted.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
    let n = sorted.len() as f64;
    let (mut positive, mut ties, mut start) = (0.0, 0.0, 0);
    while start < sorted.len() {
        let equal = sorted[start..].iter().take_while(|other| other.abs() == sorted[start].abs()).count();
        let rank = start as f64 + (equal as f64 + 1.0) / 2.0;
        positive += rank * sorted[start..start + equal].iter().filter(|one| **one > 0.0).count() as f64;
        ties += (equal as f64).powi(3) - equal as f64;
        start += equal;
    }
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    p_of((positive - n * (n + 1.0) / 4.0).abs() / variance.max(1.0).sqrt())
}

/// What is beyond so many standard deviations, on both sides. Abramowitz and Stegun 7.1.26: to 1.5e-7.
fn p_of(z: f64) -> f64 {
    let x = z / 2f64.sqrt();
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    series.iter().fold(0.0, |sum, factor| (sum + factor) * t) * (-x * x).exp()
}

/// The same through the module alone, in a process of its own: it is configured by the environment.
fn run_bare(
    dev: &Dev,
    label: &str,
    padding: Padding,
    classes: &[Class],
    samples: usize,
    time: Duration,
) -> Vec<Vec<f64>> {
    let file = dev.scratch(label).join("pools");
    let lines: Vec<_> = classes
        .iter()
        .map(|class| class.pool.iter().map(hex::encode).collect::<Vec<_>>().join(" "))
        .collect();
    fs::write(&file, lines.join("\n")).unwrap();
    let order = [
        label,
        if padding == Padding::Oaep { "oaep" } else { "pkcs1" },
        file.to_str().unwrap(),
        &samples.to_string(),
        &time.as_secs().to_string(),
    ];
    let output = Command::new(env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", dev.dir().join("softhsm2.conf"))
        .env("BENCH_PIN_FILE", dev.dir().join("token.pin"))
        .env(BARE, order.join("\n"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect()
}

fn bare(order: &str) {
    let [label, padding, file, samples, seconds] = order.lines().collect::<Vec<_>>()[..] else {
        panic!("order")
    };
    let pools = fs::read_to_string(file).unwrap();
    let classes: Vec<_> = pools
        .lines()
        .map(|line| Class { name: "", pool: line.split(' ').map(|one| hex::decode(one).unwrap()).collect() })
        .collect();
    let module = Pkcs11::new("/usr/lib/softhsm/libsofthsm2.so").unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = module.get_slots_with_initialized_token().unwrap();
    let pin = fs::read_to_string(env::var("BENCH_PIN_FILE").unwrap()).unwrap();
    let session = module.open_ro_session(slots[0]).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(pin.trim().into()))).unwrap();
    let key = key(&session, label);
    let mechanism = match padding {
        "oaep" => Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
            MechanismType::SHA1,
            PkcsMgfType::MGF1_SHA1,
            PkcsOaepSource::empty(),
        )),
        _ => Mechanism::RsaPkcs,
    };
    let ask = |ciphertext: &[u8]| {
        let begun = Instant::now();
        // Good or bad: how long it takes is the question.
        session.decrypt(&mechanism, key, ciphertext).ok();
        begun.elapsed()
    };
    // What is warm afterwards is no class's doing.
    for class in &classes {
        ask(&class.pool[0]);
    }
    let (samples, seconds): (usize, u64) = (samples.parse().unwrap(), seconds.parse().unwrap());
    let (begun, mut dice) = (Instant::now(), seeded());
    for _ in 0..samples {
        if begun.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        let mut round = vec![0; classes.len()];
        for class in shuffled(classes.len(), &mut dice) {
            round[class] = ask(classes[class].any(&mut dice)).as_nanos();
        }
        println!("{}", round.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
}

/// The key that was made last with this label: versions have their numbers behind it.
fn key(session: &Session, label: &str) -> ObjectHandle {
    let all = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
    let named = all.into_iter().find(|handle| {
        let label_of = session.get_attributes(*handle, &[cryptoki::object::AttributeType::Label]).unwrap();
        matches!(label_of.as_slice(), [Attribute::Label(bytes)] if String::from_utf8_lossy(bytes).starts_with(label))
    });
    named.unwrap_or_else(|| panic!("no key {label}"))
}
