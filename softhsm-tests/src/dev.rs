//! A custodian, as `custodian dev` makes it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use crate::{
    Faults,
    programs::{Ran, bin, run},
};

/// A running custodian with a SoftHSM token, a CA and people of its own. Everything ends with it.
pub struct Dev {
    folder: TempDir,
    child: Child,
    address: String,
    log: thread::JoinHandle<String>,
}

/// What a start came to.
pub enum Start {
    Serving(Dev),
    /// It ended instead.
    Ended(Ran),
}

/// Changes a configuration to budgets that nobody reaches.
pub fn without_budgets(config: &mut toml::Table) {
    let most = || toml::Value::from(i64::from(u32::MAX));
    let names = ["files_per_hour", "files_per_day", "unwraps_per_hour", "unwraps_per_day"];
    let budget = || {
        toml::Value::from(names.map(|name| (name.to_owned(), most())).into_iter().collect::<toml::Table>())
    };
    let mut budgets: toml::Table =
        ["user", "device", "key"].map(|of| (of.to_owned(), budget())).into_iter().collect();
    budgets.insert("bad_files_per_hour".into(), most());
    config.insert("budgets".into(), budgets.into());
}

/// The people that `custodian dev` makes; each has a device `NAME-laptop`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Person {
    Operator,
    Admin,
    Auditor,
}

impl Person {
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
        }
    }
}

impl Dev {
    /// A custodian made from nothing.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// A custodian made from nothing whose budgets nobody reaches, for as many calls as a fast machine can make.
    pub fn without_budgets() -> Self {
        Self::start_in(Self::configured(|config, _| without_budgets(config)))
    }

    /// As [`Dev::without_budgets`], but for the budgets that `change` sets. Their hour (UTC) does not turn within a test's time.
    pub fn with_budgets(change: impl FnOnce(&mut toml::Table)) -> Self {
        let folder = Self::configured(|config, _| {
            without_budgets(config);
            change(config["budgets"].as_table_mut().unwrap());
        });
        const HOUR: Duration = Duration::from_secs(3600);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let left = HOUR - Duration::from_secs(now.as_secs() % HOUR.as_secs());
        if left < Duration::from_secs(120) {
            thread::sleep(left);
        }
        Self::start_in(folder)
    }

    /// The custodian of this folder, made if it is not there.
    pub fn start_in(folder: TempDir) -> Self {
        let command = Self::in_folder(&folder);
        Self::start_as(folder, command)
    }

    /// A custodian with two SoftHSM tokens, `main` and `second`, that hold the very same keys: the second is a copy of
    /// the first's files, as replicated HSMs have the same keys with the same attributes. Without budgets.
    pub fn with_two_tokens() -> Self {
        let folder = Self::start().kill();
        let dir = folder.path().join("dev");
        let tokens = dir.join("tokens-2");
        run(Command::new("cp").arg("-a").arg(dir.join("tokens")).arg(&tokens)).expect(0);
        let conf = dir.join("softhsm2-2.conf");
        fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
            .unwrap();
        let path = dir.join("custodian.toml");
        let text = fs::read_to_string(&path).unwrap();
        let (_, first) = text.split_once("[[token]]").unwrap();
        let second = first
            .replace("\"main\"", "\"second\"")
            .replace("\"tokens\"", "\"tokens-2\"")
            .replace(&dir.join("softhsm2.conf").display().to_string(), &conf.display().to_string());
        assert_ne!(first, second);
        let mut config: toml::Table = format!("{text}\n[[token]]{second}").parse().unwrap();
        without_budgets(&mut config);
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        Self::start_in(folder)
    }

    /// As [`Dev::start_in`], for tests of starts that fail.
    pub fn try_start_in(folder: TempDir) -> Start {
        let command = Self::in_folder(&folder);
        Self::try_start_as(folder, command)
    }

    /// What [`Dev::start`] makes, stopped, with a change of its configuration.
    pub fn configured(change: impl FnOnce(&mut toml::Table, &Path)) -> TempDir {
        Self::start().reconfigured(change)
    }

    /// What is left of this one, with a change of its configuration.
    pub fn reconfigured(self, change: impl FnOnce(&mut toml::Table, &Path)) -> TempDir {
        let (folder, ran) = self.stop();
        ran.expect(0);
        let path = folder.path().join("dev/custodian.toml");
        let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        change(&mut config, folder.path());
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        folder
    }

    /// A custodian whose token fails as it is told; `change` changes the `[[token]]` table beside. Without budgets.
    pub fn start_with_faults(change: impl FnOnce(&mut toml::Table)) -> (Self, Faults) {
        let mut faults = None;
        let folder = Self::configured(|config, folder| {
            without_budgets(config);
            let token = config["token"][0].as_table_mut().unwrap();
            change(token);
            faults = Some(Faults::before(token, folder.join("faults")));
        });
        (Self::start_in(folder), faults.unwrap())
    }

