//! The faulty module does what it is told, and the custodian lives through it (law 6).

use softhsm_tests::{
    Act, Code, Control, Dev, Done, Faults, Function, Person, TokenFlag, TokenLie, When, Wire, sealed_key,
};

const FILE_KEY: [u8; 32] = [6; 32];

/// A custodian with faults, its operator, and a wrapped key.
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
            token.insert("deadline".into(), "1s".into());
        });
        let wire = Wire::login(&dev, Person::Operator).await;
        let (key, wrapped) = sealed_key(&dev.certificate(), &FILE_KEY);
        Self { dev, faults, wire, key, wrapped }
    }

    async fn unwrap(&self) -> Result<Vec<u8>, tonic::Status> {
        self.wire.unwrap(&self.key, self.wrapped.clone()).await.map(|released| released.file_key)
    }
}

#[tokio::test]
async fn law_6_whatever_ends_the_worker_the_call_is_served_by_the_next() {
    let bench = Bench::new().await;
    assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY, "the module forwards");
    for act in [Act::Abort, Act::Segfault, Act::Exit(0), Act::Exit(7)] {
        let worker = bench.dev.worker();
        bench.faults.set(Control::default().fault(Function::Decrypt, When::Call(1), act));
        assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY, "{act:?}");
        assert_eq!(bench.faults.done(), [Done { function: Function::Decrypt, call: 1, act }]);
        assert!(bench.faults.calls(Function::Decrypt) > 1, "the counting goes on in the next worker");
        assert_ne!(bench.dev.worker(), worker, "{act:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_gone_comes_back_and_costs_no_call() {
    let bench = Bench::new().await;
    // In this order: SoftHSM finishes what it has begun without a login, too.
    for function in [Function::DecryptInit, Function::Decrypt] {
        bench.faults.set(Control::default().fault(function, When::Call(1), Act::Logout));
        assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY, "{function:?}");
        assert_eq!(bench.faults.done(), [Done { function, call: 1, act: Act::Logout }]);
        assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
    }
}

#[tokio::test]
async fn a_module_that_hangs_costs_one_call_its_deadline_and_is_replaced() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    bench.faults.set(Control::default().fault(Function::DecryptInit, When::Call(1), Act::Hang));
    assert_eq!(bench.unwrap().await.unwrap_err().code(), tonic::Code::Unavailable);
    bench.faults.clear();
    assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
    // The other thread may have served that; what hangs is killed all the same.
    while bench.dev.worker() == worker {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
}

#[tokio::test]
async fn a_running_worker_takes_new_orders_and_old_ones_end() {
    let bench = Bench::new().await;
    let worker = bench.dev.worker();
    let error = Act::Return(Code::CKR_DEVICE_ERROR);
    bench.faults.set(Control::default().fault(Function::Decrypt, When::Call(1), error));
    // Told at once or tried again: either way it happened, once.
    bench.unwrap().await.ok();
    assert_eq!(bench.faults.done(), [Done { function: Function::Decrypt, call: 1, act: error }]);
    bench.faults.clear();
    assert_eq!(bench.unwrap().await.unwrap(), FILE_KEY);
    assert!(bench.faults.done().is_empty());
    assert_eq!(bench.dev.worker(), worker, "one error is no reason for a new worker");
}

#[tokio::test]
async fn a_token_that_says_that_its_pin_is_locked_is_not_asked_again() {
    let bench = Bench::new().await;
    let locked = TokenLie { set: vec![TokenFlag::UserPinLocked], ..TokenLie::default() };
    let control = Control::default().token(locked);
    bench.faults.set(control.fault(Function::Decrypt, When::Every, Act::Exit(1)).fault(
        Function::Login,
        When::Every,
        Act::Hang,
    ));
    assert_eq!(bench.unwrap().await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(bench.faults.calls(Function::Login), 0, "no try is risked");
    let status = bench.dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
    let trouble = status["token"]["trouble"].as_str().unwrap();
    assert!(trouble.contains("locked"), "{trouble}");
}
