//! What does not take longer the more there is: searches by time, and what everybody waits for.

use jiff::SignedDuration;

use super::*;
use crate::{
    authority::DeviceState,
    ledger::{Change, sqlite::span},
};

/// The numbers of the records that the ledger finds in a span.
async fn found(ledger: &SqliteLedger, start: Option<Timestamp>, end: Option<Timestamp>) -> Vec<u64> {
    let query = RecordQuery { start, end, limit: 1_000, ..RecordQuery::default() };
    ledger.records(query).await.unwrap().iter().map(|record| record.sequence).collect()
}

#[tokio::test]
async fn a_span_of_time_has_its_records_however_often_the_clock_was_set() {
    let place = Place::new();
    let clock = TestClock::stopped();
    let ledger = SqliteLedger::open(&place.path(), clock.options()).unwrap();
    let mut times = Vec::new();
    // Forward and back, by more and by less than it was set before; and at one time for a while.
    for (records, seconds) in [(3, 10), (2, -25), (4, 0), (1, 60), (5, -1), (2, -300), (3, 1_000), (3, -5)] {
        for _ in 0..records {
            settle(&ledger).await.unwrap();
            times.push(clock.now().as_microsecond());
            clock.moves(SignedDuration::from_secs(1));
        }
        clock.moves(SignedDuration::from_secs(seconds));
    }
    let mut bounds: Vec<i64> = times.iter().flat_map(|time| [*time - 1, *time, *time + 1]).collect();
    bounds.sort();
    bounds.dedup();
    let time = |micros: i64| Timestamp::from_microsecond(micros).unwrap();
    let expected = |from: i64, to: i64| -> Vec<u64> {
        let within = (1..).zip(&times).filter(|(_, time)| (from..to).contains(*time));
        within.map(|(number, _)| number).collect()
    };
    for (at, from) in bounds.iter().enumerate() {
        assert_eq!(found(&ledger, Some(time(*from)), None).await, expected(*from, i64::MAX));
        assert_eq!(found(&ledger, None, Some(time(*from))).await, expected(i64::MIN, *from));
        for to in &bounds[at..] {
            assert_eq!(found(&ledger, Some(time(*from)), Some(time(*to))).await, expected(*from, *to));
        }
    }
}

#[tokio::test]
async fn the_clock_of_an_older_ledger_was_set_where_its_records_say() {
    let place = Place::new();
    let clock = TestClock::stopped();
    let ledger = SqliteLedger::open(&place.path(), clock.options()).unwrap();
    for seconds in [10, -20, 5, -1] {
        settle(&ledger).await.unwrap();
        clock.moves(SignedDuration::from_secs(seconds));
    }
    settle(&ledger).await.unwrap();
    drop(ledger);
    let other = other_program(&place.path());
    let setbacks = || -> Vec<(i64, i64)> {
        let mut rows = other.prepare("SELECT seq, before - time FROM setbacks ORDER BY seq").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let told = setbacks();
    assert_eq!(told, [(3, 20_000_000), (5, 1_000_000)]);
    other.execute_batch("DROP TRIGGER records_tell_setbacks; DROP TABLE setbacks").unwrap();
    other.execute_batch("CREATE INDEX records_time ON records (time)").unwrap();
    let mut connection = other_program(&place.path());
    let tx = connection.transaction().unwrap();
    span::add_setbacks(&tx).unwrap();
    tx.commit().unwrap();
    assert_eq!(setbacks(), told);
}

#[tokio::test]
async fn what_everybody_waits_for_reads_no_table_from_end_to_end() {
    let place = Place::new();
    let ledger = place.open();
    let other = other_program(&place.path());
    let statements = [
        "SELECT EXISTS (SELECT 1 FROM invitations WHERE expires > 1)",
        "DELETE FROM invitations WHERE expires <= 1",
        "DELETE FROM invitations WHERE device = 'laptop-7'",
        "DELETE FROM sessions WHERE expires < 1",
        "DELETE FROM sessions WHERE device = x'00'",
        "DELETE FROM sessions WHERE user = 'anna'",
        "DELETE FROM retired WHERE rowid IN (SELECT rowid FROM retired WHERE expires <= 1 LIMIT 1000)",
        "DELETE FROM approvals WHERE expires < 1",
        "SELECT 1 FROM users WHERE (NOT users.disabled OR users.disabled_until <= 1) AND roles & 4 <> 0",
        "SELECT 1 FROM devices WHERE state IN ('active', 'suspended') AND expires > 1",
        "SELECT user FROM guesses WHERE locked_until > 1",
    ];
    for sql in statements {
        let plan = plan(&other, sql, []);
        let scans = |step: &String| {
            step.starts_with("SCAN") && !step.contains("INDEX") && step != "SCAN CONSTANT ROW"
        };
        assert!(!plan.iter().any(scans), "{sql}: {plan:?}");
    }
    drop(ledger);
}

#[tokio::test]
async fn a_revocation_list_forgets_what_is_over_bit_by_bit() {
    let place = Place::new();
    let world = World::peopled(Arc::new(place.open())).await;
    let other = other_program(&place.path());
    other
        .execute_batch(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2500)
             INSERT INTO retired SELECT x'00', n, 1 FROM n",
        )
        .unwrap();
    let left = || other.query_row("SELECT count(*) FROM retired", [], |row| row.get::<_, u32>(0)).unwrap();
    for expected in [1_500, 500, 0, 0] {
        world.done(Change::ListRevoked).await;
        assert_eq!(left(), expected);
        assert_eq!(world.ledger.revoked(crate::ledger::Certified::Devices).await.unwrap(), []);
    }
    world.has_device("laptop-2", 2).await;
    world.sets_device("laptop-2", DeviceState::Revoked).await.unwrap();
    assert_eq!(world.ledger.revoked(crate::ledger::Certified::Devices).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_write_ahead_log_is_brought_back_beside_the_commits() {
    let place = Place::new();
    let ledger = place.open();
    let size = || std::fs::metadata(place.path()).unwrap().len();
    let before = size();
    // Fewer than a commit would wait for.
    for _ in 0..2_000 {
        settle(&ledger).await.unwrap();
        if size() > before {
            return;
        }
    }
    panic!("nothing came back: {before} bytes, as at the start");
}
