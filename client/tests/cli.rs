//! What the two tools promise at the command line: exit codes, messages, sessions, tables. Against real TLS.

#![allow(clippy::unwrap_used)]

mod double;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
};

use custodian_proto::v1;
use double::{Accept, CODE, Custodian, PASSWORD, Pki};
use rcgen::{CertificateParams, date_time_ymd};

const ENVELOPE: &str = env!("CARGO_BIN_EXE_envelope");
const CUSTODIANCTL: &str = env!("CARGO_BIN_EXE_custodianctl");

/// A workstation with settings in its environment.
struct Workstation {
    pki: Pki,
    address: String,
    device: &'static str,
    password: Option<&'static str>,
}

impl Workstation {
    fn of(pki: Pki, address: impl ToString) -> Self {
        Self { pki, address: address.to_string(), device: "device", password: Some(PASSWORD) }
    }

    fn with_custodian() -> (Self, Custodian) {
        let pki = Pki::new();
        let custodian = Custodian::start(&pki, Accept::DeviceCa);
        (Self::of(pki, custodian.address), custodian)
    }

    fn command(&self, tool: &str, args: &[&str]) -> Command {
        let mut command = bare(tool, args, self.pki.dir.path());
        command
            .env("CUSTODIAN_ADDR", &self.address)
            .env("CUSTODIAN_CA", self.pki.path("ca.crt"))
            .env("CUSTODIAN_CERT", self.pki.path(&format!("{}.crt", self.device)))
            .env("CUSTODIAN_KEY", self.pki.path(&format!("{}.key", self.device)))
            .env("CUSTODIAN_USER", "anna")
            .env("CUSTODIAN_SESSION_DIR", self.sessions());
        if let Some(password) = self.password {
            let file = self.pki.path("password");
            fs::write(&file, format!("{password}\n")).unwrap();
            command.env("CUSTODIAN_PASSWORD_FILE", file);
        }
        command
    }

    fn run(&self, tool: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(tool, args).output().unwrap())
    }

    fn sessions(&self) -> std::path::PathBuf {
        self.pki.path("sessions")
    }
}

/// A command in an empty environment, without a terminal to ask on.
fn bare(tool: &str, args: &[&str], home: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(tool).args(args).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    command.current_dir(home).stdin(Stdio::null());
    command
}

#[derive(Debug)]
struct Ran {
    exit: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            exit: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn fails(self, exit: i32, words: &[&str]) -> Self {
        assert_eq!(self.exit, exit, "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:#?}");
        }
        assert!(self.out.is_empty(), "data on standard output in {self:#?}");
        self
    }

    #[track_caller]
    fn succeeds(self) -> Self {
        assert_eq!(self.exit, 0, "{self:#?}");
        self
    }

    #[track_caller]
    fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.succeeds().out).unwrap()
    }
}

#[test]
fn wrong_usage_exits_2() {
    let home = tempfile::tempdir().unwrap();
    let cases: [(&str, &[&str]); 16] = [
        (ENVELOPE, &[]),
        (ENVELOPE, &["open"]),
        (ENVELOPE, &["seal", "file"]),
        (ENVELOPE, &["seal", "--to", "c.crt", "--format", "zip", "file"]),
        (ENVELOPE, &["extract"]),
        (ENVELOPE, &["extract", "a.mtd", "--max-entries", "many"]),
        (ENVELOPE, &["extract", "a.mtd", "--to-stdout", "-C", "dir"]),
        (ENVELOPE, &["extract", "a.mtd", "b.mtd", "--to-stdout"]),
        (ENVELOPE, &["extract", "a.mtd", "-"]),
        (CUSTODIANCTL, &["budget", "lift", "users/anna", "--more", "5", "--reason", "case 17"]),
        (CUSTODIANCTL, &["budget", "unlock", "--user", "anna", "--reason", "case 17"]),
        (CUSTODIANCTL, &["device", "revoke", "laptop-7"]),
        (CUSTODIANCTL, &["device", "invite", "laptop-7", "--ttl", "-1h"]),
        (CUSTODIANCTL, &["user", "add", "bob", "--role", "king"]),
        (CUSTODIANCTL, &["key", "create", "payroll", "--bits", "1024"]),
        (CUSTODIANCTL, &["audit", "ls", "--since", "yesterday"]),
    ];
    for (tool, args) in cases {
        Ran::of(bare(tool, args, home.path()).output().unwrap())
            .fails(2, &["Usage:"][..usize::from(args.len() < 2)]);
    }
}

