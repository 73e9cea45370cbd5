//! kill -9 of the custodian at random moments, while keys are asked for and devices are revoked.
//!
//! A few rounds by default; `KILLS=1000` for as many as one likes, `SEED=…` for those of another run.

use std::{
    collections::HashMap,
    env,
    time::{Duration, Instant},
};

use custodian_proto::v1;
use softhsm_tests::{Dev, Dice, Identity, Load, Person, Unwrapped, Wire, without_budgets};

/// What one round saw from outside.
struct Round {
    device: String,
    keys: Vec<Unwrapped>,
    /// When the revocation's answer was there, if it came before the end.
    revoked: Option<Instant>,
}

#[tokio::test(flavor = "multi_thread")]
async fn laws_1_and_2_hold_over_kill_9_at_random_moments() {
    let number = |name, usual| env::var(name).map_or(usual, |text: String| text.parse::<u64>().unwrap());
    let (kills, seed) = (number("KILLS", 5), number("SEED", u64::from(std::process::id())));
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut folder = Dev::configured(|config, _| without_budgets(config));
    let mut rounds = Vec::new();
    for number in 0..kills {
        let dev = Dev::start_in(folder);
        let (round, left) = run_and_kill(dev, format!("laptop-{number}"), &mut dice).await;
        rounds.push(round);
        folder = left;
    }
    let dev = Dev::start_in(folder);
    let records = Wire::records(&dev).await;
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.sequence, index as u64 + 1, "the log has a gap");
    }
    let by_id: HashMap<_, _> = records.iter().map(|record| (record.request_id.as_str(), record)).collect();
    let (mut keys, mut revocations) = (0, 0);
    for round in &rounds {
        let name = format!("devices/{}", round.device);
        for key in &round.keys {
            let record = by_id.get(key.request_id.as_str()).unwrap_or_else(|| panic!("no record of {key:?}"));
            assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Unwrap", "OK"));
            assert_eq!(record.wrapped_key_sha256, key.wrapped_sha256);
        }
        keys += round.keys.len();
        let Some(returned) = round.revoked else { continue };
        revocations += 1;
        let revoked =
            records.iter().find(|record| record.operation == "RevokeDevice" && record.target == name);
        let revoked =
            revoked.unwrap_or_else(|| panic!("{name}: the revocation returned, and is not in the log"));
        assert_eq!(revoked.outcome, "OK");
        for record in &records {
            let released = record.operation == "Unwrap" && record.outcome == "OK";
            if released && record.device == name {
                assert!(
                    record.sequence < revoked.sequence,
                    "{name}: released after the revocation: {record:?}"
                );
            }
        }
        assert!(round.keys.iter().all(|key| key.asked < returned), "{name}: asked for and given afterwards");
    }
    println!("{kills} kills, {keys} keys, {revocations} revocations that returned before the kill");
    assert!(keys > 0);
    let devices = dev.ctl(Person::Admin, ["device", "ls", "--json"]).expect(0).json();
    for round in rounds.iter().filter(|round| round.revoked.is_some()) {
        let device = devices
            .as_array()
            .unwrap()
            .iter()
            .find(|device| device["name"] == format!("devices/{}", round.device));
        assert_eq!(device.unwrap()["state"], "revoked", "{}", round.device);
    }
}

/// Load on a new device; somewhere in it the device is revoked, and somewhere the custodian is killed.
async fn run_and_kill(dev: Dev, device: String, dice: &mut Dice) -> (Round, tempfile::TempDir) {
    let admin = Wire::login(&dev, Person::Admin).await;
    let identity = Identity::enrolled(&dev, &admin, &device).await;
    let operator = Wire::login_on(&dev, &identity, Person::Operator).await;
    let mut load = Load::start_on(operator, dev.certificate(), 8);
    load.received(3).await;
    // Often before, often after, and often while the other happens.
    let (revoke_after, kill_after) = (dice.between(0, 150), dice.between(0, 200));
    let request = v1::RevokeDeviceRequest { name: format!("devices/{device}"), reason: "lost".into() };
    let revocation = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(revoke_after)).await;
        let answer = admin.devices().revoke_device(admin.request(request)).await;
        answer.is_ok().then(Instant::now)
    });
    tokio::time::sleep(Duration::from_millis(kill_after)).await;
    let left = dev.kill();
    let revoked = revocation.await.unwrap();
    (Round { device, keys: load.stop().await, revoked }, left)
}
