//! The second place: with `[log.copy]`, no key leaves before its record is in another folder, too.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use custodian_proto::{tlog::tiles, v1};
use softhsm_tests::{Dev, Load, Person, Ran, Start, bin, run, sealed_key, without_budgets};
use tempfile::TempDir;

/// Where the copy is, in the folder of the test.
fn copy(folder: &Path) -> PathBuf {
    folder.join("copy")
}

/// A custodian's folder, with a second place.
fn configured(on_failure: &str) -> TempDir {
    Dev::configured(|config, folder| {
        fs::create_dir(copy(folder)).unwrap();
        let table = format!("directory = {:?}\non_failure = {on_failure}", copy(folder));
        let log = config["log"].as_table_mut().unwrap();
        log.insert("copy".to_owned(), table.parse::<toml::Table>().unwrap().into());
        config["ledger"]["deadline"] = "2s".into();
        without_budgets(config);
    })
}

/// What an auditor finds who has that folder, the log's public key and nothing else.
fn audit(dev: &Dev, folder: &Path, state: &str) -> Ran {
    let mut command = Command::new(bin("custodianctl"));
    command.env_clear().env("HOME", "/nonexistent").args(["audit", "verify"]).arg(folder);
    command.arg("--log-key").arg(dev.dir().join("keys/log.pub"));
    command.arg("--state").arg(dev.scratch("auditor").join(state)).arg("--json");
    run(&mut command)
}

fn sealed(dev: &Dev) -> PathBuf {
    let file = dev.scratch("source").join("file");
    fs::write(&file, "some text").unwrap();
    let envelope = dev.scratch("sealed").join("file.mtd");
    if !envelope.exists() {
        dev.seal(&file, &envelope);
    }
    envelope
}

fn extract(dev: &Dev, into: &str) -> Ran {
    let (envelope, into) = (sealed(dev), dev.scratch(into));
    dev.envelope(Person::Operator, ["extract", envelope.to_str().unwrap(), "-C", into.to_str().unwrap()])
}

/// The records that are in the folder, signed for or not.
fn records(folder: &Path) -> Vec<v1::Record> {
    use prost::Message as _;
    let mut records = Vec::new();
    for index in 0.. {
        let full = folder.join(tiles::bundle_path(index, 256));
        let path = if full.exists() {
            full
        } else {
            let narrow = fs::read_dir(full.with_extension("p"));
            let narrow = narrow.into_iter().flatten().map(|file| file.unwrap().path());
            let width = |path: &PathBuf| path.file_name()?.to_str()?.parse::<usize>().ok();
            match narrow.filter(|path| width(path).is_some()).max_by_key(width) {
                Some(path) => path,
                None => break,
            }
        };
        let bytes = fs::read(path).unwrap();
        let entries = tiles::unbundle(&bytes).unwrap();
        records.extend(entries.into_iter().map(|entry| v1::Record::decode(entry).unwrap()));
    }
    records
}