#[test]
fn several_paths_need_a_name_for_their_envelope() {
    let pki = Pki::new();
    let ca = pki.path("ca.crt");
    let args = ["seal", "--to", ca.to_str().unwrap(), "a", "b"];
    Ran::of(bare(ENVELOPE, &args, pki.dir.path()).output().unwrap()).fails(2, &["-o FILE"]);
}

#[test]
fn a_missing_setting_exits_2_and_names_flag_variable_and_file() {
    let home = tempfile::tempdir().unwrap();
    for (tool, args) in [(ENVELOPE, ["whoami"].as_slice()), (CUSTODIANCTL, &["device", "ls"])] {
        let ran = Ran::of(bare(tool, args, home.path()).output().unwrap());
        ran.fails(2, &["--addr", "CUSTODIAN_ADDR", ".config/custodian/client.toml", "try:"]);
    }
}

#[test]
fn settings_come_from_the_users_file_too() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/custodian");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("client.toml"), "addr = 'custodian.example:1'\nuser = 'anna'\n").unwrap();
    Ran::of(bare(ENVELOPE, &["whoami"], home.path()).output().unwrap()).fails(2, &["--ca", "CUSTODIAN_CA"]);
    fs::write(folder.join("client.toml"), "adr = 'custodian.example:1'\n").unwrap();
    Ran::of(bare(ENVELOPE, &["whoami"], home.path()).output().unwrap())
        .fails(1, &["client.toml", "line 1", "adr"]);
}

#[test]
fn an_unreachable_custodian_exits_6() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let workstation = Workstation::of(Pki::new(), address);
    let words = [&address.to_string(), "refused", "CUSTODIAN_ADDR"];
    workstation.run(ENVELOPE, &["whoami"]).fails(6, &words);
    workstation.run(CUSTODIANCTL, &["status"]).fails(6, &words);
}

#[test]
fn something_else_that_answers_at_the_address_exits_6() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let workstation = Workstation::of(Pki::new(), listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        tcp.read_to_end(&mut Vec::new()).ok();
    });
    workstation.run(ENVELOPE, &["whoami"]).fails(6, &["no custodian", "CUSTODIAN_ADDR"]);
    server.join().unwrap();
}

#[test]
fn a_custodian_that_our_ca_does_not_vouch_for_is_not_talked_to() {
    let (_, custodian) = Workstation::with_custodian();
    let stranger = Workstation::of(Pki::new(), custodian.address);
    stranger.run(ENVELOPE, &["login"]).fails(1, &["not trusted", "CUSTODIAN_CA"]);
    assert_eq!(custodian.state.lock().logins, 0, "the password stayed here");
}

#[test]
fn a_custodian_under_another_name_is_not_talked_to() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.address = format!("localhost:{}", custodian.address.port());
    workstation.run(ENVELOPE, &["login"]).fails(1, &["not trusted", "CUSTODIAN_ADDR"]);
}

#[test]
fn a_certificate_of_another_ca_is_refused_by_name() {
    let (workstation, _custodian) = Workstation::with_custodian();
    let stranger = Workstation::of(Pki::new(), &workstation.address);
    fs::copy(workstation.pki.path("ca.crt"), stranger.pki.path("ca.crt")).unwrap();
    for _ in 0..10 {
        stranger
            .run(ENVELOPE, &["login"])
            .fails(3, &["CERTIFICATE_REFUSED", "does not accept this client certificate", "CUSTODIAN_CERT"]);
    }
}

