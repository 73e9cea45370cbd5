//! Other programs read what we seal, and we read what they seal: nobody depends on us for their data.

use std::{fs, process::Command};

use crate::common::{FOREIGN_PASSWORD, SoftKey, extract_to, run, seal_to, tree};
use custodian_client::{extract::Input, inspect::inspect};
use custodian_proto::key::KeyWrapping;
use tempfile::TempDir;

/// A folder with something of everything.
fn sample(folder: &TempDir) -> std::path::PathBuf {
    let sample = folder.path().join("sample");
    tree::write(&sample.join("empty"), b"");
    tree::write(&sample.join("text.txt"), &tree::text(300_000));
    tree::write(&sample.join("noise.bin"), &tree::noise(70_000));
    tree::write(&sample.join("large text"), &tree::text(5_000_000));
    tree::write(&sample.join("large noise"), &tree::noise(3_333_333));
    tree::write(&sample.join("tief/tiefer/Grüße ☃.txt"), "schön".as_bytes());
    fs::create_dir(sample.join("empty folder")).expect("folder");
    std::os::unix::fs::symlink("tief/tiefer", sample.join("link")).expect("link");
    tree::set_mode(&sample.join("text.txt"), 0o640);
    tree::set_modified(&sample.join("text.txt"), 1_234_567_891);
    sample
}

#[test]
fn openssl_prints_the_password_and_7z_opens_the_archive() {
    let folder = TempDir::new().expect("folder");
    let sample = sample(&folder);
    // The numbers in SEQUENCEs are the hashes' OIDs; see RFC 4055 §4.1.
    let sha1 = "1.2.840.113549.1.9.15=DER:300f300d06092a864886f70d0101073000";
    let sha512 = concat!(
        "1.2.840.113549.1.9.15=DER:303e303c06092a864886f70d010107302f",
        "a00f300d06096086480165030402030500",
        "a11c301a06092a864886f70d010108300d06096086480165030402030500"
    );
    for (extensions, wrapping) in [
        (&[][..], KeyWrapping::OaepSha256),
        (&[sha1], KeyWrapping::OaepSha1),
        (&[sha512], KeyWrapping::OaepSha512),
    ] {
        let key = SoftKey::new(extensions);
        let envelope = folder.path().join(format!("{wrapping}.mtd"));
        seal_to(&key, &sample, &envelope);
        let inspection = inspect(&Input::File(envelope.clone())).expect("inspected");
        assert_eq!(inspection.recipients[0].wrapping, wrapping);

        run(Command::new("7z").args(["x", "-y"]).arg(&envelope).arg("CIPHER.KEY").current_dir(&key.folder));
        let password = run(Command::new("openssl")
            .args([
                "cms",
                "-decrypt",
                "-inform",
                "DER",
                "-in",
                "CIPHER.KEY",
                "-inkey",
                "key.pem",
                "-recip",
                "cert.pem",
            ])
            .current_dir(&key.folder));
        let password = String::from_utf8(password).expect("text");
        assert_eq!((password.len(), &password[..5]), (48, "MTD1."));

        let specification = include_str!("../../../docs/formats/mtd.md");
        let script = specification.split("```python").nth(1).and_then(|rest| rest.split("```").next());
        let script = script.expect("the specification has a script");
        let printed = run(Command::new("python3").args(["-c", script]).arg(&envelope).arg(&password));
        assert_eq!(String::from_utf8_lossy(&printed), "True\n", "the directory seal");

        let out = key.path("out");
        run(Command::new("7z")
            .args(["x", "-y", "-snl"])
            .arg(format!("-p{password}"))
            .arg(format!("-o{}", out.display()))
            .arg(&envelope));
        let (sealed, opened) = (tree::read(&sample), tree::read(&out.join("sample")));
        assert_eq!(sealed.keys().collect::<Vec<_>>(), opened.keys().collect::<Vec<_>>());
        for (name, found) in &sealed {
            assert_eq!(found.content, opened[name].content, "{}", name.display());
            assert_eq!(found.mode, opened[name].mode, "{}", name.display());
            // It does not set the times of links.
            assert!(
                found.modified == opened[name].modified || sample.join(name).is_symlink(),
                "{}",
                name.display()
            );
        }
    }
}

#[test]
fn we_open_what_openssl_and_7z_sealed() {
    let key = SoftKey::shared();
    for hash in ["sha1", "sha256", "sha384", "sha512"] {
        let folder = TempDir::new().expect("folder");
        let sample = sample(&folder);
        let envelope = folder.path().join("envelope.mtd");
        fs::write(folder.path().join("CIPHER.KEY"), key.foreign_cipher_key(hash)).expect("written");
        run(Command::new("7z")
            .args(["a", "-tzip", "-mx0", "envelope.mtd", "CIPHER.KEY"])
            .current_dir(&folder));
        let password = format!("-p{FOREIGN_PASSWORD}");
        run(Command::new("7z")
            .args(["a", "-tzip", "-mem=AES256", "-snl", &password, "envelope.mtd", "sample"])
            .current_dir(&folder));

        let out = folder.path().join("out");
        extract_to(key, &envelope, &out).expect("extracted");
        assert_eq!(tree::read(&sample), tree::read(&out.join("sample")));
    }
}

#[test]
fn files_about_as_long_as_what_is_handled_at_once_come_back() {
    let key = SoftKey::shared();
    let folder = TempDir::new().expect("folder");
    let sample = folder.path().join("sample");
    const MIB: usize = 1024 * 1024;
    for len in [MIB - 1, MIB, MIB + 1, MIB + MIB / 4, MIB + MIB / 4 + 1, 2 * MIB - 1, 2 * MIB] {
        tree::write(&sample.join(format!("noise {len}")), &tree::noise(len));
        tree::write(&sample.join(format!("text {len}")), &tree::text(len));
    }
    let (envelope, out) = (folder.path().join("e.mtd"), folder.path().join("out"));
    seal_to(key, &sample, &envelope);
    extract_to(key, &envelope, &out).expect("extracted");
    assert!(tree::read(&sample) == tree::read(&out.join("sample")));
}

#[test]
fn other_programs_read_what_came_through_a_pipe() {
    let key = SoftKey::shared();
    let folder = TempDir::new().expect("folder");
    for content in [tree::text(3 * 1024 * 1024 + 17), tree::noise(3 * 1024 * 1024 + 17)] {
        let sealed = crate::pipes::seal(key, folder.path(), &["-o", "-", "-"], &content);
        fs::write(folder.path().join("e.mtd"), &sealed.stdout).expect("written");
        run(Command::new("7z").args(["x", "-y", "e.mtd", "CIPHER.KEY"]).current_dir(&folder));
        let password = run(Command::new("openssl")
            .args(["cms", "-decrypt", "-inform", "DER", "-in", "CIPHER.KEY"])
            .arg("-inkey")
            .arg(key.path("key.pem"))
            .arg("-recip")
            .arg(key.path("cert.pem"))
            .current_dir(&folder));
        let password = format!("-p{}", String::from_utf8(password).expect("text"));
        run(Command::new("7z").args(["x", "-y", &password, "e.mtd", "stdin"]).current_dir(&folder));
        assert!(fs::read(folder.path().join("stdin")).expect("there") == content);
        fs::remove_file(folder.path().join("stdin")).expect("removed");
    }
}
