//! Wrapping for callers without RSA code: judged and recorded like an unwrap.

use custodian_proto::v1;
use softhsm_tests::{Dev, Person, Wire, reason, sealed_key};
use tonic::Code;

const FILE_KEY: [u8; 32] = [0x5e; 32];

async fn wrap(wire: &Wire, key: &str, file_key: &[u8]) -> Result<v1::WrapResponse, tonic::Status> {
    let claims = v1::Claims { file_name: "new.mtd".into(), format: "mtd".into(), ..v1::Claims::default() };
    let request = v1::WrapRequest { key: key.to_owned(), file_key: file_key.to_vec(), claims: Some(claims) };
    wire.custody().wrap(wire.request(request)).await.map(tonic::Response::into_inner)
}

fn key_id(dev: &Dev) -> String {
    sealed_key(&dev.certificate(), &FILE_KEY).0
}

#[tokio::test]
async fn what_is_wrapped_unwraps_and_both_are_recorded_under_one_name() {
    let dev = Dev::start();
    let (wire, key) = (Wire::login(&dev, Person::Operator).await, key_id(&dev));
    let one = wrap(&wire, &key, &FILE_KEY).await.unwrap();
    let other = wrap(&wire, &key, &FILE_KEY).await.unwrap();
    assert_eq!(one.wrapped_key.len(), 3072 / 8);
    assert_ne!(one.wrapped_key, other.wrapped_key, "OAEP is random");
    assert_eq!(one.wrapping(), v1::KeyWrapping::RsaOaepSha1, "all that SoftHSM unwraps");
    assert_eq!(wire.unwrap(&key, one.wrapped_key).await.unwrap().file_key, FILE_KEY);

    let records = Wire::records(&dev).await;
    let of = |operation: &str| records.iter().filter(|one| one.operation == operation).collect::<Vec<_>>();
    let (wraps, unwraps) = (of("Wrap"), of("Unwrap"));
    assert_eq!((wraps.len(), unwraps.len()), (2, 1));
    assert!(
        wraps
            .iter()
            .all(|record| record.outcome == "OK" && record.key == key && record.user == "users/operator")
    );
    assert_eq!(wraps[0].wrapped_key_sha256, unwraps[0].wrapped_key_sha256);
    assert_eq!((wraps[0].sequence, &wraps[0].request_id), (one.sequence, &one.request_id));
    assert_eq!(wraps[0].claims.as_ref().unwrap().file_name, "new.mtd");
}

#[tokio::test]
async fn law_4_nothing_but_file_keys_is_wrapped() {
    let dev = Dev::start();
    let (wire, key) = (Wire::login(&dev, Person::Operator).await, key_id(&dev));
    for len in [0, 16, 31, 33, 190] {
        assert_eq!(
            wrap(&wire, &key, &vec![7; len]).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{len}"
        );
    }
    let unknown = format!("keys/{}", "0".repeat(40));
    assert_eq!(reason(&wrap(&wire, &unknown, &FILE_KEY).await.unwrap_err()), "KEY_UNKNOWN");
    let records = Wire::records(&dev).await;
    assert_eq!(
        records.iter().filter(|record| record.operation == "Wrap" && record.outcome != "OK").count(),
        6
    );
}

#[tokio::test]
async fn only_an_operator_wraps_and_only_to_an_active_key() {
    let dev = Dev::start();
    let (wire, key) = (Wire::login(&dev, Person::Operator).await, key_id(&dev));
    let admin = Wire::login(&dev, Person::Admin).await;
    assert_eq!(reason(&wrap(&admin, &key, &FILE_KEY).await.unwrap_err()), "ROLE_MISSING");

    let (_, sealed) = sealed_key(&dev.certificate(), &FILE_KEY);
    for (step, refusal, still_unwraps) in
        [("suspend", "KEY_SUSPENDED", false), ("activate", "", true), ("deactivate", "KEY_DEACTIVATED", true)]
    {
        let why = if step == "activate" { &[][..] } else { &["--reason", "test"] };
        dev.ctl(Person::Admin, [&["key", step, "sample"], why].concat()).expect(0);
        let wrapped = wrap(&wire, &key, &FILE_KEY).await;
        assert_eq!(wrapped.map_or_else(|status| reason(&status), |_| String::new()), refusal, "{step}");
        assert_eq!(wire.unwrap(&key, sealed.clone()).await.is_ok(), still_unwraps, "{step}");
    }
}
