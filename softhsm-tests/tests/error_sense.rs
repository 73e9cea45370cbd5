//! What a module's error codes lead to, seen by a caller: a stumble costs nothing, a lasting fault costs the worker, and
//! nobody is blamed for what the token did.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use softhsm_tests::{Act, Code, Control, Dev, Faults, Function, Person, When, Wire, sealed_key};
use tonic_types::StatusExt;

const FILE_KEY: [u8; 32] = [6; 32];

/// A custodian with one thread at its token, its operator, and a wrapped key.
struct Bench {
    dev: Dev,
    faults: Faults,
    wire: Wire,
    key: String,
    wrapped: Vec<u8>,
}

impl Bench {
    async fn new() -> Self {
        let (dev, faults) = Dev::start_with_faults(|token| {
            token.insert("threads".into(), 1.into());
        });
        let wire = Wire::login(&dev, Person::Operator).await;
        let (key, wrapped) = sealed_key(&dev.certificate(), &FILE_KEY);
        Self { dev, faults, wire, key, wrapped }
    }

    async fn unwrap(&self) -> Result<Vec<u8>, tonic::Status> {
        self.wire.unwrap(&self.key, self.wrapped.clone()).await.map(|released| released.file_key)
    }

    async fn unwrap_garbage(&self) -> tonic::Status {
        self.wire.unwrap(&self.key, vec![0x42; self.wrapped.len()]).await.unwrap_err()
    }

    /// Unwraps until it succeeds: how long that took.
    async fn recovery(&self) -> Duration {
        let begun = Instant::now();
        while self.unwrap().await.is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "the token does not come back: {}",
                self.status()
            );
            tokio::task::yield_now().await;
        }
        begun.elapsed()
    }

    /// This goes wrong at each of these calls.
    fn fail(&self, function: Function, when: When, code: Code) {
        self.faults.set(Control::default().fault(function, when, Act::Return(code)));
    }

    fn status(&self) -> serde_json::Value {
        self.dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json()["token"].take()
    }

    fn restarts(&self) -> u64 {
        self.status()["worker_restarts"].as_u64().unwrap()
    }
}

/// Every code of the standard that is an error, and one of a vendor.
fn codes() -> impl Iterator<Item = Code> {
    let standard = Code::ALL.iter().map(|(_, code)| *code).filter(|code| *code != Code::CKR_OK);
    standard.chain([Code(0x8000_0001)])
}

fn first(calls: u64) -> When {
    When::Calls { from: 1, to: Some(calls) }
}

#[tokio::test]
async fn one_stumble_with_any_code_costs_neither_the_call_nor_the_worker() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    for function in [Function::DecryptInit, Function::Decrypt] {
        for code in codes() {
            bench.fail(function, When::Call(1), code);
            match bench.unwrap().await {
                Ok(file_key) => assert_eq!(file_key, FILE_KEY),
                Err(status) => panic!("{function:?} {code}: {status}"),
            }
            assert_eq!(bench.faults.done().len(), 1, "{function:?} {code}");
        }
    }
    assert_eq!((bench.dev.worker(), bench.restarts()), (worker, 0));
}

#[tokio::test]
async fn law_5_a_bad_ciphertext_has_one_answer_whatever_the_module_says_of_it() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    let mut answers = HashSet::new();
    for code in codes() {
        bench.fail(Function::Decrypt, When::Call(1), code);
        let status = bench.unwrap_garbage().await;
        let reason = status.get_error_details().error_info().unwrap().reason.clone();
        assert_eq!(reason, "WRAPPED_KEY_REJECTED", "{code}: {status}");
        assert_eq!(bench.faults.done().len(), 1, "{code}");
        answers.insert((status.code() as i32, status.message().to_owned()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    bench.faults.clear();
    for _ in 0..300 {
        bench.unwrap_garbage().await;
    }
    assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
    assert_eq!((bench.dev.worker(), bench.restarts()), (worker, 0));
}

#[tokio::test]
async fn a_module_that_does_not_get_as_far_as_the_ciphertext_blames_nobody() {
    let bench = Bench::new().await;
    for function in [Function::OpenSession, Function::DecryptInit] {
        for code in [Code::CKR_CANT_LOCK, Code::CKR_GENERAL_ERROR, Code::CKR_ENCRYPTED_DATA_INVALID] {
            bench.faults.clear();
            bench.recovery().await;
            // The canary has just been asked, and the session was given up.
            bench.unwrap_garbage().await;
            bench.fail(function, first(3), code);
            match bench.unwrap().await {
                Ok(key) => assert_eq!(key, FILE_KEY, "{function:?} {code}"),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::Unavailable, "{function:?} {code}: {status}")
                }
            }
            assert!(!bench.faults.done().is_empty(), "{function:?} {code}");
        }
    }
}

#[tokio::test]
async fn what_lasts_costs_the_worker_and_not_the_call() {
    let bench = Bench::new().await;
    // With the calls that it takes until the worker gives up: twice as many when each is tried in a new session.
    let lasting = [
        (Code::CKR_ENCRYPTED_DATA_INVALID, 2),
        (Code::CKR_GENERAL_ERROR, 2),
        (Code::CKR_USER_NOT_LOGGED_IN, 2),
        (Code::CKR_DEVICE_REMOVED, 2),
        (Code::CKR_CRYPTOKI_NOT_INITIALIZED, 2),
        (Code::CKR_SESSION_HANDLE_INVALID, 4),
    ];
    for (done, (code, calls)) in lasting.into_iter().enumerate() {
        let worker = bench.dev.worker();
        bench.fail(Function::DecryptInit, first(calls), code);
        assert_eq!(bench.unwrap().await.map_err(|status| format!("{code}: {status}")), Ok(FILE_KEY.to_vec()));
        assert_ne!(bench.dev.worker(), worker, "{code}");
        assert_eq!(bench.restarts(), done as u64 + 1, "{code}");
    }
}

