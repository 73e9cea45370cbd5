//! A token that cannot be served: `custodian check` says what is wrong and what to do, and risks no try of the PIN.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use softhsm_tests::{
    Act, Code, Control, Dev, Faults, Function, Person, Ran, TokenFlag, TokenLie, When, bin, run,
};
use tempfile::TempDir;

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// `custodian check` of what a `custodian dev` left in this folder.
fn check(folder: &TempDir) -> Ran {
    let config = folder.path().join("dev/custodian.toml");
    run(Command::new(bin("custodian")).args(["check", "--config"]).arg(config))
}

/// A stopped custodian whose token fails as it is told.
fn faulty(change: impl FnOnce(&mut toml::Table)) -> (TempDir, Faults) {
    let mut faults = None;
    let folder = Dev::configured(|config, folder| {
        let token = config["token"][0].as_table_mut().unwrap();
        change(token);
        faults = Some(Faults::before(token, folder.join("faults")));
    });
    (folder, faults.unwrap())
}

fn login(code: Code) -> Control {
    Control::default().fault(Function::Login, When::Every, Act::Return(code))
}

fn flags(set: &[TokenFlag]) -> TokenLie {
    TokenLie { set: set.to_vec(), ..TokenLie::default() }
}

#[test]
fn each_refusal_of_a_pin_is_told_apart_and_tried_once_at_most() {
    let (folder, faults) = faulty(|_| ());
    let wrong = || login(Code::CKR_PIN_INCORRECT);
    let cases = [
        (login(Code::CKR_PIN_LOCKED), 1, ["is locked after too many wrong tries", "--init-pin"]),
        (login(Code::CKR_PIN_EXPIRED), 1, ["has expired", "--change-pin"]),
        (login(Code::CKR_USER_PIN_NOT_INITIALIZED), 1, ["has no user PIN yet", "--init-pin"]),
        (login(Code::CKR_PIN_LEN_RANGE), 1, ["too short, too long", "It takes 4 to 255 bytes"]),
        (wrong(), 1, ["refuses the PIN as wrong", "does not say how many tries"]),
        (
            wrong().token(flags(&[TokenFlag::UserPinCountLow])),
            1,
            ["refuses the PIN as wrong", "Fewer tries are left"],
        ),
        (
            wrong().token(flags(&[TokenFlag::UserPinCountLow, TokenFlag::UserPinFinalTry])),
            1,
            ["refuses the PIN as wrong", "ONE try is left"],
        ),
        // Locked already: no try at all.
        (wrong().token(flags(&[TokenFlag::UserPinLocked])), 0, ["is locked", "--init-pin"]),
        (login(Code::CKR_GENERAL_ERROR), 1, ["cannot log in", "C_Login: CKR_GENERAL_ERROR"]),
    ];
    for (control, tries, parts) in cases {
        let what = format!("{control:?}");
        faults.set(control);
        let ran = check(&folder).expect(1);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part:?} for {what}: {}", ran.stderr);
        }
        assert_eq!(ran.stderr.matches("error:").count(), 1, "{}", ran.stderr);
        assert_eq!(faults.calls(Function::Login), tries, "{what}");
    }
    faults.clear();
    check(&folder).expect(0);
}

#[test]
fn a_lost_try_is_a_refused_pin_whatever_the_code_says() {
    let (folder, faults) = faulty(|_| ());
    let unclear = Act::DoThenReturn(Code::CKR_GENERAL_ERROR);
    let unclear = Control::default().fault(Function::Login, When::Every, unclear);
    faults.set(unclear.clone());
    let ran = check(&folder).expect(1).says("cannot log in");
    assert!(!ran.stderr.contains("wrong PIN"), "{}", ran.stderr);
    fs::write(folder.path().join("dev/token.pin"), "wrong").unwrap();
    faults.set(unclear);
    check(&folder).expect(1).says("counts that as a wrong PIN").says("Fewer tries are left");
    assert_eq!(faults.calls(Function::Login), 1);
}

#[test]
fn a_pin_that_must_be_changed_is_named_even_if_the_login_passes() {
    let (folder, faults) = faulty(|_| ());
    let expired = Act::Return(Code::CKR_PIN_EXPIRED);
    faults.set(Control::default().fault(Function::FindObjectsInit, When::Every, expired));
    check(&folder).expect(1).says("has expired").says("--change-pin");
}

#[test]
fn a_pin_that_expires_while_it_serves_is_not_tried_again() {
    let (dev, faults) = Dev::start_with_faults(|_| ());
    faults.set(login(Code::CKR_PIN_EXPIRED));
    Dev::signal(dev.worker().expect("there is a worker"), "KILL");
    let trouble = || {
        let status = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
        status["token"]["trouble"].as_str().unwrap_or_default().to_owned()
    };
    while !trouble().contains("has expired") {
        std::thread::yield_now();
    }
    // Many calls, each of which would start a worker if any could.
    for _ in 0..10 {
        assert!(trouble().contains("has expired"));
    }
    assert_eq!((dev.worker(), faults.calls(Function::Login)), (None, 1));
}

