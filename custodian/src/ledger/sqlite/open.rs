//! Opening the file: for us alone, readable by us alone, and only if it is what it should be.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Read, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use rustix::fs::FlockOperation;

use super::{remembered::Remembered, schema};

/// Only the custodian's own account may read or write the ledger.
pub(super) const MODE: u32 = 0o600;

/// SQLite's file header: <https://www.sqlite.org/fileformat2.html#the_database_header>
const HEADER_LEN: u64 = 100;

/// Pages (of 4 KiB) in the write-ahead log from which on a commit brings it back into the file: what the thread beside it
/// ([`backfill`](super::backfill)) has left of it. Rarer means fewer pauses of the committer, and a larger file beside the ledger.
const CHECKPOINT_PAGES: u32 = 16_000;

/// Prepared statements kept: more than there are in the code.
const STATEMENTS: usize = 128;

/// Why the ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file, or the one beside it, cannot be made or opened.
    #[error("cannot open {}: {error}. Check that the directory exists and that this account may write there", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There is none, or it is empty.
    #[error(
        "{} is missing. A lost ledger is not replaced by an empty one: restore the last backup, or set up anew with \
         custodian init", .0.display()
    )]
    Missing(PathBuf),
    /// Another custodian has it open.
    #[error(
        "the ledger is in use by another process{holder}. Stop that custodian first, or give this one a ledger of its own"
    )]
    InUse {
        /// ` (pid 17)`, or empty if unknown.
        holder: String,
    },
    /// The file is something else.
    #[error("the file is not a custodian's ledger: {0}. Check the path; the file was not changed")]
    NotALedger(String),
    /// The file is a ledger, but parts of it cannot be read.
    #[error(
        "the ledger is damaged: {0}. Keep a copy of the file and those beside it, then restore the last backup"
    )]
    Damaged(String),
    /// An old copy of the ledger is in the place of the newer one.
    #[error(
        "the ledger has {records} records, but it had {remembered} when {} was written: an old copy is in its place. What was \
         revoked since then would be in force again. Restore the newest copy; if the records after it are lost for good, say \
         so with custodian accept-ledger (docs/operations.md)", .path.display()
    )]
    RolledBack {
        /// The file that remembers.
        path: PathBuf,
        /// Records it had.
        remembered: u64,
        /// Records it has.
        records: u64,
    },
    /// The log is another one.
    #[error(
        "the first {remembered} records of the ledger are not those that it had when {} was written: it is another ledger, or \
         somebody changed it. Keep a copy, and compare it with a backup; docs/operations.md tells what to do", .path.display()
    )]
    Rewritten {
        /// The file that remembers.
        path: PathBuf,
        /// Records it had.
        remembered: u64,
    },
    /// The file that remembers is missing.
    #[error(
        "{} is missing: it remembers how far the log was, so that an old copy of the ledger is noticed. Put it back; if it is \
         lost, say so with custodian accept-ledger (docs/operations.md)", .0.display()
    )]
    NotRemembered(PathBuf),
    /// The tables are of a later version.
    #[error(
        "a newer custodian wrote this ledger (tables of version {found}, this one knows {known}). Start that version again"
    )]
    Newer {
        /// The version of the file.
        found: i64,
        /// The greatest version that we know.
        known: i64,
    },
    /// Anything else.
    #[error("the ledger cannot be opened: {0}. Check its directory's permissions, mount and free space")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotALedger("it is no SQLite database".to_owned()),
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            _ if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}

/// Refuses a path where there is no file, or an empty one.
pub(super) fn must_be_there(path: &Path) -> Result<(), OpenError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > 0 => Ok(()),
        Ok(_) => Err(OpenError::Missing(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Missing(path.to_owned())),
        Err(error) => Err(OpenError::Io { path: path.to_owned(), error }),
    }
}

/// The right to use a ledger, for as long as it lives.
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes the right to use the ledger at `path`.
///
/// The lock is on a file beside it: opening and closing the database file itself would drop SQLite's own locks, which
/// belong to the process (POSIX fcntl).
pub(super) fn lock(path: &Path) -> Result<Lock, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let io = |error| OpenError::Io { path: path.clone(), error };
    let mut file = open_private(&path).map_err(io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let read = file.take(16).read_to_string(&mut holder).is_ok();
            let holder = match holder.trim().parse::<u32>() {
                Ok(pid) if read => format!(" (pid {pid})"),
                _ => String::new(),
            };
            return Err(OpenError::InUse { holder });
        }
        Err(error) => return Err(io(error.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(Lock(file))
}

/// Makes the file if there is none, and keeps others from reading it. Call with the lock held.
///
/// Looks at the file before SQLite does: that would already write beside a file that is not ours.
pub(super) fn make_private(path: &Path) -> Result<(), OpenError> {
    let io = |error| OpenError::Io { path: path.to_owned(), error };
    let mut file = open_private(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(OpenError::NotALedger("it is no regular file".to_owned()));
    }
    if metadata.len() == 0 {
        // The name of a new file must survive a power failure as the records will.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        return File::open(directory).and_then(|directory| directory.sync_all()).map_err(io);
    }
    let mut header = Vec::new();
    Read::by_ref(&mut file).take(HEADER_LEN).read_to_end(&mut header).map_err(io)?;
    schema::check_header(&header)?;
    if metadata.permissions().mode() & 0o777 != MODE {
        file.set_permissions(Permissions::from_mode(MODE)).map_err(io)?;
    }
    Ok(())
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)
}

/// The one connection that writes. `patience`: how long to wait for a lock that somebody else's tool holds.
pub(super) fn writing(
    path: &Path,
    patience: Duration,
    remembered: &Remembered,
) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, patience)?;
    schema::migrate(&mut connection, remembered)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let why = format!("its file system does not let SQLite keep a write-ahead log (mode {mode})");
        return Err(OpenError::Io { path: path.to_owned(), error: io::Error::other(why) });
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    Ok(connection)
}

/// The connection that brings the write-ahead log back into the file.
pub(super) fn backfilling(path: &Path, patience: Duration) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, patience)?;
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn reading(path: &Path, patience: Duration) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, patience)?;
    Ok(connection)
}

fn prepare(connection: &Connection, patience: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(patience)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Plans do not depend on values. Otherwise each new value of a condition that a partial index might serve is reason enough
    // to prepare the statement again: most of what charging a budget cost.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", -16_000)
}
