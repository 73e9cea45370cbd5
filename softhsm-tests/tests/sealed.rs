//! The `sealed` format through a custodian: what the README says about it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use softhsm_tests::{Dev, Person, Wire, run, run_with_input};

fn write_sample(dev: &Dev) -> PathBuf {
    let source = dev.scratch("source");
    let folder = source.join("Ablage ä");
    fs::create_dir_all(folder.join("leer")).unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    fs::write(folder.join("text"), "many words ".repeat(100_000)).unwrap();
    let random: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(folder.join("random"), random).unwrap();
    source
}

fn seal(dev: &Dev, output: &Path) -> std::process::Command {
    let mut command = dev.command("envelope", Person::Operator);
    command.args(["seal", "--format", "sealed", "--to"]).arg(dev.certificate()).arg("-o").arg(output);
    command.arg(dev.scratch("source").join("Ablage ä"));
    command
}

#[tokio::test]
async fn a_folder_comes_back_byte_for_byte_and_its_names_stay_secret() {
    let dev = Dev::start();
    let source = write_sample(&dev);
    let envelope = dev.scratch("sealed").join("a.sealed");
    run(&mut seal(&dev, &envelope)).expect(0);
    let sealed = fs::read(&envelope).unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"random"), "a name is in the clear");

    let inspected =
        dev.envelope(Person::Operator, [OsStr::new("inspect"), envelope.as_ref(), "--json".as_ref()]);
    let inspected = inspected.expect(0).json();
    assert_eq!((inspected["format"].as_str(), inspected["entries"].is_null()), (Some("sealed"), true));

    let opened = dev.scratch("opened");
    let args = [OsStr::new("extract"), envelope.as_ref(), "-C".as_ref(), opened.as_ref()];
    dev.envelope(Person::Operator, args).expect(0);
    run(std::process::Command::new("diff").arg("-r").arg(&source).arg(&opened)).expect(0);

    let named = inspected["recipients"][0]["wrapped_key_sha256"].as_str().unwrap().to_owned();
    let records = Wire::records(&dev).await;
    let record = records.iter().find(|record| record.wrapped_key_sha256 == named).unwrap();
    let claims = record.claims.as_ref().unwrap();
    assert_eq!((record.outcome.as_str(), claims.format.as_str()), ("OK", "sealed"));
}

#[test]
fn one_file_can_be_taken_out_and_pipes_work_at_both_ends() {
    let dev = Dev::start();
    let source = write_sample(&dev);
    let mut piped = seal(&dev, Path::new("-"));
    let envelope = dev.scratch("sealed").join("a.sealed");
    piped.stdout(fs::File::create(&envelope).unwrap());
    assert!(piped.status().unwrap().success());

    let one = dev.scratch("one");
    let args = [
        OsStr::new("extract"),
        envelope.as_ref(),
        "--only".as_ref(),
        "*/text".as_ref(),
        "-C".as_ref(),
        one.as_ref(),
    ];
    dev.envelope(Person::Operator, args).expect(0);
    let names: Vec<_> =
        fs::read_dir(one.join("Ablage ä")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["text"]);

    // Listing asks for the key, too, and writes nothing.
    let args = [OsStr::new("extract"), envelope.as_ref(), "--list".as_ref(), "--json".as_ref()];
    let listed = dev.envelope(Person::Operator, args).expect(0).json();
    let paths: Vec<_> =
        listed.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    let expected = ["Ablage ä/", "Ablage ä/empty", "Ablage ä/leer/", "Ablage ä/random", "Ablage ä/text"];
    assert_eq!(paths, expected);

    let mut extract = dev.command("envelope", Person::Operator);
    extract.args(["extract", "-", "--only", "**/text", "--to-stdout"]);
    let shown = run_with_input(&mut extract, &fs::read(&envelope).unwrap()).expect(0);
    assert_eq!(shown.stdout, fs::read_to_string(source.join("Ablage ä/text")).unwrap());
}

#[test]
fn a_revoked_workstation_gets_nothing_of_it() {
    let dev = Dev::start();
    write_sample(&dev);
    let envelope = dev.scratch("sealed").join("a.sealed");
    run(&mut seal(&dev, &envelope)).expect(0);
    dev.ctl(Person::Admin, ["device", "revoke", "operator-laptop", "--reason", "test"]).expect(0);
    let opened = dev.scratch("in").join("opened");
    let args = [OsStr::new("extract"), envelope.as_ref(), "-C".as_ref(), opened.as_ref()];
    dev.envelope(Person::Operator, args).expect(3).says("DEVICE_REVOKED");
    assert!(!opened.exists());
}