#[test]
fn an_expired_certificate_is_refused_by_name() {
    let (mut workstation, _custodian) = Workstation::with_custodian();
    let mut params: CertificateParams = double::device_params();
    params.not_after = date_time_ymd(2020, 1, 1);
    workstation.pki.device("old", params);
    workstation.device = "old";
    workstation.run(ENVELOPE, &["login"]).fails(3, &["CERTIFICATE_EXPIRED", "clock"]);
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let (workstation, _custodian) = Workstation::with_custodian();
    let key = workstation.pki.path("device.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    workstation.run(ENVELOPE, &["whoami"]).fails(1, &["device.key", "chmod 600"]);
}

#[test]
fn a_key_of_another_certificate_is_noticed() {
    let (workstation, _custodian) = Workstation::with_custodian();
    workstation.pki.device("other", double::device_params());
    fs::copy(workstation.pki.path("other.key"), workstation.pki.path("device.key")).unwrap();
    workstation.run(ENVELOPE, &["whoami"]).fails(1, &["does not belong", "CUSTODIAN_KEY"]);
}

#[test]
fn one_login_serves_later_commands_of_both_tools_until_logout() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.run(ENVELOPE, &["login"]).succeeds();
    workstation.password = None;
    let who = workstation.run(ENVELOPE, &["whoami", "--json"]).json();
    assert_eq!(who["user"], "users/anna");
    assert_eq!(who["device"], "devices/laptop-7");
    assert_eq!(who["roles"], serde_json::json!(["operator", "auditor"]));
    workstation.run(CUSTODIANCTL, &["whoami"]).succeeds();
    assert_eq!(custodian.state.lock().logins, 1);

    workstation.run(ENVELOPE, &["logout"]).succeeds();
    assert!(custodian.state.lock().sessions.is_empty(), "ended at the custodian too");
    assert_eq!(fs::read_dir(workstation.sessions()).unwrap().count(), 0);
    workstation
        .run(ENVELOPE, &["whoami"])
        .fails(3, &["no valid session", "envelope login", "CUSTODIAN_PASSWORD_FILE"]);
}

#[test]
fn logout_forgets_the_session_here_even_if_the_custodian_is_gone() {
    let (workstation, custodian) = Workstation::with_custodian();
    workstation.run(ENVELOPE, &["login"]).succeeds();
    drop(custodian);
    workstation.run(ENVELOPE, &["logout"]).fails(6, &["forgotten here"]);
    assert_eq!(fs::read_dir(workstation.sessions()).unwrap().count(), 0);
}

#[test]
fn a_session_that_the_custodian_forgot_is_renewed_once_if_there_is_a_password() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.run(ENVELOPE, &["login"]).succeeds();
    custodian.state.lock().sessions.clear();
    workstation.run(ENVELOPE, &["whoami"]).succeeds();
    assert_eq!(custodian.state.lock().logins, 2);
    workstation.run(ENVELOPE, &["whoami"]).succeeds();
    assert_eq!(custodian.state.lock().logins, 2, "the new session was kept");

    custodian.state.lock().sessions.clear();
    workstation.password = None;
    workstation.run(ENVELOPE, &["whoami"]).fails(3, &["NOT_LOGGED_IN", "0192-test"]);
    assert_eq!(fs::read_dir(workstation.sessions()).unwrap().count(), 0, "a dead session is not kept");
}

#[test]
fn a_session_refused_right_after_its_login_is_not_tried_for_ever() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().refuse_all = Some("NOT_LOGGED_IN");
    workstation.run(ENVELOPE, &["whoami"]).fails(3, &["NOT_LOGGED_IN"]);
    assert_eq!(custodian.state.lock().logins, 1);
    workstation.run(ENVELOPE, &["whoami"]).fails(3, &["NOT_LOGGED_IN"]);
    assert_eq!(custodian.state.lock().logins, 2, "the kept one, then one more");
}

#[test]
fn a_wrong_password_is_tried_once() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.password = Some("wrong horse battery");
    let ran = workstation
        .run(ENVELOPE, &["whoami"])
        .fails(3, &["cannot log in as anna", "LOGIN_FAILED", "0192-test"]);
    assert!(!ran.err.contains("wrong horse"));
    assert_eq!(custodian.state.lock().logins, 1);
}

/// Messages to a certificate that the custodian is asked about by name: that takes a session.
fn messages(workstation: &Workstation) -> [&'static str; 3] {
    let openssl = |args: &[&str]| {
        let ran =
            Command::new("openssl").args(args).current_dir(workstation.pki.dir.path()).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    };
    let key = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "x.key"];
    openssl(&[&key[..], &["-out", "x.crt"]].concat());
    fs::write(workstation.pki.path("plain"), "plain").unwrap();
    let names = ["a.p7m", "b.p7m", "c.p7m"];
    for name in names {
        let seal =
            ["cms", "-encrypt", "-binary", "-in", "plain", "-outform", "DER", "-aes-256-gcm", "-out", name];
        openssl(&[&seal[..], &["-recip", "x.crt", "-keyopt", "rsa_padding_mode:oaep"]].concat());
    }
    names
}

