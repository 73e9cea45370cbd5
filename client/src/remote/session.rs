//! A session, and where it is kept between two commands.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use custodian_proto::{
    approval::{BREAK_GLASS, BREAK_GLASS_METADATA, Glass},
    secret::Secret,
    v1,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    error::{Error, Kind, Result},
    settings::Address,
};

/// The first line of a session file.
const VERSION: &str = "custodian session 1";
/// Largest session file, in bytes.
const MAX_FILE_LEN: u64 = 8 * 1024;

/// A login that still holds, as far as we know.
#[derive(Clone)]
pub(super) struct Session {
    token: Secret,
    bearer: MetadataValue<Ascii>,
    expires: Timestamp,
}

impl Session {
    /// Of the custodian's answer. `None` if that makes no sense.
    pub(super) fn from_login(answer: v1::LoginResponse) -> Option<Self> {
        let expires = answer.expire_time.as_ref();
        let expires = expires.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
        Self::new(Secret::new(answer.session_token), expires?)
    }

    fn new(token: Secret, expires: Timestamp) -> Option<Self> {
        if token.expose().is_empty() {
            return None;
        }
        let header = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut bearer = MetadataValue::try_from(header.as_str()).ok()?;
        bearer.set_sensitive(true);
        Some(Self { token, bearer, expires })
    }

    /// When it ends whatever happens.
    pub(super) fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether it is this one.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.token.expose() == other.token.expose()
    }

    /// A channel whose calls are made in this session.
    pub(super) fn sign(&self, channel: Channel, glass: Glass) -> Signed {
        InterceptedService::new(channel, Bearer { session: self.bearer.clone(), glass })
    }
}

/// A channel that carries a session.
pub(super) type Signed = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer …`, and that the glass is to be broken.
#[derive(Clone)]
pub(super) struct Bearer {
    session: MetadataValue<Ascii>,
    glass: Glass,
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.session.clone());
        if self.glass == Glass::Broken {
            let yes = MetadataValue::from_static(BREAK_GLASS);
            request.metadata_mut().insert(BREAK_GLASS_METADATA, yes);
        }
        Ok(request)
    }
}

/// The file that keeps one session, for its owner's eyes only.
pub(super) struct SessionCache {
    folder: PathBuf,
    name: String,
}

impl SessionCache {
    /// For this user with this certificate at this custodian: a session works nowhere else.
    pub(super) fn of(folder: &Path, address: &Address, user: &str, certificate: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [address.to_string().as_bytes(), user.as_bytes(), certificate] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self { folder: folder.to_owned(), name: hex::encode(hash.finalize()) }
    }

    /// The session that an earlier command left. An unreadable, foreign or expired one counts as none: then we log in.
    pub(super) fn load(&self) -> Option<Session> {
        let path = self.path();
        let found = fs::symlink_metadata(&path).ok()?;
        let ours =
            found.uid() == rustix::process::geteuid().as_raw() && found.permissions().mode() & 0o077 == 0;
        if !found.is_file() || !ours || found.len() > MAX_FILE_LEN {
            return None;
        }
        let text = Zeroizing::new(fs::read_to_string(&path).ok()?);
        let mut lines = text.lines();
        if lines.next()? != VERSION {
            return None;
        }
        let expires: Timestamp = lines.next()?.parse().ok()?;
        let token = Secret::new(lines.next()?.to_owned());
        if expires <= Timestamp::now() {
            return None;
        }
        Session::new(token, expires)
    }

    /// Keeps a session for the next command: written aside, then renamed, so that no reader sees half of it.
    pub(super) fn store(&self, session: &Session) -> Result<()> {
        self.write(session).map_err(|error| {
            Error::new(Kind::Local, "cannot keep the session", format!("{}: {error}", self.folder.display()))
                .hint("XDG_RUNTIME_DIR or ~/.cache must be a writable folder of yours")
        })
    }

    /// The session that is kept now, if it is another one than this; else this one is removed, because the custodian no
    /// longer knows it.
    pub(super) fn newer_than(&self, refused: &Session) -> Result<Option<Session>> {
        match self.load() {
            Some(kept) if !kept.is(refused) => Ok(Some(kept)),
            _ => self.forget().map(|()| None),
        }
    }

    /// Removes it, if it is there.
    pub(super) fn forget(&self) -> Result<()> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::new(Kind::Local, format!("cannot remove {}", self.path().display()), error))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, session: &Session) -> io::Result<()> {
        private_folder(&self.folder)?;
        let aside = self.folder.join(format!(".{}.{}", self.name, uuid::Uuid::now_v7()));
        let mut text = format!("{VERSION}\n{}\n{}\n", session.expires, session.token.expose());
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&aside, self.path()));
        text.zeroize();
        if written.is_err() {
            // The first error is the one to tell.
            fs::remove_file(&aside).ok();
        }
        written
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }
}

fn private_folder(folder: &Path) -> io::Result<()> {
    // Only what it makes gets this mode: a folder that is there may be shared on purpose.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is not a folder of yours"));
    }
    if found.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others may enter it: chmod 700, or choose another"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    fn cache(folder: &Path, user: &str) -> SessionCache {
        let folder = folder.join("sessions");
        SessionCache::of(&folder, &"custodian:1".parse().unwrap(), user, b"certificate")
    }

    fn session(ends_in_hours: i64) -> Session {
        let expires = Timestamp::now() + ends_in_hours.hours();
        Session::new(Secret::new("token".into()), expires).unwrap()
    }

    #[test]
    fn a_kept_session_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("deep"), "anna");
        let folder = dir.path().join("deep/sessions");
        cache.store(&session(1)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&cache.path()), 0o600);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sessions");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = cache(dir.path(), "anna").store(&session(1)).unwrap_err();
        assert!(refused.why.contains("chmod 700"), "{refused}");
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o777);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_session_is_found_again_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), "anna");
        assert!(cache.load().is_none());
        cache.store(&session(1)).unwrap();
        let found = cache.load().unwrap();
        assert_eq!(found.token.expose(), "token");
        cache.forget().unwrap();
        assert!(cache.load().is_none());
        cache.forget().unwrap();
    }

    #[test]
    fn a_session_that_another_command_made_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), "anna");
        let refused = session(1);
        let newer = Session { token: Secret::new("newer".into()), ..session(1) };
        cache.store(&newer).unwrap();
        assert_eq!(cache.newer_than(&refused).unwrap().unwrap().token.expose(), "newer");
        assert!(cache.newer_than(&newer).unwrap().is_none());
        assert!(cache.load().is_none(), "the refused one is gone");
    }

    #[test]
    fn expired_readable_or_damaged_session_files_count_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), "anna");
        cache.store(&session(-1)).unwrap();
        assert!(cache.load().is_none(), "expired");
        cache.store(&session(1)).unwrap();
        fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(cache.load().is_none(), "others could have read or planted it");
        fs::remove_file(cache.path()).unwrap();
        for text in ["", "custodian session 9\n", "custodian session 1\nsoon\ntoken\n"] {
            fs::write(cache.path(), text).unwrap();
            fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o600)).unwrap();
            assert!(cache.load().is_none());
        }
    }

    #[test]
    fn another_user_custodian_or_certificate_is_another_session() {
        let dir = tempfile::tempdir().unwrap();
        let of = |address: &str, user: &str, certificate: &[u8]| {
            SessionCache::of(dir.path(), &address.parse().unwrap(), user, certificate).name
        };
        let names = [of("a:1", "u", b"c"), of("a:2", "u", b"c"), of("a:1", "v", b"c"), of("a:1", "u", b"d")];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[index + 1..].contains(name));
        }
    }
}
