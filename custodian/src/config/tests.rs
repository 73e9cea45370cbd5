//! What a configuration may say.

use super::*;
use crate::{
    authority::{Amounts, Budget, Budgets},
    log::{BucketConfig, OnFailure, Place},
    token::{PinSource, TokenSelect},
};

const LEAST: &str = r#"
        listen = "127.0.0.1:7443"
        tls = { certificate = "server.crt", key = "server.key" }
        ca = { certificate = "ca.crt" }
        ledger = { path = "ledger.db" }
        [[token]]
        module = "/usr/lib/softhsm/libsofthsm2.so"
        label = "custodian"
        pin_file = "pin"
    "#;

fn read(text: &str) -> Result<Config, String> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| error.to_string())?;
    raw.check(Path::new("/etc/custodian"))
}

#[test]
fn the_least_configuration_has_safe_defaults() {
    let config = read(LEAST).map_err(|why| panic!("{why}")).unwrap();
    assert_eq!(config.tls_key, Path::new("/etc/custodian/server.key"));
    assert_eq!(config.rules.session_idle, SignedDuration::from_mins(15));
    assert!(!config.reflection);
}

#[test]
fn as_many_calls_may_ask_tokens_as_all_their_workers_have_room_for() {
    let first =
        LEAST.replace("label = \"custodian\"", "label = \"custodian\"\nname = \"a\"\nthreads = 3\nqueue = 4");
    let second = "[[token]]\nname = \"b\"\nmodule = \"/usr/lib/hsm.so\"\nlabel = \"b\"\npin_file = \"pin\"\nworkers = 2\nthreads = 5\nqueue = 6";
    let limits = |text: &str| read(text).map_err(|why| panic!("{why}")).unwrap().api_limits;
    assert_eq!(limits(&first).asking_token, 3 + 4 - 1);
    assert_eq!(limits(&format!("{first}\n{second}")).asking_token, 3 + 4 - 1 + 2 * (5 + 6 - 1));
}

#[test]
fn a_limit_that_is_not_given_is_the_usual_one() {
    let given = LEAST.replace("[[token]]", "[budgets.device]\nfiles_per_hour = 7\n[[token]]");
    let [usual, given] = [LEAST, &given].map(|text| read(text).ok().unwrap().rules.budgets);
    let hour = Amounts { files: 7, ..usual.device.hour };
    assert_eq!(given, Budgets { device: Budget { hour, ..usual.device }, ..usual });
    assert_eq!((usual.user.hour.unwraps, usual.user.day.files, usual.guesses.per_hour), (1_000, 2_000, 20));
}