    fn in_folder(folder: &TempDir) -> Command {
        let mut command = Command::new(bin("custodian"));
        command.args(["dev", "--dir"]).arg(folder.path().join("dev"));
        command
    }

    /// A custodian that cannot write more than this into any one file: its disk is full beyond.
    pub fn start_on_a_small_disk(folder: TempDir, blocks_of_512: u32) -> Self {
        let mut command = Command::new("sh");
        // Ignored, the signal becomes an error of the write, as on a full disk.
        command.args(["-c", "trap '' XFSZ; ulimit -S -f \"$0\"; exec \"$@\"", &blocks_of_512.to_string()]);
        command.arg(bin("custodian")).args(["dev", "--dir"]).arg(folder.path().join("dev"));
        Self::start_as(folder, command)
    }

    /// Gives the custodian of [`Dev::start_on_a_small_disk`] all the space there is.
    pub fn make_room(&self) {
        let pid = self.child.id().to_string();
        run(Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"])).expect(0);
    }

    /// Started by this command, which must be a `custodian dev` in `folder/dev`.
    pub fn start_as(folder: TempDir, command: Command) -> Self {
        match Self::try_start_as(folder, command) {
            Start::Serving(dev) => dev,
            Start::Ended(ran) => panic!("the custodian ended with {:?}: {}", ran.code, ran.stderr),
        }
    }

    fn try_start_as(folder: TempDir, mut command: Command) -> Start {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = thread::spawn(move || {
            let mut text = Vec::new();
            // Ends with the process.
            stderr.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        match line.trim().strip_prefix("ready ") {
            Some(address) => Start::Serving(Self { folder, child, address: address.to_owned(), log }),
            None => {
                let status = child.wait().unwrap();
                Start::Ended(Ran { code: status.code(), stdout: line, stderr: log.join().unwrap() })
            }
        }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder that `custodian dev` made.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    /// A folder for the test's own files, on the same file system.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The certificate to seal to.
    pub fn certificate(&self) -> PathBuf {
        self.dir().join("keys/sample.crt")
    }

    /// A program with the settings of this person, as `DIR/NAME.env` gives them.
    pub fn command(&self, program: &str, person: Person) -> Command {
        let mut command = Command::new(bin(program));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path());
        let text = fs::read_to_string(self.dir().join(format!("{}.env", person.name()))).unwrap();
        for line in text.lines() {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            command.env(name, value.trim_matches('\''));
        }
        command
    }

    /// Runs `envelope` as this person.
    pub fn envelope<A: AsRef<OsStr>>(&self, person: Person, args: impl IntoIterator<Item = A>) -> Ran {
        run(self.command("envelope", person).args(args))
    }

    /// Runs `custodianctl` as this person.
    pub fn ctl<A: AsRef<OsStr>>(&self, person: Person, args: impl IntoIterator<Item = A>) -> Ran {
        run(self.command("custodianctl", person).args(args))
    }

    /// Seals `path` to the sample key.
    pub fn seal(&self, path: &Path, envelope: &Path) {
        let certificate = self.certificate();
        let args: [&OsStr; 6] = [
            "seal".as_ref(),
            "--to".as_ref(),
            certificate.as_ref(),
            "-o".as_ref(),
            envelope.as_ref(),
            path.as_ref(),
        ];
        self.envelope(Person::Operator, args).expect(0);
    }

    /// How each token is, as `custodianctl token ls` says.
    pub fn tokens(&self) -> Vec<serde_json::Value> {
        let tokens = self.ctl(Person::Admin, ["token", "ls", "--json"]).expect(0).json();
        tokens.as_array().unwrap().clone()
    }

    /// Whether every token serves now.
    pub fn all_tokens_serve(&self) -> bool {
        self.tokens().iter().all(|token| token["state"] == "serving")
    }

    /// The worker process: the child that has the PKCS#11 module loaded.
    pub fn worker(&self) -> Option<u32> {
        self.workers().pop()
    }

    /// All worker processes.
    pub fn workers(&self) -> Vec<u32> {
        let parent = self.child.id();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                // After the name, which is in parentheses: state, parent.
                let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
                after.split_whitespace().nth(1) == Some(&parent.to_string()) && command.contains("worker")
            })
            .collect()
    }

    /// The custodian's own process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to a process.
    pub fn signal(pid: u32, name: &str) {
        run(Command::new("kill").args(["-s", name, &pid.to_string()])).expect(0);
    }

    /// kill -9, as a power failure would. What is left can be started again.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.leave().0
    }

    /// SIGTERM. What it said in its life, and what is left.
    pub fn stop(mut self) -> (TempDir, Ran) {
        Self::signal(self.child.id(), "TERM");
        let status = self.child.wait().unwrap();
        let (folder, log) = self.leave();
        (folder, Ran { code: status.code(), stdout: String::new(), stderr: log })
    }

    fn leave(mut self) -> (TempDir, String) {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let log = std::mem::replace(&mut self.log, thread::spawn(String::new));
        (folder, log.join().unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Already gone is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