#[test]
fn a_pin_that_becomes_wrong_is_tried_once_for_all_workers_of_a_token() {
    let (dev, faults) = Dev::start_with_faults(|token| {
        token.insert("workers".into(), 3.into());
    });
    assert_eq!(dev.workers().len(), 3);
    faults.set(login(Code::CKR_PIN_INCORRECT));
    dev.workers().into_iter().for_each(|worker| Dev::signal(worker, "KILL"));
    let trouble = || {
        let status = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
        status["token"]["trouble"].as_str().unwrap_or_default().to_owned()
    };
    while !trouble().contains("refuses the PIN") {
        std::thread::yield_now();
    }
    for _ in 0..10 {
        assert!(trouble().contains("refuses the PIN"));
    }
    assert_eq!((dev.workers(), faults.calls(Function::Login)), (vec![], 1));
}

#[test]
fn a_worker_makes_do_with_the_sessions_there_are() {
    let (folder, faults) = faulty(|token| {
        token.insert("threads".into(), 8.into());
    });
    let most = |sessions| TokenLie { max_sessions: Some(sessions), ..TokenLie::default() };
    faults.set(Control::default().token(most(1)));
    check(&folder).expect(1).says("no room for the two sessions").says("ulMaxSessionCount");
    faults.set(Control::default().token(most(9)));
    let ran = check(&folder).expect(0);
    assert!(!ran.stdout.contains("remark"), "{}", ran.stdout);
    faults.set(Control::default().token(most(3)));
    let ran = check(&folder).expect(0);
    assert!(ran.stdout.contains("remark         2 of 8 threads"), "{}", ran.stdout);
    assert!(ran.stdout.contains("Set threads = 2"), "{}", ran.stdout);
    // What the token says of its limits is not always so.
    let full = Act::Return(Code::CKR_SESSION_COUNT);
    let from_fifth = When::Calls { from: 5, to: None };
    faults.set(Control::default().fault(Function::OpenSession, from_fifth, full));
    let ran = check(&folder).expect(0);
    assert!(ran.stdout.contains("remark         3 of 8 threads"), "{}", ran.stdout);

    faults.set(Control::default().token(most(2)));
    let dev = Dev::start_in(folder);
    let source = dev.scratch("source").join("a.txt");
    fs::write(&source, "content").unwrap();
    let envelope = dev.scratch("sealed").join("a.mtd");
    dev.seal(&source, &envelope);
    let target = dev.scratch("target");
    let extract = ["extract".as_ref(), envelope.as_os_str(), "-C".as_ref(), target.as_os_str()];
    dev.envelope(Person::Operator, ["login"]).expect(0);
    dev.envelope(Person::Operator, extract).expect(0);
    // The one thread's session makes room for the one that writes.
    dev.ctl(Person::Admin, ["key", "create", "new", "--bits", "2048"]).expect(0);
}

/// Checks with another module.
fn with_module(folder: &TempDir, module: &Path) -> Ran {
    let config = folder.path().join("dev/custodian.toml");
    let text = fs::read_to_string(&config).unwrap();
    let mut changed: toml::Table = text.parse().unwrap();
    changed["token"][0]["module"] = module.to_str().unwrap().into();
    fs::write(&config, toml::to_string(&changed).unwrap()).unwrap();
    let ran = check(folder);
    fs::write(&config, text).unwrap();
    ran
}

#[test]
fn a_module_that_cannot_be_loaded_is_told_apart_by_why() {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    with_module(&folder, Path::new("libsofthsm2.so"))
        .expect(1)
        .says("not an absolute path")
        .says("full path");
    with_module(&folder, Path::new("/nonexistent/module.so")).expect(1).says("cannot find").says("Install");
    with_module(&folder, folder.path()).expect(1).says("is no file");
    with_module(&folder, &file("text.so", b"no library at all")).expect(1).says("it is no shared library");
    // A shared library, but none of PKCS#11: the C library of this very program.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.split_whitespace().find(|word| word.contains("/libc.so")).unwrap();
    with_module(&folder, Path::new(library)).expect(1).says("C_GetFunctionList");

    let mut other = fs::read(SOFTHSM).unwrap();
    // e_machine of the ELF header: LoongArch, which we do not run on.
    other[18..20].copy_from_slice(&258_u16.to_le_bytes());
    with_module(&folder, &file("other.so", &other)).expect(1).says("made for machine 258").says("vendor");
    with_module(&folder, &file("half.so", &fs::read(SOFTHSM).unwrap()[..5000])).expect(1).says("half.so");
    with_module(&folder, Path::new(SOFTHSM)).expect(0);
}

#[test]
fn an_ambiguous_label_is_resolved_by_the_serial_number() {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    let conf = folder.path().join("dev/softhsm2.conf");
    assert!(conf.exists());
    let init =
        ["--init-token", "--free", "--label", "custodian-dev", "--so-pin", "87654321", "--pin", "123456"];
    run(Command::new("softhsm2-util").args(init).env("SOFTHSM2_CONF", &conf)).expect(0);
    let ran = check(&folder).expect(1).says("more than one token has label").says("Choose by serial");
    assert_eq!(ran.stderr.matches("(serial ").count(), 2, "{}", ran.stderr);
}

#[test]
fn a_key_that_the_token_has_twice_is_named_with_the_cure() {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    // An object of SoftHSM is a file; the biggest is the private RSA key.
    let tokens = folder.path().join("dev/tokens");
    let token = fs::read_dir(&tokens).unwrap().next().unwrap().unwrap().path();
    let objects = fs::read_dir(&token).unwrap().map(|entry| entry.unwrap().path());
    let biggest = objects.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::copy(&biggest, token.join("00000000-0000-0000-0000-000000000001.object")).unwrap();
    check(&folder).expect(1).says("2 private keys of this one public key").says("Delete all but one");
}