#[tokio::test]
async fn what_passes_is_waited_out() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    for code in [Code::CKR_HOST_MEMORY, Code::CKR_DEVICE_MEMORY, Code::CKR_FUNCTION_CANCELED] {
        bench.fail(Function::DecryptInit, first(6), code);
        assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY, "{code}");
        assert_eq!(bench.faults.done().len(), 6, "{code}");
    }
    // A session is given up after a failure, and there may be no room for another at once.
    let control = Control::default()
        .fault(Function::Decrypt, When::Call(1), Act::Return(Code::CKR_DEVICE_ERROR))
        .fault(Function::OpenSession, first(3), Act::Return(Code::CKR_SESSION_COUNT));
    bench.faults.set(control);
    assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
    assert_eq!((bench.dev.worker(), bench.restarts()), (worker, 0));
}

#[tokio::test]
async fn a_token_that_stays_busy_is_unavailable_and_comes_back() {
    let bench = Bench::new().await;
    bench.fail(Function::Decrypt, When::Every, Code::CKR_HOST_MEMORY);
    let begun = Instant::now();
    let status = bench.unwrap().await.unwrap_err();
    let took = begun.elapsed();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    // What passes was waited for, but not beyond the deadline.
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}: {}", bench.status());
    bench.faults.clear();
    let took = bench.recovery().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn what_no_repetition_helps_is_said_and_costs_no_worker() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    let log = {
        for code in [Code::CKR_KEY_FUNCTION_NOT_PERMITTED, Code::CKR_MECHANISM_INVALID] {
            bench.fail(Function::DecryptInit, When::Every, code);
            assert_eq!(bench.unwrap().await.unwrap_err().code(), tonic::Code::Unavailable, "{code}");
        }
        bench.faults.clear();
        assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
        assert_eq!((bench.dev.worker(), bench.restarts()), (worker, 0));
        Wire::records(&bench.dev).await
    };
    let said = |part: &str| log.iter().any(|record| record.detail.contains(part));
    assert!(said("C_DecryptInit: CKR_KEY_FUNCTION_NOT_PERMITTED") && said("check the key's attributes"));
    assert!(said("C_DecryptInit: CKR_MECHANISM_INVALID") && said("ask the vendor"));
}

#[tokio::test]
async fn no_handle_outlives_the_login_it_was_found_under() {
    let bench = Bench::new().await;
    bench.dev.ctl(Person::Admin, ["key", "create", "other", "--bits", "2048"]).expect(0);
    let path = bench.dev.scratch("keys").join("other.crt");
    bench.dev.ctl(Person::Admin, ["key", "cert", "other", "-o", path.to_str().unwrap()]).expect(0);
    let (other, sealed) = sealed_key(&path, &[7; 32]);
    for _ in 0..3 {
        let worker = bench.dev.worker();
        let before = bench.restarts();
        bench.faults.set(Control::default().fault(Function::DecryptInit, When::Call(1), Act::Logout));
        // By a worker that has logged in itself, and found both keys anew.
        assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
        assert_eq!(bench.wire.unwrap(&other, sealed.clone()).await.unwrap().file_key, [7; 32]);
        assert_ne!(bench.dev.worker(), worker);
        assert_eq!(bench.restarts(), before + 1);
    }
}

#[tokio::test]
async fn a_stumble_while_a_worker_starts_loses_no_key_and_no_wrapping() {
    let bench = Bench::new().await;
    let keys = bench.status()["key_count"].clone();
    let starting = [
        (Function::FindObjectsInit, Code::CKR_HOST_MEMORY),
        (Function::GetAttributeValue, Code::CKR_FUNCTION_CANCELED),
        (Function::DecryptInit, Code::CKR_GENERAL_ERROR),
        (Function::Decrypt, Code::CKR_DEVICE_ERROR),
    ];
    for (function, code) in starting {
        bench.fail(function, When::Call(1), code);
        Dev::signal(bench.dev.worker().expect("there is a worker"), "KILL");
        bench.recovery().await;
        assert_eq!(bench.faults.done().len(), 1, "{function:?} {code}");
        assert_eq!(bench.status()["key_count"], keys, "{function:?} {code}");
    }
}

#[tokio::test]
async fn a_signature_that_fails_is_made_again() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    for (number, code) in
        [Code::CKR_GENERAL_ERROR, Code::CKR_SESSION_CLOSED, Code::CKR_DEVICE_MEMORY].into_iter().enumerate()
    {
        bench.fail(Function::Sign, When::Call(1), code);
        // The CA signs the certificate of the new key.
        let label = format!("key-{number}");
        bench.dev.ctl(Person::Admin, ["key", "create", &label, "--bits", "2048"]).expect(0);
        assert_eq!(bench.faults.done().len(), 1, "{code}");
    }
    assert_eq!((bench.dev.worker(), bench.restarts()), (worker, 0));
}
