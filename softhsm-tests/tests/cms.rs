//! What others encrypt as CMS is opened through the custodian, and what we seal so is a message for others.

use std::{fs, process::Command};

use softhsm_tests::{Dev, Person, Wire, run};

#[tokio::test]
async fn a_message_of_openssl_comes_out_of_the_custodian_and_the_log_says_cms() {
    let dev = Dev::start();
    let folder = dev.scratch("cms");
    ["der", "pem", "smime"].iter().for_each(|form| fs::create_dir(folder.join(form)).unwrap());
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(folder.join("report.pdf"), &content).unwrap();
    let openssl = |args: &[&str]| {
        run(Command::new("openssl")
            .args(["cms", "-encrypt", "-binary", "-keyid", "-in", "report.pdf"])
            .args(args)
            .arg("-recip")
            .arg(dev.certificate())
            // SoftHSM knows OAEP with SHA-1 only.
            .args(["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha1"])
            .current_dir(&folder))
        .expect(0);
    };
    openssl(&["-aes-256-gcm", "-outform", "DER", "-out", "der/report.pdf.p7m"]);
    openssl(&["-aes-256-gcm", "-outform", "PEM", "-stream", "-out", "pem/report.pdf.cms"]);
    openssl(&["-aes-256-cbc", "-outform", "SMIME", "-out", "smime/report.pdf.p7m"]);

    let extract = |envelope: &str, more: &[&str]| {
        let (envelope, out) = (folder.join(envelope), folder.join(envelope).with_extension("out"));
        let mut command = dev.command("envelope", Person::Operator);
        command.arg("extract").arg(envelope).arg("-C").arg(&out).args(more);
        (run(&mut command), out.join("report.pdf"))
    };
    for envelope in ["der/report.pdf.p7m", "pem/report.pdf.cms"] {
        let (ran, out) = extract(envelope, &["--reason", "case 17"]);
        ran.expect(0);
        assert!(fs::read(out).unwrap() == content, "{envelope}");
    }
    let (refused, out) = extract("smime/report.pdf.p7m", &[]);
    assert!(refused.expect(1).stderr.contains("--allow-unauthenticated") && !out.exists());
    let (opened, out) = extract("smime/report.pdf.p7m", &["--allow-unauthenticated"]);
    opened.expect(0);
    assert!(fs::read(out).unwrap() == content);

    let mut seal = dev.command("envelope", Person::Operator);
    seal.args(["seal", "--format", "cms", "report.pdf", "--to"]).arg(dev.certificate()).current_dir(&folder);
    run(&mut seal).expect(0);
    let (opened, out) = extract("report.pdf.p7m", &[]);
    opened.expect(0);
    assert!(fs::read(out).unwrap() == content);

    let records = Wire::records(&dev).await;
    let opened = records.iter().filter(|record| {
        record.outcome == "OK" && record.claims.as_ref().is_some_and(|claims| claims.format == "cms")
    });
    assert_eq!(opened.count(), 4, "the refused one was never asked for");
}

/// As old mail programs do it: PKCS #1 v1.5, the certificate's issuer and serial number, AES-CBC. And newer ones with GCM.
#[tokio::test]
async fn what_is_sealed_with_pkcs1_v1_5_comes_out_with_a_key_that_was_made_for_it_only() {
    let dev = Dev::start();
    let folder = dev.scratch("pkcs1");
    fs::write(folder.join("report"), b"content").unwrap();
    let ctl = |args: &[&str]| dev.ctl(Person::Admin, args);
    ctl(&["key", "create", "old-mail", "--use", "pkcs1", "--bits", "2048"]).expect(0);
    ctl(&["key", "create", "partners", "--openpgp", "--bits", "2048"]).expect(0);
    let made = folder.join("old-mail.crt").to_str().unwrap().to_owned();
    ctl(&["key", "cert", "old-mail", "-o", &made]).expect(0);
    let shown = ctl(&["key", "show", "old-mail", "--json"]).expect(0).json();
    assert_eq!((&shown["wrapping"], &shown["use"]), (&"RSA-PKCS1".into(), &"pkcs1".into()));

    let usual = dev.certificate().to_str().unwrap().to_owned();
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(&folder)).expect(0);
    let cms = ["cms", "-encrypt", "-binary", "-aes-256-gcm", "-in", "report", "-outform", "DER", "-out"];
    openssl(&[&cms[..], &["gcm.p7m", "-recip", &made]].concat());
    openssl(&[&cms[..], &["keyid.p7m", "-keyid", "-recip", &made]].concat());
    openssl(&[&cms[..], &["both.p7m", "-recip", &usual, "-recip", &made]].concat());
    openssl(&["smime", "-encrypt", "-binary", "-aes256", "-in", "report", "-out", "mail.p7m", &made]);
    openssl(&[&cms[..], &["usual.p7m", "-recip", &usual]].concat());
    openssl(&[
        "cms",
        "-encrypt",
        "-binary",
        "-aes128",
        "-in",
        "report",
        "-outform",
        "DER",
        "-out",
        "aes128.p7m",
        &made,
    ]);

    let extract = |envelope: &str, more: &[&str]| {
        let envelope = folder.join(envelope);
        let args = [&["extract", envelope.to_str().unwrap(), "--to-stdout"], more].concat();
        dev.envelope(Person::Operator, args)
    };
    for envelope in ["gcm.p7m", "keyid.p7m"] {
        assert_eq!(extract(envelope, &[]).expect(0).stdout, "content", "{envelope}");
    }
    extract("mail.p7m", &[]).expect(1).says("--allow-unauthenticated");
    assert_eq!(extract("mail.p7m", &["--allow-unauthenticated"]).expect(0).stdout, "content");
    assert_eq!(extract("both.p7m", &[]).expect(0).stdout, "content");
    extract("aes128.p7m", &["--allow-unauthenticated"]).expect(1);

    // A key for OAEP is not even asked: that would be charged.
    let unwraps = async || {
        let records = Wire::records(&dev).await;
        records.iter().filter(|record| record.operation == "Unwrap").count()
    };
    let before = unwraps().await;
    let refused = extract("usual.p7m", &[]).expect(3);
    refused.says("PKCS #1 v1.5").says("rsa_padding_mode:oaep").says("--use pkcs1");
    assert_eq!(unwraps().await, before);
    // Nor does anybody seal to the one for PKCS #1 v1.5 with OAEP.
    let source = folder.join("report").to_str().unwrap().to_owned();
    for format in ["cms", "mtd", "sealed"] {
        let out = folder.join(format).to_str().unwrap().to_owned();
        dev.envelope(Person::Operator, ["seal", "--format", format, "--to", &made, "-o", &out, &source])
            .expect(1)
            .says("PKCS #1 v1.5 only");
    }
}