#[test]
fn the_copy_is_checked_by_audit_verify_as_it_is_and_grows_with_the_log() {
    let dev = Dev::start_in(configured("\"require\""));
    let folder = copy(dev.dir().parent().unwrap());
    for name in ["one", "two"] {
        extract(&dev, name).expect(0);
        // A receipt waits for the checkpoint; the checkpoint in the copy follows.
        let (folder_of, ran) = (dev.dir(), audit(&dev, &folder, "state"));
        assert!(folder_of.exists() && ran.code != Some(5), "{ran:?}");
    }
    let told = dev.ctl(Person::Auditor, ["status", "--json"]).expect(0).json();
    assert_eq!(told["log"]["copy"]["trouble"], "");
    // Once it has ended, all is in the copy, and signed for.
    let (folder_of, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(folder_of);
    let told = audit(&dev, &folder, "state").expect(0).json();
    assert!(told["size"].as_u64().unwrap() >= 10, "{told}");

    // Edited, cut and rolled back: each is found by whoever looks at the copy.
    let checkpoint = folder.join("checkpoint");
    let note = fs::read_to_string(&checkpoint).unwrap();
    let bundle = folder.join("tile/entries/000.p").join(note.lines().nth(1).unwrap());
    let right = fs::read(&bundle).unwrap();
    let mut wrong = right.clone();
    wrong[9] ^= 1;
    fs::write(&bundle, wrong).unwrap();
    audit(&dev, &folder, "state").expect(5).says("these records are not the ones that were logged: 1");
    fs::write(&bundle, &right[..right.len() - 1]).unwrap();
    audit(&dev, &folder, "state").expect(5).says("ends in the middle");
    fs::remove_file(&bundle).unwrap();
    audit(&dev, &folder, "state").expect(5).says("record 1 is missing");
    fs::write(&bundle, &right).unwrap();
    audit(&dev, &folder, "state").expect(0);
    fs::write(&checkpoint, note.replace("\u{2014} ", "\u{2014} x")).unwrap();
    audit(&dev, &folder, "state").expect(5).says("not signed");
}

#[test]
fn without_the_second_place_nothing_is_released_and_devices_are_still_revoked() {
    let dev = Dev::start_in(configured("\"require\""));
    let folder = copy(dev.dir().parent().unwrap());
    let away = dev.scratch("elsewhere").join("copy");
    extract(&dev, "before").expect(0);
    fs::rename(&folder, &away).unwrap();
    for name in ["found-out", "known"] {
        let began = Instant::now();
        extract(&dev, name).expect(6).says("LEDGER_UNAVAILABLE");
        // 2 s for the answer; the rest is for a new process on a busy machine.
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert_eq!(fs::read_dir(dev.scratch(name)).unwrap().count(), 0, "nothing was released");
    }
    assert!(!folder.exists(), "the empty mount point of a machine that is away is not written to");
    dev.ctl(Person::Admin, ["device", "revoke", "auditor-laptop", "--reason", "stolen"]).expect(0);
    let told = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
    assert!(told["log"]["copy"]["trouble"].as_str().unwrap().contains("No such file"), "{told}");

    fs::rename(&away, &folder).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json()["log"]["copy"]["trouble"] != "" {
        assert!(Instant::now() < until, "it does not recover");
    }
    extract(&dev, "after").expect(0);
    assert!(dev.scratch("after").join("file").exists());
    // What did not leave is on record as such. One that finds out only after its record has two: the first cannot be changed.
    let (_folder, ran) = dev.stop();
    ran.expect(0);
    let unwraps: Vec<_> =
        records(&folder).into_iter().filter(|record| record.operation == "Unwrap").collect();
    let outcomes: Vec<_> = unwraps.iter().map(|record| record.outcome.as_str()).collect();
    assert_eq!(outcomes.first(), Some(&"OK"));
    assert_eq!(outcomes.last(), Some(&"OK"));
    let denied: Vec<_> = unwraps.iter().filter(|record| record.outcome == "LEDGER_UNAVAILABLE").collect();
    assert!(denied.len() >= 2, "{denied:?}");
    assert!(denied.iter().all(|record| record.detail.contains("second place")), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_under_load_every_key_that_left_has_its_record_in_the_second_place() {
    let mut folder = configured("\"require\"");
    let mut received = HashSet::new();
    for _ in 0..3 {
        let dev = Dev::start_in(folder);
        let mut load = Load::start(&dev, 8).await;
        load.received(120).await;
        folder = dev.kill();
        received.extend(load.stop().await.into_iter().map(|key| key.request_id));
    }
    let there: HashSet<_> = records(&copy(folder.path()))
        .into_iter()
        .filter(|record| record.outcome == "OK")
        .map(|record| record.request_id)
        .collect();
    assert!(received.len() >= 360);
    let missing: Vec<_> = received.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The next run goes on where the last one was cut off.
    let dev = Dev::start_in(folder);
    extract(&dev, "after").expect(0);
    let folder = copy(dev.dir().parent().unwrap());
    let (kept, ran) = dev.stop();
    ran.expect(0);
    let dev = Dev::start_in(kept);
    audit(&dev, &folder, "state").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custodian_whose_second_place_has_another_log_or_more_records_does_not_start() {
    let dev = Dev::start_in(configured("\"require\""));
    extract(&dev, "one").expect(0);
    let (folder, ran) = dev.stop();
    ran.expect(0);
    // The ledger and all that it remembers, put back to what it was before.
    let (dev_folder, backup) = (folder.path().join("dev"), folder.path().join("backup"));
    run(Command::new("cp").arg("-a").arg(&dev_folder).arg(&backup)).expect(0);
    let dev = Dev::start_in(folder);
    let (key, wrapped) = sealed_key(&dev.certificate(), &[7; 32]);
    softhsm_tests::Wire::login(&dev, Person::Operator).await.unwrap(&key, wrapped).await.unwrap();
    // Killed at once: what came last may not be signed for.
    let folder = dev.kill();
    fs::remove_dir_all(&dev_folder).unwrap();
    run(Command::new("cp").arg("-a").arg(&backup).arg(&dev_folder)).expect(0);
    let Start::Ended(ran) = Dev::try_start_in(folder) else { panic!("it serves an old copy of the ledger") };
    ran.expect(1).says("an old copy of the ledger is in its place");

    let folder = configured("{ lag = 5 }");
    let elsewhere = Dev::start();
    elsewhere.ctl(Person::Auditor, ["audit", "export", copy(folder.path()).to_str().unwrap()]).expect(0);
    let Start::Ended(ran) = Dev::try_start_in(folder) else { panic!("it writes into another log's copy") };
    ran.expect(1).says("is not one of this log").says("The second place");
}