#[test]
fn a_wrong_password_is_tried_once_for_many_envelopes() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.password = Some("wrong horse battery");
    let [a, b, c] = messages(&workstation);
    let ran = workstation.run(ENVELOPE, &["extract", a, b, c]).fails(3, &["cannot extract 3 of 3 envelopes"]);
    assert_eq!(ran.err.matches("LOGIN_FAILED").count(), 3, "{ran:#?}");
    assert_eq!(custodian.state.lock().logins, 1);
}

#[test]
fn who_mistypes_the_password_is_asked_again_for_the_next_envelope_and_not_before() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.password = None;
    let [a, b, c] = messages(&workstation);
    // A terminal of its own.
    let mut command = workstation.command("/usr/bin/script", &["-qec"]);
    command.arg(format!("{ENVELOPE} extract {a} {b} {c}")).arg("/dev/null");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut typed, mut shown) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut screen = Vec::new();
    let mut byte = [0];
    for password in ["wrong horse battery", PASSWORD] {
        let begun = screen.len();
        while !screen[begun..].ends_with(b"password of anna: ") {
            assert_eq!(shown.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&screen));
            screen.push(byte[0]);
        }
        writeln!(typed, "{password}").unwrap();
    }
    shown.read_to_end(&mut screen).unwrap();
    let screen = String::from_utf8(screen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{screen}");
    assert_eq!(custodian.state.lock().logins, 2, "{screen}");
    assert_eq!(screen.matches("password of anna: ").count(), 2, "{screen}");
    let (first, second) = screen.split_at(screen.rfind("password of anna: ").unwrap());
    assert!(first.contains("cannot extract a.p7m") && first.contains("LOGIN_FAILED"), "{screen}");
    // The custodian has no such key: that is told of the others.
    for name in [b, c] {
        assert!(second.contains(&format!("cannot open {name}")), "{screen}");
    }
    assert!(!second.contains("LOGIN_FAILED") && second.contains("KEY_UNKNOWN"), "{screen}");
}

#[test]
fn a_password_can_come_from_standard_input() {
    let (mut workstation, custodian) = Workstation::with_custodian();
    workstation.password = None;
    for (count, tool) in [(1, ENVELOPE), (2, CUSTODIANCTL)] {
        let mut command = workstation.command(tool, &["login", "--password-file", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(custodian.state.lock().logins, count);
    }
}

#[test]
fn the_kept_session_is_readable_by_its_owner_alone() {
    let (workstation, _custodian) = Workstation::with_custodian();
    workstation.run(ENVELOPE, &["login"]).succeeds();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&workstation.sessions()), 0o700);
    let files: Vec<_> =
        fs::read_dir(workstation.sessions()).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert_eq!(mode(&files[0]), 0o600);
}

#[test]
fn a_refusal_exits_3_with_what_why_code_request_and_hint() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().refuse_all = Some("DEVICE_REVOKED");
    let ran = workstation.run(CUSTODIANCTL, &["device", "ls"]).fails(3, &[]);
    assert_eq!(
        ran.err,
        "error: cannot list devices: this workstation is revoked (DEVICE_REVOKED, request 0192-test)\n  try: ask an \
         administrator; a revoked workstation must be enrolled anew under another id\n"
    );
}

#[test]
fn enrolment_makes_a_key_here_and_writes_what_a_workstation_needs() {
    let pki = Pki::new();
    let custodian = Custodian::start(&pki, Accept::Anyone);
    let workstation = Workstation::of(pki, custodian.address);
    let code = workstation.pki.path("code");
    fs::write(&code, CODE).unwrap();
    let args = ["enroll", "--json", "--code-file", code.to_str().unwrap()];

    let made = workstation.run(ENVELOPE, &args).json();
    assert_eq!(made["device"]["name"], "devices/laptop-9");
    assert_eq!(made["device"]["state"], "enrolled");
    let folder = workstation.pki.path(".config/custodian");
    let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("device.key"), 0o600);
    assert_eq!(mode("device.crt"), 0o644);
    assert_eq!(made["key"], folder.join("device.key").to_str().unwrap());

    // What it wrote is enough to sign in.
    let mut command = bare(ENVELOPE, &["login"], workstation.pki.dir.path());
    command.env("CUSTODIAN_PASSWORD_FILE", workstation.pki.path("password"));
    Ran::of(command.output().unwrap()).succeeds();

    let before = fs::read(folder.join("device.key")).unwrap();
    workstation.run(ENVELOPE, &args).fails(1, &["device.key", "nothing is overwritten"]);
    assert_eq!(fs::read(folder.join("device.key")).unwrap(), before);
}

