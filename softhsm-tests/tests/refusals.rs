//! Who may open: certificate AND active device AND credentials, or nothing (law 3), and a record of every attempt.

use custodian_proto::v1;
use sha2::{Digest, Sha256};
use softhsm_tests::{Dev, Identity, Person, Wire, reason, sealed_key};
use tonic::metadata::KeyAndValueRef;
use tonic_types::StatusExt;

/// What an error says was the cause, and the cause of that. A status from the network has none.
fn causes(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string).collect()
}

/// Everything a caller can see of a refusal, but the request's own id.
fn visible(status: &tonic::Status) -> impl PartialEq + std::fmt::Debug + use<> {
    let details = status.get_error_details();
    let mut metadata: Vec<_> = status
        .metadata()
        .iter()
        .map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) => (key.to_string(), value.len()),
            KeyAndValueRef::Binary(key, value) => (key.to_string(), value.as_encoded_bytes().len()),
        })
        .collect();
    metadata.sort();
    (
        (status.code(), status.message().to_owned(), reason(status)),
        // Request ids are equally long.
        status.details().len(),
        details.retry_info().map(|retry| retry.retry_delay),
        metadata,
    )
}

/// Records about this wrapped key.
fn about<'a>(records: &'a [v1::Record], wrapped: &[u8]) -> Vec<&'a v1::Record> {
    let hash = hex::encode(Sha256::digest(wrapped));
    records.iter().filter(|record| record.wrapped_key_sha256 == hash).collect()
}

#[tokio::test]
async fn of_eight_combinations_one_passes_seven_are_refused_and_all_are_recorded() {
    let dev = Dev::start();
    let password = std::fs::read_to_string(dev.dir().join("operator/password")).unwrap();
    let fresh = || sealed_key(&dev.certificate(), &[7; 32]);

    // Certificate good.
    let mut wrapped = Vec::new();
    for device_active in [true, false] {
        if !device_active {
            dev.ctl(Person::Admin, ["device", "suspend", "operator-laptop", "--reason", "test"]).expect(0);
        }
        for password_good in [true, false] {
            let mut wire = Wire::connect(&dev, &Identity::of(&dev, Person::Operator)).await.unwrap();
            let given = if password_good { password.as_str() } else { "wrong password" };
            let login = wire.sign_in("operator", given).await;
            let (key, ciphertext) = fresh();
            let unwrapped = wire.unwrap(&key, ciphertext.clone()).await;
            let expected = match (device_active, password_good) {
                (true, true) => {
                    assert_eq!(unwrapped.unwrap().file_key, [7; 32]);
                    ("OK", "OK")
                }
                (true, false) => {
                    assert_eq!(reason(&login.unwrap_err()), "LOGIN_FAILED");
                    assert_eq!(reason(&unwrapped.unwrap_err()), "NOT_LOGGED_IN");
                    ("LOGIN_FAILED", "NOT_LOGGED_IN")
                }
                (false, _) => {
                    assert_eq!(reason(&login.unwrap_err()), "DEVICE_SUSPENDED");
                    assert_eq!(reason(&unwrapped.unwrap_err()), "DEVICE_SUSPENDED");
                    ("DEVICE_SUSPENDED", "DEVICE_SUSPENDED")
                }
            };
            wrapped.push((key, ciphertext, expected, Identity::of(&dev, Person::Operator).fingerprint()));
        }
    }

    // Certificate bad: the device's own key, which is on the allow-list, but a certificate that the CA did not sign.
    let mut forged = Vec::new();
    for device_active in [true, false] {
        if device_active {
            dev.ctl(Person::Admin, ["device", "activate", "operator-laptop"]).expect(0);
        } else {
            dev.ctl(Person::Admin, ["device", "suspend", "operator-laptop", "--reason", "test"]).expect(0);
        }
        for password_good in [true, false] {
            let identity = Identity::forged(&dev, Person::Operator);
            let refused = Wire::shake_hands(&dev, &identity).await.unwrap_err().to_string();
            assert!(refused.contains("received fatal alert"), "{refused}");
            let given = if password_good { password.as_str() } else { "wrong password" };
            let refused = match Wire::connect(&dev, &identity).await {
                Ok(mut wire) => Box::from(wire.sign_in("operator", given).await.unwrap_err()),
                Err(error) => Box::<dyn std::error::Error>::from(error),
            };
            let causes = causes(&*refused);
            assert!(!causes.is_empty(), "no answer of the custodian, but of the transport: {refused}");
            forged.push(identity.fingerprint());
        }
    }
    forged.sort();
    forged.dedup();
    assert_eq!(forged.len(), 4, "four certificates");

    let records = Wire::records(&dev).await;
    for (key, ciphertext, (_, outcome), fingerprint) in &wrapped {
        let found = about(&records, ciphertext);
        let [record] = found[..] else { panic!("{} records", found.len()) };
        assert_eq!(record.operation, "Unwrap");
        assert_eq!(&record.outcome, outcome);
        assert_eq!(&record.key, key);
        assert_eq!(record.device, "devices/operator-laptop");
        assert_eq!(&record.certificate_sha256, fingerprint);
        assert_eq!(record.peer_ip, "127.0.0.1");
        assert!(record.time.is_some());
        assert_eq!(record.user, if *outcome == "OK" { "users/operator" } else { "" });
        let claims = record.claims.as_ref().unwrap();
        assert_eq!((claims.file_name.as_str(), claims.reason.as_str()), ("test.mtd", "test"));
    }
    let logins: Vec<_> = records
        .iter()
        .filter(|record| record.operation == "Login" && record.user == "users/operator")
        .map(|record| record.outcome.as_str())
        .collect();
    assert_eq!(logins, wrapped.iter().map(|(_, _, (login, _), _)| *login).collect::<Vec<_>>());
    for fingerprint in forged {
        let refused: Vec<_> =
            records.iter().filter(|record| record.certificate_sha256 == fingerprint).collect();
        assert!(refused.len() >= 2, "{} records of {fingerprint}", refused.len());
        for record in refused {
            assert_eq!(
                (record.operation.as_str(), record.outcome.as_str()),
                ("Connect", "CERTIFICATE_REFUSED")
            );
            assert_eq!(record.peer_ip, "127.0.0.1");
        }
    }
}

