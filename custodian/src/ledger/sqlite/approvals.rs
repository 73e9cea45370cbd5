//! Approvals: asked for, given, denied, used up.

use custodian_proto::{
    approval::Glass,
    key::KeyId,
    limits::{MAX_PENDING_APPROVALS, MAX_TEXT_LEN},
    refusal::Refusal,
    v1::Claims,
};
use jiff::Timestamp;
use prost::Message as _;
use rusqlite::{Connection, Params, Row, Transaction, params};

use super::{
    OpenError,
    changes::Made,
    rows::{self, DEVICE_IS_ACTIVE, USER_IS_ENABLED, micros, parsed, time, unreadable},
    writer::{Batch, Stop},
};
use crate::{
    authority::{
        Approval, ApprovalId, ApprovalRequest, ApprovalState, ApprovalUse, DeviceId, Ending, Role, Roles,
        UserId, Vote, Waiting, Weight,
    },
    custody::{Denial, Unapproved},
    ledger::{ApprovalQuery, Changed, entry},
};

/// How long an approval is kept beyond its time, in microseconds: so that people can still look at it. The records stay.
const KEEP_ENDED: i64 = 30 * 86_400_000_000;

/// Version 7: approvals, and which records are of breaking the glass.
pub(super) fn add_tables(tx: &Transaction<'_>) -> Result<(), OpenError> {
    Ok(tx.execute_batch(
        "CREATE TABLE approvals (
            -- The number of the record of the attempt that asked for it.
            id INTEGER PRIMARY KEY,
            digest BLOB NOT NULL,
            user TEXT NOT NULL REFERENCES users (id),
            device TEXT NOT NULL,
            ip TEXT NOT NULL,
            operation TEXT NOT NULL,
            target TEXT NOT NULL,
            key BLOB,
            reason TEXT NOT NULL,
            claims BLOB,
            message BLOB NOT NULL,
            break_glass INTEGER NOT NULL,
            needed INTEGER NOT NULL,
            created INTEGER NOT NULL,
            expires INTEGER NOT NULL,
            denied_by TEXT,
            deny_reason TEXT NOT NULL,
            -- The number of the record of the attempt that used it.
            used INTEGER
        ) STRICT;
        CREATE INDEX approvals_digest ON approvals (digest);
        CREATE INDEX approvals_user ON approvals (user);
        CREATE INDEX approvals_expires ON approvals (expires);

        CREATE TABLE votes (
            approval INTEGER NOT NULL REFERENCES approvals (id) ON DELETE CASCADE,
            user TEXT NOT NULL REFERENCES users (id),
            device TEXT NOT NULL,
            time INTEGER NOT NULL,
            PRIMARY KEY (approval, user)
        ) STRICT, WITHOUT ROWID;

        -- NULL: nothing of the kind, as nearly always.
        ALTER TABLE records ADD COLUMN break_glass INTEGER;
        CREATE INDEX records_break_glass ON records (seq) WHERE break_glass IS NOT NULL;",
    )?)
}

/// The columns of [`approval`], in its order.
const COLUMNS: &str = "id, user, device, ip, operation, target, key, reason, claims, message, break_glass, needed, \
                       created, expires, denied_by, deny_reason, used, withdrawn";

/// Still waits, or may be used: at the time `?1`.
const OPEN: &str = "denied_by IS NULL AND used IS NULL AND withdrawn IS NULL AND expires > ?1";

/// One approval, with the votes that count at this time.
pub(super) fn read(
    connection: &Connection,
    id: ApprovalId,
    now: Timestamp,
) -> rusqlite::Result<Option<Approval>> {
    first(connection, "approvals WHERE id = ?", [id.0.cast_signed()], now)
}

/// The newest one that is bound to this.
pub(super) fn of_digest(
    connection: &Connection,
    digest: [u8; 32],
    now: Timestamp,
) -> rusqlite::Result<Option<Approval>> {
    first(connection, "approvals WHERE digest = ? ORDER BY id DESC LIMIT 1", [digest], now)
}

/// Those that the query asks for, newest first.
pub(super) fn many(
    connection: &Connection,
    query: &ApprovalQuery,
    now: Timestamp,
) -> rusqlite::Result<Vec<Approval>> {
    let before = query.before.map_or(i64::MAX, |id| i64::try_from(id.0).unwrap_or(i64::MAX));
    let user = query.user.as_ref().map(UserId::as_str);
    // Only what is asked for stands there: so that it is found by its index.
    let mut from = "approvals WHERE id < ?2".to_owned();
    if user.is_some() {
        from.push_str(" AND user = ?3");
    }
    if query.open_at.is_some() {
        from.push_str(&format!(" AND {OPEN}"));
    }
    from.push_str(" ORDER BY id DESC LIMIT ?4");
    let params = params![query.open_at.map(micros), before, user, query.limit];
    let found = rows::many(connection, (COLUMNS, &from), params, approval)?;
    found.into_iter().map(|approval| with_votes(connection, approval, now)).collect()
}