#[test]
fn a_refused_enrolment_leaves_nothing_behind() {
    let pki = Pki::new();
    let custodian = Custodian::start(&pki, Accept::Anyone);
    let workstation = Workstation::of(pki, custodian.address);
    let code = workstation.pki.path("code");
    fs::write(&code, "wrong").unwrap();
    let args = ["enroll", "--out-dir", "new", "--code-file", code.to_str().unwrap()];
    let ran = workstation.run(ENVELOPE, &args).fails(3, &["ENROLLMENT_REFUSED", "new invitation"]);
    assert!(!ran.err.contains("wrong\""));
    assert_eq!(fs::read_dir(workstation.pki.path("new")).unwrap().count(), 0);
}

#[test]
fn text_from_outside_cannot_forge_lines_or_colours() {
    let (workstation, custodian) = Workstation::with_custodian();
    let reason = "lost\nlaptop-8  active\x1b[32m\u{202e}";
    custodian.state.lock().devices = vec![v1::Device {
        name: "devices/laptop-7".into(),
        state: v1::DeviceState::Suspended.into(),
        reason: reason.into(),
        ..v1::Device::default()
    }];
    let table = workstation.run(CUSTODIANCTL, &["device", "ls"]).succeeds().out;
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(
        table.contains("suspended") && table.contains("lost\\u{a}laptop-8  active\\u{1b}[32m\\u{202e}"),
        "{table}"
    );
    let ran = workstation.run(CUSTODIANCTL, &["device", "ls", "--json"]).succeeds();
    assert!(!ran.out.contains(['\x1b', '\u{202e}']));
    assert_eq!(ran.json()[0]["reason"], reason, "programs get it as it is");
}

#[test]
fn a_resource_name_is_as_good_as_an_id() {
    let (workstation, _custodian) = Workstation::with_custodian();
    for id in ["laptop-7", "devices/laptop-7"] {
        let args = ["device", "revoke", id, "--reason", "lost", "--json"];
        let device = workstation.run(CUSTODIANCTL, &args).json();
        assert_eq!(device["name"], "devices/laptop-7");
        assert_eq!((&device["state"], &device["reason"]), (&"revoked".into(), &"lost".into()));
    }
}

fn records(count: u64) -> Vec<v1::Record> {
    let user = |sequence: u64| if sequence.is_multiple_of(2) { "users/anna" } else { "users/bob" };
    (1..=count)
        .map(|sequence| v1::Record {
            sequence,
            user: user(sequence).into(),
            operation: "Unwrap".into(),
            outcome: "OK".into(),
            claims: Some(v1::Claims { file_name: "report.mtd".into(), ..v1::Claims::default() }),
            ..v1::Record::default()
        })
        .collect()
}

