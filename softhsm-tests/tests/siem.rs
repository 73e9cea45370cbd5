//! The records as a syslog stream.

use std::{fs, os::unix::net::UnixDatagram, time::Duration};

use softhsm_tests::{Dev, Person};

#[test]
fn every_attempt_reaches_the_listener_as_a_message_of_rfc_5424() {
    let mut socket = None;
    let folder = Dev::configured(|config, folder| {
        let path = folder.join("syslog");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket = Some(listener);
        let table = format!("syslog = \"unix:{}\"", path.display());
        config.insert("siem".to_owned(), table.parse::<toml::Table>().unwrap().into());
    });
    let socket = socket.unwrap();
    let dev = Dev::start_in(folder);
    let file = dev.scratch("source").join("a\"]b");
    fs::write(&file, "x").unwrap();
    let envelope = dev.scratch("sealed").join("file.mtd");
    dev.seal(&file, &envelope);
    let (envelope, out) =
        (envelope.to_str().unwrap().to_owned(), dev.scratch("out").to_str().unwrap().to_owned());
    dev.envelope(Person::Operator, ["extract", &envelope, "-C", &out, "--reason", "case \\17\"]"]).expect(0);
    let mut expected = 1;
    loop {
        let mut message = vec![0; 65_536];
        let length = socket.recv(&mut message).unwrap();
        let message = String::from_utf8(message[..length].to_vec()).unwrap();
        assert!(message.starts_with("<110>1 ") || message.starts_with("<108>1 "), "{message}");
        assert!(message.contains(&format!(" sequence=\"{expected}\" ")), "{message}");
        expected += 1;
        if message.contains("operation=\"Unwrap\"") {
            assert!(message.contains(r#"claimedReason="case \\17\"\]""#), "{message}");
            assert!(message.ends_with("] Unwrap OK"), "{message}");
            break;
        }
    }
    let status = dev.ctl(Person::Admin, ["status", "--json"]).expect(0).json();
    assert_eq!(status["siem"]["trouble"], "", "{status}");
}
