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
