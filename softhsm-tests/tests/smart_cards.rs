//! Keys in a person's own PKCS #11 token sign envelopes and files: RSA-PSS and ECDSA, which openssl verifies; whatever the
//! module does, nothing half-made is left.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use softhsm_tests::{Act, Code, Control, Faults, Function, Ran, TokenFlag, TokenLie, When, bin, run};
use tempfile::TempDir;

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "4711-card";

/// Key, `openssl genpkey`'s arguments.
const KINDS: [(&str, &[&str]); 3] = [
    ("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("p384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
];

/// A workstation of somebody who has a smart card. A CA vouches for all the keys on it.
struct Desk {
    folder: TempDir,
    ca: Issuer<'static, KeyPair>,
}

/// What is on a card beside the key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificate {
    OnTheCard,
    InAFile,
}

impl Desk {
    /// With an empty card.
    fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("tokens")).unwrap();
        let conf = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n{configuration}",
            path("tokens").display()
        );
        fs::write(path("softhsm2.conf"), conf).unwrap();
        fs::write(path("pin"), format!("{PIN}\n")).unwrap();
        fs::write(path("report"), "what is agreed ".repeat(1_000)).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Card CA");
        fs::write(path("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let desk = Self { ca: Issuer::new(params, key), folder };
        desk.add_card("anna");
        // Somebody to seal to.
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=to"]);
        openssl.args(["-keyout", "to.key", "-out", "to.crt"]).current_dir(&desk.folder);
        run(&mut openssl).expect(0);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add_card(&self, label: &str) {
        let mut command = self.command("softhsm2-util");
        command.args(["--init-token", "--free", "--label", label, "--so-pin", "so-4711", "--pin", PIN]);
        run(&mut command).expect(0);
    }

    /// A program at this desk, which sees no other tokens.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).env("HOME", self.folder.path());
        command.current_dir(&self.folder);
        command
    }

    fn pkcs11_tool(&self, card: &str, args: &[&str]) -> String {
        let mut command = self.command("pkcs11-tool");
        command.args(["--module", SOFTHSM, "--token-label", card, "--login", "--pin", PIN]);
        run(command.args(args)).expect(0).stdout
    }

    /// Puts a key on the card; its certificate is `NAME.crt`, too.
    fn import(&self, card: &str, name: &str, id: u8, certificate: Certificate, more: &[&str]) {
        let kind = KINDS.iter().find(|(kind, _)| name.starts_with(kind)).unwrap().1;
        let [key, der, certified, certified_der] =
            ["key", "key.der", "crt", "crt.der"].map(|end| format!("{name}.{end}"));
        let mut genpkey = self.command("openssl");
        run(genpkey.arg("genpkey").args(kind).args(["-out", &key])).expect(0);
        run(self.command("openssl").args(["pkey", "-in", &key, "-outform", "DER", "-out", &der])).expect(0);
        let pair = KeyPair::from_pem(&fs::read_to_string(self.path(&key)).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(u64::from(id)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let issued = params.signed_by(&pair, &self.ca).unwrap();
        fs::write(self.path(&certified), issued.pem()).unwrap();
        fs::write(self.path(&certified_der), issued.der()).unwrap();
        let id = format!("{id:02x}");
        let object = ["--id", &id, "--label", name];
        let args = [&["--write-object", &der, "--type", "privkey", "--usage-sign"], &object[..], more];
        self.pkcs11_tool(card, &args.concat());
        if certificate == Certificate::OnTheCard {
            let args = [&["--write-object", &certified_der, "--type", "cert"], &object[..]];
            self.pkcs11_tool(card, &args.concat());
        }
    }

    fn envelope(&self, args: &[&str]) -> Ran {
        run(self.command(bin("envelope")).args(args))
    }

    /// The URI of a key, with the file that has its PIN.
    fn uri(&self, path: &str) -> String {
        format!("pkcs11:{path}?module-path={SOFTHSM}&pin-source=file:{}", self.path("pin").display())
    }

    fn verify_with_openssl(&self, signature: &str) {
        let args = [
            "cms", "-verify", "-binary", "-inform", "DER", "-in", signature, "-content", "report", "-CAfile",
        ];
        let mut command = self.command("openssl");
        run(command.args(args).args(["ca.crt", "-purpose", "any", "-out", "/dev/null"])).expect(0);
    }

    /// What stands in the folder under this name and the like of it, hidden files too.
    fn left(&self, start: &str) -> Vec<String> {
        let names = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with(start) || name.starts_with(".envelope-")).collect()
    }

    /// A module before the real one that fails as it is told; the changed environment, and its path.
    fn faulty(&self) -> (Faults, String, Vec<(String, String)>) {
        let mut token: toml::Table = format!("module = {SOFTHSM:?}").parse().unwrap();
        let faults = Faults::before(&mut token, self.path("faults"));
        let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
        let environment = token["environment"].as_table().unwrap();
        let environment = environment.iter().map(|(name, value)| (name.clone(), text(value)));
        (faults, text(&token["module"]), environment.collect())
    }
}

#[test]
fn openssl_verifies_what_a_card_signed_and_an_envelope_tells_whose_card_it_was() {
    let desk = Desk::new("");
    for (id, (kind, _)) in KINDS.iter().enumerate() {
        desk.import("anna", kind, id as u8 + 1, Certificate::OnTheCard, &[]);
    }
    for (id, (kind, _)) in KINDS.iter().enumerate() {
        // By its label or its id, as other programs write them.
        let uri = match id {
            0 => desk.uri("token=anna;object=rsa;type=private"),
            _ => desk.uri(&format!("token=anna;manufacturer=SoftHSM%20project;id=%{:02x}", id + 1)),
        };
        let (signature, envelope) = (format!("{kind}.p7s"), format!("{kind}.sealed"));
        desk.envelope(&["sign", "report", "--with", &uri, "-o", &signature]).expect(0);
        desk.verify_with_openssl(&signature);
        let pinned = format!("{kind}.crt");
        let args = ["verify", "report", "--signature", &signature, "--accept-from", &pinned, "--json"];
        let found = desk.envelope(&args).expect(0).json();
        assert_eq!(found["signer"]["subject"], format!("CN={kind}"));

        for format in ["mtd", "sealed", "cms"] {
            let envelope = format!("{format}.{envelope}");
            let args = [
                "seal",
                "--to",
                "to.crt",
                "--format",
                format,
                "--sign-with",
                &uri,
                "-o",
                &envelope,
                "report",
            ];
            desk.envelope(&args).expect(0);
            let found = desk.envelope(&["verify", &envelope, "--accept-from", &pinned, "--json"]).expect(0);
            assert_eq!(found.json()["signer"]["standing"], "pinned");
            desk.envelope(&["verify", &envelope, "--accept-from", "to.crt"]).expect(5).says("not accepted");
        }
    }
}

#[test]
fn a_key_that_wants_the_pin_each_time_and_one_whose_certificate_is_in_a_file_sign() {
    let desk = Desk::new("");
    desk.import("anna", "rsa", 1, Certificate::OnTheCard, &["--always-auth"]);
    desk.import("anna", "p256", 2, Certificate::InAFile, &[]);
    assert!(desk.pkcs11_tool("anna", &["--list-objects"]).contains("always authenticate"));
    desk.envelope(&["sign", "report", "--with", &desk.uri("object=rsa"), "-o", "rsa.p7s"]).expect(0);
    desk.verify_with_openssl("rsa.p7s");
    let by_file = |certificate: &str, out: &str| {
        let uri = format!("pkcs11:object=p256?module-path={SOFTHSM}");
        let args =
            ["sign", "report", "--with", &uri, "--key-password-file", "pin", "--sign-cert", certificate];
        desk.envelope(&[&args[..], &["-o", out]].concat())
    };
    by_file("p256.crt", "p256.p7s").expect(0);
    desk.verify_with_openssl("p256.p7s");
    // Another key's is found out, and no signature is left.
    by_file("rsa.crt", "wrong.p7s").expect(1).says("none of the certificates");
    assert!(desk.left("wrong").is_empty());
    let args = ["sign", "report", "--with", &desk.uri("object=p256"), "-o", "wrong.p7s"];
    desk.envelope(&args).expect(1).says("the same CKA_ID").says("--sign-cert");
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_no_pin_is_repeated() {
    let desk = Desk::new("");
    desk.import("anna", "rsa", 1, Certificate::OnTheCard, &[]);
    desk.import("anna", "p256", 2, Certificate::OnTheCard, &[]);
    let sign = |uri: &str| desk.envelope(&["sign", "report", "--with", uri, "-o", "out.p7s"]);
    sign(&desk.uri("token=bert")).expect(1).says("no token fits; there are: token=anna;serial=");
    sign(&desk.uri("token=anna")).expect(1).says("several keys").says("object=p256;id=%02");
    sign(&desk.uri("object=none")).expect(1).says("no private key");
    sign("pkcs11:object=rsa").expect(2).says("module-path=");
    sign("pkcs11:object=rsa?module-path=/nonexistent.so").expect(1).says("no PKCS #11 module");
    sign("pkcs11:object=rsa?module-path=/bin/true").expect(1).says("no PKCS #11 module for this machine");
    sign("pkcs11:object=rsa;slot-description=x?module-path=/m.so")
        .expect(2)
        .says("slot-description is not compared");
    for uri in [
        format!("pkcs11:object=rsa?module-path={SOFTHSM}&pin-value={PIN}"),
        format!("pkcs11:object=rsa?pin-value={PIN}&module-path={SOFTHSM}&{PIN}=x"),
    ] {
        let ran = sign(&uri).expect(2).says("pin-source=file:PATH");
        assert!(!ran.stderr.contains(PIN) && !ran.stdout.contains(PIN), "{ran:?}");
    }
    fs::write(desk.path("pin"), "0000-wrong\n").unwrap();
    let ran = sign(&desk.uri("object=rsa")).expect(1).says("refuses the PIN as wrong");
    assert!(!ran.stderr.contains("0000-wrong"));
    // Nobody types a PIN for what cannot be written.
    let uri = format!("pkcs11:object=rsa?module-path={SOFTHSM}");
    desk.envelope(&["sign", "report", "--with", &uri, "-o", "ca.crt"]).expect(1).says("exists already");
    let seal = ["seal", "--to", "to.crt", "--sign-with", &uri, "-o", "ca.crt", "report"];
    desk.envelope(&seal).expect(1).says("exists already");
    // Nobody is there to be asked.
    let mut alone = Command::new("setsid");
    alone.args(["-w"]).arg(bin("envelope")).args(["sign", "report", "--with", &uri, "-o", "out.p7s"]);
    alone.env("SOFTHSM2_CONF", desk.path("softhsm2.conf")).current_dir(&desk.folder);
    run(&mut alone).expect(1).says("pin-source=file:PATH");
    desk.add_card("bert");
    let encoded = desk.uri("object=rsa");
    sign(&encoded).expect(1).says("several tokens fit");
    assert!(desk.left("out").is_empty());
}

#[test]
fn an_rsa_key_whose_token_knows_no_pss_is_refused() {
    let desk = Desk::new("slots.mechanisms = CKM_RSA_PKCS,CKM_SHA256_RSA_PKCS\n");
    desk.import("anna", "rsa", 1, Certificate::OnTheCard, &[]);
    let args = ["sign", "report", "--with", &desk.uri("object=rsa"), "-o", "out.p7s"];
    desk.envelope(&args).expect(1).says("does not sign with RSA-PSS");
    assert!(desk.left("out").is_empty());
}

#[test]
fn a_module_that_crashes_or_hangs_leaves_nothing_half_made_and_ctrl_c_ends_the_wait() {
    let desk = Desk::new("");
    desk.import("anna", "p256", 1, Certificate::OnTheCard, &[]);
    let (faults, module, environment) = desk.faulty();
    let uri = desk.uri("object=p256").replace(SOFTHSM, &module);
    let seal = |out: &str| {
        let mut command = desk.command(bin("envelope"));
        command.envs(environment.iter().cloned());
        command.args(["seal", "--to", "to.crt", "--sign-with", &uri, "-o", out, "report"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let sign_with = |act| Control::default().fault(Function::SignInit, When::Every, act);
    faults.set(sign_with(Act::Segfault));
    let crashed = seal("one.mtd").output().unwrap();
    assert!(crashed.status.signal().is_some(), "{crashed:?}");
    let left = desk.left("one");
    assert!(left.len() == 1 && left[0].starts_with(".envelope-"), "{left:?}");

    // The next run sweeps it. This one hangs, until somebody has enough of it.
    let generation = faults.set(sign_with(Act::Hang));
    let hanging = seal("two.mtd").spawn().unwrap();
    let begun = Instant::now();
    while faults.deeds_of(generation).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never signed");
        thread::sleep(Duration::from_millis(20));
    }
    let left = desk.left("two");
    assert!(left.len() == 1 && left[0].starts_with(".envelope-"), "its own: {left:?}");
    run(Command::new("kill").args(["-s", "INT", &hanging.id().to_string()])).expect(0);
    let ended = hanging.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(desk.left("two").is_empty());

    // What the module says is told; one that computes wrongly is found out; and then it signs again.
    faults.set(sign_with(Act::Return(Code::CKR_DEVICE_ERROR)));
    let failed = seal("three.mtd").output().unwrap();
    assert!(failed.status.code() == Some(1) && desk.left("three").is_empty(), "{failed:?}");
    faults.set(
        Control::default().token(TokenLie { set: vec![TokenFlag::UserPinLocked], ..TokenLie::default() }),
    );
    let locked = seal("three.mtd").output().unwrap();
    assert!(String::from_utf8_lossy(&locked.stderr).contains("is locked"), "{locked:?}");
    faults.clear();
    assert_eq!(seal("three.mtd").status().unwrap().code(), Some(0));
    desk.envelope(&["verify", "three.mtd", "--accept-from", "p256.crt"]).expect(0);
    assert_eq!(desk.left("three"), ["three.mtd"]);
}