#[test]
fn a_second_place_says_what_depends_on_it() {
    let with =
        |copy: &str| read(&LEAST.replace("[[token]]", &format!("[log]\nkey = \"k\"\n{copy}\n[[token]]")));
    let copy = |on_failure| Some(CopyConfig { place: Place::Folder("/mnt/log".into()), on_failure });
    let given = |on_failure: &str| format!("[log.copy]\ndirectory = \"/mnt/log\"\n{on_failure}");
    let require = with(&given("on_failure = \"require\"")).ok().unwrap();
    assert_eq!(require.log_copy, copy(OnFailure::Require));
    assert_eq!(with(&given("on_failure = { lag = 50 }")).ok().unwrap().log_copy, copy(OnFailure::Lag(50)));
    assert_eq!(with("").ok().unwrap().log_copy, None);
    for wrong in
        ["", "on_failure = \"hope\"", "on_failure = { lag = -1 }", "on_failure = \"require\"\nlag = 3"]
    {
        assert!(with(&given(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn the_second_place_may_be_a_bucket() {
    const GOOD: &str = r#"
        endpoint = "https://s3.example.com/store"
        name = "evidence"
        region = "eu-central-1"
        prefix = "custodian/one"
        credentials = "s3.toml"
    "#;
    let with = |bucket: &str, beside: &str| {
        let log = format!("[log]\nkey = \"k\"\n[log.copy]\non_failure = \"require\"\n{beside}\n");
        read(&LEAST.replace("[[token]]", &format!("{log}[log.copy.bucket]\n{bucket}\n[[token]]")))
    };
    let bucket = BucketConfig {
        endpoint: "https://s3.example.com/store".parse().unwrap(),
        name: "evidence".to_owned(),
        region: "eu-central-1".to_owned(),
        prefix: "custodian/one/".to_owned(),
        credentials: "/etc/custodian/s3.toml".into(),
        ca: None,
    };
    let place = Place::Bucket(bucket);
    assert_eq!(with(GOOD, "").ok().unwrap().log_copy.unwrap().place, place);
    assert_eq!(place.to_string(), "s3://evidence/custodian/one");
    assert!(with(GOOD, "directory = \"/mnt/log\"").is_err(), "two places");
    for (right, wrong) in [
        ("https://", "ftp://"),
        ("https://s3.example.com/store", "s3.example.com"),
        ("\"evidence\"", "\"\""),
        ("custodian/one", "custodian/../one"),
        ("custodian/one", "/custodian"),
        ("region = \"eu-central-1\"", ""),
    ] {
        assert!(GOOD.contains(right) && with(&GOOD.replace(right, wrong), "").is_err(), "{wrong}");
    }
}

#[test]
fn records_are_sent_to_tcp_tls_or_a_local_socket() {
    let with = |siem: &str| read(&LEAST.replace("[[token]]", &format!("[siem]\n{siem}\n[[token]]")));
    for (siem, at) in [
        ("syslog = \"tcp://siem:601\"", SiemAddress::Tcp("siem:601".into())),
        (
            "syslog = \"tls://[::1]:6514\"\nca = \"siem.crt\"",
            SiemAddress::Tls("[::1]:6514".into(), "/etc/custodian/siem.crt".into()),
        ),
        ("syslog = \"unix:/dev/log\"", SiemAddress::Unix("/dev/log".into())),
    ] {
        let cursor = "/etc/custodian/ledger.db.siem".into();
        assert_eq!(with(siem).ok().unwrap().siem, Some(RawTarget { at, cursor }));
    }
    for wrong in ["siem:601", "tcp://siem", "tcp://:601", "udp://siem:514", "tls://siem:6514", "unix:log"] {
        let Err(why) = with(&format!("syslog = {wrong:?}")) else { panic!("accepted: {wrong}") };
        assert!(why.contains("siem.syslog"), "{why}");
    }
}

#[test]
fn several_tokens_have_names_of_their_own() {
    let second = |name: &str| {
        format!(
            "{}\n[[token]]\n{name}\nuri = \"pkcs11:token=b;serial=1f?module-path=/hsm.so&pin-source=file:/pin\"\nworkers = 3",
            LEAST.replace("[[token]]", "[[token]]\nname = \"one\"")
        )
    };
    let config = read(&second("name = \"two\"")).map_err(|why| panic!("{why}")).unwrap();
    let [one, two] = &config.tokens[..] else { panic!("two tokens") };
    assert_eq!((one.name.as_str(), one.workers.get(), &one.label), ("one", 1, &None));
    assert_eq!((two.name.as_str(), two.workers.get(), two.label.as_deref()), ("two", 3, Some("b")));
    assert_eq!(two.token.select, TokenSelect::Serial("1f".to_owned()));
    assert_eq!(two.token.module, Path::new("/hsm.so"));
    assert_eq!(two.token.pin, PinSource::File("/pin".into()));
    for (name, why) in [("", "needs a name"), ("name = \"one\"", "two [[token]] tables have this name")] {
        let error = read(&second(name)).err().unwrap();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(read(LEAST).ok().unwrap().tokens[0].name.as_str(), "main");
}

#[test]
fn a_mistake_is_named() {
    for (from, to, named) in [
        ("pin_file = \"pin\"", "", "pin_file"),
        ("label = \"custodian\"", "label = \"a\"\nserial = \"b\"", "label, serial and slot"),
        ("label = \"custodian\"", "uri = \"pkcs11:token=a?pin-value=1\"", "token main: uri: it holds a PIN"),
        ("label = \"custodian\"", "uri = \"pkcs11:token=a?module-path=/m.so\"", "module"),
        ("label = \"custodian\"", "label = \"a\"\nname = \"A b\"", "token.name \"A b\""),
        ("label = \"custodian\"", "label = \"a\"\nworkers = 0", "workers"),
        ("pin_file = \"pin\"", "pin_prompt = true\nworkers = 2", "ask for the PIN"),
        ("/usr/lib/softhsm/libsofthsm2.so", "libsofthsm2.so", "absolute"),
        ("[[token]]", "[sessions]\nidle = \"0s\"\n[[token]]", "sessions.idle"),
        ("[[token]]", "[sessions]\nidel = \"1s\"\n[[token]]", "idel"),
        ("127.0.0.1:7443", "localhost", "listen"),
        ("[[token]]", "[budget]\nunwraps_per_user_and_hour = 5\n[[token]]", "unwraps_per_hour = N"),
        ("[[token]]", "[budgets.key]\nfiles_per_day = 0\n[[token]]", "budgets.key.files_per_day"),
        ("[[token]]", "[budgets]\nlock = \"0s\"\n[[token]]", "budgets.lock"),
        ("[[token]]", "[budgets]\nbad_files_per_hour = 0\n[[token]]", "budgets.bad_files_per_hour"),
    ] {
        let Err(why) = read(&LEAST.replace(from, to)) else { panic!("accepted: {to}") };
        assert!(why.contains(named), "{why}");
    }
}
