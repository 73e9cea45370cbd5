//! Witnesses on other machines: what they cosign is proven offline, and a log that was rolled back is given away.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use softhsm_tests::{Dev, Person, Ran, bin, run};

/// A witness's process. It ends with the test.
struct Witness {
    folder: PathBuf,
    child: Child,
    address: String,
}

impl Witness {
    /// Made from nothing, watching one log.
    fn init(folder: &Path, name: &str, log: &Path) -> Self {
        let folder = folder.join(name);
        let mut init = Command::new(bin("custodianctl"));
        init.env_clear().args(["audit", "witness", "init", "--name", name, "--dir"]).arg(&folder);
        let key = run(&mut init).expect(0).stdout;
        assert_eq!(key, fs::read_to_string(folder.join("witness.pub")).unwrap());
        run(&mut init).expect(1).says("is never replaced");
        fs::copy(log, folder.join("logs/custodian.pub")).unwrap();
        Self::serve(folder, "127.0.0.1:0")
    }

    fn serve(folder: PathBuf, listen: &str) -> Self {
        let mut serve = Command::new(bin("custodianctl"));
        serve.env_clear().args(["audit", "witness", "serve", "--listen", listen, "--dir"]).arg(&folder);
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready ").expect("it serves").to_owned();
        Self { folder, child, address }
    }

    /// kill -9, and again on the same port.
    fn restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::serve(self.folder.clone(), &self.address.clone())
    }

    fn public(&self) -> String {
        self.folder.join("witness.pub").to_str().unwrap().to_owned()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn extract(dev: &Dev, name: &str) -> String {
    let file = dev.scratch("source").join(name);
    fs::write(&file, name).unwrap();
    let envelope = dev.scratch("sealed").join(format!("{name}.mtd"));
    dev.seal(&file, &envelope);
    let receipt = dev.scratch("receipts").join(name).to_str().unwrap().to_owned();
    let opened = dev.scratch("opened");
    let args = ["extract", envelope.to_str().unwrap(), "-C", opened.to_str().unwrap(), "--receipt", &receipt];
    dev.envelope(Person::Operator, args).expect(0);
    receipt
}

fn verify_receipt(dev: &Dev, receipt: &str, witnesses: &[&str], quorum: &str) -> Ran {
    let mut command = Command::new(bin("envelope"));
    command.env_clear().args(["verify-receipt", receipt, "--json", "--quorum", quorum]);
    command.arg("--log-key").arg(dev.dir().join("keys/log.pub"));
    for witness in witnesses {
        command.args(["--witness", witness]);
    }
    run(&mut command)
}

#[test]
fn what_witnesses_cosign_is_proven_offline_and_a_rolled_back_log_is_not_cosigned() {
    let mut witnesses = Vec::new();
    let folder = Dev::configured(|config, folder| {
        let log = folder.join("dev/keys/log.pub");
        let mut tables = Vec::new();
        for name in ["one.example", "two.example"] {
            let witness = Witness::init(folder, name, &log);
            let key = fs::read_to_string(witness.public()).unwrap();
            let table = format!("key = {:?}\nurl = \"http://{}/\"", key.trim(), witness.address);
            tables.push(table.parse::<toml::Table>().unwrap().into());
            witnesses.push(witness);
        }
        let log = config["log"].as_table_mut().unwrap();
        log.insert("witness".to_owned(), toml::Value::Array(tables));
    });
    let public: Vec<String> = witnesses.iter().map(Witness::public).collect();
    let both: Vec<&str> = public.iter().map(String::as_str).collect();
    let dev_folder = folder.path().join("dev");
    let backup = folder.path().join("backup");
    run(Command::new("cp").arg("-a").arg(&dev_folder).arg(&backup)).expect(0);

    let dev = Dev::start_in(folder);
    let receipt = extract(&dev, "one");
    let told = verify_receipt(&dev, &receipt, &both, "2").expect(0).json();
    assert_eq!(told["cosignatures"].as_array().unwrap().len(), 2, "{told}");
    verify_receipt(&dev, &receipt, &both[..1], "1").expect(0);
    verify_receipt(&dev, &receipt, &both, "3").expect(2);
    // A witness that was away goes on from what it remembers.
    let mut witnesses: Vec<Witness> = witnesses.into_iter().map(Witness::restart).collect();
    let receipt = extract(&dev, "two");
    verify_receipt(&dev, &receipt, &both, "1").expect(0);
    let args = ["audit", "verify", "--witness", both[0], "--witness", both[1], "--quorum", "1", "--json"];
    let told = dev.ctl(Person::Auditor, args).expect(0).json();
    assert!(!told["cosignatures"].as_array().unwrap().is_empty(), "{told}");

    // One witness is gone: the other's cosignature is there, and two are not.
    drop(witnesses.pop());
    let receipt = extract(&dev, "three");
    verify_receipt(&dev, &receipt, &both, "1").expect(0);
    verify_receipt(&dev, &receipt, &both, "2")
        .expect(5)
        .says("1 of 2 cosignatures are there, none by two.example");

    // The ledger, and all that it remembers by itself, put back to what it was: only the witness knows better.
    let folder = dev.kill();
    fs::remove_dir_all(&dev_folder).unwrap();
    run(Command::new("cp").arg("-a").arg(&backup).arg(&dev_folder)).expect(0);
    let dev = Dev::start_in(folder);
    let receipt = extract(&dev, "four");
    verify_receipt(&dev, &receipt, &both, "1").expect(5).says("0 of 1 cosignatures");
    let status = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
    let trouble = status["log"]["witnesses"][0]["trouble"].as_str().unwrap();
    assert!(trouble.contains("an old copy of the ledger may be in its place"), "{status}");
}