#[test]
fn a_list_of_records_crosses_pages_and_says_when_there_are_more() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().records = records(2_500);
    let sequences = |args: &[&str]| -> Vec<u64> {
        let json = workstation.run(CUSTODIANCTL, &[&["audit", "ls", "--json"], args].concat()).json();
        json.as_array().unwrap().iter().map(|record| record["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(sequences(&["--limit", "5000"]), (1..=2_500).collect::<Vec<_>>());
    assert_eq!(sequences(&["--limit", "1700", "--newest"]), (801..=2_500).rev().collect::<Vec<_>>());
    assert_eq!(sequences(&["--user", "anna", "--limit", "3"]), [2, 4, 6]);

    let some = workstation.run(CUSTODIANCTL, &["audit", "ls", "--limit", "10"]).succeeds();
    assert_eq!(some.out.lines().count(), 11);
    assert!(some.out.contains("claimed: report.mtd"), "{}", some.out);
    assert!(some.err.contains("more than these 10"));
    let all = workstation.run(CUSTODIANCTL, &["audit", "ls", "--limit", "2500"]).succeeds();
    assert!(!all.err.contains("more"), "{}", all.err);
}

#[test]
fn records_are_written_for_other_programs_and_no_claim_forges_a_line_a_cell_or_a_formula() {
    let (workstation, custodian) = Workstation::with_custodian();
    let mut all = records(4);
    let claims = v1::Claims { file_name: "=cmd|'/c calc'!A1\n9,OK".into(), ..v1::Claims::default() };
    all[1].claims = Some(claims);
    custodian.state.lock().records = all;
    let lines = workstation.run(CUSTODIANCTL, &["audit", "ls", "--format", "jsonl"]).succeeds().out;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let csv = workstation.run(CUSTODIANCTL, &["audit", "ls", "--format", "csv"]).succeeds().out;
    let csv: Vec<_> = csv.split("\r\n").collect();
    assert_eq!(csv.len(), 6, "{csv:?}");
    assert!(csv[0].starts_with("\"sequence\",\"time\","), "{}", csv[0]);
    assert!(csv[2].contains("\"'=cmd|'/c calc'!A1\\u{a}9,OK\""), "{}", csv[2]);
    workstation.run(CUSTODIANCTL, &["audit", "ls", "--format", "csv", "--json"]).fails(2, &[]);
}

#[test]
fn an_index_that_lies_is_noticed() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().records = records(10);
    // This custodian finds records by their users alone.
    let told = ["what was logged does not"];
    workstation.run(CUSTODIANCTL, &["audit", "ls", "--device", "elsewhere"]).fails(5, &told);
}

#[test]
fn what_a_user_opened_is_told_file_by_file() {
    let (workstation, custodian) = Workstation::with_custodian();
    let mut all = records(9);
    for (record, file) in all.iter_mut().zip(["ab", "cd", "ab", "cd", "ef", "ab", "ab", "cd", "ef"]) {
        record.wrapped_key_sha256 = file.into();
        record.user = "users/anna".into();
        record.operation = "Unwrap".into();
        record.outcome = "OK".into();
    }
    custodian.state.lock().records = all;
    let told =
        workstation.run(CUSTODIANCTL, &["audit", "opened", "--user", "anna", "--json"]).succeeds().json();
    let told: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["wrapped_key_sha256"].clone(), file["times"].clone()))
        .collect();
    assert_eq!(told, [("ab".into(), 4.into()), ("cd".into(), 3.into()), ("ef".into(), 2.into())]);
    let csv =
        workstation.run(CUSTODIANCTL, &["audit", "opened", "--user", "anna", "--format", "csv"]).succeeds();
    assert_eq!(csv.out.lines().count(), 4);
    workstation.run(CUSTODIANCTL, &["audit", "opened"]).fails(2, &[]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().records = records(2_500);
    let mut command = workstation.command(CUSTODIANCTL, &["audit", "ls", "--limit", "2500"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap()).succeeds();
    assert_eq!(ran.err, "");
}

/// Sends SIGINT to the tool below `setsid --wait`, which leads a session of its own.
fn interrupt(child: &Child) {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let below = fs::read_to_string(children).unwrap_or_default();
    let target = below.split_whitespace().next().map_or(child.id().to_string(), str::to_owned);
    assert!(Command::new("kill").args(["-INT", &target]).status().unwrap().success());
}

#[test]
fn a_tail_shows_records_as_they_come_until_ctrl_c() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().records = records(3);
    let mut command = workstation.command(CUSTODIANCTL, &["audit", "tail", "--after", "2", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["sequence"], 3);
    // The stream is open by now: what is recorded from here on must come through.
    for sequence in 4..=6 {
        let record = v1::Record { sequence, ..v1::Record::default() };
        custodian.state.lock().new_records.send(record).unwrap();
        assert_eq!(next()["sequence"], sequence);
    }
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap()).fails(130, &["interrupted"]);
    assert_eq!(custodian.state.lock().tails, 1);
    assert!(!ran.err.contains("panicked"));
}

#[test]
fn a_tail_that_loses_its_custodian_exits_6() {
    let (workstation, custodian) = Workstation::with_custodian();
    custodian.state.lock().records = records(1);
    let mut command = workstation.command(CUSTODIANCTL, &["audit", "tail", "--after", "1"]);
    custodian.state.lock().records = records(2);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("2  "), "{first}");
    drop(custodian);
    Ran::of(child.wait_with_output().unwrap()).fails(6, &["cannot follow the log"]);
}

#[test]
fn completions_are_printed_for_both_tools() {
    let home = tempfile::tempdir().unwrap();
    for (tool, word) in [(ENVELOPE, "--keep-symlinks"), (CUSTODIANCTL, "--newest")] {
        let ran = Ran::of(bare(tool, &["completions", "bash"], home.path()).output().unwrap()).succeeds();
        assert!(ran.out.contains(word));
    }
}
