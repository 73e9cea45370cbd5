//! DESIGN's contract: `PATH` and `FILE` may be `-`, and data goes to standard output.

use std::{
    fs,
    process::{Command, Stdio},
};

use softhsm_tests::{Dev, Person};

/// Runs `command`, feeding it `input`; gives what it printed.
fn pipe(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

#[test]
fn a_backup_goes_through_pipes_without_a_file() {
    let dev = Dev::start();
    let backup: Vec<u8> = (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let certificate = dev.certificate();
    let mut seal = dev.command("envelope", Person::Operator);
    let envelope = pipe(seal.arg("seal").arg("--to").arg(&certificate).args(["-o", "-", "-"]), &backup);

    let mut extract = dev.command("envelope", Person::Operator);
    assert!(pipe(extract.args(["extract", "--to-stdout", "-"]), &envelope) == backup);

    let mut inspect = dev.command("envelope", Person::Operator);
    let inspected = pipe(inspect.args(["inspect", "--json", "-"]), &envelope);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected).unwrap();
    assert_eq!(inspected["format"], "mtd");

    let folder = dev.scratch("opened");
    let mut extract = dev.command("envelope", Person::Operator);
    pipe(extract.args(["extract", "-", "-C"]).arg(&folder), &envelope);
    assert!(fs::read(folder.join("stdin")).unwrap() == backup);
}