#[tokio::test]
async fn unknown_user_and_wrong_password_look_the_same() {
    let dev = Dev::start();
    let mut wire = Wire::connect(&dev, &Identity::of(&dev, Person::Operator)).await.unwrap();
    let wrong = wire.sign_in("operator", "wrong password").await.unwrap_err();
    let unknown = wire.sign_in("nobody", "wrong password").await.unwrap_err();
    dev.ctl(Person::Admin, ["user", "disable", "auditor", "--reason", "test"]).expect(0);
    let disabled = wire.sign_in("auditor", "wrong password").await.unwrap_err();
    for other in [&unknown, &disabled] {
        assert_eq!((wrong.code(), wrong.message()), (other.code(), other.message()));
        assert_eq!(reason(&wrong), reason(other));
        assert_eq!(wrong.details().len(), other.details().len());
    }
}

#[tokio::test]
async fn law_5_every_bad_ciphertext_gets_one_answer() {
    let dev = Dev::start();
    let wire = Wire::login(&dev, Person::Operator).await;
    let (key, good) = sealed_key(&dev.certificate(), &[1; 32]);
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    let mut truncated = good.clone();
    truncated.pop();
    let bad = [
        flipped,
        truncated,
        [good.as_slice(), &[0]].concat(),
        vec![0; good.len()],
        vec![0xff; good.len()],
        vec![1],
        // Law 4: well wrapped, but no file key.
        sealed_key(&dev.certificate(), &[1; 31]).1,
        sealed_key(&dev.certificate(), &[1; 33]).1,
        sealed_key(&dev.certificate(), &[]).1,
        sealed_key(&dev.certificate(), b"a text that somebody would like decrypted").1,
    ];
    let mut answers = Vec::new();
    for ciphertext in bad {
        let status = wire.unwrap(&key, ciphertext).await.unwrap_err();
        assert_eq!(reason(&status), "WRAPPED_KEY_REJECTED");
        answers.push(visible(&status));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(wire.unwrap(&key, good).await.unwrap().file_key, [1; 32]);
}

#[tokio::test]
async fn a_session_is_worthless_over_another_certificate() {
    let dev = Dev::start();
    let operator = Wire::login(&dev, Person::Operator).await;
    let thief = Wire::connect(&dev, &Identity::of(&dev, Person::Auditor)).await.unwrap();
    let thief = thief.with_token(operator.token());
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    assert_eq!(reason(&thief.unwrap(&key, wrapped.clone()).await.unwrap_err()), "NOT_LOGGED_IN");
    let records = Wire::records(&dev).await;
    assert_eq!(about(&records, &wrapped)[0].detail, "the session belongs to another certificate");
}

#[tokio::test]
async fn a_role_allows_what_it_names_and_nothing_else() {
    let dev = Dev::start();
    let (key, wrapped) = sealed_key(&dev.certificate(), &[1; 32]);
    for person in [Person::Admin, Person::Auditor] {
        let wire = Wire::login(&dev, person).await;
        assert_eq!(reason(&wire.unwrap(&key, wrapped.clone()).await.unwrap_err()), "ROLE_MISSING");
    }
    let operator = Wire::login(&dev, Person::Operator).await;
    let list = operator.audit().list_records(operator.request(v1::ListRecordsRequest::default())).await;
    assert_eq!(reason(&list.unwrap_err()), "ROLE_MISSING");
    let revoke = v1::RevokeDeviceRequest { name: "devices/admin-laptop".into(), reason: "mutiny".into() };
    let revoke = operator.devices().revoke_device(operator.request(revoke)).await;
    assert_eq!(reason(&revoke.unwrap_err()), "ROLE_MISSING");
    let records = Wire::records(&dev).await;
    for operation in ["ListRecords", "RevokeDevice"] {
        let recorded = records.iter().any(|record| {
            record.operation == operation
                && record.outcome == "ROLE_MISSING"
                && record.user == "users/operator"
        });
        assert!(recorded, "{operation} is not recorded");
    }
}