/// Keeps a request that needs approval, unless it is kept already. Returns what its caller is told.
pub(super) fn ask(batch: &Batch<'_>, request: &ApprovalRequest) -> Result<Denial, Stop> {
    let digest = request.digest();
    if let Some(known) = of_digest(batch.tx, digest, batch.now)? {
        match known.state(batch.now) {
            ApprovalState::Pending | ApprovalState::Approved => {
                if known.request.needed != request.needed {
                    let set = "UPDATE approvals SET needed = ?2 WHERE id = ?1";
                    batch.update(set, params![known.id.0.cast_signed(), request.needed.get()])?;
                }
                let waiting = Waiting { id: known.id, needed: request.needed, given: known.given() };
                return Ok(Unapproved::waiting(request.clone(), waiting));
            }
            ApprovalState::Denied if batch.now < known.request.expires => {
                return Err(Stop::refused(Refusal::ApprovalDenied, known.id.resource_name()));
            }
            ApprovalState::Denied
            | ApprovalState::Used
            | ApprovalState::Expired
            | ApprovalState::Withdrawn => {}
        }
    }
    let open = format!("SELECT count(*) FROM approvals WHERE {OPEN} AND user = ?2");
    let open: u32 = batch
        .tx
        .prepare_cached(&open)?
        .query_row(params![micros(batch.now), request.user.as_str()], |row| row.get(0))?;
    if open >= MAX_PENDING_APPROVALS {
        return Err(Stop::refused(
            Refusal::TooManyPending,
            format!("{open} of this user's requests are open"),
        ));
    }
    let long_ended = micros(batch.now).saturating_sub(KEEP_ENDED);
    batch.execute("DELETE FROM approvals WHERE expires < ?", [long_ended])?;
    let id = ApprovalId(batch.sequence);
    batch.add(
        "INSERT INTO approvals (id, digest, user, device, ip, operation, target, key, reason, claims, message, break_glass,
                                needed, created, expires, deny_reason)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
        params![
            id.0.cast_signed(),
            digest,
            request.user.as_str(),
            request.device.as_str(),
            request.ip.to_string(),
            request.operation,
            entry::clean(&request.target, MAX_TEXT_LEN),
            request.key.as_ref().map(KeyId::as_bytes),
            entry::clean(&request.reason, MAX_TEXT_LEN),
            request.claims.as_ref().map(|claims| entry::clean_claims(claims).encode_to_vec()),
            request.message,
            request.glass == Glass::Broken,
            request.needed.get(),
            micros(batch.now),
            micros(request.expires),
        ],
    )?;
    Ok(Unapproved::waiting(request.clone(), Waiting { id, needed: request.needed, given: 0 }))
}

/// One more who approves.
pub(super) fn approve(
    batch: &Batch<'_>,
    id: ApprovalId,
    digest: &[u8; 32],
    approves: &str,
    user: &UserId,
    device: &DeviceId,
) -> Made {
    let approval = open(batch, id)?;
    if approval.request.user == *user {
        return Err(Refusal::OwnRequest.into());
    }
    if approval.request.digest() != *digest {
        return Err(Stop::refused(
            Refusal::StateConflict,
            "it is bound to another request than was looked at",
        ));
    }
    // Numbers of approvals can be guessed: the policy may have been asked when there was none of this number.
    if approval.request.operation != approves {
        return Err(Stop::refused(
            Refusal::StateConflict,
            "the policy was asked about approving something else",
        ));
    }
    // Again, on another device perhaps: the newer one counts.
    batch.execute(
        "INSERT INTO votes (approval, user, device, time) VALUES (?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET device = excluded.device, time = excluded.time",
        params![id.0.cast_signed(), user.as_str(), device.as_str(), micros(batch.now)],
    )?;
    changed(batch, id)
}

/// Ends it.
pub(super) fn deny(batch: &Batch<'_>, id: ApprovalId, user: &UserId, reason: &str) -> Made {
    let approval = read(batch.tx, id, batch.now)?.ok_or(Refusal::NotFound)?;
    if matches!(approval.ending, Some(Ending::Denied { .. })) {
        return Ok(Changed::Approval(Box::new(approval)));
    }
    open(batch, id)?;
    let set = "UPDATE approvals SET denied_by = ?2, deny_reason = ?3 WHERE id = ?1";
    batch.update(set, params![id.0.cast_signed(), user.as_str(), entry::clean(reason, MAX_TEXT_LEN)])?;
    changed(batch, id)
}

/// Takes it back.
pub(super) fn withdraw(batch: &Batch<'_>, id: ApprovalId, user: &UserId) -> Made {
    let approval = read(batch.tx, id, batch.now)?.ok_or(Refusal::NotFound)?;
    if approval.request.user != *user {
        return Err(Refusal::NotOwnRequest.into());
    }
    if approval.ending == Some(Ending::Withdrawn) {
        return Ok(Changed::Approval(Box::new(approval)));
    }
    open(batch, id)?;
    let set = "UPDATE approvals SET withdrawn = ?2 WHERE id = ?1";
    batch.update(set, params![id.0.cast_signed(), batch.sequence.cast_signed()])?;
    changed(batch, id)
}

