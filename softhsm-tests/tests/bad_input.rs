//! Bad input gets a clear error, the documented exit code, and loses nothing (law 11).

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use softhsm_tests::{Dev, Person, Ran, Start, bin, run};

struct Sealed {
    dev: Dev,
    envelope: PathBuf,
}

impl Sealed {
    fn new() -> Self {
        let dev = Dev::start();
        let source = dev.scratch("source").join("a.txt");
        fs::write(&source, "content ".repeat(1000)).unwrap();
        let envelope = dev.scratch("sealed").join("a.mtd");
        dev.seal(&source, &envelope);
        Self { dev, envelope }
    }

    fn extract(&self, envelope: &Path, target: &Path) -> Ran {
        let args = ["extract".as_ref(), envelope.as_os_str(), "-C".as_ref(), target.as_os_str()];
        self.dev.envelope(Person::Operator, args)
    }

    /// Extracting this into an empty folder fails so, and leaves nothing there.
    #[track_caller]
    fn refuses(&self, envelope: &Path, code: i32, says: &str) {
        let target = self.dev.scratch("target");
        self.extract(envelope, &target).expect(code).says(says);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "something was left behind");
    }
}

#[test]
fn files_that_are_no_envelope_are_refused() {
    let sealed = Sealed::new();
    let scratch = sealed.dev.scratch("bad");
    let file = |name: &str, content: &[u8]| {
        let path = scratch.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let whole = fs::read(&sealed.envelope).unwrap();
    sealed.refuses(&scratch.join("missing.mtd"), 1, "missing.mtd");
    sealed.refuses(&file("empty.mtd", b""), 1, "empty.mtd");
    sealed.refuses(&file("text.mtd", b"just a text"), 1, "text.mtd");
    for cut in [10, whole.len() / 2, whole.len() - 1] {
        let ran = sealed.extract(&file("cut.mtd", &whole[..cut]), &sealed.dev.scratch("target"));
        assert!(matches!(ran.code, Some(1 | 5)), "{ran:?}");
        assert_eq!(fs::read_dir(sealed.dev.scratch("target")).unwrap().count(), 0);
    }
}

#[test]
fn a_damaged_envelope_is_refused_with_the_integrity_code() {
    let sealed = Sealed::new();
    let mut damaged = fs::read(&sealed.envelope).unwrap();
    // The last bytes before the central directory are the entry's authentication code.
    let directory = damaged.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    damaged[directory - 3] ^= 1;
    let path = sealed.dev.scratch("bad").join("damaged.mtd");
    fs::write(&path, damaged).unwrap();
    sealed.refuses(&path, 5, "nothing was");
}

#[test]
fn an_envelope_for_another_custodian_names_the_keys() {
    let (one, other) = (Sealed::new(), Sealed::new());
    one.refuses(&other.envelope, 3, "key");
}

#[test]
fn an_unreachable_custodian_has_its_own_exit_code() {
    let sealed = Sealed::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = sealed.dev.command("envelope", Person::Operator);
    command.env("CUSTODIAN_ADDR", port.to_string()).arg("extract").arg(&sealed.envelope);
    run(command.current_dir(sealed.dev.scratch("target"))).expect(6).says("try:");
}

#[test]
fn a_wrong_client_certificate_is_refused_by_name() {
    let (one, other) = (Sealed::new(), Sealed::new());
    let mut command = one.dev.command("envelope", Person::Operator);
    command.env("CUSTODIAN_CERT", other.dev.dir().join("operator/device.crt"));
    command.env("CUSTODIAN_KEY", other.dev.dir().join("operator/device.key"));
    run(command.arg("login")).expect(3).says("CERTIFICATE_REFUSED");
}

#[test]
fn another_custodians_certificate_is_not_trusted() {
    let (one, other) = (Sealed::new(), Sealed::new());
    let mut command = one.dev.command("envelope", Person::Operator);
    command.env("CUSTODIAN_CA", other.dev.dir().join("ca.crt"));
    let ran = run(command.arg("login"));
    assert_ne!(ran.code, Some(0));
    ran.says("CUSTODIAN_CA");
}

#[test]
fn a_read_only_target_and_an_existing_file_lose_nothing() {
    let sealed = Sealed::new();
    let target = sealed.dev.scratch("existing");
    fs::write(target.join("a.txt"), b"mine").unwrap();
    sealed.extract(&sealed.envelope, &target).expect(1).says("a.txt");
    assert_eq!(fs::read(target.join("a.txt")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    // Root may write into read-only folders; nobody may make a folder beneath a file.
    sealed.extract(&sealed.envelope, &sealed.envelope.join("below")).expect(1).says("Not a directory");
}

#[test]
fn a_full_disk_leaves_nothing_and_says_so() {
    let sealed = Sealed::new();
    let target = sealed.dev.scratch("small");
    let mounted = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(&target));
    if mounted.code != Some(0) {
        // Not root: a file-size limit makes writes fail as a full disk does.
        let script = "ulimit -f 4; trap '' XFSZ; exec \"$@\"";
        let program = sealed.dev.command("envelope", Person::Operator);
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(bin("envelope")).arg("extract").arg(&sealed.envelope);
        command.arg("-C").arg(&target);
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut command).expect(1).says("try:");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        return;
    }
    let big = sealed.dev.scratch("source").join("big");
    fs::write(&big, vec![7; 1 << 20]).unwrap();
    let envelope = sealed.dev.scratch("sealed").join("big.mtd");
    sealed.dev.seal(&big, &envelope);
    let ran = sealed.extract(&envelope, &target);
    let left = fs::read_dir(&target).unwrap().count();
    run(Command::new("umount").arg(&target)).expect(0);
    ran.expect(1).says("try:");
    assert_eq!(left, 0, "something was left behind");
}

/// Starts a stopped `dev` again after something of it was changed.
fn restarted(change: impl FnOnce(&Path)) -> Ran {
    let (folder, ran) = Dev::start().stop();
    ran.expect(0);
    change(&folder.path().join("dev"));
    match Dev::try_start_in(folder) {
        Start::Ended(ran) => ran,
        Start::Serving(_) => panic!("it serves"),
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_wrong_pin_is_tried_once_and_named() {
    let ran = restarted(|dir| fs::write(dir.join("token.pin"), b"wrong").unwrap()).expect(1);
    assert!(ran.stderr.to_lowercase().contains("pin"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("error:").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_pin_file_that_others_can_read_is_refused() {
    let ran = restarted(|dir| {
        fs::set_permissions(dir.join("token.pin"), fs::Permissions::from_mode(0o644)).unwrap();
    });
    ran.expect(1).says("token.pin").says("chmod");
}

#[test]
fn a_missing_module_is_named() {
    let ran = restarted(|dir| edit(&dir.join("custodian.toml"), "libsofthsm2.so", "libnothing.so"));
    ran.expect(1).says("libnothing.so").says("Install");
}

#[test]
fn a_module_that_is_none_is_named() {
    let ran = restarted(|dir| {
        let text = fs::read_to_string(dir.join("custodian.toml")).unwrap();
        let module = text.lines().find(|line| line.starts_with("module")).unwrap();
        edit(&dir.join("custodian.toml"), module, "module = \"/etc/passwd\"");
    });
    ran.expect(1).says("/etc/passwd");
}

#[test]
fn an_unknown_token_label_lists_what_there_is() {
    let ran =
        restarted(|dir| edit(&dir.join("custodian.toml"), "label = \"custodian-dev\"", "label = \"other\""));
    ran.expect(1).says("other").says("custodian-dev");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(bin("custodian"));
    command.args(["dev", "--listen", &taken.local_addr().unwrap().to_string(), "--dir"]).arg(folder.path());
    run(&mut command).expect(1).says("cannot listen").says("try:");
}

#[test]
fn a_ledger_that_is_none_is_named_and_kept() {
    let ran = restarted(|dir| {
        for end in ["-wal", "-shm"] {
            // There may be none.
            fs::remove_file(dir.join(format!("ledger.db{end}"))).ok();
        }
        fs::write(dir.join("ledger.db"), "this is no database ".repeat(100)).unwrap();
    });
    ran.expect(1).says("ledger.db");
}

#[test]
fn one_ledger_serves_one_custodian() {
    let dev = Dev::start();
    let mut command = Command::new(bin("custodian"));
    let ran = run(command.args(["check", "--config"]).arg(dev.dir().join("custodian.toml")));
    ran.expect(1).says("ledger.db");
}