/// Uses it up for an attempt of this user. Whoever approved must still count (law 2).
pub(super) fn use_up(batch: &Batch<'_>, user: &UserId, used: ApprovalUse) -> Result<(), Stop> {
    let approval = open(batch, used.id)?;
    if approval.request.user != *user || approval.request.digest() != used.digest {
        return Err(Stop::refused(Refusal::ApprovalRequired, "the approval is of another request"));
    }
    if approval.given() < used.needed.get() {
        let detail = format!("only {} of {} approvals still count", approval.given(), used.needed);
        return Err(Stop::refused(Refusal::ApprovalRequired, detail));
    }
    let set = "UPDATE approvals SET used = ?2 WHERE id = ?1";
    batch.update(set, params![used.id.0.cast_signed(), batch.sequence.cast_signed()])
}

/// An approval that waits or may be used; or why it may not.
fn open(batch: &Batch<'_>, id: ApprovalId) -> Result<Approval, Stop> {
    let approval = read(batch.tx, id, batch.now)?.ok_or(Refusal::NotFound)?;
    let refusal = match approval.state(batch.now) {
        ApprovalState::Pending | ApprovalState::Approved => return Ok(approval),
        ApprovalState::Denied => Refusal::ApprovalDenied,
        ApprovalState::Used => Refusal::ApprovalUsed,
        ApprovalState::Expired => Refusal::ApprovalExpired,
        ApprovalState::Withdrawn => Refusal::ApprovalWithdrawn,
    };
    Err(Stop::refused(refusal, id.resource_name()))
}

fn changed(batch: &Batch<'_>, id: ApprovalId) -> Made {
    Ok(Changed::Approval(Box::new(read(batch.tx, id, batch.now)?.ok_or(Refusal::NotFound)?)))
}

fn first(
    connection: &Connection,
    from: &str,
    params: impl Params,
    now: Timestamp,
) -> rusqlite::Result<Option<Approval>> {
    let found = rows::one(connection, (COLUMNS, from), params, approval)?;
    found.map(|approval| with_votes(connection, approval, now)).transpose()
}

/// Whether an approval counts is what the tables say, at the time of whoever asks.
fn with_votes(connection: &Connection, approval: Approval, now: Timestamp) -> rusqlite::Result<Approval> {
    let mut votes = connection.prepare_cached(&format!(
        "SELECT votes.user, votes.device, votes.time,
                coalesce({USER_IS_ENABLED} AND users.roles & ?3 <> 0 AND {DEVICE_IS_ACTIVE}, 0)
         FROM votes LEFT JOIN users ON users.id = votes.user LEFT JOIN devices ON devices.id = votes.device
         WHERE votes.approval = ?2 ORDER BY votes.time, votes.user",
    ))?;
    let admin: Roles = [Role::Admin].into_iter().collect();
    let params = params![micros(now), approval.id.0.cast_signed(), admin.bits()];
    let votes = votes.query_map(params, |row| {
        let weight = if row.get(3)? { Weight::Counts } else { Weight::Void };
        Ok(Vote { user: parsed(row, 0)?, device: parsed(row, 1)?, time: time(row, 2)?, weight })
    })?;
    Ok(Approval { votes: votes.collect::<rusqlite::Result<_>>()?, ..approval })
}

/// Without its votes.
fn approval(row: &Row<'_>) -> rusqlite::Result<Approval> {
    let key = match row.get::<_, Option<[u8; KeyId::LEN]>>(6)? {
        Some(id) => Some(KeyId::from_bytes(&id).ok_or_else(|| unreadable(6, "no key id"))?),
        None => None,
    };
    let claims = match row.get::<_, Option<Vec<u8>>>(8)? {
        Some(claims) => Some(Claims::decode(claims.as_slice()).map_err(|_| unreadable(8, "no claims"))?),
        None => None,
    };
    let withdrawn = row.get::<_, Option<i64>>(17)?.map(|_| Ending::Withdrawn);
    let ending = match (row.get::<_, Option<String>>(14)?, row.get::<_, Option<i64>>(16)?) {
        (Some(_), _) => Some(Ending::Denied { by: parsed(row, 14)?, reason: row.get(15)? }),
        (None, Some(sequence)) => Some(Ending::Used { sequence: sequence.unsigned_abs() }),
        (None, None) => withdrawn,
    };
    Ok(Approval {
        id: ApprovalId(row.get::<_, i64>(0)?.unsigned_abs()),
        request: ApprovalRequest {
            user: parsed(row, 1)?,
            device: parsed(row, 2)?,
            ip: parsed(row, 3)?,
            operation: row.get(4)?,
            target: row.get(5)?,
            key,
            reason: row.get(7)?,
            claims,
            message: row.get(9)?,
            glass: if row.get(10)? { Glass::Broken } else { Glass::Whole },
            needed: row.get(11)?,
            expires: time(row, 13)?,
        },
        created: time(row, 12)?,
        votes: Vec::new(),
        ending,
    })
}
